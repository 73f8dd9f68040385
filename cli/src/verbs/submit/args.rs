//! The arguments of `farm submit`, and its help.

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};

use super::buildx::Others;
use super::ignored::Ignored;
use crate::config::Defaults;
use crate::output::Mode;
use crate::switches;

/// Arguments of `farm submit`.
#[derive(Debug, Default, clap::Args)]
// As with buildx: of a flag that has one value the last one counts.
#[command(after_help = AFTER_HELP, args_override_self = true)]
pub struct Args {
    /// The folder that COPY and ADD read from; or a git repository: URL[#REF[:FOLDER]]; or an archive: https://HOST/PATH.tar.gz; -: an
    /// archive, or a Dockerfile, from standard input
    #[arg(default_value = ".", value_name = "CONTEXT")]
    pub(in crate::verbs) context: String,

    /// Where to publish: REGISTRY/REPO:TAG, also with words like :{branch}-{sha7}; may be given several times
    #[arg(short, long, value_name = "REPO:TAG")]
    pub(super) tag: Vec<String>,

    /// The platforms, separated by commas [default: the project's, else all that the farm has native workers for]
    #[arg(long, value_name = "OS/ARCH,…")]
    pub(in crate::verbs) platform: Vec<String>,

    /// The Dockerfile [default: CONTEXT/Dockerfile], of a repository by its path in the folder; -: from standard input
    #[arg(short, long, value_name = "FILE", value_parser = path_or_none())]
    pub(in crate::verbs) file: Option<PathBuf>,

    /// The stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub(in crate::verbs) target: Option<String>,

    /// Set a build argument; without a value it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(in crate::verbs) build_arg: Vec<String>,

    /// Let RUN --mount=type=secret read a file, a variable or a secret of the project: id=ID,src=FILE, id=ID,env=NAME or id=ID,from=project
    #[arg(long, value_name = "SECRET")]
    pub(super) secret: Vec<String>,

    /// Let RUN --mount=type=ssh use keys, or an agent that runs here: default, ID=SOCKET or ID=KEYFILE[,KEYFILE]
    #[arg(long, value_name = "SSH")]
    pub(super) ssh: Vec<String>,

    /// Let the build pull from a registry by the login that your Docker configuration has there, for this build only
    #[arg(long, value_name = "HOST")]
    pub(super) registry_login: Vec<String>,

    /// Set a label of the image
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) label: Vec<String>,

    /// Use no cached results
    #[arg(long)]
    pub(super) no_cache: bool,

    /// Use no cached results of these stages
    #[arg(long, value_name = "STAGE,…")]
    pub(super) no_cache_filter: Vec<String>,

    /// The network of RUN instructions: default, none or host (which asks for network.host, as --allow does)
    #[arg(long, value_name = "NETWORK")]
    pub(super) network: Option<String>,

    /// Give RUN instructions what they ask for: network.host or security.insecure; where project and worker may
    #[arg(long, value_name = "ENTITLEMENT")]
    pub(super) allow: Vec<String>,

    /// A further line of /etc/hosts for RUN instructions
    #[arg(long, value_name = "HOST=ADDRESS")]
    pub(super) add_host: Vec<String>,

    /// The size of /dev/shm for RUN instructions, like 64m
    #[arg(long, value_name = "BYTES")]
    pub(super) shm_size: Option<String>,

    /// A limit for RUN instructions, like nofile=1024:4096
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub(super) ulimit: Vec<String>,

    /// Ask the registry for every base image anew
    #[arg(long)]
    pub(super) pull: bool,

    /// Attach a provenance attestation: mode=min or mode=max [default: none]
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true, default_missing_value = "mode=min")]
    pub(super) provenance: Option<String>,

    /// Attach an SBOM, made by the scanner that buildx takes, or by generator=IMAGE [default: none]
    #[arg(long, value_name = "BOOL|generator=IMAGE", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) sbom: Option<String>,

    /// The same: type=provenance,mode=max or type=sbom,generator=IMAGE
    #[arg(long, value_name = "PARAMETERS")]
    pub(super) attest: Vec<String>,

    /// Where attestations stand: inline (in the index), referrers (beside the image) or none [default: inline]
    #[arg(long, value_name = "WHERE")]
    pub(super) attestations: Option<String>,

    /// Annotate the image: index, manifest (unless said) or manifest-descriptor; also manifest[linux/arm64]:KEY=VALUE
    #[arg(long, value_name = "[LEVEL:]KEY=VALUE")]
    pub(super) annotation: Vec<String>,

    /// Whose formats manifests and index have: auto, oci or docker [default: auto, which is oci]
    #[arg(long, value_name = "FORMATS")]
    pub(super) media_type: Option<String>,

    /// Make no file in a layer younger than SOURCE_DATE_EPOCH
    #[arg(long)]
    pub(super) rewrite_timestamp: bool,

    /// Move tags only while they point to what they point to when the build is submitted
    #[arg(long)]
    pub(super) if_unchanged: bool,

    /// What the tags of a build for one platform point to: an index, or the image's manifest itself [default: index]
    #[arg(long, value_name = "index|manifest")]
    pub(super) single_platform: Option<String>,

    /// Before it counts, look whether the image's programs are of its platform's machine: elf, or off [default: as the project has it,
    /// elf]
    #[arg(long, value_name = "elf|off")]
    pub(super) verify: Option<String>,

    /// Let files of other machines be, where these patterns name them (as .dockerignore's), like /opt/arm/**
    #[arg(long, value_name = "PATTERN")]
    pub(super) verify_except: Vec<String>,

    /// Run this in each platform's image, and move tags only if it ends well: for /bin/sh, or ["PROGRAM", "ARGUMENT"]
    #[arg(long, value_name = "COMMAND")]
    pub(super) gate: Option<String>,

    /// Sign what is published by this key of the project (farm signing-key), as cosign does, before tags move
    #[arg(long, value_name = "KEY")]
    pub(super) sign: Option<String>,

    /// Give COPY --from=NAME and FROM NAME another source
    #[arg(long, value_name = "NAME=FOLDER|URL|docker-image://IMAGE")]
    pub(super) build_context: Vec<String>,

    /// Where links may lead to the Dockerfile and .dockerignore: buildx (as with buildx), or inside: nowhere out of the context
    /// [env: FARM_CONTEXT_LINKS] [default: buildx]
    #[arg(long, value_name = "WHERE")]
    pub(in crate::verbs) context_links: Option<String>,

    /// Of git repositories: keep .git, as --build-arg BUILDKIT_CONTEXT_KEEP_GIT_DIR=1 does
    #[arg(long)]
    pub(super) keep_git: bool,

    /// Of git repositories: fetch their submodules, too
    #[arg(long)]
    pub(super) submodules: bool,

    /// Of git repositories and archives: take pointers of Git LFS as they are (pointers); without it a source with one isn't built
    #[arg(long, value_name = "pointers")]
    pub(super) lfs: Option<String>,

    /// Of a context that is an archive at an address: the digest that it has to have, as its #sha256=DIGITS says it, too
    #[arg(long, value_name = "sha256:DIGITS")]
    pub(super) checksum: Option<String>,

    /// Set the build argument SOURCE_DATE_EPOCH: commit, the time of the context's commit, or seconds since 1970
    #[arg(long, value_name = "commit|SECONDS")]
    pub(super) source_date_epoch: Option<String>,

    /// Publish the others if this platform fails, with a warning; may be repeated
    #[arg(long, value_name = "PLATFORM")]
    pub(super) optional: Vec<String>,

    /// When a platform may be emulated: never, fallback, fallback=DURATION or allow [default: fallback]
    #[arg(long, value_name = "POLICY")]
    pub(super) emulation: Option<String>,

    /// Fail when it isn't built within this time, like 90s, 10m or 2h, waiting included
    #[arg(long, value_name = "DURATION")]
    pub(super) timeout: Option<String>,

    /// Only check the Dockerfile, as farm check does
    #[arg(long)]
    pub(in crate::verbs) check: bool,

    /// Ask the Dockerfile's frontend instead: build, check, outline or targets, and ,format=json
    #[arg(long, value_name = "METHOD")]
    pub(super) call: Option<String>,

    /// Show what would be read, built and published, and by whom; send nothing
    #[arg(long, conflicts_with_all = ["detach", "quiet"])]
    pub(super) dry_run: bool,

    /// Return as soon as the build is accepted
    #[arg(long)]
    pub(super) detach: bool,

    /// Write the digest of what was published to a file
    #[arg(long, value_name = "FILE")]
    pub(super) iidfile: Option<PathBuf>,

    /// Write what was published to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) metadata_file: Option<PathBuf>,

    /// How to show what happens [env: FARM_PROGRESS] [default: auto]
    #[arg(long, value_enum, value_name = "HOW")]
    pub(super) progress: Option<Mode>,

    /// Print only the digest of what was published
    #[arg(short, long, conflicts_with = "progress")]
    pub(super) quiet: bool,

    /// Print one JSON object at the end; what happens meanwhile goes to standard error
    #[arg(long)]
    pub(in crate::verbs) json: bool,

    /// Submitting again with the same key gives the same build [default: a random one]
    #[arg(long, value_name = "KEY")]
    pub(super) idempotency_key: Option<String>,

    /// Give the result out: a folder, - (an archive of its files), or type=local, tar, oci, docker, registry or cacheonly
    #[arg(short, long, value_name = "FORM")]
    pub(super) output: Vec<String>,

    /// Load the image into this machine's Docker engine, as --output type=docker does
    #[arg(long)]
    pub(super) load: bool,

    /// Publish to the registries of the tags, as is done when neither --output nor --load is given
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_bool)]
    pub(super) push: Option<bool>,

    #[command(flatten)]
    pub(super) others: Others,

    #[command(flatten)]
    pub(super) ignored: Ignored,
}

const AFTER_HELP: &str = "\
Examples:
  farm submit . -t localhost:5002/app:latest --platform linux/amd64,linux/arm64
  farm submit web -f docker/web.Dockerfile --build-arg VERSION=1.4 -t registry.example/web:1.4
  farm submit . -t registry.example/app:ci --emulation never --detach
  farm submit . -t localhost:5002/app:latest --platform linux/amd64,linux/arm64 --dry-run
  farm submit . -t app --load
  farm submit https://git.example/team/app.git#main:docker -t registry.example/app:main
  farm submit . --output out --target binaries
  farm submit . -t localhost:5002/app:latest --secret id=npm,src=.npmrc
  farm submit . -t localhost:5002/app:latest --ssh default
  farm submit . -t localhost:5002/app:latest --gate 'python -m app.check'
  farm submit . -t registry.example/app:1.4 --sign release

Flags mean what they mean to `docker buildx build`. What differs:
  Without --output, --load and --push the result is pushed to the registries of the tags.
  Without -t and without these the build shows only that it can be built.
  Provenance is attached only when it is asked for (buildx attaches mode=min).
  Without --platform it is built for the platforms that the project names (farm project set), else
  for all that the farm has native workers for.
  A tag points to an index also of one platform; --single-platform manifest changes that.
  --build-arg BUILDKIT_SYNTAX and BUILDKIT_CACHE_MOUNT_NS are refused: farm sets them.
  Of a --build-arg that looks like a secret, by its name or its value, a warning says where it
  would be seen.
  An SBOM is attached only when it is asked for, too.
  What buildx has besides (--cache-to, --builder, …) is refused with what to do instead.

SOURCE_DATE_EPOCH, DOCKER_DEFAULT_PLATFORM and BUILDKIT_PROGRESS of the environment count as with
buildx; docs/reference/buildx-flags.md lists all variables, and all that differs.

Emulation policies:
  never         wait for a native worker
  fallback      emulate when no native worker is connected
  fallback=10m  the same, and also when the job has waited that long
  allow         emulate when no native slot is free

Exit codes:
  0    built and published, or given out; with --detach: accepted
  1    the build failed
  2    the command, a value or a file can't be taken
  3    no farm answers, or it refuses the token
  129  the terminal went away (SIGHUP); the build goes on: farm attach BUILD
  130  cancelled: by Ctrl-C, by SIGTERM, by SIGHUP where there is no terminal, or by farm cancel";

impl Args {
    /// Puts a person's defaults in the place of flags that are not given.
    pub(super) fn take_defaults(&mut self, defaults: &Defaults) {
        if self.platform.is_empty() {
            self.platform.extend(defaults.platform.clone());
        }
        if self.emulation.is_none() {
            self.emulation.clone_from(&defaults.emulation);
        }
        if self.context_links.is_none() {
            self.context_links.clone_from(&defaults.context_links);
        }
    }
}

/// A path, or nothing, which is as good as no flag.
pub(in crate::verbs) fn path_or_none() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// What a switch of buildx can be.
fn go_bool(text: &str) -> std::result::Result<bool, &'static str> {
    switches::go_bool(text).ok_or("write true or false")
}
