//! A project's webhooks, as people handle them. What is delivered comes by a listener of its own ([`crate::hooks`]).

mod approve;
mod named;
mod rules;
mod token;

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use farm_hooks::{Headers, Ping, Provider, check_secret, new_secret, ping};
use farm_proto::v1;
use farm_proto::v1::hook_service_server::HookService;
use farm_store::StoreError;
use farm_store::hooks::deliveries::Delivery;
use farm_store::hooks::looks::Watched;
use farm_store::hooks::registered::{Hook, NewHook};
use farm_store::hooks::secrets::SealedSecret;
use farm_store::hooks::tokens::KnownToken;
use farm_types::{HookId, Invalid, ProjectId, RefPattern, Role};
use rand::RngExt as _;
use secrecy::SecretString;
use tonic::{Request, Response, Status};
use uuid::Uuid;
use zeroize::Zeroizing;

use self::named::Named;
use crate::grpc::builds::mounts::covered;
use crate::grpc::status;
use crate::hooks::receive::{Answer, Sent, opened, take};
use crate::people::{self, Member};
use crate::seal::Owner;
use crate::shared::Shared;

/// What an address is made of, and how many of it: 160 bits and more.
const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const ADDRESS: usize = 32;
/// So many patterns of refs a hook has at most.
const MOST_PATTERNS: usize = 32;
/// So many deliveries are listed at once, unless said, and at most.
const LISTED: (u32, u32) = (50, 500);

/// Serves [`HookService`].
#[derive(Debug)]
pub struct Hooks {
    shared: Arc<Shared>,
}

impl Hooks {
    /// What they are kept with.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// A secret that was brought, or a new one.
    fn secret(
        &self,
        member: &Member,
        provider: Provider,
        brought: String,
    ) -> Result<Zeroizing<String>, Status> {
        let brought = Zeroizing::new(brought);
        if brought.is_empty() {
            return Ok(Zeroizing::new(new_secret(provider, rand::random())));
        }
        if !covered(&self.shared, member.caller.is_encrypted) {
            return Err(Status::permission_denied(
                "the secret came over a connection without TLS, on which others could read it, and was not taken: make another, and call \
                 the farm by https:// (`farm login https://…`), or leave it out and the farm makes one",
            ));
        }
        check_secret(provider, &brought).map_err(status::invalid)?;
        Ok(brought)
    }

    fn sealed(&self, project: ProjectId, hook: HookId, secret: &str) -> SealedSecret {
        let id = Uuid::new_v4();
        let (key, sealed) = self.shared.keyring.new_data_key(Owner::Hook(project, hook, id));
        SealedSecret { id, key: sealed, bytes: key.seal_one(secret.as_bytes()) }
    }

    /// The project's hook of this name.
    async fn hook(&self, member: &Member, name: &str) -> Result<Hook, Status> {
        let hooks = self.shared.store.hooks(member.project).await.map_err(status::store)?;
        hooks.into_iter().find(|hook| hook.name == name).ok_or_else(|| none(member, name))
    }

    /// The project's hook of this name, as it is now.
    async fn shown(&self, member: &Member, name: &str) -> Result<v1::Hook, Status> {
        let hook = self.hook(member, name).await?;
        let tokens = self.shared.store.hook_tokens(member.project).await.map_err(status::store)?;
        let token = tokens.into_iter().find(|(id, _)| *id == hook.id).map(|(_, token)| token);
        let mut watched = self.shared.store.watched(member.project).await.map_err(status::store)?;
        let watched = watched.remove(&hook.id).unwrap_or_default();
        Ok(self.present(member, hook, token, watched))
    }

    fn present(&self, member: &Member, hook: Hook, token: Option<KnownToken>, watched: Watched) -> v1::Hook {
        let (looked_at, look_result, is_look_trouble) = match watched.ended {
            Some((at, result, is_trouble)) => (Some(at), result, is_trouble),
            None => (None, String::new(), false),
        };
        let schedule = |(name, line, next): (String, String, DateTime<Utc>)| v1::HookSchedule {
            name,
            line,
            next_ms: next.timestamp_millis(),
        };
        // Schedules and base images need looks, also where lost deliveries aren't looked for.
        let is_looked_for = hook.sweeps || !watched.schedules.is_empty() || !watched.bases.is_empty();
        // Whoever has it can at least knock there.
        let is_admin = member.caller.principal.role_in(member.project) >= Some(Role::Admin);
        let begin = self.shared.config.hooks_url().unwrap_or_default();
        let url = if is_admin { format!("{begin}/hooks/{}", hook.address) } else { String::new() };
        v1::Hook {
            id: hook.id.to_string(),
            name: hook.name,
            provider: hook.provider,
            host: hook.host,
            repository: hook.full_name,
            repository_id: hook.repository_id.unwrap_or_default(),
            clone_url: hook.clone_url.unwrap_or_default(),
            url,
            created_by: hook.created_by,
            created_ms: hook.created_at.timestamp_millis(),
            last_delivery_ms: millis_of(hook.last_delivery_at),
            secrets: u32::try_from(hook.secrets).unwrap_or(0),
            is_new_used: hook.is_new_used,
            publishes: hook.publishes,
            api_url: hook.api_url.unwrap_or_default(),
            token: token.map(token::present),
            next_look_ms: millis_of(watched.due_at.filter(|_| is_looked_for && hook.strayed.is_empty())),
            sweeps: hook.sweeps,
            strayed: hook.strayed,
            default_branch: hook.default_branch.unwrap_or_default(),
            looked_ms: millis_of(looked_at),
            look_result,
            is_look_trouble,
            schedules: watched.schedules.into_iter().map(schedule).collect(),
            base_images: watched.bases,
        }
    }
}

fn millis_of(at: Option<DateTime<Utc>>) -> i64 {
    at.map_or(0, |at| at.timestamp_millis())
}

fn none(member: &Member, name: &str) -> Status {
    let cure =
        format!("project {} has no such hook; `farm hook ls` lists those that it has", member.project_name);
    status::invalid(Invalid::new("hook", name, cure))
}

/// Of what the store says a hook isn't there for, or doesn't take.
fn refused(member: &Member, name: &str, error: StoreError) -> Status {
    match error {
        StoreError::NotFound("hook") => none(member, name),
        StoreError::Conflict(why) => Status::failed_precondition(why),
        other => status::store(other),
    }
}

fn delivery(of: Delivery) -> v1::Delivery {
    v1::Delivery {
        id: of.id,
        sequence: of.sequence,
        event: of.event,
        received_ms: of.received_at.timestamp_millis(),
        state: of.state.to_string(),
        reason: of.reason,
        builds: of.builds,
        attempts: u32::try_from(of.attempts).unwrap_or(0),
        finished_ms: millis_of(of.finished_at),
        body_bytes: of.body_bytes,
        git_ref: of.git_ref,
    }
}

fn new_address() -> String {
    let mut rng = rand::rng();
    (0..ADDRESS).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

#[farm_calls::service]
impl HookService for Hooks {
    async fn add_hook(
        &self,
        request: Request<v1::AddHookRequest>,
    ) -> Result<Response<v1::AddHookResponse>, Status> {
        let member = people::member(&request)?;
        let mut asked = request.into_inner();
        let brought = std::mem::take(&mut asked.secret);
        let Named { provider, host, full_name, name, clone_url, api_url } =
            Named::read(&asked).map_err(status::invalid)?;
        let publishes = asked.publishes.iter().map(|one| one.parse()).collect::<Result<Vec<RefPattern>, _>>();
        let publishes = publishes.map_err(status::invalid)?;
        if publishes.len() > MOST_PATTERNS {
            let cure = format!("at most {MOST_PATTERNS} are taken; write patterns that cover more");
            return Err(status::invalid(Invalid::new("refs", publishes.len().to_string(), cure)));
        }
        let secret = self.secret(&member, provider, brought)?;
        let (project, id) = (member.project, HookId::generate());
        let new = NewHook {
            project,
            id,
            name,
            provider: provider.to_string(),
            host,
            full_name,
            clone_url,
            api_url,
            address: new_address(),
            publishes,
            sweeps: !asked.no_sweep,
            secret: self.sealed(project, id, &secret),
        };
        let added = self.shared.store.add_hook(&member.caller.by(), &new).await;
        added.map_err(|error| refused(&member, &new.name, error))?;
        let hook = self.shown(&member, &new.name).await?;
        tracing::info!(project = %member.project_name, hook = hook.name, %provider, by = member.name, "a hook was made");
        let hook = Some(hook);
        let project = member.project_name.to_string();
        Ok(Response::new(v1::AddHookResponse { hook, secret: secret.to_string(), project }))
    }

    async fn list_hooks(
        &self,
        request: Request<v1::ListHooksRequest>,
    ) -> Result<Response<v1::ListHooksResponse>, Status> {
        let member = people::member(&request)?;
        let hooks = self.shared.store.hooks(member.project).await.map_err(status::store)?;
        let tokens = self.shared.store.hook_tokens(member.project).await.map_err(status::store)?;
        let mut tokens: BTreeMap<HookId, KnownToken> = tokens.into_iter().collect();
        let mut watched = self.shared.store.watched(member.project).await.map_err(status::store)?;
        let hooks = hooks.into_iter().map(|hook| {
            let (token, watched) = (tokens.remove(&hook.id), watched.remove(&hook.id).unwrap_or_default());
            self.present(&member, hook, token, watched)
        });
        let hooks = hooks.collect();
        Ok(Response::new(v1::ListHooksResponse { hooks, project: member.project_name.to_string() }))
    }

    async fn test_hook(
        &self,
        request: Request<v1::TestHookRequest>,
    ) -> Result<Response<v1::TestHookResponse>, Status> {
        let member = people::member(&request)?;
        let hook = self.hook(&member, &request.get_ref().name).await?;
        let provider: Provider =
            hook.provider.parse().map_err(|error| status::store(StoreError::corrupt(error)))?;
        let store = &self.shared.store;
        let secrets = store.secrets_of_hook(member.project, hook.id).await.map_err(status::store)?;
        let now = store.now().await.map_err(status::store)?;
        let Some((_, sealed)) = secrets.first() else { return Err(none(&member, &hook.name)) };
        let secret = opened(&self.shared, member.project, hook.id, sealed).map_err(|why| {
            Status::failed_precondition(format!(
                "the hook's secret can't be opened: {why}; put that key back, or give the hook another secret: farm hook rotate {}",
                hook.name
            ))
        })?;
        let Ping { headers, token, body } =
            ping(provider, &secret, &format!("test-{}", Uuid::new_v4()), now.timestamp());
        let sent = Sent {
            address: hook.address.clone(),
            headers: Headers::of(headers.iter().map(|(name, value)| (*name, value.as_bytes()))),
            token,
            body: body.into(),
            from: member.caller.address,
        };
        let (state, reason, delivery) = match take(&self.shared, sent).await {
            Answer::Kept { delivery, state, reason, .. } => (state.to_string(), reason, delivery),
            Answer::Other { delivery } => {
                ("refused".to_owned(), "one of its id is there already".to_owned(), delivery)
            }
            Answer::Refused => {
                ("refused".to_owned(), "it wasn't taken for the hook's own".to_owned(), String::new())
            }
            Answer::TooMany(_) | Answer::Away(_) => (
                "busy".to_owned(),
                "too much is delivered, or the database doesn't answer".to_owned(),
                String::new(),
            ),
        };
        let project = member.project_name.to_string();
        Ok(Response::new(v1::TestHookResponse { state, reason, delivery, project }))
    }

    async fn list_deliveries(
        &self,
        request: Request<v1::ListDeliveriesRequest>,
    ) -> Result<Response<v1::ListDeliveriesResponse>, Status> {
        let member = people::member(&request)?;
        let v1::ListDeliveriesRequest { name, before, most } = request.into_inner();
        let most = if most == 0 { LISTED.0 } else { most.min(LISTED.1) };
        let before = Some(before).filter(|before| *before > 0);
        let found = self.shared.store.deliveries(member.project, &name, before, most.into()).await;
        let found = found.map_err(|error| refused(&member, &name, error))?;
        let deliveries = found.into_iter().map(delivery).collect();
        Ok(Response::new(v1::ListDeliveriesResponse { deliveries, project: member.project_name.to_string() }))
    }

    async fn redeliver(
        &self,
        request: Request<v1::RedeliverRequest>,
    ) -> Result<Response<v1::RedeliverResponse>, Status> {
        let member = people::member(&request)?;
        let v1::RedeliverRequest { name, delivery } = request.into_inner();
        let done = self.shared.store.redeliver(&member.caller.by(), member.project, &name, &delivery).await;
        done.map_err(|error| match error {
            StoreError::NotFound("delivery") => {
                let cure = format!(
                    "hook {name} has no such delivery; `farm hook deliveries {name}` lists those that it has"
                );
                status::invalid(Invalid::new("delivery", &delivery, cure))
            }
            error => refused(&member, &name, error),
        })?;
        self.shared.hints.delivered.notify_one();
        tracing::info!(project = %member.project_name, hook = name, delivery, by = member.name, "to be processed again");
        Ok(Response::new(v1::RedeliverResponse { project: member.project_name.to_string() }))
    }

    async fn set_hook(
        &self,
        request: Request<v1::SetHookRequest>,
    ) -> Result<Response<v1::SetHookResponse>, Status> {
        let member = people::member(&request)?;
        let v1::SetHookRequest { name, sweep } = request.into_inner();
        if let Some(sweep) = sweep {
            let done = self.shared.store.set_sweeps(&member.caller.by(), member.project, &name, sweep).await;
            done.map_err(|error| refused(&member, &name, error))?;
            tracing::info!(project = %member.project_name, hook = name, sweep, by = member.name, "a hook was set");
        }
        let (hook, project) = (self.shown(&member, &name).await?, member.project_name.to_string());
        Ok(Response::new(v1::SetHookResponse { hook: Some(hook), project }))
    }

    async fn rotate_hook(
        &self,
        request: Request<v1::RotateHookRequest>,
    ) -> Result<Response<v1::RotateHookResponse>, Status> {
        let member = people::member(&request)?;
        let v1::RotateHookRequest { name, finish, secret } = request.into_inner();
        let (hook, by) = (self.hook(&member, &name).await?, member.caller.by());
        let mut answer =
            v1::RotateHookResponse { project: member.project_name.to_string(), ..Default::default() };
        if finish {
            let done = self.shared.store.finish_rotation(&by, member.project, &name, hook.id).await;
            answer.is_ended = done.map_err(|error| refused(&member, &name, error))?;
        } else {
            let provider: Provider =
                hook.provider.parse().map_err(|error| status::store(StoreError::corrupt(error)))?;
            let secret = self.secret(&member, provider, secret)?;
            let sealed = self.sealed(member.project, hook.id, &secret);
            let done = self.shared.store.rotate_hook(&by, member.project, &name, hook.id, &sealed).await;
            done.map_err(|error| refused(&member, &name, error))?;
            answer.secret = secret.to_string();
        }
        tracing::info!(project = %member.project_name, hook = name, finish, by = member.name, "a hook's secret was rotated");
        answer.hook = Some(self.shown(&member, &name).await?);
        Ok(Response::new(answer))
    }

    async fn set_hook_token(
        &self,
        request: Request<v1::SetHookTokenRequest>,
    ) -> Result<Response<v1::SetHookTokenResponse>, Status> {
        let member = people::member(&request)?;
        let v1::SetHookTokenRequest { name, token, app, installation } = request.into_inner();
        let token = SecretString::from(token);
        let installation = Some(installation).filter(|id| *id > 0).map(i64::try_from).transpose();
        let installation = installation
            .map_err(|_| Status::invalid_argument("installation: GitHub has no number as large as that"))?;
        let app = Some(app).filter(|app| !app.is_empty()).map(|name| token::Asked { name, installation });
        let hook = self.hook(&member, &name).await?;
        Box::pin(token::set(&self.shared, &member, &hook, (token, app)))
            .await
            .map_err(|why| why.status(&name, |error| refused(&member, &name, error)))?;
        let (hook, project) = (self.shown(&member, &name).await?, member.project_name.to_string());
        Ok(Response::new(v1::SetHookTokenResponse { hook: Some(hook), project }))
    }

    async fn install_hook(
        &self,
        request: Request<v1::InstallHookRequest>,
    ) -> Result<Response<v1::InstallHookResponse>, Status> {
        let member = people::member(&request)?;
        let name = request.into_inner().name;
        let hook = self.hook(&member, &name).await?;
        Box::pin(token::install(&self.shared, &member, &hook))
            .await
            .map_err(|why| why.status(&name, |error| refused(&member, &name, error)))?;
        Ok(Response::new(v1::InstallHookResponse { project: member.project_name.to_string() }))
    }

    async fn remove_hook_token(
        &self,
        request: Request<v1::RemoveHookTokenRequest>,
    ) -> Result<Response<v1::RemoveHookTokenResponse>, Status> {
        let member = people::member(&request)?;
        let name = request.into_inner().name;
        let (hook, by) = (self.hook(&member, &name).await?, member.caller.by());
        let removed = self.shared.store.remove_hook_token(&by, member.project, &name, hook.id).await;
        let is_removed = removed.map_err(|error| refused(&member, &name, error))?;
        tracing::info!(project = %member.project_name, hook = name, is_removed, by = member.name, "a hook's token was removed");
        let project = member.project_name.to_string();
        Ok(Response::new(v1::RemoveHookTokenResponse { is_removed, project }))
    }

    async fn set_hook_rules(
        &self,
        request: Request<v1::SetHookRulesRequest>,
    ) -> Result<Response<v1::SetHookRulesResponse>, Status> {
        let member = people::member(&request)?;
        let v1::SetHookRulesRequest { name, rules: text } = request.into_inner();
        let (hook, by) = (self.hook(&member, &name).await?, member.caller.by());
        let text = Some(text).filter(|text| !text.is_empty());
        if let Some(text) = &text {
            rules::check(&hook, text).await?;
        }
        let set =
            self.shared.store.set_hook_rules(&by, member.project, &name, hook.id, text.as_deref()).await;
        let is_changed = set.map_err(|error| refused(&member, &name, error))?;
        tracing::info!(project = %member.project_name, hook = name, kept = text.is_some(), by = member.name, "a hook's rules were set");
        let project = member.project_name.to_string();
        Ok(Response::new(v1::SetHookRulesResponse { project, is_changed }))
    }

    async fn get_hook_rules(
        &self,
        request: Request<v1::GetHookRulesRequest>,
    ) -> Result<Response<v1::GetHookRulesResponse>, Status> {
        let member = people::member(&request)?;
        let hook = self.hook(&member, &request.get_ref().name).await?;
        let kept =
            self.shared.store.hook_rules(member.project, hook.id, None).await.map_err(status::store)?;
        let project = member.project_name.to_string();
        Ok(Response::new(match kept {
            Some(kept) => v1::GetHookRulesResponse {
                project,
                rules: kept.text,
                set_by: kept.set_by,
                set_ms: kept.set_at.timestamp_millis(),
            },
            None => v1::GetHookRulesResponse { project, ..Default::default() },
        }))
    }

    async fn remove_hook(
        &self,
        request: Request<v1::RemoveHookRequest>,
    ) -> Result<Response<v1::RemoveHookResponse>, Status> {
        let member = people::member(&request)?;
        let name = request.into_inner().name;
        let done = self.shared.store.remove_hook(&member.caller.by(), member.project, &name).await;
        done.map_err(|error| refused(&member, &name, error))?;
        tracing::info!(project = %member.project_name, hook = name, by = member.name, "a hook was removed");
        Ok(Response::new(v1::RemoveHookResponse { project: member.project_name.to_string() }))
    }
    async fn get_proposal(
        &self,
        request: Request<v1::GetProposalRequest>,
    ) -> Result<Response<v1::GetProposalResponse>, Status> {
        let member = people::member(&request)?;
        approve::show(&self.shared, &member, &request.into_inner().build_id).await.map(Response::new)
    }

    async fn approve_build(
        &self,
        request: Request<v1::ApproveBuildRequest>,
    ) -> Result<Response<v1::ApproveBuildResponse>, Status> {
        let member = people::member(&request)?;
        approve::give(&self.shared, &member, request.into_inner()).await.map(Response::new)
    }
}
