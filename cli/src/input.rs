//! Standard input of a command that may be told to end while it reads.
//!
//! A signal that is listened for ([`crate::interrupt`]) doesn't end the process, so whoever waits for input has to look.

use std::io::{self, Read};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::interrupt::Interrupts;

/// How long nothing may come until it is looked whether the command is to end.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Standard input; it fails once the command is to end, if anybody listens.
#[derive(Debug)]
pub struct Input(Option<Interrupts>);

impl Input {
    /// Standard input, as long as these ask for no end.
    pub fn until(interrupts: Option<Interrupts>) -> Self {
        Self(interrupts)
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stdin = io::stdin();
        let Some(interrupts) = &self.0 else { return stdin.lock().read(buffer) };
        loop {
            // No `Interrupted`, upon which readers read on.
            if interrupts.is_any() {
                return Err(io::Error::other("the command is to end"));
            }
            match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&LOOK)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => match rustix::io::read(&stdin, &mut *buffer) {
                    Err(Errno::INTR) => {}
                    read => return Ok(read?),
                },
                Err(e) => return Err(e.into()),
            }
        }
    }
}
