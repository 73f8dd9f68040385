//! From what the workers pushed to one index, kept in the database until it is put.

use farm_core::publish::{Index, alone, merge};
use farm_core::work::again::backoff;
use farm_store::Result;
use farm_store::machines::leader::Epoch;
use farm_store::publish::publications::DueMerge;
use farm_types::{Cause, Failure, FailureCode, Platform, SinglePlatform};

use super::LOOKS;
use super::put::by_login;
use crate::registry::image::ChildError;
use crate::shared::Shared;

/// Reads the children of one build back, and keeps the index that they make.
pub(super) async fn merge_one(shared: &Shared, epoch: Epoch, due: &DueMerge) -> Result<()> {
    let Some(repository) = due.spec.repositories().into_iter().next() else {
        return shared.loops.finish_unpublished(epoch, due.project, due.build).await;
    };
    let registries = match by_login(shared, due.project, &repository).await? {
        Ok(registries) => registries,
        Err(error) if error.is_transient() => {
            tracing::warn!(%error, "children can't be read; trying again");
            let after = backoff(due.tries + 1, rand::random::<f64>());
            return shared.loops.retry_merge(epoch, due.project, due.build, &error.message, after).await;
        }
        Err(error) => return shared.loops.fail_merge(epoch, due.project, due.build, &error.failure()).await,
    };
    let mut children = Vec::with_capacity(due.results.len());
    let mut sizes = Vec::with_capacity(due.results.len());
    let mut images = Vec::with_capacity(due.results.len());
    for pushed in &due.results {
        let platform = &pushed.platform;
        let Some(digest) = pushed.result.digest else {
            let why = format!("the worker pushed nothing for {platform}");
            let failure = Failure::new(Cause::Bug, FailureCode::NothingPushed, why);
            return shared.loops.fail_merge(epoch, due.project, due.build, &failure).await;
        };
        match registries.child(&repository, digest, platform).await {
            Ok(pushed) if due.spec.sbom.is_some() && pushed.child.attestations.is_empty() => {
                let why = format!(
                    "{platform} was pushed without an SBOM, as its worker is of an older version; update it"
                );
                let failure = Failure::new(Cause::User, FailureCode::IndexImpossible, why);
                return shared.loops.fail_merge(epoch, due.project, due.build, &failure).await;
            }
            Ok(pushed) => {
                children.push(pushed.child);
                sizes.push((platform.clone(), pushed.bytes));
                images.push(pushed.image.bytes);
            }
            Err(ChildError::Registry(error)) if error.is_transient() => {
                tracing::warn!(%error, "children can't be read; trying again");
                let after = backoff(due.tries + 1, rand::random::<f64>());
                return shared.loops.retry_merge(epoch, due.project, due.build, &error.message, after).await;
            }
            Err(ChildError::Missing(failure)) if due.tries < LOOKS => {
                let after = backoff(due.tries + 1, rand::random::<f64>());
                let why = &failure.message;
                return shared.loops.retry_merge(epoch, due.project, due.build, why, after).await;
            }
            Err(ChildError::Registry(error)) => {
                return shared.loops.fail_merge(epoch, due.project, due.build, &error.failure()).await;
            }
            Err(ChildError::Missing(failure) | ChildError::Wrong(failure)) => {
                return shared.loops.fail_merge(epoch, due.project, due.build, &failure).await;
            }
        }
    }
    let built: Vec<&Platform> = due.results.iter().map(|pushed| &pushed.platform).collect();
    let missing: Vec<Platform> =
        due.spec.optional.iter().filter(|platform| !built.contains(platform)).cloned().collect();
    let merged = match (due.spec.single_platform, images.pop()) {
        (SinglePlatform::Manifest, Some(image)) => alone(&children, image, &due.spec.packaging),
        _ => merge(&children, &missing, &due.spec.packaging),
    };
    let index: Index = match merged {
        Ok(index) => index,
        Err(error) => {
            let failure = Failure::new(Cause::User, FailureCode::IndexImpossible, error.to_string());
            return shared.loops.fail_merge(epoch, due.project, due.build, &failure).await;
        }
    };
    tracing::info!(index = %index.digest, "merged");
    shared.loops.keep_publication(epoch, due, &index, &sizes).await
}
