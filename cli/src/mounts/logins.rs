//! `--registry-login`: logins of whoever submits, as Docker's configuration has them, for one build.
//!
//! Format: docker/cli, `cli/config/configfile` (`auths`, `credHelpers`, `credsStore`), and docker/docker-credential-helpers (`get`).
//! Read is what is asked for, and nothing else of the file.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farm_types::chain::io_in_short;
use farm_types::mounts::GivenLogin;
use farm_types::{Invalid, MountId, RegistryHost, ValueType};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::Mounting;

const FLAG: &str = "--registry-login";
/// What Docker calls its Hub here.
const HUB: &str = "https://index.docker.io/v1/";

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: BTreeMap<String, Auth>,
    creds_store: String,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// What a helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

impl Mounting {
    /// Takes the logins for these registries from Docker's configuration. `variable` gives the environment's values.
    ///
    /// # Errors
    /// There is none for one of them, or none that farm has a use for; or it can't be read.
    pub fn take_logins(
        &mut self,
        hosts: &[String],
        variable: impl Fn(&str) -> Result<Option<String>, Invalid>,
    ) -> Result<(), Invalid> {
        if hosts.is_empty() {
            return Ok(());
        }
        let path = place(&variable)?;
        let config = read(&path)?;
        for text in hosts {
            let invalid = |cure: String| Invalid::new(FLAG, text, cure);
            let host = RegistryHost::of_login(text).map_err(|error| invalid(error.cure))?;
            let login = config.login(&host, &path).map_err(invalid)?;
            login.check().map_err(|why| invalid(format!("the login that Docker has there: {why}")))?;
            let id: MountId = host.as_str().parse()?;
            // It has nothing that JSON can't say.
            let value = serde_json::to_vec(&login).unwrap_or_default();
            self.values.insert((ValueType::Login, id.clone()), Zeroizing::new(value));
            self.mounts.logins.insert(id);
        }
        Ok(())
    }
}

/// Docker's configuration.
fn place(variable: impl Fn(&str) -> Result<Option<String>, Invalid>) -> Result<PathBuf, Invalid> {
    let set = |name: &str| Ok::<_, Invalid>(variable(name)?.filter(|value| !value.is_empty()));
    let folder = match set("DOCKER_CONFIG")? {
        Some(folder) => PathBuf::from(folder),
        None => match set("HOME")? {
            Some(home) => Path::new(&home).join(".docker"),
            None => {
                let cure = "set HOME, or DOCKER_CONFIG to the folder of Docker's config.json";
                return Err(Invalid::new(FLAG, "", cure));
            }
        },
    };
    Ok(folder.join("config.json"))
}

fn read(path: &Path) -> Result<Config, Invalid> {
    let invalid = |cure: String| Invalid::new(FLAG, path.display().to_string(), cure);
    let text = match std::fs::read(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(invalid(
                "Docker's configuration isn't there; docker login makes it, and DOCKER_CONFIG names another folder".to_owned(),
            ));
        }
        Err(error) => {
            return Err(invalid(format!("Docker's configuration can't be read ({})", io_in_short(&error))));
        }
    };
    // Not with serde's words: they may quote it.
    serde_json::from_slice(&text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        invalid(format!("Docker's configuration isn't what Docker writes, at line {line}, column {column}"))
    })
}

impl Config {
    /// # Errors
    /// There is none, or none of use; what to do about it.
    fn login(&self, host: &RegistryHost, path: &Path) -> Result<GivenLogin, String> {
        let server = if host.as_str() == "docker.io" { HUB } else { host.as_str() };
        let helper = self.cred_helpers.iter().find(|(key, _)| is_of(key, host)).map(|(_, helper)| helper);
        let helper = helper.unwrap_or(&self.creds_store);
        let stored = if helper.is_empty() { None } else { ask(helper, server)? };
        let login = match stored {
            Some(Answer { username, secret }) => GivenLogin { username, password: secret },
            None => {
                let Some((_, auth)) =
                    self.auths.iter().find(|(key, auth)| is_of(key, host) && !auth.is_empty())
                else {
                    return Err(format!(
                        "{} has no login there; make one: docker login {host}",
                        path.display()
                    ));
                };
                auth.login()?
            }
        };
        if login.username == "<token>" {
            return Err(identity());
        }
        Ok(login)
    }
}

fn identity() -> String {
    "Docker has an identity token there, which farm has no use for; log in with a password or an access token"
        .to_owned()
}

impl Auth {
    fn is_empty(&self) -> bool {
        self.auth.is_empty() && self.username.is_empty() && self.identitytoken.is_empty()
    }

    fn login(&self) -> Result<GivenLogin, String> {
        if !self.identitytoken.is_empty() {
            return Err(identity());
        }
        if self.auth.is_empty() {
            let (username, password) = (self.username.clone(), self.password.clone());
            return Ok(GivenLogin { username, password });
        }
        let clear = STANDARD.decode(self.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let clear = clear.map(Zeroizing::new);
        let login = clear.as_ref().and_then(|clear| clear.split_once(':'));
        let (username, password) =
            login.ok_or("the login that Docker has there can't be read; log in anew")?;
        // Docker's own client cuts them off.
        let password = password.trim_matches('\0').to_owned();
        Ok(GivenLogin { username: username.to_owned(), password })
    }
}

/// Whether a key of Docker's configuration stands for a registry: with or without a scheme and a path.
fn is_of(key: &str, host: &RegistryHost) -> bool {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let bare = bare.split('/').next().unwrap_or_default();
    RegistryHost::of_login(bare).is_ok_and(|named| named == *host)
}

/// Asks a helper of Docker's; `None`: it has no login there.
fn ask(helper: &str, server: &str) -> Result<Option<Answer>, String> {
    let program = format!("docker-credential-{helper}");
    let failed = |why: String| format!("Docker's credential helper {program} {why}");
    if helper.contains('/') {
        return Err(failed("can't be one".to_owned()));
    }
    // What it says to people goes to them.
    let child = Command::new(&program).arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => failed("isn't here (it is looked for in PATH)".to_owned()),
        _ => failed(format!("can't be run ({})", io_in_short(&error))),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that reads nothing has ended, or needs no question.
        let _ = stdin.write_all(format!("{server}\n").as_bytes());
    }
    let ended = child
        .wait_with_output()
        .map_err(|error| failed(format!("can't be heard ({})", io_in_short(&error))))?;
    let told = Zeroizing::new(ended.stdout);
    if !ended.status.success() {
        // Its words for it are the protocol's.
        if String::from_utf8_lossy(&told).contains("credentials not found") {
            return Ok(None);
        }
        return Err(failed(format!("fails ({})", ended.status)));
    }
    serde_json::from_slice(&told).map(Some).map_err(|_| failed("doesn't answer as one does".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> RegistryHost {
        RegistryHost::of_login(text).unwrap()
    }

    fn config(text: &str) -> Config {
        serde_json::from_str(text).unwrap()
    }

    fn login(text: &str, at: &str) -> Result<(String, String), String> {
        let login = config(text).login(&host(at), Path::new("config.json"))?;
        Ok((login.username.clone(), login.password.clone()))
    }

    fn pair(username: &str, password: &str) -> (String, String) {
        (username.to_owned(), password.to_owned())
    }

    #[test]
    fn logins_are_found_under_all_names_that_docker_has_for_a_registry() {
        let auth = STANDARD.encode("ci:hunter:2");
        for (key, at) in [
            ("r.example:5000", "r.example:5000"),
            ("https://r.example:5000", "r.example:5000"),
            ("https://r.example/v2/", "r.example"),
            (HUB, "docker.io"),
            ("index.docker.io", "docker.io"),
        ] {
            let text = format!(
                "{{\"auths\": {{\"other.example\": {{\"auth\": \"eA==\"}}, \"{key}\": {{\"auth\": \"{auth}\"}}}}}}"
            );
            assert_eq!(login(&text, at), Ok(pair("ci", "hunter:2")), "{key}");
        }
        let plain =
            r#"{"auths": {"r.example": {"username": "ci", "password": "p"}}, "HttpHeaders": {"X": "y"}}"#;
        assert_eq!(login(plain, "r.example"), Ok(pair("ci", "p")));
        let nul = format!(r#"{{"auths": {{"r.example": {{"auth": "{}"}}}}}}"#, STANDARD.encode("ci:p\0"));
        assert_eq!(login(&nul, "r.example"), Ok(pair("ci", "p")));
    }

    #[test]
    fn what_is_lacking_or_of_no_use_is_told_with_its_cure_and_never_with_its_value() {
        for (text, said) in [
            (r#"{}"#, "docker login r.example"),
            (r#"{"auths": {"r.example": {}}}"#, "docker login r.example"),
            (r#"{"auths": {"r.example:5000": {"auth": "eDp5"}}}"#, "docker login r.example"),
            (r#"{"auths": {"r.example": {"auth": "eDp5", "identitytoken": "hunter2"}}}"#, "identity token"),
            (r#"{"auths": {"r.example": {"auth": "hunter2!"}}}"#, "log in anew"),
            (r#"{"credsStore": "nowhere-to-be-found"}"#, "docker-credential-nowhere-to-be-found isn't here"),
            (r#"{"credHelpers": {"r.example": "../x"}}"#, "can't be one"),
        ] {
            let why = login(text, "r.example").unwrap_err();
            assert!(why.contains(said) && !why.contains("hunter2"), "{text}: {why}");
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            let value = folder.path().display().to_string();
            Ok((name == "DOCKER_CONFIG").then_some(value))
        };
        let take = |hosts: &[&str]| {
            let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
            let mut mounting = Mounting::default();
            mounting.take_logins(&hosts, at).map(|()| mounting).map_err(|error| error.to_string())
        };
        assert!(take(&["r.example"]).unwrap_err().contains("docker login makes it"));
        assert!(take(&[]).is_ok(), "nothing is read then");
        std::fs::write(folder.path().join("config.json"), "{\"auths\": {\"r.example\": \"hunter2\"}}")
            .unwrap();
        let why = take(&["r.example"]).unwrap_err();
        assert!(why.contains("line 1, column") && !why.contains("hunter2"), "{why}");
        let text =
            format!("{{\"auths\": {{\"r.example\": {{\"auth\": \"{}\"}}}}}}", STANDARD.encode("ci:hunter2"));
        std::fs::write(folder.path().join("config.json"), text).unwrap();
        assert!(take(&["r.example/web"]).unwrap_err().contains("--registry-login"));
        let mounting = take(&["r.example"]).unwrap();
        assert!(mounting.is_private() && !format!("{mounting:?}").contains("hunter2"));
        let [value] = &mounting.values()[..] else { panic!() };
        assert_eq!((value.r#type.as_str(), value.id.as_str()), ("registry-login", "r.example"));
        assert_eq!(GivenLogin::read(&value.value).unwrap().password, "hunter2");
    }
}
