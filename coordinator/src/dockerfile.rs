//! What a submitted Dockerfile says of the machines that its build needs: whose programs run in it, per platform.
//!
//! It is read from the snapshot as the worker reads it. Invariant: what can't be read, or told, is left out, and such a
//! platform's job waits for a worker that runs the platform. The worker says what is wrong with the file.

use std::collections::BTreeMap;

use farm_dockerfile::{Build, Dockerfile, Programs};
use farm_types::snapshot::ROOT_DOCKERFILE;
use farm_types::spec::Purpose;
use farm_types::{BuildSpec, Platform, ProjectId, Runs};

use crate::shared::Shared;
use crate::tree::{Tree, Unread};

/// The longest Dockerfile that is read, bytes; a worker reads no more of one either.
const LONGEST: u64 = 16 << 20;

/// Whose programs run, for each platform of the build of which that is known.
///
/// # Errors
/// The database or the blob store doesn't answer: then it isn't asked for more.
pub(crate) async fn runs(
    shared: &Shared,
    project: ProjectId,
    spec: &BuildSpec,
) -> Result<BTreeMap<Platform, Runs>, Unread> {
    match spec.purpose {
        // A program of the platform is what it is all about.
        Purpose::Run(_) => return Ok(BTreeMap::new()),
        // A program of the image runs, whatever its Dockerfile runs.
        Purpose::Image if spec.gate.is_some() => return Ok(BTreeMap::new()),
        // A frontend is asked, which is the engine's; of a fetch and a copy the engine knows nothing.
        Purpose::Call(_) | Purpose::Fetch(_) | Purpose::Copy(_) => {
            return Ok(spec.platforms.iter().map(|platform| (platform.clone(), Runs::nothing())).collect());
        }
        Purpose::Image => {}
    }
    let bytes = match find(shared, project, spec).await {
        Ok(Some(bytes)) => bytes,
        Err(error) if error.may_pass() => return Err(error),
        Ok(None) | Err(_) => return Ok(BTreeMap::new()),
    };
    let spec = spec.clone();
    // A long one takes a while to read.
    let told = tokio::task::spawn_blocking(move || told(&Dockerfile::parse(&bytes), &spec)).await;
    Ok(told.unwrap_or_default())
}

fn told(file: &Dockerfile, spec: &BuildSpec) -> BTreeMap<Platform, Runs> {
    let told = spec.platforms.iter().filter_map(|platform| {
        let build = Build {
            target: spec.target.as_deref(),
            args: &spec.build_args,
            contexts: &spec.named_contexts,
            platform,
        };
        Some((platform.clone(), Programs::of(file, &build)?.into()))
    });
    told.collect()
}

async fn find(shared: &Shared, project: ProjectId, spec: &BuildSpec) -> Result<Option<Vec<u8>>, Unread> {
    let Some(tree) = Tree::open(shared, project, spec.snapshot.tree_id, ROOT_DOCKERFILE).await? else {
        return Ok(None);
    };
    let file = match tree.locate(&spec.dockerfile).await? {
        // BuildKit takes the lower-case name too when the usual one isn't there.
        None if spec.dockerfile == "Dockerfile" => tree.locate("dockerfile").await?,
        found => found,
    };
    match file {
        Some(file) => tree.read(file, LONGEST).await,
        None => Ok(None),
    }
}
