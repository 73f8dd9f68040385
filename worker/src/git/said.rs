//! What git says of a remote repository, as what it means for whoever asked.
//!
//! Git has no codes for it, so its words are read (with `LC_ALL=C`, git 2.37 to 2.47). What isn't known stays git's own.

use farm_types::FailureCode;
use farm_types::git::GitUrl;

use super::error::{FetchError, trouble, user};
use super::program::Bounds;

/// The words of a failure, in order: the first that fits says what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    TooLarge,
    NoSpace,
    NoLogin,
    Refused,
    HostKey,
    Redirected,
    Missing,
    Gone,
    Unreachable,
    Broken,
}

const WORDS: &[(Kind, &[&str])] = &[
    (Kind::TooLarge, &["died of signal 25", "File too large"]),
    (Kind::NoSpace, &["No space left on device", "Disk quota exceeded"]),
    (Kind::NoLogin, &["could not read Username", "could not read Password", "terminal prompts disabled"]),
    (
        Kind::HostKey,
        &["Host key verification failed", "REMOTE HOST IDENTIFICATION HAS CHANGED", "host key is known"],
    ),
    (
        Kind::Refused,
        &[
            "Authentication failed",
            "Permission denied (",
            "Permission denied, please",
            "error: 401",
            "error: 403",
        ],
    ),
    (
        Kind::Redirected,
        &[
            "error: 301",
            "error: 302",
            "error: 303",
            "error: 307",
            "error: 308",
            "update url base from redirection",
        ],
    ),
    (
        Kind::Missing,
        &[
            "' not found",
            "Repository not found",
            "repository not found",
            "could not be found",
            "does not appear to be a git repository",
            "error: 404",
            "error: 410",
            "is this a git repository?",
        ],
    ),
    (Kind::Gone, &["not our ref", "unadvertised object", "couldn't find remote ref"]),
    (
        Kind::Broken,
        &["fsck error", "pack has bad object", "pack is corrupted", "unresolved delta", "inflate returned"],
    ),
    (
        Kind::Unreachable,
        &[
            "Could not resolve",
            "Failed to connect",
            "Couldn't connect",
            "Connection refused",
            "Connection reset",
            "Connection closed",
            "Connection timed out",
            "closed by remote host",
            "Network is unreachable",
            "No route to host",
            "timed out",
            "Timeout",
            "too slow",
            "SSL",
            "TLS",
            "tls",
            "certificate",
            "error: 429",
            "error: 5",
            "RPC failed",
            "Empty reply",
            "unexpected disconnect",
            "hung up",
            "early EOF",
            "transfer closed",
            "unable to access",
        ],
    ),
    // Of ssh, when the other side has other words for it.
    (Kind::Missing, &["Could not read from remote repository"]),
];

/// Why git failed at a repository. `is_signed_in`: it had a login to show.
pub(crate) fn failure(url: &GitUrl, is_signed_in: bool, words: &str, bounds: &Bounds<'_>) -> FetchError {
    let host = url.host();
    let said = told(words);
    match kind(words) {
        Kind::TooLarge => bounds.too_large(),
        Kind::NoSpace => trouble(
            FailureCode::WorkerDisk,
            format!("the worker has no room for {url}: {said}; free space there"),
        ),
        Kind::NoLogin if is_signed_in => refused(url, &said),
        Kind::Refused if is_signed_in => refused(url, &said),
        Kind::NoLogin | Kind::Refused => {
            let text = format!(
                "{url} is for those that sign in, or isn't there; check the address, or give the project a login that may read it: \
                 farm git login {host}"
            );
            user(FailureCode::GitLoginMissing, text)
        }
        Kind::HostKey => {
            let text = format!(
                "{host} shows another host key than the login names; compare with the keys that the forge publishes, and give the login \
                 those (ssh-keyscan prints what a host shows)"
            );
            user(FailureCode::GitHostKey, text)
        }
        Kind::Redirected => {
            let text = format!(
                "{url} sends elsewhere, which isn't followed; write the address that it has now (a browser shows it; it may be .git at its end)"
            );
            user(FailureCode::GitRedirected, text)
        }
        Kind::Missing => {
            let text = format!(
                "{host} has no repository {}, or doesn't show it to this login; check the address, and that the login may read it",
                url.path()
            );
            user(FailureCode::GitRepositoryMissing, text)
        }
        Kind::Gone => {
            let text = format!(
                "{url} hasn't got that commit any more: {said}; submit it again, or name another ref"
            );
            user(FailureCode::GitCommitMissing, text)
        }
        Kind::Unreachable => trouble(FailureCode::GitUnreachable, format!("{url} can't be reached: {said}")),
        Kind::Broken => broken(url, words),
    }
}

fn refused(url: &GitUrl, said: &str) -> FetchError {
    let text = format!(
        "{} refuses the project's login for {url}: {said}; give it one that is valid and may read this repository",
        url.host()
    );
    user(FailureCode::GitLoginRefused, text)
}

/// What a repository has can't be taken.
pub(crate) fn broken(url: &GitUrl, words: &str) -> FetchError {
    let text = format!("what {url} has can't be taken: {}; git fsck in a clone tells more", told(words));
    user(FailureCode::GitRepositoryBroken, text)
}

fn kind(words: &str) -> Kind {
    let said = |known: &&(Kind, &[&str])| known.1.iter().any(|word| words.contains(word));
    WORDS.iter().find(said).map_or(Kind::Broken, |(kind, _)| *kind)
}

/// The last of what was said, as one line for a person.
fn told(words: &str) -> String {
    let lines: Vec<&str> = words
        .lines()
        .map(str::trim)
        .filter(|line| {
            ["fatal: ", "error: ", "ERROR: ", "remote: ", "warning: "]
                .iter()
                .any(|begin| line.starts_with(begin))
                || line.contains("Permission denied")
                || line.starts_with("ssh: ")
        })
        .collect();
    let lines = if lines.is_empty() {
        words.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
    } else {
        lines
    };
    let last = lines[lines.len().saturating_sub(3)..].join("; ");
    let plain: String = last.chars().filter(|c| !c.is_control()).take(500).collect();
    if plain.is_empty() { "git gives no reason".to_owned() } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gits_words_have_a_meaning() {
        for (words, meant) in [
            ("fatal: could not read Username for 'https://h': terminal prompts disabled", Kind::NoLogin),
            (
                "remote: HTTP Basic: Access denied\nfatal: Authentication failed for 'https://h/a.git/'",
                Kind::Refused,
            ),
            (
                "git@h: Permission denied (publickey).\nfatal: Could not read from remote repository.",
                Kind::Refused,
            ),
            ("fatal: repository 'https://h/a.git/' not found", Kind::Missing),
            ("ERROR: Repository not found.\nfatal: Could not read from remote repository.", Kind::Missing),
            (
                "fatal: unable to access 'https://h/': The requested URL returned error: 503",
                Kind::Unreachable,
            ),
            ("fatal: unable to access 'https://h/': The requested URL returned error: 301", Kind::Redirected),
            (
                "fatal: unable to access 'https://h/': SSL certificate problem: self-signed certificate",
                Kind::Unreachable,
            ),
            (
                "No ED25519 host key is known for h and you have requested strict checking.\nHost key verification failed.",
                Kind::HostKey,
            ),
            (
                "error: index-pack died of signal 25\nfatal: fetch-pack: invalid index-pack output",
                Kind::TooLarge,
            ),
            (
                "error: object 1234: hasDotgit: contains '.git'\nfatal: fsck error in packed object",
                Kind::Broken,
            ),
            ("fatal: remote error: upload-pack: not our ref 1234", Kind::Gone),
            ("fatal: something new", Kind::Broken),
        ] {
            assert_eq!(kind(words), meant, "{words}");
        }
        assert_eq!(told("Cloning\nfatal: a\u{1b}[1m\n"), "fatal: a[1m");
        assert_eq!(told(""), "git gives no reason");
    }
}
