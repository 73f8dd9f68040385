//! Records of the store, as the wire shows them.

use chrono::{DateTime, Utc};
use farm_proto::v1;
use farm_store::builds::outputs::OutputRecord;
use farm_store::builds::record::{
    AttemptRecord, BuildRecord, DestinationRecord, JobRecord, JobResult, PublicationRecord,
};
use farm_types::state::BuildState;

use super::hidden::Hidden;

/// A time as the wire has it: milliseconds since 1970.
pub fn ms(at: DateTime<Utc>) -> i64 {
    at.timestamp_millis()
}

fn ms_opt(at: Option<DateTime<Utc>>) -> i64 {
    at.map(ms).unwrap_or_default()
}

/// A build's record as the wire has it, without what is hidden from whoever asks.
pub fn build(record: &BuildRecord, hidden: &Hidden) -> v1::Build {
    let mut build = v1::Build {
        id: record.short_id.to_string(),
        project: record.project_name.clone(),
        state: record.state.to_string(),
        spec: Some((&record.spec).into()),
        created_ms: ms(record.created_at),
        started_ms: ms_opt(record.started_at),
        finished_ms: ms_opt(record.finished_at),
        failure: record.failure.as_ref().map(Into::into),
        jobs: record.jobs.iter().map(job).collect(),
        publication: record.publication.as_ref().map(publication),
        created_by: record.created_by.clone(),
        retry_of: record.retry_of.as_ref().map(ToString::to_string).unwrap_or_default(),
        because: record.because.clone().unwrap_or_default(),
        copied_digest: record.copied.map(|digest| digest.to_string()).unwrap_or_default(),
        retried_by: record.retried_by.iter().map(ToString::to_string).collect(),
        publish_trouble: publish_trouble(record).unwrap_or_default().to_owned(),
        source_is_wanted: record.source_is_wanted,
        secret_versions: record
            .secret_versions
            .iter()
            // The schema has them above 0.
            .map(|(id, version)| (id.to_string(), u32::try_from(*version).unwrap_or_default()))
            .collect(),
    };
    let archive = build.spec.as_mut().and_then(|spec| spec.fetch.as_mut()?.archive.as_mut());
    if let (Some(told), Some(fetch)) = (archive, record.spec.purpose.fetch()) {
        // In its query there often is a signature.
        told.url = fetch.source.to_string();
    }
    hidden.build(&mut build);
    build
}

/// A build in a list: of its spec only what lists show (`ListBuildsResponse` says what that is).
pub fn listed(record: &BuildRecord, hidden: &Hidden) -> v1::Build {
    let build = build(record, hidden);
    let spec = build.spec.map(|spec| v1::BuildSpec {
        snapshot: spec.snapshot,
        platforms: spec.platforms,
        tags: spec.tags,
        run_image: spec.run_image,
        call: spec.call,
        fetch: spec.fetch,
        copy: spec.copy,
        origins: spec.origins,
        archive_origins: spec.archive_origins,
        ..Default::default()
    });
    v1::Build { spec, ..build }
}

/// What a build that is publishing waits for, if something went wrong.
fn publish_trouble(record: &BuildRecord) -> Option<&str> {
    if record.state != BuildState::Publishing {
        return None;
    }
    match &record.publication {
        None => Some(&record.merge_trouble),
        Some(publication) => {
            let failures = publication.destinations.iter().filter_map(|d| d.failure.as_ref());
            failures.map(|failure| failure.message.as_str()).next()
        }
    }
}

fn job(job: &JobRecord) -> v1::Job {
    v1::Job {
        id: job.id.to_string(),
        kind: job.kind.clone(),
        platform: match job.kind.as_str() {
            "fetch" => String::new(),
            _ => job.platform.to_string(),
        },
        state: job.state.to_string(),
        failure: job.failure.as_ref().map(Into::into),
        attempts: job.attempts.iter().map(attempt).collect(),
        result: job.result.as_ref().map(result),
        waiting: match (job.place, job.waiting.as_ref().map(|waiting| waiting.words()).unwrap_or_default()) {
            (Some(place), words) => format!("place {place} in the queue: {words}"),
            (None, words) => words,
        },
        starts_ms: ms_opt(job.starts_at),
        taken_from: job.taken_from.as_ref().map(ToString::to_string).unwrap_or_default(),
        outputs: job.outputs.iter().map(output).collect(),
        optional: job.optional,
    }
}

fn output(output: &OutputRecord) -> v1::Output {
    v1::Output {
        export: output.export,
        bytes: output.bytes,
        digest: output.digest.to_string(),
        removed_ms: ms_opt(output.removed_at),
    }
}

fn attempt(attempt: &AttemptRecord) -> v1::Attempt {
    v1::Attempt {
        id: attempt.id.to_string(),
        number: attempt.number,
        worker: attempt.worker.clone(),
        state: attempt.state.to_string(),
        support: attempt.support.to_string(),
        support_reason: attempt.support_reason.clone(),
        offered_ms: ms(attempt.offered_at),
        started_ms: ms_opt(attempt.started_at),
        finished_ms: ms_opt(attempt.finished_at),
        failure: attempt.failure.as_ref().map(Into::into),
    }
}

fn result(result: &JobResult) -> v1::JobResult {
    v1::JobResult {
        digest: result.digest.map(|digest| digest.to_string()).unwrap_or_default(),
        media_type: result.media_type.clone(),
        size: result.size,
        image_bytes: result.image_bytes,
        steps: result.steps,
        steps_cached: result.steps_cached,
        engine: result.engine.clone(),
        syntax_replaced: result.syntax_replaced.clone().unwrap_or_default(),
        step_timings: Vec::new(),
        answer: result.answer.as_ref().map(|answer| v1::CallAnswer {
            text: answer.text.clone(),
            json: answer.json.clone(),
            violation: answer.violation.clone(),
        }),
        fetched: result.fetched.as_deref().map(Into::into),
        // They were judged, and aren't kept with it.
        layers: Vec::new(),
        // What has succeeded has passed.
        gated: false,
    }
}

fn publication(publication: &PublicationRecord) -> v1::Publication {
    v1::Publication {
        state: publication.state.to_string(),
        index_digest: publication.index_digest.to_string(),
        index_media_type: publication.index_media_type.clone(),
        index_size: publication.index_size,
        destinations: publication.destinations.iter().map(destination).collect(),
    }
}

fn destination(destination: &DestinationRecord) -> v1::Destination {
    v1::Destination {
        repository: destination.repository.clone(),
        state: destination.state.to_string(),
        failure: destination.failure.as_ref().map(Into::into),
        tags: destination
            .tags
            .iter()
            .map(|tag| v1::Tag {
                tag: tag.tag.clone(),
                state: tag.state.to_string(),
                previous_digest: tag.previous.map(|digest| digest.to_string()).unwrap_or_default(),
                failure: tag.failure.as_ref().map(Into::into),
            })
            .collect(),
    }
}
