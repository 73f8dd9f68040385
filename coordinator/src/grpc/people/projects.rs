//! Projects and who is in them.

use std::sync::Arc;

use farm_proto::v1;
use farm_proto::v1::project_service_server::ProjectService;
use farm_store::StoreError;
use farm_store::people::access::AllowedPlace;
use farm_types::entitlement::listed;
use farm_types::spec::Verify;
use farm_types::{
    Emulation, Entitlements, Invalid, PrincipalName, ProjectId, ProjectName, RepositoryPrefix, Role,
    TagPattern,
};
use tonic::{Request, Response, Status};

use super::{millis, millis_of, settings};
use crate::grpc::status;
use crate::people;
use crate::shared::Shared;

/// Serves [`ProjectService`].
#[derive(Debug)]
pub struct Projects {
    shared: Arc<Shared>,
}

impl Projects {
    /// What they are kept with.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The project of this name, for the farm's admin.
    async fn named(&self, name: &str) -> Result<(ProjectName, ProjectId), Status> {
        let name: ProjectName = name.parse().map_err(status::invalid)?;
        let id = self.shared.store.project_named(&name).await.map_err(status::store)?;
        let id = id.ok_or_else(|| {
            Status::not_found(format!(
                "there is no project {name}; `farm project ls` lists those that are there"
            ))
        })?;
        Ok((name, id))
    }
}

/// The longest name of a group, bytes.
const LONGEST_GROUP: usize = 255;

/// A group, where nobody else is named beside it.
fn one_of(name: &str, group: String) -> Result<String, Invalid> {
    if !name.is_empty() {
        return Err(Invalid::new("group", group, format!("name either it or {name}, not both")));
    }
    if group.len() > LONGEST_GROUP || group.chars().any(char::is_control) {
        let cure = format!("write at most {LONGEST_GROUP} bytes in one line, as the issuer's tokens name it");
        return Err(Invalid::new("group", group, cure));
    }
    Ok(group)
}

#[farm_calls::service]
impl ProjectService for Projects {
    async fn create_project(
        &self,
        request: Request<v1::CreateProjectRequest>,
    ) -> Result<Response<v1::CreateProjectResponse>, Status> {
        let caller = people::caller(&request)?;
        let v1::CreateProjectRequest { name, admin } = request.into_inner();
        let name: ProjectName = name.parse().map_err(status::invalid)?;
        let admin = (!admin.is_empty()).then(|| admin.parse::<PrincipalName>()).transpose();
        let admin = admin.map_err(status::invalid)?;
        let admin = admin.as_ref().map(PrincipalName::as_str);
        self.shared.store.create_project(&caller.by(), &name, admin).await.map_err(status::store)?;
        self.shared.identities.forget_project(&name);
        tracing::info!(project = %name, by = caller.principal.name, "project created");
        Ok(Response::new(v1::CreateProjectResponse {}))
    }

    async fn list_projects(
        &self,
        request: Request<v1::ListProjectsRequest>,
    ) -> Result<Response<v1::ListProjectsResponse>, Status> {
        let caller = people::caller(&request)?;
        let principal = &caller.principal;
        let own: Vec<ProjectId> = principal.memberships.iter().map(|member| member.project).collect();
        let ids = (!principal.is_farm_admin).then_some(own.as_slice());
        let projects = self.shared.store.projects(ids).await.map_err(status::store)?;
        let projects = projects.into_iter().map(|project| v1::Project {
            role: principal.role_in(project.id).map(|role| role.to_string()).unwrap_or_default(),
            name: project.name.to_string(),
            created_ms: millis(project.created_at),
            members: u32::try_from(project.members).unwrap_or(u32::MAX),
        });
        Ok(Response::new(v1::ListProjectsResponse { projects: projects.collect() }))
    }

    async fn remove_project(
        &self,
        request: Request<v1::RemoveProjectRequest>,
    ) -> Result<Response<v1::RemoveProjectResponse>, Status> {
        let caller = people::caller(&request)?;
        let (name, id) = self.named(&request.into_inner().name).await?;
        self.shared.store.remove_project(&caller.by(), id).await.map_err(|error| match error {
            StoreError::Conflict(why) => Status::failed_precondition(why),
            other => status::store(other),
        })?;
        self.shared.identities.forget_project(&name);
        tracing::info!(project = %name, by = caller.principal.name, "project removed");
        Ok(Response::new(v1::RemoveProjectResponse {}))
    }

    async fn get_access(
        &self,
        request: Request<v1::GetAccessRequest>,
    ) -> Result<Response<v1::GetAccessResponse>, Status> {
        let member = people::member(&request)?;
        let access = self.shared.store.access(member.project).await.map_err(status::store)?.access;
        let texts = |prefixes: &[RepositoryPrefix]| prefixes.iter().map(ToString::to_string).collect();
        let protected = access.protected.iter().map(|(pattern, role)| v1::ProtectedTags {
            pattern: pattern.to_string(),
            role: role.to_string(),
        });
        Ok(Response::new(v1::GetAccessResponse {
            push: texts(&access.push),
            pull: texts(&access.pull),
            shared: texts(&self.shared.config.shared_registries),
            protected: protected.collect(),
            entitlements: access.entitlements.iter().map(ToString::to_string).collect(),
            logins: access.logins.iter().map(ToString::to_string).collect(),
            fetch: access.fetch.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn allow_entitlements(
        &self,
        request: Request<v1::AllowEntitlementsRequest>,
    ) -> Result<Response<v1::AllowEntitlementsResponse>, Status> {
        let caller = people::caller(&request)?;
        let v1::AllowEntitlementsRequest { project, entitlements } = request.into_inner();
        let entitlements: Entitlements =
            entitlements.iter().map(|one| one.parse()).collect::<Result<_, _>>().map_err(status::invalid)?;
        let (name, id) = self.named(&project).await?;
        let said = self.shared.store.allow_entitlements(&caller.by(), id, &entitlements).await;
        said.map_err(status::store)?;
        self.shared.accesses.forget(id);
        // Jobs may have waited for it.
        self.shared.hints.changed();
        let entitlements = listed(&entitlements);
        tracing::info!(project = %name, entitlements, by = caller.principal.name, "what a project's builds may ask for was said");
        Ok(Response::new(v1::AllowEntitlementsResponse {}))
    }

    async fn allow_repositories(
        &self,
        request: Request<v1::AllowRepositoriesRequest>,
    ) -> Result<Response<v1::AllowRepositoriesResponse>, Status> {
        let caller = people::caller(&request)?;
        let v1::AllowRepositoriesRequest { project, access, repositories, allowed } = request.into_inner();
        let place = match access.as_str() {
            "push" => repositories.parse().map(AllowedPlace::Push),
            "pull" => repositories.parse().map(AllowedPlace::Pull),
            "fetch" => repositories.parse().map(AllowedPlace::Fetch),
            other => Err(Invalid::new("access", other, "write push, pull or fetch")),
        };
        let place = place.map_err(status::invalid)?;
        let (name, id) = self.named(&project).await?;
        let changed = self.shared.store.allow(&caller.by(), id, &place, allowed).await;
        let changed = changed.map_err(status::store)?;
        self.shared.accesses.forget(id);
        tracing::info!(
            project = %name, access, place = repositories, allowed, by = caller.principal.name,
            "what a project is allowed was said"
        );
        Ok(Response::new(v1::AllowRepositoriesResponse { changed }))
    }

    async fn protect_tags(
        &self,
        request: Request<v1::ProtectTagsRequest>,
    ) -> Result<Response<v1::ProtectTagsResponse>, Status> {
        let member = people::member(&request)?;
        let v1::ProtectTagsRequest { pattern, role } = request.into_inner();
        let pattern: TagPattern = pattern.parse().map_err(status::invalid)?;
        let least = (!role.is_empty()).then(|| role.parse::<Role>()).transpose().map_err(status::invalid)?;
        let by = member.caller.by();
        self.shared.store.protect(&by, member.project, &pattern, least).await.map_err(status::store)?;
        self.shared.accesses.forget(member.project);
        tracing::info!(%pattern, role, by = member.name, "who moves protected tags was said");
        Ok(Response::new(v1::ProtectTagsResponse {}))
    }

    async fn get_project_settings(
        &self,
        request: Request<v1::GetProjectSettingsRequest>,
    ) -> Result<Response<v1::GetProjectSettingsResponse>, Status> {
        let member = people::member(&request)?;
        let (quota, defaults) = self.shared.store.settings(member.project).await.map_err(status::store)?;
        let used = if request.get_ref().used {
            Some(self.shared.store.used(member.project).await.map_err(status::store)?)
        } else {
            None
        };
        Ok(Response::new(settings::told(&quota, used.as_ref(), &defaults)))
    }

    async fn get_usage(
        &self,
        request: Request<v1::GetUsageRequest>,
    ) -> Result<Response<v1::GetUsageResponse>, Status> {
        let member = people::member(&request)?;
        let usage = self.shared.store.usage(member.project).await.map_err(status::store)?;
        Ok(Response::new(v1::GetUsageResponse {
            source_bytes: usage.source_bytes,
            output_bytes: usage.output_bytes,
            log_bytes: usage.log_bytes,
            repositories: usage.repositories.iter().map(ToString::to_string).collect(),
            is_more: usage.is_more,
        }))
    }

    async fn set_project_quota(
        &self,
        request: Request<v1::SetProjectQuotaRequest>,
    ) -> Result<Response<v1::SetProjectQuotaResponse>, Status> {
        let caller = people::caller(&request)?;
        let request = request.into_inner();
        let change = settings::change(&request).map_err(status::invalid)?;
        let (name, id) = self.named(&request.project).await?;
        self.shared.store.set_quota(&caller.by(), id, &change).await.map_err(status::store)?;
        // Jobs may have waited for it.
        self.shared.hints.changed();
        tracing::info!(project = %name, by = caller.principal.name, "what a project may take was said");
        Ok(Response::new(v1::SetProjectQuotaResponse {}))
    }

    async fn set_project_defaults(
        &self,
        request: Request<v1::SetProjectDefaultsRequest>,
    ) -> Result<Response<v1::SetProjectDefaultsResponse>, Status> {
        let member = people::member(&request)?;
        let v1::SetProjectDefaultsRequest { platforms, emulation, verify } = request.into_inner();
        let platforms = platforms.map(|said| settings::platforms(&said.names)).transpose();
        let platforms = platforms.map_err(status::invalid)?;
        let emulation = emulation.map(|text| match text.as_str() {
            "" => Ok(None),
            policy => policy.parse::<Emulation>().map(Some),
        });
        let emulation = emulation.transpose().map_err(status::invalid)?;
        let verify = verify.map(|text| match text.as_str() {
            "" => Ok(None),
            word => Verify::new(word, Vec::new()).map(Some),
        });
        let verify = verify.transpose().map_err(status::invalid)?;
        let by = member.caller.by();
        let set = self
            .shared
            .store
            .set_defaults(&by, member.project, platforms.as_deref(), emulation, verify)
            .await;
        set.map_err(status::store)?;
        tracing::info!(by = member.name, "what builds are by default was said");
        Ok(Response::new(v1::SetProjectDefaultsResponse {}))
    }

    async fn list_members(
        &self,
        request: Request<v1::ListMembersRequest>,
    ) -> Result<Response<v1::ListMembersResponse>, Status> {
        let caller = people::member(&request)?;
        // When somebody works is nothing that all their colleagues have to see.
        let is_admin = caller.caller.principal.role_in(caller.project) == Some(Role::Admin);
        let issuer = self.shared.config.issuer().filter(|_| is_admin);
        let members = self.shared.store.members(caller.project, issuer).await.map_err(status::store)?;
        let members = members.into_iter().map(|member| v1::Member {
            name: member.name,
            kind: member.kind.as_str().to_owned(),
            role: member.role.to_string(),
            linked: member.sign_in.is_linked,
            signed_in_ms: millis_of(member.sign_in.last),
        });
        let project = caller.project_name.to_string();
        let issuer = issuer.unwrap_or_default().to_owned();
        Ok(Response::new(v1::ListMembersResponse { members: members.collect(), project, issuer }))
    }

    async fn set_member(
        &self,
        request: Request<v1::SetMemberRequest>,
    ) -> Result<Response<v1::SetMemberResponse>, Status> {
        let member = people::member(&request)?;
        let v1::SetMemberRequest { person, role, group } = request.into_inner();
        let role: Role = role.parse().map_err(status::invalid)?;
        let by = member.caller.by();
        if !group.is_empty() {
            let group = one_of(&person, group).map_err(status::invalid)?;
            self.shared.store.set_group(&by, member.project, &group, role).await.map_err(status::store)?;
            tracing::info!(group, %role, by = member.name, "group set");
            return Ok(Response::new(v1::SetMemberResponse { project: member.project_name.to_string() }));
        }
        let person: PrincipalName = person.parse().map_err(status::invalid)?;
        let set = self.shared.store.set_member(&by, member.project, person.as_str(), role).await;
        set.map_err(status::store)?;
        tracing::info!(%person, %role, by = member.name, "member set");
        Ok(Response::new(v1::SetMemberResponse { project: member.project_name.to_string() }))
    }

    async fn remove_member(
        &self,
        request: Request<v1::RemoveMemberRequest>,
    ) -> Result<Response<v1::RemoveMemberResponse>, Status> {
        let member = people::member(&request)?;
        let v1::RemoveMemberRequest { name, group } = request.into_inner();
        if !group.is_empty() {
            let group = one_of(&name, group).map_err(status::invalid)?;
            let removed = self.shared.store.remove_group(&member.caller.by(), member.project, &group).await;
            removed.map_err(|error| match error {
                StoreError::NotFound(_) => Status::not_found(format!(
                    "no group {group:?} is in project {}; `farm member ls` lists those that are",
                    member.project_name
                )),
                other => status::store(other),
            })?;
            tracing::info!(group, by = member.name, "group removed");
            return Ok(Response::new(v1::RemoveMemberResponse { project: member.project_name.to_string() }));
        }
        let removed = self.shared.store.remove_member(&member.caller.by(), member.project, &name).await;
        removed.map_err(|error| match error {
            StoreError::NotFound(_) => Status::not_found(format!(
                "nobody in project {} is called {name:?}; `farm member ls` lists those who are",
                member.project_name
            )),
            other => status::store(other),
        })?;
        tracing::info!(person = name, by = member.name, "member removed");
        Ok(Response::new(v1::RemoveMemberResponse { project: member.project_name.to_string() }))
    }
}
