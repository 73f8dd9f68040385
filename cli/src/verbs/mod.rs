//! The verbs, one a file: the arguments, what is checked here, and the calls.

pub mod attach;
pub mod builds;
pub mod cancel;
pub mod check;
pub mod completions;
pub mod config;
pub mod down;
pub mod inspect;
mod local_logs;
pub mod login;
pub mod logout;
pub mod logs;
pub mod retry;
pub mod run;
pub mod show;
pub mod status;
pub mod submit;
pub mod test;
pub mod up;
mod watch;
pub mod workers;

use chrono::Utc;
use farm_types::ShortId;

use crate::error::Result;

/// Milliseconds since 1970.
fn now_ms() -> i64 {
    Utc::now().timestamp_millis()
}

/// A build's id as it was typed, in its normal form.
fn build_id(text: &str) -> Result<String> {
    Ok(text.parse::<ShortId>()?.to_string())
}
