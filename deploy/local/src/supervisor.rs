//! The process behind `farm up`: starts the parts in order, keeps them, answers, and stops them in order.
//!
//! One thread: the kernel ties the death signal of a child to the thread that started it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::binfmt::Changes;
use crate::child::Record;
use crate::control::{Event, Request, Status};
use crate::keeper::{Board, First, keep, now_ms};
use crate::layout::{Layout, give_to_caller};
use crate::parts::{Coordinator, Engine, Network, Part, Postgres, Registry, Worker};
use crate::settings::Settings;
use crate::{Error, Result, binfmt, checks, failed, logs, sweep};

/// How often logs are looked at.
const LOGS_EVERY: Duration = Duration::from_secs(30);

/// A supervisor's whole life. What happens while it starts is written to standard output as lines of
/// [`Event`]; whoever reads them may go away at any time.
///
/// # Errors
/// It can't be started; nothing is left running then. The error was told already.
pub async fn run(layout: Layout, settings: Settings) -> Result<()> {
    let mut tell = Teller(Some(io::stdout()));
    match start(&layout, &settings, &mut tell).await {
        Ok(farm) => {
            tell.say(&Event::Ready(Box::new(farm.status("up"))));
            farm.serve().await;
            Ok(())
        }
        Err(error) => {
            tell.say(&Event::Failed(error.to_string(), matches!(error, Error::Usage(_))));
            Err(error)
        }
    }
}

/// Where the starting supervisor reports to.
struct Teller(Option<io::Stdout>);

impl Teller {
    fn say(&mut self, event: &Event) {
        if let Some(out) = &mut self.0
            && out.write_all(event.line().as_bytes()).and_then(|()| out.flush()).is_err()
        {
            self.0 = None;
        }
    }
}

/// A part that is being kept.
struct Kept {
    name: String,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

struct Farm {
    layout: Layout,
    settings: Settings,
    board: Board,
    kept: Vec<Kept>,
    notices: Vec<String>,
    since_ms: i64,
    control: UnixListener,
    _lock: File,
}

async fn start(layout: &Layout, settings: &Settings, tell: &mut Teller) -> Result<Farm> {
    layout.prepare()?;
    let Some(lock) = layout.lock()? else {
        return Err(Error::Usage(format!(
            "another farm up works in {}; see farm status",
            layout.root().display()
        )));
    };
    let found = sweep::sweep(layout);
    if !found.is_empty() {
        tell.say(&Event::Notice(format!("ended what a killed farm had left: {}", found.join(", "))));
    }
    checks::before(layout, settings)?;
    checks::disk(layout)?;
    let me = Record::of(std::process::id(), "supervisor").map_err(|e| failed("its own record", &e))?;
    me.write(&layout.run("supervisor.json"))
        .map_err(|e| failed(layout.run("supervisor.json").display(), &e))?;
    let socket = layout.control_socket();
    let _ = fs::remove_file(&socket);
    let control = UnixListener::bind(&socket).map_err(|e| failed(socket.display(), &e))?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))
        .map_err(|e| failed(socket.display(), &e))?;
    give_to_caller(&socket);
    let mut farm = Farm {
        layout: layout.clone(),
        settings: settings.clone(),
        board: Board::default(),
        kept: Vec::new(),
        notices: Vec::new(),
        since_ms: now_ms(),
        control,
        _lock: lock,
    };
    if let Err(error) = farm.start_parts(tell).await {
        farm.stop(&mut |_| ()).await;
        return Err(error);
    }
    Ok(farm)
}

impl Farm {
    async fn start_parts(&mut self, tell: &mut Teller) -> Result<()> {
        let (layout, settings) = (self.layout.clone(), self.settings.clone());
        // First what the others need. The engine takes longest and goes first.
        let mut first = Vec::new();
        if settings.engine.is_none() {
            let engine = Engine::prepare(&layout, settings.registry_port)?;
            let inside = engine.inside();
            let has_network = engine.can_have_network();
            first.push(self.keep(Arc::new(engine)));
            if has_network {
                first.push(self.keep(Arc::new(Network::new(&layout, inside))));
            } else {
                self.notice(
                    tell,
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
        first.push(self.keep(Arc::new(postgres)));
        // The coordinator needs Postgres only; what fails first is told first.
        let postgres = first.pop().into_iter().collect();
        self.all_up(postgres, tell).await?;
        first.push(self.keep(Arc::new(Coordinator::new(&layout, settings.port))));
        self.all_up(first, tell).await?;
        let workers = self.workers(tell);
        let workers = workers.into_iter().map(|worker| self.keep(Arc::new(worker))).collect();
        self.all_up(workers, tell).await
    }

    /// One for what is native here, and one for what is emulated. Both are on one engine and share its slots.
    fn workers(&mut self, tell: &mut Teller) -> Vec<Worker> {
        let settings = self.settings.clone();
        let own = format!("unix://{}", self.layout.engine_socket().display());
        let engine = settings.engine.clone().unwrap_or(own);
        let is_here = engine.starts_with("unix://");
        let (native, emulated) = settings.split();
        let mut wanted: Vec<String> = emulated.iter().map(|platform| (*platform).to_owned()).collect();
        let mut may_emulate = settings.emulation && (settings.platforms.is_empty() || !wanted.is_empty());
        if may_emulate && is_here {
            if settings.platforms.is_empty() {
                let other = if Settings::own_architecture() == "amd64" { "arm64" } else { "amd64" };
                may_emulate = self.emulator(&format!("linux/{other}"), tell) || emulates_anything();
            } else {
                wanted.retain(|platform| self.emulator(platform, tell));
                may_emulate = !wanted.is_empty();
            }
        }
        let worker = |name: &str, offers: Vec<String>| Worker {
            layout: self.layout.clone(),
            name: name.to_owned(),
            engine: engine.clone(),
            port: settings.port,
            slots: settings.slots,
            offers,
        };
        let only = |what: &str| vec!["--only".to_owned(), what.to_owned()];
        let told = |list: String| vec!["--platforms".to_owned(), list];
        let mut workers = Vec::new();
        let name = format!("w-{}", Settings::own_architecture());
        if settings.platforms.is_empty() {
            workers.push(worker(&name, only("native")));
        } else if !native.is_empty() {
            workers.push(worker(&name, told(native.join(","))));
        }
        if may_emulate {
            let offers = match settings.platforms.is_empty() {
                true => only("emulated"),
                false => told(wanted.iter().map(|p| format!("{p}=emulated")).collect::<Vec<_>>().join(",")),
            };
            workers.push(worker("w-qemu", offers));
        }
        workers
    }

    fn emulator(&mut self, platform: &str, tell: &mut Teller) -> bool {
        match binfmt::enable(platform.split('/').nth(1).unwrap_or_default(), &self.layout) {
            Ok(None) => true,
            Ok(Some(name)) => {
                self.notice(
                    tell,
                    &format!("registered {name} in this kernel; farm down --purge takes it back"),
                );
                true
            }
            Err(why) => {
                self.notice(tell, &format!("{platform} is not offered: {why}"));
                false
            }
        }
    }

    fn notice(&mut self, tell: &mut Teller, text: &str) {
        self.notices.push(text.to_owned());
        tell.say(&Event::Notice(text.to_owned()));
    }

    fn keep(&mut self, part: Arc<dyn Part>) -> (String, oneshot::Receiver<First>) {
        let (sender, first) = oneshot::channel();
        let name = part.name().to_owned();
        self.board.add(&name);
        let stop = CancellationToken::new();
        let task = tokio::spawn(keep(part, self.board.clone(), sender, stop.clone()));
        self.kept.push(Kept { name: name.clone(), stop, task });
        (name, first)
    }

    async fn all_up(&self, parts: Vec<(String, oneshot::Receiver<First>)>, tell: &mut Teller) -> Result<()> {
        let (sender, mut ends) = mpsc::channel(parts.len().max(1));
        for (name, first) in parts {
            let sender = sender.clone();
            tokio::spawn(async move { drop(sender.send((name, first.await)).await) });
        }
        drop(sender);
        while let Some((part, end)) = ends.recv().await {
            match end {
                Ok(Ok((text, took))) => {
                    let ms = u64::try_from(took.as_millis()).unwrap_or_default();
                    tell.say(&Event::Step { part, text, ms });
                }
                Ok(Err(why)) => {
                    let log = self.layout.log(&part);
                    return Err(Error::Failed(format!(
                        "{part} doesn't start: {why}\n(all of it: {})",
                        log.display()
                    )));
                }
                Err(_) => return Err(Error::Failed(format!("{part}: its keeper died"))),
            }
        }
        Ok(())
    }

    fn status(&self, state: &str) -> Status {
        let own = format!("unix://{}", self.layout.engine_socket().display());
        Status {
            state: state.to_owned(),
            pid: std::process::id(),
            since_ms: self.since_ms,
            settings: self.settings.clone(),
            url: format!("http://127.0.0.1:{}", self.settings.port),
            registry: format!("localhost:{}", self.settings.registry_port),
            engine: self.settings.engine.clone().unwrap_or(own),
            state_dir: self.layout.root().display().to_string(),
            token_file: self.layout.token().display().to_string(),
            notices: self.notices.clone(),
            parts: self.board.parts(),
        }
    }

    /// Answers until it is told to stop, then stops.
    async fn serve(mut self) {
        let (asks, mut asked) = mpsc::channel::<(Request, UnixStream)>(16);
        let (Ok(mut terminate), Ok(mut interrupt)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return self.stop(&mut |_| ()).await;
        };
        let mut rounds = interval(LOGS_EVERY);
        let mut dead = tokio::time::interval(Duration::from_secs(1));
        let teller = loop {
            tokio::select! {
                _ = terminate.recv() => break None,
                _ = interrupt.recv() => break None,
                Ok((stream, _)) = self.control.accept() => {
                    let asks = asks.clone();
                    tokio::spawn(async move {
                        if let Some(ask) = read_request(stream).await {
                            let _ = asks.send(ask).await;
                        }
                    });
                }
                Some((request, mut stream)) = asked.recv() => match request {
                    Request::Status => {
                        let line = Event::Status(Box::new(self.status("up"))).line();
                        let _ = stream.write_all(line.as_bytes()).await;
                    }
                    Request::Down => break Some(stream),
                },
                _ = rounds.tick() => self.keep_logs_small(),
                // A farm whose folder was removed under it has nothing to run from.
                _ = dead.tick() => if !self.layout.is_marked() { break None },
            }
        };
        let (lines, mut line) = mpsc::unbounded_channel::<String>();
        let writer = tokio::spawn(async move {
            let mut teller = teller;
            while let Some(text) = line.recv().await {
                if let Some(stream) = &mut teller
                    && stream.write_all(text.as_bytes()).await.is_err()
                {
                    teller = None;
                }
            }
        });
        let socket = self.layout.control_socket();
        let record = self.layout.run("supervisor.json");
        self.stop(&mut |event| drop(lines.send(event.line()))).await;
        let _ = (fs::remove_file(socket), fs::remove_file(record));
        let _ = lines.send(Event::Stopped.line());
        drop((lines, self));
        let _ = writer.await;
    }

    fn keep_logs_small(&self) {
        for part in self.board.parts() {
            logs::keep_small(&self.layout.log(&part.name));
        }
        logs::keep_small(&self.layout.log("supervisor"));
    }

    /// Workers first: they abort their solves and give their jobs back. Then the engine, the coordinator, and what
    /// both need.
    async fn stop(&mut self, say: &mut dyn FnMut(Event)) {
        let rank = |name: &str| match name {
            "postgres" => 5,
            "registry" => 4,
            "coordinator" => 3,
            "engine" => 2,
            "network" => 1,
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
                say(Event::Step { part: kept.name, text: "stopped".to_owned(), ms });
            }
        }
        // What a killed part leaves is gone with its namespaces; its empty groups are ours to remove.
        sweep::group(&self.layout.group());
        let _ = fs::remove_file(self.layout.engine_socket());
        Changes::load(&self.layout).unmount(&self.layout);
    }
}

async fn read_request(stream: UnixStream) -> Option<(Request, UnixStream)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    tokio::select! {
        read = reader.read_line(&mut line) => drop(read.ok()?),
        () = sleep(Duration::from_secs(5)) => return None,
    }
    Some((serde_json::from_str(&line).ok()?, reader.into_inner()))
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
