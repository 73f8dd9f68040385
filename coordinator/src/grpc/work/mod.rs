//! What workers call: the control stream (`control`), what layers hold (`verdicts`), the source (`fetch`), what a fetch brings (`source`) and an App lends it (`clones`), events, outputs
//! (`receive`), tokens of registries, secrets, and ssh agents.

mod clones;
mod control;
mod fetch;
mod kept;
mod receive;
mod source;
mod verdicts;

use std::sync::Arc;

use farm_proto::v1;
use farm_proto::v1::worker_service_server::WorkerService;
use farm_store::work::attempts::{Lease, LeasedSnapshot};
use farm_types::{Digest, JoinId, ProjectId, RegistryHost, Repository, TrustClass};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::builds::agents;
use super::builds::mounts::{self, covered};
use super::spans::{Answers, answer_by};
use super::status;
use crate::logs::clip::Clip;
use crate::people;
use crate::registry::lending::Borrower;
use crate::registry::login::{Allowed, Whose};
use crate::registry::{Looked, Registries, Seen};
use crate::shared::Shared;

const UNLENT: &str = "to a machine that isn't trusted no logins and no secrets are lent";
const PROPOSED: &str = "to what a fork proposes no logins and no secrets are lent";

/// Serves [`WorkerService`].
#[derive(Debug)]
pub struct Work {
    shared: Arc<Shared>,
    shutdown: CancellationToken,
}

impl Work {
    /// Its streams end with `shutdown`.
    pub fn new(shared: Arc<Shared>, shutdown: CancellationToken) -> Self {
        Self { shared, shutdown }
    }

    /// What a leased attempt may at registries.
    async fn rights(&self, lease: Lease, leased: &LeasedSnapshot) -> Result<Rights, Status> {
        let accesses = &self.shared.accesses;
        let allowed = accesses.of_attempt(leased.project, lease.attempt, &leased.spec.mounts).await;
        Ok(Rights {
            project: leased.project,
            allowed: allowed.map_err(status::store)?,
            own: leased.spec.repositories(),
        })
    }

    /// The same, refused to what isn't lent any ([`may_borrow`]).
    async fn trusted_rights(&self, lease: Lease) -> Result<Rights, Status> {
        let leased = self.shared.store.leased_snapshot(lease).await.map_err(status::store)?;
        may_borrow(&leased)?;
        self.rights(lease, &leased).await
    }
}

/// Refuses an attempt that was begun on an untrusted machine, or of what a fork proposes, whatever the machine has become.
fn may_borrow(leased: &LeasedSnapshot) -> Result<(), Status> {
    match (leased.proposed, leased.staged) {
        (true, _) => Err(Status::permission_denied(PROPOSED)),
        (_, true) => Err(Status::permission_denied(UNLENT)),
        (false, false) => Ok(()),
    }
}

/// What an attempt may at registries, and where it pushes.
struct Rights {
    project: ProjectId,
    allowed: Arc<Allowed>,
    own: Vec<Repository>,
}

impl Rights {
    fn borrower(&self) -> Borrower<'_> {
        Borrower::new(self.project, &self.allowed, &self.own)
    }

    /// Whether a manifest is in all repositories to which it pushes. What can't be told isn't there: then it is pushed.
    async fn are_at(&self, registries: &Registries, digest: Digest) -> bool {
        for repository in &self.own {
            let Ok(by) = registries.to_publish(&self.allowed, repository) else { return false };
            if !matches!(by.head(repository, &digest.to_string()).await, Ok(Some(found)) if found == digest) {
                return false;
            }
        }
        !self.own.is_empty()
    }
}

/// A lease from the wire, by which this caller wants something.
fn lease(lease: Option<v1::Lease>, holder: Option<JoinId>) -> Result<Lease, Status> {
    let lease = lease.ok_or_else(|| Status::invalid_argument("the message has no lease"))?;
    Ok(Lease {
        attempt: lease.attempt_id.parse().map_err(status::invalid)?,
        token: lease.lease_token.parse().map_err(status::invalid)?,
        holder,
    })
}

/// As what the calling worker joined; `None`: it shows the farm's own token.
fn holder<T>(request: &Request<T>) -> Result<Option<JoinId>, Status> {
    Ok(people::caller(request)?.principal.worker.as_ref().map(|worker| worker.shown.join))
}

/// The same of a worker whose engine may be lent something: of a machine that isn't trusted nobody knows who else reads that.
fn trusted_holder<T>(request: &Request<T>) -> Result<Option<JoinId>, Status> {
    let caller = people::caller(request)?;
    if caller.principal.worker.as_ref().is_some_and(|worker| worker.shown.trust == TrustClass::Untrusted) {
        return Err(Status::permission_denied(UNLENT));
    }
    holder(request)
}

#[farm_calls::service]
impl WorkerService for Work {
    type ControlStream = Answers<v1::ControlResponse>;
    type SendEventsStream = Answers<v1::SendEventsResponse>;
    type FetchFoldersStream = Answers<v1::FetchFoldersResponse>;
    type FetchFilesStream = Answers<v1::FetchFilesResponse>;
    type SendOutputStream = Answers<v1::SendOutputResponse>;

    async fn control(
        &self,
        request: Request<Streaming<v1::ControlRequest>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let caller = people::caller(&request)?;
        let shared = Arc::clone(&self.shared);
        let answers = control::open(shared, caller, request.into_inner(), self.shutdown.clone()).await?;
        Ok(answer_by(answers))
    }

    async fn send_events(
        &self,
        request: Request<Streaming<v1::SendEventsRequest>>,
    ) -> Result<Response<Self::SendEventsStream>, Status> {
        let shared = Arc::clone(&self.shared);
        let shutdown = self.shutdown.clone();
        let holder = holder(&request)?;
        let mut chunks = request.into_inner();
        let answers = async_stream::try_stream! {
            let mut clip: Option<Clip> = None;
            loop {
                let chunk = tokio::select! {
                    chunk = chunks.message() => chunk,
                    () = shutdown.cancelled() => Err(Status::unavailable("this coordinator stops; dial again")),
                };
                let Some(chunk) = chunk? else { break };
                let lease = lease(chunk.lease, holder)?;
                if chunk.payload.len() > farm_proto::PIECE_BYTES {
                    Err(Status::invalid_argument(format!("a chunk has at most {} bytes", farm_proto::PIECE_BYTES)))?;
                }
                let clip = match &mut clip {
                    Some(clip) => clip,
                    None => {
                        let stored = shared.store.log_bytes(lease).await.map_err(status::store)?;
                        clip.insert(Clip::new(shared.config.limits.log_bytes, stored))
                    }
                };
                let payload = clip.take(chunk.payload);
                let acked_seq =
                    shared.store.append_chunk(lease, chunk.seq, &payload).await.map_err(status::store)?;
                shared.hints.streamed();
                yield v1::SendEventsResponse { acked_seq };
            }
        };
        Ok(answer_by(answers))
    }

    async fn fetch_folders(
        &self,
        request: Request<v1::FetchFoldersRequest>,
    ) -> Result<Response<Self::FetchFoldersStream>, Status> {
        let holder = holder(&request)?;
        let request = request.into_inner();
        let lease = lease(request.lease, holder)?;
        let tree = fetch::Tree::open(Arc::clone(&self.shared), lease, &request.root).await?;
        Ok(answer_by(tree.folders()))
    }

    async fn fetch_files(
        &self,
        request: Request<v1::FetchFilesRequest>,
    ) -> Result<Response<Self::FetchFilesStream>, Status> {
        let holder = holder(&request)?;
        let request = request.into_inner();
        if request.paths.len() > 10_000 {
            return Err(Status::invalid_argument("ask for at most 10000 files at once"));
        }
        let lease = lease(request.lease, holder)?;
        let tree = fetch::Tree::open(Arc::clone(&self.shared), lease, &request.root).await?;
        Ok(answer_by(tree.files(request.paths)))
    }

    async fn send_output(
        &self,
        request: Request<Streaming<v1::SendOutputRequest>>,
    ) -> Result<Response<Self::SendOutputStream>, Status> {
        let holder = holder(&request)?;
        let pieces = request.into_inner();
        let answers = receive::output(Arc::clone(&self.shared), holder, pieces, self.shutdown.clone());
        Ok(answer_by(answers))
    }

    async fn lend_token(
        &self,
        request: Request<v1::LendTokenRequest>,
    ) -> Result<Response<v1::LendTokenResponse>, Status> {
        let trusted = trusted_holder(&request).map(drop);
        let holder = holder(&request)?;
        let asked = request.into_inner();
        let lease = lease(asked.lease.clone(), holder)?;
        let leased = self.shared.store.leased_snapshot(lease).await.map_err(status::store)?;
        if leased.staged {
            let lent = self.shared.registries.lend_staging_token(leased.project, lease.attempt, &asked);
            return lent.map(Response::new).map_err(status::lending);
        }
        trusted?;
        may_borrow(&leased)?;
        let rights = self.rights(lease, &leased).await?;
        let lent = self.shared.registries.lend_token(&rights.borrower(), &asked).await;
        let (whose, lent) = lent.map_err(status::lending)?;
        if let Whose::Project(login) = &whose {
            self.shared.accesses.used(login).await;
        }
        Ok(Response::new(lent))
    }

    async fn lend_login(
        &self,
        request: Request<v1::LendLoginRequest>,
    ) -> Result<Response<v1::LendLoginResponse>, Status> {
        let holder = trusted_holder(&request)?;
        let is_encrypted = people::caller(&request)?.is_encrypted;
        let v1::LendLoginRequest { lease: asked, host } = request.into_inner();
        let lease = lease(asked, holder)?;
        let host = RegistryHost::of_login(&host).map_err(status::invalid)?;
        let rights = self.trusted_rights(lease).await?;
        let lent = self.shared.registries.lend_login(&rights.borrower(), &host).await;
        let (whose, lent) = lent.map_err(status::lending)?;
        if let Whose::Project(login) = &whose {
            if !covered(&self.shared, is_encrypted) {
                return Err(Status::permission_denied(format!(
                    "this worker's connection is without TLS, so it is lent no login of a project's own, and {host} has no tokens; have \
                     it join by https:// (`farm workers invite`), or have whoever runs the farm start the coordinator with \
                     --insecure-secrets"
                )));
            }
            self.shared.accesses.used(login).await;
        }
        Ok(Response::new(lent))
    }

    async fn look_up_image(
        &self,
        request: Request<v1::LookUpImageRequest>,
    ) -> Result<Response<v1::LookUpImageResponse>, Status> {
        let holder = trusted_holder(&request)?;
        let v1::LookUpImageRequest { lease: asked, image } = request.into_inner();
        let lease = lease(asked, holder)?;
        let image = image.parse().map_err(status::invalid)?;
        let rights = self.trusted_rights(lease).await?;
        let looked = self.shared.registries.look_up(&rights.borrower(), &image).await;
        let Looked { seen, reader } = looked.map_err(status::looking_up)?;
        let (public, absent) = (seen == Seen::Readable, seen == Seen::Absent);
        Ok(Response::new(v1::LookUpImageResponse { public, absent, reader }))
    }

    async fn lend_mounts(
        &self,
        request: Request<v1::LendMountsRequest>,
    ) -> Result<Response<v1::LendMountsResponse>, Status> {
        let holder = trusted_holder(&request)?;
        let is_encrypted = people::caller(&request)?.is_encrypted;
        let lease = lease(request.into_inner().lease, holder)?;
        may_borrow(&self.shared.store.leased_snapshot(lease).await.map_err(status::store)?)?;
        let leased = self.shared.store.leased_mounts(lease).await.map_err(status::store)?;
        mounts::lend(&self.shared, is_encrypted, &leased).map(Response::new)
    }

    async fn lend_git_login(
        &self,
        request: Request<v1::LendGitLoginRequest>,
    ) -> Result<Response<v1::LendGitLoginResponse>, Status> {
        let holder = trusted_holder(&request)?;
        let is_encrypted = people::caller(&request)?.is_encrypted;
        let fetch = source::Fetch::of(&self.shared, lease(request.into_inner().lease, holder)?).await?;
        fetch.login(&self.shared, is_encrypted).await.map(Response::new)
    }

    async fn check_kept(
        &self,
        request: Request<v1::CheckKeptRequest>,
    ) -> Result<Response<v1::CheckKeptResponse>, Status> {
        trusted_holder(&request)?;
        kept::check(&self.shared, request.into_inner().kept).await.map(Response::new)
    }

    async fn check_pushed(
        &self,
        request: Request<v1::CheckPushedRequest>,
    ) -> Result<Response<v1::CheckPushedResponse>, Status> {
        let holder = trusted_holder(&request)?;
        let v1::CheckPushedRequest { lease: asked, digest } = request.into_inner();
        let lease = lease(asked, holder)?;
        let digest = digest.parse().map_err(status::invalid)?;
        let rights = self.trusted_rights(lease).await?;
        let is_there = rights.are_at(&self.shared.registries, digest).await;
        Ok(Response::new(v1::CheckPushedResponse { is_there }))
    }

    async fn find_verdicts(
        &self,
        request: Request<v1::FindVerdictsRequest>,
    ) -> Result<Response<v1::FindVerdictsResponse>, Status> {
        let holder = trusted_holder(&request)?;
        let asked = request.into_inner();
        let lease = lease(asked.lease.clone(), holder)?;
        let leased = self.shared.store.leased_snapshot(lease).await.map_err(status::store)?;
        may_borrow(&leased)?;
        verdicts::find(&self.shared, &leased, asked).await.map(Response::new)
    }

    async fn open_source(
        &self,
        request: Request<v1::OpenSourceRequest>,
    ) -> Result<Response<v1::OpenUploadResponse>, Status> {
        let holder = trusted_holder(&request)?;
        let v1::OpenSourceRequest { lease: asked, open } = request.into_inner();
        let fetch = source::Fetch::of(&self.shared, lease(asked, holder)?).await?;
        fetch.uploads(&self.shared).open(open.unwrap_or_default()).await.map(Response::new)
    }

    async fn find_missing_source(
        &self,
        request: Request<v1::FindMissingSourceRequest>,
    ) -> Result<Response<v1::FindMissingResponse>, Status> {
        let holder = trusted_holder(&request)?;
        let v1::FindMissingSourceRequest { lease: asked, find } = request.into_inner();
        let fetch = source::Fetch::of(&self.shared, lease(asked, holder)?).await?;
        fetch.uploads(&self.shared).find_missing(find.unwrap_or_default()).await.map(Response::new)
    }

    async fn send_source(
        &self,
        request: Request<Streaming<v1::SendSourceRequest>>,
    ) -> Result<Response<v1::UploadObjectsResponse>, Status> {
        let holder = trusted_holder(&request)?;
        source::objects(&self.shared, holder, request.into_inner()).await.map(Response::new)
    }

    async fn finish_source(
        &self,
        request: Request<v1::FinishSourceRequest>,
    ) -> Result<Response<v1::FinishUploadResponse>, Status> {
        let holder = trusted_holder(&request)?;
        let v1::FinishSourceRequest { lease: asked, finish } = request.into_inner();
        let fetch = source::Fetch::of(&self.shared, lease(asked, holder)?).await?;
        fetch.uploads(&self.shared).finish(finish.unwrap_or_default()).await.map(Response::new)
    }

    async fn ask_agent(
        &self,
        request: Request<v1::AskAgentRequest>,
    ) -> Result<Response<v1::AskAgentResponse>, Status> {
        let holder = trusted_holder(&request)?;
        let is_encrypted = people::caller(&request)?.is_encrypted;
        let mut asked = request.into_inner();
        let lease = lease(asked.lease.take(), holder)?;
        may_borrow(&self.shared.store.leased_snapshot(lease).await.map_err(status::store)?)?;
        let leased = self.shared.store.leased_agents(lease).await.map_err(status::store)?;
        let answer = tokio::select! {
            answer = agents::ask(&self.shared, is_encrypted, &leased, asked) => answer?,
            () = self.shutdown.cancelled() => return Err(Status::unavailable("this coordinator stops; ask again")),
        };
        // Somebody may have been asked meanwhile, for minutes: a lease that has ended gets no signature.
        self.shared.store.leased_agents(lease).await.map_err(status::store)?;
        Ok(Response::new(answer))
    }
}
