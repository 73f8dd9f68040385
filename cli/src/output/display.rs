//! How a build is shown while it runs: on a terminal, as plain lines, as JSON, or not at all.

use std::io::IsTerminal as _;

use farm_proto::v1::Build;

use super::events::{EventLines, message};
use super::live::Live;
use super::progress::{Progress, SeenWarning};
use super::{Mode, Out};
use crate::error::{Error, Result};
use crate::follow::Seen;

/// Where the progress of a build goes.
pub struct Display {
    kind: Kind,
    /// The view's and the lines' own place.
    out: Out,
}

enum Kind {
    Live(Box<Live>),
    Plain(Box<Progress>),
    Json(Box<EventLines>),
    Quiet(Box<EventLines>),
}

impl Display {
    /// `to_stderr`: standard output is for something else.
    ///
    /// # Errors
    /// A terminal was asked for, and there is none.
    pub fn new(mode: Mode, to_stderr: bool) -> Result<Self> {
        let is_terminal =
            if to_stderr { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let is_dumb = set("TERM").is_some_and(|term| term == "dumb");
        let mode = match mode {
            Mode::Auto if is_terminal && !is_dumb => Mode::Tty,
            Mode::Auto => Mode::Plain,
            Mode::Tty if !is_terminal => {
                return Err(Error::Usage(
                    "--progress tty: the output is no terminal; use plain, or auto, which chooses".to_owned(),
                ));
            }
            mode => mode,
        };
        // https://no-color.org: set, to whatever but nothing.
        let colours = !is_dumb && set("NO_COLOR").is_none();
        let kind = match mode {
            Mode::Tty if to_stderr => Kind::Live(Box::new(Live::on(std::io::stderr(), colours))),
            Mode::Tty => Kind::Live(Box::new(Live::on(std::io::stdout(), colours))),
            Mode::Json => Kind::Json(Box::default()),
            Mode::Quiet => Kind::Quiet(Box::default()),
            Mode::Auto | Mode::Plain => Kind::Plain(Box::new(Progress::new(None))),
        };
        Ok(Self { kind, out: if to_stderr { Out::stderr() } else { Out::stdout() } })
    }

    /// True when it is drawn anew as time passes.
    pub fn is_live(&self) -> bool {
        matches!(self.kind, Kind::Live(_))
    }

    /// A line about the build as a whole.
    pub fn line(&mut self, line: &str) {
        match &mut self.kind {
            Kind::Live(live) => live.line(line),
            Kind::Plain(_) => self.out.line(line),
            Kind::Json(_) => self.out.line(&message(line)),
            Kind::Quiet(_) => {}
        }
    }

    /// Tells of a build that began without us, so that what it has said already is introduced.
    pub fn introduce(&mut self, build: &Build) {
        if let Kind::Plain(progress) = &mut self.kind {
            progress.introduce(build);
        }
    }

    /// What the farm tells, heard at `now_ms`.
    pub fn seen(&mut self, seen: &Seen<'_>, now_ms: i64) {
        match (&mut self.kind, seen) {
            (Kind::Live(live), Seen::Build(build)) => live.build(build, now_ms),
            (Kind::Live(live), Seen::Attempt(events)) => live.events(events),
            (Kind::Live(live), Seen::Away(why)) => live.away(Some(why)),
            (Kind::Live(live), Seen::Back) => live.away(None),
            (Kind::Plain(progress), Seen::Build(build)) => self.out.lines(progress.build(build)),
            (Kind::Plain(progress), Seen::Attempt(events)) => self.out.lines(progress.events(events)),
            (Kind::Json(lines), Seen::Build(build)) => self.out.lines(lines.build(build)),
            (Kind::Json(lines), Seen::Attempt(events)) => self.out.lines(lines.events(events)),
            (Kind::Quiet(lines), Seen::Attempt(events)) => drop(lines.events(events)),
            (Kind::Quiet(_), _) => {}
            (_, Seen::Away(why)) => {
                self.line(&format!("the farm doesn't answer ({why}); the build goes on, trying again"));
            }
            (_, Seen::Back) => self.line("the farm is back"),
        }
    }

    /// What is done before there is a build; `None`: nothing more.
    pub fn prepare(&mut self, text: Option<&str>) {
        if let Kind::Live(live) = &mut self.kind {
            live.prepare(text);
        }
    }

    /// Draws what is drawn.
    pub fn draw(&mut self, now_ms: i64) {
        if let Kind::Live(live) = &mut self.kind {
            live.draw(now_ms);
        }
    }

    /// Asks something, or (`None`) no more.
    pub fn ask(&mut self, question: Option<&str>) {
        if let Kind::Live(live) = &mut self.kind {
            live.ask(question);
        }
    }

    /// The warnings so far, each once.
    pub fn warnings(&self) -> &[SeenWarning] {
        match &self.kind {
            Kind::Live(live) => live.warnings(),
            Kind::Plain(progress) => progress.warnings(),
            Kind::Json(lines) | Kind::Quiet(lines) => lines.warnings(),
        }
    }

    /// The end: of the build, with what there is to say of it, or (`None`) of the watching.
    pub fn finish(&mut self, build: Option<&Build>, summary: Vec<String>) {
        match &mut self.kind {
            Kind::Live(live) => live.finish(summary),
            Kind::Plain(progress) => {
                self.out.lines(progress.finish());
                self.out.lines(summary);
            }
            Kind::Json(lines) => self.out.lines(lines.finish()),
            Kind::Quiet(_) => {
                let digest = build
                    .filter(|build| build.state == "succeeded")
                    .and_then(|build| build.publication.as_ref())
                    .map(|publication| publication.index_digest.as_str());
                match digest.filter(|digest| !digest.is_empty()) {
                    Some(digest) => self.out.line(digest),
                    // Of what went wrong even the quiet want to hear.
                    None if build.is_some_and(|build| build.state != "succeeded") => {
                        Out::stderr().lines(summary);
                    }
                    None => {}
                }
            }
        }
    }
}
