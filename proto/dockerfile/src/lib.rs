//! The one reader of Dockerfiles: what a file says, before any engine sees it.
//!
//! [`Dockerfile::parse`] reads the text into instructions, whatever is wrong with it. [`Build`] says what is built of it:
//! target, arguments, platform, named contexts. From both come
//!
//! * [`Stages`]: which stages the image is made of, so which lines matter;
//! * [`Sources`]: what of the contexts the build can name, so what must be sent;
//! * [`Programs`]: whether programs of a platform run in it, so which machines can build it.
//!
//! The engine stays the judge of what is right: nothing is refused here. Invariant: what can't be told for sure is
//! [`None`], or all of it. Reading takes no more than time in proportion to the text, and never panics.
//!
//! Formats: the Dockerfile reference; where it is silent, what BuildKit does (`frontend/dockerfile/parser`, `…/shell`,
//! `…/instructions`, `…/dockerfile2llb`). Layers, from below: `lines` (instructions with their lines), `words` (flags and
//! lists), `expand` (variables), `instruction` (their meaning), then the three above.
//!
//! To know one more instruction: a variant of [`Kind`] in `instruction`, and what follows from it in `build`.

mod build;
mod directives;
mod expand;
mod instruction;
mod lines;
mod programs;
mod selection;
mod sources;
mod stages;
mod words;

pub use build::Build;
pub use directives::Directives;
pub use instruction::{CopyArgs, FromArgs, Instruction, Kind, Mount, MountType};
pub use programs::Programs;
pub use selection::{Pattern, Selection, exact, matches};
pub use sources::{CONTEXT, Sources};
pub use stages::Stages;

/// A Dockerfile that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dockerfile {
    /// What its first comments say.
    pub directives: Directives,
    /// In their order.
    pub instructions: Vec<Instruction>,
    /// A here-document has no end: what stands from its begin on is text, to the last line.
    pub is_unterminated: bool,
}

impl Dockerfile {
    /// Reads a file. What is not UTF-8, as in comments of older files, is replaced by U+FFFD.
    pub fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let directives = Directives::read(text);
        let lines = lines::read(text, directives.escape);
        let instructions =
            lines.instructions.into_iter().map(|line| Instruction::read(line, directives.escape)).collect();
        Self { directives, instructions, is_unterminated: lines.is_unterminated }
    }

    /// Whether it holds nothing but comments and blank lines.
    pub fn is_empty(&self) -> bool {
        self.instructions.is_empty()
    }
}
