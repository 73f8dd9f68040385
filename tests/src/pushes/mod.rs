//! Pushes to a repository that isn't there, and what a hook makes of what a forge tells of them: the forge and the workers ([`worker`])
//! are simulated, the coordinator is real, and so is the registry ([`images`]). [`burst`]: doubled, in the wrong order, and with the coordinator
//! killed in the middle, each push is built or passed over once, the newest of each branch is built last, and the branch's tag is at that in the
//! end and was never moved back, though what was built before may end after it. [`rate`]: how long it takes.

mod images;
pub mod rate;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use self::images::Images;
use crate::client::Client;
use crate::database::psql;
use crate::farm::Farm;
use crate::forge::Forge;
use crate::ports::free_port;

const RULES: &str =
    "version: 1\nimages:\n  app:\n    on: {push: {branches: [\"**\"]}}\n    platforms: [linux/amd64]\n";
const HOST: &str = "git.example";
const REPOSITORY: &str = "https://git.example/acme/app.git";
/// All deliveries come from one address, and more in a minute than a forge sends.
const MANY: &str =
    "[limits]\ndeliveries_per_minute_per_address = 1000000\ndeliveries_per_minute_per_hook = 1000000\n";
/// After so many waves of pushes the next one waits until all deliveries are processed.
const CALM: usize = 3;
/// What all of it may take.
const LIMIT: Duration = Duration::from_secs(400);

/// How much is delivered.
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    pub seed: u64,
    pub branches: usize,
    /// Pushes to all of them.
    pub pushes: usize,
    /// Deliveries of the same pushes once more.
    pub doubles: usize,
    pub workers: usize,
}

/// Where the branches are, and were.
#[derive(Debug, Default)]
struct Branches {
    /// Where what is built of them is published; `None`: it is not.
    images: Option<Images>,
    /// The last commit is where one is now.
    histories: Mutex<BTreeMap<String, Vec<String>>>,
    /// When a worker was first given something to do for a commit.
    assigned: Mutex<BTreeMap<String, Instant>>,
    /// Of each the newest place in its history of which a build has ended.
    ended: Mutex<BTreeMap<String, usize>>,
}

/// Of every second branch newer builds don't end older ones: so these may end when a newer one has been published already.
fn supersedes(branch: &str) -> bool {
    branch.trim_start_matches('b').parse::<usize>().unwrap().is_multiple_of(2)
}

impl Branches {
    /// Moves a branch to a commit of which nothing is known yet.
    fn push(&self, branch: &str, random: &mut StdRng) -> Push {
        let after: String =
            (0..40).map(|_| char::from(b"0123456789abcdef"[random.random_range(0..16)])).collect();
        let mut histories = self.histories.lock().unwrap();
        let history = histories.entry(branch.to_owned()).or_default();
        let before = history.last().cloned().unwrap_or_else(|| "0".repeat(40));
        history.push(after.clone());
        Push { branch: branch.to_owned(), before, after }
    }

    fn head(&self, branch: &str) -> Option<String> {
        self.histories.lock().unwrap().get(branch)?.last().cloned()
    }

    /// The branch that was at a commit, and where in its history that is.
    fn place(&self, commit: &str) -> (String, usize) {
        let histories = self.histories.lock().unwrap();
        let place = |history: &[String]| history.iter().position(|one| one == commit);
        let found = histories.iter().find_map(|(branch, history)| Some((branch.clone(), place(history)?)));
        found.unwrap_or_else(|| panic!("{commit} was never pushed"))
    }

    /// The rules at a commit.
    fn rules(&self, commit: &str) -> String {
        let Some(images) = &self.images else { return RULES.to_owned() };
        let (destination, supersedes) = (images.destination(), supersedes(&self.place(commit).0));
        format!(
            "{RULES}    destinations: [{destination}]\n    tags: [\"{{branch}}\"]\n    concurrency: {{supersede: {supersedes}}}\n"
        )
    }

    /// A build has ended, of this branch and place in its history.
    fn ended(&self, (branch, place): (String, usize)) {
        let mut ended = self.ended.lock().unwrap();
        let newest = ended.entry(branch).or_default();
        *newest = place.max(*newest);
    }

    /// Whether one of a later place has ended.
    fn is_late(&self, (branch, place): &(String, usize)) -> bool {
        self.ended.lock().unwrap().get(branch).is_some_and(|newest| newest > place)
    }

    fn assigned(&self, commit: &str, at: Instant) {
        self.assigned.lock().unwrap().entry(commit.to_owned()).or_insert(at);
    }
}

/// One push, as a forge tells of it.
#[derive(Clone, Debug)]
struct Push {
    branch: String,
    before: String,
    after: String,
}

impl Push {
    fn body(&self) -> Value {
        json!({
            "ref": format!("refs/heads/{}", self.branch), "before": self.before, "after": self.after, "created": false,
            "forced": false, "deleted": false, "head_commit": {"id": self.after, "message": "a change"}, "commits": [],
            "repository": {"id": 42, "full_name": "acme/app", "clone_url": REPOSITORY, "default_branch": "main"},
            "sender": {"id": 7, "login": "ada"}
        })
    }
}

/// Delivers until it is taken: while the coordinator is away, again.
async fn deliver(forge: Forge, push: Push) {
    let begin = Instant::now();
    loop {
        let (forge, push) = (forge.clone(), push.clone());
        let told = tokio::task::spawn_blocking(move || forge.try_deliver(&push.after, "push", &push.body()));
        match told.await.unwrap() {
            Some((200 | 202, _)) => return,
            Some((429 | 503, _)) | None => {}
            Some(other) => panic!("{other:?}"),
        }
        assert!(begin.elapsed() < LIMIT, "nobody takes a delivery");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What came of a burst.
#[derive(Clone, Copy, Debug)]
pub struct Became {
    /// Deliveries of which something was built.
    pub done: usize,
    pub passed_over: usize,
    /// How often tags were moved.
    pub moves: usize,
    /// Builds that were published without their tag, as it was at a newer one by then.
    pub late: usize,
}

/// Runs a burst and judges it.
pub async fn burst(burst: Burst) -> Became {
    let port = free_port();
    let mut farm = Farm::builder()
        .arg("--hooks-listen")
        .arg(&format!("127.0.0.1:{port}"))
        .config(&format!("{MANY}lease_seconds = 3\nheartbeat_milliseconds = 500\nsuspect_seconds = 2\n"))
        .start();
    let add = ["hook", "add", "github", "acme/app", "--host", HOST, "--clone-url", REPOSITORY, "--json"];
    let forge = Forge::of(port, &farm.cli(&add).json());
    let client = Client::connect(&farm).await;
    // By this thread: the registry ends with the one that has started it.
    let branches = Arc::new(Branches { images: Some(Images::start()), ..Branches::default() });
    let over = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..burst.workers)
        .map(|n| {
            tokio::spawn(worker::work(
                client.clone(),
                format!("w{n}"),
                Arc::clone(&branches),
                Arc::clone(&over),
            ))
        })
        .collect();

    let url = farm.database_url().to_owned();
    let ask = |sql: &str| {
        let (url, sql) = (url.clone(), sql.to_owned());
        async move { tokio::task::spawn_blocking(move || psql(&url, &sql)).await.unwrap() }
    };
    let mut random = StdRng::seed_from_u64(burst.seed);
    let mut pushed: Vec<Push> = Vec::new();
    let mut under_way = tokio::task::JoinSet::new();
    let mut doubles = burst.doubles;
    for (n, size) in
        (0..burst.pushes).step_by(10).enumerate().map(|(n, from)| (n, 10.min(burst.pushes - from)))
    {
        // Ten pushes, then their deliveries in any order, with some of before.
        let mut wave: Vec<Push> = (0..size)
            .map(|_| branches.push(&format!("b{}", random.random_range(0..burst.branches)), &mut random))
            .collect();
        pushed.extend(wave.iter().cloned());
        let some = doubles.min(burst.doubles.div_ceil(burst.pushes.div_ceil(10)));
        doubles -= some;
        wave.extend((0..some).map(|_| pushed[random.random_range(0..pushed.len())].clone()));
        wave.shuffle(&mut random);
        for push in wave {
            under_way.spawn(deliver(forge.clone(), push));
        }
        // Else of each branch the last one would be all that is built. What was begun goes on meanwhile.
        if n.is_multiple_of(CALM) {
            while let Some(delivered) = under_way.join_next().await {
                delivered.unwrap();
            }
            let begin = Instant::now();
            while ask("SELECT count(*) FROM deliveries WHERE state = 'received'").await != "0" {
                assert!(begin.elapsed() < LIMIT, "deliveries wait for ever");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        if n == burst.pushes / 20 {
            farm.kill_coordinator();
            farm.start_coordinator();
        }
    }
    while let Some(delivered) = under_way.join_next().await {
        delivered.unwrap();
    }
    let begin = Instant::now();
    loop {
        let waiting = ask("SELECT (SELECT count(*) FROM deliveries WHERE state = 'received')
                  + (SELECT count(*) FROM builds WHERE finished_at IS NULL)");
        let waiting = waiting.await;
        if waiting == "0" {
            break;
        }
        assert!(begin.elapsed() < LIMIT, "{waiting} are under way for ever");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    over.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }

    // Each push has come once, and has an end that is no failure.
    let rows = ask("SELECT id, state, reason FROM deliveries").await;
    let became: BTreeMap<&str, (&str, &str)> = rows
        .lines()
        .map(|line| {
            let mut parts = line.splitn(3, '|');
            (parts.next().unwrap(), (parts.next().unwrap(), parts.next().unwrap()))
        })
        .collect();
    let all: BTreeSet<&str> = pushed.iter().map(|push| push.after.as_str()).collect();
    assert_eq!(became.keys().copied().collect::<BTreeSet<_>>(), all);
    let of = |wanted: &str| became.values().filter(|(state, _)| *state == wanted).count();
    let odd: Vec<_> = became
        .iter()
        .filter(|(_, (state, reason))| {
            *state != "done"
                && !(*state == "ignored" && (reason.contains("moved on") || reason.contains("newer")))
        })
        .collect();
    assert!(odd.is_empty(), "{odd:#?}");

    // Each commit is built once at most, the builds of a branch are in the order of its commits, and its newest is built.
    let rows = ask(
        "SELECT h.git_ref, h.delivery_id, b.state FROM hook_builds h JOIN builds b ON b.project_id = h.project_id AND b.id = h.build_id
         WHERE h.kind = 'image' ORDER BY h.git_ref, b.order_key",
    )
    .await;
    let mut built: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for line in rows.lines() {
        let parts: Vec<&str> = line.split('|').collect();
        built.entry(parts[0].strip_prefix("refs/heads/").unwrap()).or_default().push((parts[1], parts[2]));
    }
    for (branch, history) in &*branches.histories.lock().unwrap() {
        let builds = &built[branch.as_str()];
        let places: Vec<usize> =
            builds.iter().map(|(commit, _)| history.iter().position(|one| one == commit).unwrap()).collect();
        assert!(places.is_sorted_by(|a, b| a < b), "{branch}: {places:?}");
        assert_eq!(places.last(), Some(&(history.len() - 1)), "{branch}: its newest commit isn't built");
        assert_eq!(builds.last().unwrap().1, "succeeded", "{branch}");
        let odd = builds.iter().find(|(_, state)| !["succeeded", "cancelled"].contains(state));
        assert!(odd.is_none(), "{branch}: {odd:?}");
    }

    // The tags are at the newest commits, and were never moved back; the farm says the same of them.
    let late = ask("SELECT count(*) FROM tags WHERE state = 'superseded'").await.parse().unwrap();
    let odd = ask("SELECT count(*) FROM tags WHERE state NOT IN ('verified', 'superseded')").await;
    assert_eq!(odd, "0", "tags that came to another end");
    let judged = Arc::clone(&branches);
    let moves = tokio::task::spawn_blocking(move || {
        let images = judged.images.as_ref().unwrap();
        let histories = judged.histories.lock().unwrap();
        histories.iter().map(|(branch, history)| images.judge(branch, history)).sum()
    });
    Became { done: of("done"), passed_over: of("ignored"), moves: moves.await.unwrap(), late }
}
