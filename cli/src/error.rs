//! What a command ends with when it doesn't end well: the sentence and the exit code.
//!
//! Every message names the thing, the value and the cure. A server's status becomes one of these in one
//! place, [`Error::from_status`]; what the server calls invalid is shown in the server's words, since
//! those name the field.

use std::process::ExitCode;

use farm_source::ContextError;
use farm_types::Invalid;
use farm_types::chain::in_short;
use tonic::{Code, Status};

/// A command's unhappy end. The text is for a person and has no `error:` in front.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command, its files or its values can't be taken.
    #[error("{0}")]
    Usage(String),
    /// A file of the source has changed since it was hashed; reading the source anew may help.
    #[error("{0}")]
    Changed(String),
    /// No farm answers, it doesn't know the caller, or it failed inside.
    #[error("{0}")]
    Farm(String),
    /// The user ended it.
    #[error("{0}")]
    Cancelled(String),
}

impl Error {
    /// As it is printed: `error: …`, without what could move a terminal's cursor; some of its words are others'.
    pub fn shown(&self) -> String {
        let text = self.to_string();
        let lines: Vec<String> = text.lines().map(crate::output::text::harmless).collect();
        format!("error: {}", lines.join("\n"))
    }
}

pub use farm_client::is_connection;

/// The result of a command.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How a command ended, as its exit code says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done; of a build: built and published.
    Done,
    /// 1: the build failed.
    BuildFailed,
    /// 2: the command or its values can't be taken.
    Usage,
    /// 3: no farm answers, or it refuses to talk.
    Farm,
    /// 130: cancelled.
    Cancelled,
    /// 129: the terminal went away (SIGHUP); the build goes on.
    HungUp,
    /// 143: told to end (SIGTERM) while it looked on; the build goes on.
    Terminated,
    /// What the program that was run ended with.
    Of(u8),
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::BuildFailed => 1,
            Self::Usage => 2,
            Self::Farm => 3,
            Self::Cancelled => 130,
            // As a shell tells that a signal ended it.
            Self::HungUp => 129,
            Self::Terminated => 143,
            Self::Of(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl Error {
    /// How the command ends.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::Changed(_) => Exit::Usage,
            Self::Farm(_) => Exit::Farm,
            Self::Cancelled(_) => Exit::Cancelled,
        }
    }

    /// What a call's status means for the user; `url` is the farm that was called.
    pub fn from_status(status: &Status, url: &str) -> Self {
        let text = status.message();
        match status.code() {
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::ResourceExhausted => Self::Usage(text.to_owned()),
            // Of a token that counted once the farm says why it counts no more.
            Code::Unauthenticated if text.starts_with("token ") => {
                Self::Farm(format!("the farm at {url} refuses: {text}"))
            }
            Code::Unauthenticated if let Some(text) = text.strip_prefix("your sign-in ") => {
                Self::Farm(format!("your sign-in at {url} {text}"))
            }
            Code::Unauthenticated => Self::Farm(format!(
                "the farm at {url} doesn't know this token. Set FARM_TOKEN, or put the token that the farm's owner gave you \
                 into ~/.config/farm/token."
            )),
            // A sentence of its own: who one is, what it needs, who can give it.
            Code::PermissionDenied => Self::Farm(format!("the farm at {url} refuses: {text}")),
            // Of a broken connection there is the transport's error below; else the farm itself says why.
            Code::Unavailable if std::error::Error::source(status).is_none() => {
                Self::Farm(format!("the farm at {url} can't answer now: {text}"))
            }
            Code::Unavailable => {
                Self::Farm(format!("the farm at {url} went away ({text}). Try again in a moment."))
            }
            Code::DeadlineExceeded => Self::Farm(format!("the farm at {url} lives, but gave {text}")),
            Code::Unimplemented => {
                Self::Farm(format!("the farm at {url} can't do this; it is older than this command ({text})"))
            }
            code => Self::Farm(format!("the farm at {url} failed ({code:?}: {text}). Its log says more.")),
        }
    }
}

impl From<farm_local::Error> for Error {
    fn from(error: farm_local::Error) -> Self {
        match error {
            farm_local::Error::Usage(text) => Self::Usage(text),
            farm_local::Error::Failed(text) => Self::Farm(text),
        }
    }
}

impl From<ContextError> for Error {
    fn from(error: ContextError) -> Self {
        match error {
            ContextError::Changed(_) => Self::Changed(error.to_string()),
            _ => Self::Usage(error.to_string()),
        }
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Self::Usage(invalid.to_string())
    }
}

/// Why a call failed, in a few words: the transport's reason when there is one, else the server's.
pub fn status_in_short(status: &Status) -> String {
    std::error::Error::source(status).map_or_else(|| status.message().to_owned(), in_short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_calls_invalid_is_a_mistake_of_usage_in_its_words() {
        let error = Error::from_status(&Status::invalid_argument("tag \"x\": no"), "http://f");
        assert_eq!((error.exit().code(), error.to_string().as_str()), (2, "tag \"x\": no"));
        let error = Error::from_status(&Status::unauthenticated("no such token"), "http://f");
        assert_eq!(error.exit().code(), 3);
        assert!(error.to_string().contains("FARM_TOKEN"), "{error}");
    }

    #[test]
    fn why_the_farm_refuses_is_told_in_its_words() {
        let ended = "token farm_p_12345… of ada was revoked on 2026-11-28 15:40 UTC; ask an admin for one";
        let error = Error::from_status(&Status::unauthenticated(ended), "http://f");
        assert_eq!(error.exit().code(), 3);
        assert_eq!(error.to_string(), format!("the farm at http://f refuses: {ended}"));
        let over = Status::unauthenticated(
            "your sign-in (farm_i_12345… of ada) ended on 2026-11-28; sign in again: farm login",
        );
        let error = Error::from_status(&over, "https://f");
        assert_eq!(
            (error.exit().code(), error.to_string().as_str()),
            (
                3,
                "your sign-in at https://f (farm_i_12345… of ada) ended on 2026-11-28; sign in again: farm login"
            )
        );
        let lacks =
            "bob is viewer of project web; to submit builds needs builder. An admin of web can give that: …";
        let error = Error::from_status(&Status::permission_denied(lacks), "http://f");
        assert_eq!(error.to_string(), format!("the farm at http://f refuses: {lacks}"));
    }

    #[test]
    fn only_a_broken_connection_is_tried_again() {
        assert!(is_connection(&Status::unavailable("restarting")));
        assert!(!is_connection(&Status::internal("bug")));
        assert!(!is_connection(&Status::invalid_argument("x")));
    }
}
