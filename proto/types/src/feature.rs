//! What a worker can say of itself in its Hello beyond the protocol's version. To add one: a word here, and who says it.

/// It ends when what it runs is done.
pub const FEATURE_DRAINING: &str = "draining";

/// It vouches for an attempt that is silent and goes on, so that silence means trouble.
pub const FEATURE_PROGRESS: &str = "progress";

/// It answers trial builds.
pub const FEATURE_PROBES: &str = "probes";

/// It takes jobs for platforms that it doesn't offer, if they run no program of them.
pub const FEATURE_UNNEEDED: &str = "unneeded";

/// It asks for registries' tokens and logins when its engine does, instead of being lent logins with its offers, keeps to the repositories
/// that it is told, and keeps apart what different logins may read.
pub const FEATURE_TOKENS: &str = "tokens";

/// It has git, and fetches sources.
pub const FEATURE_GIT: &str = "git";

/// It fetches sources from archives at web addresses.
pub const FEATURE_ARCHIVES: &str = "archives";

/// Whoever runs its machine says that what its engine runs and fetches reaches no metadata service, no coordinator and no other machine
/// of theirs.
pub const FEATURE_FENCED: &str = "fenced-engine";

/// It asks for a build's secrets and ssh keys, and gives them to its engine.
pub const FEATURE_MOUNTS: &str = "mounts";

/// It runs a build's gate in what it has pushed.
pub const FEATURE_GATES: &str = "gates";

/// It has its engine say what it keeps of former builds, and drop some of it.
pub const FEATURE_CACHES: &str = "caches";
