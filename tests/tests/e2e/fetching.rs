//! From where an engine fetches what a build names: FROM, and ADD of URLs and repositories.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use farm_tests::farm::{Farm, Output, WorkerSpec};
use serde_json::Value;

use crate::support::*;

/// A service on this machine's loopback, which the engine shares: gives one document to whoever asks, and counts who connects.
struct Service {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Service {
    fn start() -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::<AtomicUsize>::default();
        let seen = Arc::clone(&connections);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                seen.fetch_add(1, Ordering::SeqCst);
                let Ok(mut stream) = stream else { return };
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\ninner");
            }
        });
        Service { port, connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A farm that takes images from the bed's registry, and from nowhere else on loopback.
fn farm(worker: WorkerSpec) -> Farm {
    let builder = Farm::builder().guarded().config("[registries.'localhost:5002']\nplain_http = true\n");
    builder.worker(worker.platforms("linux/amd64")).start()
}

fn built(farm: &Farm, dockerfile: &str) -> Output {
    submit(farm, &Context::new(dockerfile), &["--platform", "linux/amd64"])
}

#[track_caller]
fn failure(farm: &Farm, dockerfile: &str) -> Value {
    let output = built(farm, dockerfile);
    assert_eq!(output.status, 1, "{dockerfile}: {output:?}");
    show(farm, &build_id(&output.stdout))["failure"].clone()
}

#[test]
fn what_is_closed_is_refused_before_anything_is_dialled() {
    let farm = farm(WorkerSpec::new("w1"));
    let (service, by_ssh) = (Service::start(), Service::start());
    let port = service.port;
    let closed = [
        ("http://169.254.169.254/latest/meta-data/".to_owned(), "link-local"),
        ("http://metadata.google.internal/computeMetadata/v1/".to_owned(), "credentials"),
        (format!("http://127.0.0.1:{port}/"), "loopback"),
        (format!("http://LOCALHOST.:{port}/x"), "loopback"),
        (format!("http://2130706433:{port}/"), "usual forms"),
        (format!("http://0x7f.1:{port}/"), "usual forms"),
        (format!("http://[::ffff:7f00:1]:{port}/"), "no host's own address"),
        (format!("http://me:hunter2@127.0.0.1:{port}/"), "loopback"),
        (format!("git://127.0.0.1:{port}/app.git"), "loopback"),
        (format!("https://127.0.0.1:{port}/app.git"), "loopback"),
        // Its host key is asked for before the rules are: see docs/security.md.
        (format!("ssh://git@127.0.0.1:{}/app.git", by_ssh.port), "loopback"),
    ];
    for (source, why) in closed {
        let failure = failure(&farm, &format!("FROM scratch\nADD {source} /x\n"));
        assert_eq!(
            (&failure["cause"], &failure["code"]),
            (&"user".into(), &"source_denied".into()),
            "{failure:#}"
        );
        let message = failure["message"].as_str().unwrap();
        assert!(message.contains(why) && !message.contains("hunter2"), "{source}: {message}");
        assert!(why == "usual forms" || message.contains("farm-worker --fetch-from "), "{source}: {message}");
    }
    for dockerfile in [
        format!("FROM 127.0.0.1:{port}/os:1\nCOPY Dockerfile /\n"),
        format!("FROM {BASE}\nCOPY --from=localhost:{port}/os:1 / /x/\n"),
    ] {
        let failure = failure(&farm, &dockerfile);
        assert_eq!(failure["code"], "source_denied", "{failure:#}");
        let message = failure["message"].as_str().unwrap();
        says(message, &[&format!(":{port}/os:1"), "loopback", "[registries.", "farm-worker --fetch-from"]);
    }
    assert_eq!(service.connections(), 0, "the engine dialled");
    // What the farm's configuration names is open.
    built(&farm, &format!("FROM {BASE}\nCOPY Dockerfile /{}\n", nonce())).ok();

    // A project with a list fetches from nowhere else, and its list opens nothing that is closed. Images go on.
    farm.cli(&["project", "allow", "default", "--fetch", "*.listed.example", "--fetch", "127.0.0.1"]).ok();
    let unlisted = failure(&farm, &format!("FROM {BASE}\nADD https://user:hunter2@other.example/x /x\n"));
    assert_eq!(unlisted["code"], "source_denied", "{unlisted:#}");
    says(
        unlisted["message"].as_str().unwrap(),
        &["https://other.example/x", "*.listed.example", "farm project allow default --fetch other.example"],
    );
    let closed = failure(&farm, &format!("FROM {BASE}\nADD http://127.0.0.1:{port}/x /x\n"));
    says(closed["message"].as_str().unwrap(), &["loopback", "farm-worker --fetch-from"]);
    assert_eq!(service.connections(), 0, "the engine dialled");
    let shown = farm.cli(&["project", "show", "default"]);
    says(&shown.stdout, &["ADD from   *.listed.example, 127.0.0.1, and nowhere else"]);
}

#[test]
fn whoever_runs_the_worker_opens_one_place_and_no_other() {
    let (open, closed) = (Service::start(), Service::start());
    let farm = farm(WorkerSpec::new("w1").arg("--fetch-from").arg(&format!("127.0.0.1:{}", open.port)));
    let of = |service: &Service| {
        format!(
            "FROM {BASE}\nADD http://127.0.0.1:{}/{} /x/file\nRUN test \"$(cat /x/file)\" = inner\n",
            service.port,
            nonce()
        )
    };
    built(&farm, &of(&open)).ok();
    assert!(open.connections() > 0);
    assert_eq!(failure(&farm, &of(&closed))["code"], "source_denied");
    assert_eq!(closed.connections(), 0, "the engine dialled");
}
