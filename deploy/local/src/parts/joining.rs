//! How the workers of this machine come into its farm: by the commands that anybody's would be brought in by, with the local
//! admin's token. A worker that has joined isn't asked for again, unless its certificate can't be renewed any more: the farm was
//! down for longer than a day.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use super::{own_program, text};
use crate::child::search_path;
use crate::layout::Layout;

/// How long one of these commands may take.
const COMMAND: Duration = Duration::from_secs(60);

/// The worker that isn't trusted.
pub const UNTRUSTED: &str = "w-untrusted";

/// A worker, and the farm that it is to be in.
#[derive(Debug)]
pub struct Joining<'a> {
    pub layout: &'a Layout,
    /// The coordinator's port.
    pub port: u16,
    /// The worker's name.
    pub name: &'a str,
    /// The machine's, if none of its workers has joined; `None`: it is on one of its own that isn't trusted.
    pub machine: Option<&'a str>,
}

/// What `farm-worker whoami --json` prints, as far as it matters here.
#[derive(Deserialize)]
struct WhoAmI {
    machine: String,
}

/// What `farm workers invite --json` prints, as far as it matters here.
#[derive(Deserialize)]
struct Invited {
    token: String,
}

/// Where a worker keeps what is its own.
pub fn state_dir(layout: &Layout, name: &str) -> PathBuf {
    layout.join("workers").join(name)
}

impl Joining<'_> {
    /// Has the worker join, unless it has.
    ///
    /// The error is for people.
    pub async fn if_needed(&self) -> Result<(), String> {
        match self.machine_of(self.name).await {
            Some(_) => Ok(()),
            None => self.anew().await,
        }
    }

    /// Has the worker join, whatever it was before.
    ///
    /// The error is for people.
    pub async fn anew(&self) -> Result<(), String> {
        let Err(first) = self.once().await else { return Ok(()) };
        // The name is still that of a certificate which nobody has any more.
        match self.farm(&["workers", "revoke", self.name]).await {
            Ok(_) => self.once().await,
            Err(_) => Err(first),
        }
    }

    async fn once(&self) -> Result<(), String> {
        let machine = self.shared_machine().await;
        let invite = ["workers", "invite", "--json", "--name", self.name];
        let invited = match &machine {
            Some(machine) => {
                self.farm(&[&invite[..], &["--machine", machine, "--if-known"]].concat()).await?
            }
            None => self.farm(&[&invite[..], &["--trust", "untrusted"]].concat()).await?,
        };
        let invited: Invited =
            serde_json::from_str(&invited).map_err(|e| format!("farm workers invite gave no token: {e}"))?;
        let url = format!("https://127.0.0.1:{}", self.port);
        let (ca, folder) = (self.layout.join("coordinator/tls/ca.pem"), state_dir(self.layout, self.name));
        let mut command = self.command("farm-worker")?;
        command.args(["join", &url, "--again", "--ca", &text(&ca), "--state-dir", &text(&folder), "-"]);
        said(run(command, &invited.token).await?).map(drop)
    }

    /// All workers of this machine are on one, whichever was the first: they share its engine's slots.
    async fn shared_machine(&self) -> Option<String> {
        let machine = self.machine?;
        let others = std::fs::read_dir(self.layout.join("workers")).into_iter().flatten().flatten();
        for other in others.filter(|other| *other.file_name() != *UNTRUSTED) {
            if let Some(found) = self.machine_of(&other.file_name().to_string_lossy()).await {
                return Some(found);
            }
        }
        Some(machine.to_owned())
    }

    /// The machine of a worker that has joined; `None`: it hasn't, or not so that it could go on.
    async fn machine_of(&self, name: &str) -> Option<String> {
        let mut command = self.command("farm-worker").ok()?;
        command.args(["whoami", "--json", "--state-dir", &text(&state_dir(self.layout, name))]);
        let who: WhoAmI = serde_json::from_str(&said(run(command, "").await.ok()?).ok()?).ok()?;
        Some(who.machine)
    }

    async fn farm(&self, words: &[&str]) -> Result<String, String> {
        farm_says(self.layout, self.port, words).await
    }

    fn command(&self, program: &str) -> Result<Command, String> {
        command(self.layout, program)
    }
}

/// What a command says that is given to this machine's farm as its local admin. The error is for people.
pub async fn farm_says(layout: &Layout, port: u16, words: &[impl AsRef<OsStr>]) -> Result<String, String> {
    let mut command = command(layout, "farm")?;
    command.args(words).env("FARM_URL", format!("http://127.0.0.1:{port}"));
    command.env("FARM_TOKEN_FILE", layout.token());
    said(run(command, "").await?)
}

/// Without what the caller has set for other farms.
fn command(layout: &Layout, program: &str) -> Result<Command, String> {
    let mut command = Command::new(own_program(program)?);
    command.env_clear().env("PATH", search_path()).env("HOME", layout.root()).current_dir("/");
    Ok(command)
}

async fn run(mut command: Command, input: &str) -> Result<Output, String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let name = text(Path::new(command.as_std().get_program()));
    let running = async {
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that reads nothing has closed it.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    match timeout(COMMAND, running).await {
        Ok(output) => output.map_err(|e| format!("{name}: {e}")),
        Err(_) => Err(format!("{name} didn't end within {} s", COMMAND.as_secs())),
    }
}

/// What it said, or why it failed.
fn said(output: Output) -> Result<String, String> {
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    match output.status.success() {
        true => Ok(out.into_owned()),
        false => Err(error.trim().trim_start_matches("error: ").to_owned()),
    }
}
