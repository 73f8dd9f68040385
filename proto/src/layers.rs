//! What layers hold, on the wire and off it.

use farm_types::elf::{Files, LayerVerdict, MOST_PATHS, PATH_BYTES, RULES};
use farm_types::{Digest, Invalid};

use crate::failure::without_nul;
use crate::v1;

/// As many architectures as there may be in a layer.
const MOST_ARCHITECTURES: usize = 64;
/// The longest name of one.
const NAME_BYTES: usize = 32;

impl From<LayerVerdict> for v1::LayerVerdict {
    fn from(verdict: LayerVerdict) -> Self {
        let found = verdict.shortened().found.into_iter();
        let found =
            found.map(|Files { architecture, count, paths }| v1::ElfFiles { architecture, count, paths });
        Self { rules: RULES, found: found.collect() }
    }
}

/// A layer with its verdict, if there is one by the rules of here that is no more than a layer's: of what can't be kept nobody knows anything.
///
/// # Errors
/// The digest is none.
pub fn checked(layer: v1::CheckedLayer) -> Result<(Digest, Option<LayerVerdict>), Invalid> {
    let diff_id = layer.diff_id.parse()?;
    let Some(verdict) = layer.verdict.filter(|verdict| verdict.rules == RULES) else {
        return Ok((diff_id, None));
    };
    if verdict.found.len() > MOST_ARCHITECTURES {
        return Ok((diff_id, None));
    }
    let mut found = Vec::with_capacity(verdict.found.len());
    for v1::ElfFiles { architecture, count, paths } in verdict.found {
        let is_long = |path: &String| path.len() > PATH_BYTES;
        if architecture.len() > NAME_BYTES || paths.len() > MOST_PATHS || paths.iter().any(is_long) {
            return Ok((diff_id, None));
        }
        let paths = paths.into_iter().map(without_nul).collect();
        found.push(Files { architecture: without_nul(architecture), count, paths });
    }
    Ok((diff_id, Some(LayerVerdict { found })))
}

#[cfg(test)]
mod tests {
    use farm_types::elf::MOST_LAYERS;

    use super::*;

    #[test]
    fn a_verdict_comes_back_as_it_was_but_not_one_by_other_rules_and_none_that_is_too_long() {
        let mut verdict = LayerVerdict::default();
        verdict.note("amd64", "usr/bin/a");
        verdict.note("arm64", "usr/bin/b");
        let diff_id = Digest::of(b"layer");
        let wire =
            || v1::CheckedLayer { diff_id: diff_id.to_string(), verdict: Some(verdict.clone().into()) };
        assert_eq!(checked(wire()), Ok((diff_id, Some(verdict.clone()))));

        let with = |change: fn(&mut v1::LayerVerdict)| {
            let mut layer = wire();
            layer.verdict.as_mut().map(change).unwrap();
            checked(layer)
        };
        assert_eq!(with(|verdict| verdict.rules += 1), Ok((diff_id, None)));
        let unknown = Ok((diff_id, None));
        assert_eq!(with(|verdict| verdict.found[0].paths = vec![String::new(); MOST_PATHS + 1]), unknown);
        assert_eq!(with(|verdict| verdict.found[0].paths = vec!["x".repeat(PATH_BYTES + 1)]), unknown);
        assert_eq!(with(|verdict| verdict.found[0].architecture = "x".repeat(NAME_BYTES + 1)), unknown);
        assert_eq!(with(|verdict| verdict.found = vec![Default::default(); MOST_ARCHITECTURES + 1]), unknown);
        // However much an image holds, what is said of it fits into a message.
        let mut most = LayerVerdict::default();
        for machine in 0..13 {
            for _ in 0..2 * MOST_PATHS {
                most.note(&format!("machine{machine}"), &"é".repeat(5000));
            }
        }
        let layer = v1::CheckedLayer { diff_id: diff_id.to_string(), verdict: Some(most.into()) };
        let whole = v1::JobResult { layers: vec![layer; MOST_LAYERS], ..Default::default() };
        assert!(prost::Message::encoded_len(&whole) < crate::MAX_MESSAGE_BYTES - (1 << 20));
        let (_, cleaned) = with(|verdict| verdict.found[0].paths[0] = "a\0b".to_owned()).unwrap();
        assert!(!cleaned.unwrap().found[0].paths[0].contains('\0'));
        assert!(checked(v1::CheckedLayer { diff_id: "sha256:x".to_owned(), verdict: None }).is_err());
    }
}
