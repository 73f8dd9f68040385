//! A build step that waits for its test: `gate.py` in the image connects to the test, so the test knows when the step
//! runs, when it was killed, and may let it end.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::support::{BASE, Context, LONG, nonce};

#[derive(Debug)]
pub struct Gate(TcpListener);

impl Gate {
    pub fn new() -> Gate {
        // Steps come from the engine's bridge.
        let listener = TcpListener::bind(("0.0.0.0", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        Gate(listener)
    }

    /// Where steps come to.
    pub fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Lines of a Dockerfile: the step, in a stage that has Python.
    pub fn step(&self) -> String {
        format!("COPY gate.py /gate.py\nRUN python3 -SE /gate.py {} {}\n", self.port(), nonce())
    }

    /// A context with the base and the step.
    pub fn context(&self) -> Context {
        Context::new(&format!("FROM {BASE}\n{}", self.step())).with_gate()
    }

    /// Waits for a step to come.
    #[track_caller]
    pub fn arrival(&self) -> Arrival {
        self.arrival_within(LONG).unwrap_or_else(|| panic!("no step came to the gate within {LONG:?}"))
    }

    /// A step, if one comes in time.
    pub fn arrival_within(&self, limit: Duration) -> Option<Arrival> {
        let start = Instant::now();
        loop {
            match self.0.accept() {
                Ok((stream, _)) => return Some(Arrival(stream)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
            if start.elapsed() > limit {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Context {
    pub fn with_gate(self) -> Context {
        self.file("gate.py", include_str!("../../fixtures/gate.py"))
    }
}

/// A step that runs.
#[derive(Debug)]
pub struct Arrival(TcpStream);

impl Arrival {
    /// Lets it end well.
    pub fn open(mut self) {
        self.0.write_all(b"!").unwrap();
    }

    /// Lets it end well, and returns when it has.
    pub fn open_and_see_it_end(mut self) {
        self.0.write_all(b"!").unwrap();
        self.wait_killed(LONG);
    }

    /// Waits until it was killed, and says how long that took.
    #[track_caller]
    pub fn wait_killed(mut self, limit: Duration) -> Duration {
        let start = Instant::now();
        self.0.set_nonblocking(false).unwrap();
        self.0.set_read_timeout(Some(limit)).unwrap();
        match self.0.read(&mut [0]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("the step still runs after {limit:?}: {other:?}"),
        }
        start.elapsed()
    }
}
