//! The command's process: arguments, exit code, last words. It is here and not in the binary, so that what is compiled of
//! it is compiled beside the other programs, not after them.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::command::Command;
use crate::error::Exit;
use crate::output::Out;
use crate::switches;

/// Runs what the arguments say.
pub fn main() -> ExitCode {
    let command = Command::parse_from(switches::plain(std::env::args_os(), &Command::command()));
    // Fails only when one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(e) => {
            Out::stderr().line(&format!("error: can't start: {e}"));
            return Exit::Usage.into();
        }
    };
    let result = runtime.block_on(command.run());
    // A thread that is still reading files must not hold up the end.
    runtime.shutdown_background();
    match result {
        Ok(Exit::Done) if let Some(why) = crate::output::lost() => {
            Out::stderr().line(&format!("error: the output could not be written: {why}"));
            Exit::BuildFailed.into()
        }
        Ok(exit) => exit.into(),
        Err(error) => {
            // Nobody may be there to read it any more, which is no reason to panic.
            Out::stderr().line(&error.shown());
            error.exit().into()
        }
    }
}
