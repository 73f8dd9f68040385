//! What a fork proposes, on the page of the build that it is known by, and the form by which it is approved.

use std::sync::Arc;

use http::{Response, StatusCode};

use super::asked::Asked;
use super::forms::{Form, own};
use super::found::{Found, Search, choice, find, who};
use super::problem::Problem;
use super::route::{Next, Place};
use super::view::{self, ProposalView};
use super::visitor::{Visitor, may, visitor};
use super::{reply, sign_in, templates};
use crate::hooks::approving::{Unapproved, approve, present, proposed};
use crate::http::answer::Body;
use crate::people::rights::Action;
use crate::shared::Shared;

/// What a build is held for, with a form for whoever may approve it; `None`: it is none of these.
///
/// # Errors
/// The database doesn't answer.
pub(crate) async fn proposal(
    shared: &Shared,
    visitor: &Visitor,
    found: &Found,
    place: &Place,
) -> Result<Option<ProposalView>, Problem> {
    if found.record.spec.purpose.fetch().is_none() {
        return Ok(None);
    }
    let waits = match proposed(shared, found.named(place)).await {
        Ok(waits) => waits,
        Err(Unapproved::Store(error)) => return Err(error.into()),
        Err(Unapproved::Unheld(_) | Unapproved::Commit(_)) => return Ok(None),
    };
    let may_approve = may(&visitor.caller.principal, Action::Approve, found.record.project);
    // Who has shown a token has no form that could be theirs.
    let guard =
        visitor.session.as_ref().filter(|_| may_approve && waits.is_held()).map(|session| session.guard());
    let to = if guard.is_some() { place.approve() } else { String::new() };
    Ok(Some(view::proposal(&present(&waits, &place.id), to, guard.unwrap_or_default())))
}

/// Approves the commit that the visitor was shown.
///
/// # Errors
/// The form isn't theirs, they may not, it isn't held or has moved on, or the database doesn't answer.
pub(crate) async fn give(
    shared: &Arc<Shared>,
    mut asked: Asked,
    place: Place,
    form: &Form,
) -> Result<Response<Body>, Problem> {
    let Some(visitor) = visitor(shared, &mut asked, Action::Approve).await? else {
        return sign_in::ask(shared, &asked, &Next::build(place), "");
    };
    own(&asked.headers, shared.config.web.public_url.as_deref(), form, visitor.session.as_ref())?;
    let found = match find(shared, &visitor, &place).await? {
        Search::One(found) => found,
        Search::Several(projects) => {
            let choice = choice(&place, projects, |place| place.path());
            return Ok(reply::page(StatusCode::MULTIPLE_CHOICES, templates::choose(&choice, &who(&visitor))));
        }
    };
    if !may(&visitor.caller.principal, Action::Approve, found.record.project) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "You may not approve this",
            format!(
                "That takes a {}; an admin of it can give you the role.",
                Action::Approve.needs().words()
            ),
        ));
    }
    let commit = form.get("commit").map(String::as_str).unwrap_or_default();
    if commit.len() < 40 {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "The form names no commit", "Load the page anew."));
    }
    match approve(shared, &visitor.caller.by(), found.named(&place), commit).await {
        Ok(_) => reply::see(&place.path()).map_err(|_| Problem::bug()),
        Err(Unapproved::Store(error)) => Err(error.into()),
        Err(why) => {
            let why = why.to_string();
            Err(Problem::new(StatusCode::CONFLICT, "Nothing was approved", format!("{why}.")))
        }
    }
}
