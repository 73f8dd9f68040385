//! Fetching a source: git brings it, it is read as Docker reads a folder, and the farm is sent what it lacks of it.
//!
//! The snapshot is what a command on a clone of the same commit would have sent, but for times: all are the commit's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use farm_dockerfile::{Pattern, Selection};
use farm_proto::v1::AttemptEvent;
use farm_source::upload::{Farm, Sending, UploadError, upload};
use farm_source::{ContextError, Disk, Location, Source, Surroundings, read, read_folder};
use farm_types::{
    Cause, Failure, FailureCode, FetchSpec, Fetched, FetchedRoot, GitOrigin, GitPlace, GitPoint, GitUrl,
    ProjectId, Take,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::buildkit::Fetches;
use crate::git::{Git, GitError, GitLimits, GitLogin, Order};
use crate::notice;

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

/// Why nothing was fetched.
#[derive(Debug)]
pub enum NotFetched {
    /// It failed.
    Failed(Box<Failure>),
    /// It was told to stop, or its lease has ended.
    Stopped,
}

impl From<GitError> for NotFetched {
    fn from(error: GitError) -> Self {
        error.into_failure().map_or(Self::Stopped, |failure| Self::Failed(Box::new(failure)))
    }
}

impl From<Failure> for NotFetched {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

/// Brings a source of a project to the farm, going where `reach` lets it, and tells `events` of it.
///
/// # Errors
/// It can't be had, can't be read, or doesn't get to the farm.
pub async fn fetch(
    git: &Git,
    farm: &(impl Farm + Logins),
    (project, spec, reach): (ProjectId, FetchSpec, Fetches),
    events: &mpsc::Sender<AttemptEvent>,
    stop: &CancellationToken,
) -> Result<Fetched, NotFetched> {
    let FetchSpec { source: from, take } = spec;
    let tells_tags = matches!(take, Take::File(_));
    let (login_for, login) = farm.login(&from.repository).await?.unzip();
    // What is at a branch or a tag somebody has put there who may write. Other refs are of what people propose, forks too.
    let throw_away =
        matches!(&from.point, GitPoint::Ref(name) if name.branch().is_none() && name.tag().is_none());
    let order =
        Order { source: from, project, login, login_for, throw_away, reach, limits: GitLimits::default() };
    // It is for people, who have the rest of it.
    let say = |text: &str| drop(events.try_send(notice(text)));
    let checkout = git.fetch(&order, stop, say).await?;
    let from = order.source;
    let (root, shown) =
        (checkout.path().to_owned(), format!("{} at {}", from.repository, checkout.commit.short()));
    let reading = tokio::task::spawn_blocking(move || take_in(&root, &shown, &take));
    let (source, dockerfile) = reading
        .await
        .map_err(|error| bug(format!("the source's reading failed: {error}")))?
        .map_err(|error| unread(&error))?;
    for warning in &source.warnings {
        say(warning);
    }
    let source = Arc::new(source);
    let sending = Arc::new(Sending::default());
    let uploaded = tokio::select! {
        uploaded = upload(farm, &source, tokio::time::sleep, &sending) => uploaded.map_err(unsent)?,
        () = stop.cancelled() => return Err(NotFetched::Stopped),
    };
    let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let root = |(name, (tree, content)): (&String, &(_, _))| {
        (name.clone(), FetchedRoot { tree: *tree, content: *content })
    };
    Ok(Fetched {
        snapshot: uploaded.snapshot(),
        roots: source.roots.iter().map(root).collect(),
        origin: GitOrigin {
            repository: from.repository,
            full_ref: checkout.git_ref.clone(),
            commit: checkout.commit.clone(),
            committed_at: checkout.committed_at,
            subdir: from.subdir,
        },
        dockerfile,
        tags: if tells_tags { checkout.versions.clone() } else { Vec::new() },
        files: number(source.files),
        bytes: source.file_bytes(),
    })
}

/// Reads what becomes the snapshot; beside it the Dockerfile's name, if there is one.
fn take_in(root: &Path, shown: &str, take: &Take) -> Result<(Source, String), Unread> {
    let around = Surroundings { cache: None::<PathBuf>, now_ns: 0, files: &Disk, meant: None };
    match take {
        Take::All => Ok((read_folder(root, false, &Selection::All, &around)?, String::new())),
        Take::File(path) => {
            let mut alone = Selection::none();
            alone.add(Pattern::literal(path));
            Ok((read_folder(root, false, &alone, &around)?, String::new()))
        }
        Take::Context => Ok((read_folder(root, true, &Selection::All, &around)?, String::new())),
        Take::Build(dockerfile) => {
            let dockerfile = (!dockerfile.is_empty()).then_some(dockerfile.as_str());
            let location = Location::enclosed(root, shown, dockerfile).map_err(Unread::Dockerfile)?;
            Ok((read(&location, &around)?, location.dockerfile_name.clone()))
        }
    }
}

/// Why what was fetched can't be read.
enum Unread {
    /// It has no such Dockerfile.
    Dockerfile(ContextError),
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
        Unread::Other(
            error @ (ContextError::Name(_) | ContextError::IgnoreFile(_) | ContextError::Location(_)),
        ) => Failure::new(Cause::User, FailureCode::SourceUnusable, error.to_string()),
        Unread::Other(error @ (ContextError::Unreadable { .. } | ContextError::Changed(_))) => {
            Failure::new(Cause::Infrastructure, FailureCode::SourceUnreadable, error.to_string())
        }
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
