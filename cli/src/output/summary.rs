//! How a build ended: what each platform gave, what was published, what went wrong and where.
//!
//! The last line is the one that matters. Of a build that still runs the same rows tell how far it is.
//!
//! Invariant: nothing is called published unless the farm has seen the tag point to the index.

use farm_proto::v1::{ArchiveOrigin, Attempt, Build, BuildSpec, Failure, GitOrigin, Job, Tag};
use farm_types::{CopyVerb, FailureCode};

use super::progress::{SeenWarning, UNNEEDED};
use super::rules;
use super::text::{bytes, columns, count, first_line, harmless, short_digest, span, step_number, waiting};

/// The lines about a build, final or not. `now` is in milliseconds since 1970.
pub fn summary(build: &Build, warnings: &[SeenWarning], now: i64) -> Vec<String> {
    let mut out = failures(build);
    out.extend(platforms(build, now));
    out.extend(warnings.iter().flat_map(|seen| warning(seen, build)));
    out.extend(publication(build));
    out.extend(ending(build));
    out
}

/// The build's jobs that build a platform or run an image on it, in the order in which the platforms were asked for.
pub fn platform_jobs(build: &Build) -> Vec<&Job> {
    let order = |job: &Job| {
        let spec = build.spec.as_ref();
        spec.and_then(|spec| spec.platforms.iter().position(|p| *p == job.platform)).unwrap_or(usize::MAX)
    };
    let mut jobs: Vec<&Job> =
        build.jobs.iter().filter(|job| ["build", "run", ""].contains(&job.kind.as_str())).collect();
    jobs.sort_by_key(|job| order(job));
    jobs
}

/// What people call a copy; of what newer farms call otherwise: copy.
pub fn copy_verb(spec: &BuildSpec) -> CopyVerb {
    spec.copy.as_ref().and_then(|copy| copy.verb.parse().ok()).unwrap_or_default()
}

/// From where a root of a source is.
#[derive(Debug, Clone, Copy)]
pub enum Whence<'a> {
    /// From a commit.
    Git(&'a GitOrigin),
    /// From an archive.
    Archive(&'a ArchiveOrigin),
}

/// Where the build's source was fetched from, by its roots; of a fetch what it has brought.
pub fn origins_of(build: &Build) -> Vec<(&str, Whence<'_>)> {
    let spec = build.spec.iter();
    let git = spec
        .clone()
        .flat_map(|spec| &spec.origins)
        .map(|(root, origin)| (root.as_str(), Whence::Git(origin)));
    let archives = spec.flat_map(|spec| &spec.archive_origins);
    let archives = archives.map(|(root, origin)| (root.as_str(), Whence::Archive(origin)));
    let mut all: Vec<(&str, Whence<'_>)> = git.chain(archives).collect();
    all.sort_by_key(|(root, _)| *root);
    for fetched in build.jobs.iter().filter_map(|job| job.result.as_ref()?.fetched.as_ref()) {
        all.extend(fetched.origin.iter().map(|origin| ("context", Whence::Git(origin))));
        all.extend(fetched.archive.iter().map(|origin| ("context", Whence::Archive(origin))));
    }
    all
}

/// A gate's ends.
pub const PASSED: &str = "passed";
/// It ended badly, or could not be run.
pub const FAILED: &str = "failed";

/// How the gate ended of a job of a build that has one; `None`: it has not come to that. What has succeeded has passed, also where it was
/// taken over, as a retry is of the same spec.
pub fn gate_end(job: &Job) -> Option<&'static str> {
    let is_gates = |failure: &Failure| failure.code == FailureCode::GateFailed.as_str();
    match job.state.as_str() {
        "succeeded" => Some(PASSED),
        "failed" if job.failure.as_ref().is_some_and(is_gates) => Some(FAILED),
        _ => None,
    }
}

/// The attempt that gave a job's result, or else its last.
pub fn deciding_attempt(job: &Job) -> Option<&Attempt> {
    job.attempts.iter().find(|attempt| attempt.state == "succeeded").or_else(|| job.attempts.last())
}

/// How and where an attempt ran: `native on w1`.
pub fn made_on(attempt: &Attempt, platform: &str) -> String {
    let worker = harmless(&attempt.worker);
    match attempt.support.as_str() {
        UNNEEDED => format!("on {worker}, no program of {} ran", harmless(platform)),
        support => format!("{} on {worker}", harmless(support)),
    }
}

/// How long an attempt took, or has taken, milliseconds.
pub fn attempt_ms(attempt: &Attempt, now: i64) -> i64 {
    let from = if attempt.started_ms > 0 { attempt.started_ms } else { attempt.offered_ms };
    let to = if attempt.finished_ms > 0 { attempt.finished_ms } else { now };
    (to - from).max(0)
}

/// A tag with its repository.
pub fn tag_reference(repository: &str, tag: &Tag) -> String {
    if tag.tag.contains('/') { tag.tag.clone() } else { format!("{repository}:{}", tag.tag) }
}

fn platforms(build: &Build, now: i64) -> Vec<String> {
    let final_failure = matches!(build.state.as_str(), "failed" | "cancelled");
    let rows: Vec<Vec<String>> = platform_jobs(build)
        .into_iter()
        // A failed one has its own lines above; of one that was built it is said below.
        .filter(|job| !final_failure || job.state == "succeeded")
        .map(|job| {
            let attempt = deciding_attempt(job);
            let on = attempt.map(|a| made_on(a, &job.platform)).unwrap_or_default();
            let time = attempt.map(|a| span(attempt_ms(a, now))).unwrap_or_default();
            match (job.state.as_str(), &job.result) {
                ("succeeded", Some(result)) => {
                    let size = if result.image_bytes > 0 { bytes(result.image_bytes) } else { String::new() };
                    if !job.taken_from.is_empty() {
                        let from = format!("{on}, taken over from {}", harmless(&job.taken_from));
                        return vec![job.platform.clone(), short_digest(&result.digest), size, from];
                    }
                    let steps = match result.steps {
                        0 => String::new(),
                        n => format!("({} of {n} steps cached)", result.steps_cached),
                    };
                    vec![
                        job.platform.clone(),
                        short_digest(&result.digest),
                        size,
                        on,
                        format!("{time} {steps}"),
                    ]
                }
                ("ready" | "blocked", _) => {
                    vec![
                        job.platform.clone(),
                        "waiting".to_owned(),
                        String::new(),
                        waiting(&harmless(&job.waiting), job.starts_ms, now),
                    ]
                }
                (state, _) => vec![job.platform.clone(), harmless(state), String::new(), on, time],
            }
        })
        .collect();
    let replaced = platform_jobs(build).into_iter().filter_map(|job| {
        let syntax = job.result.as_ref().map(|r| r.syntax_replaced.as_str()).filter(|s| !s.is_empty())?;
        Some(format!(
            "note  {}: # syntax={} was replaced by the engine's own",
            job.platform,
            harmless(syntax)
        ))
    });
    let mut out = columns(&rows);
    out.extend(fetch_waits(build, now));
    out.extend(replaced);
    out
}

/// What a fetch waits for.
fn fetch_waits(build: &Build, now: i64) -> Option<String> {
    let waits = |job: &&Job| job.kind == "fetch" && job.state == "ready" && !job.waiting.is_empty();
    let job = build.jobs.iter().find(waits)?;
    Some(format!("source  waiting  {}", waiting(&harmless(&job.waiting), job.starts_ms, now)))
}

/// Which rule, where, the line itself, and whether it matters.
pub fn warning(seen: &SeenWarning, build: &Build) -> Vec<String> {
    let warning = &seen.warning;
    let file = if warning.file.is_empty() { "Dockerfile" } else { &warning.file };
    let place =
        if warning.line > 0 { format!("  {}:{}", harmless(file), warning.line) } else { String::new() };
    let rule = if warning.rule.is_empty() { String::new() } else { format!("{}: ", harmless(&warning.rule)) };
    let fails = rules_are_errors(build);
    let concerned = if fails { &seen.platforms } else { seen.concerned() };
    let all = build.spec.as_ref().is_some_and(|spec| spec.platforms.len() == concerned.len());
    let of = if all { String::new() } else { format!(" ({})", concerned.join(", ")) };
    let what = if fails { "error" } else { "warning" };
    let mut out = vec![format!("{what}{place}  {rule}{}{of}", first_line(&warning.message, 200))];
    if !warning.source_line.trim().is_empty() {
        out.push(format!(" > {:>2} | {}", warning.line, first_line(&warning.source_line, 160)));
    }
    match (fails, rules::advice(&warning.rule), seen.advice()) {
        (true, Some((_, cure)), _) => out.push(format!("  fails the build: {cure}")),
        (true, None, _) => out.push("  fails the build".to_owned()),
        (false, _, (Some(weight), cure)) => out.push(format!("  {}: {cure}", weight.as_str())),
        (false, ..) => {}
    }
    out
}

/// Whether the Dockerfile's rules are set to be errors (check=error=true), and some were broken.
pub fn rules_are_errors(build: &Build) -> bool {
    build.jobs.iter().any(|job| {
        job.failure.as_ref().is_some_and(|failure| failure.code == FailureCode::DockerfileCheck.as_str())
            || job
                .result
                .as_ref()
                .and_then(|result| result.answer.as_ref())
                .is_some_and(|answer| !answer.violation.is_empty())
    })
}

fn to_publish(reference: String, waits: Option<&str>) -> Vec<String> {
    let why = waits.map(|why| format!("{why}; trying again"));
    ["to publish".to_owned(), reference].into_iter().chain(why).collect()
}

/// Whether the tags point to the image itself. An older farm says no type.
fn is_plain_manifest(media_type: &str) -> bool {
    !media_type.is_empty() && !media_type.contains("index") && !media_type.contains("manifest.list")
}

fn publication(build: &Build) -> Vec<String> {
    // Why it waits, while it does.
    let waits = || (!build.publish_trouble.is_empty()).then(|| first_line(&build.publish_trouble, 300));
    let Some(publication) = &build.publication else {
        let tags = build.spec.as_ref().map(|spec| spec.tags.as_slice()).unwrap_or_default();
        let Some(why) = waits() else { return Vec::new() };
        let rows: Vec<_> = tags.iter().map(|tag| to_publish(harmless(tag), Some(&why))).collect();
        return columns(&rows);
    };
    let mut platforms = count(build.spec.as_ref().map_or(0, |spec| spec.platforms.len()), "platform");
    if is_plain_manifest(&publication.index_media_type) {
        platforms.push_str(", a plain manifest");
    }
    let digest = short_digest(&publication.index_digest);
    let reason = |failure: &Option<Failure>| match failure {
        Some(failure) => first_line(&failure.message, 300),
        None => "the farm gave no reason".to_owned(),
    };
    let mut rows = Vec::new();
    for destination in &publication.destinations {
        for tag in &destination.tags {
            let reference = tag_reference(&destination.repository, tag);
            let was = match tag.previous_digest.as_str() {
                "" => String::new(),
                same if same == publication.index_digest => ", as before".to_owned(),
                other => format!(", was {}", short_digest(other)),
            };
            let failure = if tag.failure.is_some() { &tag.failure } else { &destination.failure };
            rows.push(match tag.state.as_str() {
                "verified" => {
                    vec!["published".to_owned(), reference, format!("{digest}  ({platforms}{was})")]
                }
                "superseded" => {
                    vec![
                        "not moved".to_owned(),
                        reference,
                        "a newer build has this tag, or will have it".to_owned(),
                    ]
                }
                "failed" => vec!["not published".to_owned(), reference, reason(failure)],
                // Nothing more will happen to it when the build is over.
                _ if build.finished_ms > 0 => vec!["not published".to_owned(), reference, reason(failure)],
                _ => to_publish(reference, waits().as_deref()),
            });
        }
        if destination.tags.is_empty() && destination.state == "failed" {
            let repository = destination.repository.clone();
            rows.push(vec!["not published".to_owned(), repository, reason(&destination.failure)]);
        }
    }
    columns(&rows)
}

/// The failures of jobs, those that are alike told once, and the build's own when no job explains it.
fn failures(build: &Build) -> Vec<String> {
    let mut told: Vec<(&Failure, Vec<&Job>)> = Vec::new();
    for job in platform_jobs(build) {
        let Some(failure) = job.failure.as_ref().filter(|_| job.state == "failed") else { continue };
        match told.iter_mut().find(|(known, _)| *known == failure) {
            Some((_, jobs)) => jobs.push(job),
            None => told.push((failure, vec![job])),
        }
    }
    let mut out = Vec::new();
    for (failure, jobs) in &told {
        let platforms: Vec<&str> = jobs.iter().map(|job| job.platform.as_str()).collect();
        let mut workers: Vec<&str> =
            jobs.iter().filter_map(|j| deciding_attempt(j)).map(|a| a.worker.as_str()).collect();
        workers.dedup();
        let on =
            if workers.is_empty() { String::new() } else { format!(" on {}", harmless(&workers.join(", "))) };
        let logs = format!("farm logs {} --platform {}", build.id, platforms.first().unwrap_or(&""));
        out.extend(failure_lines(failure, &platforms.join(", "), &on, &logs));
    }
    // What is optional is no reason.
    if told.iter().all(|(_, jobs)| jobs.iter().all(|job| job.optional))
        && build.state == "failed"
        && let Some(failure) = &build.failure
    {
        let is_fetch = build.spec.as_ref().is_some_and(|spec| spec.fetch.is_some());
        let what = if is_fetch { "the fetch" } else { "the build" };
        out.extend(failure_lines(failure, what, "", &format!("farm logs {}", build.id)));
    }
    out
}

fn failure_lines(failure: &Failure, what: &str, on: &str, logs: &str) -> Vec<String> {
    let step = match step_number(&failure.step) {
        Some(number) => format!(" at step {number}"),
        None => String::new(),
    };
    let why = match failure.exit_code {
        // Of a step that no Dockerfile shows.
        Some(_) if failure.code == FailureCode::GateFailed.as_str() => first_line(&failure.message, 400),
        Some(code) => format!("exit code {code}"),
        None => first_line(&failure.message, 400),
    };
    let mut out = vec![format!("{what} failed{step}{on}: {why}")];
    match &failure.source {
        Some(source) => {
            out.push(format!("  {}:{}", harmless(&source.file), source.marked_from));
            let last = source.first_line + u32::try_from(source.lines.len()).unwrap_or(0);
            let width = last.saturating_sub(1).to_string().len().max(2);
            for (number, line) in (source.first_line..).zip(&source.lines) {
                let marked = (source.marked_from..=source.marked_to).contains(&number);
                let mark = if marked { '>' } else { ' ' };
                out.push(format!(" {mark} {number:>width$} | {}", harmless(line)).trim_end().to_owned());
            }
        }
        None if !failure.step.is_empty() => out.push(format!("  {}", first_line(&failure.step, 200))),
        None => {}
    }
    let tail: Vec<String> = failure.log_tail.iter().map(|line| format!("  {}", harmless(line))).collect();
    if let Some((last, before)) = tail.split_last() {
        out.extend_from_slice(before);
        out.push(format!("{last}    (last lines; all: {logs})"));
    }
    // The message may say more than the exit code, for example that the command was killed.
    if failure.exit_code.is_some() && !failure.message.is_empty() && failure.cause != "user" {
        out.push(format!("  {}", first_line(&failure.message, 400)));
    }
    out
}

/// Of a build without a tag; whoever submitted it may know better.
pub const NO_TAG: &str = "nothing was published, since no tag was given (-t)";

/// Which optional platforms the others were published without.
fn without(build: &Build) -> Option<String> {
    let lacks = |job: &&Job| job.optional && job.state != "succeeded";
    let missing: Vec<&str> =
        platform_jobs(build).into_iter().filter(lacks).map(|job| job.platform.as_str()).collect();
    let are = if missing.len() == 1 { "is" } else { "are" };
    let what = || {
        format!("warning  without {}, which {are} optional: what is published lacks that", missing.join(", "))
    };
    (!missing.is_empty()).then(what)
}

/// What the end means, and the last line.
fn ending(build: &Build) -> Vec<String> {
    let id = harmless(&build.id);
    let time = span(build.finished_ms - build.created_ms);
    let show = format!("farm show {id}");
    let tags: Vec<&Tag> =
        build.publication.iter().flat_map(|p| &p.destinations).flat_map(|d| &d.tags).collect();
    let moved = tags.iter().any(|tag| matches!(tag.state.as_str(), "put" | "verified"));
    let untouched = match (moved, build.spec.as_ref().is_some_and(|spec| !spec.tags.is_empty())) {
        (true, _) => "not every tag was published",
        (false, true) => "nothing was published, tags are as before",
        (false, false) => "nothing was published",
    };
    let built: Vec<&str> = platform_jobs(build)
        .into_iter()
        .filter(|job| job.state == "succeeded")
        .map(|job| job.platform.as_str())
        .collect();
    let done = match &build.spec {
        Some(spec) if !spec.run_image.is_empty() => format!("ran {}", harmless(&spec.run_image)),
        Some(spec) if !spec.call.is_empty() => format!("answered ({})", harmless(&spec.call)),
        Some(spec) if spec.fetch.is_some() => "fetched".to_owned(),
        Some(spec) if spec.copy.is_some() => copy_verb(spec).done().to_owned(),
        _ => "built".to_owned(),
    };
    let is_copy = build.spec.as_ref().is_some_and(|spec| spec.copy.is_some());
    match build.state.as_str() {
        "succeeded" if done != "built" => vec![format!("{done} in {time}   {show}")],
        // There was nothing to be published.
        "failed" if done != "built" && !is_copy => vec![format!("failed after {time}   {show}")],
        "succeeded" => {
            // What was given out is said by whoever got it.
            let gives = build.spec.as_ref().is_some_and(|spec| !spec.exports.is_empty());
            let nowhere = (tags.is_empty() && !gives).then(|| NO_TAG.to_owned());
            without(build).into_iter().chain(nowhere).chain([format!("built in {time}   {show}")]).collect()
        }
        "failed" => {
            let first = match built[..] {
                [] => format!("{untouched}."),
                [one] => format!("{one} was built; {untouched}."),
                _ => format!("{} were built; {untouched}.", built.join(", ")),
            };
            vec![first, format!("failed after {time}   {show}")]
        }
        "cancelled" => vec![format!("{untouched}."), format!("cancelled after {time}   {show}")],
        state => vec![format!("{state}   farm logs {id} -f")],
    }
}

#[cfg(test)]
#[path = "summary_tests.rs"]
mod tests;
