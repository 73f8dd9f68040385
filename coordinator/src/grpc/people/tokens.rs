//! Who one is, and the tokens that show it.

use std::sync::Arc;
use std::time::Duration;

use farm_proto::v1;
use farm_proto::v1::people_service_server::PeopleService;
use farm_store::StoreError;
use farm_store::people::principals::Membership;
use farm_store::people::tokens::{Holder, NewToken, Reach, Token};
use farm_types::{Digest, Invalid, PrincipalKind, PrincipalName, ProjectId, ProjectName, Role};
use tonic::{Request, Response, Status};

use super::{millis, millis_of};
use crate::grpc::status;
use crate::people::principal::{Kind, Principal};
use crate::people::{self, Caller};
use crate::shared::Shared;

/// The longest that a token may live, seconds. Whoever wants more says 0: until it is revoked.
const LONGEST: u64 = 10 * 366 * 24 * 3600;
/// The longest label, bytes.
const LABEL: usize = 100;
/// So many characters of a token are shown in lists and logs.
const HINT: usize = 12;

/// Serves [`PeopleService`].
#[derive(Debug)]
pub struct People {
    shared: Arc<Shared>,
}

/// A token that is to be, as far as it doesn't matter whose.
struct Wanted {
    project: Option<ProjectId>,
    role: Option<Role>,
    lives: Option<Duration>,
    label: String,
}

impl People {
    /// What they are kept with.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn create(
        &self,
        caller: &Caller,
        holder: Holder<'_>,
        wanted: &Wanted,
    ) -> Result<(String, v1::Token), Status> {
        let random: [u8; 32] = rand::random();
        let kind = if matches!(holder, Holder::Service { .. }) { 's' } else { 'p' };
        let secret = format!("farm_{kind}_{}", Digest::from(random).hex());
        let new = NewToken {
            holder,
            digest: Digest::of(secret.as_bytes()),
            hint: &secret[..HINT],
            label: &wanted.label,
            project: wanted.project,
            role: wanted.role,
            // What somebody made for themselves ends with what they made it with; so does what was made with less than all that
            // its maker may. What an admin gave stays.
            parent: (matches!(holder, Holder::Known(_)) || is_less(&caller.principal))
                .then_some(caller.principal.token)
                .flatten(),
            lives: wanted.lives,
        };
        let token =
            self.shared.store.create_token(&caller.by(), &new).await.map_err(|error| match error {
                StoreError::Conflict(why) => Status::failed_precondition(why),
                other => status::store(other),
            })?;
        tracing::info!(token = token.hint, of = token.holder, by = caller.principal.name, "token created");
        Ok((secret, present(token)))
    }

    /// The scope that a token of the caller's own, or of a person, is to have.
    async fn wanted(
        &self,
        principal: &Principal,
        scope: Option<v1::TokenScope>,
        label: String,
    ) -> Result<Wanted, Status> {
        let scope = scope.unwrap_or_default();
        let role = (!scope.role.is_empty()).then(|| scope.role.parse::<Role>()).transpose();
        let project = match scope.project.as_str() {
            "" => None,
            name => Some(self.reached(principal, name).await?),
        };
        Ok(Wanted {
            project,
            role: role.map_err(status::invalid)?,
            lives: lives(scope.lives_seconds).map_err(status::invalid)?,
            label: checked_label(label).map_err(status::invalid)?,
        })
    }

    /// A project by its name, if it is one that the principal is in.
    async fn reached(&self, principal: &Principal, name: &str) -> Result<ProjectId, Status> {
        let name: ProjectName = name.parse().map_err(status::invalid)?;
        let own = principal.memberships.iter().find(|member| member.name == name);
        let id = match own {
            Some(member) => Some(member.project),
            None if principal.is_farm_admin => self.shared.identities.project(&name).await?,
            None => None,
        };
        id.ok_or_else(|| {
            Status::permission_denied(format!("there is no project {name} that {} is in", principal.name))
        })
    }
}

/// Whether what was shown is less than its holder: a token with a scope, or of another system.
fn is_less(principal: &Principal) -> bool {
    principal.only.is_some()
        || principal.most.is_some()
        || principal.kind == Kind::Known(PrincipalKind::Subject)
}

/// What a principal may see and revoke.
fn reach(principal: &Principal) -> Reach {
    let is_admin = |member: &&Membership| member.role == Role::Admin;
    Reach {
        all: principal.is_farm_admin,
        // By a token with a scope nobody gets at tokens that reach further.
        own: principal.id.filter(|_| principal.only.is_none() && principal.most.is_none()),
        projects: principal.memberships.iter().filter(is_admin).map(|member| member.project).collect(),
    }
}

fn lives(seconds: u64) -> Result<Option<Duration>, Invalid> {
    if seconds > LONGEST {
        return Err(Invalid::new(
            "lives_seconds",
            seconds.to_string(),
            format!("write at most {LONGEST}, or 0"),
        ));
    }
    Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
}

fn checked_label(label: String) -> Result<String, Invalid> {
    if label.len() <= LABEL && !label.chars().any(char::is_control) {
        return Ok(label);
    }
    Err(Invalid::new("label", label, format!("write at most {LABEL} bytes in one line")))
}

fn present(token: Token) -> v1::Token {
    v1::Token {
        id: token.id.to_string(),
        hint: token.hint,
        label: token.label,
        holder: token.holder,
        kind: token.kind.to_string(),
        scope: Some(v1::TokenScope {
            project: token.project.unwrap_or_default(),
            role: token.role.map(|role| role.to_string()).unwrap_or_default(),
            lives_seconds: 0,
        }),
        created_ms: millis(token.created_at),
        created_by: token.created_by,
        expires_ms: millis_of(token.expires_at),
        revoked_ms: millis_of(token.revoked_at),
        last_used_ms: millis_of(token.last_used_at),
    }
}

#[farm_calls::service]
impl PeopleService for People {
    async fn who_am_i(
        &self,
        request: Request<v1::WhoAmIRequest>,
    ) -> Result<Response<v1::WhoAmIResponse>, Status> {
        let caller = people::caller(&request)?;
        let principal = &caller.principal;
        let memberships = principal
            .memberships
            .iter()
            .map(|member| v1::Membership { project: member.name.to_string(), role: member.role.to_string() });
        Ok(Response::new(v1::WhoAmIResponse {
            name: principal.name.clone(),
            kind: principal.kind.as_str().to_owned(),
            farm_admin: principal.is_farm_admin,
            memberships: memberships.collect(),
            token_hint: principal.hint.clone(),
            token_expires_ms: millis_of(principal.expires_at),
            sign_in: principal
                .sign_in
                .clone()
                .map(|origin| v1::SignInOrigin { issuer: origin.issuer, groups: origin.groups }),
        }))
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let caller = people::caller(&request)?;
        let v1::CreateTokenRequest { scope, label } = request.into_inner();
        let principal = &caller.principal;
        let (Kind::Known(PrincipalKind::Person), Some(id)) = (principal.kind, principal.id) else {
            return Err(Status::permission_denied(format!(
                "{} is no person, and only a person makes tokens for themselves. For somebody: farm token create --for NAME; \
                 for a program: farm token create --service NAME",
                principal.name
            )));
        };
        let mut wanted = self.wanted(principal, scope, label).await?;
        // What it is made with has a scope: no more can come of it.
        wanted.project = principal.only.or(wanted.project);
        wanted.role = wanted.role.into_iter().chain(principal.most).min();
        let (secret, token) = self.create(&caller, Holder::Known(id), &wanted).await?;
        Ok(Response::new(v1::CreateTokenResponse { secret, token: Some(token) }))
    }

    async fn create_person_token(
        &self,
        request: Request<v1::CreatePersonTokenRequest>,
    ) -> Result<Response<v1::CreatePersonTokenResponse>, Status> {
        let caller = people::caller(&request)?;
        let v1::CreatePersonTokenRequest { person, scope, label } = request.into_inner();
        let person: PrincipalName = person.parse().map_err(status::invalid)?;
        let wanted = self.wanted(&caller.principal, scope, label).await?;
        let (secret, token) = self.create(&caller, Holder::Person(person.as_str()), &wanted).await?;
        Ok(Response::new(v1::CreatePersonTokenResponse { secret, token: Some(token) }))
    }

    async fn create_service_token(
        &self,
        request: Request<v1::CreateServiceTokenRequest>,
    ) -> Result<Response<v1::CreateServiceTokenResponse>, Status> {
        let member = people::member(&request)?;
        let v1::CreateServiceTokenRequest { service, role, lives_seconds, label } = request.into_inner();
        let service: PrincipalName = service.parse().map_err(status::invalid)?;
        let role: Role = role.parse().map_err(status::invalid)?;
        let wanted = Wanted {
            project: None,
            role: None,
            lives: lives(lives_seconds).map_err(status::invalid)?,
            label: checked_label(label).map_err(status::invalid)?,
        };
        let name = format!("{}/{service}", member.project_name);
        let holder = Holder::Service { project: member.project, name: &name, role };
        let (secret, token) = self.create(&member.caller, holder, &wanted).await?;
        Ok(Response::new(v1::CreateServiceTokenResponse { secret, token: Some(token) }))
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        let caller = people::caller(&request)?;
        let tokens = self.shared.store.tokens(&reach(&caller.principal)).await.map_err(status::store)?;
        Ok(Response::new(v1::ListTokensResponse { tokens: tokens.into_iter().map(present).collect() }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let caller = people::caller(&request)?;
        let named = request.into_inner().token;
        // People paste what they have: a whole token as well.
        let whole = named.starts_with("farm_") && named.len() > HINT;
        let shown = match whole {
            true => self.shared.store.shown_by(Digest::of(named.as_bytes())).await.map_err(status::store)?,
            false => None,
        };
        let id = shown.map(|shown| shown.token.to_string());
        // What can't be found is told by its beginning: it may be a secret.
        let name = id.as_deref().or_else(|| named.get(..HINT).filter(|_| whole)).unwrap_or(&named);
        let revoked = self.shared.store.revoke_token(&caller.by(), &reach(&caller.principal), name).await;
        let revoked = revoked.map_err(|error| match error {
            StoreError::NotFound(_) => Status::not_found(format!(
                "there is no token {name} that {} may revoke; `farm token ls` lists those",
                caller.principal.name
            )),
            StoreError::Conflict(why) => Status::failed_precondition(why),
            other => status::store(other),
        })?;
        for token in &revoked {
            tracing::info!(
                token = token.hint,
                of = token.holder,
                by = caller.principal.name,
                "token revoked"
            );
        }
        Ok(Response::new(v1::RevokeTokenResponse { tokens: revoked.into_iter().map(present).collect() }))
    }

    async fn set_farm_admin(
        &self,
        request: Request<v1::SetFarmAdminRequest>,
    ) -> Result<Response<v1::SetFarmAdminResponse>, Status> {
        let caller = people::caller(&request)?;
        let v1::SetFarmAdminRequest { person, admin } = request.into_inner();
        let person: PrincipalName = person.parse().map_err(status::invalid)?;
        let set = self.shared.store.set_farm_admin(&caller.by(), person.as_str(), admin).await;
        let changed = set.map_err(status::store)?;
        if changed {
            tracing::info!(%person, admin, by = caller.principal.name, "admins of the farm changed");
        }
        Ok(Response::new(v1::SetFarmAdminResponse { changed }))
    }

    async fn list_farm_admins(
        &self,
        _: Request<v1::ListFarmAdminsRequest>,
    ) -> Result<Response<v1::ListFarmAdminsResponse>, Status> {
        let issuer = self.shared.config.issuer();
        let persons = self.shared.store.farm_admins(issuer).await.map_err(status::store)?;
        let persons = persons.into_iter().map(|(name, sign_in)| v1::FarmAdmin {
            name,
            group: false,
            linked: sign_in.is_linked,
            signed_in_ms: millis_of(sign_in.last),
        });
        let groups = self.shared.config.sign_in.iter().flat_map(|sign_in| sign_in.admin_groups.clone());
        let groups = groups.map(|name| v1::FarmAdmin { name, group: true, ..Default::default() });
        let admins = persons.chain(groups).collect();
        let issuer = issuer.unwrap_or_default().to_owned();
        Ok(Response::new(v1::ListFarmAdminsResponse { admins, issuer }))
    }
}
