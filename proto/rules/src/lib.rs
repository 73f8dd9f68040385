//! `.farm.yaml`: what a repository wants built when something happens in it. Pure: no IO, no clock.
//!
//! [`Rules::parse`] reads the file and tells all that is wrong with it, each with its [`Position`]; [`Rules::plan`] says what an
//! [`Event`] makes of it, with a reason for everything that isn't built; [`Plan::refused`] holds that against what a project's
//! settings allow. Names, texts and paths in all of these are whatever people chose: escape them before they are shown.
//!
//! To add a key: its field in [`Image`], its reader in `parse/`, its lines in `docs/reference/rules.md` and in
//! `docs/reference/farm-yaml.schema.json` (a test holds the schema against the parser).

mod allow;
mod cron;
mod event;
mod file;
mod names;
mod parse;
mod plan;
mod problem;
mod skip;
mod template;
mod version;

#[cfg(test)]
mod tests;

pub use allow::Allowed;
pub use cron::Cron;
pub use event::{EVENTS, Event, EventKind};
pub use file::{Image, On, Paths, Places, ReleaseFilter, Rules, TagRule};
pub use names::NamePatterns;
pub use parse::{FILE_NAME, MOST_BYTES, MOST_IMAGES};
pub use plan::{Facts, ImagePlan, LeftOut, LeftOutWhy, Outcome, Plan, Reason, Wanted};
pub use problem::{Position, Problem, Problems};
pub use skip::skip_marker;
pub use template::{Template, Unrendered, Word, Words};
pub use version::{VersionRange, version_of};
