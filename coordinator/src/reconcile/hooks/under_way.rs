//! A delivery under way: as whom it acts, what it has begun, and how it begins more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use farm_core::people::secrets::Asker;
use farm_hooks::Happened;
use farm_proto::v1;
use farm_rules::{Allowed, Event, EventKind, Wanted};
use farm_store::StoreError;
use farm_store::builds::record::BuildRecord;
use farm_store::hooks::builds::{OfDelivery, Part};
use farm_store::hooks::deliveries::Waiting;
use farm_store::hooks::forks::{Proposal, scope};
use farm_store::hooks::registered::by_hook;
use farm_store::people::principals::{JobClaims, Membership};
use farm_store::work::decide::PublishLimit;
use farm_types::snapshot::ROOT_CONTEXT;
use farm_types::state::BuildState;
use farm_types::{
    BuildId, Commit, Digest, Failure, FailureCode, FetchSpec, Fetched, GitSource, Platform, PrincipalId,
    PrincipalKind, ProjectId, ProjectName, Role, ShortId, Take, TrustClass,
};
use tonic::{Code, Status};

use super::step::{Begun, Step, Stop};
use crate::grpc::builds::accept::{Asked, accept};
use crate::grpc::machines::native::native;
use crate::people::principal::{Kind, Principal};
use crate::people::{Caller, Member};
use crate::shared::Shared;

/// So often a ref is looked for that the forge tells of and its servers for git don't: some two minutes.
const MOST_EARLY: i32 = 7;

/// A delivery that is being processed.
pub(super) struct UnderWay<'a> {
    shared: &'a Shared,
    pub(super) of: &'a Waiting,
    event: &'a Event,
    /// Where the ref was before, if the sender says it.
    before: Option<&'a Commit>,
    member: Member,
    /// A fork proposes it: whose caches its builds have.
    pub(super) fork: Option<String>,
    begun: BTreeMap<(Part, String), BuildId>,
}

impl<'a> UnderWay<'a> {
    /// Looks at what is begun.
    pub(super) async fn of(
        shared: &'a Shared,
        of: &'a Waiting,
        (happened, fork): (&'a Happened, Option<&Proposal>),
    ) -> Step<Self> {
        let begun = shared.loops.begun(of).await?;
        let (event, before) = (&happened.event, happened.before.as_ref());
        let fork = fork.map(|fork| scope(of.hook, fork.number));
        Ok(Self { shared, of, event, before, member: of_delivery(of, event)?, fork, begun })
    }

    /// What there is of a part of it.
    pub(super) async fn known(&self, part: Part, image: &str) -> Step<Option<BuildRecord>> {
        match self.begun.get(&(part, image.to_owned())) {
            Some(id) => Ok(Some(self.shared.loops.build_by_id(self.of.project, *id).await?)),
            None => Ok(None),
        }
    }

    /// What a fetch has brought; it is submitted, if it isn't yet.
    pub(super) async fn fetch(
        &self,
        (part, image): (Part, &str),
        (source, take): (GitSource, Take),
    ) -> Step<(Fetched, BuildRecord)> {
        let record = match self.known(part, image).await? {
            Some(record) => record,
            None => {
                let fetch = FetchSpec { source: source.into(), take };
                let spec = v1::BuildSpec { fetch: Some((&fetch).into()), ..Default::default() };
                self.accept(part, image, spec, None).await?
            }
        };
        let id = &record.short_id;
        match record.state {
            BuildState::Succeeded => {}
            BuildState::Failed => return Err(self.unfetched(id, record.failure.as_ref()).await?.into()),
            BuildState::Cancelled => return Err(Begun::Failed(format!("fetch {id} was cancelled")).into()),
            _ => return Err(Begun::Goes(format!("fetch {id} goes on")).into()),
        }
        let result = record.jobs.first().and_then(|job| job.result.as_ref());
        match result.and_then(|result| result.fetched.clone()) {
            Some(fetched) => Ok((*fetched, record)),
            None => Err(Begun::Failed(format!("fetch {id} brought nothing")).into()),
        }
    }

    /// What it means that a source could not be fetched. A forge may tell of a push before its own servers for git all know of it.
    async fn unfetched(&self, id: &ShortId, failure: Option<&Failure>) -> Result<Begun, StoreError> {
        let why = failure.map_or("", |failure| failure.message.as_str());
        let is_early = self.of.attempts < MOST_EARLY;
        let befores = match failure.map(|failure| &failure.code) {
            Some(FailureCode::GitRefMoved) if is_early => {
                self.shared.loops.befores(self.of, &self.event.git_ref, &self.event.commit).await?
            }
            _ => Vec::new(),
        };
        // Of several pushes the first may not be there, so that the ref is where it was before all of them.
        let is_before = |before: &Commit| why.contains(before.short());
        Ok(match failure.map(|failure| &failure.code) {
            Some(FailureCode::GitRefMissing) if is_early => Begun::Anew(format!("not there yet: {why}")),
            // The message names both commits.
            Some(FailureCode::GitRefMoved)
                if is_early && self.before.into_iter().chain(&befores).any(is_before) =>
            {
                Begun::Anew(format!("not there yet: {why}"))
            }
            Some(FailureCode::GitRefMoved) => Begun::Ignored(format!("it has moved on since: {why}")),
            _ => Begun::Failed(format!("fetch {id}: {why}")),
        })
    }

    /// Submits an image's build.
    pub(super) async fn submit(
        &self,
        image: &str,
        wanted: &Wanted,
        fetched: &Fetched,
        place: i64,
    ) -> Step<BuildRecord> {
        let secrets = wanted.secrets.iter().map(|(id, name)| (id.to_string(), format!("project:{name}")));
        let spec = v1::BuildSpec {
            snapshot: Some(v1::SnapshotRef {
                tree_id: fetched.snapshot.tree_id.to_string(),
                content_key: fetched.snapshot.content_key.to_string(),
                upload_id: String::new(),
            }),
            platforms: self.platforms(wanted).await?,
            optional_platforms: wanted.optional.iter().map(ToString::to_string).collect(),
            tags: wanted.tags.iter().map(ToString::to_string).collect(),
            dockerfile: fetched.dockerfile.clone(),
            target: wanted.target.clone().unwrap_or_default(),
            build_args: wanted.build_args.clone().into_iter().collect(),
            labels: wanted.labels.clone().into_iter().collect(),
            emulation: wanted.emulation.as_ref().map(ToString::to_string).unwrap_or_default(),
            secrets: secrets.collect(),
            verify: wanted.verify.as_ref().map(|verify| verify.as_str().to_owned()).unwrap_or_default(),
            verify_except: wanted
                .verify
                .as_ref()
                .map(|verify| verify.exceptions().to_vec())
                .unwrap_or_default(),
            // What an event gives no tags is pushed nowhere.
            gate: wanted.gate.iter().filter(|_| !wanted.tags.is_empty()).map(ToString::to_string).collect(),
            sign: wanted.sign.iter().filter(|_| !wanted.tags.is_empty()).map(ToString::to_string).collect(),
            origins: fetched
                .origin
                .git()
                .map(|origin| (ROOT_CONTEXT.to_owned(), origin.into()))
                .into_iter()
                .collect(),
            ..Default::default()
        };
        self.accept(Part::Image, image, spec, Some(place)).await
    }

    /// For which platforms an image is built: where its rules name none, those of `farm submit` without any. What a fork proposes no other
    /// machines build than those that aren't trusted.
    async fn platforms(&self, wanted: &Wanted) -> Step<Vec<String>> {
        let named = |all: &[Platform]| all.iter().map(ToString::to_string).collect();
        if !wanted.platforms.is_empty() {
            return Ok(named(&wanted.platforms));
        }
        let (_, defaults) = self.shared.loops.settings(self.of.project).await?;
        if !defaults.platforms.is_empty() {
            return Ok(named(&defaults.platforms));
        }
        let workers = self.shared.loops.workers().await?;
        let untrusted = workers.iter().filter(|worker| worker.trust == TrustClass::Untrusted);
        let of_fork = if self.fork.is_some() { native(untrusted) } else { Default::default() };
        let found = if of_fork.is_empty() { native(&workers) } else { of_fork };
        if found.is_empty() {
            let why = "the rules name no platforms, and the farm has no native worker now to choose from";
            return Err(Begun::Later(why.to_owned()).into());
        }
        Ok(found.into_iter().collect())
    }

    /// What the project's settings allow to this event. What isn't allowed is refused by [`accept`] as well: this finds all of it, before
    /// anything is built.
    pub(super) async fn allowed(&self) -> Step<Allowed> {
        let access = self.shared.accesses.of(self.of.project).await?.access.clone();
        let role = role(self.of, self.event);
        let secrets = self.shared.loops.project_secrets(self.of.project).await?;
        let signing_keys = self.shared.loops.signing_keys(self.of.project).await?;
        let is_fork = self.fork.is_some();
        let asker = self.member.caller.principal.asker();
        let may =
            |rule: &farm_core::people::secrets::SecretRule, asker: Asker<'_>| rule.check(role, asker).is_ok();
        Ok(Allowed {
            push: access.push,
            registries: access.logins,
            protected: access
                .protected
                .into_iter()
                .filter(|(_, least)| role < *least)
                .map(|(pattern, _)| pattern)
                .collect(),
            secrets: secrets
                .into_iter()
                .filter(|secret| !is_fork && may(&secret.rule, asker))
                .map(|secret| secret.name)
                .collect::<BTreeSet<_>>(),
            signing_keys: signing_keys
                .into_iter()
                .filter(|key| !is_fork && may(&key.rule, asker))
                .map(|key| key.name)
                .collect(),
            is_fork,
        })
    }

    /// Cancels older builds of the same image and ref, which this one takes the place of.
    pub(super) async fn cancel_superseded(&self, image: &str, place: i64, by: &BuildRecord) -> Step<()> {
        let (shared, of) = (self.shared, self.of);
        let older = shared.loops.superseded(of, &self.event.git_ref, image, place).await?;
        let limit = PublishLimit(Duration::from_secs(shared.config.limits.publish_deadline_seconds));
        for build in older {
            shared.loops.cancel(&self.member.caller.by(), of.project, build, limit).await?;
            tracing::info!(%build, by = %by.short_id, image, "superseded");
            shared.hints.changed();
        }
        Ok(())
    }

    async fn accept(
        &self,
        part: Part,
        image: &str,
        spec: v1::BuildSpec,
        order_key: Option<i64>,
    ) -> Step<BuildRecord> {
        let of = self.of;
        // The same each time that this part of the same delivery is begun.
        let key = format!("{}\n{}\n{}\n{part}\n{image}", of.hook, of.id, of.run);
        let asked = Asked {
            idempotency_key: format!("delivery {}", Digest::of(key.as_bytes())),
            spec,
            values: Vec::new(),
            of: Some(OfDelivery {
                hook: of.hook,
                delivery: of.id.clone(),
                run: of.run,
                part,
                image: image.to_owned(),
                git_ref: self.event.git_ref.clone(),
                order_key,
            }),
            // A fetch runs nothing of it, and the host's answer is what a trusted machine brings.
            fork: self.fork.clone().filter(|_| part == Part::Image),
        };
        Box::pin(accept(self.shared, &self.member, asked)).await.map(|(record, _)| record).map_err(unaccepted)
    }
}

/// What a refusal means for the delivery.
fn unaccepted(status: Status) -> Stop {
    let why = status.message().to_owned();
    Stop::So(match status.code() {
        Code::Unavailable | Code::ResourceExhausted | Code::Internal | Code::Aborted | Code::Unknown => {
            Begun::Later(why)
        }
        _ => Begun::Failed(why),
    })
}

/// The hook of a delivery, as a member of its project.
fn of_delivery(of: &Waiting, event: &Event) -> Step<Member> {
    let claims = JobClaims {
        full_ref: Some(event.git_ref.to_string()),
        event: Some(event_word(&event.kind).to_owned()),
    };
    let hook = Hook {
        project: of.project,
        project_name: &of.project_name,
        name: &of.hook_name,
        principal: of.principal,
    };
    member(hook, role(of, event), Some(claims)).map_err(|error| Stop::So(Begun::Failed(error.to_string())))
}

/// A hook, as far as it acts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hook<'a> {
    pub project: ProjectId,
    pub project_name: &'a str,
    pub name: &'a str,
    pub principal: PrincipalId,
}

/// A hook, as a member of its project.
///
/// # Errors
/// The project's name is none.
pub(super) fn member(
    of: Hook<'_>,
    role: Role,
    claims: Option<JobClaims>,
) -> Result<Member, farm_types::Invalid> {
    let name: ProjectName = of.project_name.parse()?;
    let membership = Membership { project: of.project, name: name.clone(), role };
    let who = by_hook(of.project_name, of.name).name;
    let principal = Principal {
        name: who.clone(),
        memberships: vec![membership],
        id: Some(of.principal),
        only: Some(of.project),
        claims,
        ..Principal::own(Kind::Known(PrincipalKind::Hook))
    };
    let caller = Caller {
        principal: Arc::new(principal),
        project: Some((of.project, name.clone())),
        address: None,
        is_encrypted: true,
    };
    Ok(Member { name: who, project: of.project, project_name: name, caller })
}

/// What a hook may do for an event: what a publisher may for refs that its project's admins have named, else what a builder may. What is
/// proposed publishes nothing.
fn role(of: &Waiting, event: &Event) -> Role {
    let is_proposal = matches!(event.kind, EventKind::PullRequest { .. });
    let is_named = of.publishes.iter().any(|pattern| pattern.covers(event.git_ref.as_str()));
    if is_named && !is_proposal { Role::Publisher } else { Role::Builder }
}

/// The event in the words that rules of secrets have, which are those of CI systems: there a tag is pushed, too.
fn event_word(kind: &EventKind) -> &'static str {
    match kind {
        EventKind::Push { .. } | EventKind::Tag { .. } => "push",
        EventKind::PullRequest { .. } => "pull_request",
        EventKind::Release { .. } => "release",
        EventKind::Schedule { .. } => "schedule",
        EventKind::BaseImage { .. } => "base_image",
    }
}
