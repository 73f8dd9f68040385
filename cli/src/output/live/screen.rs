//! The last lines of a terminal, drawn again and again; above them lines that stay.
//!
//! Each drawing is one write within a synchronized update, over what was there: nothing flickers, whatever is drawn.
//!
//! A terminal that becomes narrower may break what was drawn into more lines, or cut it off, and doesn't say. So then
//! all that can be seen is pushed into its history, and the screen begins anew with the lines that stay.

use std::collections::VecDeque;
use std::io::{self, Write};

use unicode_width::UnicodeWidthStr as _;

use super::frame::{Line, Size, Tone};

/// Between these a terminal shows nothing half done (mode 2026); others ignore them.
const SYNC: (&str, &str) = ("\x1b[?2026h", "\x1b[?2026l");

/// So many of the lines that stay are kept to be shown again.
const STAYS: usize = 100;

/// A terminal's end.
pub struct Screen {
    to: Box<dyn Write + Send>,
    colours: bool,
    /// How many lines are drawn, and how wide the widest of them is.
    drawn: (usize, usize),
    /// The last of the lines that stay.
    stays: VecDeque<String>,
}

impl Screen {
    /// Nothing is drawn yet.
    pub fn new(to: Box<dyn Write + Send>, colours: bool) -> Self {
        Self { to, colours, drawn: (0, 0), stays: VecDeque::new() }
    }

    /// Puts `stay` above and `lines` in the place of what was drawn before.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub fn draw(&mut self, stay: &[String], lines: &[Line], size: Size) -> io::Result<()> {
        let mut text = String::from(SYNC.0);
        if self.drawn.1 > size.width {
            text.push_str(&format!("\x1b[{0}B{1}\x1b[H\x1b[J", size.height, "\n".repeat(size.height)));
            let room = size.height.saturating_sub(lines.len() + stay.len() + 1);
            for line in self.stays.iter().skip(self.stays.len().saturating_sub(room)) {
                text.push_str(line);
                text.push('\n');
            }
        } else {
            // Never further than there are lines: what has left the screen above can't be reached.
            let up = self.drawn.0.min(size.height.saturating_sub(1));
            if up > 0 {
                text.push_str(&format!("\x1b[{up}A\r"));
            }
        }
        for line in stay {
            text.push_str(line);
            text.push_str("\x1b[K\n");
            if self.stays.len() == STAYS {
                self.stays.pop_front();
            }
            self.stays.push_back(line.clone());
        }
        for line in lines {
            text.push_str(&self.painted(line));
            text.push_str("\x1b[K\n");
        }
        text.push_str("\x1b[J");
        text.push_str(SYNC.1);
        self.drawn = (lines.len(), lines.iter().map(|line| line.text.width()).max().unwrap_or(0));
        self.to.write_all(text.as_bytes())?;
        self.to.flush()
    }

    fn painted(&self, line: &Line) -> String {
        let code = match line.tone {
            _ if !self.colours => return line.text.clone(),
            Tone::Plain => return line.text.clone(),
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Dim => "2",
            Tone::Question => "1",
        };
        format!("\x1b[{code}m{}\x1b[0m", line.text)
    }
}
