//! Tags with words in braces: `-t registry.example/app:{branch}-{sha7}`. The words are those of `.farm.yaml`'s tags; what they stand for is
//! read of the context's git repository, or told by the CI system whose job this is.

use std::path::Path;
use std::process::{Command, Stdio};

use farm_rules::{Template, Unrendered, Word, Words, version_of};
use farm_types::{Commit, Invalid};

use crate::error::{Error, Result};

/// Those with their words filled in, and what is to be said of those that are left out as they have words that there aren't.
///
/// # Errors
/// A template isn't one; nobody knows what its words stand for; or all are left out.
pub(super) fn filled(
    texts: &[String],
    context: &str,
    variable: &impl Fn(&str) -> std::result::Result<Option<String>, Invalid>,
) -> Result<(Vec<String>, Vec<String>)> {
    if !texts.iter().any(|text| text.contains('{')) {
        return Ok((texts.to_vec(), Vec::new()));
    }
    let words = words(context, variable)?;
    let (mut tags, mut left_out) = (Vec::new(), Vec::new());
    for text in texts {
        let Some((repository, tag)) = text.rsplit_once(':').filter(|(_, tag)| tag.contains('{')) else {
            if text.contains('{') {
                return Err(Invalid::new(
                    "-t",
                    text,
                    "words in braces stand behind the colon: REPO:{branch}",
                )
                .into());
            }
            tags.push(text.clone());
            continue;
        };
        let template: Template = tag.parse().map_err(|e: Invalid| Invalid::new("-t", text, e.cure))?;
        match template.render(&words) {
            Ok(tag) => tags.push(format!("{repository}:{tag}")),
            Err(why) => left_out.push(format!("-t {text} is left out: {}", in_words(&why))),
        }
    }
    if tags.is_empty() {
        return Err(Error::Usage(left_out.join("; ")));
    }
    Ok((tags, left_out))
}

fn in_words(why: &Unrendered) -> String {
    match why {
        Unrendered::Missing(Word::Tag | Word::Semver | Word::Major | Word::Minor) => {
            "no git tag, or none that is a version, is at the commit".to_owned()
        }
        Unrendered::Missing(Word::Branch) => "no branch is checked out".to_owned(),
        Unrendered::Missing(Word::Pr) => "this is no job of a pull request".to_owned(),
        Unrendered::Missing(word) => format!("there is no {{{}}}", word.as_str()),
        Unrendered::Unusable(word, value) => {
            format!("{{{}}} is {value:?}, of which no tag can be made", word.as_str())
        }
    }
}

fn words(
    context: &str,
    variable: &impl Fn(&str) -> std::result::Result<Option<String>, Invalid>,
) -> Result<Words> {
    let date = Some(chrono::Utc::now().format("%Y%m%d").to_string());
    let of = |name: &str| Ok::<_, Invalid>(variable(name)?.filter(|value| !value.is_empty()));
    let mut words = Words { date, ..Words::default() };
    let is_true = |name: &str| Ok::<_, Invalid>(of(name)?.is_some_and(|value| value == "true"));
    if is_true("GITHUB_ACTIONS")? {
        words.commit = of("GITHUB_SHA")?.and_then(|sha| sha.parse().ok());
        let name = of("GITHUB_REF_NAME")?;
        match of("GITHUB_REF_TYPE")?.as_deref() {
            Some("tag") => words.tag = name,
            _ => match of("GITHUB_REF")?.as_deref().and_then(|full| full.strip_prefix("refs/pull/")) {
                Some(rest) => words.pr = rest.split('/').next().and_then(|number| number.parse().ok()),
                None => words.branch = name,
            },
        }
    } else if is_true("GITLAB_CI")? {
        words.commit = of("CI_COMMIT_SHA")?.and_then(|sha| sha.parse().ok());
        words.branch = of("CI_COMMIT_BRANCH")?;
        words.tag = of("CI_COMMIT_TAG")?;
        words.pr = of("CI_MERGE_REQUEST_IID")?.and_then(|number| number.parse().ok());
    } else {
        of_repository(context, &mut words)?;
    }
    words.version = words.tag.as_deref().and_then(version_of);
    Ok(words)
}

/// What the folder's repository says.
fn of_repository(context: &str, words: &mut Words) -> Result<()> {
    let invalid = |cure: &str| {
        Invalid::new("-t", "{…}", format!("words in braces are read of the context's git repository, {cure}"))
    };
    let folder = Path::new(context);
    if !folder.is_dir() {
        return Err(invalid("and it is no folder here; write the tag out").into());
    }
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(folder).args(args).stdin(Stdio::null()).stderr(Stdio::null());
        let out = git.output().map_err(|error| {
            let why = farm_types::chain::io_in_short(&error);
            invalid(&format!("by git, which can't be run ({why}); install it, or write the tag out"))
        })?;
        let text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        Ok::<_, Invalid>((out.status.success() && !text.is_empty()).then_some(text))
    };
    let commit = git(&["rev-parse", "--verify", "HEAD^{commit}"])?;
    let commit = commit.and_then(|text| text.parse::<Commit>().ok());
    words.commit = Some(commit.ok_or_else(|| {
        invalid(&format!("and {context} is in none, or it has no commit; write the tag out"))
    })?);
    words.branch = git(&["symbolic-ref", "--quiet", "--short", "HEAD"])?;
    let tags = git(&["tag", "--points-at", "HEAD", "--sort=-version:refname"])?.unwrap_or_default();
    // Of several the highest version, as whoever builds a commit of two releases means the newer one.
    let version = tags.lines().filter(|tag| version_of(tag).is_some()).max_by_key(|tag| version_of(tag));
    words.tag = version.or_else(|| tags.lines().next()).map(str::to_owned);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(set: &'static [(&'static str, &'static str)], texts: &[&str]) -> (Vec<String>, Vec<String>) {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        let variable = |name: &str| {
            Ok(set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
        };
        filled(&texts, "/nowhere", &variable).unwrap()
    }

    #[test]
    fn a_ci_system_says_what_the_words_stand_for() {
        const SHA: &str = "0123456789abcdef0123456789abcdef01234567";
        let github = &[
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_SHA", SHA),
            ("GITHUB_REF", "refs/heads/feature/x"),
            ("GITHUB_REF_TYPE", "branch"),
            ("GITHUB_REF_NAME", "feature/x"),
        ];
        let (tags, left_out) =
            with(github, &["r.example/app:{branch}-{sha7}", "r.example/app:v{semver}", "r.example:5000/app"]);
        assert_eq!(tags, ["r.example/app:feature-x-0123456", "r.example:5000/app"]);
        assert!(left_out[0].contains("no git tag"), "{left_out:?}");
        let pull = &[
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_SHA", SHA),
            ("GITHUB_REF", "refs/pull/7/merge"),
            ("GITHUB_REF_TYPE", "branch"),
            ("GITHUB_REF_NAME", "7/merge"),
        ];
        assert_eq!(with(pull, &["a:pr-{pr}"]).0, ["a:pr-7"]);
        let gitlab = &[("GITLAB_CI", "true"), ("CI_COMMIT_SHA", SHA), ("CI_COMMIT_TAG", "v1.2.3")];
        assert_eq!(with(gitlab, &["a:{semver.major}.{semver.minor}", "a:{semver}"]).0, ["a:1.2", "a:1.2.3"]);
    }

    #[test]
    fn without_words_nothing_is_asked_for_and_what_is_wrong_is_said() {
        let nothing = |_: &str| Ok(None);
        let error = |text: &str, context: &str| {
            filled(&[text.to_owned()], context, &nothing).unwrap_err().to_string()
        };
        assert_eq!(filled(&["a:1".to_owned()], "-", &nothing).unwrap().0, ["a:1"]);
        assert!(error("a:{branch}", "-").contains("write the tag out"));
        assert!(error("a:{branch}", "https://git.example/a.git").contains("no folder here"));
        assert!(error("a:{branch}", "/").contains("is in none"));
    }
}
