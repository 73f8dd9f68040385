//! Pages for browsers, which need no JavaScript: one build's ([`build`]), its log as text ([`log`]), and how a browser signs in
//! ([`sign_in`], [`issuer`]); and the form by which what a fork proposes is let be built ([`approve`]).
//!
//! Who asks ([`visitor`]) has shown a token, or what a session of theirs shows; what they may is in the table that calls are judged by
//! (`people::rights`), and what they see is what calls show (`shown`). Invariants: nothing is answered without the headers in
//! [`reply`]; all texts come by templates that escape them ([`templates`]); nothing is changed but by a form of the visitor's own
//! ([`forms`]); nobody is sent anywhere but to one of these pages ([`route`]), or to the issuer.
//!
//! To add a page: its [`route::Route`], its row in `people::rights::PAGES` if it shows what not everybody may see, a template, and a
//! fixture in the templates' tests. To add an action on a build: a form in `build.html` with the visitor's guard, a route for POST
//! alone, and in its handler [`forms::own`] before anything else.

mod approve;
mod asked;
mod build;
mod cookies;
mod forms;
mod found;
mod issuer;
mod log;
mod problem;
mod reply;
mod route;
mod sign_in;
mod templates;
mod text;
mod view;
mod visitor;

use std::sync::Arc;

use http::header::{ALLOW, HeaderValue};
use http::{Method, Request, Response};
use hyper::body::Incoming;

use self::asked::Asked;
use self::problem::Problem;
use self::route::Route;
use crate::http::answer::{Body, whole};
use crate::http::body::Memory;
use crate::limits::line::Turn;
use crate::shared::Shared;
use crate::tls::Peer;

/// What the forms that are under way may take of memory, KiB.
const MEMORY_KIB: usize = 8 * 1024;
/// The longest form, KiB: each takes so much.
const FORM_KIB: usize = 16;

/// Shows pages.
#[derive(Debug, Clone)]
pub struct Web {
    shared: Arc<Shared>,
    memory: Memory,
}

impl Web {
    /// Those of this coordinator.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, memory: Memory::new(MEMORY_KIB, FORM_KIB) }
    }

    /// Answers one request.
    pub async fn answer(&self, peer: &Peer, request: Request<Incoming>) -> Response<Body> {
        let is_head = request.method() == Method::HEAD;
        let answered = self.answered(peer, request).await;
        let mut response = answered.unwrap_or_else(|problem| problem.page());
        reply::protect(response.headers_mut());
        match is_head {
            true => response.map(|_| whole("")),
            false => response,
        }
    }

    async fn answered(&self, peer: &Peer, request: Request<Incoming>) -> Result<Response<Body>, Problem> {
        let shared = &self.shared;
        let turn = Turn::begin(Arc::clone(&peer.line));
        let (head, body) = request.into_parts();
        let from = peer.address.map(|address| shared.doors.caller(address.ip(), &head.headers));
        let public_url = shared.config.web.public_url.as_deref();
        let asked = Asked {
            headers: head.headers,
            from,
            is_encrypted: peer.is_encrypted,
            is_secure: peer.is_encrypted || public_url.is_some_and(|url| url.starts_with("https://")),
            turn,
        };
        let route = Route::of(head.uri.path(), head.uri.query()).ok_or_else(Problem::nowhere)?;
        let method = if head.method == Method::HEAD { Method::GET } else { head.method };
        match (route, method) {
            (Route::Build(place), Method::GET) => Box::pin(build::page(shared, asked, place)).await,
            (Route::Log(place, platform), Method::GET) => {
                Box::pin(log::text(shared, asked, place, platform)).await
            }
            (Route::Home, Method::GET) => Box::pin(sign_in::home(shared, asked)).await,
            (Route::SignIn(next), Method::GET) => sign_in::form(shared, &asked, &next),
            (Route::SignIn(_), Method::POST) => {
                // While a form comes, whoever sends it holds one of the few places that there are for strangers.
                let _visit = asked.from.map(|from| shared.doors.open_call(from)).transpose()?;
                let form = forms::read(&self.memory, &asked.headers, body).await?;
                Box::pin(sign_in::by_token(shared, asked, &form)).await
            }
            (Route::SignOut, Method::POST) => {
                let _visit = visitor::enter(shared, &asked)?;
                let form = forms::read(&self.memory, &asked.headers, body).await?;
                Box::pin(sign_in::out(shared, asked, &form)).await
            }
            (Route::Approve(place), Method::POST) => {
                let _visit = visitor::enter(shared, &asked)?;
                let form = forms::read(&self.memory, &asked.headers, body).await?;
                Box::pin(approve::give(shared, asked, place, &form)).await
            }
            (Route::ToIssuer(next), Method::GET) => Box::pin(issuer::leave(shared, &asked, &next)).await,
            (Route::FromIssuer(returned), Method::GET) => {
                Box::pin(issuer::arrive(shared, &asked, returned)).await
            }
            (route, _) => {
                let mut response = Problem::method(route.methods()).page();
                response.headers_mut().insert(ALLOW, HeaderValue::from_static(route.methods()));
                Ok(response)
            }
        }
    }
}
