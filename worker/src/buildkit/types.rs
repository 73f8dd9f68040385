//! What is asked of an engine and what comes of it.
//!
//! Nothing here speaks to an engine. BuildKit's own types do not appear: whoever runs builds needs to know
//! farm's words only.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use farm_dockerfile::Selection;
use farm_proto::v1;
use farm_types::spec::{Call, NamedContext};
use farm_types::{
    Digest, Failure, ImageRef, MountId, Platform, Provenance, PullMode, RegistryHost, Repository, RunOptions,
};

use futures::future::BoxFuture;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::fetches::Fetches;
use super::public::Public;
use super::tree::SourceTree;
use crate::mask::Mask;

/// One image for one platform, to be built.
#[derive(Clone)]
pub struct Solve {
    /// The platform to build for.
    pub platform: Platform,
    /// The Dockerfile's path within the root `dockerfile`.
    pub dockerfile: String,
    /// The stage to build; the last one when absent.
    pub target: Option<String>,
    /// `--build-arg`. `BUILDKIT_SYNTAX` and `BUILDKIT_CACHE_MOUNT_NS` are farm's own and are left out here.
    pub build_args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// Runs every step again, instead of taking results from the engine's cache.
    pub no_cache: bool,
    /// Stages of which every step runs again.
    pub no_cache_stages: Vec<String>,
    /// Network, entitlements and other options of RUN instructions.
    pub run: RunOptions,
    /// Whether base images are resolved anew.
    pub pull: PullMode,
    /// With one, the result is an index of the image and its attestation.
    pub provenance: Provenance,
    /// The image whose program makes an SBOM; with one, the result is an index as well.
    pub sbom: Option<ImageRef>,
    /// The form of the image.
    pub form: ImageForm,
    /// Images or folders in place of stages and bases.
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// The source by the names of a snapshot's roots: `context`, `dockerfile`, `context:NAME`. Without
    /// `dockerfile`, the Dockerfile is looked up in `context`.
    pub roots: BTreeMap<String, Arc<dyn SourceTree>>,
    /// Of the roots those that hold a part of their folder only, and of what.
    pub partial: BTreeMap<String, Selection>,
    /// Trees of the same key are synchronised: the engine asks only for what changed since the last one.
    /// The same for all builds of one project and context, another one for others.
    pub shared_key: String,
    /// Whose cache mounts and results of RUN instructions the engine uses: of another value's it sees nothing, and
    /// leaves nothing for them. Empty: everybody's.
    pub caches: String,
    /// Where the result is pushed; without, it is built and dropped.
    pub export: Option<Export>,
    /// What is made for the client.
    pub outputs: Vec<Output>,
    /// The names that images among these bear.
    pub image_names: Vec<String>,
    /// What to answer when the engine asks how to log in; other registries are asked without a name.
    pub logins: Vec<Login>,
    /// Where tokens of registries come from that are told no login.
    pub lending: Option<Lending>,
    /// From which registries not every image is taken.
    pub bounds: Option<Bounds>,
    /// Where the engine may fetch what the build names.
    pub fetches: Fetches,
    /// What steps may mount besides files.
    pub mounted: Arc<Mounted>,
    /// Masks its secrets where what the engine says is cut; whoever passes it on masks all of it.
    pub mask: Mask,
    /// Keeps the build out of the engine's history.
    pub internal: bool,
    /// The frontend is asked this, and nothing is built.
    pub call: Option<Call>,
}

impl fmt::Debug for Solve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values of build arguments may be secret.
        f.debug_struct("Solve")
            .field("platform", &self.platform)
            .field("dockerfile", &self.dockerfile)
            .field("target", &self.target)
            .field("roots", &self.roots.keys())
            .field("export", &self.export)
            .field("outputs", &self.outputs)
            .field("logins", &self.logins)
            .finish_non_exhaustive()
    }
}

/// How an image is written down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageForm {
    /// In Docker's formats instead of OCI's.
    pub docker: bool,
    /// Of its manifest.
    pub annotations: BTreeMap<String, String>,
    /// Files in layers are no younger than SOURCE_DATE_EPOCH.
    pub rewrite_timestamp: bool,
}

/// A push by digest, without a tag, to each of the repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Where the result is pushed; never empty.
    pub repositories: Vec<Repository>,
    /// The registries speak plain HTTP. Loopback registries are tried so anyway.
    pub plain_http: bool,
    /// Nothing is pushed: it is only said what would be.
    pub told_only: bool,
}

/// What a solve makes for the client.
#[derive(Debug, Clone)]
pub struct Output {
    /// As files, or as which kind of archive.
    pub export: farm_types::Export,
    /// Where its bytes go. One that isn't there any more ends the solve.
    pub sink: mpsc::Sender<OutputPart>,
}

/// A part of an output's bytes, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputPart {
    /// The next bytes.
    Data(Bytes),
    /// The output is complete.
    End,
}

/// What steps may mount besides files. Erased when it is dropped.
#[derive(Default)]
pub struct Mounted {
    /// The values of secrets.
    pub secrets: BTreeMap<MountId, Zeroizing<Vec<u8>>>,
    /// Agents of ssh.
    pub agents: BTreeMap<MountId, Arc<dyn Agent>>,
}

/// Who answers what steps ask an agent of ssh.
pub trait Agent: Send + Sync {
    /// The answer to a message. The future may be dropped at any time. A failure is the end of the whole solve; that an agent doesn't
    /// do what it is asked, is an answer.
    fn ask(&self, asked: AgentAsked) -> BoxFuture<'static, Result<Vec<u8>, Failure>>;
}

/// What an agent is asked, on one of its connections.
#[derive(Clone, PartialEq, Eq)]
pub struct AgentAsked {
    /// What the connection was bound to before.
    pub binds: Vec<Vec<u8>>,
    /// One of those that a build may send.
    pub message: Vec<u8>,
}

/// How to log in at a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Host and port as an image's name has them: `localhost:5002`, `docker.io`.
    pub host: String,
    pub username: String,
    /// The password or token.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("host", &self.host)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Tokens of registries, for one attempt.
#[derive(Clone)]
pub struct Lending {
    /// Whose attempt it is, for people.
    pub project: String,
    /// Of which registries tokens are to be had, by host.
    pub grants: BTreeMap<String, Grant>,
    /// Who has them.
    pub tokens: Arc<dyn Tokens>,
}

/// What an attempt may do at a registry, as far as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The same text for all who may do the same there.
    pub name: String,
    /// It may pull from these repositories (`HOST/REPO`) and those below them; empty: from all.
    pub pull: Vec<String>,
}

/// Who has tokens of registries.
pub trait Tokens: Send + Sync {
    /// One for what an engine wants to do. The future may be dropped at any time.
    fn lend(&self, asked: TokenAsked) -> BoxFuture<'static, Result<LentToken, Failure>>;

    /// The login of a registry that wants one for itself, by its host. The future may be dropped at any time.
    fn lend_login(&self, host: String) -> BoxFuture<'static, Result<Login, Failure>>;
}

/// What an engine wants a token for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenAsked {
    /// The registry, as the engine names it.
    pub host: String,
    /// Where it told the engine to get tokens, and for whom.
    pub realm: String,
    pub service: String,
    /// `repository:NAME:pull,push`.
    pub scopes: Vec<String>,
}

/// A token. It isn't printed.
#[derive(Clone, PartialEq, Eq)]
pub struct LentToken {
    /// Empty: who has no login gets none.
    pub token: String,
    /// Seconds from its issue on; 0: it isn't known.
    pub expires_in: u64,
    /// Seconds since 1970; 0: it isn't known.
    pub issued_at: i64,
    /// The repositories (`HOST/REPO`) of what was asked for where it is worth no more than what anybody gets.
    pub refused: Vec<String>,
}

/// Which images of some registries are taken, for one attempt. An engine gives what it has to whoever knows the digest, so it is
/// told.
#[derive(Clone)]
pub struct Bounds {
    /// Whose attempt it is, for people.
    pub project: String,
    /// The registries that have bounds.
    pub within: BTreeMap<RegistryHost, Bound>,
    /// What the attempt may take of others (`HOST/REPO` and what is below it; `HOST`: everything). To an engine that keeps images by
    /// hosts' names these are not apart from those at the same name.
    pub open: BTreeMap<RegistryHost, Vec<String>>,
    /// By which logins images are looked up for the attempt.
    pub readers: BTreeSet<String>,
    /// Who can tell what everybody, or these, may read.
    pub images: Arc<dyn Images>,
    /// What is known of that.
    pub public: Arc<Public>,
    /// What the attempt itself has pushed, by its digest: that it may take, wherever it is.
    pub pushed: Option<ImageRef>,
}

/// Which images of a registry are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Those of these repositories (`HOST/REPO`) and of those below them.
    pub pull: Vec<String>,
    /// And those that everybody may read, or the login by which they are looked up.
    pub or_public: bool,
}

/// Who can tell what registries let be read.
pub trait Images: Send + Sync {
    /// Asks about an image. The future may be dropped at any time.
    fn look_up(&self, image: &ImageRef) -> BoxFuture<'static, Result<Looked, Failure>>;
}

/// How a registry answers whoever asks for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It gives it.
    Readable,
    /// It says that it hasn't got it.
    Absent,
    /// It doesn't let them in there.
    Refused,
}

/// What came of a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// How the registry answers.
    pub seen: Seen,
    /// Whom: those who look by one login. Empty: everybody.
    pub reader: String,
}

/// What a solve gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Solved {
    /// What was pushed: a manifest, or an index when provenance was asked for. Absent without an export.
    pub digest: Option<Digest>,
    /// Its media type; empty without an export.
    pub media_type: String,
    /// Its bytes (of the manifest or index itself).
    pub size: u64,
    /// The Dockerfile's steps that this build consists of, those of [`v1::StepTiming`].
    pub steps: u32,
    /// How many of them were not run because the engine had their result.
    pub steps_cached: u32,
    /// Each of them, in the order of their start.
    pub step_timings: Vec<v1::StepTiming>,
    /// The frontend image that the Dockerfile's `# syntax=` line names, when the engine's own took its place.
    pub syntax_replaced: Option<String>,
    /// What the frontend answered, when it was asked.
    pub answer: Option<v1::CallAnswer>,
}

/// Why a solve gave nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SolveError {
    /// Ended because the caller said so.
    #[error("stopped")]
    Stopped,
    /// Failed; what follows is in the failure's cause.
    #[error("{0}")]
    Failed(Failure),
    /// The engine needs more of the source than is there of it.
    #[error("the source is incomplete: {0:?}")]
    SourceIncomplete(Missing),
}

/// What the engine asked for that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The name of the snapshot's root (`context`).
    pub root: String,
    /// The path as the engine named it; empty: the whole root.
    pub asked: String,
}

impl From<Failure> for SolveError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}
