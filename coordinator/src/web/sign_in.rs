//! How a browser signs in by a token, and out again.
//!
//! The token itself isn't kept: the session says by its digest which it was, and counts as long as that does
//! (`farm_store::people::browser_sessions`).

use std::time::Duration;

use farm_store::people::audit::By;
use farm_store::people::browser_sessions::NewSession;
use farm_types::Digest;
use http::{HeaderMap, Response, StatusCode};

use super::asked::Asked;
use super::cookies::Cookie;
use super::forms::{Form, Secret, own};
use super::found::who;
use super::problem::Problem;
use super::route::Next;
use super::visitor::{known, visitor};
use super::{reply, templates};
use crate::http::answer::Body;
use crate::people::Caller;
use crate::people::identities::Proof;
use crate::people::rights::Action;
use crate::shared::Shared;

/// The longest token, bytes.
const LONGEST: usize = 4096;

/// The page that is shown where none is named.
///
/// # Errors
/// The farm can't tell who asks.
pub(crate) async fn home(shared: &Shared, mut asked: Asked) -> Result<Response<Body>, Problem> {
    match visitor(shared, &mut asked, Action::KnowOneself).await? {
        Some(visitor) => Ok(reply::page(StatusCode::OK, templates::home(&who(&visitor)))),
        None => ask(shared, &asked, &Next::default(), ""),
    }
}

/// The form.
///
/// # Errors
/// Too many come from there.
pub fn form(shared: &Shared, asked: &Asked, next: &Next) -> Result<Response<Body>, Problem> {
    if let Some(from) = asked.from {
        let _visit = shared.doors.open_call(from)?;
    }
    let mut response = ask(shared, asked, next, "")?;
    *response.status_mut() = StatusCode::OK;
    Ok(response)
}

/// Asks somebody who they are, before they go on; `trouble` says what was wrong so far.
///
/// # Errors
/// None that isn't a bug.
pub fn ask(shared: &Shared, asked: &Asked, next: &Next, trouble: &str) -> Result<Response<Body>, Problem> {
    let kept = Cookie::Visit.read(&asked.headers, asked.is_secure).and_then(Secret::read);
    let visit = kept.clone().unwrap_or_else(Secret::generate);
    let issuer = shared.sign_in.as_ref().filter(|sign_in| sign_in.has_pages());
    let form = templates::SignIn {
        guard: visit.guard(),
        next: next.path(),
        issuer: issuer.map(|sign_in| sign_in.settings().issuer.clone()),
        to_issuer: format!("/sign-in/issuer?next={}", farm_types::escaped(&next.path())),
        trouble: trouble.to_owned(),
    };
    let mut response = reply::page(StatusCode::UNAUTHORIZED, templates::sign_in(&form));
    if kept.is_none() {
        let headers = response.headers_mut();
        Cookie::Visit.set(headers, visit.text(), None, asked.is_secure).map_err(|_| Problem::bug())?;
    }
    Ok(response)
}

/// Signs somebody in by the token in their form.
///
/// # Errors
/// The form isn't theirs, they come too often, or the database doesn't answer.
pub(crate) async fn by_token(
    shared: &Shared,
    mut asked: Asked,
    form: &Form,
) -> Result<Response<Body>, Problem> {
    let next = form.get("next").map(|next| Next::read(next)).unwrap_or_default();
    let visit = Cookie::Visit.read(&asked.headers, asked.is_secure).and_then(Secret::read);
    own(&asked.headers, shared.config.web.public_url.as_deref(), form, visit.as_ref())?;
    let token = form.get("token").map(|token| token.trim()).unwrap_or_default();
    if token.is_empty() || token.len() > LONGEST {
        return ask(shared, &asked, &next, "A token is expected in the field.");
    }
    let digest = Digest::of(token.as_bytes());
    let Some(principal) = known(shared, asked.from, Proof::Token(digest)).await? else {
        let trouble = "The farm doesn't take this token: it isn't whole, has expired, or was revoked. Make another one with \
                       farm token create, or ask an admin for one.";
        return ask(shared, &asked, &next, trouble);
    };
    shared.doors.known_call(&principal, Action::KnowOneself, asked.from)?;
    asked.turn.know();
    let caller = Caller { principal, project: None, address: asked.from, is_encrypted: asked.is_encrypted };
    let session = New { token: digest, is_own_token: false, lives: shared.config.web.session() };
    let mut response = reply::see(&next.path()).map_err(|_| Problem::bug())?;
    begin(shared, &asked, &caller.by(), session, response.headers_mut()).await?;
    Ok(response)
}

/// What a session is begun with.
pub struct New {
    pub token: Digest,
    pub is_own_token: bool,
    pub lives: Duration,
}

/// Begins a session, and has the browser keep what shows it.
///
/// # Errors
/// The database doesn't answer.
pub(crate) async fn begin(
    shared: &Shared,
    asked: &Asked,
    by: &By,
    new: New,
    headers: &mut HeaderMap,
) -> Result<(), Problem> {
    // Always another one: what the browser has shown so far may have been given to it by somebody else.
    let secret = Secret::generate();
    let New { token, is_own_token, lives } = new;
    let session = NewSession { digest: secret.digest(), token, is_own_token, lives };
    // The one before would go on counting, and nobody could end it.
    if let Some(earlier) = Cookie::Session.read(&asked.headers, asked.is_secure).and_then(Secret::read) {
        shared.store.end_browser_session(by, earlier.digest()).await?;
        shared.identities.forget(Proof::Session(earlier.digest()));
    }
    shared.store.begin_browser_session(by, session).await?;
    tracing::info!(who = by.name, token = by.token_hint, "a browser is signed in");
    let set = Cookie::Session.set(headers, secret.text(), Some(lives), asked.is_secure);
    set.map_err(|_| Problem::bug())?;
    Cookie::Visit.forget(headers, asked.is_secure);
    Ok(())
}

/// Signs somebody out.
///
/// # Errors
/// The form isn't theirs, or the database doesn't answer.
pub(crate) async fn out(shared: &Shared, mut asked: Asked, form: &Form) -> Result<Response<Body>, Problem> {
    let mut response = reply::see("/").map_err(|_| Problem::bug())?;
    let visitor = visitor(shared, &mut asked, Action::KnowOneself).await?;
    if let Some(visitor) = visitor {
        own(&asked.headers, shared.config.web.public_url.as_deref(), form, visitor.session.as_ref())?;
        if let Some(session) = &visitor.session {
            let by = visitor.caller.by();
            shared.store.end_browser_session(&by, session.digest()).await?;
            shared.identities.forget(visitor.proof);
            tracing::info!(who = by.name, token = by.token_hint, "a browser is signed out");
        }
    }
    // Only what the browser has shown: another site's form comes without, and changes nothing.
    if Cookie::Session.read(&asked.headers, asked.is_secure).is_some() {
        Cookie::Session.forget(response.headers_mut(), asked.is_secure);
    }
    Ok(response)
}
