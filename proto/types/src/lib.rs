//! The words of farm, as types: ids, platforms, digests, image references, what a build asks for, and
//! the states that each thing passes through.
//!
//! Everything here is plain data. No async, no IO, no clock: whoever needs the time is given it. A value
//! of one of these types is valid: it was parsed once, at the edge, and the error named the field's cure.
//! To add a word: one file, a newtype with `FromStr`, its error in [`error`], and its line in `docs/`.

pub mod access;
pub mod archive;
pub mod backoff;
pub mod cause;
pub mod chain;
pub mod ci;
mod context_name;
pub mod copy;
pub mod digest;
pub mod elf;
mod emulation;
pub mod entitlement;
pub mod error;
mod escape;
mod expected;
pub mod export;
pub mod failure;
pub mod failure_code;
pub mod feature;
pub mod fetch;
mod fetch_host;
pub mod gate;
pub mod git;
mod git_place;
pub mod host;
pub mod ids;
pub mod image;
pub mod lines;
pub mod machine;
pub mod mounts;
pub mod notice;
pub mod packaging;
pub mod pattern;
pub mod people;
pub mod platform;
mod reference;
pub mod run_options;
pub mod runs;
pub mod secret;
mod signing;
pub mod snapshot;
pub mod spec;
pub mod state;
pub mod suggest;
pub mod text;
mod verify;

pub use access::{RepositoryPrefix, TagPattern};
pub use archive::{ArchiveOrigin, ArchiveSource, ArchiveUrl};
pub use backoff::{Backoff, Waits};
pub use cause::Cause;
pub use ci::{EventName, RefPattern};
pub use context_name::ContextName;
pub use copy::{CopySpec, CopyVerb, PerArch, per_arch_tags};
pub use digest::Digest;
pub use entitlement::{Entitlement, Entitlements};
pub use error::Invalid;
pub use escape::escaped;
pub use expected::ExpectedTag;
pub use export::{Export, Form};
pub use failure::Failure;
pub use failure_code::FailureCode;
pub use feature::{
    FEATURE_ARCHIVES, FEATURE_CACHES, FEATURE_DRAINING, FEATURE_FENCED, FEATURE_GATES, FEATURE_GIT,
    FEATURE_MOUNTS, FEATURE_PROBES, FEATURE_PROGRESS, FEATURE_TOKENS, FEATURE_UNNEEDED,
};
pub use fetch::{
    FETCHES_AT_ONCE, FetchSource, FetchSpec, Fetched, FetchedRoot, GitOrigin, MOST_REFS, MOST_TAGS, Origin,
    Refs, Take,
};
pub use fetch_host::FetchHost;
pub use gate::{Gate, LONGEST_GATE};
pub use git::{Commit, GitPoint, GitSource, GitUrl, Lfs, RefName};
pub use git_place::GitPlace;
pub use host::RegistryHost;
pub use ids::{
    AttemptId, BootId, BuildId, EngineId, ExecutionId, HookId, InvitationId, JobId, JoinId, LeaseToken,
    MachineId, MirrorId, NoticeId, PrincipalId, ProjectId, PublicationId, ShortId, TokenId, UploadId,
    WorkerId,
};
pub use image::{ImageRef, ImageTag, Repository};
pub use machine::TrustClass;
pub use mounts::{MountId, MountType, Mounts, SecretName, SecretSource, SshSource, ValueType};
pub use notice::{NoticeKind, NoticeOn};
pub use packaging::{Annotation, MediaTypes, Packaging, Placement};
pub use people::{PrincipalKind, PrincipalName, ProjectName, Role};
pub use platform::{Offer, Platform, Support};
pub use run_options::RunOptions;
pub use runs::{RunMode, Runs};
pub use secret::{Look, looks_secret};
pub use signing::SigningKeyName;
pub use snapshot::SnapshotRef;
pub use spec::{BuildSpec, Emulation, Provenance, PullMode, SinglePlatform};
