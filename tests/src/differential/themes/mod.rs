//! What cases are made of: [`words`] of the Dockerfile, [`files`] of the context, and [`failing`] builds.
//!
//! A theme writes a whole Dockerfile. It names only what is there (but for the failing ones), does nothing that depends on
//! the moment, and runs commands only where it is about them: they take by far the most time.

pub mod failing;
pub mod files;
pub mod words;
