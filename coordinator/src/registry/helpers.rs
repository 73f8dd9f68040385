//! Credential helpers: programs of whoever runs the farm that give short-lived logins at registries (those of ECR, Artifact Registry and
//! ACR are such). They run as a user of their own, with an empty environment and fixed arguments, for 10 s at most.
//!
//! What one gave is kept in memory for as long as it counts, and told to nobody but registries, and workers where these know no tokens.
//! Formats: docker/docker-credential-helpers, `get`; Kubernetes `CredentialProviderRequest` and `…Response`
//! (`credentialprovider.kubelet.k8s.io/v1`).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::process::Stdio;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use farm_types::RegistryHost;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use crate::config::{CredentialHelper, HelperProtocol};

/// It is ended by a program that runs as its user; that may take a moment more.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest answer, bytes.
const LONGEST: usize = 64 * 1024;
/// As much of its words is logged.
const WORDS: usize = 1024;
/// As many run at once.
const AT_ONCE: usize = 8;
/// As many logins are kept; then all are asked for anew.
const MOST: usize = 1000;
/// One that failed, or whose login was refused, isn't asked again for so long.
const AGAIN: Duration = Duration::from_secs(10);
/// No login counts for longer.
const NEVER_LONGER: Duration = Duration::from_secs(12 * 3600);
/// The user of ACR's logins by an identity token.
const ACR_USER: &str = "00000000-0000-0000-0000-000000000000";

/// What a helper gave. It isn't printed.
#[derive(Clone)]
pub struct Given {
    /// The user's name.
    pub username: String,
    /// The password, or a token of the registry's.
    pub password: SecretString,
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given").finish_non_exhaustive()
    }
}

/// What a helper said, and until when that counts.
type Said = Option<(Result<Given, String>, Instant, Instant)>;
/// By helper and registry. Whoever finds one locked waits for its answer instead of asking, too.
type AllSaid = HashMap<(String, RegistryHost), Arc<Mutex<Said>>>;

/// The helpers of the configuration.
#[derive(Debug)]
pub struct Helpers {
    known: BTreeMap<String, CredentialHelper>,
    said: std::sync::Mutex<AllSaid>,
    turns: Semaphore,
}

impl Helpers {
    /// Those of the configuration, by their names.
    pub fn new(known: BTreeMap<String, CredentialHelper>) -> Self {
        Self { known, said: std::sync::Mutex::default(), turns: Semaphore::new(AT_ONCE) }
    }

    /// Whether a project may have logins at a registry by this helper.
    ///
    /// # Errors
    /// Why it may not, and by which it may.
    pub fn check(&self, name: &str, project: &str, host: &RegistryHost) -> Result<(), String> {
        let fits = |helper: &CredentialHelper| helper.lets(project) && helper.is_for(host);
        if self.known.get(name).is_some_and(fits) {
            return Ok(());
        }
        let fitting: Vec<&str> =
            self.known.iter().filter(|(_, helper)| fits(helper)).map(|(name, _)| name.as_str()).collect();
        Err(if fitting.is_empty() {
            format!(
                "project {project} may use no credential helper for {host}; whoever runs the farm names one in \
                 [credential_helpers.NAME] of the coordinator's configuration, with this registry and this project"
            )
        } else {
            format!("for {host} project {project} may use: {}", fitting.join(", "))
        })
    }

    /// The login that a helper gives now.
    ///
    /// # Errors
    /// There is no such helper any more, or it gives none; why.
    pub async fn get(&self, name: &str, host: &RegistryHost) -> Result<Given, String> {
        let Some(helper) = self.known.get(name) else {
            return Err(format!("the farm has no credential helper {name:?} any more"));
        };
        let place = {
            let mut all = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= MOST {
                all.clear();
            }
            Arc::clone(all.entry((name.to_owned(), host.clone())).or_default())
        };
        let mut said = place.lock().await;
        if let Some((given, _, until)) = &*said
            && Instant::now() < *until
        {
            return given.clone();
        }
        let asked = Instant::now();
        match self.ask(name, helper, host).await {
            Ok((given, keep)) => {
                // So that none ends on its way.
                *said = Some((Ok(given.clone()), asked, asked + keep.min(NEVER_LONGER).mul_f32(0.9)));
                Ok(given)
            }
            Err(why) => {
                let why = format!("credential helper {name:?} gives no login for {host}: {why}");
                tracing::warn!(helper = name, %host, "{why}");
                *said = Some((Err(why.clone()), asked, asked + AGAIN));
                Err(why)
            }
        }
    }

    /// Has the helper asked again, once its last answer isn't quite new: the registry doesn't take what it gave.
    pub async fn forget(&self, name: &str, host: &RegistryHost) {
        let place = {
            let all = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            all.get(&(name.to_owned(), host.clone())).cloned()
        };
        if let Some(place) = place {
            let mut said = place.lock().await;
            if said.as_ref().is_some_and(|(_, asked, _)| asked.elapsed() >= AGAIN) {
                *said = None;
            }
        }
    }

    async fn ask(
        &self,
        name: &str,
        helper: &CredentialHelper,
        host: &RegistryHost,
    ) -> Result<(Given, Duration), String> {
        let limit = Duration::from_secs(helper.timeout_seconds);
        let late = || format!("it took more than {} s", limit.as_secs());
        let Ok(Ok(_turn)) = timeout(limit, self.turns.acquire()).await else {
            return Err("too many run at once".to_owned());
        };
        let question = question(helper.protocol, host);
        let (answer, words, code) = match timeout(limit + PATIENCE, run(helper, question.as_bytes())).await {
            Ok(ended) => ended.map_err(|error| format!("it can't be run: {error}"))?,
            Err(_) => return Err(late()),
        };
        if !words.is_empty() {
            tracing::warn!(helper = name, %host, words, "a credential helper said something");
        }
        // One that says too much is cut off, and ends with that.
        if answer.len() > LONGEST {
            return Err(format!("it answers with more than {} KiB", LONGEST / 1024));
        }
        match code {
            Some(0) => {}
            // As coreutils' timeout ends what takes too long, and a shell tells of it.
            Some(124 | 137) | None => return Err(late()),
            Some(code) => return Err(format!("it ended with {code}; the coordinator's log has its words")),
        }
        let keep = Duration::from_secs(helper.keep_seconds);
        match helper.protocol {
            HelperProtocol::Docker => docker(&answer, host).map(|given| (given, keep)),
            HelperProtocol::Kubelet => {
                kubelet(&answer, host).map(|(given, said)| (given, said.unwrap_or(keep)))
            }
        }
    }
}

/// What a helper is asked.
fn question(protocol: HelperProtocol, host: &RegistryHost) -> String {
    // Docker Hub's has the name that Docker has for it.
    let server = if host.as_str() == "docker.io" { "https://index.docker.io/v1/" } else { host.as_str() };
    match protocol {
        HelperProtocol::Docker => format!("{server}\n"),
        HelperProtocol::Kubelet => json!({
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "kind": "CredentialProviderRequest",
            "image": format!("{host}/any"),
        })
        .to_string(),
    }
}

/// Runs a helper: its answer, its words, and how it ended (`None`: by a signal).
///
/// It is ended by a program of its own user, as the coordinator may have no right to; and its user, not farm, finds it in its group.
async fn run(
    helper: &CredentialHelper,
    question: &[u8],
) -> std::io::Result<(Zeroizing<Vec<u8>>, String, Option<i32>)> {
    let group = helper.group.as_ref().unwrap_or(&helper.user);
    let limit = helper.timeout_seconds.to_string();
    let mut child = Command::new("/usr/bin/setpriv")
        .args(["--reuid", &helper.user, "--regid", group, "--clear-groups", "--no-new-privs"])
        .args(["--inh-caps=-all", "--ambient-caps=-all", "--"])
        .args(["/usr/bin/timeout", "--signal=KILL", &limit])
        .args(&helper.command)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let told = async {
        // One that reads nothing has ended by itself, or needs no question.
        if let Some(mut stdin) = stdin {
            let _ = stdin.write_all(question).await;
        }
    };
    let ((), answer, words) = tokio::join!(told, some(stdout, LONGEST + 1), some(stderr, WORDS));
    let code = child.wait().await?.code();
    let words = String::from_utf8_lossy(&words?).trim().to_owned();
    Ok((answer?, words, code))
}

/// At most so many bytes; whatever comes then finds nobody.
async fn some(from: Option<impl AsyncRead + Unpin>, most: usize) -> std::io::Result<Zeroizing<Vec<u8>>> {
    // Not moved as it grows: nothing of it stays behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(most));
    if let Some(from) = from {
        from.take(u64::try_from(most).unwrap_or(u64::MAX)).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// A login as registries take it.
fn fit(username: String, password: String, host: &RegistryHost) -> Result<Given, String> {
    let password: SecretString = password.into();
    let is_acr = host.name().ends_with(".azurecr.io");
    let username = match username.as_str() {
        // An identity token, which ACR takes from a certain user as well.
        "<token>" if is_acr => ACR_USER.to_owned(),
        "<token>" => {
            return Err(format!(
                "it gives an identity token, which farm has no use for at {host}; have it give name and password"
            ));
        }
        "" => return Err("it gives no user's name".to_owned()),
        name if name.contains(':') || name.chars().any(char::is_control) => {
            return Err("the user's name that it gives can't be one".to_owned());
        }
        _ => username,
    };
    if secrecy::ExposeSecret::expose_secret(&password).is_empty() {
        return Err("it gives no password".to_owned());
    }
    Ok(Given { username, password })
}

/// The answer of a helper of Docker's kind.
fn docker(answer: &[u8], host: &RegistryHost) -> Result<Given, String> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(rename = "Username")]
        username: String,
        #[serde(rename = "Secret")]
        secret: String,
    }
    // What it is instead may be a secret.
    let answer: Answer = serde_json::from_slice(answer)
        .map_err(|_| "its answer is not {\"Username\": …, \"Secret\": …}".to_owned())?;
    fit(answer.username, answer.secret, host)
}

/// The answer of a helper of Kubernetes' kind, and for how long it counts.
fn kubelet(answer: &[u8], host: &RegistryHost) -> Result<(Given, Option<Duration>), String> {
    #[derive(Deserialize)]
    struct Answer {
        kind: String,
        #[serde(rename = "cacheDuration", default)]
        duration: Option<String>,
        #[serde(default)]
        auth: BTreeMap<String, Auth>,
    }
    #[derive(Deserialize)]
    struct Auth {
        username: String,
        password: String,
    }
    let no_answer = || "its answer is no CredentialProviderResponse".to_owned();
    let mut answer: Answer = serde_json::from_slice(answer).map_err(|_| no_answer())?;
    if answer.kind != "CredentialProviderResponse" {
        return Err(no_answer());
    }
    let duration = match answer.duration.as_deref() {
        None => None,
        Some(text) => Some(go_duration(text).ok_or_else(|| format!("its cacheDuration {text:?} is none"))?),
    };
    let auth = match (answer.auth.remove(host.as_str()), answer.auth.len()) {
        (Some(auth), _) => auth,
        (None, 1) => answer.auth.into_values().next().ok_or_else(no_answer)?,
        (None, 0) => return Err("it gives none".to_owned()),
        (None, _) => return Err("it gives several logins, and none for this very registry".to_owned()),
    };
    fit(auth.username, auth.password, host).map(|given| (given, duration))
}

/// A duration as Go writes it: `12h0m0s`, `90s`, `1h30m`.
fn go_duration(text: &str) -> Option<Duration> {
    let (mut whole, mut rest) = (Duration::ZERO, text);
    if rest == "0" {
        return Some(whole);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units =
            [("ms", 0.001), ("µs", 1e-6), ("us", 1e-6), ("ns", 1e-9), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
        let (unit, seconds) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        whole = whole.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
    }
    (!text.is_empty()).then_some(whole)
}

#[cfg(test)]
#[path = "helpers_tests.rs"]
mod tests;
