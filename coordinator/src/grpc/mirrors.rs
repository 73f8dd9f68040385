//! Mirrors that the farm repeats by itself, as people handle them. What is due is copied by the leader.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_proto::v1;
use farm_proto::v1::mirror_service_server::MirrorService;
use farm_store::StoreError;
use farm_store::publish::mirror_runs::run_key;
use farm_store::publish::mirrors::{Mirror, NewMirror};
use farm_types::{BuildSpec, CopySpec, CopyVerb, ImageRef, ImageTag, Invalid, MirrorId, Platform, Role};
use tonic::{Request, Response, Status};

use super::status;
use crate::grpc::builds::accept::may;
use crate::people::owner::{Owner, acting};
use crate::people::principal::Kind;
use crate::people::{self, Member};
use crate::shared::Shared;

/// How often a mirror is copied at most, and at least.
const EVERY: (Duration, Duration) = (Duration::from_secs(10 * 60), Duration::from_secs(366 * 24 * 3600));

/// Serves [`MirrorService`].
#[derive(Debug)]
pub struct Mirrors {
    shared: Arc<Shared>,
}

impl Mirrors {
    /// What they are kept with.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// As whom runs will copy: whoever calls, by what is theirs for good.
    async fn lasting(&self, member: &Member) -> Result<(Member, Role), Status> {
        let principal = &member.caller.principal;
        let most = principal.role_in(member.project).unwrap_or(Role::Viewer);
        let project = (member.project, &member.project_name);
        let owner = match (principal.kind, principal.id) {
            (Kind::Known(kind), Some(id)) => {
                let role = self.shared.store.lasting_role(member.project, id).await.map_err(status::store)?;
                Some(Owner { id, name: &principal.name, kind, role })
            }
            (Kind::Admin, _) => None,
            _ => {
                let who = &member.name;
                return Err(Status::permission_denied(format!(
                    "{who} can't have anything repeated; ask as a person or by a service's token"
                )));
            }
        };
        let acting = acting(project, owner, most).map_err(|_| {
            let (who, name) = (&member.name, &member.project_name);
            Status::failed_precondition(format!(
                "{who} may copy in project {name} only as long as a sign-in or a job lasts, by its groups or its token, and a mirror is \
                 repeated after that; have an admin of {name} make {who} a member (farm member set {who} --role builder --project {name}), or \
                 ask by a service's token"
            ))
        })?;
        Ok((acting, most))
    }
}

fn every(seconds: i64) -> Result<Duration, Invalid> {
    let every = u64::try_from(seconds).map(Duration::from_secs).unwrap_or_default();
    if (EVERY.0..=EVERY.1).contains(&every) {
        return Ok(every);
    }
    let cure = format!(
        "a mirror is repeated every {} minutes at most, and once a year at least",
        EVERY.0.as_secs() / 60
    );
    Err(Invalid::new("every", format!("{seconds} s"), cure))
}

fn present(mirror: Mirror) -> v1::Mirror {
    let millis_of = |at: Option<DateTime<Utc>>| at.map_or(0, |at| at.timestamp_millis());
    v1::Mirror {
        id: mirror.id.to_string(),
        source: mirror.source,
        destination: mirror.destination,
        platforms: mirror.platforms,
        per_arch_tags: mirror.per_arch,
        every_seconds: mirror.every_seconds,
        created_by: mirror.created_by,
        created_ms: mirror.created_at.timestamp_millis(),
        next_ms: if mirror.is_running { 0 } else { mirror.next_at.timestamp_millis() },
        began_ms: millis_of(mirror.began_at),
        build_id: mirror.build.unwrap_or_default(),
        ended_ms: millis_of(mirror.ended_at),
        digest: mirror.digest.map(|digest| digest.to_string()).unwrap_or_default(),
        trouble: mirror.trouble,
        failures: u32::try_from(mirror.failures).unwrap_or_default(),
    }
}

#[farm_calls::service]
impl MirrorService for Mirrors {
    async fn add_mirror(
        &self,
        request: Request<v1::AddMirrorRequest>,
    ) -> Result<Response<v1::AddMirrorResponse>, Status> {
        let member = people::member(&request)?;
        let request = request.into_inner();
        let source: ImageRef = request.source.parse().map_err(status::invalid)?;
        let destination: ImageTag = request.destination.parse().map_err(status::invalid)?;
        let platforms = match request.platforms.is_empty() {
            true => Vec::new(),
            false => Platform::parse_list(&request.platforms.join(",")).map_err(status::invalid)?,
        };
        let every = every(request.every_seconds).map_err(status::invalid)?;
        let (acting, most) = self.lasting(&member).await?;
        let copy = CopySpec { from: source.clone(), verb: CopyVerb::Mirror, platforms: platforms.clone() };
        // What no run could copy isn't begun.
        may(&self.shared, &acting, &BuildSpec::to_copy(copy, vec![destination.clone()])).await?;
        let new = NewMirror {
            project: member.project,
            id: MirrorId::generate(),
            source,
            destination,
            platforms,
            per_arch: request.per_arch_tags,
            every,
            owner: acting.caller.principal.id,
            most,
        };
        let added = self.shared.store.add_mirror(&member.caller.by(), &new).await;
        let (mirror, run) = added.map_err(|error| match error {
            StoreError::NotFound(what) => Status::not_found(format!("the {what} was removed meanwhile")),
            other => status::store(other),
        })?;
        let project = member.project_name.to_string();
        tracing::info!(project, destination = %new.destination, source = %new.source, by = member.name, "a mirror is repeated");
        let run_key = run_key(mirror.id, run);
        Ok(Response::new(v1::AddMirrorResponse { mirror: Some(present(mirror)), project, run_key }))
    }

    async fn list_mirrors(
        &self,
        request: Request<v1::ListMirrorsRequest>,
    ) -> Result<Response<v1::ListMirrorsResponse>, Status> {
        let member = people::member(&request)?;
        let mirrors = self.shared.store.mirrors(member.project).await.map_err(status::store)?;
        let (mirrors, project) =
            (mirrors.into_iter().map(present).collect(), member.project_name.to_string());
        Ok(Response::new(v1::ListMirrorsResponse { mirrors, project }))
    }

    async fn remove_mirror(
        &self,
        request: Request<v1::RemoveMirrorRequest>,
    ) -> Result<Response<v1::RemoveMirrorResponse>, Status> {
        let member = people::member(&request)?;
        let destination: ImageTag = request.get_ref().destination.parse().map_err(status::invalid)?;
        let project = member.project_name.to_string();
        let removed =
            self.shared.store.remove_mirror(&member.caller.by(), member.project, &destination).await;
        let mirror = removed.map_err(|error| match error {
            StoreError::NotFound(_) => {
                let cure = format!("project {project} repeats no mirror to this tag; `farm mirror ls` lists those that it does");
                status::invalid(Invalid::new("mirror", destination.to_string(), cure))
            }
            other => status::store(other),
        })?;
        tracing::info!(project, %destination, by = member.name, "a mirror is repeated no more");
        Ok(Response::new(v1::RemoveMirrorResponse { mirror: Some(present(mirror)), project }))
    }
}
