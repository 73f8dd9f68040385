//! A project's notices, as people handle them. What they tell is sent by the leader.

use std::sync::Arc;

use farm_proto::v1;
use farm_proto::v1::notice_service_server::NoticeService;
use farm_store::StoreError;
use farm_store::notices::registered::{NewNotice, Notice};
use farm_store::notices::rule::Rule;
use farm_types::ids::check_name;
use farm_types::{Invalid, NoticeId, NoticeKind, NoticeOn, RefPattern};
use secrecy::{ExposeSecret as _, SecretString};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::grpc::builds::mounts::covered;
use crate::grpc::status;
use crate::notices::address::{Address, check};
use crate::notices::mail;
use crate::notices::said::{Said, What};
use crate::notices::send::{Where, too_many};
use crate::notices::sent::{Answer, Sent};
use crate::people::{self, Member};
use crate::shared::Shared;

/// So many hooks, and so many patterns of refs, a rule has at most.
const MOST: usize = 32;

/// Serves [`NoticeService`].
#[derive(Debug)]
pub struct Notices {
    shared: Arc<Shared>,
}

impl Notices {
    /// What they are kept with.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Refuses what would go over the wire as it is.
    fn covered(&self, member: &Member) -> Result<(), Status> {
        if covered(&self.shared, member.caller.is_encrypted) {
            return Ok(());
        }
        Err(Status::permission_denied(
            "where a notice goes, and what it is signed by, are secrets, and this connection is one without TLS, on which others could read \
             them: call the farm by https:// (`farm login https://…`), or have whoever runs it start the coordinator with --insecure-secrets",
        ))
    }

    /// The project's notice of this name.
    async fn notice(&self, member: &Member, name: &str) -> Result<Notice, Status> {
        let notices = self.shared.store.notices(member.project).await.map_err(status::store)?;
        notices.into_iter().find(|notice| notice.name == name).ok_or_else(|| none(member, name))
    }

    /// Where a notice goes; `None`: to addresses of mail.
    fn address(&self, member: &Member, of: &Notice) -> Result<Option<Address>, Status> {
        let Some(sealed) = &of.sealed else { return Ok(None) };
        let opened = Address::opened(&self.shared.keyring, (member.project, of.id, of.version), sealed);
        opened.map(Some).map_err(|why| {
            Status::failed_precondition(format!(
                "where notice {} goes can't be opened: {why}; put that key back, or make the notice anew",
                of.name
            ))
        })
    }

    /// Where a new one is to go, and what of that people are shown.
    async fn asked(
        &self,
        kind: NoticeKind,
        url: &str,
        addresses: Vec<String>,
    ) -> Result<(Option<Address>, String, Vec<String>), Status> {
        if kind == NoticeKind::Mail {
            if !self.shared.notices.has_mail() {
                return Err(Status::failed_precondition(
                    "this farm has no mail server: whoever runs it names one as [mail] in the coordinator's configuration",
                ));
            }
            let mut addresses = addresses;
            addresses.sort();
            addresses.dedup();
            let senders = &self.shared.notices;
            let fits =
                addresses.iter().try_for_each(|one| mail::check(one).and_then(|()| senders.allows(one)));
            fits.map_err(status::invalid)?;
            if addresses.is_empty() || addresses.len() > mail::MOST || !url.is_empty() {
                let cure = format!("name 1 to {} of them, and no URL", mail::MOST);
                return Err(status::invalid(Invalid::new("addresses", addresses.len().to_string(), cure)));
            }
            return Ok((None, String::new(), addresses));
        }
        if !addresses.is_empty() {
            let cure = format!("a notice of kind {kind} goes to a URL; leave them out");
            return Err(status::invalid(Invalid::new("addresses", addresses.join(","), cure)));
        }
        let (url, host) = check(url, &self.shared.config.rules()).map_err(status::invalid)?;
        let parsed = url
            .parse()
            .map_err(|_| status::invalid(Invalid::new("URL", &host, "write https://HOST/PATH")))?;
        self.shared.notices.http().look(&parsed).await.map_err(|refused| {
            Status::failed_precondition(format!(
                "the farm may not call {refused}; whoever runs it allows that by outbound.allow in the coordinator's configuration"
            ))
        })?;
        Ok((Some(Address::new(kind, url)), host, Vec::new()))
    }
}

fn rule(events: &[String], hooks: Vec<String>, refs: &[String]) -> Result<Rule, Invalid> {
    let mut on = events.iter().map(|one| one.parse()).collect::<Result<Vec<NoticeOn>, _>>()?;
    if on.is_empty() {
        on = NoticeOn::USUAL.to_vec();
    }
    on.sort();
    on.dedup();
    let (mut hooks, refs) =
        (hooks, refs.iter().map(|one| one.parse()).collect::<Result<Vec<RefPattern>, _>>()?);
    hooks.sort();
    hooks.dedup();
    for (thing, many) in [("hooks", hooks.len()), ("refs", refs.len())] {
        if many > MOST {
            let cure = format!(
                "at most {MOST} are taken; make another notice for the others, or write wider patterns"
            );
            return Err(Invalid::new(thing, many.to_string(), cure));
        }
    }
    Ok(Rule { on, hooks, refs })
}

fn none(member: &Member, name: &str) -> Status {
    let cure = format!(
        "project {} has no such notice; `farm notice ls` lists those that it has",
        member.project_name
    );
    status::invalid(Invalid::new("notice", name, cure))
}

/// Of what the store says a notice isn't there or can't be.
fn refused(member: &Member, name: &str, hooks: &[String], error: StoreError) -> Status {
    match error {
        StoreError::NotFound("notice") => none(member, name),
        StoreError::NotFound("hook") => {
            let cure = format!(
                "project {} hasn't all of these hooks; `farm hook ls` lists those that it has",
                member.project_name
            );
            status::invalid(Invalid::new("hook", hooks.join(","), cure))
        }
        StoreError::Conflict(why) => Status::failed_precondition(why),
        other => status::store(other),
    }
}

fn count(many: i64) -> u64 {
    u64::try_from(many).unwrap_or(0)
}

fn present(of: Notice) -> v1::ProjectNotice {
    let (trouble, trouble_ms) =
        of.trouble.map_or_else(Default::default, |(why, at)| (why, at.timestamp_millis()));
    v1::ProjectNotice {
        id: of.id.to_string(),
        name: of.name,
        kind: of.kind.to_string(),
        host: of.host,
        addresses: of.addresses,
        events: of.rule.on.iter().map(ToString::to_string).collect(),
        hooks: of.rule.hooks,
        refs: of.rule.refs.iter().map(ToString::to_string).collect(),
        created_by: of.created_by,
        created_ms: of.created_at.timestamp_millis(),
        told_ms: of.told_at.map_or(0, |at| at.timestamp_millis()),
        sent: count(of.sent),
        waiting: count(of.waiting),
        given_up: count(of.given_up),
        trouble,
        trouble_ms,
        next_ms: of.next_at.filter(|_| of.waiting > 0).map_or(0, |at| at.timestamp_millis()),
        held_until_ms: of.held_until.map_or(0, |at| at.timestamp_millis()),
        before_ends_ms: of.before_ends_at.map_or(0, |at| at.timestamp_millis()),
    }
}

#[farm_calls::service]
impl NoticeService for Notices {
    async fn add_notice(
        &self,
        request: Request<v1::AddNoticeRequest>,
    ) -> Result<Response<v1::AddNoticeResponse>, Status> {
        let member = people::member(&request)?;
        let v1::AddNoticeRequest { name, kind, url, addresses, events, hooks, refs } = request.into_inner();
        let url = SecretString::from(url);
        check_name("notice", &name).map_err(status::invalid)?;
        let kind: NoticeKind = kind.parse().map_err(status::invalid)?;
        let rule = rule(&events, hooks, &refs).map_err(status::invalid)?;
        if kind != NoticeKind::Mail {
            self.covered(&member)?;
        }
        let (address, host, addresses) = Box::pin(self.asked(kind, url.expose_secret(), addresses)).await?;
        let (id, version, project) = (NoticeId::generate(), Uuid::new_v4(), member.project);
        let sealed =
            address.as_ref().map(|address| address.sealed(&self.shared.keyring, (project, id, version)));
        let new = NewNotice { project, id, name, kind, host, addresses, rule, version, sealed };
        let added = self.shared.store.add_notice(&member.caller.by(), &new).await;
        added.map_err(|error| refused(&member, &new.name, &new.rule.hooks, error))?;
        tracing::info!(project = %member.project_name, notice = new.name, %kind, by = member.name, "a notice was made");
        let notice = Some(present(self.notice(&member, &new.name).await?));
        let secret = address.map(|address| address.secret().to_owned()).unwrap_or_default();
        let project = member.project_name.to_string();
        Ok(Response::new(v1::AddNoticeResponse { notice, secret, project }))
    }

    async fn list_notices(
        &self,
        request: Request<v1::ListNoticesRequest>,
    ) -> Result<Response<v1::ListNoticesResponse>, Status> {
        let member = people::member(&request)?;
        let notices = self.shared.store.notices(member.project).await.map_err(status::store)?;
        let notices = notices.into_iter().map(present).collect();
        Ok(Response::new(v1::ListNoticesResponse { notices, project: member.project_name.to_string() }))
    }

    async fn test_notice(
        &self,
        request: Request<v1::TestNoticeRequest>,
    ) -> Result<Response<v1::TestNoticeResponse>, Status> {
        let member = people::member(&request)?;
        let notice = self.notice(&member, &request.into_inner().name).await?;
        let address = self.address(&member, &notice)?;
        let store = &self.shared.store;
        let noted = store.notice_tested(&member.caller.by(), member.project, &notice).await;
        noted.map_err(|error| refused(&member, &notice.name, &[], error))?;
        let now = store.now().await.map_err(status::store)?;
        let project = member.project_name.to_string();
        let said = Said { what: What::Test, project: &project, page: None, at: now };
        let to = match &address {
            Some(address) => Where::Url(notice.kind, address, notice.before_ends_at.is_some()),
            None => Where::Mail(&notice.addresses),
        };
        if address.is_none() && store.count_mail(member.project).await.map_err(status::store)?.is_some() {
            return Err(Status::resource_exhausted(too_many(&project)));
        }
        let answer = self.shared.notices.send(to, &said, Uuid::now_v7(), now.timestamp());
        let Answer { sent, words } = Box::pin(answer).await;
        let (is_taken, why) = match sent {
            Sent::Taken => (true, String::new()),
            Sent::Later(why, _) | Sent::Doubtful(why) | Sent::Never(why) => (false, why),
        };
        let said = [why, words].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
        if is_taken {
            store.notice_goes_on(member.project, notice.id).await.map_err(status::store)?;
        }
        tracing::info!(%project, notice = notice.name, is_taken, by = member.name, "a notice was tried");
        Ok(Response::new(v1::TestNoticeResponse { is_taken, said, project }))
    }

    async fn rotate_notice(
        &self,
        request: Request<v1::RotateNoticeRequest>,
    ) -> Result<Response<v1::RotateNoticeResponse>, Status> {
        let member = people::member(&request)?;
        let name = request.into_inner().name;
        let notice = self.notice(&member, &name).await?;
        self.covered(&member)?;
        let address = self.address(&member, &notice)?;
        let Some(address) = address.filter(|_| notice.kind == NoticeKind::Webhook) else {
            let cure = format!(
                "one of kind {} is signed by nothing; make it anew where it goes elsewhere",
                notice.kind
            );
            return Err(status::invalid(Invalid::new("notice", name, cure)));
        };
        let (rotated, version) = (address.rotated(notice.before_ends_at.is_some()), Uuid::new_v4());
        let sealed = rotated.sealed(&self.shared.keyring, (member.project, notice.id, version));
        let done = self
            .shared
            .store
            .rotate_notice(&member.caller.by(), member.project, &notice, (version, &sealed))
            .await;
        done.map_err(|error| refused(&member, &name, &[], error))?;
        tracing::info!(project = %member.project_name, notice = name, by = member.name, "a notice's secret was rotated");
        let notice = Some(present(self.notice(&member, &name).await?));
        let secret = rotated.secret().to_owned();
        let project = member.project_name.to_string();
        Ok(Response::new(v1::RotateNoticeResponse { notice, secret, project }))
    }

    async fn remove_notice(
        &self,
        request: Request<v1::RemoveNoticeRequest>,
    ) -> Result<Response<v1::RemoveNoticeResponse>, Status> {
        let member = people::member(&request)?;
        let name = request.into_inner().name;
        let done = self.shared.store.remove_notice(&member.caller.by(), member.project, &name).await;
        done.map_err(|error| refused(&member, &name, &[], error))?;
        tracing::info!(project = %member.project_name, notice = name, by = member.name, "a notice was removed");
        Ok(Response::new(v1::RemoveNoticeResponse { project: member.project_name.to_string() }))
    }
}
