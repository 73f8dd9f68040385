//! An engine of farm's own: a dockerd with its own data, in network, mount and process namespaces of its own.
//!
//! So it meets no other engine: own bridge, own packet filter, own `/run`. [`crate::engine_init`] is the first process
//! in there, [`crate::relay`] brings it the registry, and [`Network`] gives builds a way out.

use std::future::ready;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use farm_types::{Entitlement, Entitlements};
use futures::future::BoxFuture;
use rustix::process::Signal;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;

use super::{POLL, Part, Started, ask, own_program, spawn, text, until_ready};
use crate::checks::on_path;
use crate::child::{Child, Recipe, Stop, all, environment, parent};
use crate::layout::{Layout, OwnEngine};
use crate::ports::http_status_on;
use crate::relay::Relay;
use crate::{Error, Result};

/// Where slirp4netns answers names (its manual page: the third address of its network).
const NAMESERVER: &str = "10.0.2.3";

/// Is there a tool that gives the engine a way out?
pub fn has_network() -> bool {
    std::path::Path::new("/dev/net/tun").exists() && on_path("slirp4netns")
}

/// The engine.
pub struct Engine {
    layout: Layout,
    which: OwnEngine,
    /// The port of the registry that it reaches at its localhost.
    registry_port: u16,
    network: bool,
    /// The first process in its namespaces, for those who want to go there.
    inside: watch::Sender<Option<u32>>,
}

impl Engine {
    /// Writes its configuration; `allow` is what it gives to builds that a worker asks it for.
    ///
    /// # Errors
    /// What it needs isn't installed, or the configuration can't be written.
    pub fn prepare(
        layout: &Layout,
        which: OwnEngine,
        registry_port: u16,
        allow: &Entitlements,
    ) -> Result<Self> {
        for (program, package) in [
            ("dockerd", "docker.io"),
            ("containerd", "containerd"),
            ("runc", "runc"),
            ("iptables", "iptables"),
            ("ip", "iproute2"),
            ("unshare", "util-linux"),
        ] {
            if !on_path(program) {
                return Err(Error::Usage(format!(
                    "{program} isn't installed, and an own engine needs it: sudo apt-get install {package}; or name an \
                     engine that is there with --engine ADDRESS"
                )));
            }
        }
        let mut config = json!({
            "features": {"containerd-snapshotter": true},
            "data-root": layout.join(which.folder()).join("data"),
            // Both are in the private /run: what a killed engine wrote there must not mislead the next one.
            "exec-root": "/run/docker",
            "pidfile": "/run/dockerd.pid",
            "hosts": [format!("unix://{}", layout.engine_socket(which).display())],
            "cgroup-parent": format!("/{}", layout.group_of(which)),
            // systemd, where there is one, knows nothing of our process namespace.
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "shutdown-timeout": 5,
            "builder": {"entitlements": {
                "network-host": allow.contains(&Entitlement::NetworkHost),
                "security-insecure": allow.contains(&Entitlement::SecurityInsecure),
            }},
        });
        if which == OwnEngine::Trusted {
            config["registry-mirrors"] = json!([format!("http://localhost:{registry_port}")]);
        }
        layout.write(&layout.join(which.folder()).join("daemon.json"), &config.to_string())?;
        Ok(Self {
            layout: layout.clone(),
            which,
            registry_port,
            network: has_network(),
            inside: watch::Sender::new(None),
        })
    }

    /// The first process in its namespaces, as it changes.
    pub fn inside(&self) -> watch::Receiver<Option<u32>> {
        self.inside.subscribe()
    }

    /// True when builds can have a way out.
    pub fn can_have_network(&self) -> bool {
        self.network
    }

    async fn first_inside(&self, child: &mut Child) -> Result<u32, String> {
        let outside = child.pid();
        let inside = until_ready(child, Duration::from_secs(20), |_| {
            // setpriv becomes unshare and keeps its number; unshare's only child is the one.
            ready(all().find(|pid| parent(*pid) == Some(outside)))
        })
        .await?;
        child.aim_at(inside).map_err(|e| format!("the engine's first process: {e}"))?;
        Ok(inside)
    }

    /// Its loopback comes up a moment after its first process.
    async fn relay(&self, child: &mut Child, inside: u32) -> Result<Relay, String> {
        let begin = Instant::now();
        loop {
            match Relay::start(inside, self.registry_port) {
                Ok(relay) => return Ok(relay),
                Err(_) if child.ended().is_none() && begin.elapsed() < Duration::from_secs(10) => {
                    sleep(POLL).await
                }
                Err(e) => {
                    return Err(child.ended().map_or_else(
                        || format!("the registry can't be brought to the engine: {e}"),
                        |status| child.obituary(status),
                    ));
                }
            }
        }
    }
}

/// Takes the number back when the engine is over, or did not come up.
struct Inside(watch::Sender<Option<u32>>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

impl Part for Engine {
    fn name(&self) -> &'static str {
        self.which.name()
    }

    fn start(&self) -> BoxFuture<'_, Result<Started, String>> {
        Box::pin(async {
            let group = self.layout.group_of(self.which);
            let _ = ask(move || Some(crate::sweep::group(&group))).await;
            let init = text(&own_program("farm-local")?);
            let folder = self.layout.join(self.which.folder());
            let (config, data) = (text(&folder.join("daemon.json")), text(&folder.join("data")));
            let mut command: Vec<String> =
                ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
                    .map(str::to_owned)
                    .to_vec();
            command.extend([init, "engine-init".into(), "--config".into(), config, "--data".into(), data]);
            if self.network {
                command.extend(["--nameserver".to_owned(), NAMESERVER.to_owned()]);
            }
            if self.which == OwnEngine::Untrusted {
                command.push(format!("--closed={}", own_addresses().join(",")));
            }
            let mut recipe = Recipe::new(self.which.name(), command);
            recipe.env.push(("OTEL_TRACES_EXPORTER".to_owned(), "none".to_owned()));
            recipe.stop = Stop { signal: Signal::TERM, again_after: None, grace: Duration::from_secs(20) };
            let mut child = spawn(&self.layout, &recipe)?;
            let inside = self.first_inside(&mut child).await?;
            self.inside.send_replace(Some(inside));
            let tell = Inside(self.inside.clone());
            let relay = self.relay(&mut child, inside).await?;
            let socket = self.layout.engine_socket(self.which);
            let up = until_ready(&mut child, Duration::from_secs(60), |_| {
                let socket = socket.clone();
                ask(move || ping(&socket))
            });
            up.await?;
            let version = engine_version().unwrap_or_default();
            let reaches = match self.which {
                OwnEngine::Trusted => "",
                OwnEngine::Untrusted => ", cut off from this machine and its neighbours",
            };
            let detail = format!("docker {version}, in namespaces of its own{reaches}");
            Ok(Started { child, detail, guard: Some(Box::new((tell, relay))), depends_on: None })
        })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let socket = self.layout.engine_socket(self.which);
            ask(move || ping(&socket)).await.ok_or_else(|| "its API doesn't answer".to_owned())
        })
    }
}

/// This machine's addresses: what listens there is reached by them as well.
fn own_addresses() -> Vec<String> {
    let output = Command::new("ip").args(["-o", "-4", "addr"]).env_clear().envs(environment()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let lines =
        text.lines().filter_map(|line| line.split_whitespace().skip_while(|word| *word != "inet").nth(1));
    lines.filter_map(|address| address.split('/').next()).map(str::to_owned).collect()
}

/// `Some` when an engine answers on its socket. Blocks for two seconds at most.
pub(super) fn ping(socket: &std::path::Path) -> Option<()> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    http_status_on(&mut stream, "/_ping").filter(|status| *status == 200).map(|_| ())
}

/// The version of the dockerd that is installed.
pub fn engine_version() -> Option<String> {
    let output = Command::new("dockerd").arg("--version").env_clear().envs(environment()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.strip_prefix("Docker version ")?.split([',', ' ']).next()?.to_owned())
}

/// The way out of the engine's network: slirp4netns, a network stack in user space. It changes neither routes nor
/// packet filters of the machine, and whatever these allow its user, builds can reach.
pub struct Network {
    layout: Layout,
    which: OwnEngine,
    inside: watch::Receiver<Option<u32>>,
}

impl Network {
    /// For the engine that this belongs to.
    pub fn new(layout: &Layout, which: OwnEngine, inside: watch::Receiver<Option<u32>>) -> Self {
        Self { layout: layout.clone(), which, inside }
    }
}

impl Part for Network {
    fn name(&self) -> &'static str {
        self.which.network()
    }

    fn start(&self) -> BoxFuture<'_, Result<Started, String>> {
        Box::pin(async {
            let mut inside = self.inside.clone();
            let engine =
                inside.wait_for(Option::is_some).await.map_err(|_| "the engine is gone")?.unwrap_or_default();
            inside.mark_unchanged();
            let engine = engine.to_string();
            // Without host loopback: what listens on this machine's localhost only is not for builds.
            let recipe = Recipe::new(
                self.which.network(),
                ["slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", &engine, "tap0"],
            );
            let mut child = spawn(&self.layout, &recipe)?;
            let device = format!("/proc/{engine}/net/dev");
            until_ready(&mut child, Duration::from_secs(10), |_| {
                let is_there = std::fs::read_to_string(&device).is_ok_and(|table| table.contains("tap0:"));
                ready(is_there.then_some(()))
            })
            .await?;
            let detail = match self.which {
                OwnEngine::Trusted => "builds reach other networks (slirp4netns)",
                OwnEngine::Untrusted => "builds reach public addresses (slirp4netns)",
            };
            let detail = detail.to_owned();
            Ok(Started { child, detail, guard: None, depends_on: Some(inside) })
        })
    }
}
