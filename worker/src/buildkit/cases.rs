//! What engines say when a build fails, and what it means: the rules that [`super::failure`] goes through.
//!
//! The texts are those of BuildKit, containerd, runc and registries. Those in the tests of [`super::failure`] came
//! from engines of versions 0.13 to 0.32; the others are how these programs are known to put it. The order matters:
//! the first rule that matches wins, so the more telling texts stand first.

use farm_types::Cause;

/// A rule: when the text (in lower case) holds one of `any`, and one of `also` if there are some.
pub(super) struct Case {
    pub(super) any: &'static [&'static str],
    pub(super) also: &'static [&'static str],
    pub(super) cause: Cause,
    pub(super) code: &'static str,
    /// What to do about it, or nothing.
    pub(super) cure: &'static str,
}

const fn case(
    any: &'static [&'static str],
    also: &'static [&'static str],
    cause: Cause,
    code: &'static str,
    cure: &'static str,
) -> Case {
    Case { any, also, cause, code, cure }
}

/// The texts that say that it's about a registry.
const REGISTRY: &[&str] = &[
    "failed to push",
    "failed to resolve source metadata",
    "failed to authorize",
    "failed to fetch",
    "failed to do request",
    "unexpected status",
    "failed to copy",
    "server message",
    "pull access denied",
];
const PUSH: &[&str] = &["failed to push"];

/// The rules for texts, the more telling first.
pub(super) const CASES: &[Case] = &[
    case(
        &["no space left on device", "not enough space", "disk quota exceeded"],
        &[],
        Cause::Infrastructure,
        "no_space",
        "free some space on the worker, or lower its cache limit",
    ),
    case(&["no active session", "session not found"], &[], Cause::Infrastructure, "session_lost", ""),
    case(
        &["changes out of order", "no access allowed to dir", "no local sources enabled"],
        &[],
        Cause::Bug,
        "engine_error",
        "this is farm's own mistake, please report it",
    ),
    case(
        &["dockerfile parse error", "failed to parse dockerfile"],
        &[],
        Cause::User,
        "dockerfile_syntax",
        "",
    ),
    case(
        &["failed to read dockerfile"],
        &["no such file or directory", "not found"],
        Cause::User,
        "dockerfile_missing",
        "name it with -f",
    ),
    case(
        &["file with no instructions", "the dockerfile cannot be empty"],
        &[],
        Cause::User,
        "dockerfile_empty",
        "begin with FROM IMAGE",
    ),
    case(
        &["target stage"],
        &["could not be found", "not found"],
        Cause::User,
        "target_missing",
        "name a stage of the Dockerfile (FROM … AS NAME)",
    ),
    case(
        &["docker/dockerfile"],
        &["failed to resolve source metadata"],
        Cause::User,
        "syntax_image",
        "remove the syntax line of the Dockerfile",
    ),
    case(
        &["failed to compute cache key", "failed to calculate checksum"],
        &["not found"],
        Cause::User,
        "copy_source_missing",
        "see that it is in the context or stage, and that .dockerignore does not exclude it",
    ),
    case(
        &["no match for platform"],
        &[],
        Cause::User,
        "base_image_platform",
        "choose a base image that has this platform, or leave the platform out",
    ),
    case(&["dial unix"], &["containerd"], Cause::Infrastructure, "engine_lost", ""),
    case(
        &["x509:", "certificate", "http response to https client", "tls: "],
        REGISTRY,
        Cause::User,
        "registry_rejected",
        "see that the engine trusts the registry's certificate, or is told that it speaks plain HTTP",
    ),
    case(
        &["pull access denied", "repository does not exist or may require"],
        &[],
        Cause::User,
        "base_image_missing",
        "check the image's name, or log in if it is private",
    ),
    case(
        &[
            "401 unauthorized",
            "403 forbidden",
            "authentication required",
            "unauthorized:",
            "insufficient_scope",
            "authorization failed",
            "no basic auth credentials",
            "access denied",
            "requested access to the resource is denied",
            "invalid username/password",
        ],
        &[],
        Cause::User,
        "registry_auth",
        "check the username and password under [registries] in the coordinator's configuration, and what they may do there",
    ),
    case(
        &[
            "429 too many requests",
            "toomanyrequests",
            "500 internal server error",
            "502 bad gateway",
            "503 service unavailable",
            "504 gateway timeout",
            "connection refused",
            "connection reset",
            "no such host",
            "i/o timeout",
            "tls handshake timeout",
            "network is unreachable",
            "no route to host",
            "broken pipe",
            "server misbehaving",
            "temporary failure in name resolution",
            "unexpected eof",
            ": eof",
            "context deadline exceeded",
            "timeout awaiting response headers",
            "request canceled while waiting",
        ],
        REGISTRY,
        Cause::Infrastructure,
        "registry_unavailable",
        "see that the registry is up, and that the worker's engine reaches it at this address",
    ),
    case(
        &["404 not found", "name_unknown", "name unknown", "repository name not known"],
        PUSH,
        Cause::User,
        "repository_missing",
        "create the repository at the registry first, or check its name",
    ),
    case(
        &["unexpected status", "denied", "400 bad request", "invalid reference"],
        PUSH,
        Cause::User,
        "registry_rejected",
        "",
    ),
    // What was sent got lost, on its way or in the registry: bytes are the engine's own, and right.
    case(
        &[
            "provided digest did not match",
            "blob unknown to registry",
            "blob upload unknown",
            "blob upload invalid",
        ],
        PUSH,
        Cause::Infrastructure,
        "registry_unavailable",
        "see that the registry is well",
    ),
    // The registry's own words for trouble of its own, which come without the status (429, 500, 503).
    case(
        &[": unknown: ", ": unavailable: "],
        PUSH,
        Cause::Infrastructure,
        "registry_unavailable",
        "see that the registry is well",
    ),
    case(
        &["failed to resolve source metadata", "failed to load metadata", "could not resolve image"],
        &["not found", "manifest unknown"],
        Cause::User,
        "base_image_missing",
        "check the image's name and tag, and that the worker's engine reaches its registry",
    ),
    case(&["unexpected status"], REGISTRY, Cause::User, "registry_rejected", ""),
    case(&["exec format error"], &[], Cause::Infrastructure, "emulator_missing", ""),
    case(
        &[
            "failed to create shim",
            "oci runtime create failed",
            "failed to mount",
            "failed to prepare",
            "input/output error",
            "too many open files",
            "cannot allocate memory",
            "read-only file system",
            "content store",
            "snapshot does not exist",
            "failed to stat active key",
            "failed to create lease",
            "network bridge not found",
            "transport is closing",
            "error reading from server",
        ],
        &[],
        Cause::Infrastructure,
        "engine_error",
        "",
    ),
];
