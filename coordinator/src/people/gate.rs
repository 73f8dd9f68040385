//! The layer that asks who calls, before the body is read; and again while a call goes on.
//!
//! It stands before all services, gRPC's own too. What it finds goes into the request's extensions ([`super::caller`]); a call
//! that it refuses reaches no handler; one too many ([`crate::limits`]) reaches not even the question who makes it.
//! A call that lasts is looked at every [`LOOK`]: whoever may no more make it, is cut off.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use farm_client::PROJECT;
use farm_store::default_project;
use farm_types::{Digest, ProjectId, ProjectName, Role};
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;

use super::Caller;
use super::identities::{Identities, Proof};
use super::principal::{Kind, Principal, WorkerIdentity};
use super::rights::{self, Action, Needs};
use crate::limits::address::Origin;
use crate::limits::line::Turn;
use crate::limits::{Doors, Visit};
use crate::tls::Peer;

/// A call that goes on is looked at so often.
const LOOK: Duration = Duration::from_secs(2);
/// A call that needs no identity is answered, or begins to be, within.
const OPEN: Duration = Duration::from_secs(60);

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Puts the gate before a service.
#[derive(Debug, Clone)]
pub struct GateLayer {
    identities: Arc<Identities>,
    doors: Arc<Doors>,
}

impl GateLayer {
    /// The layer of whom these know, who may take so much.
    pub fn new(identities: Arc<Identities>, doors: Arc<Doors>) -> Self {
        Self { identities, doors }
    }
}

impl<S> tower::Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { layer: self.clone(), inner }
    }
}

/// A service that is reached by those who may.
#[derive(Debug, Clone)]
pub struct Gate<S> {
    layer: GateLayer,
    inner: S,
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Boxed<Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The clone may not be ready; what was polled is used.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let GateLayer { identities, doors } = self.layer.clone();
        Box::pin(async move {
            let Some(action) = rights::action(request.uri().path()) else {
                return Ok(Status::unimplemented("the farm has no such method").into_http());
            };
            let peer = request.extensions().get::<Peer>().cloned();
            let origin = peer.as_ref().and_then(|peer| peer.address);
            let origin = origin.map(|address| doors.caller(address.ip(), request.headers()));
            let mut turn = peer.as_ref().map(|peer| Turn::begin(Arc::clone(&peer.line)));
            if let Some(origin) = origin {
                request.extensions_mut().insert(Origin(origin));
            }
            if action.needs() == Needs::Nothing {
                let visit = match origin.map(|origin| doors.open_call(origin)).transpose() {
                    Ok(visit) => visit,
                    Err(status) => return Ok(status.into_http()),
                };
                let Ok(answered) = tokio::time::timeout(OPEN, inner.call(request)).await else {
                    return Ok(Status::deadline_exceeded("the call came too slowly").into_http());
                };
                return Ok(answered?.map(|body| Body::new(Held { body, turn, visit })));
            }
            let call = Arc::new(Call::read(identities, action, request.headers(), peer.as_ref()));
            let found = async {
                if let Some(origin) = origin.filter(|_| call.is_stranger()) {
                    doors.look_up(origin)?;
                }
                let found = call.ask().await;
                if let (Some(origin), Err(status)) = (origin, &found)
                    && status.code() == tonic::Code::Unauthenticated
                {
                    doors.unknown(origin);
                }
                let (principal, project) = found?;
                doors.known_call(&principal, action, origin)?;
                Ok::<_, Status>((principal, project))
            };
            let (principal, project) = match found.await {
                Ok(found) => found,
                Err(status) => return Ok(status.into_http()),
            };
            if let Some(turn) = &mut turn {
                turn.know();
            }
            let span = tracing::Span::current();
            span.record("who", tracing::field::display(&principal.name));
            if let Some((_, name)) = &project {
                span.record("project", tracing::field::display(name));
            }
            let is_encrypted = peer.as_ref().is_some_and(|peer| peer.is_encrypted);
            request.extensions_mut().insert(Caller { principal, project, address: origin, is_encrypted });
            let answer = inner.call(request);
            tokio::pin!(answer);
            let response = loop {
                // Beside the call: whoever tells of callers may take a while, and the call goes on meanwhile.
                let look = async {
                    tokio::time::sleep(LOOK).await;
                    call.is_over().await
                };
                tokio::select! {
                    answered = &mut answer => break answered?,
                    over = look => if let Some(status) = over {
                        return Ok(status.into_http());
                    },
                }
            };
            Ok(response.map(|body| {
                let next = Box::pin(tokio::time::sleep(LOOK));
                Body::new(Watched { body: Held { body, turn, visit: None }, call, next, asking: None })
            }))
        })
    }
}

/// What a call has shown and what it is about.
struct Call {
    identities: Arc<Identities>,
    action: Action,
    proof: Result<Proof, Status>,
    project: Result<Option<ProjectName>, Status>,
    /// The project in which it was let in: it goes on there or nowhere.
    granted: OnceLock<(ProjectId, ProjectName)>,
}

impl Call {
    /// A token is what a call is judged by; without one, the certificate that its connection has shown.
    fn read(identities: Arc<Identities>, action: Action, headers: &HeaderMap, peer: Option<&Peer>) -> Self {
        let certificate = peer.and_then(|peer| peer.certificates.first());
        let proof = match (headers.get("authorization"), certificate) {
            (Some(value), _) => value
                .to_str()
                .ok()
                .and_then(|value| value.strip_prefix("Bearer "))
                .map(|token| Proof::Token(Digest::of(token.trim().as_bytes()))),
            (None, Some(certificate)) => Some(Proof::Certificate(Digest::of(certificate))),
            (None, None) => None,
        };
        let proof = proof
            .ok_or_else(|| Status::unauthenticated("no token was sent; set FARM_TOKEN or FARM_TOKEN_FILE"));
        let project = headers.get(PROJECT).map(|value| {
            let text = String::from_utf8_lossy(value.as_bytes());
            text.parse().map_err(|e: farm_types::Invalid| Status::invalid_argument(e.to_string()))
        });
        Self { identities, action, proof, project: project.transpose(), granted: OnceLock::new() }
    }

    /// Whether the farm has to look up whom this shows, or there is nothing. Who shows a certificate has made a connection for it,
    /// which is dearer than a look-up: a builder's program that sends wrong tokens keeps its worker from nothing.
    fn is_stranger(&self) -> bool {
        if matches!(self.proof, Ok(Proof::Certificate(_))) {
            return false;
        }
        !self.proof.as_ref().is_ok_and(|proof| self.identities.remembers(*proof))
    }

    /// Who calls, and in which project, if they may.
    async fn ask(&self) -> Result<(Arc<Principal>, Option<(ProjectId, ProjectName)>), Status> {
        let principal = self.identities.identify(self.proof.clone()?).await?;
        if let Some(worker) = &principal.worker {
            of_worker(worker, self.action)?;
            return Ok((principal, None));
        }
        let project = match self.action.needs() {
            Needs::Role(least) => Some(self.project(&principal, least).await?),
            Needs::Nothing | Needs::Identity => None,
            Needs::FarmAdmin if principal.is_farm_admin => None,
            // Workers of before there were certificates show the farm's own token.
            Needs::Worker if principal.kind == Kind::Admin => None,
            Needs::Coordinator if principal.kind == Kind::Coordinator => None,
            Needs::FarmAdmin | Needs::Worker | Needs::Certificate | Needs::Coordinator => {
                return Err(lacks(&principal, self.action));
            }
        };
        Ok((principal, project))
    }

    /// The project of the call, in which the principal has this role.
    async fn project(&self, principal: &Principal, least: Role) -> Result<(ProjectId, ProjectName), Status> {
        if let Some((id, name)) = self.granted.get() {
            return match principal.role_in(*id) {
                Some(role) if role >= least => Ok((*id, name.clone())),
                _ => Err(no_member(principal, name)),
            };
        }
        let named = self.project.clone()?;
        let (id, name) = match named {
            Some(name) => {
                let own = principal.memberships.iter().find(|member| member.name == name);
                let id = match own {
                    Some(member) => Some(member.project),
                    None if principal.is_farm_admin => self.identities.project(&name).await?,
                    None => None,
                };
                // Whether it is not there or not theirs nobody is told, and nothing else was asked.
                (id.ok_or_else(|| no_member(principal, &name))?, name)
            }
            None => match principal.memberships.as_slice() {
                _ if principal.is_farm_admin => (default_project(), default_name()?),
                [only] => (only.project, only.name.clone()),
                [] => {
                    return Err(Status::permission_denied(format!(
                        "{} is in no project; an admin of one can give a role there: farm member set {0} --role builder",
                        principal.name
                    )));
                }
                several => {
                    let names: Vec<&str> = several.iter().map(|member| member.name.as_str()).collect();
                    return Err(Status::invalid_argument(format!(
                        "{} is in several projects ({}); say in which with --project or FARM_PROJECT",
                        principal.name,
                        names.join(", ")
                    )));
                }
            },
        };
        match principal.role_in(id) {
            Some(role) if role >= least => {
                let _ = self.granted.set((id, name.clone()));
                Ok((id, name))
            }
            Some(role) => Err(Status::permission_denied(format!(
                "{who} is {role} of project {name}; to {words} needs {least}. An admin of {name} can give that: \
                 farm member set {who} --role {least} --project {name}",
                who = principal.name,
                words = self.action.words()
            ))),
            None => Err(no_member(principal, &name)),
        }
    }

    /// Why a call that was let in may not go on. A database that doesn't answer ends none.
    async fn is_over(&self) -> Option<Status> {
        self.ask().await.err().filter(|status| {
            matches!(status.code(), tonic::Code::Unauthenticated | tonic::Code::PermissionDenied)
        })
    }
}

fn default_name() -> Result<ProjectName, Status> {
    "default".parse().map_err(|_| Status::internal("a bug: the project default has no name"))
}

fn no_member(principal: &Principal, name: &ProjectName) -> Status {
    Status::permission_denied(format!(
        "there is no project {name} that {} is in; `farm project ls` lists those, and an admin of a project can give a role \
         there: farm member set {0} --role builder --project {name}",
        principal.name
    ))
}

/// Whether a worker may do this by its certificate: work, know itself, and renew.
fn of_worker(worker: &WorkerIdentity, action: Action) -> Result<(), Status> {
    let name = &worker.shown.name;
    match action.needs() {
        Needs::Certificate => return Ok(()),
        Needs::Worker => {}
        Needs::Identity if action == Action::KnowOneself => {}
        _ => {
            return Err(Status::permission_denied(format!(
                "worker {name} may take jobs and nothing else, and this call is to {}; it needs a person's token, or a service's",
                action.words()
            )));
        }
    }
    if worker.ends <= std::time::Instant::now() {
        return Err(Status::unauthenticated(format!(
            "the certificate of worker {name} ended on {}; the worker renews it by itself until 24 h after that",
            worker.shown.expires_at.format("%Y-%m-%d %H:%M UTC")
        )));
    }
    Ok(())
}

fn lacks(principal: &Principal, action: Action) -> Status {
    let (who, words) = (&principal.name, action.words());
    Status::permission_denied(match action.needs() {
        Needs::Worker | Needs::Certificate => format!(
            "{who} is no worker of this farm, and only one may {words}; farm-worker join makes a machine one, by an invitation \
             (farm workers invite)"
        ),
        Needs::Coordinator => format!("{who} is no coordinator of this farm, and only one may {words}"),
        _ => format!(
            "{who} is no admin of this farm; to {words} needs one. Another admin can make {who} one: farm admin add {who}"
        ),
    })
}

/// An answer, while it is given out.
struct Held {
    body: Body,
    turn: Option<Turn>,
    /// Of a caller whom nobody has asked who they are.
    visit: Option<Visit>,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let next = Pin::new(&mut this.body).poll_frame(task);
        if let Some(turn) = &mut this.turn {
            // It is asked for the next piece when the client has room for it: for as long as it isn't, the client takes nothing.
            turn.handed(matches!(&next, Poll::Ready(Some(Ok(frame))) if frame.is_data()));
        }
        if matches!(next, Poll::Ready(None)) {
            this.turn = None;
            this.visit = None;
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// An answer that goes on as long as its caller may have it.
struct Watched {
    body: Held,
    call: Arc<Call>,
    next: Pin<Box<Sleep>>,
    asking: Option<Boxed<Option<Status>>>,
}

impl Watched {
    /// Ready when the caller may have no more of it.
    fn poll_over(&mut self, task: &mut Context<'_>) -> Poll<Status> {
        loop {
            if let Some(asking) = &mut self.asking {
                let over = ready!(asking.as_mut().poll(task));
                self.asking = None;
                if let Some(status) = over {
                    return Poll::Ready(status);
                }
                self.next.as_mut().reset(Instant::now() + LOOK);
            }
            ready!(self.next.as_mut().poll(task));
            let call = Arc::clone(&self.call);
            self.asking = Some(Box::pin(async move { call.is_over().await }));
        }
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Poll::Ready(status) = this.poll_over(task) {
            tracing::info!(why = status.message(), "a call is cut off");
            // What is behind it ends as if the caller had hung up.
            this.body = Held { body: Body::empty(), turn: None, visit: None };
            let mut trailers = HeaderMap::new();
            status.add_header(&mut trailers)?;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Pin::new(&mut this.body).poll_frame(task)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
