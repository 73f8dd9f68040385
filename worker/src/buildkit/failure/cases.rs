//! What engines say when a build fails, and what it means: the rules that [`super`] goes through.
//!
//! The texts are those of BuildKit, containerd, runc and registries. Those in `tests.rs` came
//! from engines of versions 0.13 to 0.32; the others are how these programs are known to put it. The order matters:
//! the first rule that matches wins, so the more telling texts stand first.
//!
//! Words are looked for where an engine speaks, and nowhere else ([`super::said`]): a rule says whether its words begin
//! a link of the message or are all of its last.

use farm_types::{Cause, FailureCode};

use super::said::Words;
use super::said::Words::{Begin as B, Last as L};

/// A rule: when a message holds one of `any`, and is about this.
pub(super) struct Case {
    pub(crate) any: &'static [Words],
    pub(crate) about: About,
    pub(crate) cause: Cause,
    pub(crate) code: FailureCode,
    /// What to do about it, or nothing.
    pub(crate) cure: &'static str,
}

/// What else a message has to say for a rule to hold.
pub(crate) enum About {
    Anything,
    /// One of these has to be said as well.
    Also(&'static [Words]),
    /// Everything in the message has to be about pushing.
    Push,
}

const fn case(
    any: &'static [Words],
    about: About,
    cause: Cause,
    code: FailureCode,
    cure: &'static str,
) -> Case {
    Case { any, about, cause, code, cure }
}

/// A message that begins with this is about pushing.
pub(super) const PUSHING: &str = "failed to push";

/// How messages about looking for an image begin.
pub(super) const RESOLVING: &[Words] =
    &[B("failed to resolve source metadata"), B("failed to load metadata"), B("could not resolve image")];

/// What is said of a registry only.
const REGISTRY: About = About::Also(&[
    B(PUSHING),
    B("failed to resolve source metadata"),
    B("failed to authorize"),
    B("failed to fetch"),
    B("failed to do request"),
    B("unexpected status"),
    B("failed to copy"),
    B("server message"),
    B("pull access denied"),
]);

/// The rules for texts, the more telling first.
pub(super) const CASES: &[Case] = &[
    case(
        &[L("no space left on device"), L("not enough space"), L("disk quota exceeded")],
        About::Anything,
        Cause::Infrastructure,
        FailureCode::NoSpace,
        "free some space on the worker, or lower its cache limit",
    ),
    case(
        &[B("no active session"), B("session not found")],
        About::Anything,
        Cause::Infrastructure,
        FailureCode::SessionLost,
        "",
    ),
    case(
        &[B("changes out of order"), B("no access allowed to dir"), B("no local sources enabled")],
        About::Anything,
        Cause::Bug,
        FailureCode::EngineError,
        "this is farm's own mistake, please report it",
    ),
    // What goes to an engine goes as one message, and other engines would not take it either.
    case(
        &[
            B("received message larger than max"),
            B("received message after decompression larger than max"),
            B("trying to send message larger than max"),
        ],
        About::Anything,
        Cause::User,
        FailureCode::EngineError,
        "the Dockerfile, its arguments or its labels are more than an engine takes at once: make them smaller",
    ),
    // `RUN --network=host` and its like, and nobody has asked for it.
    case(
        &[L("network.host is not allowed")],
        About::Anything,
        Cause::User,
        FailureCode::EntitlementMissing,
        "submit it with --allow network.host, if its project and a worker may give that",
    ),
    case(
        &[L("security.insecure is not allowed")],
        About::Anything,
        Cause::User,
        FailureCode::EntitlementMissing,
        "submit it with --allow security.insecure, if its project and a worker may give that",
    ),
    // It was when the worker last looked.
    case(
        &[
            B("granting entitlement network.host is not allowed by build daemon configuration"),
            B("granting entitlement security.insecure is not allowed by build daemon configuration"),
        ],
        About::Anything,
        Cause::Infrastructure,
        FailureCode::EngineError,
        "let the engine give it, or take it out of the worker's --allow",
    ),
    case(
        &[B("dockerfile parse error"), B("failed to parse dockerfile"), B("dockerfile line greater than")],
        About::Anything,
        Cause::User,
        FailureCode::DockerfileSyntax,
        "",
    ),
    case(
        &[B("failed to read dockerfile")],
        About::Also(&[L("no such file or directory"), L("not found")]),
        Cause::User,
        FailureCode::DockerfileMissing,
        "name it with -f",
    ),
    case(
        &[B("file with no instructions"), B("the dockerfile cannot be empty")],
        About::Anything,
        Cause::User,
        FailureCode::DockerfileEmpty,
        "begin with FROM IMAGE",
    ),
    case(
        &[B("target stage")],
        About::Anything,
        Cause::User,
        FailureCode::TargetMissing,
        "name a stage of the Dockerfile (FROM … AS NAME)",
    ),
    case(
        &[B("failed to compute cache key"), B("failed to calculate checksum")],
        About::Also(&[L("not found")]),
        Cause::User,
        FailureCode::CopySourceMissing,
        "see that it is in the context or stage, and that .dockerignore does not exclude it",
    ),
    case(
        &[B("no match for platform")],
        About::Anything,
        Cause::User,
        FailureCode::BaseImagePlatform,
        "choose a base image that has this platform, or leave the platform out",
    ),
    case(
        &[B("dial unix")],
        About::Also(&[B("connection error"), B("error while dialing")]),
        Cause::Infrastructure,
        FailureCode::EngineLost,
        "",
    ),
    case(
        &[B("x509"), B("server gave http response to https client"), B("tls")],
        REGISTRY,
        Cause::User,
        FailureCode::RegistryRejected,
        "see that the engine trusts the registry's certificate, or is told that it speaks plain HTTP",
    ),
    case(
        &[B("pull access denied"), B("repository does not exist or may require")],
        About::Anything,
        Cause::User,
        FailureCode::BaseImageMissing,
        "check the image's name, or log in if it is private",
    ),
    case(
        &[
            B("401 unauthorized"),
            B("403 forbidden"),
            B("authentication required"),
            B("unauthorized"),
            B("insufficient_scope"),
            B("authorization failed"),
            B("no basic auth credentials"),
            B("access denied"),
            B("access forbidden"),
            B("requested access to the resource is denied"),
            B("invalid username/password"),
        ],
        REGISTRY,
        Cause::User,
        FailureCode::RegistryAuth,
        "check the username and password under [registries] in the coordinator's configuration, and what they may do there",
    ),
    case(
        &[B("429 too many requests"), B("toomanyrequests")],
        REGISTRY,
        Cause::Infrastructure,
        FailureCode::RegistryUnavailable,
        "it lets only so much be read: log in there (farm registry login HOST), which may get you more, and build upon base images in a registry of \
         your own (farm mirror IMAGE --every 24h)",
    ),
    case(
        &[
            B("500 internal server error"),
            B("502 bad gateway"),
            B("503 service unavailable"),
            B("504 gateway timeout"),
            B("connection refused"),
            B("connection reset"),
            B("no such host"),
            B("i/o timeout"),
            B("tls handshake timeout"),
            B("network is unreachable"),
            B("no route to host"),
            B("broken pipe"),
            B("server misbehaving"),
            B("temporary failure in name resolution"),
            B("unexpected eof"),
            B("eof"),
            B("context deadline exceeded"),
            B("timeout awaiting response headers"),
            B("request canceled while waiting"),
        ],
        REGISTRY,
        Cause::Infrastructure,
        FailureCode::RegistryUnavailable,
        "see that the registry is up, and that the worker's engine reaches it at this address",
    ),
    case(
        &[B("404 not found"), B("name_unknown"), B("name unknown"), B("repository name not known")],
        About::Push,
        Cause::User,
        FailureCode::RepositoryMissing,
        "create the repository at the registry first, or check its name",
    ),
    case(
        &[B("unexpected status"), B("denied"), B("400 bad request"), B("invalid reference")],
        About::Push,
        Cause::User,
        FailureCode::RegistryRejected,
        "",
    ),
    // What was sent got lost, on its way or in the registry: bytes are the engine's own, and right.
    case(
        &[
            B("provided digest did not match"),
            B("blob unknown to registry"),
            B("blob upload unknown"),
            B("blob upload invalid"),
        ],
        About::Push,
        Cause::Infrastructure,
        FailureCode::RegistryUnavailable,
        "see that the registry is well",
    ),
    // The registry's own words for trouble of its own, which come without the status (429, 500, 503).
    case(
        &[B("unknown"), B("unavailable")],
        About::Push,
        Cause::Infrastructure,
        FailureCode::RegistryUnavailable,
        "see that the registry is well",
    ),
    case(
        RESOLVING,
        About::Also(&[L("not found"), L("404 not found"), B("manifest unknown")]),
        Cause::User,
        FailureCode::BaseImageMissing,
        "check the image's name and tag, and that the worker's engine reaches its registry",
    ),
    case(&[B("unexpected status")], REGISTRY, Cause::User, FailureCode::RegistryRejected, ""),
    case(&[L("exec format error")], About::Anything, Cause::Infrastructure, FailureCode::EmulatorMissing, ""),
    case(
        &[
            B("failed to create shim"),
            B("oci runtime create failed"),
            B("failed to mount"),
            B("failed to prepare"),
            L("input/output error"),
            L("too many open files"),
            L("cannot allocate memory"),
            L("read-only file system"),
            B("content store"),
            B("failed to stat active key"),
            B("failed to create lease"),
            B("network bridge not found"),
            B("transport is closing"),
            B("error reading from server"),
        ],
        About::Anything,
        Cause::Infrastructure,
        FailureCode::EngineError,
        "",
    ),
];
