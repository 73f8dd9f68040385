//! What users do with builds.

use std::sync::Arc;
use std::time::Duration;

use farm_proto::v1;
use farm_proto::v1::build_service_server::BuildService;
use farm_store::StoreError;
use farm_store::builds::mounts::SECRET_CHANGED;
use farm_store::builds::record::BuildRecord;
use farm_store::builds::retry::Retry;
use farm_store::people::signing_keys::SIGNING_KEY_CHANGED;
use farm_store::work::decide::PublishLimit;
use farm_types::state::BuildState;
use farm_types::{BuildId, Invalid, ShortId, SnapshotRef};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::accept::{Asked, SECRET_TRIES, accept, check_key, copy_limit};
use super::page::List;
use super::{agents, given, mounts, retry, signing};
use crate::grpc::spans::{Answers, answer_by};
use crate::grpc::{logs, status};
use crate::people::{self, Member};
use crate::shared::Shared;
use crate::shown::hidden::Hidden;
use crate::shown::present;
use crate::tree::{self, Read};

/// How long a call that lasts may take to say what it is about.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// The longest file that is read out of what was fetched, bytes.
const LONGEST_READ: u64 = 2 << 20;

/// Serves [`BuildService`].
#[derive(Debug)]
pub struct Builds {
    shared: Arc<Shared>,
    shutdown: CancellationToken,
}

impl Builds {
    /// Its streams end with `shutdown`.
    pub fn new(shared: Arc<Shared>, shutdown: CancellationToken) -> Self {
        Self { shared, shutdown }
    }

    async fn present(&self, member: &Member, id: &ShortId) -> Result<v1::Build, Status> {
        let record = self.shared.store.build(member.project, id).await.map_err(|e| no_build(e, id))?;
        self.shown(member, &record).await
    }

    async fn shown(&self, member: &Member, record: &BuildRecord) -> Result<v1::Build, Status> {
        Ok(present::build(record, &Hidden::of(&self.shared, member, record).await?))
    }

    fn queue_limit(&self) -> Duration {
        Duration::from_secs(self.shared.config.limits.queue_deadline_seconds)
    }

    fn publish_limit(&self) -> PublishLimit {
        PublishLimit(Duration::from_secs(self.shared.config.limits.publish_deadline_seconds))
    }
}

fn no_build(error: farm_store::StoreError, id: &ShortId) -> Status {
    match error {
        farm_store::StoreError::NotFound(_) => {
            Status::not_found(format!("there is no build {id}; `farm builds` lists those that are there"))
        }
        other => status::store(other),
    }
}

fn short_id(text: &str) -> Result<ShortId, Status> {
    text.parse().map_err(status::invalid)
}

#[farm_calls::service]
impl BuildService for Builds {
    type WatchBuildStream = Answers<v1::WatchBuildResponse>;
    type OfferAgentsStream = Answers<v1::OfferAgentsResponse>;

    async fn submit_build(
        &self,
        request: Request<v1::SubmitBuildRequest>,
    ) -> Result<Response<v1::SubmitBuildResponse>, Status> {
        let member = people::member(&request)?;
        let request = request.into_inner();
        if request
            .spec
            .as_ref()
            .and_then(|spec| spec.fetch.as_ref())
            .is_some_and(|fetch| fetch.take == "refs")
        {
            let cure = "where branches and tags are only the farm itself asks, for webhooks; write all, file, context or build";
            return Err(status::invalid(Invalid::new("take", "refs", cure)));
        }
        let asked = Asked {
            idempotency_key: request.idempotency_key,
            spec: request.spec.ok_or_else(|| Status::invalid_argument("the request has no spec"))?,
            values: request.values,
            of: None,
            fork: None,
        };
        let (record, replayed) = accept(&self.shared, &member, asked).await?;
        let build = Some(self.shown(&member, &record).await?);
        Ok(Response::new(v1::SubmitBuildResponse { build, replayed }))
    }

    async fn get_build(
        &self,
        request: Request<v1::GetBuildRequest>,
    ) -> Result<Response<v1::GetBuildResponse>, Status> {
        let member = people::member(&request)?;
        let id = short_id(&request.get_ref().build_id)?;
        let build = self.present(&member, &id).await?;
        Ok(Response::new(v1::GetBuildResponse { build: Some(build) }))
    }

    async fn list_builds(
        &self,
        request: Request<v1::ListBuildsRequest>,
    ) -> Result<Response<v1::ListBuildsResponse>, Status> {
        let member = people::member(&request)?;
        let request = request.into_inner();
        let size = if request.page_size == 0 { 50 } else { request.page_size.min(500) };
        let states: Vec<BuildState> = request
            .states
            .iter()
            .map(|state| state.parse())
            .collect::<Result<_, _>>()
            .map_err(status::invalid)?;
        let list = List { project: member.project, states: &states };
        let before = list.read(&request.page_token).map_err(status::invalid)?;
        let builds = self.shared.store.builds(member.project, (&states, request.fetches), before, size).await;
        let page = builds.map_err(status::store)?;
        Ok(Response::new(v1::ListBuildsResponse {
            builds: page
                .builds
                .iter()
                .map(|record| present::listed(record, &Hidden::in_list(&member, record)))
                .collect(),
            next_page_token: page.next.map(|last| list.token(last)).unwrap_or_default(),
        }))
    }

    async fn watch_build(
        &self,
        request: Request<v1::WatchBuildRequest>,
    ) -> Result<Response<Self::WatchBuildStream>, Status> {
        let member = people::member(&request)?;
        let request = request.into_inner();
        let id = short_id(&request.build_id)?;
        let record = self.shared.store.build(member.project, &id).await.map_err(|e| no_build(e, &id))?;
        let hidden = Hidden::of(&self.shared, &member, &record).await?;
        let stream = logs::watch(
            Arc::clone(&self.shared),
            member.project,
            record.id,
            hidden,
            logs::Cursor::decode(&request.cursor)?,
            request.follow,
            self.shutdown.clone(),
        );
        Ok(answer_by(stream))
    }

    async fn cancel_build(
        &self,
        request: Request<v1::CancelBuildRequest>,
    ) -> Result<Response<v1::CancelBuildResponse>, Status> {
        let member = people::member(&request)?;
        let id = short_id(&request.get_ref().build_id)?;
        let record = self.shared.store.build(member.project, &id).await.map_err(|e| no_build(e, &id))?;
        let publish = self.publish_limit();
        let by = member.caller.by();
        let asked = self.shared.store.cancel(&by, member.project, record.id, publish).await;
        asked.map_err(status::store)?;
        self.shared.hints.changed();
        tracing::info!(build = %id, by = member.name, "cancel asked for");
        let build = self.present(&member, &id).await?;
        Ok(Response::new(v1::CancelBuildResponse { build: Some(build) }))
    }

    async fn offer_agents(
        &self,
        request: Request<Streaming<v1::OfferAgentsRequest>>,
    ) -> Result<Response<Self::OfferAgentsStream>, Status> {
        let member = people::member(&request)?;
        let mut answers = request.into_inner();
        let first = tokio::time::timeout(FIRST_MESSAGE, answers.message()).await;
        let first =
            first.map_err(|_| Status::deadline_exceeded("the call doesn't say of which build it is"))?;
        let id = short_id(&first?.unwrap_or_default().build_id)?;
        let record = self.shared.store.build(member.project, &id).await.map_err(|e| no_build(e, &id))?;
        agents::may_offer(&self.shared, &member, &record)?;
        let shared = Arc::clone(&self.shared);
        Ok(answer_by(agents::offer(shared, &record, answers, self.shutdown.clone())))
    }

    async fn provide_source(
        &self,
        request: Request<v1::ProvideSourceRequest>,
    ) -> Result<Response<v1::ProvideSourceResponse>, Status> {
        let member = people::member(&request)?;
        let request = request.into_inner();
        let id = short_id(&request.build_id)?;
        let snapshot =
            request.snapshot.ok_or_else(|| Status::invalid_argument("the request has no snapshot"))?;
        let snapshot = SnapshotRef {
            tree_id: snapshot.tree_id.parse().map_err(status::invalid)?,
            content_key: snapshot.content_key.parse().map_err(status::invalid)?,
        };
        let store = &self.shared.store;
        let record = store.build(member.project, &id).await.map_err(|e| no_build(e, &id))?;
        // Whoever gives a build its source says what its tags will be.
        self.shared.accesses.check_tags(&member, &record.spec.tags).await?;
        self.shared.accesses.check_entitlements(&member, &record.spec.run).await?;
        mounts::check_source(&self.shared, &member, &record).await?;
        let (by, limit) = (member.caller.by(), self.queue_limit());
        let taken = store.provide_source(&by, member.project, record.id, &snapshot, limit).await;
        let taken = taken.map_err(status::store)?;
        self.shared.hints.changed();
        tracing::info!(build = %id, by = member.name, taken, "the rest of its source was sent");
        let build = self.present(&member, &id).await?;
        Ok(Response::new(v1::ProvideSourceResponse { build: Some(build) }))
    }

    async fn read_fetched(
        &self,
        request: Request<v1::ReadFetchedRequest>,
    ) -> Result<Response<v1::ReadFetchedResponse>, Status> {
        let member = people::member(&request)?;
        let v1::ReadFetchedRequest { build_id, root, path } = request.into_inner();
        let id = short_id(&build_id)?;
        let record = self.shared.store.build(member.project, &id).await.map_err(|e| no_build(e, &id))?;
        if record.spec.purpose.fetch().is_none() || record.spec.snapshot == SnapshotRef::none() {
            let why = format!("build {id} is no fetch that has brought a source");
            return Err(Status::failed_precondition(why));
        }
        let tree_id = record.spec.snapshot.tree_id;
        let read = tree::read_file(&self.shared, member.project, tree_id, (&root, &path), LONGEST_READ).await;
        match read.map_err(status::unread)? {
            Read::File(content) => Ok(Response::new(v1::ReadFetchedResponse { content: content.into() })),
            Read::Missing => Err(Status::not_found(format!(
                "there is no file {path:?} in what build {id} has fetched, or that is not kept any more; fetch it again"
            ))),
            Read::TooLong => Err(Status::out_of_range(format!(
                "{path:?} is longer than {LONGEST_READ} bytes, and isn't read here"
            ))),
        }
    }

    async fn retry_build(
        &self,
        request: Request<v1::RetryBuildRequest>,
    ) -> Result<Response<v1::RetryBuildResponse>, Status> {
        let member = people::member(&request)?;
        let request = request.into_inner();
        check_key(&request.idempotency_key).map_err(status::invalid)?;
        let id = short_id(&request.build_id)?;
        let store = &self.shared.store;
        let record = store.build(member.project, &id).await.map_err(|e| no_build(e, &id))?;
        retry::check(&record, request.failed_only)?;
        mounts::check_again(&record, &request.values, &request.agents)?;
        let protected = self.shared.accesses.check_tags(&member, &record.spec.tags).await?;
        self.shared.accesses.check_entitlements(&member, &record.spec.run).await?;
        let gone = match request.failed_only {
            true => {
                let allowed = self.shared.accesses.of(member.project).await.map_err(status::store)?;
                retry::gone(&self.shared.registries, &allowed, &record).await
            }
            false => Vec::new(),
        };
        let by = member.name.as_str();
        let mut new = Retry {
            project: member.project,
            id: BuildId::generate(),
            mounts: None,
            signing: None,
            of: record.id,
            idempotency_key: request.idempotency_key,
            failed_only: request.failed_only,
            gone,
            protected,
            by: member.caller.by(),
            submitter: member.caller.principal.submitter(),
            queue_limit: self.queue_limit(),
        };
        let is_new = !store.is_known_retry(&new).await.map_err(status::store)?;
        let limit = match record.spec.purpose.copy() {
            Some(_) => copy_limit(&self.shared, &record.spec),
            None => self.publish_limit(),
        };
        let mut tries = 1;
        let submitted = loop {
            let (mounts, values) = (&record.spec.mounts, &request.values);
            new.mounts = mounts::seal(&self.shared, &member, new.id, mounts, values).await?;
            new.signing = signing::find(&self.shared, &member, &record.spec).await?;
            if is_new && tries == 1 {
                given::verify(&self.shared, member.project, mounts, values).await?;
            }
            match store.retry(&new, limit).await {
                Err(StoreError::Stale(SECRET_CHANGED | SIGNING_KEY_CHANGED)) if tries < SECRET_TRIES => {
                    tries += 1
                }
                done => break done.map_err(status::store)?,
            }
        };
        self.shared.hints.changed();
        let record = store.build_by_id(member.project, submitted.id).await.map_err(status::store)?;
        tracing::info!(
            build = %record.short_id, by, retry_of = %id, replayed = submitted.replayed, "retry accepted"
        );
        Ok(Response::new(v1::RetryBuildResponse {
            build: Some(self.shown(&member, &record).await?),
            replayed: submitted.replayed,
        }))
    }
}
