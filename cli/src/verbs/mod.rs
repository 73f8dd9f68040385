//! The verbs, one a file: the arguments, what is checked here, and the calls.

pub mod admin;
pub mod approve;
pub mod attach;
pub mod audit;
pub mod builds;
pub mod cancel;
pub mod check;
pub mod completions;
pub mod config;
pub mod copy;
pub mod down;
pub mod du;
mod expected;
pub mod git;
pub mod history;
pub mod hook;
pub mod inspect;
mod local_logs;
pub mod login;
pub mod logout;
pub mod logs;
pub mod ls;
pub mod member;
pub mod mirror;
pub mod notice;
pub mod project;
pub mod prune;
pub mod registry;
pub mod retry;
pub mod rm;
pub mod rules;
pub mod run;
pub mod secret;
pub mod show;
pub mod signing_key;
pub mod status;
pub mod submit;
pub mod test;
pub mod token;
pub mod trust;
pub mod up;
mod watch;
mod who;
pub mod whoami;
pub mod workers;

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::str::FromStr;

use chrono::Utc;
use farm_types::{Invalid, ShortId};

use crate::error::{Error, Result};

/// Milliseconds since 1970.
fn now_ms() -> i64 {
    Utc::now().timestamp_millis()
}

/// A build's id as it was typed, in its normal form.
fn build_id(text: &str) -> Result<String> {
    Ok(text.parse::<ShortId>()?.to_string())
}

/// The value of a flag, or of an argument, which the error calls by this name.
fn of_flag<T: FromStr<Err = Invalid>>(flag: &str, text: &str) -> Result<T, Invalid> {
    text.parse().map_err(|e: Invalid| Invalid { thing: flag.to_owned(), ..e })
}

/// Asks on the terminal whether to do what can't be taken back.
///
/// # Errors
/// There is no terminal; `what` says what would be done.
fn confirm(question: &str, what: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::Usage(format!("{what}; there is no terminal to ask on: add --yes")));
    }
    eprint!("{question} [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
