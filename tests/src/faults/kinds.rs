//! Which kinds of faults a plan draws, by their names in the last lines of a run.

use std::str::FromStr;

/// Those of the short run in the whole suite: parts that die, stand still or can't be heard.
pub const OLD: &[&str] = &[
    "worker_kill",
    "worker_pause",
    "coordinator_kill",
    "coordinator_pause",
    "engine_kill",
    "engine_pause",
    "postgres_kill",
    "postgres_pause",
    "postgres_smart",
    "postgres_fast",
    "postgres_immediate",
    "step_kill",
    "step_stop",
    "registry_kill",
    "registry_500",
    "registry_429",
    "registry_slow",
    "registry_truncated",
    "registry_answer_lost",
    "link_cut",
    "link_frozen",
    "network_lossy",
    "network_half_open",
    "network_down",
    "network_silent",
];

/// What never ends by itself, and what can't be read.
pub const NEW: &[&str] = &[
    "postgres_link_silent",
    "postgres_link_half_open",
    "postgres_link_slow",
    "statement_hang",
    "row_unreadable",
    "blob_hang",
    "registry_endless",
];

pub fn is_new(kind: &str) -> bool {
    NEW.contains(&kind)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kinds {
    Old,
    New,
    All,
    /// Never empty.
    Named(Vec<String>),
}

impl Kinds {
    pub fn has(&self, kind: &str) -> bool {
        match self {
            Kinds::Old => !is_new(kind),
            Kinds::New => is_new(kind),
            Kinds::All => true,
            Kinds::Named(names) => names.iter().any(|name| name == kind),
        }
    }
}

impl FromStr for Kinds {
    type Err = String;

    fn from_str(text: &str) -> Result<Kinds, String> {
        match text {
            "old" => return Ok(Kinds::Old),
            "new" => return Ok(Kinds::New),
            "all" => return Ok(Kinds::All),
            _ => {}
        }
        let names: Vec<String> = text.split(',').map(str::to_owned).collect();
        match names.iter().find(|name| !OLD.contains(&name.as_str()) && !is_new(name)) {
            None => Ok(Kinds::Named(names)),
            Some(name) => {
                let known = [OLD, NEW].concat().join(", ");
                Err(format!("no kind of fault is called {name:?}: old, new, all, or some of {known}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_known_is_told_with_those_that_are() {
        assert_eq!("blob_hang".parse(), Ok(Kinds::Named(vec!["blob_hang".to_owned()])));
        for text in ["", "blob_hang,", "blob_hung"] {
            let error = text.parse::<Kinds>().unwrap_err();
            assert!(error.contains("blob_hang, registry_endless"), "{error}");
        }
    }
}
