//! GitHub's check runs (docs.github.com, REST, version 2022-11-28, "Checks"), which Apps alone may make. Pure.
//!
//! A run is known again by the id that the farm gives it (`external_id`), as nobody may have heard by which GitHub does.

use farm_types::escaped;
use serde_json::{Value, json};

use super::super::ask::{Answer, Ask, At};
use crate::outbound::Method;

/// So many annotations GitHub takes with a request.
pub const MOST_ANNOTATIONS: usize = 50;

/// How a check run is to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub commit: String,
    pub name: String,
    /// By which the farm knows it again.
    pub external_id: String,
    pub stage: Stage,
    /// Where a person finds more.
    pub target: Option<String>,
    /// In a line.
    pub title: String,
    /// In Markdown.
    pub summary: String,
    /// Of what is over: what is to be shown at which lines.
    pub annotations: Vec<Annotation>,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Queued,
    Goes,
    Over(Conclusion),
}

/// How it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conclusion {
    Success,
    Failure,
    Cancelled,
    /// It says nothing of the commit.
    Neutral,
}

/// What is shown at lines of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// From the repository's root.
    pub path: String,
    /// From and to, both included.
    pub lines: (u32, u32),
    pub title: String,
    pub message: String,
}

/// A check run that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub id: i64,
    pub is_over: bool,
}

fn all(at: &At) -> String {
    format!("{}/repos/{}/check-runs", at.api, at.full_name)
}

fn body(run: &Run) -> Value {
    let annotation = |one: &Annotation| {
        json!({
            "path": one.path, "start_line": one.lines.0, "end_line": one.lines.1, "annotation_level": "failure",
            "title": one.title, "message": one.message
        })
    };
    let mut output = json!({"title": run.title, "summary": run.summary});
    if !run.annotations.is_empty() {
        output["annotations"] = run.annotations.iter().take(MOST_ANNOTATIONS).map(annotation).collect();
    }
    let mut body = json!({"name": run.name, "external_id": run.external_id, "output": output});
    if let Some(target) = &run.target {
        body["details_url"] = Value::from(target.as_str());
    }
    let (status, conclusion) = match run.stage {
        Stage::Queued => ("queued", None),
        Stage::Goes => ("in_progress", None),
        Stage::Over(Conclusion::Success) => ("completed", Some("success")),
        Stage::Over(Conclusion::Failure) => ("completed", Some("failure")),
        Stage::Over(Conclusion::Cancelled) => ("completed", Some("cancelled")),
        Stage::Over(Conclusion::Neutral) => ("completed", Some("neutral")),
    };
    body["status"] = Value::from(status);
    if let Some(conclusion) = conclusion {
        body["conclusion"] = Value::from(conclusion);
    }
    body
}

/// Makes one.
pub fn create(at: &At, run: &Run) -> Ask {
    let mut body = body(run);
    body["head_sha"] = Value::from(run.commit.as_str());
    Ask::post(all(at), body)
}

/// Changes one. What is shown at lines is added to what is.
pub fn change(at: &At, id: i64, run: &Run) -> Ask {
    Ask::change(Method::PATCH, format!("{}/{id}", all(at)), body(run))
}

/// The App's runs of that name at that commit, the newest of them.
pub fn list(at: &At, app: i64, run: &Run) -> Ask {
    let (name, commit) = (escaped(&run.name), &run.commit);
    Ask::get(format!(
        "{}/repos/{}/commits/{commit}/check-runs?check_name={name}&app_id={app}&filter=all&per_page=10",
        at.api, at.full_name
    ))
}

/// One of which GitHub's id is known.
pub fn look(at: &At, id: i64) -> Ask {
    Ask::get(format!("{}/{id}", all(at)))
}

/// The run that is meant, in a list or alone, if it is there.
///
/// # Errors
/// The answer is none: it was cut off, or can't be read. That says nothing of what is there.
pub fn found(answer: &Answer, run: &Run) -> Result<Option<Found>, &'static str> {
    let all = match answer.body["check_runs"].as_array() {
        Some(all) => all.as_slice(),
        None if id(&answer.body).is_some() => std::slice::from_ref(&answer.body),
        None => return Err("what the forge says of its check runs can't be read"),
    };
    let one = all.iter().find(|one| one["external_id"].as_str() == Some(&run.external_id));
    Ok(one.and_then(|one| Some(Found { id: id(one)?, is_over: one["status"] == "completed" })))
}

/// The id of what was made or changed.
pub fn made(answer: &Answer) -> Option<i64> {
    id(&answer.body)
}

fn id(of: &Value) -> Option<i64> {
    of["id"].as_i64().filter(|id| *id > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        Run {
            commit: "a".repeat(40),
            name: "farm/app (pull request 7)".to_owned(),
            external_id: "farm 1".to_owned(),
            stage: Stage::Queued,
            target: None,
            title: "t".to_owned(),
            summary: "s".to_owned(),
            annotations: Vec::new(),
        }
    }

    fn at() -> At {
        At { api: "https://api.github.com".to_owned(), full_name: "acme/app".to_owned(), id: None }
    }

    #[test]
    fn a_check_run_is_made_and_changed_as_github_documents_it() {
        let made = create(&at(), &run());
        assert_eq!(
            (made.method, made.url.as_str()),
            (Method::POST, "https://api.github.com/repos/acme/app/check-runs")
        );
        let expected = json!({
            "name": "farm/app (pull request 7)", "external_id": "farm 1", "status": "queued", "head_sha": "a".repeat(40),
            "output": {"title": "t", "summary": "s"}
        });
        assert_eq!(made.body, Some(expected));
        let note = Annotation {
            path: "sub/Dockerfile".to_owned(),
            lines: (3, 4),
            title: "t".to_owned(),
            message: "m".to_owned(),
        };
        let over = Run {
            stage: Stage::Over(Conclusion::Neutral),
            target: Some("https://farm.example".to_owned()),
            annotations: vec![note; 60],
            ..run()
        };
        let changed = change(&at(), 9, &over);
        assert_eq!(
            (changed.method, changed.url.as_str()),
            (Method::PATCH, "https://api.github.com/repos/acme/app/check-runs/9")
        );
        let body = changed.body.unwrap();
        assert_eq!((&body["status"], &body["conclusion"]), (&json!("completed"), &json!("neutral")));
        assert_eq!(body["details_url"], "https://farm.example");
        let notes = body["output"]["annotations"].as_array().unwrap();
        let first = json!({
            "path": "sub/Dockerfile", "start_line": 3, "end_line": 4, "annotation_level": "failure", "title": "t", "message": "m"
        });
        assert_eq!((notes.len(), &notes[0]), (MOST_ANNOTATIONS, &first));
    }

    #[test]
    fn a_run_is_known_again_by_the_farms_id_of_it() {
        let listed = |body: Value| Answer { status: 200, body, ..Default::default() };
        let all = listed(json!({"total_count": 2, "check_runs": [
            {"id": 8, "external_id": "farm 2", "status": "queued"}, {"id": 9, "external_id": "farm 1", "status": "completed"}
        ]}));
        assert_eq!(found(&all, &run()), Ok(Some(Found { id: 9, is_over: true })));
        let alone = listed(json!({"id": 9, "external_id": "farm 1", "status": "in_progress"}));
        assert_eq!(found(&alone, &run()), Ok(Some(Found { id: 9, is_over: false })));
        assert_eq!(found(&listed(json!({"check_runs": []})), &run()), Ok(None));
        assert_eq!(found(&listed(json!({"id": 9, "external_id": "another"})), &run()), Ok(None));
        // What was cut off, or is no answer, says of no run that it isn't there.
        for cut in [Value::Null, json!({}), json!("<html>"), json!({"total_count": 1})] {
            assert!(found(&listed(cut.clone()), &run()).is_err(), "{cut}");
        }
        let url = list(&at(), 7, &run()).url;
        assert!(
            url.contains("/commits/aaaa")
                && url.contains("check_name=farm%2Fapp%20%28pull%20request%207%29&app_id=7"),
            "{url}"
        );
    }
}
