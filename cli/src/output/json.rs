//! The JSON of `--json`: one object on standard output, at the end.
//!
//! Names are stable: new ones may come, none goes or changes its meaning. Digests are `sha256:HEX`, times
//! are RFC 3339 in UTC, spans are `…_seconds`, sizes are `…_bytes`. What isn't known, or not yet, is null.
//!
//! - `farm submit`, `attach`, `retry` and `show` give a [`BuildJson`]; `upload` is null but in `submit`, and so are `platforms`'
//!   details while a build runs (`farm submit --detach`).
//! - `farm builds` gives `{"builds": [BuildJson, …]}`, newest first.
//! - `farm workers` gives `{"workers": [WorkerJson, …]}`.
//! - What `farm whoami`, `token`, `project`, `member` and `audit` give is in [`super::people`].
//! - `farm logs` gives one [`LogJson`] a line.

use farm_proto::v1::{Build, Failure, FetchSpec, Worker};
use serde::Serialize;

use super::progress::SeenWarning;
use super::rules::{self, Weight};
use super::secrets::{BuildSecretJson, of_build};
use super::summary::{
    Whence, attempt_ms, copy_verb, deciding_attempt, gate_end, origins_of, platform_jobs, rules_are_errors,
    tag_reference,
};
use super::text::time;
use crate::outputs::deliver::Delivered;

/// A build, as `farm show --json` and the others print it.
#[derive(Debug, Serialize)]
pub struct BuildJson {
    /// The id that `farm show` takes.
    pub id: String,
    /// queued, running, publishing, cancelling, succeeded, failed or cancelled.
    pub state: String,
    /// Who submitted it.
    pub created_by: String,
    /// When it was submitted.
    pub created: Option<String>,
    /// When its first job was started.
    pub started: Option<String>,
    /// When it ended.
    pub finished: Option<String>,
    /// From submission to end, seconds.
    pub total_seconds: Option<f64>,
    /// The source.
    pub snapshot: Option<SnapshotJson>,
    /// The build that it retries.
    pub retry_of: Option<String>,
    /// Why the farm has begun it of its own accord.
    pub because: Option<String>,
    /// The builds that retry it, the first first.
    pub retried_by: Vec<String>,
    /// What this submission sent.
    pub upload: Option<UploadJson>,
    /// What was asked for.
    pub requested: RequestedJson,
    /// What steps may mount, by id; left out where there is none, and in lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<BuildSecretJson>,
    /// Registries that it pulls from by logins that came with it; left out where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub registry_logins: Vec<String>,
    /// Where its source was fetched from; left out where it wasn't.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<OriginJson>,
    /// Of a fetch: the repository or archive that it is of; left out of builds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fetch: Option<String>,
    /// Of a copy: what it is of; left out of builds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopyJson>,
    /// What each platform's image has to pass before a tag points at it; left out where there is none, and in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,
    /// By which key of its project what it publishes is signed before a tag points at it; left out where it isn't, and in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sign: Option<String>,
    /// In the order in which they were asked for; left out in lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<PlatformJson>,
    /// The index of all platforms, or the manifest in its place.
    pub index_digest: Option<String>,
    /// The index's media type.
    pub index_media_type: Option<String>,
    /// The tags, with what became of each; left out in lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<TagJson>,
    /// Where the result went besides; of `farm submit --output` and `--load` only.
    pub outputs: Vec<Delivered>,
    /// Each once over all platforms; only in `farm submit`.
    pub warnings: Vec<WarningJson>,
    /// Why it failed.
    pub failure: Option<FailureJson>,
    /// Why it isn't published yet, while that is tried again.
    pub publish_trouble: Option<String>,
}

/// What a copy is of.
#[derive(Debug, Serialize)]
pub struct CopyJson {
    /// copy, promote, mirror, tag or rollback.
    pub verb: String,
    /// The image as it was named.
    pub from: String,
    /// The platforms that are taken of its index; none: it is copied as it is.
    pub platforms: Vec<String>,
    /// What it was when the farm looked there.
    pub digest: Option<String>,
}

/// What a build was asked to make.
#[derive(Debug, Serialize)]
pub struct RequestedJson {
    /// Normalised, like `linux/arm64`.
    pub platforms: Vec<String>,
    /// The tag with its registry and repository.
    pub tags: Vec<String>,
}

/// Where a root of a source is from.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum OriginJson {
    /// Where in git.
    Git {
        /// context, or context:NAME.
        root: String,
        /// The repository's address.
        repository: String,
        /// The ref that was at the commit, in full; null: the commit was named itself.
        r#ref: Option<String>,
        /// The commit.
        commit: String,
        /// When it was committed.
        committed: Option<String>,
        /// The folder; null: the whole repository.
        subdir: Option<String>,
    },
    /// Which archive.
    Archive {
        /// context, or context:NAME.
        root: String,
        /// Its address, without its query.
        archive: String,
        /// Of its bytes.
        digest: String,
    },
}

/// A source.
#[derive(Debug, Serialize)]
pub struct SnapshotJson {
    /// Names the source with times and modes.
    pub tree_id: String,
    /// Names its content alone: equal for equal content.
    pub content_key: String,
}

/// What a submission read and sent.
#[derive(Debug, Clone, Serialize)]
pub struct UploadJson {
    /// Files in the source.
    pub files: usize,
    /// Files whose contents the farm hadn't got.
    pub new_files: usize,
    /// Bytes of all that was sent.
    pub sent_bytes: u64,
    /// How long it took to ask the farm what it lacks and to send that.
    pub seconds: f64,
}

/// One platform of a build.
#[derive(Debug, Serialize)]
pub struct PlatformJson {
    /// Normalised, like `linux/arm64`.
    pub platform: String,
    /// The others are published without it, if it fails.
    pub optional: bool,
    /// blocked, ready, leased, running, succeeded, failed or cancelled.
    pub state: String,
    /// What it waits for, in words.
    pub waiting: Option<String>,
    /// When it is likely to start; estimated.
    pub expected_start: Option<String>,
    /// The digest of what was pushed.
    pub digest: Option<String>,
    /// The media type of what was pushed.
    pub media_type: Option<String>,
    /// The image's layers and config, compressed.
    pub image_bytes: Option<u64>,
    /// The build whose result was taken over; the attempts are its.
    pub taken_from: Option<String>,
    /// native or emulated, of the attempt that counts.
    pub support: Option<String>,
    /// The worker of the attempt that counts.
    pub worker: Option<String>,
    /// Why that attempt is emulated.
    pub support_reason: Option<String>,
    /// How many attempts there were.
    pub attempts: usize,
    /// All of them, the first first.
    pub history: Vec<AttemptJson>,
    /// The attempt that counts, from its start to its end.
    pub seconds: Option<f64>,
    /// Steps of the Dockerfile.
    pub steps: Option<u32>,
    /// Of these, steps whose result was in the cache.
    pub steps_cached: Option<u32>,
    /// The `# syntax=` frontend that the engine's own stood in for.
    pub syntax_replaced: Option<String>,
    /// passed or failed; left out where the build has no gate, or it has not come to that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<&'static str>,
    /// Why it failed.
    pub failure: Option<FailureJson>,
}

/// One try of a platform.
#[derive(Debug, Serialize)]
pub struct AttemptJson {
    /// Which try it was, from 1.
    pub number: u32,
    /// The name of the worker that tried.
    pub worker: String,
    /// offered, running, succeeded, failed, lost, released or cancelled.
    pub state: String,
    /// native or emulated.
    pub support: String,
    /// When it was given to its worker.
    pub offered: Option<String>,
    /// When its worker began.
    pub started: Option<String>,
    /// When it ended.
    pub finished: Option<String>,
    /// Why it ended without a result.
    pub failure: Option<FailureJson>,
}

/// A tag and what became of it.
#[derive(Debug, Serialize)]
pub struct TagJson {
    /// The tag with its repository.
    pub reference: String,
    /// wanted, put, verified, superseded or failed.
    pub state: String,
    /// What it pointed to before.
    pub previous_digest: Option<String>,
    /// Why it failed.
    pub failure: Option<FailureJson>,
}

/// A warning.
#[derive(Debug, Serialize)]
pub struct WarningJson {
    /// The engine's name for it.
    pub rule: Option<String>,
    /// The sentence.
    pub message: String,
    /// The file that it is about.
    pub file: Option<String>,
    /// The line in the Dockerfile, from 1.
    pub line: Option<u32>,
    /// The text of that line.
    pub source_line: Option<String>,
    /// harmless, or look: somebody should; error: it fails the build (check=error=true); null for a rule that farm
    /// doesn't know.
    pub weight: Option<&'static str>,
    /// What to do about it.
    pub cure: Option<String>,
    /// Where more is said.
    pub url: Option<String>,
    /// The platforms that gave it.
    pub platforms: Vec<String>,
    /// Those of them whose image isn't made of the stage that it is about.
    pub unused_by: Vec<String>,
}

/// A failure.
#[derive(Debug, Serialize)]
pub struct FailureJson {
    /// user, infrastructure, killed, deadline or bug.
    pub cause: String,
    /// A stable word for programs.
    pub code: String,
    /// A sentence.
    pub message: String,
    /// The step, as the engine names it.
    pub step: Option<String>,
    /// The exit code of the step's command.
    pub exit_code: Option<i32>,
    /// The file that it is about.
    pub file: Option<String>,
    /// The first line that is meant, from 1.
    pub line: Option<u32>,
    /// The step's last output.
    pub log_tail: Vec<String>,
}

/// A worker.
#[derive(Debug, Serialize)]
pub struct WorkerJson {
    /// Its name.
    pub name: String,
    /// online, suspect, withdrawn, draining, drained, quarantined, probation, offline, joined or expired.
    pub state: String,
    /// What it builds.
    pub platforms: Vec<WorkerPlatformJson>,
    /// How many jobs it runs at once.
    pub slots: u32,
    /// How many more it would take now.
    pub slots_free: u32,
    /// Its engine's version.
    pub engine: String,
    /// Which BuildKit that has, as it says itself.
    pub engine_buildkit: Option<String>,
    /// The package that it is from, with the package's version.
    pub engine_package: Option<String>,
    /// Its own version.
    pub version: String,
    /// When it was last heard.
    pub last_seen: Option<String>,
    /// `BUILD PLATFORM` each.
    pub running: Vec<String>,
    /// Why it gets no ordinary jobs, where its state alone doesn't say it.
    pub reason: Option<String>,
    /// Since when it gets none.
    pub since: Option<String>,
    /// On probation: when its next trial build is due.
    pub next_probe: Option<String>,
    /// Drained with a limit: when what it still runs is given back.
    pub release: Option<String>,
    /// The machine that it joined with; `None`: it shows the farm's own token.
    pub machine: Option<String>,
    /// The machine's pool.
    pub pool: Option<String>,
    /// trusted or untrusted.
    pub trust: Option<String>,
    /// When its certificate ends, which it renews long before.
    pub certificate_ends: Option<String>,
    /// What it may grant to builds that ask for it.
    pub entitlements: Vec<String>,
}

/// A platform that a worker offers.
#[derive(Debug, Serialize)]
pub struct WorkerPlatformJson {
    /// The platform in its normal form.
    pub platform: String,
    /// native or emulated.
    pub support: String,
}

/// A line of a step's output.
#[derive(Debug, Serialize)]
pub struct LogJson {
    /// The platform in its normal form.
    pub platform: String,
    /// Which try of the platform it was, from 1.
    pub attempt: u32,
    /// The step, as the engine names it; empty when it isn't known.
    pub step: String,
    /// stdout or stderr.
    pub stream: &'static str,
    /// The line, without control sequences.
    pub text: String,
}

pub(super) fn known(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn origin((root, origin): (&str, Whence<'_>)) -> OriginJson {
    let root = root.to_owned();
    match origin {
        Whence::Git(origin) => OriginJson::Git {
            root,
            repository: origin.repository.clone(),
            r#ref: known(&origin.r#ref),
            commit: origin.commit.clone(),
            committed: time(origin.committed.saturating_mul(1000)),
            subdir: known(&origin.subdir),
        },
        Whence::Archive(origin) => {
            OriginJson::Archive { root, archive: origin.url.clone(), digest: origin.digest.clone() }
        }
    }
}

/// The address that a fetch is of.
fn fetched_from(fetch: &FetchSpec) -> Option<String> {
    let git = fetch.git.as_ref().map(|git| &git.repository);
    git.or_else(|| fetch.archive.as_ref().map(|archive| &archive.url)).cloned()
}

fn seconds(ms: i64) -> f64 {
    std::time::Duration::from_millis(u64::try_from(ms).unwrap_or(0)).as_secs_f64()
}

impl BuildJson {
    /// The object for a build as the farm has it.
    pub fn new(build: &Build, upload: Option<UploadJson>, warnings: &[SeenWarning]) -> Self {
        let publication = build.publication.as_ref();
        let snapshot = build.spec.as_ref().and_then(|spec| spec.snapshot.as_ref());
        let gate = build.spec.as_ref().and_then(|spec| known(&spec.gate));
        Self {
            id: build.id.clone(),
            state: build.state.clone(),
            created_by: build.created_by.clone(),
            requested: RequestedJson {
                platforms: build.spec.as_ref().map(|spec| spec.platforms.clone()).unwrap_or_default(),
                tags: build.spec.as_ref().map(|spec| spec.tags.clone()).unwrap_or_default(),
            },
            created: time(build.created_ms),
            started: time(build.started_ms),
            finished: time(build.finished_ms),
            total_seconds: (build.finished_ms > 0).then(|| seconds(build.finished_ms - build.created_ms)),
            snapshot: snapshot.map(|snapshot| SnapshotJson {
                tree_id: snapshot.tree_id.clone(),
                content_key: snapshot.content_key.clone(),
            }),
            origins: origins_of(build).into_iter().map(origin).collect(),
            fetch: build.spec.as_ref().and_then(|spec| fetched_from(spec.fetch.as_ref()?)),
            copy: build.spec.as_ref().and_then(|spec| {
                let copy = spec.copy.as_ref()?;
                let (from, verb) = (copy.from.clone(), copy_verb(spec).to_string());
                Some(CopyJson {
                    verb,
                    from,
                    platforms: copy.platforms.clone(),
                    digest: known(&build.copied_digest),
                })
            }),
            retry_of: known(&build.retry_of),
            because: known(&build.because),
            retried_by: build.retried_by.clone(),
            publish_trouble: (!build.publish_trouble.is_empty()).then(|| build.publish_trouble.clone()),
            upload,
            secrets: of_build(build),
            registry_logins: build.spec.iter().flat_map(|spec| spec.registry_logins.clone()).collect(),
            platforms: platform_jobs(build)
                .into_iter()
                .map(|job| PlatformJson {
                    gate: gate.as_ref().and_then(|_| gate_end(job)),
                    ..PlatformJson::from(job)
                })
                .collect(),
            gate,
            sign: build.spec.as_ref().and_then(|spec| known(&spec.sign)),
            index_digest: publication.and_then(|publication| known(&publication.index_digest)),
            index_media_type: publication.and_then(|publication| known(&publication.index_media_type)),
            tags: publication
                .iter()
                .flat_map(|publication| &publication.destinations)
                .flat_map(|destination| destination.tags.iter().map(move |tag| (destination, tag)))
                .map(|(destination, tag)| TagJson {
                    reference: tag_reference(&destination.repository, tag),
                    state: tag.state.clone(),
                    previous_digest: known(&tag.previous_digest),
                    failure: tag.failure.as_ref().or(destination.failure.as_ref()).map(FailureJson::from),
                })
                .collect(),
            outputs: Vec::new(),
            warnings: warnings.iter().map(|seen| WarningJson::of(seen, rules_are_errors(build))).collect(),
            failure: build.failure.as_ref().map(FailureJson::from),
        }
    }
}

impl From<&farm_proto::v1::Attempt> for AttemptJson {
    fn from(attempt: &farm_proto::v1::Attempt) -> Self {
        Self {
            number: attempt.number,
            worker: attempt.worker.clone(),
            state: attempt.state.clone(),
            support: attempt.support.clone(),
            offered: time(attempt.offered_ms),
            started: time(attempt.started_ms),
            finished: time(attempt.finished_ms),
            failure: attempt.failure.as_ref().map(FailureJson::from),
        }
    }
}

impl From<&farm_proto::v1::Job> for PlatformJson {
    fn from(job: &farm_proto::v1::Job) -> Self {
        let attempt = deciding_attempt(job);
        let result = job.result.as_ref();
        Self {
            platform: job.platform.clone(),
            optional: job.optional,
            state: job.state.clone(),
            waiting: known(&job.waiting),
            expected_start: time(job.starts_ms),
            digest: result.and_then(|result| known(&result.digest)),
            media_type: result.and_then(|result| known(&result.media_type)),
            taken_from: known(&job.taken_from),
            image_bytes: result.map(|result| result.image_bytes).filter(|n| *n > 0),
            support: attempt.and_then(|attempt| known(&attempt.support)),
            worker: attempt.and_then(|attempt| known(&attempt.worker)),
            support_reason: attempt.and_then(|attempt| known(&attempt.support_reason)),
            attempts: job.attempts.len(),
            history: job.attempts.iter().map(AttemptJson::from).collect(),
            seconds: attempt.filter(|a| a.finished_ms > 0).map(|a| seconds(attempt_ms(a, a.finished_ms))),
            steps: result.map(|result| result.steps),
            steps_cached: result.map(|result| result.steps_cached),
            syntax_replaced: result.and_then(|result| known(&result.syntax_replaced)),
            gate: None,
            failure: job.failure.as_ref().map(FailureJson::from),
        }
    }
}

impl From<&SeenWarning> for WarningJson {
    fn from(seen: &SeenWarning) -> Self {
        let warning = &seen.warning;
        let (weight, cure) = seen.advice();
        Self {
            rule: known(&warning.rule),
            message: warning.message.clone(),
            file: known(&warning.file),
            line: (warning.line > 0).then_some(warning.line),
            source_line: known(&warning.source_line),
            weight: weight.map(Weight::as_str),
            cure: known(&cure),
            url: known(&warning.url),
            platforms: seen.platforms.clone(),
            unused_by: seen.platforms.iter().filter(|p| !seen.of_use.contains(p)).cloned().collect(),
        }
    }
}

impl WarningJson {
    /// A warning of a build whose rules may be errors: then each of them matters, and the rule's own cure is what helps.
    fn of(seen: &SeenWarning, is_error: bool) -> Self {
        let own = Self::from(seen);
        if !is_error {
            return own;
        }
        let cure = rules::advice(&seen.warning.rule).map(|(_, cure)| cure.to_owned());
        Self { weight: Some("error"), cure: cure.or(own.cure.clone()), ..own }
    }
}

impl From<&Failure> for FailureJson {
    fn from(failure: &Failure) -> Self {
        let source = failure.source.as_ref();
        Self {
            cause: failure.cause.clone(),
            code: failure.code.clone(),
            message: failure.message.clone(),
            step: known(&failure.step),
            exit_code: failure.exit_code,
            file: source.and_then(|source| known(&source.file)),
            line: source.map(|source| source.marked_from),
            log_tail: failure.log_tail.clone(),
        }
    }
}

fn said(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

impl From<&Worker> for WorkerJson {
    fn from(worker: &Worker) -> Self {
        Self {
            name: worker.name.clone(),
            state: worker.state.clone(),
            platforms: worker
                .platforms
                .iter()
                .map(|offer| WorkerPlatformJson {
                    platform: offer.platform.clone(),
                    support: offer.support.clone(),
                })
                .collect(),
            slots: worker.slots,
            slots_free: worker.slots_free,
            engine: worker.engine.clone(),
            engine_buildkit: said(&worker.engine_buildkit),
            engine_package: said(&worker.engine_package),
            version: worker.version.clone(),
            last_seen: time(worker.last_seen_ms),
            running: worker.running.clone(),
            reason: (!worker.reason.is_empty()).then(|| worker.reason.clone()),
            since: time(worker.since_ms),
            next_probe: time(worker.next_probe_ms),
            release: time(worker.release_ms),
            machine: said(&worker.machine),
            pool: said(&worker.pool),
            trust: said(&worker.trust),
            certificate_ends: time(worker.certificate_ends_ms),
            entitlements: worker.entitlements.clone(),
        }
    }
}

/// The object's text.
pub fn text(object: &impl Serialize) -> String {
    // Only a map with keys that aren't strings can fail, and there is none.
    serde_json::to_string(object).unwrap_or_default()
}
