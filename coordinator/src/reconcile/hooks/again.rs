//! Begins anew what somebody at GitHub wants begun anew: a check run of the hook's App, or all of its at a commit. It is done as
//! `farm hook redeliver` does it, with all that the delivery is about. Who may ask for that GitHub sees to.

use farm_hooks::Again;
use farm_store::hooks::again::Anew;
use farm_store::hooks::registered::by_hook;
use farm_store::people::audit::By;

use super::checks::begins;
use super::step::{Begun, Delivered, Step};
use crate::shared::Shared;

/// The longest name of an account that is told on, characters.
const LONGEST_LOGIN: usize = 64;

/// Has the deliveries processed once more of which a check says how they stand.
pub(super) async fn again(shared: &Shared, delivered: Delivered<'_>, again: &Again) -> Step<Begun> {
    let of = delivered.of;
    let ignored = |why: String| Ok(Begun::Ignored(why));
    let token = shared.loops.hook_token(of.project, of.hook).await?;
    let app = token.and_then(|token| token.app);
    if app.is_none_or(|app| app.id.to_string() != again.app) {
        return ignored(format!("the check is one of App {}, which hook {} isn't", again.app, of.hook_name));
    }
    let context = match &again.check {
        Some(check) if !check.external_id.starts_with(&begins(of.hook)) => {
            return ignored(format!("the check run isn't one of hook {}", of.hook_name));
        }
        check => check.as_ref().map(|check| check.name.as_str()),
    };
    let (who, account) = match &delivered.delivery.actor {
        Some(actor) => {
            let login = actor.login.chars().filter(|c| !c.is_control()).take(LONGEST_LOGIN).collect();
            (login, actor.id.as_str())
        }
        None => ("somebody".to_owned(), "unknown"),
    };
    let hook = by_hook(&of.project_name, &of.hook_name);
    let by = By { name: format!("{} for {who} (account {account})", hook.name), ..hook };
    match shared.loops.begin_anew(&by, of, &again.commit, context).await? {
        Anew::Begun(deliveries) => {
            shared.hints.delivered.notify_one();
            shared.hints.told.notify_one();
            let reason =
                format!("{who} wants it begun anew: {} is processed once more", deliveries.join(", "));
            Ok(Begun::Done { builds: Vec::new(), reason })
        }
        Anew::Goes => ignored("what it is about is processed already".to_owned()),
        Anew::Unknown => ignored(format!(
            "the farm knows nothing of it at {} any more, or never has",
            again.commit.short()
        )),
    }
}
