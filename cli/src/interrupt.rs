//! What asks a command to end: Ctrl-C, SIGTERM, and SIGHUP when its terminal goes away.
//!
//! Each of them is counted ([`Interrupts::press`]); what the first and the second mean is for the command to say. What
//! is no wish to cancel, since the build goes on without the command, isn't counted but tells how the command ends
//! ([`Interrupts::leaving`]). Which is which follows from what the command is to its build: [`Role`].
//!
//! A SIGHUP that was ignored when the command began (nohup(1)) stays ignored. To heed one more signal: [`meaning`].

use std::io::IsTerminal as _;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::error::Exit;

/// What a command is to the build that it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It began the build for somebody who wants it: `farm submit`, `farm retry`.
    Owner,
    /// It shows somebody else's build: `farm attach`.
    Viewer,
    /// Without it the build is of no use to anybody: `farm run`, `farm test`, `farm check`.
    Purpose,
}

/// The signals by which a command is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heeded {
    Interrupt,
    Terminate,
    HangUp,
}

/// What a signal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// Somebody pressed Ctrl-C, and may be asked what is meant.
    Press,
    /// The build is to end.
    End,
    /// The command is to end, and the build goes on.
    Leave(Exit),
}

/// On a terminal a SIGHUP says that the terminal went away, with whoever looked on; elsewhere it is a wish to end.
fn meaning(signal: Heeded, role: Role, has_terminal: bool) -> Meaning {
    match (signal, role) {
        (Heeded::Interrupt, _) => Meaning::Press,
        (Heeded::Terminate, Role::Viewer) => Meaning::Leave(Exit::Terminated),
        (Heeded::HangUp, Role::Viewer) => Meaning::Leave(Exit::HungUp),
        (Heeded::HangUp, Role::Owner) if has_terminal => Meaning::Leave(Exit::HungUp),
        (Heeded::Terminate | Heeded::HangUp, _) => Meaning::End,
    }
}

/// How often which signal came so far.
#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    presses: u32,
    ends: u32,
    leaves: Option<Exit>,
}

impl Heard {
    fn add(&mut self, meaning: Meaning) {
        match meaning {
            Meaning::Press => self.presses += 1,
            Meaning::End => self.ends += 1,
            Meaning::Leave(exit) => self.leaves = self.leaves.or(Some(exit)),
        }
    }

    fn wishes(&self) -> u32 {
        self.presses + self.ends
    }

    fn is_any(&self) -> bool {
        self.wishes() > 0 || self.leaves.is_some()
    }
}

/// Tells what the command was asked for.
#[derive(Debug, Clone)]
pub struct Interrupts(watch::Receiver<Heard>);

impl Interrupts {
    /// Takes the signals over from the system, from now on and to the end of the process.
    pub fn listen(role: Role) -> Self {
        let (sender, receiver) = watch::channel(Heard::default());
        // Asked now: a terminal that is gone is none any more.
        let has_terminal = std::io::stdin().is_terminal()
            || std::io::stdout().is_terminal()
            || std::io::stderr().is_terminal();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (kind, heeded) in [
            (SignalKind::interrupt(), Heeded::Interrupt),
            (SignalKind::terminate(), Heeded::Terminate),
            (SignalKind::hangup(), Heeded::HangUp),
        ] {
            if heeded == Heeded::HangUp && ignores(&status, kind.as_raw_value()) {
                continue;
            }
            let sender = sender.clone();
            // One that can't be heard does what it does by itself.
            let Ok(mut signals) = signal(kind) else { continue };
            let meaning = meaning(heeded, role, has_terminal);
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    sender.send_modify(|heard| heard.add(meaning));
                }
            });
        }
        Self(receiver)
    }

    /// How often the end was asked for so far.
    pub fn wishes(&self) -> u32 {
        self.0.borrow().wishes()
    }

    /// True when it was asked for by a signal that is no key: there is nobody to ask back.
    pub fn is_told(&self) -> bool {
        self.0.borrow().ends > 0
    }

    /// Waits until the end was asked for the `nth` time, from 1. Dropping the future loses nothing.
    pub async fn press(&mut self, nth: u32) {
        self.until(|heard| (heard.wishes() >= nth).then_some(())).await;
    }

    /// Waits until the command is to end while the build goes on; says how. Dropping the future loses nothing.
    pub async fn leaving(&mut self) -> Exit {
        self.until(|heard| heard.leaves).await
    }

    /// Waits for whichever of the two comes first: while there is no build yet they are the same.
    pub async fn any(&mut self) {
        self.until(|heard| heard.is_any().then_some(())).await;
    }

    /// The same, without waiting.
    pub fn is_any(&self) -> bool {
        self.0.borrow().is_any()
    }

    async fn until<T>(&mut self, what: impl Fn(&Heard) -> Option<T>) -> T {
        loop {
            if let Some(found) = what(&self.0.borrow_and_update()) {
                return found;
            }
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Whether a process whose `/proc/PID/status` says this ignores the signal (proc_pid_status(5): `SigIgn` is a mask, in
/// hexadecimal, its lowest bit for signal 1). One that says nothing ignores none.
fn ignores(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    u32::try_from(signal - 1).is_ok_and(|bit| mask.checked_shr(bit).unwrap_or(0) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_build_and_what_only_ends_the_watching() {
        use Heeded::{HangUp, Interrupt, Terminate};
        use Role::{Owner, Purpose, Viewer};
        for (signal, role, has_terminal, expected) in [
            (Interrupt, Owner, true, Meaning::Press),
            (Interrupt, Viewer, false, Meaning::Press),
            (Terminate, Owner, true, Meaning::End),
            (Terminate, Owner, false, Meaning::End),
            (HangUp, Owner, false, Meaning::End),
            (HangUp, Owner, true, Meaning::Leave(Exit::HungUp)),
            (Terminate, Viewer, true, Meaning::Leave(Exit::Terminated)),
            (HangUp, Viewer, false, Meaning::Leave(Exit::HungUp)),
            (HangUp, Purpose, true, Meaning::End),
            (Terminate, Purpose, true, Meaning::End),
        ] {
            assert_eq!(meaning(signal, role, has_terminal), expected, "{signal:?} {role:?} {has_terminal}");
        }
    }

    #[test]
    fn an_ignored_signal_is_a_bit_of_the_mask() {
        let nohup = "Name:\tfarm\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n";
        assert!(ignores(nohup, 1) && ignores(nohup, 13));
        assert!(!ignores(nohup, 2) && !ignores(nohup, 15) && !ignores("", 1) && !ignores("SigIgn: x", 1));
    }

    #[tokio::test]
    async fn wishes_are_counted_and_leaving_is_none() {
        let (sender, receiver) = watch::channel(Heard::default());
        let mut interrupts = Interrupts(receiver);
        sender.send_modify(|heard| heard.add(Meaning::Leave(Exit::HungUp)));
        sender.send_modify(|heard| heard.add(Meaning::Leave(Exit::Terminated)));
        assert_eq!((interrupts.wishes(), interrupts.leaving().await), (0, Exit::HungUp));
        interrupts.any().await;
        sender.send_modify(|heard| heard.add(Meaning::Press));
        assert!(!interrupts.is_told());
        sender.send_modify(|heard| heard.add(Meaning::End));
        interrupts.press(2).await;
        assert!(interrupts.is_told());
    }
}
