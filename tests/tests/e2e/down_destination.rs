//! A registry that is down for an hour while others go on.

use std::collections::BTreeMap;

use farm_tests::bed::Bed;
use farm_tests::database::psql;
use farm_tests::farm::{Farm, WorkerSpec};
use farm_tests::faults::door::{Door, Shut};
use farm_tests::registry::PrivateRegistry;

use crate::support::*;

/// Builds that wait for the one that is down: far more than are worked on at once.
const WAITING: usize = 12;
const TAGS: usize = 3;
const MEASURED: usize = 3;

fn tiny() -> Context {
    Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY Dockerfile /\n", nonce()))
}

/// From the last result to the end of the build, seconds: the median of some builds to a registry that is up.
fn publishing_takes(farm: &Farm, name: &str) -> f64 {
    let mut took: Vec<f64> = (0..MEASURED)
        .map(|n| {
            let tag = format!("{}/up-{name}:{n}", Bed::from_env().registry);
            let stdout = submit(farm, &tiny(), &["-t", &tag, "--platform", "linux/amd64"]).ok();
            let sql = format!(
                "SELECT extract(epoch FROM b.finished_at - max(j.decided_at)) FROM builds b
                 JOIN jobs j ON j.execution_id = b.execution_id WHERE b.short_id = '{}' GROUP BY b.finished_at",
                build_id(&stdout)
            );
            psql(farm.database_url(), &sql).parse().unwrap()
        })
        .collect();
    took.sort_by(f64::total_cmp);
    took[MEASURED / 2]
}

#[test]
fn a_registry_that_is_down_for_an_hour_holds_up_nobody_elses_and_gets_what_waited_in_order() {
    let registry = PrivateRegistry::start();
    let door = Door::to(registry.port(), 1);
    let worker = WorkerSpec::new("w1").platforms("linux/amd64").slots(4);
    let config = "[limits]\npublish_deadline_seconds = 10000\nregistry_timeout_seconds = 10\n";
    let mut farm = Farm::builder().config(config).worker(worker).start();
    // Its workers come through, its coordinator doesn't: what is built waits to be published.
    door.know_coordinators(vec![farm.coordinator().pid()]);
    let url = farm.database_url().to_owned();
    let without = publishing_takes(&farm, "before");

    door.shut(Some(Shut::Hangs));
    let mut ids = Vec::new();
    for n in 0..WAITING {
        let tag = format!("{}/down:t{}", door.address(), n % TAGS);
        let context = tiny();
        let args = ["submit", context.text(), "-t", &tag, "--platform", "linux/amd64", "--detach", "--json"];
        ids.push(farm.cli(&args).json()["id"].as_str().unwrap().to_owned());
    }
    let waiting = "SELECT count(*) FROM builds WHERE state = 'publishing'";
    until("builds that wait to be published", 2 * LONG, || {
        (psql(&url, waiting) == WAITING.to_string()).then_some(())
    });
    let hanging = publishing_takes(&farm, "hanging");
    door.shut(Some(Shut::Refuses));
    let why = format!("{} can't be reached or has trouble", door.address());
    until("the reason", LONG, || farm.cli(&["show", &ids[0]]).ok().contains(&why).then_some(()));
    let refusing = publishing_takes(&farm, "refusing");
    // An hour passes.
    psql(&url, "UPDATE farm_clock SET shift = shift + interval '1 hour'");
    let later = publishing_takes(&farm, "later");
    println!(
        "publish seconds, median of {MEASURED}: alone {without:.3}, {WAITING} wait for one that hangs {hanging:.3}, \
         that refuses {refusing:.3}, an hour later {later:.3}"
    );
    println!("{}\n{}", farm.cli(&["show", &ids[0]]).ok(), farm.cli(&["builds"]).ok());
    for took in [hanging, refusing, later] {
        // Far less than any wait for the one that is down; two builds at once on a slow machine differ by as much.
        assert!(took < without + 2.0, "{took} s instead of {without} s");
    }
    assert_eq!(psql(&url, waiting), WAITING.to_string());

    door.shut(None);
    // Whoever was tried last waits longest.
    psql(&url, "UPDATE farm_clock SET shift = shift + interval '2 minutes'");
    until("the end of all", 2 * LONG, || (psql(&url, waiting) == "0").then_some(()));
    for id in &ids {
        assert_eq!(show(&farm, id)["state"], "succeeded");
    }
    let rows =
        psql(&url, "SELECT 'sha256:' || encode(index_digest, 'hex') || ' ' || order_key FROM publications");
    let orders: BTreeMap<&str, u64> =
        rows.lines().map(|row| row.split_once(' ').unwrap()).map(|(d, o)| (d, o.parse().unwrap())).collect();
    for n in 0..TAGS {
        let name = format!("t{n}");
        let puts: Vec<u64> = door
            .puts()
            .iter()
            .filter(|put| put.reference == name)
            .map(|put| orders[put.digest.as_str()])
            .collect();
        assert!(puts.is_sorted_by(|a, b| a < b), "{name} went back: {puts:?}");
        let newest = &ids[WAITING - TAGS + n];
        let tag = format!("{}/down:{name}", door.address());
        assert_eq!(show(&farm, newest)["index_digest"], digest_of(&raw(&tag).unwrap()), "{tag}");
    }
}
