//! Questions on the terminal: a word that is shown, and one that isn't.
//!
//! They are asked on standard error, so that standard output stays what a command answers.

use std::io::{IsTerminal as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::error::{Error, Result};

/// True when there is somebody to ask.
pub fn can_be_asked() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks until the answer is yes or no; no input is a no.
///
/// # Errors
/// Ctrl-C was pressed.
pub async fn yes(question: &str) -> Result<bool> {
    loop {
        match line(&format!("{question} [yes/no] ")).await?.as_deref().map(str::trim) {
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
pub async fn word(question: &str) -> Result<String> {
    Ok(line(question).await?.unwrap_or_default().trim().to_owned())
}

/// Asks for something that isn't shown while it is typed.
///
/// # Errors
/// Ctrl-C was pressed.
pub async fn secret(question: &str) -> Result<String> {
    let hidden = Hidden::begin();
    let answer = line(question).await;
    drop(hidden);
    // The line break that was typed isn't shown either.
    say("\n");
    Ok(answer?.unwrap_or_default())
}

/// A line, or `None` at the end of the input.
async fn line(question: &str) -> Result<Option<String>> {
    say(question);
    let reading = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        matches!(std::io::stdin().read_line(&mut line), Ok(1..)).then_some(line)
    });
    tokio::select! {
        line = reading => Ok(line.ok().flatten()),
        // Not by the signal itself: the terminal is to be left as it was.
        _ = tokio::signal::ctrl_c() => Err(Error::Cancelled("nothing was changed".to_owned())),
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
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}
