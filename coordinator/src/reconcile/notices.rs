//! Tells those who want to know how builds end: makes messages of what has ended, and sends what is due. Of each notice one message at a
//! time, and of a few notices of one host at once: what hangs at one holds up no other.
//!
//! No build waits for it, or fails by it. What isn't taken is sent again for a day, and then not at all; `farm notice show` says so.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use farm_store::StoreError;
use farm_store::machines::leader::Epoch;
use farm_store::notices::ended::{Ended, Told, What as Ending};
use farm_store::notices::outbox::Message;
use farm_types::{NoticeId, NoticeKind, Waits};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::notices::address::Address;
use crate::notices::facts::{of_build, of_delivery};
use crate::notices::said::{Said, What};
use crate::notices::send::Where;
use crate::notices::sent::Sent;
use crate::reconcile::busy::{Busy, Due};
use crate::reconcile::{Lead, leading};
use crate::seal::Unopened;
use crate::shared::Shared;
use crate::shown::hidden::Hidden;

/// What has ended is found after so long, while something is open, and while nothing is.
const TICK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));
/// So many are read at once.
const BATCH: i64 = 100;
/// What nobody has taken for so long isn't sent any more.
const MOST_AGE: Duration = Duration::from_secs(24 * 3600);
/// The waits between tries.
const WAITS: Waits = Waits::new(Duration::from_secs(2), Duration::from_secs(1800));

impl Due for Message {
    type Sender = NoticeId;

    fn sender(&self) -> NoticeId {
        self.notice
    }

    fn place(&self) -> &str {
        &self.host
    }
}

/// Tells while leading, until `shutdown`.
pub async fn run(shared: Arc<Shared>, mut lead: watch::Receiver<Option<Lead>>, shutdown: CancellationToken) {
    let mut under_way: JoinSet<NoticeId> = JoinSet::new();
    let mut busy: Busy<Message> = Busy::default();
    let mut is_open = false;
    loop {
        let next = async {
            tokio::time::sleep(if is_open { TICK.0 } else { TICK.1 }).await;
            leading(&mut lead).await
        };
        let epoch = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            Some(done) = under_way.join_next(), if !under_way.is_empty() => {
                match done {
                    Ok(notice) => busy.end(notice),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                }
                continue;
            }
            lead = next => match lead {
                Some(lead) => lead.epoch,
                None => return,
            },
        };
        let begun = async {
            is_open = shared.loops.has_open_notices().await?;
            if !is_open {
                return Ok(Vec::new());
            }
            look(&shared, epoch).await?;
            shared.loops.messages_to_send(BATCH, &busy.senders(), &busy.full()).await
        };
        let begun: Result<Vec<Message>, StoreError> = tokio::select! {
            () = shutdown.cancelled() => return,
            begun = begun => begun,
        };
        let due = match begun {
            Ok(due) => due,
            Err(error) => {
                tracing::warn!(%error, "who is to be told of what could not be looked at; trying again");
                continue;
            }
        };
        for (notice, due) in busy.begin(due) {
            let shared = Arc::clone(&shared);
            let send = async move {
                send_all(&shared, epoch, due).await;
                notice
            };
            under_way.spawn(send.in_current_span());
        }
    }
}

/// Makes messages of what has ended.
async fn look(shared: &Shared, epoch: Epoch) -> Result<(), StoreError> {
    for one in shared.loops.ended(BATCH).await? {
        let told = match told(shared, &one).await {
            Ok(told) => told,
            Err(error @ (StoreError::NotLeading | StoreError::Unavailable(_))) => return Err(error),
            Err(error) => {
                tracing::error!(project = one.project_name, what = ?one.what, %error, "an end can't be read, and nobody is told of it");
                None
            }
        };
        match shared.loops.tell(epoch, &one, told.as_ref()).await {
            Ok(_) => {}
            Err(StoreError::Stale(why)) => tracing::debug!(why, "told already"),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What is told of an end; `None`: nothing.
async fn told(shared: &Shared, of: &Ended) -> Result<Option<Told>, StoreError> {
    let store = &shared.loops;
    match &of.what {
        Ending::Build(build) => {
            let record = match store.build_by_id(of.project, *build).await {
                Ok(record) => record,
                // It was removed meanwhile.
                Err(StoreError::NotFound(_)) => return Ok(None),
                Err(error) => return Err(error),
            };
            let begun = match store.begun_by(of.project, *build).await? {
                Some(begun) => {
                    let came = store.delivery_that_came(of.project, begun.hook, &begun.delivery).await?;
                    came.map(|came| (begun, came))
                }
                None => None,
            };
            let hidden = Hidden::from_others(&record);
            let hide = move |text: &mut String| hidden.text(text);
            read(move || of_build(&record, begun.as_ref().map(|(begun, came)| (begun, came)), &hide)).await
        }
        Ending::Delivery { hook, id, reason } => {
            let Some(came) = store.delivery_that_came(of.project, *hook, id).await? else { return Ok(None) };
            let (id, reason, ended_at) = (id.clone(), reason.clone(), of.ended_at);
            read(move || Some(of_delivery(&came, &id, &reason, ended_at))).await
        }
    }
}

/// Beside other work: what was delivered may be long.
async fn read(read: impl FnOnce() -> Option<Told> + Send + 'static) -> Result<Option<Told>, StoreError> {
    tokio::task::spawn_blocking(read).await.map_err(StoreError::corrupt)
}

/// Sends what is due by one notice, until nothing is taken there.
async fn send_all(shared: &Shared, epoch: Epoch, due: Vec<Message>) {
    for one in due {
        match send(shared, epoch, &one).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(StoreError::Stale(why)) => tracing::debug!(notice = one.notice_name, why, "not noted"),
            Err(error) => {
                tracing::warn!(%error, "what was told could not be noted; it is told again");
                return;
            }
        }
    }
}

/// Sends one. False: there nothing is taken now.
async fn send(shared: &Shared, epoch: Epoch, one: &Message) -> Result<bool, StoreError> {
    if !shared.loops.claim_message(epoch, one).await? {
        return Ok(true);
    }
    let sent = match (What::read(&one.event, one.facts.clone()), address(shared, one)) {
        (None, _) => Sent::Never("it isn't understood by this version of the farm".to_owned()),
        // The key may come back, and another coordinator may have it.
        (_, Err(why @ Unopened::KeyIsLost(_))) => {
            Sent::Later(format!("where it goes can't be opened: {why}"), None)
        }
        (_, Err(why)) => Sent::Never(format!("where it goes can't be opened: {why}; make the notice anew")),
        (Some(what), Ok(address)) => {
            let page = what.build().and_then(|build| shared.config.build_url(&one.project_name, build));
            let said = Said { what, project: &one.project_name, page, at: Utc::now() };
            let to = match &address {
                Some(address) => Where::Url(one.kind, address, one.has_before),
                None => Where::Mail(&one.addresses),
            };
            Box::pin(shared.notices.send(to, &said, one.id, Utc::now().timestamp())).await
        }
    };
    let notice = format!("{}/{}", one.project_name, one.notice_name);
    match sent {
        Sent::Taken(_) => {
            shared.loops.message_sent(epoch, one).await?;
            tracing::info!(notice, event = one.event, "told");
        }
        Sent::Later(why, asked) if one.age <= MOST_AGE => {
            tracing::debug!(notice, why, "not taken yet");
            let wait = asked.unwrap_or_else(|| pause(one.attempts));
            shared.loops.put_off_message(epoch, one, &why, wait, asked.is_some()).await?;
            return Ok(false);
        }
        Sent::Later(why, _) | Sent::Never(why) => {
            tracing::warn!(notice, event = one.event, why, "nobody is told");
            shared.loops.give_up_message(epoch, one, &why).await?;
        }
    }
    Ok(true)
}

/// Where a message goes; `None`: to addresses of mail.
fn address(shared: &Shared, one: &Message) -> Result<Option<Address>, Unopened> {
    match (&one.sealed, one.kind) {
        (Some(sealed), NoticeKind::Webhook | NoticeKind::Slack) => {
            Address::opened(&shared.keyring, (one.project, one.notice, one.version), sealed).map(Some)
        }
        _ => Ok(None),
    }
}

/// How long after so many tries in vain.
fn pause(attempts: i32) -> Duration {
    WAITS.jittered(u32::try_from(attempts).unwrap_or(0) + 1, rand::random::<f64>())
}
