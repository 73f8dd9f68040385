//! How an engine says that a policy of ours keeps it from an image, or from another source (BuildKit, `sourcepolicy/engine.go`).
//!
//! It refuses where a frontend asks for an image's settings (`solver/llbsolver/bridge.go`; BuildKit 0.12 and newer) and where
//! what is to be built is loaded (`vertex.go`). Only whole messages of these forms are read, with no blank in what is a name:
//! what users write (a message of `${X:?…}`, a command) comes in sentences of the frontend's or of a step, which begin otherwise.

use farm_types::{ImageRef, RegistryHost};

use super::tidy;

const DENIED: &str = " denied by policy: source denied by policy";
const SOURCE: &str = "source \"";
const IMAGE: &str = "docker-image://";
const RESOLVING: &str = "failed to resolve source metadata for ";
const POLICY: &str = "could not resolve image due to policy: ";
const LOADING: &str = "failed to load LLB: error evaluating the source policy: ";

/// The image that an engine was kept from, if that is what it says. Docker Hub has one name in it, whichever was written.
pub(crate) fn image(message: &str) -> Option<ImageRef> {
    let named = source(message)?.strip_prefix(IMAGE)?;
    let (host, name) = named.split_once('/')?;
    // The engine may know it by a name under which logins are kept.
    let host = RegistryHost::of_login(host).ok()?;
    format!("{host}/{name}").parse().ok()
}

/// What an engine was kept from, as it names it: an image, or what else it fetches by itself.
pub(crate) fn source(message: &str) -> Option<&str> {
    let text = tidy(message);
    let sentence = match text.strip_prefix(LOADING) {
        Some(sentence) => sentence,
        None => of_metadata(text)?,
    };
    let named = sentence.strip_prefix(SOURCE)?.strip_suffix(DENIED)?.strip_suffix('"')?;
    Some(named).filter(|named| is_name(named))
}

/// What is said of an image whose settings were asked for.
fn of_metadata(text: &str) -> Option<&str> {
    let text = without_hint(text);
    // As its user has it, where it is from the Dockerfile.
    let text = match text.split_once(": ") {
        Some((name, rest)) if is_name(name) => rest,
        _ => text,
    };
    let text = match text.strip_prefix(RESOLVING) {
        Some(rest) => rest.split_once(": ").filter(|(name, _)| is_name(name))?.1,
        None => text,
    };
    text.strip_prefix(POLICY)
}

/// Without ` (did you mean python?)`.
fn without_hint(text: &str) -> &str {
    let hint = text.strip_suffix("?)").and_then(|text| text.rsplit_once(" (did you mean "));
    hint.filter(|(_, name)| is_name(name)).map_or(text, |(text, _)| text)
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c == '"')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source_of(image: &str) -> String {
        format!("source \"docker-image://{image}\" denied by policy: source denied by policy")
    }

    #[test]
    fn what_is_denied_is_read_out_of_whole_messages() {
        let digest = farm_types::Digest::of(b"x");
        let (tag, both) = ("r.example/api/app:1".to_owned(), format!("r.example/api/app:1@{digest}"));
        let asked = format!("{RESOLVING}{tag}: {POLICY}{}", source_of(&tag));
        for (text, said) in [
            (format!("failed to solve: {tag}: {asked}"), &tag),
            (format!("{tag}: {asked} (did you mean base?)"), &tag),
            // Of a named context.
            (asked.clone(), &tag),
            (format!("rpc error: code = Unknown desc = {asked}"), &tag),
            // Of 0.12.
            (format!("{tag}: {POLICY}{}", source_of(&tag)), &tag),
            (format!("{LOADING}{}", source_of(&both)), &both),
        ] {
            assert_eq!(image(&text).map(|image| image.to_string()).as_deref(), Some(said.as_str()), "{text}");
        }
        let text = format!("{POLICY}{}", source_of("registry-1.docker.io/library/alpine:3"));
        assert_eq!(image(&text).unwrap().to_string(), "docker.io/library/alpine:3");
    }

    #[test]
    fn other_sources_are_read_out_of_the_same_sentences_and_are_no_images() {
        for named in ["http://127.0.0.1:1/a?b", "git://10.0.0.1/a#main", "git://https://x"] {
            let text = format!("failed to solve: {LOADING}source \"{named}\"{DENIED}");
            assert_eq!(source(&text), Some(named));
            assert_eq!(image(&text), None);
            assert_eq!(source(&text.replace("denied", "allowed")), None);
        }
        assert_eq!(
            source(&format!("{LOADING}{}", source_of("r.example/a:1"))),
            Some("docker-image://r.example/a:1")
        );
        assert_eq!(source("X: source \"http://a/\" denied by policy: source denied by policy"), None);
    }

    #[test]
    fn what_users_write_is_none() {
        let whole = format!("{POLICY}{}", source_of("r.example/a:1"));
        for text in [
            format!("failed to process \"${{X:?y}}\": X: {whole}"),
            format!("dockerfile parse error on line 1: {whole}"),
            format!("process \"/bin/sh -c echo {whole}\" did not complete successfully: exit code: 1"),
            format!("X: y: {whole}"),
            format!("two words: {whole}"),
            format!("{whole} (did you mean two words?)"),
            format!("{whole}: more"),
            source_of("r.example/a:1"),
            source_of("r.example/a:1\" denied by policy: x: source \"docker-image://r.example/b:1"),
            format!("{POLICY}{}", source_of("r.example/a b:1")),
            format!("{POLICY}{}", source_of("a:1")),
            format!("{POLICY}{}", source_of("r.example/a:1").replace("docker-image", "https")),
        ] {
            assert_eq!(image(&text), None, "{text}");
        }
    }
}
