//! The worker's own log: a line is masked by whatever is masked at that moment, whichever attempt it is about.
//!
//! Whoever logs an engine's words doesn't have to think of secrets.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tracing_subscriber::fmt::MakeWriter;

use super::Mask;
use super::patterns::Patterns;

/// The masks of attempts that run; each goes with the last who has it.
static MASKS: Mutex<Vec<Weak<Patterns>>> = Mutex::new(Vec::new());

fn masks() -> MutexGuard<'static, Vec<Weak<Patterns>>> {
    // Each change is one step.
    MASKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on its values are masked in the log, for as long as anybody has it.
pub(super) fn watch(mask: &Mask) {
    let mut masks = masks();
    masks.retain(|mask| mask.strong_count() > 0);
    masks.extend(mask.0.as_ref().map(Arc::downgrade));
}

/// Masks what is written to the writers that another makes. A line has to be written at once, as `tracing_subscriber` does it.
#[derive(Debug, Clone, Copy)]
pub struct Masked<M>(pub M);

/// A writer whose lines are masked.
#[derive(Debug)]
pub struct Line<W>(W);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Masked<M> {
    type Writer = Line<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(self.0.make_writer())
    }
}

impl<W: Write> Write for Line<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let known: Vec<Mask> =
            masks().iter().filter_map(Weak::upgrade).map(|mask| Mask(Some(mask))).collect();
        let mut masked = Cow::Borrowed(line);
        for mask in known {
            if let Cow::Owned(bytes) = mask.bytes(&masked) {
                masked = Cow::Owned(bytes);
            }
        }
        self.0.write_all(&masked)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Masking;
    use super::*;

    #[test]
    fn a_line_is_masked_while_somebody_has_the_mask() {
        let written = |text: &str| {
            let mut line = Line(Vec::new());
            line.write_all(text.as_bytes()).unwrap();
            String::from_utf8(line.0).unwrap()
        };
        let masking = Masking::default();
        let other = Masking::default();
        assert_eq!(masking.begin([("a", b"logged-by-one".as_slice())]), []);
        assert_eq!(other.begin([("b", b"logged-by-two".as_slice())]), []);
        assert_eq!(written("logged-by-one, logged-by-two\n"), "***, ***\n");
        drop(masking);
        assert_eq!(written("logged-by-one, logged-by-two\n"), "logged-by-one, ***\n");
    }
}
