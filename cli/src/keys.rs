//! One key from the terminal, without Enter.

use std::io::{IsTerminal as _, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

/// Standard input in a mode in which each key comes by itself and isn't shown. Ctrl-C still is a signal. As it was
/// before when this is dropped.
#[derive(Debug)]
pub struct Keys {
    before: Termios,
    stop: Arc<AtomicBool>,
}

impl Keys {
    /// True when there is somebody to ask.
    pub fn can_be_read() -> bool {
        std::io::stdin().is_terminal()
    }

    /// The next key that is pressed; `None` when there will be none. Dropping the future loses nothing.
    pub async fn one() -> Option<u8> {
        let keys = Self::begin()?;
        let stop = Arc::clone(&keys.stop);
        let reading = tokio::task::spawn_blocking(move || {
            let mut key = [0];
            while !stop.load(Ordering::Relaxed) {
                match std::io::stdin().read(&mut key) {
                    Ok(1) => return Some(key[0]),
                    // Nothing within a tenth of a second.
                    Ok(_) => {}
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(_) => return None,
                }
            }
            None
        });
        reading.await.ok().flatten()
    }

    fn begin() -> Option<Self> {
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut single = before.clone();
        single.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        // A read returns with a key, or with nothing after a tenth of a second (termios(3)).
        single.special_codes[SpecialCodeIndex::VMIN] = 0;
        single.special_codes[SpecialCodeIndex::VTIME] = 1;
        tcsetattr(std::io::stdin(), OptionalActions::Now, &single).ok()?;
        Some(Self { before, stop: Arc::default() })
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}
