//! Pull requests of forks. What a fork proposes is anybody's, so it is built once somebody has approved its head, by machines that aren't
//! trusted, with nothing lent and nothing published. Until then only the rules of the base are fetched, and the delivery is held: it waits
//! in nobody's way, and is looked at again when it is approved, has moved on or was closed (`farm_store::hooks::forks`).
//!
//! Who approves: a member of the project (`farm approve`, a build's page), or a comment of somebody who may write, as the forge says.

use std::sync::Arc;

use farm_hooks::{Comment, Delivery, Happened, PullRequestState};
use farm_rules::{EventKind, Plan};
use farm_store::StoreError;
use farm_store::builds::record::BuildRecord;
use farm_store::hooks::approvals::{Approval, Approved, Head};
use farm_store::hooks::bounds::Begun as BegunForForks;
use farm_store::hooks::builds::Part;
use farm_store::hooks::deliveries::Waiting;
use farm_store::hooks::forks::{MOST, Proposal, Stands};
use farm_store::hooks::registered::by_hook;
use farm_store::machines::leader::Epoch;
use farm_store::people::audit::By;

use super::asking::{Answer, Asking, Question};
use super::step::{Begun, Delivered, Held, Step, Stop};
use super::told::Told;
use super::under_way::UnderWay;
use crate::forge::ask::Account;
use crate::forge::{Named, Unsaid};
use crate::hooks::token::{Unusable, repository};
use crate::seal::Unopened;
use crate::shared::Shared;

/// So many builds of forks a project has at once, and so many fetches and builds are begun for them within a minute: what is left of the
/// project's own bounds isn't theirs.
const MOST_RUNNING: u64 = 4;
const MOST_LATELY: u64 = 10;
/// The longest name of an account that is told on.
const LONGEST_LOGIN: usize = 64;

/// The pull request that an event is about, if it is about one.
pub(super) fn proposal(delivery: &Delivery, happened: &Happened) -> Option<Proposal> {
    let EventKind::PullRequest { number, base, head, fork } = &happened.event.kind else { return None };
    let proposed = &happened.proposed;
    let opener = proposed.opener.as_ref().or(delivery.actor.as_ref());
    let (head_repository, head_name) =
        proposed.from.as_ref().map(|from| (from.id.clone(), from.full_name.clone())).unwrap_or_default();
    Some(Proposal {
        number: *number,
        commit: happened.event.commit.clone(),
        base: base.clone(),
        head: head.clone(),
        head_repository,
        head_name,
        is_fork: *fork,
        is_open: happened.pull_request.is_none_or(|state| state == PullRequestState::Open),
        opener: opener.map(|opener| (opener.id.clone(), opener.login.clone())).unwrap_or_default(),
        at: proposed.at,
    })
}

/// Notes that a delivery is about a fork, and looks whether something may follow from it at all.
pub(super) async fn enter(
    shared: &Shared,
    epoch: Epoch,
    under_way: &UnderWay<'_>,
    fork: &Proposal,
) -> Step<()> {
    let of = under_way.of;
    match shared.loops.note_fork(epoch, of, fork, MOST).await {
        Ok(None) => {}
        Ok(Some(why)) => return Err(Begun::Ignored(why).into()),
        Err(error) => return Err(error.into()),
    }
    let is_read = under_way.known(Part::Rules, "").await?.is_some();
    match shared.loops.stands(epoch, of, fork).await? {
        Stands::Over(why) => Err(Begun::Ignored(why).into()),
        Stands::Approved { is_stale: true, is_begun: false, .. } => {
            Err(Begun::Anew("its rules are fetched anew, as it has waited long for its approval".to_owned())
                .into())
        }
        // What can't go on leaves the line of its ref to others.
        Stands::Approved { is_begun: false, .. } => room(shared, epoch, of, is_read).await,
        Stands::Open if !is_read => room(shared, epoch, of, false).await,
        Stands::Approved { .. } | Stands::Open => Ok(()),
    }
}

/// Who has approved a fork's images; else the delivery is held until somebody does. `fetch` is what people know it by.
pub(super) async fn approval(
    shared: &Shared,
    epoch: Epoch,
    (of, fork): (&Waiting, &Proposal),
    (plan, fetch): (&Plan, &BuildRecord),
    told: &mut Told,
) -> Step<String> {
    match shared.loops.stands(epoch, of, fork).await? {
        Stands::Approved { by, .. } => Ok(by),
        Stands::Over(why) => Err(Begun::Ignored(why).into()),
        Stands::Open => {
            let what = format!("waits for approval: farm approve {}", fetch.short_id);
            let images: Vec<String> = plan.builds().map(|(image, _)| image.name.clone()).collect();
            for image in &images {
                told.held(image, &what, &fetch.short_id);
            }
            Err(Begun::Held(Box::new(Held { proposal: fork.clone(), images, what })).into())
        }
    }
}

/// Whether one more may be begun for a fork: a build, or a fetch. If not it is in the way of no other one about its ref.
pub(super) async fn room(shared: &Shared, epoch: Epoch, of: &Waiting, builds: bool) -> Step<()> {
    match full(shared.loops.begun_for_forks(of.project).await?, builds) {
        Some(why) => {
            shared.loops.step_aside(epoch, of).await?;
            Err(Begun::Goes(why).into())
        }
        None => Ok(()),
    }
}

/// Half of a limit of the project's, and one in any case.
fn half(of: Option<u32>) -> u64 {
    of.map_or(u64::MAX, |most| (u64::from(most) / 2).max(1))
}

fn full(begun: BegunForForks, builds: bool) -> Option<String> {
    let lately = half(begun.most_lately).min(MOST_LATELY);
    // Of a limit of one the half is one in two minutes.
    let is_one = begun.most_lately == Some(1);
    if begun.lately >= lately || is_one && begun.before >= lately {
        let minutes = if is_one { "two minutes" } else { "a minute" };
        return Some(format!(
            "waits: for forks' pull requests at most {lately} fetches and builds are begun in {minutes}"
        ));
    }
    let running = half(begun.most_queued).min(MOST_RUNNING);
    if builds && begun.running >= running {
        return Some(format!("waits: of forks' pull requests at most {running} builds run or wait at once"));
    }
    let slots = half(begun.most_slots);
    (builds && begun.slots >= slots)
        .then(|| format!("waits: forks' pull requests have at most {slots} of the project's slots at once"))
}

/// Approves a head by a comment, if its author may write to the repository, as the forge says.
pub(super) async fn commented(
    shared: &Shared,
    asking: &Arc<Asking>,
    delivered: Delivered<'_>,
    comment: &Comment,
) -> Step<Begun> {
    let of = delivered.of;
    let Comment::Approve { pull_request, commit, base, at } = comment;
    let head = Head::Commented {
        begins: commit.as_deref(),
        base: base.as_deref(),
        sequence: of.sequence,
        at: *at,
        received_at: of.received_at,
    };
    let approval = Approval { project: of.project, hook: of.hook, number: *pull_request, head };
    // Of what is approved already nobody has to be asked.
    if let Some(approved) = shared.loops.may_be_approved(&approval).await.map_err(refused)? {
        return Ok(done(*pull_request, &approved));
    }
    let Some(actor) = &delivered.delivery.actor else {
        return Ok(Begun::Ignored("the sender doesn't say who has written the comment".to_owned()));
    };
    let account = Account { id: actor.id.clone(), login: actor.login.clone() };
    let who: String = actor.login.chars().filter(|c| !c.is_control()).take(LONGEST_LOGIN).collect();
    match may_write(shared, asking, of, account).await? {
        Answer::Asked => {
            return Ok(Begun::Goes(format!("asks the forge whether {who} may write to {}", of.full_name)));
        }
        Answer::Full => {
            return Ok(Begun::Later(
                "many others have commented, of whom the forge is asked first".to_owned(),
            ));
        }
        Answer::Said(Ok(true)) => {}
        Answer::Said(Ok(false)) => {
            let why = format!(
                "{who} may not write to {}, as its forge says, so the comment approves nothing",
                of.full_name
            );
            return Ok(Begun::Ignored(why));
        }
        Answer::Said(Err(Unsaid::Away(why))) => {
            return Ok(Begun::Later(format!("who may write nobody says: {why}")));
        }
        Answer::Said(Err(unfit @ Unsaid::Unfit(_))) => {
            return Ok(Begun::Failed(format!(
                "by the token of hook {} nobody says who may write: {unfit}",
                of.hook_name
            )));
        }
    }
    let hook = by_hook(&of.project_name, &of.hook_name);
    let by = By { name: format!("{} for {who} (account {})", hook.name, actor.id), ..hook };
    let approved = shared.loops.approve(&by, &approval).await.map_err(refused)?;
    shared.hints.delivered.notify_one();
    tracing::info!(
        hook = hook.name,
        pull_request,
        commit = approved.commit.short(),
        who,
        "a fork's head was approved"
    );
    Ok(done(*pull_request, &approved))
}

/// What it means for a comment that its head isn't approved. Once no older coordinator runs any more, it is.
fn refused(error: StoreError) -> Stop {
    match error {
        StoreError::Conflict(why) => Stop::So(Begun::Ignored(why)),
        StoreError::Older(why) => Stop::So(Begun::Later(why)),
        error => Stop::Store(error),
    }
}

fn done(pull_request: u64, approved: &Approved) -> Begun {
    let again = if approved.is_again { format!(" already, by {}", approved.by) } else { String::new() };
    let reason = format!("{} of pull request {pull_request} is approved{again}", approved.commit.short());
    Begun::Done { builds: Vec::new(), reason }
}

/// Whether an account may write, as far as the forge has said that.
async fn may_write(shared: &Shared, asking: &Arc<Asking>, of: &Waiting, account: Account) -> Step<Answer> {
    let provider = of.provider.parse().map_err(|error| Stop::Store(StoreError::corrupt(error)))?;
    let named = Named {
        provider,
        host: &of.host,
        api: of.api_url.as_deref(),
        full_name: &of.full_name,
        id: of.repository_id.as_deref(),
    };
    let Some(token) = shared.loops.hook_token(of.project, of.hook).await? else {
        let why = format!(
            "hook {0} has no token by which its forge could be asked who may write: give it one (farm hook token {0}), or approve the \
             build yourself (farm approve)",
            of.hook_name
        );
        return Err(Begun::Ignored(why).into());
    };
    let at = repository(shared, (of.project, of.hook), named, &token).map_err(|why| match why {
        Unusable::Sealed(Unopened::KeyIsLost(_)) => Begun::Later(why.to_string()),
        why => Begun::Failed(why.to_string()),
    })?;
    let question = Question { hook: of.hook, account: account.id.clone() };
    Ok(asking.may_write(shared, (question, of.sequence), at, account))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_beside_an_older_coordinator_approves_later_and_what_is_refused_approves_nothing() {
        let older = refused(StoreError::Older("http://old".to_owned()));
        assert!(matches!(older, Stop::So(Begun::Later(why)) if why == "http://old"));
        let moved = refused(StoreError::Conflict("it has moved on".to_owned()));
        assert!(matches!(moved, Stop::So(Begun::Ignored(why)) if why == "it has moved on"));
        assert!(matches!(refused(StoreError::NotLeading), Stop::Store(StoreError::NotLeading)));
    }

    #[test]
    fn what_forks_begin_leaves_room_for_the_projects_own() {
        let begun = |lately, running, most_lately| BegunForForks {
            lately,
            before: lately,
            running,
            most_lately,
            ..BegunForForks::default()
        };
        assert_eq!(full(begun(9, 3, None), true), None);
        assert!(full(begun(10, 0, None), false).is_some());
        assert!(full(begun(0, 4, None), true).is_some() && full(begun(0, 4, None), false).is_none());
        // Half of what the project may begin, and one in any case.
        assert!(full(begun(3, 0, Some(6)), false).is_some() && full(begun(2, 0, Some(6)), false).is_none());
        assert!(full(begun(0, 0, Some(1)), false).is_none() && full(begun(1, 0, Some(1)), false).is_some());
        assert!(full(begun(10, 0, Some(1000)), false).is_some());
        // Of one a minute the project has every second one.
        let one = |before| BegunForForks { before, ..begun(0, 0, Some(1)) };
        assert!(full(one(1), false).is_some() && full(one(0), false).is_none());
        // Half of what may wait and run, in which fetches have no part.
        let queued = |running| BegunForForks { most_queued: Some(4), ..begun(0, running, None) };
        assert!(full(queued(2), true).is_some() && full(queued(2), false).is_none());
        assert!(full(queued(1), true).is_none());
        let slots = |slots| BegunForForks { slots, most_slots: Some(6), ..begun(0, 1, None) };
        assert!(full(slots(3), true).is_some() && full(slots(3), false).is_none());
        assert!(full(slots(2), true).is_none());
    }
}
