//! A port that hands connections on, and keeps all that comes back by them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Listens as long as the test runs.
#[derive(Debug)]
pub struct Tap {
    port: u16,
    came: Arc<Mutex<Vec<u8>>>,
}

impl Tap {
    /// To this port of the machine's.
    pub fn to(port: u16) -> Tap {
        Tap::cutting(port, None)
    }

    /// The same, where a connection breaks instead of carrying back a piece that has these bytes in it.
    pub fn cutting(port: u16, cut: Option<&'static str>) -> Tap {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let tap = Tap { port: listener.local_addr().unwrap().port(), came: Arc::default() };
        let came = tap.came.clone();
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (near, Ok(far)) = (near.unwrap(), TcpStream::connect((Ipv4Addr::LOCALHOST, port))) else {
                    continue;
                };
                let (there, back) = ((near.try_clone().unwrap(), far.try_clone().unwrap()), came.clone());
                std::thread::spawn(move || carry(there.0, there.1, |_| true));
                let passes = move |bytes: &[u8]| {
                    back.lock().unwrap().extend(bytes);
                    !cut.is_some_and(|cut| has(bytes, cut))
                };
                std::thread::spawn(move || carry(far, near, passes));
            }
        });
        tap
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Whether these bytes came back, as they are.
    pub fn holds(&self, text: &str) -> bool {
        has(&self.came.lock().unwrap(), text)
    }
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Carries what comes as long as it passes; with what doesn't both connections break.
fn carry(mut from: TcpStream, mut to: TcpStream, passes: impl Fn(&[u8]) -> bool) {
    let mut piece = [0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        if !passes(&piece[..length]) {
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            return;
        }
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
