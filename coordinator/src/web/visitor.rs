//! Who asks for a page: by a token in the request's header, as programs do, or by the session that a browser's cookie shows.
//!
//! Either is a token in the end ([`Identities`](crate::people::identities::Identities)), so whatever ends that (a revocation, its
//! time, a changed configuration) ends what is shown here. What strangers may ask is bounded as calls are (`limits`).

use std::net::IpAddr;
use std::sync::Arc;

use farm_types::{Digest, PrincipalKind};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use tonic::Code;

use super::asked::Asked;
use super::cookies::Cookie;
use super::forms::Secret;
use super::problem::Problem;
use crate::limits::Visit;
use crate::people::Caller;
use crate::people::identities::Proof;
use crate::people::principal::{Kind, Principal};
use crate::people::rights::{Action, Needs};
use crate::shared::Shared;

/// Somebody whom the farm knows.
#[derive(Debug, Clone)]
pub struct Visitor {
    pub caller: Caller,
    /// By what they are known.
    pub proof: Proof,
    /// What their browser shows; `None`: they have shown a token.
    pub session: Option<Secret>,
}

/// What somebody has shown, and their session if it is that.
fn shown(headers: &HeaderMap, is_secure: bool) -> Option<(Proof, Option<Secret>)> {
    // Other schemes are a proxy's.
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    if let Some(token) = bearer {
        return Some((Proof::Token(Digest::of(token.trim().as_bytes())), None));
    }
    let secret = Cookie::Session.read(headers, is_secure).and_then(Secret::read)?;
    Some((Proof::Session(secret.digest()), Some(secret)))
}

/// Lets somebody's form in; whoever is known takes no place from the strangers of the same address.
///
/// # Errors
/// Too many strangers come from there.
pub(crate) fn enter(shared: &Shared, asked: &Asked) -> Result<Option<Visit>, Problem> {
    let shows = shown(&asked.headers, asked.is_secure);
    if shows.is_some_and(|(proof, _)| shared.identities.remembers(proof)) {
        return Ok(None);
    }
    Ok(asked.from.map(|from| shared.doors.open_call(from)).transpose()?)
}

/// Who asks, to do this; `None`: nobody whom the farm knows.
///
/// # Errors
/// They come too often, or the database doesn't answer.
pub(crate) async fn visitor(
    shared: &Shared,
    asked: &mut Asked,
    action: Action,
) -> Result<Option<Visitor>, Problem> {
    let doors = &shared.doors;
    let Some((proof, session)) = shown(&asked.headers, asked.is_secure) else {
        if let Some(from) = asked.from {
            let _visit = doors.open_call(from)?;
        }
        return Ok(None);
    };
    let Some(principal) = known(shared, asked.from, proof).await? else { return Ok(None) };
    doors.known_call(&principal, action, asked.from)?;
    asked.turn.know();
    let caller = Caller { principal, project: None, address: asked.from, is_encrypted: asked.is_encrypted };
    Ok(Some(Visitor { caller, proof, session }))
}

/// Whom this shows; `None`: nobody who looks at pages. Whoever was known a moment ago is asked for however many wrong tokens come from
/// their address.
///
/// # Errors
/// Too many such questions come from there, or the database doesn't answer.
pub(crate) async fn known(
    shared: &Shared,
    from: Option<IpAddr>,
    proof: Proof,
) -> Result<Option<Arc<Principal>>, Problem> {
    if let Some(from) = from.filter(|_| !shared.identities.remembers(proof)) {
        shared.doors.look_up(from)?;
    }
    match shared.identities.identify(proof).await {
        Ok(principal) if looks_at_pages(&principal) => Ok(Some(principal)),
        Ok(_) => Ok(None),
        Err(status) if status.code() == Code::Unauthenticated => {
            stranger(shared, from);
            Ok(None)
        }
        Err(status) => Err(status.into()),
    }
}

fn stranger(shared: &Shared, from: Option<IpAddr>) {
    if let Some(from) = from {
        shared.doors.unknown(from);
    }
}

fn looks_at_pages(principal: &Principal) -> bool {
    match principal.kind {
        Kind::Admin => true,
        Kind::Known(PrincipalKind::Person | PrincipalKind::Service | PrincipalKind::Subject) => true,
        Kind::Known(_) | Kind::Coordinator | Kind::Worker => false,
    }
}

/// Whether somebody may do this in a project, by the table that calls are judged by.
pub fn may(principal: &Principal, action: Action, project: farm_types::ProjectId) -> bool {
    match action.needs() {
        Needs::Role(least) => principal.role_in(project).is_some_and(|role| role >= least),
        Needs::Nothing => true,
        Needs::Identity | Needs::FarmAdmin | Needs::Worker | Needs::Certificate | Needs::Coordinator => false,
    }
}
