//! The grammar of image references, as Docker reads them: distribution's `reference` package (`ParseNormalizedNamed`), the
//! OCI distribution specification, "Pulling manifests".
//!
//! Read by hand, since the usual expression for it takes some 70 ms to compile, which each command would wait for. Tests
//! compare with oci-spec, which has that expression, and with what a Docker engine made of a list of them.
//!
//! Narrower than Docker: a first part that has capitals and neither a dot nor a port is refused, unless it is `localhost`:
//! Docker would look for a host of that name, and hardly anybody means one.

use crate::host::{DOCKER_HUB, RegistryHost, is_component};

/// The folder, in the default registry, of names that are one word.
const DEFAULT_FOLDER: &str = "library";
/// The longest repository, bytes.
const MAX_REPOSITORY: usize = 255;
/// The longest tag, bytes.
const MAX_TAG: usize = 128;
/// Digits of an image's id.
const ID_DIGITS: usize = 64;

/// `[REGISTRY/]REPOSITORY[:TAG]`, with the default registry filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) registry: RegistryHost,
    pub(crate) repository: String,
    pub(crate) tag: Option<String>,
}

/// Reads a reference without a digest. The error is the cure.
pub(crate) fn parse(text: &str) -> Result<Reference, String> {
    let shape = || Err("write REGISTRY/REPO:TAG, for example localhost:5002/app:latest".to_owned());
    if text.contains("://") {
        return Err(
            "leave the scheme out; write REGISTRY/REPO:TAG, for example localhost:5002/app:latest".to_owned()
        );
    }
    if text.len() == ID_DIGITS && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err("64 hexadecimal digits are an image's id, no name; write REGISTRY/REPO:TAG".to_owned());
    }
    // A colon before the last slash is a port's.
    let (name, tag) = match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    };
    let (host, path) = match name.split_once('/') {
        Some((first, rest)) if is_host(first) => (Some(first), rest),
        _ => (None, name),
    };
    if path.is_empty() || path.ends_with('/') {
        return Err(
            "it has no repository; write REGISTRY/REPO:TAG, for example localhost:5002/app:latest".to_owned()
        );
    }
    let registry: RegistryHost =
        host.unwrap_or(DOCKER_HUB).parse().map_err(|e: crate::Invalid| match host {
            Some(host) => format!("its registry {host:?}: {}", e.cure),
            None => e.cure,
        })?;
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        let small = text.replacen(path, &path.to_ascii_lowercase(), 1);
        let host = match path.split_once('/') {
            Some((first, _)) if host.is_none() && first.bytes().any(|b| b.is_ascii_uppercase()) => {
                format!("; if {first} is a registry, with its port, like {first}:5000")
            }
            _ => String::new(),
        };
        return Err(format!("a repository has no capital letters; write {small:?}{host}"));
    }
    if tag.is_some_and(|tag| tag.len() > MAX_TAG) {
        return Err(format!("a tag has at most {MAX_TAG} characters; write a shorter one"));
    }
    if !tag.is_none_or(is_tag) || !path.split('/').all(is_component) {
        return shape();
    }
    let repository = if registry.as_str() == DOCKER_HUB && !path.contains('/') {
        format!("{DEFAULT_FOLDER}/{path}")
    } else {
        path.to_owned()
    };
    if repository.len() > MAX_REPOSITORY {
        return Err(format!(
            "a repository's name has at most {MAX_REPOSITORY} characters; write a shorter one"
        ));
    }
    Ok(Reference { registry, repository, tag: tag.map(str::to_owned) })
}

/// Whether what stands before the first slash is a registry.
fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first.eq_ignore_ascii_case("localhost")
}

/// `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`.
fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = tag.as_bytes();
    bytes.first().is_some_and(|b| word(*b))
        && bytes.iter().all(|b| word(*b) || matches!(b, b'.' | b'-'))
        && bytes.len() <= MAX_TAG
}

#[cfg(test)]
#[path = "reference_tests.rs"]
mod tests;
