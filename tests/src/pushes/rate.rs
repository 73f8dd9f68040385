//! How long deliveries take: the figures of `tests/bench.sh hooks`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::{Branches, HOST, MANY, REPOSITORY, worker};
use crate::client::Client;
use crate::farm::Farm;
use crate::forge::Forge;
use crate::ports::free_port;

/// A delivery that nobody takes up within this is lost.
const LOST: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub per_second: u32,
    pub seconds: u32,
    /// Each tells of its own repository, as a hook holds no more than so much that waits.
    pub hooks: usize,
    /// Pushes whose way to a worker is followed, one after the other, once it is quiet.
    pub followed: usize,
}

/// Milliseconds, in the order of their length.
#[derive(Clone, Debug)]
pub enum Times {
    /// From a delivery's first byte to its answer, while all of them come and are built.
    Answered(Vec<f64>),
    /// From the last answer until nothing waits any more: one.
    Processed(f64),
    /// From a delivery's first byte until a worker is given the first job for it.
    Assigned(Vec<f64>),
}

/// The time below which so many of a hundred are.
pub fn percentile(sorted: &[f64], of_hundred: usize) -> f64 {
    sorted.get(sorted.len() * of_hundred / 100).or(sorted.last()).copied().unwrap_or(f64::NAN)
}

/// Each is said as soon as it is known.
pub async fn measure(rate: Rate, mut said: impl FnMut(Times)) {
    let port = free_port();
    let farm = Farm::builder().arg("--hooks-listen").arg(&format!("127.0.0.1:{port}")).config(MANY).start();
    let forges: Vec<Forge> = (0..rate.hooks)
        .map(|n| {
            let (name, repository) = (format!("app{n}"), "acme/app");
            let add = [
                "hook",
                "add",
                "github",
                repository,
                "--name",
                &name,
                "--host",
                HOST,
                "--clone-url",
                REPOSITORY,
                "--json",
            ];
            Forge::of(port, &farm.cli(&add).json())
        })
        .collect();
    let client = Client::connect(&farm).await;
    let (branches, over) = (Arc::new(Branches::default()), Arc::new(AtomicBool::new(false)));
    let workers: Vec<_> = (0..4)
        .map(|n| {
            tokio::spawn(worker::work(
                client.clone(),
                format!("w{n}"),
                Arc::clone(&branches),
                Arc::clone(&over),
            ))
        })
        .collect();
    let mut random = StdRng::seed_from_u64(1);

    let (mut posts, mut tick) =
        (tokio::task::JoinSet::new(), tokio::time::interval(Duration::from_secs(1) / rate.per_second));
    for n in 0..rate.per_second * rate.seconds {
        tick.tick().await;
        let at = usize::try_from(n).unwrap() % forges.len();
        let (forge, push) = (forges[at].clone(), branches.push(&format!("h{at}-{}", n % 40), &mut random));
        posts.spawn_blocking(move || {
            let begin = Instant::now();
            let (status, said) = forge.deliver(&push.after, "push", &push.body());
            assert_eq!(status, 202, "{said}");
            begin.elapsed().as_secs_f64() * 1000.0
        });
    }
    let mut answered = posts.join_all().await;
    answered.sort_by(f64::total_cmp);
    said(Times::Answered(answered));

    let begin = Instant::now();
    let waiting = "SELECT count(*) FROM deliveries WHERE state = 'received'";
    loop {
        let left = crate::database::psql(farm.database_url(), waiting);
        if left == "0" {
            break;
        }
        assert!(begin.elapsed() < 20 * LOST, "{left} deliveries wait for ever");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    said(Times::Processed(begin.elapsed().as_secs_f64() * 1000.0));
    let mut assigned = Vec::new();
    for n in 0..rate.followed {
        let push = branches.push(&format!("one-{n}"), &mut random);
        let (forge, commit, begin) = (forges[0].clone(), push.after.clone(), Instant::now());
        tokio::task::spawn_blocking(move || forge.deliver(&push.after, "push", &push.body())).await.unwrap();
        let at = loop {
            if let Some(at) = branches.assigned.lock().unwrap().get(&commit) {
                break *at;
            }
            assert!(begin.elapsed() < LOST, "nobody takes a push up");
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        assigned.push(at.duration_since(begin).as_secs_f64() * 1000.0);
    }
    assigned.sort_by(f64::total_cmp);
    said(Times::Assigned(assigned));
    over.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
}
