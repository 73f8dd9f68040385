//! What a fetch brings, and what it is lent for that, by the lease of its attempt: into its own project, and while the lease lives.

use farm_proto::v1;
use farm_store::people::git_logins::{GitLoginKind, SealedGitLogin};
use farm_store::work::attempts::Lease;
use farm_types::{AttemptId, GitPlace, GitUrl, JoinId, ProjectId};
use tonic::{Status, Streaming};

use super::{clones, lease, may_borrow};
use crate::grpc::builds::mounts::covered;
use crate::grpc::status;
use crate::grpc::uploads::Uploads;
use crate::seal::{Clear, Owner, Unopened};
use crate::shared::Shared;

/// A fetch whose attempt holds its lease.
pub struct Fetch {
    attempt: AttemptId,
    project: ProjectId,
    /// `None`: it is an archive.
    repository: Option<GitUrl>,
    by: String,
}

impl Fetch {
    /// The one that this lease is of.
    ///
    /// # Errors
    /// The lease has ended, or is of something else.
    pub async fn of(shared: &Shared, lease: Lease) -> Result<Self, Status> {
        let leased = shared.store.leased_snapshot(lease).await.map_err(status::store)?;
        may_borrow(&leased)?;
        match leased.spec.purpose.fetch() {
            Some(fetch) => {
                let repository = fetch.source.git().map(|source| source.repository.clone());
                Ok(Self {
                    attempt: lease.attempt,
                    project: leased.project,
                    by: fetch.source.to_string(),
                    repository,
                })
            }
            None => Err(Status::failed_precondition("the attempt fetches no source, so it brings none")),
        }
    }

    /// The project's login for its repository, of the kind that the address takes; where it has none, what the App of the hook is lent that
    /// has begun the fetch.
    ///
    /// # Errors
    /// Others could read it on the way, or it can't be opened.
    pub async fn login(
        &self,
        shared: &Shared,
        is_encrypted: bool,
    ) -> Result<v1::LendGitLoginResponse, Status> {
        // To the host of an archive no login is shown.
        let Some(repository) = &self.repository else { return Ok(v1::LendGitLoginResponse::default()) };
        let kind = if repository.scheme() == "ssh" { GitLoginKind::Key } else { GitLoginKind::Token };
        let logins = shared.store.sealed_git_logins(self.project, repository.host(), kind).await;
        let logins = logins.map_err(status::store)?;
        let places = logins.iter().map(|login| &login.id.place);
        let Some(place) = GitPlace::closest(places, repository) else {
            return Box::pin(clones::lent(shared, (self.project, self.attempt), repository, is_encrypted))
                .await;
        };
        let Some(login) = logins.iter().find(|login| login.id.place == *place) else {
            return Ok(v1::LendGitLoginResponse::default());
        };
        if !covered(shared, is_encrypted) {
            return Err(Status::permission_denied(
                "the worker calls the farm without TLS, so it is lent no login; start it with an address that begins with https://",
            ));
        }
        let value = opened(shared, login).map_err(|why| {
            Status::failed_precondition(format!(
                "the project's login for {place} can't be opened: {why}; set it again: farm git login {place}"
            ))
        })?;
        let value = String::from_utf8_lossy(&value).into_owned();
        shared.store.git_login_used(self.project, login.version).await.map_err(status::store)?;
        let (username, host_keys) = (login.username.clone(), login.host_keys.clone());
        let place = place.to_string();
        Ok(match kind {
            GitLoginKind::Token => {
                v1::LendGitLoginResponse { username, token: value, place, ..Default::default() }
            }
            GitLoginKind::Key => {
                v1::LendGitLoginResponse { key: value, host_keys, place, ..Default::default() }
            }
        })
    }

    pub fn uploads<'a>(&'a self, shared: &'a Shared) -> Uploads<'a> {
        Uploads { shared, project: self.project, by: &self.by, needs_dockerfile: false }
    }
}

fn opened(shared: &Shared, login: &SealedGitLogin) -> Result<Clear, Unopened> {
    let owner = Owner::Git(login.id.project, login.id.kind.as_str(), &login.id.place);
    shared.keyring.open(owner, &login.key)?.open_one(&login.bytes)
}

/// Keeps the objects of a stream, as long as the lease lives.
pub(crate) async fn objects(
    shared: &Shared,
    holder: Option<JoinId>,
    mut messages: Streaming<v1::SendSourceRequest>,
) -> Result<v1::UploadObjectsResponse, Status> {
    let Some(first) = messages.message().await? else { return Ok(v1::UploadObjectsResponse::default()) };
    let of = lease(first.lease, holder)?;
    let fetch = Fetch::of(shared, of).await?;
    let objects = async_stream::try_stream! {
        yield first.objects.unwrap_or_default();
        while let Some(message) = messages.message().await? {
            let again = lease(message.lease, holder)?;
            if again != of {
                Err(Status::invalid_argument("a stream is of one lease"))?;
            }
            Fetch::of(shared, again).await?;
            yield message.objects.unwrap_or_default();
        }
    };
    fetch.uploads(shared).objects(Box::pin(objects)).await
}
