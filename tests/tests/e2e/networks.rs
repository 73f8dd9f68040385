//! A worker behind a network that is bad in ways that only a network can be: nothing comes through and nobody is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use farm_tests::database::psql;
use farm_tests::farm::{Farm, WorkerSpec};
use farm_tests::network::{Network, Weather};
use serde_json::Value;

use crate::gate::Gate;
use crate::support::*;

#[test]
fn a_worker_behind_a_silent_or_lossy_network_loses_its_lease_or_nothing() {
    let network = Arc::new(Network::make());
    // So long a lease that the kernel's own patience with a line fits into it.
    let leases = "[limits]\nheartbeat_milliseconds = 1000\nsuspect_seconds = 3\nlease_seconds = 10\n";
    let mut farm = Farm::builder().config(leases).start();
    let far = |name: &str| WorkerSpec::new(name).platforms("linux/amd64").behind(&network);
    farm.add_worker(far("far"));

    // Three of ten packets lost: slower, and that is all.
    network.set(Weather::Lossy);
    let context =
        Context::new(&format!("FROM {BASE}\nRUN for i in $(seq 1 200); do echo line $i {}; done\n", nonce()));
    let stdout = submit(&farm, &context, &["--platform", "linux/amd64", "--progress", "plain"]).ok();
    let record = show(&farm, &build_id(&stdout));
    assert_eq!(record["platforms"][0]["attempts"], 1, "{record:#}");
    let log = farm.cli(&["logs", &build_id(&stdout)]).ok();
    for line in 1..=200 {
        assert_eq!(log.matches(&format!("line {line} ")).count(), 1, "line {line} of:\n{log}");
    }
    network.set(Weather::Fair);

    // Shorter than a lease: nobody notices. Longer: the job runs elsewhere, and what the old one has is not taken.
    for (weather, is_long) in [(Weather::Down, false), (Weather::Silent, true), (Weather::HalfOpen, true)] {
        let (gate, tag) = (Gate::new(), format!("{}:1", repository("networks")));
        let context = gate.context();
        let args = ["submit", context.text(), "-t", &tag, "--platform", "linux/amd64"];
        let mut cli = farm.cli_spawn(&format!("{weather:?}-{is_long}"), &args);
        let first = gate.arrival();
        network.set(weather);
        let begin = Instant::now();
        if is_long {
            farm.add_worker(WorkerSpec::new("near").platforms("linux/amd64"));
            cli.wait_for_line("linux/amd64  running again on near", LONG);
            let after = begin.elapsed();
            assert!(after < Duration::from_secs(30), "{weather:?}: it runs elsewhere after {after:?}");
            // One engine runs one step once, whoever asks for it; the far worker asks no more, or in vain.
            first.open();
        } else {
            // A heartbeat is missed, as its time says.
            let silent = "SELECT last_seen < farm_now() - interval '2 s' FROM workers WHERE name = 'far'";
            until("silence", LONG, || (psql(farm.database_url(), silent) == "t").then_some(()));
            first.open();
            network.set(Weather::Fair);
        }
        assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{weather:?}: {}", cli.tail());
        let record = show(&farm, &build_id(&cli.output()));
        let history = record["platforms"][0]["history"].as_array().unwrap();
        let lost = history.iter().filter(|attempt| attempt["state"] == "lost").count();
        assert_eq!(lost, usize::from(is_long), "{weather:?}: {record:#}");
        // A worker may give one back, as it hasn't quite ended the one before; and where the far one's engine pushes the same blobs at the
        // same moment, the registry may not know one of them yet, which is tried again.
        let is_told = |attempt: &&Value| {
            attempt["state"] != "released" && attempt["failure"]["code"] != "registry_unavailable"
        };
        let tried = history.iter().filter(is_told).count();
        assert_eq!(tried, 1 + lost, "{weather:?}: {record:#}");
        assert_eq!(record["index_digest"], digest_of(&raw(&tag).unwrap()), "{weather:?}");
        network.set(Weather::Fair);
        if is_long {
            farm.stop_worker("near");
        }
        let back = "SELECT coordinator_id IS NOT NULL AND last_seen > farm_now() - interval '2 s'
                    FROM workers WHERE name = 'far'";
        until("the worker", LONG, || (psql(farm.database_url(), back) == "t").then_some(()));
        let used = "SELECT sum(used) FROM engines";
        until("a free slot", LONG, || (psql(farm.database_url(), used) == "0").then_some(()));
    }
    farm.stop_worker("far");
}
