//! A running build on a terminal: a line for each platform, what runs below it, all of it drawn ten times a second.
//!
//! [`view`] knows the build, [`frame`] makes lines of it that fit, [`screen`] draws them.

mod frame;
mod screen;
mod view;

use std::io::Write;
use std::time::Duration;

use farm_proto::v1::{AttemptEvents, Build};

use self::frame::{Size, frame};
use self::screen::Screen;
use self::view::View;
use super::progress::SeenWarning;
use super::window;

/// How often it is drawn.
pub const EVERY: Duration = Duration::from_millis(100);

/// The live view.
pub struct Live {
    view: View,
    screen: Screen,
    size: Box<dyn Fn() -> Size + Send>,
    /// What is to stay above, and wasn't drawn yet.
    stay: Vec<String>,
    /// The size when it was to be drawn last.
    last: Option<Size>,
    closed: bool,
}

impl Live {
    /// On a terminal whose size is asked at each drawing.
    pub fn new(to: Box<dyn Write + Send>, colours: bool, size: Box<dyn Fn() -> Size + Send>) -> Self {
        Self {
            view: View::default(),
            screen: Screen::new(to, colours),
            size,
            stay: Vec::new(),
            last: None,
            closed: false,
        }
    }

    /// On standard output or standard error, whichever this is.
    pub fn on(file: impl Write + std::os::fd::AsFd + Send + 'static, colours: bool) -> Self {
        let fd = file.as_fd().try_clone_to_owned().ok();
        let size = move || {
            let known = fd.as_ref().and_then(window);
            known.map_or(Size { width: 80, height: 24 }, |(width, height)| Size { width, height })
        };
        Self::new(Box::new(file), colours, Box::new(size))
    }

    /// The warnings so far, each once.
    pub fn warnings(&self) -> &[SeenWarning] {
        self.view.warnings()
    }

    /// A line that stays.
    pub fn line(&mut self, line: &str) {
        self.stay.push(line.to_owned());
    }

    /// The build as it is now.
    pub fn build(&mut self, build: &Build, now_ms: i64) {
        let stay = self.view.build(build, now_ms);
        self.stay.extend(stay);
    }

    /// A piece of an attempt's stream.
    pub fn events(&mut self, events: &AttemptEvents) {
        self.view.events(events);
    }

    /// The farm doesn't answer, or (`None`) answers again.
    pub fn away(&mut self, why: Option<&str>) {
        self.view.away = why.map(str::to_owned);
    }

    /// What is done before there is a build; `None`: nothing more.
    pub fn prepare(&mut self, text: Option<&str>) {
        self.view.preparing = text.map(str::to_owned);
    }

    /// Asks something in the last line, or (`None`) no more.
    pub fn ask(&mut self, question: Option<&str>) {
        self.view.question = question.map(str::to_owned);
    }

    /// Draws it as it is.
    pub fn draw(&mut self, now_ms: i64) {
        let size = (self.size)();
        // Somebody pulls at the window: it is drawn when it rests.
        if self.last.replace(size).is_some_and(|last| last != size) {
            return;
        }
        let lines = frame(&self.view, size, now_ms);
        self.put(&lines, size);
    }

    /// Takes the view away; these lines stay in its place.
    pub fn finish(&mut self, lines: impl IntoIterator<Item = String>) {
        self.stay.extend(lines);
        let size = (self.size)();
        self.put(&[], size);
    }

    fn put(&mut self, lines: &[frame::Line], size: Size) {
        let stay = std::mem::take(&mut self.stay);
        // A build goes on though nobody reads of it.
        if !self.closed {
            self.closed = self.screen.draw(&stay, lines, size).is_err();
        }
    }
}
