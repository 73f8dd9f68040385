//! People who sign in at their company's issuer, and who they are here.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use farm_proto::v1;
use farm_proto::v1::sign_in_request::By;
use farm_proto::v1::sign_in_response::Came;
use farm_proto::v1::sign_in_service_server::SignInService;
use farm_store::people::sign_in::Link;
use farm_types::{Invalid, PrincipalName};
use tonic::{Request, Response, Status};

use super::millis;
use crate::grpc::status;
use crate::limits::address::Origin;
use crate::people;
use crate::people::sign_in::{Brought, Polled, Returned, SignIns};
use crate::shared::Shared;

/// The longest subject, bytes.
const LONGEST: usize = 255;

/// Where a call comes from, if that is known.
fn origin<T>(request: &Request<T>) -> Option<IpAddr> {
    request.extensions().get::<Origin>().map(|Origin(address)| *address)
}

/// Serves [`SignInService`].
#[derive(Debug)]
pub struct SignIn {
    shared: Arc<Shared>,
}

impl SignIn {
    /// What they are kept with.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn sign_ins(&self) -> Result<&SignIns, Status> {
        self.shared.sign_in.as_ref().ok_or_else(|| {
            Status::failed_precondition(
                "nobody signs in to this farm; ask whoever runs it for a token (or, to change that, see sign_in in its \
                 coordinator's configuration)",
            )
        })
    }
}

#[farm_calls::service]
impl SignInService for SignIn {
    async fn get_sign_in(
        &self,
        _: Request<v1::GetSignInRequest>,
    ) -> Result<Response<v1::GetSignInResponse>, Status> {
        let Some(sign_ins) = &self.shared.sign_in else {
            return Ok(Response::new(v1::GetSignInResponse::default()));
        };
        let offer = sign_ins.offer(Instant::now()).await.map_err(status::refused)?;
        let settings = sign_ins.settings();
        Ok(Response::new(v1::GetSignInResponse {
            issuer: settings.issuer.clone(),
            client_id: settings.client_id.clone(),
            scopes: settings.scopes.clone(),
            authorization_endpoint: offer.browser.map(String::from).unwrap_or_default(),
            redirect_uri: settings.redirect_uri.clone(),
            device: offer.device,
        }))
    }

    async fn begin_device_sign_in(
        &self,
        request: Request<v1::BeginDeviceSignInRequest>,
    ) -> Result<Response<v1::BeginDeviceSignInResponse>, Status> {
        let sign_ins = self.sign_ins()?;
        sign_ins.has_devices().map_err(status::refused)?;
        let _turn = self.shared.doors.sign_in(origin(&request))?;
        let code = sign_ins.begin_device(Instant::now()).await.map_err(status::refused)?;
        Ok(Response::new(v1::BeginDeviceSignInResponse {
            device_code: code.device_code,
            user_code: code.user_code,
            verification_uri: code.verification_uri,
            verification_uri_complete: code.verification_uri_complete,
            interval_seconds: code.interval,
            lives_seconds: code.lives,
        }))
    }

    async fn sign_in(
        &self,
        request: Request<v1::SignInRequest>,
    ) -> Result<Response<v1::SignInResponse>, Status> {
        let sign_ins = self.sign_ins()?;
        let origin = origin(&request);
        let v1::SignInRequest { by, machine } = request.into_inner();
        let brought = match by {
            Some(By::Browser(v1::BrowserSignIn { code, code_verifier, redirect_uri, nonce })) => {
                Brought::Browser(Returned { code, verifier: code_verifier, redirect_uri, nonce })
            }
            Some(By::Device(v1::DeviceSignIn { device_code })) => Brought::Device(device_code),
            None => {
                let cure = "say what the issuer gave: browser or device";
                return Err(status::invalid(Invalid::new("by", "", cure)));
            }
        };
        let brought = sign_ins.check(brought).map_err(status::refused)?;
        // Only what the issuer is asked about counts.
        let _turn = self.shared.doors.sign_in(origin)?;
        let store = &self.shared.store;
        let person = match sign_ins.ask(store, brought, Instant::now()).await.map_err(status::refused)? {
            Polled::In(person) => person,
            Polled::Pending(more_seconds) => {
                let came = Some(Came::Pending(v1::SignInPending { more_seconds }));
                return Ok(Response::new(v1::SignInResponse { came }));
            }
        };
        let address = origin.map(|address| address.to_string()).unwrap_or_default();
        let entered = sign_ins.enter(store, person, &machine, &address).await.map_err(status::refused)?;
        tracing::info!(who = entered.name, token = entered.hint, groups = entered.groups.len(), "signed in");
        let came = Some(Came::SignedIn(v1::SignedIn {
            secret: entered.secret,
            name: entered.name,
            expires_ms: millis(entered.ends),
            groups: entered.groups,
        }));
        Ok(Response::new(v1::SignInResponse { came }))
    }

    async fn link_person(
        &self,
        request: Request<v1::LinkPersonRequest>,
    ) -> Result<Response<v1::LinkPersonResponse>, Status> {
        let caller = people::caller(&request)?;
        let issuer = self.sign_ins()?.settings().issuer.clone();
        let v1::LinkPersonRequest { person, subject } = request.into_inner();
        let person: PrincipalName = person.parse().map_err(status::invalid)?;
        if !(1..=LONGEST).contains(&subject.len()) || subject.chars().any(char::is_control) {
            let cure = format!("write what the issuer knows them by (sub), 1 to {LONGEST} bytes in one line");
            return Err(status::invalid(Invalid::new("subject", subject, cure)));
        }
        let linked = self.shared.store.link_person(&caller.by(), person.as_str(), &issuer, &subject).await;
        let changed = match linked.map_err(status::store)? {
            Link::Made => true,
            Link::Was => false,
            Link::OfAnother(other) => {
                return Err(Status::failed_precondition(format!(
                    "{subject:?} of {issuer} is {other} already; to change that: farm admin unlink {other}"
                )));
            }
            Link::ToAnother(other) => {
                return Err(Status::failed_precondition(format!(
                    "{person} is {other:?} of {issuer} already; to change that: farm admin unlink {person}"
                )));
            }
        };
        if changed {
            tracing::info!(%person, subject, by = caller.principal.name, "person linked");
        }
        Ok(Response::new(v1::LinkPersonResponse { issuer, changed }))
    }

    async fn unlink_person(
        &self,
        request: Request<v1::UnlinkPersonRequest>,
    ) -> Result<Response<v1::UnlinkPersonResponse>, Status> {
        let caller = people::caller(&request)?;
        let person: PrincipalName = request.into_inner().person.parse().map_err(status::invalid)?;
        let unlinked = self.shared.store.unlink_person(&caller.by(), person.as_str()).await;
        let ended = unlinked.map_err(status::store)?;
        if let Some(ended) = ended {
            tracing::info!(%person, ended, by = caller.principal.name, "person unlinked");
        }
        let changed = ended.is_some();
        let ended = u32::try_from(ended.unwrap_or_default()).unwrap_or(u32::MAX);
        Ok(Response::new(v1::UnlinkPersonResponse { changed, ended }))
    }
}
