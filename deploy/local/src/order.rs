//! All parts of a farm: in which order they are started and stopped.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use farm_types::Entitlements;
use farm_types::entitlement::listed;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::binfmt::{self, Changes};
use crate::control::Event;
use crate::farm::LocalFarm;
use crate::keeper::{First, keep};
use crate::layout::{Layout, OwnEngine};
use crate::parts::joining::{UNTRUSTED, farm_says};
use crate::parts::{Coordinator, Engine, Network, Part, Postgres, Registry, Worker};
use crate::settings::Settings;
use crate::{Error, Result, sweep};

/// A part that is being kept.
struct Kept {
    name: String,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// All parts of a farm that were started, in the order of their start.
pub struct Parts {
    farm: LocalFarm,
    kept: Vec<Kept>,
}

type Waiting = (String, oneshot::Receiver<First>);

impl Parts {
    /// With no part started yet.
    pub fn none(farm: &LocalFarm) -> Self {
        Self { farm: farm.clone(), kept: Vec::new() }
    }

    /// Starts them in order, and tells of each. Ends early when the farm is told to stop.
    ///
    /// # Errors
    /// One can't be started, or the farm was told to stop. What was started by then still runs.
    pub async fn start(&mut self) -> Result<()> {
        let (layout, settings) = (self.farm.layout.clone(), self.farm.settings.clone());
        // First what the others need. The engine takes longest and goes first.
        let mut first = Vec::new();
        let own = settings.engine.is_none().then_some((
            OwnEngine::Trusted,
            settings.registry_port,
            &settings.allow,
        ));
        let nothing = Entitlements::new();
        let untrusted = settings.untrusted.then_some((OwnEngine::Untrusted, settings.staging_port, &nothing));
        for (which, port, allow) in own.into_iter().chain(untrusted) {
            let engine = Engine::prepare(&layout, which, port, allow)?;
            let inside = engine.inside();
            let has_network = engine.can_have_network();
            first.push(self.keep(Arc::new(engine)));
            if has_network {
                first.push(self.keep(Arc::new(Network::new(&layout, which, inside))));
            } else {
                self.farm.notice(
                    "builds reach no other network: slirp4netns or /dev/net/tun is missing \
                     (sudo apt-get install slirp4netns), then farm down and farm up",
                );
            }
        }
        let registry = Registry::prepare(&layout, settings.registry_port)?;
        first.push(self.keep(Arc::new(registry)));
        let at = layout.clone();
        let postgres = tokio::task::spawn_blocking(move || Postgres::prepare(&at));
        let postgres = postgres.await.map_err(|e| Error::Failed(e.to_string()))??;
        // The coordinator needs Postgres only; what fails first is told first.
        let postgres = vec![self.keep(Arc::new(postgres))];
        self.all_up(postgres).await?;
        first.push(self.keep(Arc::new(Coordinator::new(&layout, &settings))));
        self.all_up(first).await?;
        if settings.untrusted {
            let staging = vec![self.keep(Arc::new(Registry::staging(&layout, settings.staging_port)?))];
            self.all_up(staging).await?;
        }
        let workers = self.workers();
        if workers.is_empty() {
            return Err(Error::Usage(format!(
                "none of --platforms {} can be built for on this machine; see the notes above, or leave it out",
                settings.platforms.join(",")
            )));
        }
        if settings.tell_project {
            let told = farm_says(&layout, settings.port, &project_allows(&settings.allow)).await;
            told.map_err(|why| {
                Error::Failed(format!("project default can't be told what --allow says: {why}"))
            })?;
        }
        // One after another: the first is what its machine is called by.
        for worker in &workers {
            let joined = tokio::select! {
                joined = worker.join() => joined,
                () = self.farm.stop.cancelled() => return Err(stopped()),
            };
            joined.map_err(|why| Error::Failed(format!("{} doesn't start: {why}", worker.name)))?;
        }
        let workers = workers.into_iter().map(|worker| self.keep(Arc::new(worker))).collect();
        self.all_up(workers).await?;
        if settings.untrusted
            && let Some(kept) = kept_from_untrusted(&layout, settings.port).await
        {
            self.farm.notice(&kept);
        }
        Ok(())
    }

    /// One for what is native here, and one for what is emulated. Both are on one engine and share its slots.
    fn workers(&self) -> Vec<Worker> {
        let settings = &self.farm.settings;
        let own = |which| format!("unix://{}", self.farm.layout.engine_socket(which).display());
        let engine = settings.engine.clone().unwrap_or_else(|| own(OwnEngine::Trusted));
        let is_here = engine.starts_with("unix://");
        let (native, emulated) = settings.split();
        let mut wanted: Vec<String> = emulated.iter().map(|platform| (*platform).to_owned()).collect();
        let mut may_emulate = settings.emulation && (settings.platforms.is_empty() || !wanted.is_empty());
        if may_emulate && is_here {
            if settings.platforms.is_empty() {
                let other = if Settings::own_architecture() == "amd64" { "arm64" } else { "amd64" };
                may_emulate = self.emulator(&format!("linux/{other}")) || emulates_anything();
            } else {
                wanted.retain(|platform| self.emulator(platform));
                may_emulate = !wanted.is_empty();
            }
        }
        let mut grants = Vec::new();
        if !settings.allow.is_empty() {
            grants.extend(["--allow".to_owned(), listed(&settings.allow)]);
        }
        if !settings.fetch_from.is_empty() {
            grants.extend(["--fetch-from".to_owned(), settings.fetch_from.join(",")]);
        }
        let own_name = format!("w-{}", Settings::own_architecture());
        let worker = |name: &str, offers: Vec<String>| Worker {
            layout: self.farm.layout.clone(),
            name: name.to_owned(),
            machine: own_name.clone(),
            engine: engine.clone(),
            port: settings.port,
            slots: settings.slots(),
            offers: offers.into_iter().chain(grants.clone()).collect(),
            untrusted: false,
            was_taken: AtomicBool::new(false),
        };
        let only = |what: &str| vec!["--only".to_owned(), what.to_owned()];
        let told = |list: String| vec!["--platforms".to_owned(), list];
        let mut workers = Vec::new();
        if settings.platforms.is_empty() {
            workers.push(worker(&own_name, only("native")));
        } else if !native.is_empty() {
            workers.push(worker(&own_name, told(native.join(","))));
        }
        if may_emulate {
            let offers = match settings.platforms.is_empty() {
                true => only("emulated"),
                false => told(wanted.iter().map(|p| format!("{p}=emulated")).collect::<Vec<_>>().join(",")),
            };
            workers.push(worker("w-qemu", offers));
        }
        if settings.untrusted && (settings.platforms.is_empty() || !native.is_empty()) {
            let mut offers =
                if settings.platforms.is_empty() { only("native") } else { told(native.join(",")) };
            // Its namespaces are the fence.
            offers.push("--fenced-engine".to_owned());
            let engine = own(OwnEngine::Untrusted);
            workers.push(Worker { engine, offers, untrusted: true, ..worker(UNTRUSTED, Vec::new()) });
        }
        workers
    }

    fn emulator(&self, platform: &str) -> bool {
        match binfmt::enable(platform.split('/').nth(1).unwrap_or_default(), &self.farm.layout) {
            Ok(None) => true,
            Ok(Some(name)) => {
                self.farm
                    .notice(&format!("registered {name} in this kernel; farm down --purge takes it back"));
                true
            }
            Err(why) => {
                self.farm.notice(&format!("{platform} is not offered: {why}"));
                false
            }
        }
    }

    fn keep(&mut self, part: Arc<dyn Part>) -> Waiting {
        let (sender, first) = oneshot::channel();
        let name = part.name().to_owned();
        self.farm.board.add(&name);
        let stop = CancellationToken::new();
        let task = tokio::spawn(keep(part, self.farm.board.clone(), sender, stop.clone()));
        self.kept.push(Kept { name: name.clone(), stop, task });
        (name, first)
    }

    async fn all_up(&self, parts: Vec<Waiting>) -> Result<()> {
        let (sender, mut ends) = mpsc::channel(parts.len().max(1));
        for (name, first) in parts {
            let sender = sender.clone();
            tokio::spawn(async move { drop(sender.send((name, first.await)).await) });
        }
        drop(sender);
        loop {
            let end = tokio::select! {
                end = ends.recv() => end,
                () = self.farm.stop.cancelled() => {
                    return Err(stopped());
                }
            };
            match end {
                None => return Ok(()),
                Some((part, Ok(Ok((text, took))))) => {
                    let ms = u64::try_from(took.as_millis()).unwrap_or_default();
                    self.farm.starting.add(Event::Step { part, text, ms });
                }
                Some((part, Ok(Err(why)))) => {
                    let log = self.farm.layout.log(&part);
                    return Err(Error::Failed(format!(
                        "{part} doesn't start: {why}\n(all of it: {})",
                        log.display()
                    )));
                }
                Some((part, Err(_))) => return Err(Error::Failed(format!("{part}: its keeper died"))),
            }
        }
    }

    /// Workers first: they abort their solves and give their jobs back. Then the engine, the coordinator, and what
    /// both need. Returns when all have ended.
    pub async fn stop(&mut self) {
        let rank = |name: &str| match name {
            "postgres" => 5,
            "registry" | "staging" => 4,
            "coordinator" => 3,
            "engine" | "untrusted-engine" => 2,
            "network" | "untrusted-network" => 1,
            _ => 0,
        };
        for round in 0..=5 {
            let (now, later): (Vec<Kept>, Vec<Kept>) =
                self.kept.drain(..).partition(|kept| rank(&kept.name) == round);
            self.kept = later;
            let begin = Instant::now();
            now.iter().for_each(|kept| kept.stop.cancel());
            for kept in now {
                let _ = kept.task.await;
                let ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or_default();
                self.farm.stopping.add(Event::Step { part: kept.name, text: "stopped".to_owned(), ms });
            }
        }
        // What a killed part leaves is gone with its namespaces; its empty groups are ours to remove.
        let layout = self.farm.layout.clone();
        let _ = tokio::task::spawn_blocking(move || {
            for engine in [OwnEngine::Trusted, OwnEngine::Untrusted] {
                sweep::group(&layout.group_of(engine));
                let _ = fs::remove_file(layout.engine_socket(engine));
            }
            Changes::load(&layout).unmount(&layout);
        })
        .await;
    }
}

/// What keeps the farm from giving its untrusted worker anything, and what to do; `None`: nothing, or nobody says it.
async fn kept_from_untrusted(layout: &Layout, port: u16) -> Option<String> {
    let said = farm_says(layout, port, &["workers", "--json"]).await.ok()?;
    unfit(&serde_json::from_str(&said).ok()?)
}

/// The same, as `farm workers --json` has it.
fn unfit(workers: &serde_json::Value) -> Option<String> {
    let worker = workers["workers"].as_array()?.iter().find(|worker| worker["name"] == UNTRUSTED)?;
    let reason = worker["reason"].as_str().filter(|_| worker["state"] == "online")?;
    let engine = worker["engine_package"].as_str().or_else(|| worker["engine"].as_str())?;
    Some(format!(
        "{UNTRUSTED} gets no jobs: its machine isn't trusted, and {reason}; with farm up that is: farm down, then farm up --untrusted \
         --patched-engine {engine:?}"
    ))
}

/// Words that say to the farm what builds of its one project may ask for.
fn project_allows(allow: &Entitlements) -> [String; 5] {
    let list = if allow.is_empty() { "none".to_owned() } else { listed(allow) };
    ["project", "set", "default", "--allow", &list].map(str::to_owned)
}

fn stopped() -> Error {
    Error::Failed("it was told to stop while it started".to_owned())
}

/// Does the kernel know any emulator that works in containers?
fn emulates_anything() -> bool {
    let entries = fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        entry.file_name().to_string_lossy().starts_with("qemu-")
            && fs::read_to_string(entry.path()).is_ok_and(|text| {
                text.starts_with("enabled")
                    && text.lines().any(|l| l.starts_with("flags:") && l.contains('F'))
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_untrusted_worker_lacks_is_said_with_the_line_to_write() {
        let mut workers = serde_json::json!({"workers": [
            {"name": "w-amd64", "state": "online", "reason": null, "engine": "docker 28"},
            {"name": UNTRUSTED, "state": "online", "reason": "its engine is too old", "engine": "docker 28", "engine_package": "docker.io 28-1"},
        ]});
        let told = unfit(&workers).unwrap();
        assert!(
            told.contains("too old")
                && told.ends_with("farm up --untrusted --patched-engine \"docker.io 28-1\""),
            "{told}"
        );
        workers["workers"][1]["reason"] = serde_json::Value::Null;
        assert_eq!(unfit(&workers), None);
    }
}
