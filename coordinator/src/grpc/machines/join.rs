//! How workers come into the farm: invited by an admin, with a certificate of their own, until they are revoked.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use farm_proto::v1;
use farm_proto::v1::machine_service_server::MachineService;
use farm_store::StoreError;
use farm_store::machines::invitations::{Invitation, NewInvitation};
use farm_store::machines::joins::{Joining, Let, Unrevoked};
use farm_types::ids::{check_name, check_worker_name};
use farm_types::{Digest, Invalid, Platform, TrustClass};
use tonic::{Request, Response, Status};

use super::workers::{checked, unknown};
use crate::grpc::status;
use crate::limits::address::Origin;
use crate::people;
use crate::shared::Shared;
use crate::shown::present;
use crate::tls::{PublicPoint, Tls};

/// An invitation can be used for so long, unless it is said.
const EXPIRES: Duration = Duration::from_secs(3600);
/// And for at most so long.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
/// So many characters of a join token are shown in lists and logs.
const HINT: usize = 12;
/// More platforms is a slip.
const MOST_PLATFORMS: usize = 100;
/// More slots is one, too.
const MOST_SLOTS: u32 = 10_000;
/// The pool of a machine of which none was said.
const POOL: &str = "default";

/// Serves [`MachineService`].
#[derive(Debug)]
pub struct Joins {
    shared: Arc<Shared>,
}

impl Joins {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn tls(&self) -> Result<&Tls, Status> {
        self.shared.tls.as_deref().ok_or_else(|| {
            Status::failed_precondition(
                "this farm serves without TLS (--tls off), so no worker could show a certificate: start its coordinators \
                 without that flag; or give the worker the farm's own token, by FARM_TOKEN_FILE",
            )
        })
    }

    /// Where workers reach the coordinators that are there, this one first.
    async fn coordinators(&self) -> Result<Vec<String>, Status> {
        let shared = &self.shared;
        let peers = shared.store.peers(shared.id, shared.config.leadership.silence()).await;
        let peers = peers.map_err(status::store)?.into_iter().map(|peer| peer.address);
        let mut all = Vec::new();
        for address in std::iter::once(shared.config.advertised()).chain(peers) {
            let address = match address.strip_prefix("http://") {
                Some(place) => format!("https://{place}"),
                None => address,
            };
            if !all.contains(&address) {
                all.push(address);
            }
        }
        Ok(all)
    }

    /// A certificate of this worker for this key, and its digest.
    fn issue(&self, name: &str, machine: &str, key: &[u8]) -> Result<(v1::Certificate, Digest), Status> {
        let key = PublicPoint::new(key).ok_or_else(|| {
            Status::invalid_argument(
                "public_key is no point of P-256, uncompressed, of 65 bytes; update farm-worker",
            )
        })?;
        let lives = self.lives();
        let chain = self.tls()?.workers.issue_worker(name, machine, &key, SystemTime::now(), lives).map_err(
            |error| {
                tracing::error!("a worker's certificate can't be made: {error:#}");
                Status::internal("the certificate can't be made; the coordinator's log says why")
            },
        )?;
        let digest = Digest::of(&chain[0]);
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let certificate = v1::Certificate {
            name: name.to_owned(),
            chain: chain.iter().map(|der| der.to_vec().into()).collect(),
            lives_ms: millis(lives),
            renew_ms: millis(lives * 2 / 3),
        };
        Ok((certificate, digest))
    }

    fn lives(&self) -> Duration {
        Duration::from_secs(self.shared.config.limits.worker_certificate_seconds)
    }
}

fn shown(invitation: Invitation) -> v1::Invitation {
    v1::Invitation {
        id: invitation.id.to_string(),
        hint: invitation.hint,
        name: invitation.name.unwrap_or_default(),
        machine: invitation.machine.unwrap_or_default(),
        pool: invitation.pool,
        trust: invitation.trust.to_string(),
        platforms: invitation.platforms.iter().map(ToString::to_string).collect(),
        slots: invitation.slots.unwrap_or_default(),
        created_by: invitation.created_by,
        created_ms: present::ms(invitation.created_at),
        expires_ms: present::ms(invitation.expires_at),
    }
}

/// The text, unless it is empty.
fn said(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// What an invitation asks for.
struct Wanted {
    trust: TrustClass,
    platforms: Vec<Platform>,
    lives: Duration,
}

fn wanted(request: &v1::InviteWorkerRequest) -> Result<Wanted, Invalid> {
    for (what, text) in
        [("worker name", &request.name), ("machine", &request.machine), ("pool", &request.pool)]
    {
        said(text).map_or(Ok(()), |text| check_name(what, text))?;
    }
    let mut platforms: Vec<Platform> =
        request.platforms.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    platforms.sort();
    platforms.dedup();
    if platforms.len() > MOST_PLATFORMS {
        let cure = format!("name at most {MOST_PLATFORMS}, or none: then whatever its engine runs");
        return Err(Invalid::new("platforms", platforms.len().to_string(), cure));
    }
    if request.slots > MOST_SLOTS {
        return Err(Invalid::new(
            "slots",
            request.slots.to_string(),
            format!("write 1 to {MOST_SLOTS}, or 0"),
        ));
    }
    let lives = match request.expires_ms {
        0 => EXPIRES,
        millis => Duration::from_millis(millis),
    };
    if lives > LONGEST {
        return Err(Invalid::new("expires", format!("{} s", lives.as_secs()), "write at most 30 days"));
    }
    let trust = said(&request.trust).map_or(Ok(TrustClass::default()), str::parse)?;
    Ok(Wanted { trust, platforms, lives })
}

#[farm_calls::service]
impl MachineService for Joins {
    async fn invite_worker(
        &self,
        request: Request<v1::InviteWorkerRequest>,
    ) -> Result<Response<v1::InviteWorkerResponse>, Status> {
        let caller = people::caller(&request)?;
        let request = request.into_inner();
        let tls = self.tls()?;
        let wanted = wanted(&request).map_err(status::invalid)?;
        if wanted.trust == TrustClass::Untrusted && self.shared.registries.staging_host().is_none() {
            return Err(Status::failed_precondition(
                "what an untrusted machine builds is pushed to a staging registry, from which a coordinator copies it, and this farm has \
                 none: on one machine, farm up --untrusted brings one, and the worker; else start a registry that takes the farm's tokens, \
                 and the coordinators with --staging HOST[:PORT] (FARM_STAGING): docs/guide/untrusted.md",
            ));
        }
        let coordinators = self.coordinators().await?;
        let random: [u8; 32] = rand::random();
        let token = format!("farm_j_{}", Digest::from(random).hex());
        let new = NewInvitation {
            digest: Digest::of(token.as_bytes()),
            hint: &token[..HINT],
            name: said(&request.name),
            machine: said(&request.machine),
            pool: said(&request.pool).unwrap_or(POOL),
            trust: wanted.trust,
            platforms: &wanted.platforms,
            slots: (request.slots > 0).then_some(request.slots),
            lives: wanted.lives,
        };
        let invitation = self.shared.store.invite(&caller.by(), &new).await.map_err(|error| match error {
            StoreError::NotFound("machine") => Status::not_found(format!(
                "no worker ever joined from a machine {}; leave --machine out, and the first worker's name is its machine's, too",
                request.machine
            )),
            other => status::store(other),
        })?;
        tracing::info!(invitation = invitation.hint, by = caller.principal.name, "a worker is invited");
        Ok(Response::new(v1::InviteWorkerResponse {
            token,
            invitation: Some(shown(invitation)),
            coordinators,
            fingerprint: tls.own_authority().map(|it| it.to_string()).unwrap_or_default(),
        }))
    }

    async fn list_invitations(
        &self,
        _: Request<v1::ListInvitationsRequest>,
    ) -> Result<Response<v1::ListInvitationsResponse>, Status> {
        let invitations = self.shared.store.invitations().await.map_err(status::store)?;
        let invitations = invitations.into_iter().map(shown).collect();
        Ok(Response::new(v1::ListInvitationsResponse { invitations }))
    }

    async fn withdraw_invitation(
        &self,
        request: Request<v1::WithdrawInvitationRequest>,
    ) -> Result<Response<v1::WithdrawInvitationResponse>, Status> {
        let caller = people::caller(&request)?;
        let name = request.into_inner().invitation;
        // Whoever has the token itself at hand may name it so.
        let name = if name.starts_with("farm_j_") { name.chars().take(HINT).collect() } else { name };
        self.shared.store.withdraw_invitation(&caller.by(), &name).await.map_err(|error| match error {
            StoreError::NotFound(_) => Status::not_found(format!(
                "no invitation that still counts is named {name:?}; `farm workers invitations` lists them"
            )),
            StoreError::Conflict(why) => Status::failed_precondition(why),
            other => status::store(other),
        })?;
        tracing::info!(invitation = name, by = caller.principal.name, "an invitation is taken back");
        Ok(Response::new(v1::WithdrawInvitationResponse {}))
    }

    async fn join_farm(
        &self,
        request: Request<v1::JoinFarmRequest>,
    ) -> Result<Response<v1::JoinFarmResponse>, Status> {
        let origin = request.extensions().get::<Origin>();
        let address = origin.map(|Origin(address)| address.to_string()).unwrap_or_default();
        let request = request.into_inner();
        self.tls()?;
        if request.token.trim().is_empty() {
            return Err(Status::invalid_argument("name the join token, which `farm workers invite` prints"));
        }
        let token = Digest::of(request.token.trim().as_bytes());
        let store = &self.shared.store;
        let key = Digest::of(&request.public_key);
        let invitation = store.invitation_of(token).await.map_err(status::store)?;
        let invitation = usable(invitation, key)?;
        let name = match (invitation.name.as_deref(), said(&request.name)) {
            (Some(invited), Some(asked)) if invited != asked => {
                return Err(Status::permission_denied(format!(
                    "this invitation is for worker {invited}, not {asked}; leave --name out"
                )));
            }
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => {
                return Err(Status::invalid_argument("the worker needs a name; give --name"));
            }
        };
        check_worker_name(name).map_err(status::invalid)?;
        let machine = invitation.machine.as_deref().unwrap_or(name);
        let (certificate, digest) = self.issue(name, machine, &request.public_key)?;
        // Before anything is used up: what fails here can be tried again.
        let coordinators = self.coordinators().await?;
        let joining =
            Joining { token, name, key, certificate: digest, lives: self.lives(), address: &address };
        let Let { machine, again } = store.join(&joining).await.map_err(|error| match error {
            StoreError::Conflict(why) if invitation.ended_at.is_some() => Status::resource_exhausted(why),
            StoreError::Conflict(why) => Status::already_exists(why),
            StoreError::Stale(_) => match invitation.ended_at {
                Some(at) => spent(&invitation, at),
                None => Status::unauthenticated("this join token was used by somebody else in this moment"),
            },
            other => status::store(other),
        })?;
        tracing::info!(
            worker = name,
            machine,
            address,
            invitation = invitation.hint,
            again,
            "a worker joins"
        );
        Ok(Response::new(v1::JoinFarmResponse {
            certificate: Some(certificate),
            machine,
            pool: invitation.pool,
            trust: invitation.trust.to_string(),
            platforms: invitation.platforms.iter().map(ToString::to_string).collect(),
            slots: invitation.slots.unwrap_or_default(),
            coordinators,
        }))
    }

    async fn renew_certificate(
        &self,
        request: Request<v1::RenewCertificateRequest>,
    ) -> Result<Response<v1::RenewCertificateResponse>, Status> {
        let caller = people::caller(&request)?;
        let Some(worker) = &caller.principal.worker else {
            return Err(Status::permission_denied(
                "only a worker's certificate can be renewed, and by itself",
            ));
        };
        let worker = &worker.shown;
        let (certificate, digest) =
            self.issue(&worker.name, &worker.machine_name, &request.into_inner().public_key)?;
        let added = self.shared.store.add_certificate(worker.join, digest, self.lives()).await;
        added.map_err(|error| match error {
            StoreError::Stale(why) => people::counts_no_more(&worker.name, why),
            StoreError::Conflict(why) => Status::resource_exhausted(why),
            other => status::store(other),
        })?;
        tracing::info!(worker = worker.name, "a certificate is renewed");
        Ok(Response::new(v1::RenewCertificateResponse { certificate: Some(certificate) }))
    }

    async fn revoke_workers(
        &self,
        request: Request<v1::RevokeWorkersRequest>,
    ) -> Result<Response<v1::RevokeWorkersResponse>, Status> {
        let caller = people::caller(&request)?;
        let names = checked(request.into_inner().names)?;
        let store = &self.shared.store;
        match store.revoke_workers(&caller.by(), &names).await.map_err(status::store)? {
            Ok(()) => {}
            Err(Unrevoked::NeverJoined(name)) => {
                return Err(Status::failed_precondition(format!(
                    "worker {name} has no certificate that could be revoked: it shows the farm's own token. `farm workers drain \
                     {name}` gives it nothing new; to keep it out, the farm needs another token file"
                )));
            }
            Err(Unrevoked::Expired(name)) => {
                return Err(Status::failed_precondition(format!(
                    "worker {name} is out already: its certificate has ended and can't be renewed any more. `farm workers remove \
                     {name}` takes it from the list; `farm workers invite --name {name}` brings it back"
                )));
            }
            Err(Unrevoked::Unknown(name)) => return Err(unknown(&self.shared, &name).await?),
        }
        tracing::info!(?names, by = caller.principal.name, "workers are revoked");
        self.shared.hints.changed();
        Ok(Response::new(v1::RevokeWorkersResponse {}))
    }
}

const ANOTHER: &str = "an admin can make another: farm workers invite";

fn when(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M UTC").to_string()
}

/// The invitation, if it counts for who has this key: whoever has used it may not have got the answer.
fn usable(invitation: Option<Invitation>, key: Digest) -> Result<Invitation, Status> {
    let Some(invitation) = invitation else {
        return Err(Status::unauthenticated(format!("the farm does not know this join token; {ANOTHER}")));
    };
    let is_over = invitation.expires_at <= invitation.now;
    match invitation.ended_at {
        Some(at) if is_over || invitation.key != Some(key) => Err(spent(&invitation, at)),
        None if is_over => Err(Status::unauthenticated(format!(
            "join token {}… could be used until {}; {ANOTHER}",
            invitation.hint,
            when(invitation.expires_at)
        ))),
        _ => Ok(invitation),
    }
}

fn spent(invitation: &Invitation, at: DateTime<Utc>) -> Status {
    let hint = &invitation.hint;
    Status::unauthenticated(format!("join token {hint}… was used, or taken back, on {}; {ANOTHER}", when(at)))
}
