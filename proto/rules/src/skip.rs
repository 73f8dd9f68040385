//! Words in a commit's message by which its author asks that nothing is built.

/// What forges and CI systems take: GitHub Actions (`skip ci`, `ci skip`, `no ci`), GitLab (the first two), Azure Pipelines
/// (`***NO_CI***`); and farm's own.
const MARKERS: [&str; 6] = ["[skip ci]", "[ci skip]", "[no ci]", "[skip farm]", "[farm skip]", "***NO_CI***"];

/// The marker that a commit's message has anywhere, in small or capital letters, if it has one.
pub fn skip_marker(message: &str) -> Option<&'static str> {
    let message = message.to_ascii_lowercase();
    MARKERS.into_iter().find(|marker| message.contains(&marker.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_found_anywhere_in_any_case_and_nothing_else_is_one() {
        for (message, found) in [
            ("Docs only [skip ci]", Some("[skip ci]")),
            ("[CI Skip] typo", Some("[ci skip]")),
            ("Title\n\nBody\n***no_ci***", Some("***NO_CI***")),
            ("x [skip farm]", Some("[skip farm]")),
            ("skip ci", None),
            ("[skip  ci]", None),
            ("", None),
        ] {
            assert_eq!(skip_marker(message), found, "{message}");
        }
    }
}
