//! Which builds can be retried, and which of their results are still there to be taken over.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use farm_store::builds::record::{BuildRecord, JobRecord};
use farm_types::spec::Purpose;
use farm_types::state::{BuildState, JobState};
use farm_types::{Digest, Platform, Repository};
use futures::{StreamExt as _, stream};
use tokio::time::timeout;
use tonic::Status;

use crate::registry::Registries;
use crate::registry::login::Allowed;

/// How long registries may take to say whether results are still there; somebody waits for the answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// So many are asked at once.
const AT_ONCE: usize = 8;

/// Refuses what there is no sense in retrying.
///
/// # Errors
/// `FAILED_PRECONDITION` with the cure.
pub(super) fn check(record: &BuildRecord, failed_only: bool) -> Result<(), Status> {
    let (id, state) = (&record.short_id, record.state);
    let cure = match &record.spec.purpose {
        Purpose::Run(image) => format!("build {id} ran an image; run it again: `farm run {image}`"),
        Purpose::Call(call) => {
            format!("build {id} only asked for {}; ask again with `farm submit --call`", call.as_str())
        }
        Purpose::Fetch(fetch) => {
            format!("build {id} fetched a source; submit it anew: farm submit {}", fetch.source)
        }
        Purpose::Image | Purpose::Copy(_) if !state.is_final() => format!(
            "build {id} is {state}, and only one that has ended can be retried; `farm attach {id}` watches it, \
             `farm cancel {id}` ends it"
        ),
        Purpose::Image if !record.spec.exports.is_empty() => format!(
            "build {id} gives its result to the command that asked for it (--output, --load); give that command again, \
             what the farm has built of it comes from the cache"
        ),
        Purpose::Copy(_) if failed_only => {
            format!("build {id} is a copy, of which no platform fails by itself; leave --failed-only out")
        }
        Purpose::Image
            if failed_only
                && state == BuildState::Succeeded
                && record.jobs.iter().all(|job| job.state == JobState::Succeeded) =>
        {
            format!(
                "build {id} succeeded, so no platform of it has failed; without --failed-only all are built again"
            )
        }
        Purpose::Image | Purpose::Copy(_) => return Ok(()),
    };
    Err(Status::failed_precondition(cure))
}

/// The platforms whose results are not where they were pushed any more. What registries don't say within [`PATIENCE`] is left
/// to the publish pass, which looks at everything once more before any tag moves.
pub(super) async fn gone(registries: &Registries, allowed: &Allowed, record: &BuildRecord) -> Vec<Platform> {
    let of_job = |job: &JobRecord| {
        let digest = job.result.as_ref()?.digest?;
        Some(record.spec.repositories().into_iter().map(move |repository| (repository, digest)))
    };
    let questions = record.jobs.iter().filter(|job| job.state == JobState::Succeeded).flat_map(|job| {
        let places = of_job(job).into_iter().flatten();
        places.map(move |(repository, digest)| (job.platform.clone(), repository, digest))
    });
    let gone = missing(PATIENCE, questions.collect(), async |repository, digest| {
        let Ok(registries) = registries.to_publish(allowed, &repository) else { return false };
        matches!(registries.head(&repository, &digest.to_string()).await, Ok(None))
    });
    let gone = gone.await;
    for platform in &gone {
        tracing::info!(build = %record.short_id, %platform, "its result is gone; built again");
    }
    gone
}

/// Asks for all of these images, a few at a time; answers the platforms of those that `is_missing` said it of in time.
async fn missing<A>(
    patience: Duration,
    questions: Vec<(Platform, Repository, Digest)>,
    is_missing: impl Fn(Repository, Digest) -> A,
) -> Vec<Platform>
where
    A: Future<Output = bool>,
{
    let mut gone = BTreeSet::new();
    let answers = questions.into_iter().map(|(platform, repository, digest)| {
        let answer = is_missing(repository, digest);
        async move { answer.await.then_some(platform) }
    });
    let mut answers = pin!(stream::iter(answers).buffer_unordered(AT_ONCE));
    let asking = async {
        while let Some(platform) = answers.next().await {
            gone.extend(platform);
        }
    };
    if timeout(patience, asking).await.is_err() {
        tracing::warn!(
            "a registry does not say in time whether results are still there; publishing will tell"
        );
    }
    gone.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_registry_that_hangs_holds_up_neither_the_retry_nor_what_others_say() {
        let platform = |name: &str| name.parse::<Platform>().unwrap();
        let (hangs, answers): (Repository, Repository) =
            ("hangs.example/x".parse().unwrap(), "answers.example/x".parse().unwrap());
        let digest = Digest::of(b"x");
        let mut questions: Vec<_> =
            (0..3).map(|_| (platform("linux/s390x"), hangs.clone(), digest)).collect();
        questions.extend(
            ["linux/arm64", "linux/amd64", "linux/arm64"].map(|p| (platform(p), answers.clone(), digest)),
        );
        questions.push((platform("linux/riscv64"), answers.clone(), Digest::of(b"there")));
        let is_missing = async |repository: Repository, asked: Digest| match repository == hangs {
            true => std::future::pending().await,
            false => asked == digest,
        };
        let gone = missing(Duration::from_millis(300), questions, is_missing).await;
        assert_eq!(gone, [platform("linux/amd64"), platform("linux/arm64")]);
    }
}
