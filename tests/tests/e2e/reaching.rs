//! What a build's Dockerfile reaches of the farm itself: an engine that runs beside the coordinator fetches what `ADD URL` names.

use crate::support::*;

#[test]
fn a_dockerfile_that_fetches_from_the_coordinators_port_gets_nothing_of_the_farm() {
    let farm = small_farm();
    let port = farm.port();
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
