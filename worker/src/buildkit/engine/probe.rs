//! Proves that an engine runs a platform: builds an image that runs a program of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use farm_types::{
    Cause, Entitlement, Entitlements, Failure, FailureCode, Platform, Provenance, PullMode, RunOptions,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Engine;
use super::elf::probe_executable;
use crate::buildkit::failure::{emulator_missing, is_unstartable};
use crate::buildkit::tree::{MemoryTree, SourceTree};
use crate::buildkit::types::{Solve, SolveError};
use crate::mask::Mask;

/// Needs no base image: what is run is all that there is.
const DOCKERFILE: &str = "FROM scratch\nCOPY . /\nRUN [\"/probe\"]\n";

impl Engine {
    /// Runs a program of this platform in a build that nothing is kept of. Takes some 0.3 s.
    ///
    /// Cancel safety: as for [`Engine::solve`].
    ///
    /// # Errors
    /// The platform can't be run there (`emulator_missing`, or the program failed), the engine can't build, or
    /// farm has no program for the platform (`probe_unknown`). A platform whose probe failed isn't offered.
    pub async fn probe(&self, platform: &Platform) -> Result<(), SolveError> {
        self.probe_with(platform, Entitlements::new()).await
    }

    /// The same in a build that is given an entitlement: an engine that may not give it refuses the build as a whole.
    ///
    /// Cancel safety: as for [`Engine::solve`].
    ///
    /// # Errors
    /// As of [`Engine::probe`], or the engine refuses.
    pub async fn grants(&self, platform: &Platform, entitlement: Entitlement) -> Result<(), SolveError> {
        self.probe_with(platform, [entitlement].into()).await
    }

    async fn probe_with(&self, platform: &Platform, allow: Entitlements) -> Result<(), SolveError> {
        let program = probe_executable(platform).ok_or_else(|| {
            let message =
                format!("{platform} cannot be probed, farm has no program for it; name it with --platforms");
            Failure::new(Cause::User, FailureCode::ProbeUnknown, message)
        })?;
        // Makes this run another one than all before, so that no cache answers.
        let salt = uuid::Uuid::new_v4().to_string().into_bytes();
        let context: Arc<dyn SourceTree> =
            Arc::new(MemoryTree::new([("probe", 0o755, program), ("salt", 0o644, salt)]));
        let dockerfile: Arc<dyn SourceTree> =
            Arc::new(MemoryTree::new([("Dockerfile", 0o644, DOCKERFILE.as_bytes().to_vec())]));
        let solve = Solve {
            platform: platform.clone(),
            dockerfile: "Dockerfile".to_owned(),
            target: None,
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            no_cache: false,
            no_cache_stages: Vec::new(),
            run: RunOptions { allow, ..RunOptions::default() },
            pull: PullMode::Default,
            provenance: Provenance::Off,
            sbom: None,
            form: Default::default(),
            named_contexts: BTreeMap::new(),
            partial: BTreeMap::new(),
            roots: [("context".to_owned(), context), ("dockerfile".to_owned(), dockerfile)].into(),
            shared_key: format!("farm-probe {platform}"),
            caches: "farm-probe".to_owned(),
            export: None,
            outputs: Vec::new(),
            image_names: Vec::new(),
            logins: Vec::new(),
            lending: None,
            bounds: None,
            fetches: Default::default(),
            mounted: Arc::default(),
            mask: Mask::default(),
            internal: true,
            call: None,
        };
        // What it writes is shown to nobody.
        let (events, _) = mpsc::channel(1);
        match self.solve(solve, events, CancellationToken::new()).await {
            // The program is farm's own, and right.
            Err(SolveError::Failed(failure)) if is_unstartable(&failure) => {
                Err(emulator_missing(failure, platform).into())
            }
            end => end.map(drop),
        }
    }
}
