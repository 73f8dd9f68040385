//! What is wrong with a file, and where.

use std::fmt;

use farm_types::Invalid;

/// A place in the file. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One thing that is wrong: `LINE:COLUMN: THING "VALUE": CURE`, where the thing is the key's path (`images.web.tags`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {what}")]
pub struct Problem {
    /// Where it stands.
    pub at: Position,
    /// What it is, its value and the cure.
    pub what: Invalid,
}

/// The most that is told of one file.
const MOST: usize = 100;

/// All that is wrong with a file, in its order; never empty. Of more than 100 the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// These, sorted and each once; `None` when there is none.
    pub(crate) fn of(mut all: Vec<Problem>) -> Option<Self> {
        all.sort_by(|a, b| (a.at, &a.what.thing, &a.what.cure).cmp(&(b.at, &b.what.thing, &b.what.cure)));
        // What is wrong in `defaults` is met with each image.
        all.dedup();
        all.truncate(MOST);
        (!all.is_empty()).then_some(Self(all))
    }

    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// One a line.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.iter().enumerate() {
            let end = if i == 0 { "" } else { "\n" };
            write!(f, "{end}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
