//! The grammar of image references, as Docker reads them: distribution's `reference` package, the OCI distribution
//! specification, "Pulling manifests".
//!
//! Read by hand, since the usual expression for it takes some 70 ms to compile, which each command would wait for. A test
//! compares with oci-spec, which has that expression.

/// The registry of names without one, and the folder there of names that are one word.
const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_FOLDER: &str = "library";
/// Another name of the same registry.
const LEGACY_REGISTRY: &str = "index.docker.io";
/// The longest repository, bytes.
const MAX_REPOSITORY: usize = 255;
/// The longest tag, bytes.
const MAX_TAG: usize = 128;

/// `[REGISTRY/]REPOSITORY[:TAG]`, with the default registry filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) registry: String,
    pub(crate) repository: String,
    pub(crate) tag: Option<String>,
}

/// Reads a reference without a digest; `None`: it is none.
pub(crate) fn parse(text: &str) -> Option<Reference> {
    // A colon before the last slash is a port's.
    let (name, tag) = match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    };
    if !tag.is_none_or(is_tag) {
        return None;
    }
    let has_registry = |first: &str| first.contains(['.', ':']) || first == "localhost";
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if has_registry(first) => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    // A host with `_` in it is none by the grammar, and taken all the same as long as it has no port.
    if !(is_registry(registry) || is_component(registry)) || !path.split('/').all(is_component) {
        return None;
    }
    let registry = if registry == LEGACY_REGISTRY { DEFAULT_REGISTRY } else { registry };
    let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
        format!("{DEFAULT_FOLDER}/{path}")
    } else {
        path.to_owned()
    };
    (repository.len() <= MAX_REPOSITORY).then(|| Reference {
        registry: registry.to_owned(),
        repository,
        tag: tag.map(str::to_owned),
    })
}

/// `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`.
fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = tag.as_bytes();
    bytes.first().is_some_and(|b| word(*b))
        && bytes.iter().all(|b| word(*b) || matches!(b, b'.' | b'-'))
        && bytes.len() <= MAX_TAG
}

/// Labels with dots between them, and a port.
fn is_registry(registry: &str) -> bool {
    let (host, port) = registry.split_once(':').map_or((registry, None), |(host, port)| (host, Some(port)));
    let is_label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(inner)
    };
    host.split('.').all(is_label)
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Runs of `[a-z0-9]`, with `.`, `_`, `__` or any number of `-` between them.
fn is_component(component: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separators: Vec<&str> = component.split(|c: char| u8::try_from(c).is_ok_and(is_word)).collect();
    // The first and the last piece are in front of the first character of a word and behind the last one.
    let [first, between @ .., last] = separators.as_slice() else { return false };
    let is_separator =
        |text: &&str| matches!(*text, "" | "." | "_" | "__") || text.bytes().all(|b| b == b'-');
    first.is_empty() && last.is_empty() && between.iter().all(is_separator)
}

#[cfg(test)]
mod tests {
    use oci_spec::distribution::Reference as Peer;
    use proptest::prelude::*;

    use super::*;

    /// What another reader makes of it.
    fn peer(text: &str) -> Option<Reference> {
        let read: Peer = text.parse().ok()?;
        // It fills in the default tag.
        let tag = read.tag().map(str::to_owned).filter(|tag| text.ends_with(&format!(":{tag}")));
        Some(Reference {
            registry: read.registry().to_owned(),
            repository: read.repository().to_owned(),
            tag,
        })
    }

    #[test]
    fn capitals_and_foreign_letters_are_where_docker_takes_them() {
        assert_eq!(parse("Host.example/a:V1").unwrap().registry, "Host.example");
        // The expression of the others takes the first for a host and fills in another one.
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
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert!(parse(&"a".repeat(247)).is_some() && parse(&"a".repeat(248)).is_none());
        let tagged = |length: usize| parse(&format!("a:{}", "t".repeat(length)));
        assert!(tagged(128).is_some() && tagged(129).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn it_reads_what_others_read(
            text in "((localhost|index\\.docker\\.io|docker\\.io|[a-c.-]{1,6})(:[0-9a]{0,3})?/)?[ab0._/-]{1,9}(:[aA0._-]{0,4})?"
        ) {
            prop_assert_eq!(parse(&text), peer(&text));
        }
    }
}
