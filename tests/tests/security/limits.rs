//! Nobody takes so much of a coordinator that there is nothing left for others; and whoever has too much is told so.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use farm_proto::v1;
use farm_tests::client::{Bearer, Client, Sim, hello, success};
use farm_tests::farm::Farm;
use farm_tests::scale::connections::{hold, raise_files};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};

use crate::team;

/// Longer than anything here takes that isn't wrong.
const LONG: Duration = Duration::from_secs(60);
/// How HTTP/2 begins (RFC 9113, section 3.4), with empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// A frame with the head of a call of 200 bytes, which doesn't follow.
const HEAD_BEGUN: &[u8] = b"\0\0\xc8\x01\x04\0\0\0\x01\x82";

/// A connection from this address of loopback.
async fn connect_from(last: u8, port: u16) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, last], 0)))?;
    socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).await
}

/// How many connections to a port are open on this side (`proc_pid_net`: places, then state 01, established).
fn connections(port: u16) -> usize {
    let all = fs::read_to_string("/proc/self/net/tcp").unwrap();
    let to = format!(":{port:04X} 01 ");
    all.lines().filter(|line| line.contains(&to)).count()
}

/// Whether the other side has ended it.
async fn is_ended(stream: &mut TcpStream) -> bool {
    let mut bytes = [0; 1024];
    loop {
        match stream.read(&mut bytes).await {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

/// Submits a build, which the worker runs at once; gives how long it took until its end was heard.
async fn build(client: &mut Client, worker: &mut Sim, key: &str) -> Duration {
    let begun = Instant::now();
    // One of whom nothing was heard for a while gets no jobs.
    worker.beat(&[]).await;
    let snapshot = client.upload("FROM scratch").await;
    let id = client.submit(&snapshot, key, &["linux/amd64"]).await.id;
    let work = async {
        let lease = worker.offer().await.lease.unwrap();
        worker.start(&lease).await;
        assert!(worker.finish(&lease, success()).await);
    };
    let (_, (last, _)) = tokio::join!(work, client.follow(&id));
    assert_eq!(last.state, "succeeded");
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_and_slow_senders_dont_stop_anothers_build() {
    Box::pin(flooded(150)).await;
}

/// Ten addresses open `each` connections, of which fewer may stay, while somebody builds.
pub(crate) async fn flooded(each: usize) {
    raise_files();
    // Fewer than come, so that most have to give way.
    let most = 4 * each;
    let farm = Farm::builder()
        .config(&format!(
            "[limits]\nmax_connections = {most}\nmax_connections_per_address = {each}\nfirst_call_seconds = 3600",
        ))
        .start();
    let port = farm.port();
    let mut client = Client::connect(&farm).await;
    let mut worker = Sim::connect(&client, hello("w1", 1)).await.unwrap();
    build(&mut client, &mut worker, "before").await;

    let mut floods = JoinSet::new();
    for last in 2..12 {
        floods.spawn(async move {
            let mut open = Vec::with_capacity(each);
            for n in 0..each {
                let Ok(mut stream) = connect_from(last, port).await else { continue };
                // Some say nothing, some half of how HTTP/2 begins, some begin a call and never end it.
                let said: &[u8] = match n % 4 {
                    0 => b"",
                    1 => &PREFACE[..10],
                    _ => PREFACE,
                };
                let _ = stream.write_all(said).await;
                if n % 4 == 3 {
                    let _ = stream.write_all(HEAD_BEGUN).await;
                }
                open.push(stream);
            }
            open
        });
    }
    let mut flooding = pin!(floods.join_all());
    let open = loop {
        tokio::select! {
            open = &mut flooding => break open,
            () = tokio::time::sleep(worker.heartbeat) => drop(worker.beat(&[]).await),
        }
    };
    let mut open: Vec<TcpStream> = open.into_iter().flatten().collect();
    assert!(open.len() > 99 * each / 10, "only {} could be opened", open.len());
    // Those that are still there go on sending, a byte at a time.
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let slow: Vec<TcpStream> = open.split_off(open.len() - 4 * each / 10);
    let dripping = tokio::spawn(async move {
        let mut slow = slow;
        let mut sent = 0_u64;
        while !*stopped.borrow() {
            for stream in &mut slow {
                sent += u64::from(stream.write_all(b"\0").await.is_ok());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        sent
    });
    for n in 0..5 {
        let took = tokio::time::timeout(LONG, build(&mut client, &mut worker, &format!("beside {n}"))).await;
        println!("a build beside them took {:?}", took.expect("the build waits for others' connections"));
    }
    // Somebody new comes in, too.
    let mut fresh = Client::connect(&farm).await;
    let took = tokio::time::timeout(LONG, build(&mut fresh, &mut worker, "fresh")).await;
    println!("one by a new connection took {:?}", took.expect("nobody new comes in"));
    stop.send(true).unwrap();
    assert!(dripping.await.unwrap() > 0);
    // So many are there as may be, and no more.
    let gone = open.len() - most;
    let mut ends: FuturesUnordered<_> = open.iter_mut().map(is_ended).collect();
    let ended = async {
        for _ in 0..gone {
            assert!(ends.next().await.unwrap(), "a connection fails otherwise than by its end");
        }
    };
    tokio::time::timeout(LONG, ended).await.expect("more stay than may");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_of_no_use_end_and_whoever_has_one_calls_again() {
    let farm = Farm::builder()
        .config("[limits]\nfirst_call_seconds = 1\nidle_connection_seconds = 2\nstalled_stream_seconds = 2")
        .start();
    let mut client = Client::connect(&farm).await;
    let worker = Sim::connect(&client, hello("w1", 1)).await.unwrap();
    for said in [&b""[..], &PREFACE[..10], PREFACE, &[PREFACE, HEAD_BEGUN].concat()] {
        let mut stream = connect_from(1, farm.port()).await.unwrap();
        stream.write_all(said).await.unwrap();
        let ended = tokio::time::timeout(LONG, is_ended(&mut stream)).await;
        assert!(ended.expect("it stays"), "{said:?}");
    }
    // Whoever takes nothing of an answer for so long is cut off; the window holds less than a record of a build.
    let snapshot = client.upload("FROM scratch").await;
    let id = client.submit(&snapshot, "waits", &["linux/arm64"]).await.id;
    let channel = Endpoint::new(farm.url()).unwrap().initial_stream_window_size(16).connect().await.unwrap();
    let bearer = Bearer { token: farm.token(), project: None };
    let mut watching = v1::build_service_client::BuildServiceClient::with_interceptor(channel, bearer);
    let request = v1::WatchBuildRequest { build_id: id, follow: true, ..Default::default() };
    let mut stream = watching.watch_build(request).await.unwrap().into_inner();
    let mut own = Client::connect(&farm).await;
    own.people.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    // Only the worker's connection is of use.
    let cut_off = async {
        while connections(farm.port()) > 1 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(LONG, cut_off).await.expect("it stays");
    stream.message().await.unwrap_err();
    // A stream on which all is taken goes on, and a connection that has gone is made anew.
    own.people.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    assert!(!worker.say.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_too_often_is_told_when_to_come_back_and_others_are_served() {
    let farm = Farm::builder().config("[limits]\ncalls_per_minute_per_identity = 6").start();
    team::project(&farm, "web").await;
    let token = team::person(&farm, "ada", "web", "builder").await;
    let mut ada = Client::with_token(&farm, &token).await;
    let mut bob = Client::with_token(&farm, &team::person(&farm, "bob", "web", "builder").await).await;
    let refused = loop {
        if let Err(status) = ada.people.who_am_i(v1::WhoAmIRequest {}).await {
            break status;
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let text = refused.message();
    assert!(text.starts_with("ada makes more than 6 calls a minute; call again in "), "{text}");
    assert!(farm_client::come_back(&refused).is_some(), "nobody says when: {refused:?}");
    for _ in 0..5 {
        bob.people.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    }
    // Another connection, and another address, are the same ada.
    let again = Client::with_token(&farm, &token).await.people.who_am_i(v1::WhoAmIRequest {}).await;
    assert_eq!(again.unwrap_err().code(), Code::ResourceExhausted);
    // The command line waits and goes on, whichever call it makes.
    for (words, code) in [(&["builds"][..], 0), (&["workers"], 0), (&["logs", "7f3k2m"], 2)] {
        while ada.people.who_am_i(v1::WhoAmIRequest {}).await.is_ok() {}
        let mut command = farm.command(words);
        command.env("FARM_TOKEN", &token).env_remove("FARM_TOKEN_FILE");
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.starts_with("waiting: ada makes more than 6 calls a minute"), "{words:?}: {said}");
        assert!(code == 0 || said.contains("7f3k2m"), "{words:?}: {said}");
    }
    // So does whoever comes back when they were told to.
    let status = ada.people.who_am_i(v1::WhoAmIRequest {}).await.unwrap_err();
    tokio::time::sleep(farm_client::come_back(&status).unwrap()).await;
    ada.people.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
}

/// Calls without a token that the farm knows, from an address, with what a proxy would say.
async fn knock(farm: &Farm, from: [u8; 4], said: &str) -> Status {
    let channel =
        Endpoint::new(farm.url()).unwrap().local_address(Some(from.into())).connect().await.unwrap();
    let bearer = Bearer { token: format!("farm_p_{}", "0".repeat(64)), project: None };
    let mut people = v1::people_service_client::PeopleServiceClient::with_interceptor(channel, bearer);
    let mut request = Request::new(v1::WhoAmIRequest {});
    request.metadata_mut().insert("x-forwarded-for", said.parse().unwrap());
    people.who_am_i(request).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_trusted_proxy_says_where_a_call_comes_from() {
    let farm = Farm::builder()
        .config("[limits]\nstrangers_per_minute_per_address = 5\ntrusted_proxies = [\"127.0.0.2\"]")
        .start();
    // By itself nobody becomes somebody else by what they write.
    for n in 0..5 {
        let status = knock(&farm, [127, 0, 0, 1], &format!("198.51.100.{n}")).await;
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    }
    let status = knock(&farm, [127, 0, 0, 1], "198.51.100.99").await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("127.0.0.1"), "{status:?}");
    // Whoever is known is served from there as before.
    Client::connect(&farm).await.people.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    // A trusted proxy says for whom it calls; what its client wrote before doesn't count.
    for n in 0..5 {
        let status = knock(&farm, [127, 0, 0, 2], &format!("203.0.113.{n}, 198.51.100.7")).await;
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    }
    let status = knock(&farm, [127, 0, 0, 2], "203.0.113.9, 198.51.100.7").await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("198.51.100.7"), "{status:?}");
    let other = knock(&farm, [127, 0, 0, 2], "198.51.100.8").await;
    assert_eq!(other.code(), Code::Unauthenticated, "{other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_workers_take_little_memory() {
    let needs = hold(60, true, Duration::from_secs(1)).await;
    assert!(needs.kib_each < 256, "{needs:?}");
}
