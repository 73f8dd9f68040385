//! Tags follow the order in which builds were submitted, not the one in which they end.

use crate::gate::Gate;
use crate::support::*;

#[test]
fn an_older_build_that_ends_after_a_newer_one_never_moves_the_tag_back() {
    let farm = small_farm();
    let repository = repository("order");
    let (shared, own) = (format!("{repository}:latest"), format!("{repository}:older"));
    let gate = Gate::new();
    let older = gate.context();
    let args = ["submit", older.text(), "-t", &shared, "-t", &own, "--platform", "linux/amd64"];
    let mut cli = farm.cli_spawn("older", &args);
    let step = gate.arrival();

    let newer = Context::new(&format!("FROM scratch\nLABEL at={}\nCOPY Dockerfile /\n", nonce()));
    submit(&farm, &newer, &["-t", &shared, "--platform", "linux/amd64"]).ok();
    let published = raw(&shared).unwrap();

    step.open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    assert_eq!(raw(&shared).unwrap(), published, "the older build moved the tag back");
    says(&cli.output(), &["not moved", "a newer build has this tag", &format!("published  {own}")]);
    let record = show(&farm, &build_id(&cli.output()));
    let states: Vec<_> =
        record["tags"].as_array().unwrap().iter().map(|t| (&t["reference"], &t["state"])).collect();
    assert!(states.contains(&(&shared.as_str().into(), &"superseded".into())), "{record:#}");
    // Its other tag is its own.
    assert!(states.contains(&(&own.as_str().into(), &"verified".into())), "{record:#}");
    assert_eq!(record["index_digest"], digest_of(&raw(&own).unwrap()));
}
