//! What GitHub tells of checks (docs.github.com, "Webhook events and payloads", `check_run` and `check_suite`): an App hears of its own that
//! somebody wants them begun anew.

use farm_types::Invalid;
use serde::Deserialize;

use crate::delivery::{Again, AgainCheck, Outcome};
use crate::parts::{commit, json};

/// The longest name of a check run, and the longest id that its App has given it, bytes.
const LONGEST: usize = 1024;

#[derive(Deserialize)]
struct Said {
    action: String,
    check_run: Option<CheckRun>,
    check_suite: Option<CheckSuite>,
}

#[derive(Deserialize)]
struct CheckRun {
    name: String,
    head_sha: String,
    external_id: Option<String>,
    app: Option<App>,
}

#[derive(Deserialize)]
struct CheckSuite {
    head_sha: String,
    app: Option<App>,
}

#[derive(Deserialize)]
struct App {
    id: u64,
}

/// What follows from it.
pub(crate) fn outcome(event: &str, body: &[u8]) -> Result<Outcome, Invalid> {
    let Said { action, check_run, check_suite } = json(body)?;
    let ignored = |why: &str| Ok(Outcome::Ignored(why.to_owned()));
    if action != "rerequested" {
        return Ok(Outcome::Ignored(format!("nothing follows from {event} {action}")));
    }
    let (app, sha, check) = match (event, check_run, check_suite) {
        ("check_run", Some(run), _) => {
            let external_id = run.external_id.unwrap_or_default();
            if run.name.len() > LONGEST || external_id.len() > LONGEST {
                return ignored("the check run isn't the farm's: its name is too long for that");
            }
            (run.app, run.head_sha, Some(AgainCheck { name: run.name, external_id }))
        }
        ("check_suite", _, Some(suite)) => (suite.app, suite.head_sha, None),
        _ => return ignored("the sender doesn't say what is to be begun anew"),
    };
    let Some(app) = app else { return ignored("the sender doesn't say whose check it is") };
    let Some(commit) = commit(&sha)? else { return ignored("the check is of no commit") };
    Ok(Outcome::Again(Again { app: app.id.to_string(), commit, check }))
}
