//! Questions on the terminal: a word that is shown, and one that isn't.
//!
//! They are asked on standard error, so that standard output stays what a command answers.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::ctrl_c::CtrlC;
use crate::error::{Error, Result};

/// True when there is somebody to ask.
pub fn can_be_asked() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks until the answer is yes or no; no input is a no.
///
/// # Errors
/// Ctrl-C was pressed.
pub(crate) async fn yes(question: &str) -> Result<bool> {
    let mut ctrl_c = CtrlC::listen();
    loop {
        match line(&format!("{question} [yes/no] "), &mut ctrl_c).await?.as_deref().map(str::trim) {
            Some("yes") => return Ok(true),
            Some("no") | None => return Ok(false),
            Some(_) => say("Write yes or no, as a whole word.\n"),
        }
    }
}

/// Asks for a word.
///
/// # Errors
/// Ctrl-C was pressed.
pub(crate) async fn word(question: &str) -> Result<String> {
    Ok(line(question, &mut CtrlC::listen()).await?.unwrap_or_default().trim().to_owned())
}

/// A terminal gives no longer line, bytes: what is behind is lost.
const LONGEST_LINE: usize = 4095;
/// So long after a line the next one is there, if both were pasted; and after that one the next.
const PASTED: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// For so long what is pasted is taken off.
const MOST_PASTED: Duration = Duration::from_secs(5);

/// Asks for something of one line that isn't shown while it is typed.
///
/// # Errors
/// Ctrl-C was pressed; or it has more lines, or is too long for one: then none of it is taken, or left for whoever reads the terminal
/// next.
pub(crate) async fn secret(question: &str) -> Result<String> {
    secret_or(question, "paste one line only").await
}

/// The same; `cure` says what to do with what isn't one line.
///
/// # Errors
/// As of [`secret`].
pub(crate) async fn secret_or(question: &str, cure: &str) -> Result<String> {
    let mut ctrl_c = CtrlC::listen();
    let hidden = Hidden::begin();
    let answer = line(question, &mut ctrl_c).await;
    let more = match (&answer, hidden) {
        (Ok(Some(_)), Some(hidden)) => {
            let draining = tokio::task::spawn_blocking(move || {
                let more = hidden.drain();
                drop(hidden);
                more
            });
            draining.await.unwrap_or(false)
        }
        (_, hidden) => {
            drop(hidden);
            false
        }
    };
    // The line break that was typed isn't shown either.
    say("\n");
    let answer = answer?.unwrap_or_default();
    match check(&answer, more) {
        None => Ok(answer),
        Some(why) => Err(Error::Usage(format!("{why}, and nothing was taken: {cure}"))),
    }
}

/// What is wrong with a line that was typed or pasted, behind which there was `more`.
fn check(line: &str, more: bool) -> Option<&'static str> {
    let line = line.trim_end_matches(['\r', '\n']);
    if more {
        return Some("several lines came where one was asked for");
    }
    if line.trim_start().starts_with("-----BEGIN") {
        return Some("that is the first line of a key or certificate");
    }
    (line.len() >= LONGEST_LINE).then_some("a terminal takes no line that is as long")
}

/// A line, or `None` at the end of the input.
async fn line(question: &str, ctrl_c: &mut CtrlC) -> Result<Option<String>> {
    say(question);
    let reading = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        matches!(std::io::stdin().read_line(&mut line), Ok(1..)).then_some(line)
    });
    tokio::select! {
        line = reading => Ok(line.ok().flatten()),
        // Not by the signal itself: the terminal is to be left as it was.
        () = ctrl_c.pressed() => Err(Error::Cancelled("nothing was changed".to_owned())),
    }
}

fn say(text: &str) {
    let mut out = std::io::stderr();
    // Who can't read the question sees what is missing by the error that follows.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The terminal shows nothing of what is typed, until this is dropped.
struct Hidden(Termios);

impl Hidden {
    fn begin() -> Option<Self> {
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &hidden).ok()?;
        Some(Self(before))
    }

    /// Takes off what was typed or pasted behind the line; true: it was more than line breaks.
    fn drain(&self) -> bool {
        let mut raw = self.0.clone();
        // A line that has no end yet is given, too.
        raw.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON);
        raw.special_codes[SpecialCodeIndex::VMIN] = 0;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        if tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).is_err() {
            return false;
        }
        let (begin, mut more) = (Instant::now(), false);
        let mut piece = Zeroizing::new([0u8; 4096]);
        while begin.elapsed() < MOST_PASTED {
            let stdin = std::io::stdin();
            let mut waiting = [PollFd::new(&stdin, PollFlags::IN)];
            if !matches!(poll(&mut waiting, Some(&PASTED)), Ok(1..)) {
                break;
            }
            match rustix::io::read(&stdin, &mut piece[..]) {
                Ok(read @ 1..) => more |= piece[..read].iter().any(|byte| !matches!(byte, b'\r' | b'\n')),
                _ => break,
            }
        }
        more
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // What came meanwhile is none of the next command's either.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_one_line_is_told_apart_from_what_is() {
        assert_eq!(check("hunter2\n", false), None);
        assert_eq!(check("", false), None);
        assert!(check("hunter2\n", true).unwrap().contains("several lines"));
        let begin = ["-----BEGIN OPENSSH ", "PRIVATE KEY-----\n"].concat();
        assert!(check(&begin, false).unwrap().contains("first line of a key"));
        let long = "x".repeat(LONGEST_LINE);
        assert!(check(&format!("{long}\n"), false).unwrap().contains("as long"));
        assert_eq!(check(&format!("{}\n", &long[1..]), false), None);
    }
}
