//! What goes wrong with a registry, by what follows from it.

use farm_types::chain::{chain, in_short};
use farm_types::{Cause, Failure, FailureCode, RegistryHost, Repository};
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde::Deserialize;

use super::challenge::{Challenge, wanted};
use super::login::{ISSUER, SERVICE, Whose};
use crate::outbound::{Failed, Refused, Why};

/// How a registry failed farm, in words for the build's owner.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct RegistryError {
    /// What it makes of a publication: whether the registry is away, refuses, or has no such repository.
    pub code: FailureCode,
    /// The sentence that a person reads. It names the registry.
    pub message: String,
}

impl RegistryError {
    /// The registry answered, and means no.
    pub fn rejected(repository: &Repository, why: impl Into<String>) -> Self {
        let why = said(&why.into());
        let message = format!("{} did not take {}: {why}", repository.registry(), repository.name());
        Self { code: FailureCode::RegistryRejected, message }
    }

    /// The registry answered, with something that nobody can use.
    pub(super) fn unusable(repository: &Repository, why: &str) -> Self {
        let why = said(why);
        let message = format!("{} has something else there than an image: {why}", repository.registry());
        Self { code: FailureCode::RegistryRejected, message }
    }

    /// The registry took too long.
    pub(super) fn timeout(repository: &Repository, limit: std::time::Duration) -> Self {
        let message = format!("{} did not answer within {} s", repository.registry(), limit.as_secs());
        Self { code: FailureCode::RegistryUnavailable, message }
    }

    /// The registry began to answer, and took too long.
    pub(super) fn unended(repository: &Repository, limit: std::time::Duration) -> Self {
        let message =
            format!("{} did not end its answer within {} s", repository.registry(), limit.as_secs());
        Self { code: FailureCode::RegistryUnavailable, message }
    }

    /// The registry says more than farm reads. That may pass: what goes wrong between farm and a registry can send
    /// anything, and a build is not to fail as its user's mistake by it.
    pub(super) fn too_long(repository: &Repository, most: usize) -> Self {
        let (registry, name) = (repository.registry(), repository.name());
        let message = format!("{registry} says too much of {name}: its answer is longer than {most} bytes");
        Self { code: FailureCode::RegistryUnavailable, message }
    }

    /// A token came to its end while something long was sent by it.
    pub(super) fn late_token(repository: &Repository) -> Self {
        let (registry, name) = (repository.registry(), repository.name());
        let message = format!(
            "{registry} refused what was sent to {name}: the token for it had ended by then, or was none"
        );
        Self { code: FailureCode::RegistryUnavailable, message }
    }

    /// The registry has asked to be left alone, so nothing was sent.
    pub(super) fn left_alone(repository: &Repository, limit: &str, whose: &Whose) -> Self {
        // Without the time that is left: whoever watches is told once, and not at each try.
        let why = format!(
            "{}, and is left alone for as long as it asks; {}",
            fewer(limit),
            Self::cure_of_limits(repository, whose)
        );
        Self::unavailable(repository, &why)
    }

    /// The registry has had too many requests (Docker Hub, "Usage and limits": 429, `toomanyrequests`).
    fn too_many(repository: &Repository, limit: &str, whose: &Whose) -> Self {
        let why = format!("{}; {}", fewer(limit), Self::cure_of_limits(repository, whose));
        Self::unavailable(repository, &why)
    }

    /// What helps where a registry lets only so much be read.
    fn cure_of_limits(repository: &Repository, whose: &Whose) -> String {
        let registry = repository.registry();
        let login = match whose {
            Whose::Project(login) => format!("a plan of user {} there that lets more be read", login.who()),
            Whose::Staging => return "it is the staging registry: see what its proxy allows".to_owned(),
            Whose::Farm | Whose::Nobody => format!("a login there (farm registry login {registry})"),
        };
        format!(
            "what helps is {login}, and base images in a registry of your own (farm mirror IMAGE --every 24h)"
        )
    }

    /// The registry knows no such repository.
    pub(super) fn missing(repository: &Repository) -> Self {
        let (registry, name) = (repository.registry(), repository.name());
        let message = format!("{registry} has no repository {name}; make it there first");
        Self { code: FailureCode::RepositoryMissing, message }
    }

    /// The registry and farm don't come to TLS with each other, which waiting doesn't mend.
    pub(super) fn no_tls(repository: &Repository, why: &str) -> Self {
        let registry = repository.registry();
        let message = format!(
            "{registry} can't be asked by TLS ({why}); if it has none, set plain_http = true for \
             [registries.\"{registry}\"] in the coordinator's configuration, and if its certificate is of a CA of its own, \
             ca_file"
        );
        Self { code: FailureCode::RegistryRejected, message }
    }

    /// True when it may pass by itself.
    pub fn is_transient(&self) -> bool {
        self.code == FailureCode::RegistryUnavailable
    }

    /// The failure that it makes of a publication.
    pub fn failure(&self) -> Failure {
        let cause = if self.is_transient() { Cause::Infrastructure } else { Cause::User };
        Failure::new(cause, self.code.clone(), self.message.clone())
    }

    /// The registry wants a login that isn't there, or another one.
    pub(super) fn auth(repository: &Repository, why: &str, whose: &Whose) -> Self {
        let (registry, name) = (repository.registry(), repository.name());
        let cure = match whose {
            Whose::Project(login) => format!(
                "the project's login there is {}: give that user the right, or set another login: farm registry login {registry}",
                login.who()
            ),
            Whose::Staging => format!(
                "it is the staging registry: its configuration (auth.token) has to name issuer {ISSUER}, service {SERVICE}, and \
                 as rootcertbundle the file ca.pem of the coordinators' folder for that"
            ),
            Whose::Farm | Whose::Nobody => format!(
                "set username and password for [registries.\"{registry}\"] in the coordinator's configuration, or give the project \
                 a login of its own: farm registry login {registry}"
            ),
        };
        let message = format!("{registry} refuses access to {name} ({why}); {cure}");
        Self { code: FailureCode::RegistryAuth, message }
    }

    /// The project's own login is there, and can't be opened.
    pub(super) fn lost_login(host: &RegistryHost, why: &str) -> Self {
        let message = format!("the project's login at {host} can't be used: {why}");
        Self { code: FailureCode::RegistryUnavailable, message }
    }

    /// There was one when the build began.
    pub(super) fn no_login(host: &RegistryHost) -> Self {
        let message = format!(
            "the project has no login at {host}, or none any more, and may not use the farm's there; set one: farm registry login \
             {host}"
        );
        Self { code: FailureCode::RegistryAuth, message }
    }

    /// The registry lets no tag be moved, or not this one.
    pub(super) fn immutable(repository: &Repository, tag: &str, refusal: &Refusal) -> Self {
        let message = format!(
            "{repository}:{tag} is there with another image, and {} lets it not be moved ({}); give a tag that isn't there yet, or change \
             the rule there",
            repository.registry(),
            refusal.words()
        );
        Self { code: FailureCode::TagImmutable, message }
    }

    fn unavailable(repository: &Repository, why: &str) -> Self {
        let message = format!("{} can't be reached or has trouble: {}", repository.registry(), said(why));
        Self { code: FailureCode::RegistryUnavailable, message }
    }

    /// Sorts what a registry answered.
    pub(super) fn of(repository: &Repository, refusal: &Refusal, whose: &Whose) -> Self {
        let status = refusal.status;
        let unavailable = |why: &str| Self::unavailable(repository, why);
        if status == StatusCode::UNAUTHORIZED {
            return Self::auth(repository, "401 unauthorized", whose);
        }
        if refusal.is_about_login() {
            return Self::auth(repository, "access denied", whose);
        }
        if refusal.has(&["TOOMANYREQUESTS"]) || status == StatusCode::TOO_MANY_REQUESTS {
            return Self::too_many(repository, &refusal.limit, whose);
        }
        let texts: Vec<&str> = refusal.errors.iter().map(Word::text).collect();
        // The status is not told here: it may have been 429, and a refusal has a word of its own.
        if refusal.has(&["UNKNOWN", "UNAVAILABLE"]) {
            return unavailable(&texts.join("; "));
        }
        if !texts.is_empty() {
            return Self::rejected(repository, texts.join("; "));
        }
        match status.as_u16() {
            408 | 425 | 500.. => unavailable(&format!("it answered {status}")),
            404 => Self::missing(repository),
            _ => Self::rejected(repository, format!("it answered {status}")),
        }
    }

    /// Sorts why there was no answer.
    pub(super) fn unsent(repository: &Repository, failed: &Failed) -> Self {
        match failed {
            Failed::Refused { refused: place, is_led } => {
                let role = if *is_led { Role::Led } else { Role::Itself };
                Self { code: FailureCode::RegistryNotAllowed, message: refused(repository, place, role) }
            }
            Failed::Endless => Self::rejected(repository, "each of its answers leads elsewhere"),
            // No request could be made of it, and none ever will.
            Failed::Request(error) if error.is_builder() => {
                Self::rejected(repository, format!("no request can be sent to it: {}", in_short(error)))
            }
            Failed::Request(error) => match tls_trouble(error) {
                Some(why) => Self::no_tls(repository, &why),
                None => Self::unavailable(repository, &in_short(error)),
            },
        }
    }

    /// The same of its token service at `at`.
    pub(super) fn unsent_to_realm(repository: &Repository, at: &str, failed: &Failed) -> Self {
        let of_realm = |why: &str| format!("its token service {at}: {why}");
        match failed {
            Failed::Refused { refused: place, .. } => {
                let message = refused(repository, place, Role::Realm);
                Self { code: FailureCode::RegistryNotAllowed, message }
            }
            Failed::Endless => Self::rejected(repository, of_realm("each of its answers leads elsewhere")),
            Failed::Request(error) => match tls_trouble(error) {
                Some(why) => Self::rejected(repository, of_realm(&format!("no TLS with it ({why})"))),
                None => Self::unavailable(repository, &of_realm(&in_short(error))),
            },
        }
    }
}

/// That a registry wants fewer requests, and what is known of how many it takes.
fn fewer(limit: &str) -> String {
    match limit {
        "" => "it asks for fewer requests".to_owned(),
        limit => format!("it asks for fewer requests ({limit})"),
    }
}

/// What a place that farm doesn't go to was to be for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The registry that was named.
    Itself,
    /// Where the registry, or what it named, led.
    Led,
    /// The registry's token service.
    Realm,
}

/// Which place, what is wrong with it, and who can change that how.
pub(super) fn refused(repository: &Repository, refused: &Refused, role: Role) -> String {
    let registry = repository.registry();
    let Refused { place, why } = refused;
    let subject = match role {
        Role::Itself => registry.to_owned(),
        Role::Led => format!("{registry} leads farm on to {place}, which"),
        Role::Realm => format!("{registry} wants its tokens to be had from {place}, which"),
    };
    let line = match role {
        Role::Itself => format!("[registries.\"{registry}\"]"),
        Role::Led => format!("[outbound] with allow = [\"{place}\"]"),
        Role::Realm => format!("[registries.\"{registry}\"] with realms = [\"{place}\"]"),
    };
    let cure = match why {
        Why::Form(_) => String::new(),
        Why::Address(..) | Why::Proxy | Why::Downgrade => format!(
            "; if this farm may send requests there, its administrator writes {line} into the coordinator's configuration and \
             starts it again"
        ),
    };
    format!("{subject} is {why}, and farm sends nothing there unasked{cure}")
}

/// An answer that is no success, as far as it is read.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// The registry's own words (distribution-spec v1.1, "Error Codes"); none where they don't count.
    errors: Vec<Word>,
    /// Where it wants a token from.
    pub(super) challenge: Option<Challenge>,
    pub(super) headers: HeaderMap,
    /// What is known of how much may be read there, for people; empty: nothing.
    pub(super) limit: String,
}

/// One of a registry's words for an error.
#[derive(Debug, Deserialize)]
struct Word {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Word {
    fn text(&self) -> &str {
        if self.message.is_empty() { &self.code } else { &self.message }
    }
}

impl Refusal {
    /// Of a body only what has the form of a registry's error is kept: whatever else answers there may have said something
    /// that isn't for those who named it. All of it, cut, is in the log at level debug.
    pub(super) fn new(repository: &Repository, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Envelope {
            errors: Vec<Word>,
        }
        tracing::debug!(%repository, %status, body = said(&String::from_utf8_lossy(body)), "a registry refused");
        // These say what follows whatever is written beside them.
        let may_pass = [408, 425, 429].contains(&status.as_u16());
        let counts = status.is_client_error() && !may_pass;
        let read = counts.then(|| serde_json::from_slice::<Envelope>(body).ok()).flatten();
        let errors = read.map(|envelope| envelope.errors).unwrap_or_default();
        Self { status, errors, challenge: wanted(headers), headers: headers.clone(), limit: String::new() }
    }

    /// Whether one of its words is one of these.
    pub(super) fn has(&self, codes: &[&str]) -> bool {
        self.errors.iter().any(|error| codes.contains(&error.code.as_str()))
    }

    /// Whether what was asked about isn't there.
    pub(super) fn is_absence(&self) -> bool {
        if self.status == StatusCode::UNAUTHORIZED {
            return false;
        }
        self.has(&["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "NOT_FOUND"])
            || self.errors.is_empty() && self.status == StatusCode::NOT_FOUND
    }

    /// Whether a tag isn't to be moved. No standard has a word for it. Amazon ECR: 400 TAG_INVALID, "The image tag … already exists … and
    /// cannot be overwritten because the repository is immutable"; Harbor: 412 PRECONDITION, "… configured as immutable"; Azure: 400
    /// DENIED or 405, "… is locked"; Artifact Registry and Docker Hub: 400, "… immutable".
    pub(super) fn is_about_immutability(&self) -> bool {
        const SAID: [&str; 4] = ["immutable", "cannot be overwritten", "is locked", "write-disabled"];
        self.status.is_client_error()
            && self.errors.iter().any(|error| {
                let text = error.message.to_ascii_lowercase();
                SAID.iter().any(|said| text.contains(said))
            })
    }

    /// What it said, on one line.
    fn words(&self) -> String {
        let texts: Vec<&str> = self.errors.iter().map(Word::text).collect();
        said(&texts.join("; "))
    }

    /// Whether waiting may help.
    pub(super) fn may_pass(&self) -> bool {
        [408, 425, 429].contains(&self.status.as_u16()) || self.status.is_server_error()
    }

    /// Whether the login was wrong, or not enough.
    pub(super) fn is_about_login(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED
            || self.has(&["UNAUTHORIZED", "DENIED"])
            || self.errors.is_empty() && self.status == StatusCode::FORBIDDEN
    }
}

/// What TLS has against the other side, if that is what went wrong.
pub(super) fn tls_trouble(error: &reqwest::Error) -> Option<String> {
    chain(error).find_map(tls_within).map(ToString::to_string)
}

/// The system's errors don't give what they hold as their source, and hold each other.
fn tls_within<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let held = || tls_within(error.downcast_ref::<std::io::Error>()?.get_ref()?);
    error.downcast_ref().or_else(held)
}

/// What a registry said, cut, on one line, without what a terminal or a database would choke on.
pub(super) fn said(text: &str) -> String {
    const LONGEST: usize = 300;
    let plain = |c: char| if c.is_whitespace() { Some(' ') } else { (!c.is_control()).then_some(c) };
    let mut plain = text.chars().filter_map(plain);
    let mut cut: String = plain.by_ref().take(LONGEST).collect();
    if plain.next().is_some() {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, body: &str) -> Refusal {
        let repository = "localhost:1/x".parse().unwrap();
        Refusal::new(&repository, StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes())
    }

    fn error(status: u16, body: &str) -> RegistryError {
        RegistryError::of(&"localhost:1/x".parse().unwrap(), &refusal(status, body), &Whose::Farm)
    }

    #[test]
    fn a_refusal_that_the_registry_has_no_word_for_may_pass() {
        let code_of =
            |code: &str| error(400, &format!(r#"{{"errors":[{{"code":"{code}","message":"no"}}]}}"#)).code;
        for (said, code) in [
            ("UNKNOWN", FailureCode::RegistryUnavailable),
            ("UNAVAILABLE", FailureCode::RegistryUnavailable),
            ("TOOMANYREQUESTS", FailureCode::RegistryUnavailable),
            ("MANIFEST_INVALID", FailureCode::RegistryRejected),
            ("SOMETHING_ELSE", FailureCode::RegistryRejected),
            ("DENIED", FailureCode::RegistryAuth),
        ] {
            assert_eq!(code_of(said), code, "{said}");
        }
    }

    #[test]
    fn too_many_requests_name_the_limit_and_what_helps() {
        let hub: Repository = "docker.io/library/python".parse().unwrap();
        // As Docker Hub says it.
        let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit. You may increase the limit by authenticating and upgrading: https://www.docker.com/increase-rate-limit"}]}"#;
        let mut refused = refusal(429, body);
        refused.limit = "0 of 100 in 6 h are left".to_owned();
        let by_nobody = RegistryError::of(&hub, &refused, &Whose::Farm);
        assert!(by_nobody.is_transient());
        for part in [
            "fewer requests (0 of 100 in 6 h are left)",
            "farm registry login docker.io",
            "farm mirror IMAGE --every 24h",
        ] {
            assert!(by_nobody.message.contains(part) && !by_nobody.message.contains('…'), "{by_nobody}");
        }
        let left = RegistryError::left_alone(&hub, "", &Whose::Nobody);
        assert!(left.message.contains("left alone") && left.message.contains("farm mirror IMAGE"), "{left}");
    }

    #[test]
    fn a_tag_that_may_not_be_moved_is_known_by_what_registries_say_of_it() {
        let said = |status: u16, code: &str, message: &str| {
            let body = format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#);
            refusal(status, &body).is_about_immutability()
        };
        let ecr = "The image tag '1' already exists in the 'app' repository and cannot be overwritten because the repository is immutable.";
        assert!(said(400, "TAG_INVALID", ecr));
        assert!(said(
            412,
            "PRECONDITION",
            "Failed to process request due to 'app:1' configured as immutable."
        ));
        assert!(said(405, "DENIED", "The operation is disallowed: app:1 is locked"));
        assert!(!said(400, "MANIFEST_INVALID", "the manifest is invalid"));
        assert!(!said(500, "UNKNOWN", "immutable storage has trouble"), "trouble of its own may pass");
        assert!(!refusal(400, "immutable").is_about_immutability(), "no word of a registry");
        let told = RegistryError::immutable(&"localhost:1/x".parse().unwrap(), "7", &refusal(400, ""));
        assert!(told.message.starts_with("localhost:1/x:7 is there") && !told.is_transient(), "{told}");
        assert_eq!(told.code, FailureCode::TagImmutable);
    }

    #[test]
    fn without_a_registrys_words_the_status_tells() {
        for (status, code) in [
            (400, FailureCode::RegistryRejected),
            (401, FailureCode::RegistryAuth),
            (403, FailureCode::RegistryAuth),
            (404, FailureCode::RepositoryMissing),
            (429, FailureCode::RegistryUnavailable),
            (503, FailureCode::RegistryUnavailable),
        ] {
            for body in ["", "{\"errors\":[]}", "<html>s3cret</html>", "\"s3cret\"", "{\"key\":\"s3cret\"}"] {
                let error = error(status, body);
                assert_eq!(error.code, code, "{status} {body}");
                assert!(!error.message.contains("s3cret"), "{error}");
            }
        }
        assert!(refusal(404, "").is_absence() && !refusal(400, "").is_absence());
        assert!(refusal(404, r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#).is_absence());
        assert!(!refusal(404, r#"{"errors":[{"code":"DENIED"}]}"#).is_absence());
    }

    #[test]
    fn what_a_registry_says_fits_into_the_database_and_on_a_line() {
        let noise = format!("a\u{0}b\n\u{1b}[2J{}", "x".repeat(100_000));
        let body = serde_json::json!({"errors": [{"code": "MANIFEST_INVALID", "message": noise}, {"code": "X", "message": noise}]});
        let repository: Repository = "localhost:1/x".parse().unwrap();
        for message in
            [error(400, &body.to_string()).message, RegistryError::rejected(&repository, noise).message]
        {
            assert!(message.contains("ab") && message.len() < 600, "{message:?}");
            assert!(!message.contains(char::is_control), "{message:?}");
        }
    }

    #[test]
    fn a_place_that_is_not_gone_to_is_told_with_the_line_that_changes_it() {
        let repository: Repository = "r.internal:5000/x".parse().unwrap();
        let told =
            |place: &str, why, role| refused(&repository, &Refused { place: place.to_owned(), why }, role);
        let address = Why::Address("10.0.0.7".parse().unwrap(), "in a private network");
        let itself = told("r.internal:5000", address.clone(), Role::Itself);
        for part in
            ["r.internal:5000 is at 10.0.0.7, in a private network", "[registries.\"r.internal:5000\"]"]
        {
            assert!(itself.contains(part), "{itself}");
        }
        let led = told("s3.internal:9000", address.clone(), Role::Led);
        assert!(led.contains("allow = [\"s3.internal:9000\"]") && led.contains("leads farm on"), "{led}");
        let realm = told("a.internal", address, Role::Realm);
        assert!(realm.contains("realms = [\"a.internal\"]"), "{realm}");
        assert!(!told("x", Why::Form("there is a login in it"), Role::Led).contains("administrator"));
    }
}
