//! What is said of build arguments that look like secrets: where they would be seen, and what to do instead. Never their
//! values.

use std::collections::BTreeMap;

use farm_types::{Provenance, looks_secret};

use super::call::Asked;
use crate::output::text::harmless;

/// A warning for each argument that looks like one.
pub(super) fn warnings(
    build_args: &BTreeMap<String, String>,
    asked: Option<Asked>,
    provenance: Provenance,
) -> Vec<String> {
    let found = build_args.iter().filter_map(|(name, value)| Some((name, looks_secret(name, value)?)));
    let places = match (asked, provenance) {
        // No step runs, and nothing is made.
        (Some(_), _) => "its value is kept with the build",
        (None, Provenance::Max) => {
            "its value is kept with the build, and stands in the image's history (RUN behind its ARG) and in its provenance \
             (mode=max)"
        }
        (None, Provenance::Off | Provenance::Min) => {
            "its value is kept with the build, and stands in the image's history (RUN behind its ARG)"
        }
    };
    let cure = match asked {
        Some(_) => "no step runs for this answer: give another value, or leave it out",
        None => {
            "Give it as a secret: --secret id=ID,env=NAME, and RUN --mount=type=secret,id=ID in the Dockerfile"
        }
    };
    let warning = |(name, look): (&String, farm_types::Look)| {
        let (name, look) = (harmless(name), look.as_str());
        format!("--build-arg {name} looks like a secret (by its {look}): {places}. {cure}")
    };
    found.map(warning).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(asked: Option<Asked>, provenance: Provenance) -> Vec<String> {
        let url = ["https://ada", ":", "hunter3", "@example/simple"].concat();
        let args = [
            ("NPM_TOKEN", "hunter2"),
            ("INDEX", &url),
            ("VERSION", "1.4"),
            ("TOKEN", ""),
            ("A\u{7}_KEY", "hunter4"),
        ];
        let args = args.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        warnings(&args, asked, provenance)
    }

    #[test]
    fn each_is_told_once_by_its_name_with_where_it_is_seen_and_the_cure() {
        let list = told(None, Provenance::Off);
        let begins: Vec<&str> = list.iter().filter_map(|warning| Some(warning.split_once("):")?.0)).collect();
        assert_eq!(
            begins,
            [
                "--build-arg A_KEY looks like a secret (by its name",
                "--build-arg INDEX looks like a secret (by its value",
                "--build-arg NPM_TOKEN looks like a secret (by its name"
            ]
        );
        for warning in &list {
            assert!(!warning.contains("hunter"), "{warning}");
            assert!(warning.contains("history") && warning.contains("--secret id="), "{warning}");
        }
    }

    #[test]
    fn provenance_counts_only_where_it_holds_arguments() {
        for (provenance, holds) in
            [(Provenance::Off, false), (Provenance::Min, false), (Provenance::Max, true)]
        {
            let list = told(None, provenance);
            assert_eq!(
                list.iter().filter(|warning| warning.contains("mode=max")).count(),
                if holds { 3 } else { 0 }
            );
        }
    }

    #[test]
    fn a_question_makes_no_image() {
        let asked = Asked::new(true, None).unwrap();
        for warning in told(asked, Provenance::Max) {
            assert!(!warning.contains("history") && !warning.contains("hunter"), "{warning}");
            assert!(warning.contains("kept with the build") && warning.contains("leave it out"), "{warning}");
        }
    }
}
