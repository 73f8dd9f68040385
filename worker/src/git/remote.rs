//! A repository elsewhere: how it is called, and what its host is shown.
//!
//! A login lies in files of git's user alone, in a folder that goes with the [`Remote`]; it is in no argument, no environment and no
//! configuration. Git gives it to the host that it is for (git-credential-store(1) compares scheme, host and port).

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use farm_types::FailureCode;
use farm_types::git::{Commit, GitUrl};
use zeroize::Zeroizing;

use super::account::{Account, give};
use super::error::{FetchError, disk, user};
use super::guard::Route;
use super::order::GitLogin;
use super::program::{Bounds, Call, Program};
use super::refs::Refs;
use super::said;

/// The most that a host may say of its refs, bytes.
const MOST_REFS: usize = 16 << 20;

/// What ssh is told besides key and address (ssh_config(5)): it asks nobody, reads no configuration, forwards nothing.
const SSH: &[&str] = &[
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "GlobalKnownHostsFile=/dev/null",
    "UpdateHostKeys=no",
    "VerifyHostKeyDNS=no",
    "CheckHostIP=no",
    "IdentitiesOnly=yes",
    "IdentityAgent=none",
    "PreferredAuthentications=publickey",
    "ProxyCommand=none",
    "ProxyJump=none",
    "CanonicalizeHostname=no",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "PermitLocalCommand=no",
    "ControlMaster=no",
    "ControlPath=none",
    "ConnectTimeout=30",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
    "LogLevel=ERROR",
];

/// A repository elsewhere.
#[derive(Debug)]
pub(crate) struct Remote<'a> {
    pub(crate) url: &'a GitUrl,
    program: &'a Program,
    args: Vec<OsString>,
    ssh: Option<String>,
    is_signed_in: bool,
    /// Of its own, empty but for the login.
    folder: PathBuf,
}

impl Drop for Remote<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, folder = %self.folder.display(), "a folder with a login for git can't be removed");
        }
    }
}

impl<'a> Remote<'a> {
    /// Makes ready to call it by this route. `folder` isn't there yet, and belongs to the result.
    ///
    /// # Errors
    /// The login doesn't fit the address, or the disk.
    pub(crate) fn new(
        program: &'a Program,
        url: &'a GitUrl,
        route: &Route,
        login: Option<&GitLogin>,
        folder: PathBuf,
    ) -> Result<Self, FetchError> {
        let account = program.account.as_ref();
        super::account::own_folder(&folder, account)
            .map_err(|error| disk("no folder for git can be made", &error))?;
        let mut remote =
            Self { url, program, args: Vec::new(), ssh: None, is_signed_in: login.is_some(), folder };
        if url.scheme() == "ssh" {
            remote.by_ssh(route, login, account)?;
        } else {
            remote.by_http(route, login, account)?;
        }
        Ok(remote)
    }

    fn by_http(
        &mut self,
        route: &Route,
        login: Option<&GitLogin>,
        account: Option<&Account>,
    ) -> Result<(), FetchError> {
        let address = |address: &IpAddr| match address {
            IpAddr::V4(four) => four.to_string(),
            IpAddr::V6(six) => format!("[{six}]"),
        };
        let addresses: Vec<String> = route.addresses.iter().map(address).collect();
        // curl has a host that is an address already.
        if route.host.parse::<IpAddr>().is_err() {
            self.set(format!("http.curloptResolve={}:{}:{}", route.host, route.port, addresses.join(",")));
        }
        match login {
            None => Ok(()),
            Some(GitLogin::Token { username, password }) => {
                let file = self.folder.join("login");
                let line = Zeroizing::new(format!(
                    "{}://{}:{}@{}\n",
                    self.url.scheme(),
                    encoded(username).as_str(),
                    encoded(password).as_str(),
                    self.url.host()
                ));
                own_file(&file, line.as_bytes(), account)
                    .map_err(|error| disk("the login can't be written", &error))?;
                self.set(format!("credential.helper=store --file={}", quoted(&file)));
                Ok(())
            }
            Some(GitLogin::Key { .. }) => {
                let text = format!(
                    "the project's login at {} is a deploy key, and {} is https; write git@{}:{}",
                    self.url.host(),
                    self.url,
                    self.url.host(),
                    self.url.path()
                );
                Err(user(FailureCode::GitLoginMissing, text))
            }
        }
    }

    fn by_ssh(
        &mut self,
        route: &Route,
        login: Option<&GitLogin>,
        account: Option<&Account>,
    ) -> Result<(), FetchError> {
        let Some(GitLogin::Key { pem, known_hosts }) = login else {
            let text = format!(
                "{} is reached by ssh, for which the project needs a deploy key at {}; add one, or write the https address",
                self.url,
                self.url.host()
            );
            return Err(user(FailureCode::GitLoginMissing, text));
        };
        let (key, hosts) = (self.folder.join("key"), self.folder.join("known_hosts"));
        // OpenSSH reads no key whose last line doesn't end.
        let pem = Zeroizing::new(format!("{}\n", pem.trim_end()));
        own_file(&key, pem.as_bytes(), account)
            .and_then(|()| own_file(&hosts, format!("{}\n", known_hosts.trim_end()).as_bytes(), account))
            .map_err(|error| disk("the login can't be written", &error))?;
        let Some(address) = route.addresses.first() else { return Ok(()) };
        // As known_hosts has it.
        let alias =
            if route.port == 22 { route.host.clone() } else { format!("[{}]:{}", route.host, route.port) };
        let mut options: Vec<String> = SSH.iter().map(|option| (*option).to_owned()).collect();
        options.push(format!("HostName={address}"));
        options.push(format!("HostKeyAlias={alias}"));
        options.push(format!("UserKnownHostsFile=\"{}\"", hosts.display()));
        options.push(format!("IdentityFile=\"{}\"", key.display()));
        let options: Vec<String> = options.iter().map(|option| format!("-o {}", in_quotes(option))).collect();
        self.ssh = Some(format!("ssh -F /dev/null {}", options.join(" ")));
        Ok(())
    }

    fn set(&mut self, setting: String) {
        self.args.extend([OsString::from("-c"), OsString::from(setting)]);
    }

    fn dressed(&self, call: Call) -> Call {
        let call = call.env("GIT_ALLOW_PROTOCOL", self.url.scheme());
        match &self.ssh {
            Some(ssh) => call.env("GIT_SSH_COMMAND", ssh).env("GIT_SSH_VARIANT", "ssh"),
            None => call,
        }
    }

    /// What it advertises.
    ///
    /// # Errors
    /// It can't be reached, or doesn't let us in.
    pub(crate) async fn refs(&self, bounds: &Bounds<'_>) -> Result<Refs, FetchError> {
        let call = Call::nowhere(&self.folder).args(&self.args).args([
            "ls-remote",
            "--symref",
            "--",
            self.url.as_str(),
        ]);
        let said = self.program.capture(self.dressed(call), bounds, MOST_REFS).await?;
        if said.ok { Ok(Refs::read(&said.stdout)) } else { Err(self.failure(&said.words, bounds)) }
    }

    /// Fetches one object and its files, without history, into the repository of this folder, where `refs/farm/OBJECT` keeps it.
    ///
    /// # Errors
    /// It can't be reached, hasn't got the object, or sends what can't be taken.
    pub(crate) async fn fetch(
        &self,
        wanted: &Commit,
        into: &Path,
        bounds: &Bounds<'_>,
    ) -> Result<(), FetchError> {
        let wanted = format!("+{wanted}:{}", kept(wanted));
        self.fetch_into(into, &["--depth=1"], &[wanted], bounds).await
    }

    /// Fetches the commits below all branches and tags, without files if the host can leave them out.
    ///
    /// # Errors
    /// As [`Self::fetch`].
    pub(crate) async fn fetch_history(&self, into: &Path, bounds: &Bounds<'_>) -> Result<(), FetchError> {
        let all = ["heads", "tags"].map(|folder| format!("+refs/{folder}/*:refs/farm/{folder}/*"));
        self.fetch_into(into, &["--filter=tree:0"], &all, bounds).await
    }

    async fn fetch_into(
        &self,
        into: &Path,
        how: &[&str],
        specs: &[String],
        bounds: &Bounds<'_>,
    ) -> Result<(), FetchError> {
        let call = Call::at(into)
            .args(&self.args)
            .args([
                "fetch",
                "--quiet",
                "--no-tags",
                "--no-write-fetch-head",
                "--no-auto-maintenance",
                "--no-recurse-submodules",
            ])
            .args(how)
            .args(["--", self.url.as_str()])
            .args(specs)
            .grows(into);
        let said = self.program.capture(self.dressed(call), bounds, 1 << 20).await?;
        if said.ok { Ok(()) } else { Err(self.failure(&said.words, bounds)) }
    }

    fn failure(&self, words: &str, bounds: &Bounds<'_>) -> FetchError {
        said::failure(self.url, self.is_signed_in, words, bounds)
    }
}

/// The ref by which a repository here keeps an object.
pub(crate) fn kept(object: &Commit) -> String {
    format!("refs/farm/{object}")
}

fn own_file(path: &Path, bytes: &[u8], account: Option<&Account>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    give(path, account)
}

/// As a part of a URL (RFC 3986, 2.1).
fn encoded(text: &str) -> Zeroizing<String> {
    let mut encoded = Zeroizing::new(String::with_capacity(3 * text.len()));
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// As one word of a shell, by which git runs helpers and ssh.
fn in_quotes(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn quoted(path: &Path) -> String {
    in_quotes(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_their_ends() {
        assert_eq!(encoded("a:b@c/d é%").as_str(), "a%3Ab%40c%2Fd%20%C3%A9%25");
        assert_eq!(in_quotes("a'b c"), r"'a'\''b c'");
    }
}
