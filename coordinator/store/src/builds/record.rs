//! A build as it is shown: with its jobs, their attempts, and its publication.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use farm_core::work::waiting::Waiting;
use farm_types::state::{AttemptState, BuildState, DestinationState, JobState, PublicationState, TagState};
use farm_types::{
    AttemptId, BuildId, BuildSpec, Digest, ExecutionId, Failure, Fetched, JobId, MountId, Platform,
    ProjectId, RunMode, ShortId,
};
use serde::{Deserialize, Serialize};

use crate::builds::outputs::OutputRecord;
use crate::builds::submitter::Submitter;

/// What a job has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobResult {
    /// What the engine pushed; `None` when there was no tag and so no repository.
    pub digest: Option<Digest>,
    /// Its media type.
    pub media_type: String,
    /// Bytes of the manifest.
    pub size: u64,
    /// Bytes of the layers and the config, as the registry holds them; 0 when not known.
    #[serde(default)]
    pub image_bytes: u64,
    /// Steps in all.
    pub steps: u32,
    /// Steps that came from the cache.
    pub steps_cached: u32,
    /// What ran it: `docker 28.5.2`.
    pub engine: String,
    /// The frontend of a `# syntax=` line in whose place the engine's own was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syntax_replaced: Option<String>,
    /// What the Dockerfile's frontend answered, when it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// What was fetched, when that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetched: Option<Box<Fetched>>,
}

impl JobResult {
    /// That of a fetch.
    pub fn of_fetch(fetched: Fetched) -> Self {
        Self {
            digest: None,
            media_type: String::new(),
            size: 0,
            image_bytes: 0,
            steps: 0,
            steps_cached: 0,
            engine: String::new(),
            syntax_replaced: None,
            answer: None,
            fetched: Some(Box::new(fetched)),
        }
    }
}

/// A frontend's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// For people.
    pub text: String,
    /// For machines; its form is the frontend's.
    pub json: String,
    /// Of a check whose rules are errors: which were broken.
    #[serde(default)]
    pub violation: String,
}

/// A build.
#[derive(Debug, Clone)]
pub struct BuildRecord {
    /// Whose.
    pub project: ProjectId,
    /// The project's name.
    pub project_name: String,
    /// Its id.
    pub id: BuildId,
    /// Its id for people.
    pub short_id: ShortId,
    /// The work that it waits for.
    pub execution: ExecutionId,
    /// Where it stands.
    pub state: BuildState,
    /// What it asks for.
    pub spec: BuildSpec,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// Who asked.
    pub created_by: String,
    /// The same, exactly; `None`: an older coordinator has accepted it.
    pub submitter: Option<Submitter>,
    /// When.
    pub created_at: DateTime<Utc>,
    /// When its first job was started.
    pub started_at: Option<DateTime<Utc>>,
    /// When it became final.
    pub finished_at: Option<DateTime<Utc>>,
    /// The build that it retries.
    pub retry_of: Option<ShortId>,
    /// Of one that the farm has begun of its own accord: why.
    pub because: Option<String>,
    /// Of a copy: what its source was when it was first looked at.
    pub copied: Option<Digest>,
    /// The builds that retry it, the first first.
    pub retried_by: Vec<ShortId>,
    /// While its images are to be merged: why that went wrong the last time.
    pub merge_trouble: String,
    /// It waits for the rest of its source.
    pub source_is_wanted: bool,
    /// Which versions of the project's secrets it was accepted with, by the ids that it has for them.
    pub secret_versions: BTreeMap<MountId, i32>,
    /// Its jobs, in the order of the request; empty in lists.
    pub jobs: Vec<JobRecord>,
    /// Its publication; `None` in lists.
    pub publication: Option<PublicationRecord>,
}

/// A job.
#[derive(Debug, Clone)]
pub struct JobRecord {
    /// Its id.
    pub id: JobId,
    /// Its kind.
    pub kind: String,
    /// What it is built for.
    pub platform: Platform,
    /// The others are published without it, if it fails.
    pub optional: bool,
    /// Where it stands.
    pub state: JobState,
    /// What it waits for.
    pub waiting: Option<Waiting>,
    /// Its place among its project's jobs that wait for the same, from 1; while it waits for a slot.
    pub place: Option<u64>,
    /// When it is likely to start, if it has a place and there is enough to tell by.
    pub starts_at: Option<DateTime<Utc>>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// What it made.
    pub result: Option<JobResult>,
    /// The build whose result it took over; then its tries are those of that one's job.
    pub taken_from: Option<ShortId>,
    /// Its tries.
    pub attempts: Vec<AttemptRecord>,
    /// What the try that succeeded made for the client.
    pub outputs: Vec<OutputRecord>,
}

/// An attempt.
#[derive(Debug, Clone)]
pub struct AttemptRecord {
    /// Its id.
    pub id: AttemptId,
    /// Which try, from 1.
    pub number: u32,
    /// Its worker's name.
    pub worker: String,
    /// Where it stands.
    pub state: AttemptState,
    /// How its programs were run.
    pub support: RunMode,
    /// Why that wasn't native, in words; empty when it was.
    pub support_reason: String,
    /// When its worker was chosen.
    pub offered_at: DateTime<Utc>,
    /// When its worker began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Why it ended without a result.
    pub failure: Option<Failure>,
}

/// A publication.
#[derive(Debug, Clone)]
pub struct PublicationRecord {
    /// Where it stands.
    pub state: PublicationState,
    /// The index.
    pub index_digest: Digest,
    /// Its media type.
    pub index_media_type: String,
    /// Its length, bytes.
    pub index_size: u64,
    /// Where it goes.
    pub destinations: Vec<DestinationRecord>,
}

/// A destination.
#[derive(Debug, Clone)]
pub struct DestinationRecord {
    /// `registry/repository`.
    pub repository: String,
    /// Where it stands.
    pub state: DestinationState,
    /// Why the last try failed.
    pub failure: Option<Failure>,
    /// Its tags.
    pub tags: Vec<TagRecord>,
}

/// A tag.
#[derive(Debug, Clone)]
pub struct TagRecord {
    /// The tag.
    pub tag: String,
    /// Where it stands.
    pub state: TagState,
    /// What it pointed to before.
    pub previous: Option<Digest>,
    /// Why the last try failed.
    pub failure: Option<Failure>,
}

/// Some of a project's builds, newest first.
#[derive(Debug)]
pub struct BuildPage {
    /// Those that can be read.
    pub builds: Vec<BuildRecord>,
    /// The last build that this page looked at, if others follow it: the next page's `before`.
    pub next: Option<BuildId>,
}
