//! After a failure: the worker measures, where the failure's words prove nothing.
//!
//! A command's output and its exit code are its user's. That it failed for want of disk, or of an emulator, is believed
//! only if the worker finds so itself: [`measured`]. And whether the machine is to blame for a failure of infrastructure
//! says a look at itself, not the failure: [`check`]; a coordinator holds a failure against a worker only with a
//! finding of that kind (`farm_core::machines`).
//!
//! To measure something more: in [`check`].

use std::time::Duration;

use farm_types::{Cause, Failure, FailureCode, Platform, Runs};
use tokio::time::timeout;

use crate::buildkit::{SolveError, is_unstartable};
use crate::engine_watch::{Ready, trial};
use crate::gauge::{Disks, Lately, free};

/// How long a trial may take that an attempt's end waits for.
pub const TRIAL_WITHIN: Duration = Duration::from_secs(20);
/// With less memory than this nothing can be run, bytes.
const LEAST_MEMORY: u64 = 32 << 20;
/// As much of a finding as is told, characters.
const FINDING_CHARS: usize = 300;

/// The failure of a build for this platform, whose programs `runs` tells, as the worker's own measurements show it.
/// `is_program`: what failed is an image's own program, which is not run twice for its failure.
pub async fn measured(
    failure: Failure,
    ready: &Ready,
    (platform, runs): (&Platform, &Runs),
    lately: Lately,
    is_program: bool,
) -> Failure {
    if failure.code != FailureCode::RunFailed {
        return failure;
    }
    if is_unstartable(&failure) {
        // Where others' programs run it was one of those, unless the base image has brought it along.
        let runs_others =
            matches!(runs, Runs::Others { engine, platforms } if *engine || !platforms.is_empty());
        if runs_others && !failure.step.as_deref().is_some_and(is_trigger) {
            return failure;
        }
        // Whoever printed it: can programs of the platform be run here?
        let Ok(Err(SolveError::Failed(probed))) = timeout(TRIAL_WITHIN, ready.engine.probe(platform)).await
        else {
            return failure;
        };
        let is_offered = ready.identity.offers.iter().any(|offer| offer.platform == *platform);
        return match probed.code {
            FailureCode::EmulatorMissing => Failure {
                cause: Cause::Infrastructure,
                code: probed.code,
                message: probed.message,
                ..failure
            },
            // farm has no program of its own to try; who doesn't offer the platform doesn't run it.
            FailureCode::ProbeUnknown if !is_offered => {
                let message = format!("{}; programs of {platform} are not run here", failure.message);
                Failure {
                    cause: Cause::Infrastructure,
                    code: FailureCode::EmulatorMissing,
                    message,
                    ..failure
                }
            }
            _ => failure,
        };
    }
    let is_full = match lately {
        _ if is_program => false,
        Lately::Full => true,
        Lately::Room => false,
        // Asked only where somebody says so: it builds something.
        Lately::Unseen => says_full(&failure) && is_told_full(ready).await,
    };
    if !is_full {
        return failure;
    }
    let what = failure.message.clone();
    let message = format!("{what}; the engine's disk was full while it ran");
    Failure { cause: Cause::Infrastructure, code: FailureCode::NoSpace, message, ..failure }
}

/// Whether a step, as BuildKit names it (`[stage 2/4] ONBUILD RUN …`), comes from a base image.
fn is_trigger(step: &str) -> bool {
    step.split_once("] ").is_some_and(|(_, instruction)| instruction.starts_with("ONBUILD "))
}

/// As the C library words it. A reason to look, no evidence.
fn says_full(failure: &Failure) -> bool {
    failure.log_tail.iter().any(|line| line.contains("No space left on device"))
}

async fn is_told_full(ready: &Ready) -> bool {
    matches!(timeout(TRIAL_WITHIN, trial(ready)).await, Ok(Err(failed)) if failed.code == FailureCode::NoSpace)
}

/// Looks at the machine: its disks, its memory, and whether its engine still builds.
///
/// # Errors
/// What is wrong, in words.
pub async fn check(ready: &Ready, disks: &Disks) -> Result<(), String> {
    let engine = disks.of_engine(ready).await;
    let own = disks.state_dir.clone();
    let looked = tokio::task::spawn_blocking(move || {
        for (what, place) in [("its engine's disk", engine), ("the disk of its own folder", Some(own))] {
            let Some(place) = place else { continue };
            if free(&place).is_ok_and(|free| free.is_full()) {
                return Err(format!("{what} ({}) is full", place.display()));
            }
        }
        match std::fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(available) {
            Some(bytes) if bytes < LEAST_MEMORY => {
                Err(format!("its machine has {} MiB of memory left", bytes >> 20))
            }
            _ => Ok(()),
        }
    });
    // A look that could not be taken finds nothing.
    looked.await.unwrap_or(Ok(()))?;
    match timeout(TRIAL_WITHIN, trial(ready)).await {
        Ok(end) => end.map_err(|failed| failed.message.chars().take(FINDING_CHARS).collect()),
        Err(_) => Err(format!("a trial build did not end within {} s", TRIAL_WITHIN.as_secs())),
    }
}

/// What programs may still take, bytes (proc(5), `MemAvailable`).
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        assert_eq!(available("MemTotal:  8 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(available("MemTotal: 8 kB\n"), None);
        assert!(std::fs::read_to_string("/proc/meminfo").is_ok_and(|text| available(&text).is_some()));
    }
}
