//! References are read as Docker reads them.

use oci_spec::distribution::Reference as Peer;
use proptest::prelude::*;

use super::*;

/// What another reader makes of it: registry, repository, tag.
fn peer(text: &str) -> Option<(String, String, Option<String>)> {
    let read: Peer = text.parse().ok()?;
    // It fills in the default tag.
    let tag = read.tag().map(str::to_owned).filter(|tag| text.ends_with(&format!(":{tag}")));
    Some((read.registry().to_owned(), read.repository().to_owned(), tag))
}

fn read(text: &str) -> Option<(String, String, Option<String>)> {
    let Reference { registry, repository, tag } = parse(text).ok()?;
    Some((registry.to_string(), repository, tag))
}

#[test]
fn capitals_and_foreign_letters_are_where_docker_takes_them() {
    assert_eq!(parse("Host.example/a:V1").unwrap().registry.as_str(), "host.example");
    for text in [
        "Foo/bar",
        "localhost:5002/Foo",
        "app:é",
        "é",
        "localhost:5002/",
        "a//b",
        "",
        ":",
        "a:",
        "-",
        "a-",
        ".",
        "/a",
        "a/",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
    assert!(parse(&"a".repeat(247)).is_ok() && parse(&"a".repeat(248)).is_err());
    // With a registry of its own there is no folder in front.
    assert!(parse(&format!("r.example/{}", "a".repeat(255))).is_ok());
    assert!(parse(&format!("r.example/{}", "a".repeat(256))).unwrap_err().contains("at most 255"));
    let tagged = |length: usize| parse(&format!("a:{}", "t".repeat(length)));
    assert!(tagged(128).is_ok() && tagged(129).unwrap_err().contains("at most 128"));
}

#[test]
fn an_id_is_no_name() {
    let id = "0123456789abcdef".repeat(4);
    assert!(parse(&id).unwrap_err().contains("image's id"));
    for text in [&id[1..], &format!("r.example/{id}"), &id.to_ascii_uppercase()] {
        assert!(!parse(text).is_err_and(|e| e.contains("image's id")), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn it_reads_what_others_read(
        text in "((localhost|index\\.docker\\.io|docker\\.io|[a-c.-]{1,6})(:[1-9a][0-9a]{0,2})?/)?[ab0._/-]{1,9}(:[aA0._-]{0,4})?"
    ) {
        prop_assert_eq!(read(&text), peer(&text));
    }

    /// Capitals of a host don't matter, and nothing else about it changes; an IPv6 address is a host as any other.
    #[test]
    fn hosts_are_written_small(
        host in "(localhost|LocalHost|[a-cA-C]{1,3}\\.[a-cA-C]{1,3}|\\[[fF][dD]00::[0-9a-fA-F]{1,4}\\])",
        port in "(:[1-9][0-9]{0,3})?",
        path in "[ab0]{1,3}(/[ab0]{1,3})?",
        tag in "(:[aA0]{1,3})?",
    ) {
        let (registry, repository, read_tag) = read(&format!("{host}{port}/{path}{tag}")).unwrap();
        prop_assert_eq!(registry, format!("{host}{port}").to_ascii_lowercase());
        prop_assert_eq!(repository, path);
        prop_assert_eq!(read_tag, tag.strip_prefix(':').map(str::to_owned));
    }

    #[test]
    fn what_was_read_is_read_again_as_the_same(text in "[a-bA:/.\\[\\]0_-]{1,14}") {
        if let Ok(first) = parse(&text) {
            let tag = first.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
            prop_assert_eq!(parse(&format!("{}/{}{tag}", first.registry, first.repository)), Ok(first));
        }
    }
}
