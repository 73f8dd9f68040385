//! Fetching a source: git brings it, or an archive; it is read as Docker reads a folder, and the farm is sent what it lacks of it.
//!
//! The snapshot is what a command on a clone of the same commit would have sent, but for times: all are the commit's. Of an archive it
//! is what a command would have sent that had it on its standard input.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use farm_dockerfile::{Pattern, Selection};
use farm_proto::v1::AttemptEvent;
use farm_source::upload::{Farm, Sending, UploadError, Uploaded, upload};
use farm_source::{
    ContextError, Disk, GoesOn, Known, Links, Location, Recorded, Source, Surroundings, Unpacked, Wanted,
    read, read_folder,
};
use farm_types::snapshot::ROOT_CONTEXT;
use farm_types::{
    ArchiveOrigin, ArchiveSource, Cause, Digest, Failure, FailureCode, FetchSource, FetchSpec, Fetched,
    FetchedRoot, GitOrigin, GitPlace, GitPoint, GitSource, GitUrl, Lfs, Origin, ProjectId, Refs, Take,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::archives::{ArchiveLimits, ArchiveOrder, Archives, Opened};
use crate::buildkit::Fetches;
use crate::git::{Checkout, FetchError, Git, GitLimits, GitLogin, Order, Spares};
use crate::{notice, pointers};

/// So much is looked through of a repository's history, bytes: its commits only.
const MOST_HISTORY: u64 = 256 << 20;
/// Reading what was fetched takes no longer: by its patterns it can ask for much more than its size tells.
const READING: Duration = Duration::from_secs(300);
/// A list of branches and tags takes no longer; looking through the history takes no longer either.
const LIST: Duration = Duration::from_secs(45);

/// Where a project's login for the repository of a fetch is lent.
pub trait Logins {
    /// The login, and which repositories it is for; `None`: the project has none there.
    ///
    /// # Errors
    /// The coordinator is away, can't open it, or lends it to no worker like this one.
    fn login(
        &self,
        repository: &GitUrl,
    ) -> impl Future<Output = Result<Option<(GitPlace, GitLogin)>, Failure>> + Send;
}

/// By what sources are brought.
#[derive(Debug, Clone, Copy)]
pub struct Means<'a> {
    /// `None`: there is no git here.
    pub git: Option<&'a Git>,
    /// From web addresses.
    pub archives: &'a Archives,
}

/// Why nothing was fetched.
#[derive(Debug)]
pub enum NotFetched {
    /// It failed.
    Failed(Box<Failure>),
    /// It was told to stop, or its lease has ended.
    Stopped,
}

impl From<FetchError> for NotFetched {
    fn from(error: FetchError) -> Self {
        error.into_failure().map_or(Self::Stopped, |failure| Self::Failed(Box::new(failure)))
    }
}

impl From<Failure> for NotFetched {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

/// What was brought, and read; its files are there for as long as `files` is.
struct Brought {
    source: Arc<Source>,
    /// The Dockerfile's name, if there is one.
    dockerfile: String,
    origin: Origin,
    /// Tags of the repository that look like versions.
    versions: Vec<String>,
    /// Where branches and tags are, if that is what was asked for.
    refs: Option<Box<Refs>>,
    /// Holds the files.
    files: Held,
}

/// What holds the files of a source.
enum Held {
    /// A commit's; it is noted what of it the farm has, and whether pointers of Git LFS may be among it.
    Checkout {
        checkout: Box<Checkout>,
        no_pointers: bool,
    },
    Other {
        _files: Box<dyn Send>,
    },
}

/// Brings a source of a project to the farm, going where `reach` lets it, and tells `events` of it.
///
/// # Errors
/// It can't be had, can't be read, or doesn't get to the farm.
pub(crate) async fn fetch(
    means: Means<'_>,
    farm: &(impl Farm + Logins),
    (project, spec, reach): (ProjectId, FetchSpec, Fetches),
    events: &mpsc::Sender<AttemptEvent>,
    stop: &CancellationToken,
) -> Result<Fetched, NotFetched> {
    let mut spares = true;
    let of = (project, spec.clone(), reach.clone());
    let mut brought = Box::pin(bring(means, farm, of, &mut spares, events, stop)).await;
    let source = brought.as_ref().ok().map(|brought| Arc::clone(&brought.source));
    let mut uploaded = match source {
        Some(source) => Some(send(farm, &source, stop).await),
        None => None,
    };
    // The farm has lost what it had been sent; or somebody looks for what wasn't written, or there is really something wrong with it.
    let is_missed = matches!(uploaded, Some(Err(Unsent::Upload(UploadError::Source(_)))))
        || matches!(brought, Err(NotFetched::Failed(_)));
    if spares && is_missed {
        tracing::info!("files that the farm had are missed: all are written and read anew");
        brought = Box::pin(bring(means, farm, (project, spec, reach), &mut false, events, stop)).await;
        uploaded = None;
    }
    let brought = brought?;
    let uploaded = match uploaded {
        Some(uploaded) => uploaded,
        None => send(farm, &Arc::clone(&brought.source), stop).await,
    };
    let uploaded = match uploaded {
        Ok(uploaded) => uploaded,
        Err(Unsent::Stopped) => return Err(NotFetched::Stopped),
        Err(Unsent::Upload(error)) => return Err(unsent(error)),
    };
    let Brought { source, dockerfile, origin, versions, refs, files } = brought;
    let read = Arc::clone(&source);
    // Many files take a while.
    drop(tokio::task::spawn_blocking(move || {
        if let Held::Checkout { checkout, no_pointers } = &files {
            match read.files_of(ROOT_CONTEXT) {
                Ok(sent) => {
                    let sent = sent.into_iter().map(|(path, size, digest)| (path, (size, digest)));
                    checkout.keep(*no_pointers, &sent.collect());
                }
                Err(error) => tracing::info!(%error, "what was sent is not kept for the next fetch"),
            }
        }
        drop(files);
    }));
    let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let root = |(name, (tree, content)): (&String, &(_, _))| {
        (name.clone(), FetchedRoot { tree: *tree, content: *content })
    };
    Ok(Fetched {
        snapshot: uploaded.snapshot(),
        roots: source.roots.iter().map(root).collect(),
        origin,
        dockerfile,
        tags: versions,
        refs,
        files: number(source.files),
        bytes: source.file_bytes(),
    })
}

/// Why a source isn't at the farm.
enum Unsent {
    Upload(UploadError),
    Stopped,
}

async fn send(farm: &impl Farm, source: &Arc<Source>, stop: &CancellationToken) -> Result<Uploaded, Unsent> {
    let sending = Arc::new(Sending::default());
    tokio::select! {
        uploaded = upload(farm, source, tokio::time::sleep, &sending) => uploaded.map_err(Unsent::Upload),
        () = stop.cancelled() => Err(Unsent::Stopped),
    }
}

/// Brings a source and reads it. With `spares` what the farm has got need not be written; afterwards that says whether some wasn't.
async fn bring(
    means: Means<'_>,
    farm: &impl Logins,
    (project, spec, reach): (ProjectId, FetchSpec, Fetches),
    spares: &mut bool,
    events: &mpsc::Sender<AttemptEvent>,
    stop: &CancellationToken,
) -> Result<Brought, NotFetched> {
    let may_spare = std::mem::take(spares);
    let FetchSpec { source: from, take } = spec;
    // It is for people, who have the rest of it.
    let say = |text: &str| drop(events.try_send(notice(text)));
    let brought = match from {
        FetchSource::Git(from) => {
            let git = means.git.ok_or_else(|| {
                let text = "this worker has no git; install git there";
                Failure::new(Cause::Infrastructure, FailureCode::GitUnavailable, text)
            })?;
            Box::pin(from_git(git, farm, (project, from, reach), (take, may_spare), spares, say, stop))
                .await?
        }
        FetchSource::Archive(from) => {
            Box::pin(from_archive(means.archives, (from, reach), take, say, stop)).await?
        }
    };
    for warning in &brought.source.warnings {
        say(warning);
    }
    Ok(brought)
}

async fn from_git(
    git: &Git,
    farm: &impl Logins,
    (project, from, reach): (ProjectId, GitSource, Fetches),
    (take, may_spare): (Take, bool),
    is_spared: &mut bool,
    say: impl Fn(&str) + Send + Sync,
    stop: &CancellationToken,
) -> Result<Brought, NotFetched> {
    let is_one_file = matches!(take, Take::File(_));
    let (login_for, login) = farm.login(&from.repository).await?.unzip();
    // What is at a branch or a tag somebody has put there who may write. Other refs are of what people propose, forks too.
    let throw_away =
        matches!(&from.point, GitPoint::Ref(name) if name.branch().is_none() && name.tag().is_none());
    let limits = match (&take, &from.expected) {
        (Take::Refs, None) => GitLimits { time: LIST, ..GitLimits::default() },
        // Through the history, too.
        (Take::Refs, Some(_)) => GitLimits { bytes: MOST_HISTORY, time: LIST * 2, ..GitLimits::default() },
        _ => GitLimits::default(),
    };
    // Of one file it is known what it is to be.
    let refuses_pointers = from.lfs == Lfs::Refuse && !is_one_file;
    let dockerfile = match &take {
        Take::Build(dockerfile) => Some(dockerfile.clone()),
        Take::Context => Some(String::new()),
        _ => None,
    };
    let spares = dockerfile
        .filter(|_| may_spare)
        .map(|dockerfile| Spares { dockerfile, no_pointers: refuses_pointers });
    let order = Order { source: from, project, login, login_for, throw_away, reach, limits, spares };
    if take == Take::Refs {
        return Box::pin(look(git, order, say, stop)).await;
    }
    let checkout = git.fetch(&order, stop, &say).await?;
    let from = order.source;
    let root = checkout.path().to_owned();
    let shown = format!("{} at {}", from.repository, checkout.commit.short());
    let known = checkout.known().clone();
    *is_spared = !known.is_empty();
    let (source, dockerfile) = reading((FailureCode::GitTooSlow, stop), move |goes_on| {
        let taken = take_in(&root, &shown, &take, &known, goes_on)?;
        if refuses_pointers {
            refuse_pointers(&taken.0, &shown, &known.digests())?;
        }
        Ok(taken)
    })
    .await?;
    let origin = GitOrigin {
        repository: from.repository,
        full_ref: checkout.git_ref.clone(),
        commit: checkout.commit.clone(),
        committed_at: checkout.committed_at,
        subdir: from.subdir,
    };
    let versions = if is_one_file { checkout.versions.clone() } else { Vec::new() };
    let files = match is_one_file {
        true => Held::Other { _files: Box::new(checkout) },
        false => Held::Checkout { checkout: Box::new(checkout), no_pointers: refuses_pointers },
    };
    let (source, origin) = (Arc::new(source), Origin::Git(origin));
    Ok(Brought { source, dockerfile, origin, versions, refs: None, files })
}

/// Where branches and tags are, and nothing else: an empty source.
async fn look(
    git: &Git,
    order: Order,
    say: impl Fn(&str) + Send + Sync,
    stop: &CancellationToken,
) -> Result<Brought, NotFetched> {
    let looked = git.look(&order, stop).await?;
    let from = order.source;
    say(&format!("{} has {} branches and tags", from.repository, looked.refs.at.len()));
    let root = looked.nothing().to_owned();
    let read = move |goes_on: &Until| take_in(&root, "", &Take::Refs, &Known::default(), goes_on);
    let (source, dockerfile) = reading((FailureCode::GitTooSlow, stop), read).await?;
    let default = looked.refs.default_branch.as_ref().map(|branch| format!("refs/heads/{branch}"));
    let origin = GitOrigin {
        repository: from.repository,
        full_ref: default.and_then(|name| name.parse().ok()),
        commit: looked.head.clone(),
        committed_at: 0,
        subdir: from.subdir,
    };
    let (origin, refs) = (Origin::Git(origin), Some(Box::new(looked.refs.clone())));
    let (source, files) = (Arc::new(source), Held::Other { _files: Box::new(looked) });
    Ok(Brought { source, dockerfile, origin, versions: Vec::new(), refs, files })
}

async fn from_archive(
    archives: &Archives,
    (source, reach): (ArchiveSource, Fetches),
    take: Take,
    say: impl Fn(&str) + Send + Sync,
    stop: &CancellationToken,
) -> Result<Brought, NotFetched> {
    let order = ArchiveOrder { source, reach, limits: ArchiveLimits::default() };
    let opened = archives.fetch(&order, stop, &say).await?;
    let shown = order.source.archive.to_string();
    let Opened { unpacked, place, digest } = opened;
    let refuses_pointers = order.source.lfs == Lfs::Refuse && !matches!(take, Take::File(_));
    let (source, dockerfile, files) = reading((FailureCode::ArchiveTooSlow, stop), move |goes_on| {
        let (source, dockerfile, folder) = take_in_archive(unpacked, &shown, &take, goes_on)?;
        if refuses_pointers {
            refuse_pointers(&source, &shown, &HashSet::new())?;
        }
        // In this order they go.
        Ok((source, dockerfile, (folder, place)))
    })
    .await?;
    let origin = Origin::Archive(ArchiveOrigin { archive: order.source.archive.without_query(), digest });
    let (source, files) = (Arc::new(source), Held::Other { _files: Box::new(files) });
    Ok(Brought { source, dockerfile, origin, versions: Vec::new(), refs: None, files })
}

/// Until when something is read.
#[derive(Debug)]
struct Until {
    time: Instant,
    stop: CancellationToken,
}

impl GoesOn for Until {
    fn goes_on(&self) -> bool {
        !self.stop.is_cancelled() && Instant::now() < self.time
    }
}

/// Reads, elsewhere, for as long as somebody waits for it. If it takes too long it fails with that code.
async fn reading<T: Send + 'static>(
    (too_slow, stop): (FailureCode, &CancellationToken),
    read: impl FnOnce(&Until) -> Result<T, Unread> + Send + 'static,
) -> Result<T, NotFetched> {
    let own = stop.child_token();
    let _stops = own.clone().drop_guard();
    let until = Until { time: Instant::now() + READING, stop: own };
    let read = tokio::task::spawn_blocking(move || read(&until)).await;
    match read.map_err(|error| bug(format!("the source's reading failed: {error}")))? {
        Err(Unread::Other(ContextError::BrokenOff)) if stop.is_cancelled() => Err(NotFetched::Stopped),
        Err(Unread::Other(ContextError::BrokenOff)) => {
            let text = format!(
                "reading what was fetched took more than {} s; take files out of it, or lines out of its .dockerignore",
                READING.as_secs()
            );
            Err(Failure::new(Cause::Deadline, too_slow, text).into())
        }
        read => read.map_err(|error| unread(&error).into()),
    }
}

fn around<'a>(known: Option<&'a Known>, goes_on: &'a dyn GoesOn) -> Surroundings<'a> {
    Surroundings { cache: None::<PathBuf>, now_ns: 0, files: &Disk, meant: None, known, goes_on }
}

/// Reads what becomes the snapshot, with what is known of its files that aren't there; beside it the Dockerfile's name, if there is one.
fn take_in(
    root: &Path,
    shown: &str,
    take: &Take,
    known: &Known,
    goes_on: &Until,
) -> Result<(Source, String), Unread> {
    if let Take::Build(dockerfile) = take {
        let dockerfile = (!dockerfile.is_empty()).then_some(dockerfile.as_str());
        let location = Location::enclosed(root, shown, dockerfile).map_err(Unread::Dockerfile)?;
        return Ok((read(&location, &around(Some(known), goes_on))?, location.dockerfile_name.clone()));
    }
    Ok((take_folder(root, &Recorded::default(), take, Some(known), goes_on)?, String::new()))
}

/// The same of an archive; beside it what holds its files.
fn take_in_archive(
    unpacked: Unpacked,
    shown: &str,
    take: &Take,
    goes_on: &Until,
) -> Result<(Source, String, tempfile::TempDir), Unread> {
    if let Take::Build(dockerfile) = take {
        let file = (!dockerfile.is_empty()).then_some(Path::new(dockerfile));
        let named = Default::default();
        let wanted = Wanted { file, is_own_file: false, named: &named, links: Links::default() };
        let (mut location, files) = Location::in_archive(unpacked, &wanted).map_err(Unread::Dockerfile)?;
        shown.clone_into(&mut location.shown);
        return Ok((read(&location, &around(None, goes_on))?, location.dockerfile_name.clone(), files));
    }
    let Unpacked { folder, recorded, left_out } = unpacked;
    let mut source = take_folder(folder.path(), &recorded, take, None, goes_on)?;
    source.warnings.extend(left_out);
    Ok((source, String::new(), folder))
}

/// Reads what is taken of a folder for no build.
fn take_folder(
    root: &Path,
    recorded: &Recorded,
    take: &Take,
    known: Option<&Known>,
    goes_on: &Until,
) -> Result<Source, ContextError> {
    let alone = match take {
        Take::File(path) => {
            let mut alone = Selection::none();
            alone.add(Pattern::literal(path));
            alone
        }
        _ => Selection::All,
    };
    read_folder(root, recorded, *take == Take::Context, &alone, &around(known, goes_on))
}

/// Refuses a source with pointers of Git LFS in it; of those files it is known that they are none.
fn refuse_pointers(source: &Source, shown: &str, known: &HashSet<Digest>) -> Result<(), Unread> {
    let unread = |error: std::io::Error| ContextError::Unreadable {
        name: shown.to_owned(),
        why: farm_types::chain::io_in_short(&error),
    };
    let found = pointers::find(source, known).map_err(unread)?;
    let Some(first) = found.first() else { return Ok(()) };
    let more = match found.len() - 1 {
        0 => String::new(),
        1 => ", and so is 1 more".to_owned(),
        n => format!(", and so are {n} more"),
    };
    Err(Unread::Pointers(format!(
        "{shown}: {first} is a pointer of Git LFS{more}, and what it stands for isn't fetched; leave it out with a line in \
         .dockerignore, or take pointers as they are: --lfs pointers (in .farm.yaml: lfs: pointers)"
    )))
}

/// Why what was fetched can't be read.
enum Unread {
    /// It has no such Dockerfile.
    Dockerfile(ContextError),
    /// Files of it are elsewhere.
    Pointers(String),
    Other(ContextError),
}

impl From<ContextError> for Unread {
    fn from(error: ContextError) -> Self {
        Self::Other(error)
    }
}

fn unread(error: &Unread) -> Failure {
    match error {
        Unread::Dockerfile(error) => {
            Failure::new(Cause::User, FailureCode::DockerfileMissing, error.to_string())
        }
        Unread::Pointers(text) => Failure::new(Cause::User, FailureCode::GitLfs, text.clone()),
        Unread::Other(
            error @ (ContextError::Name(_) | ContextError::IgnoreFile(_) | ContextError::Location(_)),
        ) => Failure::new(Cause::User, FailureCode::SourceUnusable, error.to_string()),
        Unread::Other(
            error @ (ContextError::Unreadable { .. } | ContextError::Changed(_) | ContextError::BrokenOff),
        ) => Failure::new(Cause::Infrastructure, FailureCode::SourceUnreadable, error.to_string()),
    }
}

fn unsent(error: UploadError) -> NotFetched {
    let code = match &error {
        UploadError::Source(_) => (Cause::Infrastructure, FailureCode::SourceUnreadable),
        UploadError::Refused(_) => (Cause::User, FailureCode::SourceUnusable),
        UploadError::Failed(_) => return bug(error.to_string()).into(),
        UploadError::Status(status) => match status.code() {
            Code::FailedPrecondition => return NotFetched::Stopped,
            // It is too much of something.
            Code::InvalidArgument | Code::ResourceExhausted => (Cause::User, FailureCode::SourceUnusable),
            _ => (Cause::Infrastructure, FailureCode::SourceUnreachable),
        },
    };
    Failure::new(code.0, code.1, format!("what was fetched could not be sent to the farm: {error}")).into()
}

fn bug(text: String) -> Failure {
    Failure::new(Cause::Bug, FailureCode::WorkerBug, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reading_ends_with_whoever_waits_for_it_and_is_too_slow_otherwise() {
        let stop = CancellationToken::new();
        let broken_off = |_: &Until| Err::<(), _>(Unread::Other(ContextError::BrokenOff));
        let slow = reading((FailureCode::GitTooSlow, &stop), broken_off).await.unwrap_err();
        let NotFetched::Failed(failure) = slow else { panic!("{slow:?}") };
        assert_eq!((failure.cause, failure.code), (Cause::Deadline, FailureCode::GitTooSlow));
        assert!(failure.message.contains("300 s"), "{}", failure.message);

        // Whoever waited has gone: the thread sees it.
        let (begun, is_begun) = std::sync::mpsc::channel();
        let (ended, is_ended) = tokio::sync::oneshot::channel();
        let read = move |until: &Until| {
            begun.send(()).unwrap();
            while until.goes_on() {
                std::thread::yield_now();
            }
            ended.send(()).unwrap();
            Err::<(), _>(Unread::Other(ContextError::BrokenOff))
        };
        let waits = tokio::spawn({
            let stop = stop.clone();
            async move { reading((FailureCode::GitTooSlow, &stop), read).await.is_err() }
        });
        tokio::task::spawn_blocking(move || is_begun.recv().unwrap()).await.unwrap();
        waits.abort();
        is_ended.await.unwrap();

        stop.cancel();
        let stopped = reading((FailureCode::GitTooSlow, &stop), broken_off).await.unwrap_err();
        assert!(matches!(stopped, NotFetched::Stopped), "{stopped:?}");
    }
}
