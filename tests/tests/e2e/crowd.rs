//! Many at once: the same source, the same tag, and each gets its own build.

use farm_tests::database::psql;

use crate::support::*;

#[test]
fn many_submissions_of_one_source_at_once_are_all_built_and_the_newest_has_the_tag() {
    let farm = small_farm();
    let tag = format!("{}:1", repository("crowd"));
    let context =
        Context::new("FROM scratch\nARG N\nLABEL n=$N\nCOPY . /\n").file("data", nonce().repeat(20_000));
    let mut clis: Vec<_> = (0..6)
        .map(|n| {
            let arg = format!("N={n}");
            let args = [
                "submit",
                context.text(),
                "-t",
                &tag,
                "--build-arg",
                &arg,
                "--platform",
                "linux/amd64,linux/arm64",
            ];
            farm.cli_spawn(&format!("submit{n}"), &args)
        })
        .collect();
    for cli in &mut clis {
        assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    }
    let listed = farm.cli(&["builds", "--json"]).json();
    assert_eq!(listed["builds"].as_array().unwrap().len(), 6);
    // The last in order has the tag. (Two that come within a millisecond may be listed the other way round.)
    let last = psql(farm.database_url(), "SELECT short_id FROM builds ORDER BY order_key DESC LIMIT 1");
    let newest = show(&farm, last.trim());
    assert_eq!(newest["index_digest"], digest_of(&raw(&tag).unwrap()), "{newest:#?}");
    assert_eq!(newest["tags"][0]["state"], "verified");
}
