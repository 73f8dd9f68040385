//! A running build on a terminal: what the screen shows at some widths, in a flood of output, and after Ctrl-C.
//!
//! The command runs on a pseudo-terminal; what it writes goes through a terminal emulator, and the emulator's screen is
//! what is looked at.

use std::io::{Read as _, Write};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use farm_tests::farm::Farm;
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use rustix::fs::{Mode, OFlags};
use rustix::termios::{LocalModes, tcgetattr};

use crate::gate::Gate;
use crate::support::*;

pub struct Terminal {
    master: Box<dyn MasterPty + Send>,
    keys: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    screen: Arc<Mutex<vt100::Parser>>,
    /// Every byte that was written.
    raw: Arc<Mutex<Vec<u8>>>,
}

fn size(cols: u16, rows: u16) -> PtySize {
    PtySize { rows, cols, pixel_width: 0, pixel_height: 0 }
}

impl Terminal {
    fn run(farm: &Farm, cols: u16, rows: u16, args: &[&str], env: &[(&str, &str)]) -> Terminal {
        Terminal::run_like(&farm.command(args), cols, rows, env)
    }

    /// Runs what another command would, with its environment and no other.
    pub fn run_like(like: &std::process::Command, cols: u16, rows: u16, env: &[(&str, &str)]) -> Terminal {
        let pair = native_pty_system().openpty(size(cols, rows)).unwrap();
        let mut command = CommandBuilder::new(like.get_program());
        command.env_clear();
        command.args(like.get_args());
        for (name, value) in like.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        command.env("TERM", "xterm-256color");
        for (name, value) in env {
            command.env(name, value);
        }
        let child = pair.slave.spawn_command(command).unwrap();
        // The other end is the child's alone, so that its end is seen.
        drop(pair.slave);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, cols, 1000)));
        let raw = Arc::new(Mutex::new(Vec::new()));
        let mut reader = pair.master.try_clone_reader().unwrap();
        std::thread::spawn({
            let (screen, raw) = (Arc::clone(&screen), Arc::clone(&raw));
            move || {
                let mut piece = [0; 65536];
                while let Ok(read @ 1..) = reader.read(&mut piece) {
                    raw.lock().unwrap().extend_from_slice(&piece[..read]);
                    screen.lock().unwrap().process(&piece[..read]);
                }
            }
        });
        let keys = pair.master.take_writer().unwrap();
        Terminal { master: pair.master, keys, child, screen, raw }
    }

    /// What can be seen now, without empty lines.
    fn lines(&self) -> Vec<String> {
        let contents = self.screen.lock().unwrap().screen().contents();
        contents.lines().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect()
    }

    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn(&[String]) -> bool) -> Vec<String> {
        let begin = Instant::now();
        loop {
            let lines = self.lines();
            if holds(&lines) {
                return lines;
            }
            assert!(begin.elapsed() < LONG, "{what} is not seen:\n{}", lines.join("\n"));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    #[track_caller]
    pub fn shows(&self, text: &str) -> Vec<String> {
        self.until(text, |lines| lines.iter().any(|line| line.contains(text)))
    }

    /// Between two drawings, and for both sides at once, as a terminal does it: a drawing for one width on a screen of
    /// another would be the test's own doing.
    fn resize(&self, cols: u16, rows: u16) {
        let drawn = self.drawings();
        let begin = Instant::now();
        while self.drawings() == drawn {
            assert!(begin.elapsed() < LONG, "nothing is drawn any more");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let mut screen = self.screen.lock().unwrap();
        screen.screen_mut().set_size(rows, cols);
        self.master.resize(size(cols, rows)).unwrap();
    }

    fn drawings(&self) -> usize {
        self.raw().matches(DRAWN).count()
    }

    pub fn press(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
        self.keys.flush().unwrap();
    }

    /// Whether what is typed is shown.
    pub fn echoes(&self) -> bool {
        let name = self.master.tty_name().unwrap();
        let terminal = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        tcgetattr(terminal).unwrap().local_modes.contains(LocalModes::ECHO)
    }

    #[track_caller]
    pub fn end(&mut self) -> u32 {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.exit_code();
            }
            assert!(begin.elapsed() < LONG, "it doesn't end:\n{}", self.lines().join("\n"));
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    pub fn raw(&self) -> String {
        String::from_utf8_lossy(&self.raw.lock().unwrap()).into_owned()
    }
}

fn count(lines: &[String], text: &str) -> usize {
    lines.iter().filter(|line| line.contains(text)).count()
}

/// What ends a drawing (synchronized output).
const DRAWN: &str = "\u{1b}[?2026l";

const BOTH_PLATFORMS: &str = "linux/amd64,linux/arm64";

#[test]
fn each_platform_has_its_line_whatever_the_width_and_in_the_end_there_is_the_summary() {
    let farm = small_farm();
    let gate = Gate::new();
    let context = gate.context();
    let tag = format!("{}:1", repository("terminal"));
    let args = ["submit", context.text(), "-t", &tag, "--platform", BOTH_PLATFORMS];
    let mut terminal = Terminal::run(&farm, 80, 24, &args, &[]);
    let arrivals = [gate.arrival(), gate.arrival()];
    let lines = terminal.until("both run", |lines| count(lines, "RUN python3") == 2);
    assert!(lines[0].starts_with("build "), "{lines:?}");
    let amd = lines.iter().find(|line| line.contains("linux/amd64")).unwrap();
    assert!(amd.contains("native") && amd.contains("w1") && amd.contains("2/3"), "{lines:?}");
    assert_eq!(count(&lines, "emulated"), 1, "{lines:?}");
    assert!(lines.iter().skip(1).all(|line| line.chars().count() < 80), "{lines:?}");

    terminal.resize(200, 24);
    let lines = terminal.until("the bar", |lines| count(lines, "█") == 2);
    assert!(count(&lines, "linux/amd64") == 1 && lines[0].starts_with("build "), "{lines:?}");
    // Narrower than what is drawn: nothing of the old drawing may stay.
    terminal.resize(40, 24);
    let lines = terminal.until("the narrow view", |lines| {
        count(lines, "  linux/") == 2
            && lines.iter().all(|line| line.chars().count() < 40 || line.starts_with("build"))
    });
    assert!(count(&lines, "█") == 0 && count(&lines, "build ") == 1, "{lines:?}");

    terminal.resize(120, 24);
    arrivals.into_iter().for_each(crate::gate::Arrival::open);
    let lines = terminal.shows("built in ");
    assert_eq!(terminal.end(), 0);
    // The view is gone, the summary has its place.
    assert_eq!(count(&lines, "native on w1"), 1, "{lines:?}");
    assert_eq!(count(&lines, "published"), 1, "{lines:?}");
    assert!(count(&lines, "RUN python3") == 0 && count(&lines, "█") == 0, "{lines:?}");
    assert!(lines.last().unwrap().contains("farm show"), "{lines:?}");
}

#[test]
fn before_there_is_a_build_it_is_said_what_is_done() {
    let mut farm = small_farm();
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    // A farm that is slow to answer.
    farm.coordinator().pause();
    let args = ["submit", context.text(), "--platform", "linux/amd64"];
    let mut terminal = Terminal::run(&farm, 100, 24, &args, &[]);
    terminal.shows("  reading ");
    farm.coordinator().cont();
    let lines = terminal.shows("built in ");
    assert_eq!((terminal.end(), count(&lines, "  reading ")), (0, 0), "{lines:?}");
}

#[test]
fn a_flood_of_output_is_drawn_as_often_as_it_can_be_read() {
    let farm = small_farm();
    // Far below the engine's limit in bytes, and some 20,000 lines a second.
    let step = format!("RUN : {}; for i in $(seq 60000); do echo $i; done\nRUN : end\n", nonce());
    let context = Context::new(&format!("FROM {BASE}\n{step}"));
    let args = ["submit", context.text(), "--platform", "linux/amd64"];
    let mut terminal = Terminal::run(&farm, 80, 24, &args, &[]);
    terminal.shows("built in ");
    assert_eq!(terminal.end(), 0);
    let raw = terminal.raw();
    let drawings = raw.matches("\u{1b}[?2026h").count();
    assert!(drawings > 2 && raw.len() / drawings < 4_000, "{drawings} drawings, {} bytes", raw.len());
    // Each is whole, and none clears what it then writes anew.
    assert_eq!(raw.matches(DRAWN).count(), drawings);
    assert!(!raw.contains("\u{1b}[2J") && !raw.contains("\u{1b}[H"));
}

#[test]
fn ctrl_c_asks_whether_to_leave_it_running_or_to_cancel_it() {
    let farm = small_farm();
    let gate = Gate::new();
    let begin = |farm: &Farm| {
        let context = gate.context();
        let terminal =
            Terminal::run(farm, 100, 24, &["submit", context.text(), "--platform", "linux/amd64"], &[]);
        let arrival = gate.arrival();
        (terminal, arrival, context)
    };
    // Another key, then l.
    let (mut terminal, arrival, _context) = begin(&farm);
    let id = build_id(&terminal.shows("build ").join("\n"));
    terminal.press(b"\x03");
    terminal.shows("l leaves it running, c cancels it");
    terminal.press(b"x");
    terminal.until("the question is gone", |lines| count(lines, "c cancels it") == 0);
    terminal.press(b"\x03");
    terminal.shows("l leaves it running");
    terminal.press(b"l");
    assert_eq!(terminal.end(), 0);
    terminal.shows(&format!("left running   farm attach {id}"));
    assert_eq!(show(&farm, &id)["state"], "running");
    arrival.open();
    until("it ends by itself", LONG, || (show(&farm, &id)["state"] == "succeeded").then_some(()));

    // c, and Ctrl-C twice.
    for second in [b"c", b"\x03"] {
        let (mut terminal, _arrival, _context) = begin(&farm);
        let id = build_id(&terminal.shows("build ").join("\n"));
        terminal.press(b"\x03");
        terminal.shows("c cancels it");
        terminal.press(second);
        assert_eq!(terminal.end(), 130);
        terminal.shows("cancelled after");
        assert_eq!(show(&farm, &id)["state"], "cancelled");
    }
}

#[test]
fn sigterm_cancels_without_a_question() {
    let farm = small_farm();
    let gate = Gate::new();
    let context = gate.context();
    let args = ["submit", context.text(), "--platform", "linux/amd64"];
    let mut terminal = Terminal::run(&farm, 100, 24, &args, &[]);
    let _arrival = gate.arrival();
    let id = build_id(&terminal.shows("build ").join("\n"));
    let pid = terminal.child.process_id().and_then(|pid| i32::try_from(pid).ok());
    let pid = pid.and_then(rustix::process::Pid::from_raw).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let lines = terminal.shows("cancelled after");
    assert_eq!((terminal.end(), count(&lines, "c cancels it")), (130, 0), "{lines:?}");
    assert_eq!(show(&farm, &id)["state"], "cancelled");
}

#[test]
fn colours_are_only_where_they_are_wanted() {
    let farm = small_farm();
    let context = Context::new(&format!("FROM {BASE}\nRUN echo {}; sleep 0.5; false\n", nonce()));
    let args = ["submit", context.text(), "--platform", "linux/amd64"];
    for (env, coloured) in
        [(&[][..], true), (&[("NO_COLOR", "1")][..], false), (&[("NO_COLOR", "")][..], true)]
    {
        let mut terminal = Terminal::run(&farm, 100, 24, &args, env);
        assert_eq!(terminal.end(), 1);
        terminal.shows("failed after");
        let raw = terminal.raw();
        assert_eq!(raw.contains("\u{1b}[2m") || raw.contains("\u{1b}[31m"), coloured, "{env:?} {raw:?}");
    }
    // A terminal that can't be drawn on gets lines.
    let mut dumb = Terminal::run(&farm, 100, 24, &args, &[("TERM", "dumb")]);
    assert_eq!(dumb.end(), 1);
    dumb.shows("failed after");
    assert!(!dumb.raw().contains('\u{1b}'));
}

#[test]
fn progress_can_be_plain_json_or_quiet_and_is_plain_where_there_is_no_terminal() {
    let farm = small_farm();
    let context = Context::new(&format!("FROM {BASE}\nRUN echo {}\n", nonce()));
    let tag = format!("{}:1", repository("progress"));
    let run = |more: &[&str]| {
        let mut args = vec!["submit", context.text(), "-t", &tag, "--platform", "linux/amd64"];
        args.extend(more);
        farm.cli(&args)
    };
    let plain = run(&[]).ok();
    assert!(plain.contains("linux/amd64 | ") && !plain.contains('\u{1b}'), "{plain}");
    let tty = run(&["--progress", "tty"]);
    assert!(tty.status == 2 && tty.stderr.contains("no terminal"), "{tty:?}");

    let events = run(&["--progress", "json", "--no-cache"]).ok();
    let events: Vec<serde_json::Value> = events
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    for kind in ["message", "build", "job", "attempt", "step", "log", "tag"] {
        assert!(events.iter().any(|event| event["type"] == kind), "{kind}: {events:?}");
    }
    let ended = events.iter().rfind(|event| event["type"] == "build").unwrap();
    assert_eq!(ended["state"], "succeeded");
    let digest =
        events.iter().rfind(|event| event["type"] == "tag").unwrap()["digest"].as_str().unwrap().to_owned();

    for quiet in [&["--quiet"][..], &["--progress", "quiet"], &["--progress", "none"]] {
        let out = run(quiet);
        assert_eq!((out.status, out.stdout.trim(), out.stderr.as_str()), (0, digest.as_str(), ""), "{out:?}");
    }
    let broken = Context::new(&format!("FROM {BASE}\nRUN false\n"));
    let out = farm.cli(&["submit", broken.text(), "--platform", "linux/amd64", "-q"]);
    assert!(out.status == 1 && out.stdout.is_empty() && out.stderr.contains("Dockerfile:2"), "{out:?}");
}
