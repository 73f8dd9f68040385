//! Cases drawn from a seed: each is about one [`THEMES`] entry, in turn, and the draw chooses its details.
//!
//! A case depends on its seed and its number only, so that one can be made alone. `themes/` has what they are made of;
//! one more: a function there, and its line here.

use super::case::Case;
use super::draft::Draft;
use super::themes::{failing, files, words};

type Theme = (&'static str, fn(&mut Draft));

/// Those that a short run should meet come first.
pub const THEMES: &[Theme] = &[
    ("expansions of ARG and ENV", words::expansions),
    ("sources with wildcards", files::wildcards),
    ("odd names", files::odd_names),
    ("forms of FROM", words::from_forms),
    (".dockerignore", files::ignoring),
    ("modes, links and empty folders", files::modes),
    ("symbolic links", files::symlinks),
    ("flags of COPY", files::copy_flags),
    ("comments and continuations", words::continuations),
    ("sources that are not there", failing::missing_sources),
    ("mistakes in syntax", failing::syntax),
    ("a RUN that fails", failing::failing_run),
    ("shell and JSON forms", words::forms),
    ("heredocs", words::heredocs),
    ("quotes in LABEL and ENV", words::quoting),
    ("small instructions", words::small),
    ("RUN with mounts", words::mounts),
    ("ONBUILD", words::onbuild),
    ("directives", words::directives),
    ("bytes of the Dockerfile", words::bytes),
    ("an archive of a context", files::archives),
    ("ADD of archives", files::adding),
    ("stages that do not exist", failing::stages),
    ("Dockerfiles elsewhere", files::elsewhere),
    ("build arguments and labels", words::flags),
];

/// The cases 1 to `count` of a seed.
pub fn generate(seed: u64, count: u32) -> Vec<Case> {
    (1..=count).map(|number| generate_one(seed, number)).collect()
}

/// One of them.
pub fn generate_one(seed: u64, number: u32) -> Case {
    let place = usize::try_from(number).unwrap_or_default().wrapping_sub(1) % THEMES.len();
    let (theme, draw) = THEMES[place];
    let mut draft = Draft::new(seed, number);
    draw(&mut draft);
    draft.finish(seed, number, theme)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_a_number_give_one_case_and_others_give_others() {
        let bytes = |case: &Case| format!("{case:?}");
        let (one, again) = (generate(7, 100), generate(7, 100));
        assert!(one.iter().zip(&again).all(|(one, other)| bytes(one) == bytes(other)));
        assert_eq!(bytes(&generate_one(7, 42)), bytes(&one[41]));
        let dockerfiles: std::collections::BTreeSet<&[u8]> =
            one.iter().map(|case| case.dockerfile.as_slice()).collect();
        assert!(dockerfiles.len() > 80, "only {} of 100 Dockerfiles are different", dockerfiles.len());
        assert_ne!(bytes(&generate(8, 1)[0]), bytes(&one[0]));
    }

    #[test]
    fn every_theme_has_its_turn_and_every_case_can_be_laid_down() {
        let cases = generate(3, u32::try_from(THEMES.len()).unwrap());
        assert!(cases.iter().zip(THEMES).all(|(case, (theme, _))| case.theme == *theme));
        for case in generate(3, 200) {
            let folder = tempfile::tempdir().unwrap();
            case.write(folder.path());
            let path = folder.path().join("context").join(case.dockerfile_path);
            assert_eq!(std::fs::read(path).unwrap(), case.dockerfile, "case {}", case.number);
        }
    }
}
