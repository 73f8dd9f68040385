//! Many at once: the same source, the same tag, and each gets its own build.

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
    let listed = listed["builds"].as_array().unwrap();
    assert_eq!(listed.len(), 6);
    // Newest first: that one has the tag.
    let newest = show(&farm, listed[0]["id"].as_str().unwrap());
    assert_eq!(newest["index_digest"], digest_of(&raw(&tag).unwrap()), "{newest:#?}");
    assert_eq!(newest["tags"][0]["state"], "verified");
}
