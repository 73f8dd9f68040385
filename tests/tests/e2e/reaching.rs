//! What a build's Dockerfile reaches of the farm itself: an engine that runs beside the coordinator fetches what `ADD URL` names.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use farm_tests::farm::{Farm, WorkerSpec};

use crate::support::*;

/// Gives one document to whoever asks, at a port of this machine's loopback, for as long as the test lives.
fn document(text: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 4096]);
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(text.as_bytes()));
        }
    });
    port
}

#[test]
fn a_dockerfile_that_fetches_from_the_coordinators_port_gets_nothing_of_the_farm() {
    // Though whoever runs the worker has opened that (`fetching.rs`).
    let worker = WorkerSpec::new("w1").platforms(BOTH).slots(2).arg("--fetch-from").arg("127.0.0.0/8");
    let farm = Farm::builder().worker(worker).start();
    let port = farm.port();
    // The engine does reach this address: what it gets nothing of is the farm.
    let other = format!("http://127.0.0.1:{}/", document("anybody's"));
    let context = Context::new(&format!("FROM scratch\nADD {other} /taken\n"));
    submit(&farm, &context, &["--platform", "linux/amd64"]).ok();
    for path in ["", "grpc.health.v1.Health/Check", "farm.v1.BuildService/ListBuilds"] {
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://127.0.0.1:{port}/{path}");
            let context = Context::new(&format!("FROM scratch\nADD {url} /taken\n"));
            let result = submit(&farm, &context, &["--platform", "linux/amd64"]);
            assert_eq!(result.status, 1, "{url}: {result:?}");
            assert!(result.stdout.contains(&url), "it doesn't say what could not be fetched: {result:?}");
            let record = show(&farm, &build_id(&result.stdout));
            assert_eq!(record["state"], "failed", "{url}: {record:#}");
        }
    }
    // The coordinator has taken no harm.
    let good = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    submit(&farm, &good, &["--platform", "linux/amd64"]).ok();
}
