//! The stable words for what failed, each with what it means and what to do about it.
//!
//! `docs/reference/failures.md` lists them; its tables are made from here. To add one: its line below and the place where it
//! arises, then `TRYCMD=overwrite` with this file's test (see `docs/development.md`).

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::cause::Cause;

/// Where a code's row stands in the documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chapter {
    /// What is wrong with what was submitted.
    Source,
    /// Images that are built on, and where images come from and go to.
    Registries,
    /// Trouble of the machines.
    Machines,
    /// Time limits, and the merged image.
    Publishing,
}

impl Chapter {
    /// In the order of the documents.
    pub const ALL: [Self; 4] = [Self::Source, Self::Registries, Self::Machines, Self::Publishing];

    /// Its heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Source => "Source and Dockerfile",
            Self::Registries => "Base images and registries",
            Self::Machines => "Workers and engines",
            Self::Publishing => "Waiting and publishing",
        }
    }
}

/// What a code means together with a cause, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meaning {
    /// What follows from it.
    pub cause: Cause,
    /// What has happened.
    pub means: &'static str,
    /// What to do about it.
    pub cure: &'static str,
}

/// A code of a newer farm, which this one can only hand on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnknownCode(String);

macro_rules! codes {
    ($($variant:ident = $word:literal, $chapter:ident { $($cause:ident: $means:literal, $cure:literal;)+ })*) => {
        /// A stable word for what failed. Unknown ones, of newer workers and coordinators, stay as they are.
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum FailureCode {
            $(#[doc = concat!("`", $word, "`")] $variant,)*
            /// None of those above.
            Unknown(UnknownCode),
        }

        impl FailureCode {
            /// All that are known here, in the order of the documents.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word, as SQL, wire and people have it.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $word,)*
                    Self::Unknown(UnknownCode(word)) => word,
                }
            }

            /// Where it is documented, and what it means there; `None` for one that isn't known here.
            pub fn documented(&self) -> Option<(Chapter, &'static [Meaning])> {
                match self {
                    $(Self::$variant => Some((
                        Chapter::$chapter,
                        &[$(Meaning { cause: Cause::$cause, means: $means, cure: $cure }),+],
                    )),)*
                    Self::Unknown(_) => None,
                }
            }

            fn known(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    DockerfileMissing = "dockerfile_missing", Source {
        User: "the Dockerfile isn't in the source",
            "name it with `-f`";
    }
    DockerfileEmpty = "dockerfile_empty", Source {
        User: "it has no instruction",
            "begin with `FROM IMAGE`";
    }
    DockerfileSyntax = "dockerfile_syntax", Source {
        User: "it can't be parsed, or an instruction can't be taken; the lines are shown",
            "mend the lines";
    }
    SourceIncomplete = "source_incomplete", Source {
        User: "what was sent of the source isn't enough, and nobody was there to send the rest: a retry of \
            a build whose base image has another `ONBUILD` since",
            "submit it again";
    }
    SourceUnusable = "source_unusable", Source {
        User: "something in a fetched source can't be taken: a name that isn't UTF-8, an ignore file that can't be read, a file \
            or a whole that is longer than the farm takes",
            "the sentence names it; mend it, or leave it out with a line in `.dockerignore`";
    }
    GitRepositoryMissing = "git_repository_missing", Source {
        User: "the host has no such git repository, or doesn't show it to this login (forges say the same of both)",
            "check the address, and that the project's login may read it";
    }
    GitRepositoryEmpty = "git_repository_empty", Source {
        User: "the git repository has no commit yet",
            "push one";
    }
    GitRepositoryBroken = "git_repository_broken", Source {
        User: "what the git repository has can't be taken: objects that are damaged, or names that lead out of a folder (`.git`, `..`)",
            "`git fsck` in a clone tells more; the sentence has git's words";
    }
    GitLoginMissing = "git_login_missing", Source {
        User: "the git repository is for those that sign in, and the project has no login at its host; or it isn't there",
            "check the address, or give the project a login that may read it";
    }
    GitLoginRefused = "git_login_refused", Source {
        User: "the git host doesn't take the project's login, or that may not read this repository",
            "give it one that is valid and may";
    }
    GitHostKey = "git_host_key", Source {
        User: "the ssh host shows another key than the project's login names",
            "compare with what the forge publishes, and give the login the right `known_hosts` lines";
    }
    GitHostClosed = "git_host_closed", Source {
        User: "a git host that workers don't fetch from: loopback, link-local addresses and clouds' metadata services, the farm's own \
            hosts, names that lead there, and `http://`",
            "the sentence has the address and who can allow it; see [worker.md](worker.md#what-engines-fetch)";
    }
    GitRedirected = "git_redirected", Source {
        User: "the git repository's address sends elsewhere, which isn't followed",
            "write the address that it has now";
    }
    GitRefMissing = "git_ref_missing", Source {
        User: "the git repository has no such branch, tag or ref, or that leads to no commit",
            "`git ls-remote URL` lists what there is";
    }
    GitRefMoved = "git_ref_moved", Source {
        User: "the ref is at another commit than the one that was to be built",
            "build what it is at now, or name the commit alone";
    }
    GitCommitMissing = "git_commit_missing", Source {
        User: "no branch and no tag of the git repository has the commit",
            "push it, or name the ref that is at it (`refs/pull/7/head`)";
    }
    GitSubdirMissing = "git_subdir_missing", Source {
        User: "the folder that is to be the context isn't in the commit, or is a file or a link there",
            "name one that is there: `URL#REF:FOLDER`";
    }
    GitSubmodule = "git_submodule", Source {
        User: "a submodule's address isn't given, or is none that is fetched by https or ssh; or they are too many or too deep",
            "mend `.gitmodules`, or leave `--submodules` out";
    }
    GitLfs = "git_lfs", Source {
        User: "a file of the fetched source is a pointer of Git LFS, and workers don't fetch what it stands for",
            "leave it out with a line in `.dockerignore`, or take pointers as they are: `--lfs pointers` (in `.farm.yaml` \
                `lfs: pointers`)";
    }
    GitTooLarge = "git_too_large", Source {
        User: "the git source has more bytes than one may have (2 GiB)",
            "take large files out of the repository, or name a folder of it";
    }
    GitTooManyFiles = "git_too_many_files", Source {
        User: "the git source has more files than one may have (200,000)",
            "name a folder of the repository";
    }
    GitTooSlow = "git_too_slow", Source {
        Deadline: "the git source took longer to fetch than one may (5 minutes)",
            "make the repository smaller; look at the network between worker and git host";
    }
    ArchiveMissing = "archive_missing", Source {
        User: "there is no archive at the address (404, 410)",
            "check the address";
    }
    ArchiveRefused = "archive_refused", Source {
        User: "the archive's host answers that it may not be had (401, 403), or something else that isn't the archive",
            "an archive that everybody may read, or a signed address; no login is sent. Or download it, and send it: `farm submit - <FILE`";
    }
    ArchiveUnusable = "archive_unusable", Source {
        User: "what is at the address is no archive, is damaged or cut off, or has something that can't be taken: names that lead out of \
            it, hard links to what isn't in it",
            "the sentence says which; tar's archives are taken, plain or compressed by gzip, bzip2 or xz";
    }
    ArchiveChecksum = "archive_checksum", Source {
        User: "the archive isn't the one whose sha256 was named",
            "see which of the two is right: the sentence has both";
    }
    ArchiveHostClosed = "archive_host_closed", Source {
        User: "the archive's host, or one that it leads to, is none that workers fetch from: loopback, link-local addresses and clouds' \
            metadata services, the farm's own hosts, names that lead there, and hosts that the project doesn't list",
            "the sentence has the address and who can allow it; see [worker.md](worker.md#what-engines-fetch)";
    }
    ArchiveRedirected = "archive_redirected", Source {
        User: "the archive's address leads to one that isn't followed: not by https, with a login in it, or through more than 5 others",
            "write the address that it has now";
    }
    ArchiveTooLarge = "archive_too_large", Source {
        User: "the archive, or what is in it, has more bytes than a source may have (2 GiB)",
            "take large files out of it";
    }
    ArchiveTooManyFiles = "archive_too_many_files", Source {
        User: "the archive has more entries than a source may have (200,000)",
            "take some out of it";
    }
    ArchiveTooSlow = "archive_too_slow", Source {
        Deadline: "the archive took longer to fetch and to unpack than one may (5 minutes)",
            "make it smaller; look at the network between worker and host";
    }
    DockerfileCheck = "dockerfile_check", Source {
        User: "BuildKit's rules found something, and `check=error=true` makes that an error",
            "mend what is shown, or take `error=true` out of the check line";
    }
    CallUnsupported = "call_unsupported", Source {
        User: "the worker's engine can't check Dockerfiles (BuildKit before 0.14), or doesn't know the \
            `--call`",
            "update that engine, or name a platform whose worker has a newer one";
    }
    FrontendRefused = "frontend_refused", Source {
        User: "its `# syntax=` line names a frontend other than `docker/dockerfile`",
            "change or remove the line";
    }
    SyntaxImage = "syntax_image", Source {
        User: "the engine tried to pull the frontend's image and couldn't",
            "remove the syntax line";
    }
    TargetMissing = "target_missing", Source {
        User: "no stage has the name of `--target`",
            "name one that is there";
    }
    CopySourceMissing = "copy_source_missing", Source {
        User: "COPY or ADD of a file that isn't there",
            "look at the path, and at `.dockerignore`";
    }
    EntitlementMissing = "entitlement_missing", Source {
        User: "an instruction asks for `network.host` or `security.insecure` (`RUN --network=host`, `RUN \
            --security=insecure`), and the build wasn't given it",
            "submit it with `--allow`, if its project and a worker may give that \
                ([how](../security.md#entitlements))";
    }
    RunFailed = "run_failed", Source {
        User: "a command ended with an exit code other than 0",
            "read its last output; `farm logs` has all that the engine let through (it clips at 200 KiB/s \
                and 2 MiB a step)";
    }
    GateFailed = "gate_failed", Source {
        User: "the image was built and pushed, and its gate (`--gate`) ended with an exit code other than 0, or could not be started in it; \
            no tag was moved",
            "read the command's last output; run it by `farm run IMAGE`, or mend the command ([cli.md](cli.md#gates))";
    }
    SecretMissing = "secret_missing", Source {
        User: "a step mounts a secret or ssh agent of an id that the build wasn't given, and says `required`",
            "give it with `--secret id=ID,src=FILE`, `--secret id=ID,env=NAME` or `--ssh ID=KEYFILE`";
    }
    AgentAway = "agent_away", Source {
        User: "a step asked the ssh agent of whoever submitted the build (`--ssh ID`), and for 30 s (`agent_away_seconds`) no command \
            offered it: it had ended, or was cut off",
            "keep `farm submit` (or `retry`) running until the build has ended, or give the key's file: `--ssh ID=KEYFILE`";
    }
    RunKilled = "run_killed", Source {
        Killed: "a command ended with 137, most likely because memory ran out",
            "give the worker more memory, or fewer slots";
    }
    EngineError = "engine_error", Machines {
        User: "the engine refused in a way that farm has no code for; its text is shown. Also a \
            Dockerfile, arguments or labels that are more than the engine takes as one message (16 MB)",
            "read the text";
        Infrastructure: "trouble of the engine itself: runc, mounts, storage",
            "the engine's log";
        Bug: "the engine and farm misunderstood each other",
            "report it";
    }
    BaseImageMissing = "base_image_missing", Registries {
        User: "no such image or tag, or it is private",
            "check the name; configure the registry's credentials";
    }
    BaseImagePlatform = "base_image_platform", Registries {
        User: "the image has no variant for the platform",
            "another base, or leave the platform out";
    }
    WrongPlatform = "wrong_platform", Registries {
        User: "what was built for a platform says that it is another's, usually because `FROM` pins one",
            "name a base that has the platform";
    }
    ForeignPrograms = "foreign_programs", Registries {
        User: "a program or library in the image is for another machine than the image says: its base image hasn't got the platform, \
            or it was copied from another platform's build",
            "a base with the platform, or `FROM final_$TARGETARCH`; if it is meant to be there, `--verify-except PATTERN`, or \
            `--verify off` ([cli.md](cli.md#programs-of-other-machines))";
    }
    RegistryAuth = "registry_auth", Registries {
        User: "401 or 403; or the project may not pull from the repository with the farm's credentials",
            "`farm registry login HOST`; or set username and password of `[registries.\"HOST\"]` at the coordinator; or the sentence \
            says what an admin of the farm would have to allow";
    }
    SourceDenied = "source_denied", Registries {
        User: "an image, or a URL or repository of ADD, that no engine fetches here: loopback, link-local addresses and clouds' metadata \
            services, the farm's own hosts, and hosts that aren't written in a usual form",
            "the sentence has the source and who can allow it; see [worker.md](worker.md#what-engines-fetch)";
    }
    RepositoryMissing = "repository_missing", Registries {
        User: "the registry has no such repository and makes none by itself",
            "make it there";
    }
    RegistryRejected = "registry_rejected", Registries {
        User: "the registry said no otherwise; or TLS: its certificate isn't trusted, or it speaks plain \
            HTTP",
            "the sentence says which; see [coordinator.md](coordinator.md#registries-what-to-know)";
    }
    RegistryNotAllowed = "registry_not_allowed", Registries {
        User: "the registry, its token service, or the place it leads to is at an address that isn't public (loopback, \
            private, link-local), and the coordinator's configuration doesn't name it",
            "the sentence has the line to write; see \
                [coordinator.md](coordinator.md#where-requests-may-go)";
    }
    RegistryUnavailable = "registry_unavailable", Registries {
        Infrastructure: "refused connection, timeout, 429, 5xx, the registry's own words `UNKNOWN` and \
            `UNAVAILABLE`, no such host; nothing was heard of a push for four times \
            `progress_deadline_seconds` (1 h)",
            "look at registry and network; when publishing it is tried until the publish deadline";
    }
    WorkerLost = "worker_lost", Machines {
        Infrastructure: "no sign for a lease (25 s), or the worker was restarted",
            "look at the worker";
    }
    WorkerQuarantined = "worker_quarantined", Machines {
        Infrastructure: "the worker did not stop another job that it was told to stop, and was set aside",
            "look at the worker: `farm workers`";
    }
    GivenBack = "given_back", Machines {
        Infrastructure: "workers that had to leave gave it back more often than a job may be tried",
            "run it where machines stay for longer";
    }
    NoProgress = "no_progress", Machines {
        Infrastructure: "nothing was heard of its progress for `progress_deadline_seconds` (15 min), and \
            the engine wasn't merely busy with a silent command: it built nothing else, or no command \
            ran",
            "the engine's log; the worker's";
    }
    Poison = "poison", Machines {
        Infrastructure: "three workers were lost while they ran this job",
            "look for a step that takes machines down (memory, disk)";
    }
    WorkerStopped = "worker_stopped", Machines {
        Infrastructure: "the worker was told to stop at once",
            "nothing";
    }
    StoppedUnasked = "stopped_unasked", Machines {
        Infrastructure: "the job ended without a result and nobody had asked for it",
            "report it if it comes again";
    }
    EngineLost = "engine_lost", Machines {
        Infrastructure: "the engine went away during the build",
            "look at the engine's log";
    }
    SessionLost = "session_lost", Machines {
        Infrastructure: "the engine dropped the session that gives it the source, or broke the build off",
            "the engine's log; often a restart";
    }
    EmulatorMissing = "emulator_missing", Machines {
        Infrastructure: "a step's program could not be run, and neither can one of farm's own: no emulator \
            for the platform there. Where farm's own runs it is `run_failed` (`exec …: exec format error`: \
            the Dockerfile copies a foreign program). A build of which no program of the platform was \
            known (`ONBUILD RUN` in a base image) is no failure: it then waits for a worker that runs the \
            platform",
            "binfmt on the worker";
    }
    NoSpace = "no_space", Machines {
        Infrastructure: "the engine says that it has no space left, or the worker saw the engine's disk \
            full within the minute before a command failed; a third such try is the last",
            "free space; let the build write less; `--prune-below`, `--min-free`";
    }
    WorkerDisk = "worker_disk", Machines {
        Infrastructure: "the worker couldn't keep the source on its disk; it counts with `no_space`",
            "look at its state folder";
    }
    GitUnreachable = "git_unreachable", Machines {
        Infrastructure: "the git host isn't found, refuses connections, has a certificate that isn't trusted, or answers 429 or 5xx",
            "look at the host, and at network and DNS of the worker";
    }
    ArchiveUnreachable = "archive_unreachable", Machines {
        Infrastructure: "the archive's host isn't found, refuses connections, has a certificate that isn't trusted, breaks off, or answers \
            408, 429 or 5xx",
            "look at the host, and at network and DNS of the worker";
    }
    GitUnavailable = "git_unavailable", Machines {
        Infrastructure: "the worker has no git, one before 2.37, or can't run it as a user of its own",
            "install git there; the sentence has more";
    }
    SourceMissing = "source_missing", Machines {
        Infrastructure: "the coordinator lacks a part of the snapshot",
            "look at the coordinator's `blobs` folder; submit again";
    }
    SourceDamaged = "source_damaged", Machines {
        Infrastructure: "the coordinator gave other bytes than the snapshot names",
            "look at the coordinator's `blobs` folder; submit again";
    }
    SourceUnreachable = "source_unreachable", Machines {
        Infrastructure: "the coordinator gave nothing for 5 minutes",
            "network between worker and coordinator";
    }
    SourceUnreadable = "source_unreadable", Machines {
        Infrastructure: "the worker couldn't read the fetched source",
            "look at the worker's disk";
    }
    SecretsUnavailable = "secrets_unavailable", Machines {
        User: "the worker isn't trusted, or its line to the coordinator isn't encrypted",
            "have its connection made by `https://`: `farm workers invite`";
        Infrastructure: "the coordinator gave the worker no secrets: it was away, or hasn't got the farm's key that sealed \
            them",
            "the sentence says which; see [coordinator.md](coordinator.md#the-farms-key)";
    }
    OutputTooLarge = "output_too_large", Machines {
        User: "what `--output` or `--load` asks for is longer than `limits.output_bytes` of the coordinator",
            "publish it (`-t`), or have the limit raised";
    }
    OutputUnsupported = "output_unsupported", Machines {
        User: "the engine made not all outputs: one before BuildKit 0.13 (Docker 26) makes one of a build",
            "ask for one, without `-t`; or have the engine updated";
    }
    OutputRefused = "output_refused", Machines {
        Infrastructure: "the coordinator refused an output for a minute, or said for 10 minutes that it \
            can't take it now",
            "the message says why: often the disk of the coordinator's state folder is full; else its log";
    }
    OutputMissing = "output_missing", Machines {
        Infrastructure: "the worker sent none: it is older than the coordinator",
            "update the worker";
    }
    GateMissing = "gate_missing", Machines {
        Infrastructure: "the worker pushed the image without running the build's gate in it: it is of another version than the coordinator",
            "update the worker";
    }
    OfferUnreadable = "offer_unreadable", Machines {
        Bug: "the worker can't read the coordinator's offer",
            "same version on both sides? else report";
    }
    WorkerBug = "worker_bug", Machines {
        Bug: "a task of the worker panicked",
            "report it with the worker's log";
    }
    ProbeUnknown = "probe_unknown", Machines {
        User: "a worker was asked to prove a platform that farm has no probe for; it occurs in the \
            worker's log only",
            "nothing";
    }
    AttemptDeadline = "attempt_deadline", Publishing {
        Deadline: "one try took longer than `attempt_deadline_seconds` (6 h)",
            "look for what hangs in `farm logs`; raise the limit";
    }
    UnwritableEnd = "unwritable_end", Publishing {
        Bug: "the worker told its end in a way that could not be stored",
            "report it";
    }
    BuildTimeout = "build_timeout", Publishing {
        Deadline: "it was not built within `--timeout`, waiting included",
            "a longer one; `farm show` says what it waited for";
    }
    QueueDeadline = "queue_deadline", Publishing {
        Deadline: "a job found no worker within 24 h of submission; the sentence says what it waited for",
            "start a worker, or another `--emulation`";
    }
    PublishDeadline = "publish_deadline", Publishing {
        Deadline: "index or tags couldn't be put within 1 h",
            "`farm show` names what is missing; submit again";
    }
    NothingPushed = "nothing_pushed", Publishing {
        Bug: "a worker reported success without a digest",
            "report it";
    }
    PushedImageMissing = "pushed_image_missing", Publishing {
        Infrastructure: "what a worker pushed isn't in the registry any more",
            "does the registry clean up untagged manifests? `farm retry BUILD --failed-only` builds it again";
    }
    PushedImageWrong = "pushed_image_wrong", Publishing {
        Bug: "the registry gave other bytes, or what was pushed is no image",
            "report it";
    }
    IndexImpossible = "index_impossible", Publishing {
        User: "the results don't make an index: two platforms gave the same image",
            "a Dockerfile that pins one platform in its last `FROM`";
    }
    TagImmutable = "tag_immutable", Publishing {
        User: "the tag is there with another image, and its registry lets no tag be moved, or not this one",
            "a tag that isn't there yet, or another rule in the registry";
    }
    TagChanged = "tag_changed", Publishing {
        User: "with `--if-unchanged`: the tag was moved by somebody else since the build was asked for, and stays",
            "look at it with `farm inspect` and `farm history`, and submit again";
    }
    SigningKeyGone = "signing_key_gone", Publishing {
        User: "what the build publishes was to be signed (`--sign`), and the project's key for that was removed or replaced since the build was \
            accepted; no tag was moved",
            "`farm retry BUILD` signs by the key that has the name now; `farm signing-key ls` lists those that there are";
    }
    CopiedImageMissing = "copied_image_missing", Publishing {
        User: "what was to be copied isn't there",
            "what the message names: the image by its digest, or a tag that is there";
    }
    CopiedImageUnfit = "copied_image_unfit", Publishing {
        User: "what was to be copied isn't a whole image: it misses a part, or is of a type that farm doesn't copy",
            "copy another image, or build this one anew";
    }
    CopiedPlatformMissing = "copied_platform_missing", Publishing {
        User: "what was to be copied hasn't the platforms that were asked for",
            "name platforms that it has, as the message lists them, or leave --platform out";
    }
}

impl From<String> for FailureCode {
    fn from(word: String) -> Self {
        Self::known(&word).unwrap_or(Self::Unknown(UnknownCode(word)))
    }
}

impl From<FailureCode> for String {
    fn from(code: FailureCode) -> Self {
        match code {
            FailureCode::Unknown(UnknownCode(word)) => word,
            known => known.as_str().to_owned(),
        }
    }
}

impl FromStr for FailureCode {
    type Err = Infallible;

    fn from_str(word: &str) -> Result<Self, Infallible> {
        Ok(Self::from(word.to_owned()))
    }
}

impl fmt::Display for FailureCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
#[path = "failure_code_tests.rs"]
mod tests;
