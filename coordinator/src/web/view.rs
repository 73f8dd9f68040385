//! A build as its page shows it: the important first, in words as the command line has them. All texts that come from elsewhere are
//! made harmless here; markup in them is the templates' to escape.

use farm_proto::v1;
use farm_types::Failure;
use farm_types::text::{ago, bytes, first_line, harmless, span, step_number, waiting};
use serde::Serialize;

use super::route::Place;

/// A page of a build that isn't over is loaded anew after so many seconds.
const REFRESH: u32 = 5;

/// The page.
#[derive(Debug, Clone, Serialize)]
pub struct BuildView {
    pub id: String,
    pub project: String,
    pub state: StateView,
    /// Seconds until it is loaded anew; 0: it stays as it is.
    pub refresh: u32,
    pub by: String,
    pub submitted: Moment,
    /// How long it took, or takes.
    pub took: String,
    pub failures: Vec<FailureView>,
    /// What comes of it for its tags, when it is over.
    pub ending: String,
    /// Why it isn't published yet, while it isn't.
    pub trouble: String,
    pub platforms: Vec<PlatformView>,
    pub published: Vec<TagView>,
    pub tags: Vec<String>,
    pub origins: Vec<OriginView>,
    pub snapshot: String,
    pub retry_of: Option<LinkView>,
    pub retried_by: Vec<LinkView>,
    /// Where its whole log is.
    pub log: String,
    /// What a fork proposes, of a build that it is known by.
    pub proposal: Option<ProposalView>,
}

/// What a fork proposes.
#[derive(Debug, Clone, Serialize)]
pub struct ProposalView {
    pub number: u64,
    /// Where it is to go: `OWNER/REPO`, and the branch.
    pub repository: String,
    pub base: String,
    /// Where it comes from; empty: nobody says.
    pub head_repository: String,
    pub head: String,
    pub commit: String,
    /// Empty: nobody says.
    pub opener: String,
    pub images: Vec<String>,
    /// It waits for somebody who approves it.
    pub is_held: bool,
    /// How it stands, in words.
    pub standing: String,
    /// Where its form goes; empty: there is nothing to approve, or the visitor may not.
    pub approve: String,
    /// What stands in the form.
    pub guard: String,
}

/// A state: a word, and a mark and a colour that say the same.
#[derive(Debug, Clone, Serialize)]
pub struct StateView {
    pub word: String,
    pub mark: &'static str,
    pub class: &'static str,
}

/// A moment.
#[derive(Debug, Clone, Serialize)]
pub struct Moment {
    /// RFC 3339.
    pub at: String,
    pub ago: String,
}

/// Another build.
#[derive(Debug, Clone, Serialize)]
pub struct LinkView {
    pub id: String,
    pub url: String,
}

/// What failed, on one platform or on several in the same way.
#[derive(Debug, Clone, Serialize)]
pub struct FailureView {
    pub headline: String,
    /// As the engine names it; empty: none, or the Dockerfile's lines say it.
    pub step: String,
    /// Where in the Dockerfile.
    pub place: String,
    pub lines: Vec<LineView>,
    /// The step's last output.
    pub tail: Vec<String>,
    pub message: String,
    /// What to do, in parts: words and what is to be typed.
    pub cure: Vec<Part>,
    pub logs: Vec<LogView>,
}

/// A line of a Dockerfile.
#[derive(Debug, Clone, Serialize)]
pub struct LineView {
    pub number: String,
    pub text: String,
    pub marked: bool,
}

/// A part of a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    pub text: String,
    pub is_code: bool,
}

/// The log of one platform.
#[derive(Debug, Clone, Serialize)]
pub struct LogView {
    pub name: String,
    /// As the record has it, for whoever reads the log.
    #[serde(skip)]
    pub platform: String,
    pub url: String,
    /// Its last lines, once they are read.
    pub lines: Vec<String>,
}

/// A platform, or what else is a job of the build's.
#[derive(Debug, Clone, Serialize)]
pub struct PlatformView {
    pub name: String,
    pub state: StateView,
    pub time: String,
    pub lines: Vec<String>,
    pub digest: String,
    /// Where its log is; empty: there is none.
    pub log: String,
}

/// A tag, and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct TagView {
    pub word: &'static str,
    pub class: &'static str,
    pub reference: String,
    pub digest: String,
    pub detail: String,
}

/// Where a source was fetched from.
#[derive(Debug, Clone, Serialize)]
pub struct OriginView {
    pub name: String,
    pub repository: String,
    /// Where a browser finds it; empty: it doesn't.
    pub link: String,
    pub folder: String,
    pub at: String,
    /// Empty: it is an archive.
    pub commit: String,
    /// Of an archive.
    pub digest: String,
}

impl BuildView {
    /// With what a fork proposes: as long as that is held nothing is done, though its rules were fetched.
    #[must_use]
    pub fn proposing(mut self, proposal: Option<ProposalView>) -> Self {
        if proposal.as_ref().is_some_and(|proposal| proposal.is_held) {
            self.state = StateView { word: "waits for approval".to_owned(), mark: "…", class: "busy" };
        }
        self.proposal = proposal;
        self
    }
}

/// The page of this build, which has this address; `now` is in milliseconds since 1970.
pub fn build(build: &v1::Build, place: &Place, now: i64) -> BuildView {
    let is_over = build.finished_ms > 0;
    let spec = build.spec.clone().unwrap_or_default();
    let link = |id: &String| place.of(id).map(|other| LinkView { id: harmless(id), url: other.path() });
    let took = match is_over {
        true => format!("took {}", span(build.finished_ms - build.created_ms)),
        false => format!("{} so far", span(now - build.created_ms)),
    };
    let snapshot = spec.snapshot.as_ref().map(|snapshot| harmless(&snapshot.tree_id)).unwrap_or_default();
    BuildView {
        id: harmless(&build.id),
        project: harmless(&build.project),
        state: state(&build.state),
        refresh: if is_over { 0 } else { REFRESH },
        by: harmless(&build.created_by),
        submitted: moment(build.created_ms, now),
        took,
        failures: failures(build, place),
        ending: ending(build, &spec),
        trouble: first_line(&build.publish_trouble, 300),
        platforms: jobs(build, &spec).into_iter().map(|job| platform(job, place, now)).collect(),
        published: published(build),
        tags: spec.tags.iter().map(|tag| harmless(tag)).collect(),
        origins: origins(build, &spec),
        snapshot,
        retry_of: link(&build.retry_of),
        retried_by: build.retried_by.iter().filter_map(link).collect(),
        log: place.log(None),
        proposal: None,
    }
}

/// What a fork proposes, whose form goes there; empty: it has none.
pub fn proposal(of: &v1::Proposal, approve: String, guard: String) -> ProposalView {
    let standing = match (of.held, of.approved_by.as_str(), of.over.as_str()) {
        (true, _, _) if approve.is_empty() => {
            "waits for a publisher of the project who approves it".to_owned()
        }
        (true, _, _) => "waits for your approval".to_owned(),
        (false, by, _) if !by.is_empty() => format!("approved by {}", harmless(by)),
        (false, _, over) if !over.is_empty() => first_line(over, 300),
        (false, _, _) if of.newest != of.commit => {
            format!("over: the head is at {} by now", of.newest.get(..12).unwrap_or_default())
        }
        (false, _, _) => "its rules are being read".to_owned(),
    };
    ProposalView {
        number: of.number,
        repository: harmless(&of.repository),
        base: harmless(&of.base),
        head_repository: harmless(&of.head_repository),
        head: harmless(&of.head),
        commit: harmless(&of.commit),
        opener: harmless(&of.opener),
        images: of.images.iter().map(|image| harmless(image)).collect(),
        is_held: of.held,
        standing,
        approve,
        guard,
    }
}

fn moment(ms: i64, now: i64) -> Moment {
    let at = chrono::DateTime::from_timestamp_millis(ms).unwrap_or_default();
    Moment { at: at.format("%Y-%m-%d %H:%M:%SZ").to_string(), ago: ago(ms, now) }
}

/// A state of a build or a job.
fn state(word: &str) -> StateView {
    let (mark, class) = match word {
        "succeeded" => ("✓", "good"),
        "failed" => ("✗", "bad"),
        "cancelled" => ("⊘", "dim"),
        "cancelling" => ("⊘", "busy"),
        "running" | "leased" => ("▶", "busy"),
        "publishing" => ("↑", "busy"),
        _ => ("…", "dim"),
    };
    let word = match word {
        "ready" | "blocked" => "waiting".to_owned(),
        "leased" => "starting".to_owned(),
        other => harmless(other),
    };
    StateView { word, mark, class }
}

/// In the order in which the platforms were asked for.
fn jobs<'b>(build: &'b v1::Build, spec: &v1::BuildSpec) -> Vec<&'b v1::Job> {
    let order = |job: &v1::Job| spec.platforms.iter().position(|p| *p == job.platform).unwrap_or(usize::MAX);
    let mut jobs: Vec<&v1::Job> = build.jobs.iter().collect();
    jobs.sort_by_key(|job| order(job));
    jobs
}

/// A fetch is for no platform.
fn name(job: &v1::Job) -> String {
    harmless(if job.platform.is_empty() { &job.kind } else { &job.platform })
}

/// The attempt that gave a job's result, or else its last.
fn deciding(job: &v1::Job) -> Option<&v1::Attempt> {
    job.attempts.iter().find(|attempt| attempt.state == "succeeded").or_else(|| job.attempts.last())
}

/// How and where an attempt ran: `native on w1`.
fn made_on(attempt: &v1::Attempt, job: &v1::Job) -> String {
    let worker = harmless(&attempt.worker);
    match attempt.support.as_str() {
        _ if job.platform.is_empty() => format!("on {worker}"),
        "unneeded" => format!("on {worker}; no program of {} ran", name(job)),
        support => format!("{} on {worker}", harmless(support)),
    }
}

fn platform(job: &v1::Job, place: &Place, now: i64) -> PlatformView {
    let attempt = deciding(job);
    let mut lines = Vec::new();
    let time = attempt.map(|attempt| {
        let from = if attempt.started_ms > 0 { attempt.started_ms } else { attempt.offered_ms };
        let to = if attempt.finished_ms > 0 { attempt.finished_ms } else { now };
        span(to - from)
    });
    lines.extend(attempt.map(|attempt| {
        let steps = job.result.as_ref().filter(|result| result.steps > 0);
        let steps = steps.map(|result| format!(", {} of {} steps cached", result.steps_cached, result.steps));
        let size = job.result.as_ref().filter(|result| result.image_bytes > 0);
        let size = size.map(|result| format!(", {}", bytes(result.image_bytes)));
        format!("{}{}{}", made_on(attempt, job), steps.unwrap_or_default(), size.unwrap_or_default())
    }));
    if !job.taken_from.is_empty() {
        lines.push(format!("taken over from {}", harmless(&job.taken_from)));
    }
    if matches!(job.state.as_str(), "ready" | "blocked") && !job.waiting.is_empty() {
        lines.push(waiting(&harmless(&job.waiting), job.starts_ms, now));
    }
    // Those of a result that was taken over are shown where it was made.
    for attempt in job.attempts.iter().filter(|_| job.taken_from.is_empty()) {
        let who = format!("try {} on {}", attempt.number, harmless(&attempt.worker));
        let is_why = job.state == "failed" && attempt.failure == job.failure;
        if let Some(failure) = attempt.failure.as_ref().filter(|_| !is_why || job.attempts.len() > 1) {
            lines.push(format!("{who} {}: {}", harmless(&attempt.state), first_line(&failure.message, 300)));
        }
        if !attempt.support_reason.is_empty() && attempt.support != "unneeded" {
            lines.push(format!("{who} emulated: {}", harmless(&attempt.support_reason)));
        }
    }
    let has_log = job.attempts.iter().any(|attempt| attempt.started_ms > 0) && job.taken_from.is_empty();
    let log = place.log(Some(job.platform.as_str()).filter(|platform| !platform.is_empty()));
    PlatformView {
        name: name(job),
        state: state(&job.state),
        time: time.unwrap_or_default(),
        lines,
        digest: job.result.as_ref().map(|result| harmless(&result.digest)).unwrap_or_default(),
        log: if has_log { log } else { String::new() },
    }
}

/// The failures of jobs, those that are alike told once, and the build's own when no job explains it.
fn failures(build: &v1::Build, place: &Place) -> Vec<FailureView> {
    let spec = build.spec.clone().unwrap_or_default();
    let mut told: Vec<(&v1::Failure, Vec<&v1::Job>)> = Vec::new();
    for job in jobs(build, &spec) {
        let Some(failure) = job.failure.as_ref().filter(|_| job.state == "failed") else { continue };
        match told.iter_mut().find(|(known, _)| *known == failure) {
            Some((_, jobs)) => jobs.push(job),
            None => told.push((failure, vec![job])),
        }
    }
    if let (true, "failed", Some(failure)) = (told.is_empty(), build.state.as_str(), &build.failure) {
        return vec![failure_view(failure, "the build", "", Vec::new())];
    }
    let view = |(failure, jobs): (&v1::Failure, Vec<&v1::Job>)| {
        let names: Vec<String> = jobs.iter().map(|job| name(job)).collect();
        let mut workers: Vec<String> =
            jobs.iter().filter_map(|job| deciding(job)).map(|attempt| harmless(&attempt.worker)).collect();
        workers.dedup();
        let on = if workers.is_empty() { String::new() } else { format!(" on {}", workers.join(", ")) };
        let logs = jobs.iter().filter(|job| !job.attempts.is_empty()).map(|job| LogView {
            name: name(job),
            platform: job.platform.clone(),
            url: place.log(Some(job.platform.as_str()).filter(|platform| !platform.is_empty())),
            lines: Vec::new(),
        });
        failure_view(failure, &names.join(", "), &on, logs.collect())
    };
    told.into_iter().map(view).collect()
}

fn failure_view(failure: &v1::Failure, what: &str, on: &str, logs: Vec<LogView>) -> FailureView {
    let step = step_number(&failure.step).map(|number| format!(" at step {number}")).unwrap_or_default();
    let why = match failure.exit_code {
        Some(code) => format!("exit code {code}"),
        None => first_line(&failure.message, 400),
    };
    // The message may say more than the exit code, for example that the command was killed.
    let says_more = failure.exit_code.is_some() && failure.cause != "user";
    let (place, lines) = failure.source.as_ref().map_or_else(Default::default, source);
    FailureView {
        headline: format!("{what} failed{step}{on}: {why}"),
        step: first_line(&failure.step, 300),
        place,
        lines,
        tail: failure.log_tail.iter().map(|line| harmless(line)).collect(),
        message: if says_more { first_line(&failure.message, 400) } else { String::new() },
        cure: cure(failure),
        logs,
    }
}

fn source(source: &v1::SourceExcerpt) -> (String, Vec<LineView>) {
    let last = source.first_line.saturating_add(u32::try_from(source.lines.len()).unwrap_or(0));
    let width = last.saturating_sub(1).to_string().len().max(2);
    let line = |(number, text): (u32, &String)| LineView {
        number: format!("{number:>width$}"),
        text: harmless(text),
        marked: (source.marked_from..=source.marked_to).contains(&number),
    };
    let place = format!("{}:{}", harmless(&source.file), source.marked_from);
    (place, (source.first_line..).zip(&source.lines).map(line).collect())
}

/// What to do, as the documents have it for the code.
fn cure(failure: &v1::Failure) -> Vec<Part> {
    let Ok(Failure { code, cause, .. }) = Failure::try_from(failure.clone()) else { return Vec::new() };
    let meanings = code.documented().map(|(_, meanings)| meanings).unwrap_or_default();
    let meaning = meanings.iter().find(|meaning| meaning.cause == cause);
    meaning.map(|meaning| parts(meaning.cure)).unwrap_or_default()
}

/// A sentence with what is to be typed between backticks.
fn parts(text: &str) -> Vec<Part> {
    let parts = text.split('`').enumerate();
    let parts = parts.map(|(at, text)| Part { text: text.to_owned(), is_code: at % 2 == 1 });
    parts.filter(|part| !part.text.is_empty()).collect()
}

fn published(build: &v1::Build) -> Vec<TagView> {
    let Some(publication) = &build.publication else { return Vec::new() };
    let reason = |failure: &Option<v1::Failure>| {
        failure.as_ref().map(|failure| first_line(&failure.message, 300)).unwrap_or_default()
    };
    let mut all = Vec::new();
    for destination in &publication.destinations {
        for tag in &destination.tags {
            let reference = match tag.tag.contains('/') {
                true => harmless(&tag.tag),
                false => harmless(&format!("{}:{}", destination.repository, tag.tag)),
            };
            let was = match tag.previous_digest.as_str() {
                "" => String::new(),
                same if same == publication.index_digest => "as before".to_owned(),
                other => format!("was {}", harmless(other)),
            };
            let why = reason(if tag.failure.is_some() { &tag.failure } else { &destination.failure });
            let (word, class, digest, detail) = match tag.state.as_str() {
                "verified" => ("✓ published", "good", harmless(&publication.index_digest), was),
                "superseded" => {
                    let why = "a newer build has this tag, or will have it".to_owned();
                    ("– not moved", "dim", String::new(), why)
                }
                "failed" => ("✗ not published", "bad", String::new(), why),
                // Nothing more will happen to it when the build is over.
                _ if build.finished_ms > 0 => ("✗ not published", "bad", String::new(), why),
                _ => ("… to publish", "busy", String::new(), why),
            };
            all.push(TagView { word, class, reference, digest, detail });
        }
    }
    all
}

/// What the end means for the tags.
fn ending(build: &v1::Build, spec: &v1::BuildSpec) -> String {
    let mut tags = build.publication.iter().flat_map(|p| &p.destinations).flat_map(|d| &d.tags);
    let moved = tags.any(|tag| matches!(tag.state.as_str(), "put" | "verified"));
    let is_plain = spec.run_image.is_empty() && spec.call.is_empty() && spec.fetch.is_none();
    let untouched = match (moved, spec.tags.is_empty()) {
        (true, _) => "not every tag was published",
        (false, false) => "nothing was published, tags are as before",
        (false, true) => "nothing was published",
    };
    let of_build = build.jobs.iter().filter(|job| job.state == "succeeded");
    let built: Vec<String> = of_build.map(name).collect();
    match build.state.as_str() {
        "failed" if is_plain => match built.as_slice() {
            [] => sentence(untouched),
            [one] => format!("{one} was built; {untouched}."),
            _ => format!("{} were built; {untouched}.", built.join(", ")),
        },
        "cancelled" if is_plain => sentence(untouched),
        "succeeded" if is_plain && spec.tags.is_empty() && spec.exports.is_empty() => {
            "Nothing was published, since no tag was given.".to_owned()
        }
        _ => String::new(),
    }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

/// Where its source was fetched from, by its roots; of a fetch what it has brought.
fn origins(build: &v1::Build, spec: &v1::BuildSpec) -> Vec<OriginView> {
    let fetched = build.jobs.iter().filter_map(|job| job.result.as_ref()?.fetched.as_ref());
    let git = spec.origins.iter().map(|(root, origin)| (root.as_str(), of_git(root, origin)));
    let archives =
        spec.archive_origins.iter().map(|(root, origin)| (root.as_str(), of_archive(root, origin)));
    let mut all: Vec<(&str, OriginView)> = git.chain(archives).collect();
    all.sort_by_key(|(root, _)| *root);
    let brought = fetched.flat_map(|fetched| {
        let git = fetched.origin.iter().map(|origin| of_git("context", origin));
        git.chain(fetched.archive.iter().map(|origin| of_archive("context", origin)))
    });
    all.into_iter().map(|(_, view)| view).chain(brought).collect()
}

fn root_name(root: &str, context: &str) -> String {
    harmless(root.strip_prefix("context:").unwrap_or(if root == "context" { context } else { root }))
}

fn of_git(root: &str, origin: &v1::GitOrigin) -> OriginView {
    OriginView {
        name: root_name(root, "repository"),
        repository: harmless(&origin.repository),
        link: link(&origin.repository),
        folder: harmless(&origin.subdir),
        at: harmless(&origin.r#ref),
        commit: harmless(&origin.commit),
        digest: String::new(),
    }
}

fn of_archive(root: &str, origin: &v1::ArchiveOrigin) -> OriginView {
    OriginView {
        name: root_name(root, "archive"),
        repository: harmless(&origin.url),
        link: link(&origin.url),
        folder: String::new(),
        at: String::new(),
        commit: String::new(),
        digest: harmless(&origin.digest),
    }
}

/// A repository that a browser may be sent to.
fn link(repository: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~/:%+".contains(c);
    match repository.starts_with("https://") && repository.chars().all(is_plain) {
        true => repository.to_owned(),
        false => String::new(),
    }
}
