//! A private Postgres: the system's binaries, a folder of its own, a Unix socket and no port.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use futures::future::BoxFuture;
use rustix::process::Signal;

use super::{Part, Progress, Started, spawn, text, until_ready};
use crate::child::{Recipe, Stop, all, environment};
use crate::layout::Layout;
use crate::{Error, Result};

const OLDEST: u32 = 15;
const INSTALL: &str = "sudo apt-get install postgresql";

/// The database server.
pub struct Postgres {
    layout: Layout,
    bin: PathBuf,
    user: Option<(u32, u32)>,
}

impl Postgres {
    /// Makes its cluster, and the database, when there is none. Blocks for about a second then.
    ///
    /// # Errors
    /// There is no server that fits, no user for it, or the folder can't be used.
    pub fn prepare(layout: &Layout) -> Result<Self> {
        let data = layout.join("postgres/data");
        let bin = bin_for(&data)?;
        let user = if rustix::process::geteuid().is_root() { Some(user()?) } else { None };
        if user.is_some()
            && let Some(closed) = crate::layout::closed_ancestor(layout.root())
        {
            return Err(Error::Usage(format!(
                "--state-dir {}: {} is closed to other users, and Postgres, which refuses to be root, must pass; \
                 choose another, like /var/lib/farm",
                layout.root().display(),
                closed.display()
            )));
        }
        let postgres = Self { layout: layout.clone(), bin, user };
        for folder in [layout.join("postgres"), layout.run("postgres")] {
            let at = |e| crate::failed(folder.display(), &e);
            fs::create_dir_all(&folder).map_err(at)?;
            if let Some((uid, gid)) = user {
                chown(&folder, Some(uid), Some(gid)).map_err(at)?;
            }
        }
        let is_empty = fs::read_dir(&data).map_or(true, |mut entries| entries.next().is_none());
        if is_empty {
            postgres.init(&data)?;
        } else if !data.join("PG_VERSION").exists() {
            return Err(damaged(&data, "has no file PG_VERSION"));
        }
        Ok(postgres)
    }

    /// Makes the cluster beside its place and moves it there when it is whole: what stands in its place is never
    /// touched, and a first start that was killed halfway begins anew.
    fn init(&self, place: &Path) -> Result<()> {
        let new = place.with_extension("new");
        let at = |e| crate::failed(new.display(), &e);
        if new.exists() {
            fs::remove_dir_all(&new).map_err(at)?;
        }
        let data = text(&new);
        self.tool(
            "initdb",
            &[
                "-D",
                &data,
                "-U",
                "farm",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--no-instructions",
            ],
        )?;
        // Without a server: the single-user mode takes SQL from its input.
        let make = format!(
            "echo 'CREATE DATABASE farm' | '{}' --single -D '{data}' postgres",
            text(&self.bin.join("postgres"))
        );
        self.run(["sh", "-c", &make])?;
        fs::rename(&new, place).map_err(at)
    }

    fn tool(&self, name: &str, args: &[&str]) -> Result<()> {
        let program = text(&self.bin.join(name));
        self.run([program.as_str()].into_iter().chain(args.iter().copied()))
    }

    fn run<'a>(&self, command: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let mut wrapped = Command::new("setpriv");
        wrapped.args(["--pdeathsig", "KILL"]).env_clear().envs(environment());
        if let Some((uid, gid)) = self.user {
            wrapped.args(["--reuid", &uid.to_string(), "--regid", &gid.to_string(), "--clear-groups"]);
        }
        let output = wrapped.arg("--").args(command).current_dir("/").stdin(Stdio::null()).output();
        let output = output.map_err(|e| crate::failed("postgres", &e))?;
        if output.status.success() {
            return Ok(());
        }
        let said =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        let mut message = format!("postgres can't be set up ({})", output.status);
        for line in crate::logs::last_lines(&said, 6) {
            message.push_str("\n  ");
            message.push_str(&line);
        }
        if said.contains("No space left on device") {
            message.push_str("\nThe disk is full: free some space, or choose another --state-dir.");
        }
        Err(Error::Failed(message))
    }

    /// For the coordinator. Layouts hold no characters that a URL would have to escape but `/` and `@` and `+`.
    pub fn url(layout: &Layout) -> String {
        let host = text(&layout.run("postgres")).replace('/', "%2F").replace('@', "%40").replace('+', "%2B");
        format!("postgres://farm@localhost/farm?host={host}")
    }

    /// The answer of pg_isready: 0 ready, 1 rejecting connections, 2 no response.
    async fn is_ready(&self) -> Option<i32> {
        let mut ask = tokio::process::Command::new(self.bin.join("pg_isready"));
        ask.args(["-q", "-t", "2", "-U", "farm", "-d", "farm", "-h"]).arg(self.layout.run("postgres"));
        ask.env_clear()
            .envs(environment())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .status()
            .await
            .ok()?
            .code()
    }

    /// A killed server leaves its pid file, and a new one minds when that number is any process of its user, or none
    /// at all. Server and sessions have the data as their working folder, so where nobody has, the file is stale.
    fn drop_stale_pid_file(&self) {
        let data = self.layout.join("postgres/data");
        if working_in(&data).is_empty() {
            let _ = fs::remove_file(data.join("postmaster.pid"));
        }
    }
}

/// The processes whose working folder this is. One that has ended and waits to be reaped has none.
fn working_in(folder: &Path) -> Vec<u32> {
    all().filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|at| at == folder)).collect()
}

impl Part for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            match self.is_ready().await {
                Some(0) => Ok(()),
                _ => Err("takes no connections".to_owned()),
            }
        })
    }

    /// The children of a killed server hold its shared memory for a moment.
    fn patience(&self) -> Duration {
        Duration::from_secs(15)
    }

    fn start(&self) -> BoxFuture<'_, Result<Started, String>> {
        Box::pin(async {
            self.drop_stale_pid_file();
            let socket = self.layout.run("postgres");
            let program = text(&self.bin.join("postgres"));
            let data = text(&self.layout.join("postgres/data"));
            let sockets = format!("unix_socket_directories={}", text(&socket));
            let settings =
                ["listen_addresses=", &sockets, "unix_socket_permissions=0700", "max_connections=200"];
            let mut command = vec![program, "-D".to_owned(), data];
            for setting in settings {
                command.extend(["-c".to_owned(), setting.to_owned()]);
            }
            let mut recipe = Recipe::new("postgres", command);
            recipe.user = self.user;
            recipe.orphaned = "INT";
            // SIGINT is the fast stop: sessions are rolled back. SIGTERM would wait for them.
            recipe.stop = Stop { signal: Signal::INT, again_after: None, grace: Duration::from_secs(20) };
            let mut child = spawn(&self.layout, &recipe)?;
            until_ready(&mut child, Duration::from_secs(60), |_| async {
                match self.is_ready().await {
                    Some(0) => Progress::Ready(()),
                    // It says that it rejects connections: what a crash has left is replayed, however long that takes.
                    Some(1) => Progress::Busy,
                    _ => Progress::Silent,
                }
            })
            .await?;
            let version = self
                .bin
                .parent()
                .and_then(Path::file_name)
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let detail = format!("PostgreSQL {version}, private");
            Ok(Started { child, detail, guard: None, depends_on: None })
        })
    }
}

/// The newest server that is new enough, or the one that the data belongs to.
///
/// # Errors
/// There is none.
pub fn bin_for(data: &Path) -> Result<PathBuf> {
    let found = installed();
    let Ok(made_by) = fs::read_to_string(data.join("PG_VERSION")) else {
        let newest = found.into_iter().filter(|(version, _)| *version >= OLDEST).max();
        return newest
            .map(|(_, bin)| bin)
            .ok_or_else(|| Error::Usage(format!("Postgres {OLDEST} or newer isn't installed: {INSTALL}")));
    };
    let made_by = made_by.trim();
    if made_by.parse::<u32>().is_err() {
        return Err(damaged(
            data,
            &format!("holds {made_by:?} in PG_VERSION, which is no version of Postgres"),
        ));
    }
    if let Some((_, bin)) = found.iter().find(|(version, _)| version.to_string() == made_by) {
        return Ok(bin.clone());
    }
    let others: Vec<String> = found.iter().map(|(version, _)| version.to_string()).collect();
    let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
    Err(Error::Usage(format!(
        "the data in {} is of Postgres {made_by}, and installed is {others}. Install that version again \
         (sudo apt-get install postgresql-{made_by}), or convert the data with pg_upgrade, or begin anew with \
         farm down --purge",
        data.display()
    )))
}

fn damaged(data: &Path, why: &str) -> Error {
    Error::Usage(format!(
        "{} {why}: the data is damaged. Put a copy of the folder back, or begin anew with farm down --purge",
        data.display()
    ))
}

fn installed() -> Vec<(u32, PathBuf)> {
    let complete = |bin: &Path| bin.join("postgres").exists() && bin.join("initdb").exists();
    let entries = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| complete(bin))
        .collect();
    found.sort();
    found
}

/// Debian's package brings a user for it.
fn user() -> Result<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = passwd.lines().find_map(|line| {
        let mut fields = line.strip_prefix("postgres:")?.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    ids.ok_or_else(|| {
        Error::Usage(format!("there is no user postgres, and Postgres refuses to run as root: {INSTALL}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_version_is_told_as_such() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("PG_VERSION"), "").unwrap();
        let text = bin_for(folder.path()).unwrap_err().to_string();
        assert!(text.contains("holds \"\" in PG_VERSION") && text.contains("damaged"), "{text}");
    }

    #[test]
    fn who_works_in_a_folder_is_found_by_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap();
        assert_eq!(working_in(&at), [0; 0]);
        let mut sleeper = Command::new("sleep").arg("60").current_dir(&at).spawn().unwrap();
        assert_eq!(working_in(&at), [sleeper.id()]);
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert_eq!(working_in(&at), [0; 0]);
    }

    #[test]
    fn data_of_a_version_that_is_not_installed_is_named_with_the_cures() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("PG_VERSION"), "9\n").unwrap();
        let text = bin_for(folder.path()).unwrap_err().to_string();
        assert!(
            text.contains("Postgres 9") && text.contains("postgresql-9") && text.contains("pg_upgrade"),
            "{text}"
        );
    }
}
