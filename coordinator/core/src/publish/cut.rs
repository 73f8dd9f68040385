//! An index of some platforms of another one, for copies that leave the others where they are.
//!
//! What is kept is kept as it is written there: each descriptor byte for byte, in the same order, with annotations, `os.version` and `urls`
//! that farm itself has no use for. So the same index, cut alike, has always the same bytes; cut once more it stays as it is; and an index
//! of which nothing is left out is itself.

use std::collections::BTreeSet;
use std::fmt;

use farm_types::{Digest, Platform};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Descriptor, Index, IndexPlatform, REFERENCE_DIGEST, is_attestation, is_index, spelled};

/// Why there is no such index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uncut {
    /// It is one image.
    NoIndex,
    /// It isn't written as an index is: the line and column.
    Unreadable(usize, usize),
    /// It hasn't all of these platforms.
    Missing {
        /// Those that it hasn't.
        wanted: Vec<Platform>,
        /// Those that it has, as they are spelled.
        has: Vec<String>,
    },
}

impl fmt::Display for Uncut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoIndex => {
                f.write_str("it is one image and no index: leave --platform out, then it is copied as it is")
            }
            Self::Unreadable(line, column) => {
                write!(f, "it isn't written as an index is (line {line}, column {column})")
            }
            Self::Missing { wanted, has } => {
                let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
                let has = if has.is_empty() { "none at all".to_owned() } else { has.join(", ") };
                write!(f, "it has no {}; it has {has}", wanted.join(", "))
            }
        }
    }
}

impl From<serde_json::Error> for Uncut {
    fn from(error: serde_json::Error) -> Self {
        Self::Unreadable(error.line(), error.column())
    }
}

/// An index, as far as a part of it is one, too. What it is about (`subject`) the part is not.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    schema_version: u32,
    #[serde(skip_deserializing)]
    media_type: &'static str,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    artifact_type: Option<&'a RawValue>,
    #[serde(borrow)]
    manifests: Vec<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    annotations: Option<&'a RawValue>,
}

/// The index of these platforms of another index, with what attests them. Without any platform it is that index itself.
///
/// # Errors
/// [`Uncut`].
pub fn cut(source: Index, platforms: &[Platform]) -> Result<Index, Uncut> {
    if platforms.is_empty() {
        return Ok(source);
    }
    if !is_index(source.media_type) {
        return Err(Uncut::NoIndex);
    }
    let document: Document<'_> = serde_json::from_slice(&source.bytes)?;
    let all = document.manifests.iter().map(|raw| serde_json::from_str(raw.get()));
    let all: Vec<Descriptor> = all.collect::<Result<_, _>>()?;
    let is_wanted = |entry: &Descriptor| {
        !is_attestation(entry) && normal(entry).is_some_and(|platform| platforms.contains(&platform))
    };
    let images: BTreeSet<String> =
        all.iter().filter(|entry| is_wanted(entry)).map(|entry| entry.digest.to_string()).collect();
    let missing = |platform: &&Platform| {
        !all.iter().any(|entry| is_wanted(entry) && normal(entry).as_ref() == Some(*platform))
    };
    let wanted: Vec<Platform> = platforms.iter().filter(missing).cloned().collect();
    if !wanted.is_empty() {
        return Err(Uncut::Missing { wanted, has: platforms_of(&all) });
    }
    let is_kept = |entry: &Descriptor| match is_attestation(entry) {
        true => entry.annotations.get(REFERENCE_DIGEST).is_some_and(|of| images.contains(of)),
        false => is_wanted(entry),
    };
    let kept: Vec<(&RawValue, Digest)> = document
        .manifests
        .iter()
        .zip(&all)
        .filter(|(_, entry)| is_kept(entry))
        .map(|(raw, entry)| (*raw, entry.digest))
        .collect();
    let manifests: Vec<Digest> = kept.iter().map(|(_, digest)| *digest).collect();
    if kept.len() == all.len() {
        return Ok(Index { manifests, ..source });
    }
    let part = Document {
        schema_version: 2,
        media_type: source.media_type,
        manifests: kept.into_iter().map(|(raw, _)| raw).collect(),
        ..document
    };
    let bytes = serde_json::to_vec(&part)?;
    Ok(Index {
        digest: Digest::of(&bytes),
        bytes,
        media_type: source.media_type,
        manifests,
        referrers: Vec::new(),
    })
}

/// The platform of an index's entry, if farm has a name for it.
fn normal(entry: &Descriptor) -> Option<Platform> {
    let IndexPlatform { os, architecture, variant, .. } = entry.platform.as_ref()?;
    Platform::from_parts(os, architecture, variant.as_deref().unwrap_or_default()).ok()
}

/// The platforms of images in an index, each once, in its order.
fn platforms_of(all: &[Descriptor]) -> Vec<String> {
    let mut has: Vec<String> = Vec::new();
    for entry in all.iter().filter(|entry| !is_attestation(entry)) {
        let Some(IndexPlatform { os, architecture, variant, .. }) = &entry.platform else { continue };
        let platform = spelled(os, architecture, variant.as_deref().unwrap_or_default());
        if !has.contains(&platform) {
            has.push(platform);
        }
    }
    has
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::subsequence;

    use super::*;
    use crate::publish::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    fn entry(name: &str, rest: &str) -> String {
        format!(
            r#"{{"mediaType":"{OCI_MANIFEST}", "digest":"{}","size":480{rest}}}"#,
            Digest::of(name.as_bytes())
        )
    }

    fn of_linux(name: &str, architecture: &str, more: &str) -> String {
        entry(name, &format!(r#","platform":{{"os":"linux","architecture":"{architecture}"{more}}}"#))
    }

    fn attesting(name: &str) -> String {
        let rest = format!(
            concat!(
                r#","annotations":{{"vnd.docker.reference.type":"attestation-manifest","#,
                r#""vnd.docker.reference.digest":"{}"}},"platform":{{"architecture":"unknown","os":"unknown"}}"#
            ),
            Digest::of(name.as_bytes())
        );
        entry(&format!("att {name}"), &rest)
    }

    fn source(media_type: &'static str, entries: &[String], rest: &str) -> Index {
        let entries = entries.join(",\n");
        let bytes = format!("{{\n \"schemaVersion\": 2,\"manifests\":[{entries}]{rest}}}").into_bytes();
        Index { digest: Digest::of(&bytes), bytes, media_type, manifests: Vec::new(), referrers: Vec::new() }
    }

    /// As a registry of base images may have it.
    fn base() -> Index {
        let entries = [
            of_linux("amd64", "amd64", r#","os.version":"6.1","os.features":["x"]"#),
            of_linux("arm64", "arm64", r#","variant":"v8""#),
            attesting("amd64"),
            of_linux("arm", "arm", ""),
            attesting("arm64"),
            entry("nanoserver", r#","platform":{"os":"windows","architecture":"amd64"}"#),
            entry("chart", ""),
        ];
        source(OCI_INDEX, &entries, r#","annotations":{"a": "b"},"subject":{"x":1}"#)
    }

    #[test]
    fn the_bytes_are_these() {
        let part = cut(base(), &[platform("linux/amd64")]).unwrap();
        let (amd64, attestation) = (Digest::of(b"amd64"), Digest::of(b"att amd64"));
        let expected = format!(
            concat!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":["#,
                r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json", "digest":"{}","size":480,"#,
                r#""platform":{{"os":"linux","architecture":"amd64","os.version":"6.1","os.features":["x"]}}}},"#,
                r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json", "digest":"{}","size":480,"#,
                r#""annotations":{{"vnd.docker.reference.type":"attestation-manifest","#,
                r#""vnd.docker.reference.digest":"{}"}},"platform":{{"architecture":"unknown","os":"unknown"}}}}],"#,
                r#""annotations":{{"a": "b"}}}}"#
            ),
            amd64, attestation, amd64
        );
        assert_eq!(String::from_utf8(part.bytes.clone()).unwrap(), expected);
        assert_eq!((part.digest, part.media_type), (Digest::of(&part.bytes), OCI_INDEX));
        assert_eq!(part.manifests, [amd64, attestation]);
    }

    #[test]
    fn platforms_are_the_same_however_they_are_written() {
        for (wanted, name) in [("linux/arm64/v8", "arm64"), ("aarch64", "arm64"), ("linux/arm/v7", "arm")] {
            let part = cut(base(), &[platform(wanted)]).unwrap();
            assert_eq!(part.manifests[0], Digest::of(name.as_bytes()), "{wanted}");
        }
        let docker = source(DOCKER_LIST, &[of_linux("a", "amd64", ""), of_linux("b", "s390x", "")], "");
        assert_eq!(cut(docker, &[platform("linux/s390x")]).unwrap().media_type, DOCKER_LIST);
    }

    #[test]
    fn what_it_hasnt_is_told_beside_what_it_has() {
        let wanted = ["linux/riscv64", "linux/amd64", "linux/s390x"].map(platform);
        let why = cut(base(), &wanted).unwrap_err().to_string();
        assert_eq!(
            why,
            "it has no linux/riscv64, linux/s390x; it has linux/amd64, linux/arm64, linux/arm/v7, windows/amd64"
        );
        let image = Index { media_type: DOCKER_MANIFEST, ..base() };
        assert_eq!(cut(image.clone(), &[]).unwrap(), image);
        assert_eq!(cut(image, &wanted).unwrap_err(), Uncut::NoIndex);
        let none = cut(source(OCI_INDEX, &[entry("chart", "")], ""), &wanted[..1]).unwrap_err().to_string();
        assert_eq!(none, "it has no linux/riscv64; it has none at all");
        let odd = cut(source(OCI_INDEX, &["7".to_owned()], ""), &wanted).unwrap_err();
        assert!(matches!(odd, Uncut::Unreadable(..)), "{odd}");
    }

    #[test]
    fn an_index_of_which_nothing_is_left_out_is_itself() {
        let whole = source(OCI_INDEX, &[of_linux("a", "amd64", ""), attesting("a")], r#", "x":0"#);
        let kept = cut(whole.clone(), &[platform("linux/amd64")]).unwrap();
        assert_eq!((kept.bytes, kept.digest), (whole.bytes, whole.digest));
    }

    proptest! {
        #[test]
        fn a_cut_holds_what_was_asked_for_and_cut_again_is_the_same(
            wanted in subsequence(vec!["linux/amd64", "linux/arm64", "linux/arm/v7"], 1..=3),
            turn in 0..3_usize,
        ) {
            let mut wanted: Vec<Platform> = wanted.into_iter().map(platform).collect();
            let part = cut(base(), &wanted).unwrap();
            let len = wanted.len();
            wanted.rotate_left(turn % len);
            prop_assert_eq!(&cut(base(), &wanted).unwrap(), &part);
            prop_assert_eq!(&cut(part.clone(), &wanted).unwrap(), &part);
            let document: super::super::IndexDocument = serde_json::from_slice(&part.bytes).unwrap();
            let mut has: Vec<Platform> = document.manifests.iter().filter_map(normal).collect();
            has.sort();
            wanted.sort();
            prop_assert_eq!(has, wanted);
            let digests: Vec<Digest> = document.manifests.iter().map(|entry| entry.digest).collect();
            prop_assert_eq!(digests, part.manifests);
            for attestation in document.manifests.iter().filter(|entry| is_attestation(entry)) {
                let of = &attestation.annotations[REFERENCE_DIGEST];
                prop_assert!(document.manifests.iter().any(|entry| entry.digest.to_string() == *of));
            }
        }
    }
}
