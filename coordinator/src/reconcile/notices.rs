//! Tells those who want to know how builds end: makes messages of what has ended, and sends what is due. Of each notice one message at a
//! time, and of a few notices of one host at once: what hangs at one holds up no other.
//!
//! No build waits for it, or fails by it. What isn't taken is sent again for a day, and then not at all; `farm notice show` says so. While
//! something is put off, what comes after it waits: in another order "works again" would be followed by the failure before.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use farm_store::StoreError;
use farm_store::machines::leader::Epoch;
use farm_store::notices::ended::{Ended, Told, What as Ending};
use farm_store::notices::outbox::{Again, Claimed, Message};
use farm_types::{NoticeId, NoticeKind, Waits};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::notices::address::Address;
use crate::notices::facts::{of_build, of_delivery};
use crate::notices::said::{Said, What};
use crate::notices::send::{Where, too_many};
use crate::notices::sent::{Answer, Sent};
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
/// So often something is tried again of which nobody knows whether it was taken, or which is refused as it is; and after so long.
const DOUBTS: (i32, Duration) = (2, Duration::from_secs(300));
/// At a shutdown what is under way has so long to hear an answer, so that it isn't sent twice.
const LAST: Duration = Duration::from_secs(5);

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
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut lead: watch::Receiver<Option<Lead>>,
    shutdown: CancellationToken,
) {
    let mut under_way: JoinSet<NoticeId> = JoinSet::new();
    let mut busy: Busy<Message> = Busy::default();
    let mut is_open = false;
    // What ends meanwhile doesn't put it off.
    let mut looked = Instant::now();
    loop {
        let next = async {
            tokio::time::sleep_until(looked + if is_open { TICK.0 } else { TICK.1 }).await;
            leading(&mut lead).await
        };
        let epoch = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(done) = under_way.join_next(), if !under_way.is_empty() => {
                match done {
                    Ok(notice) => busy.end(notice),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                }
                continue;
            }
            lead = next => match lead {
                Some(lead) => lead.epoch,
                None => break,
            },
        };
        looked = Instant::now();
        let begun = async {
            is_open = shared.loops.has_open_notices().await?;
            if !is_open {
                return Ok(Vec::new());
            }
            look(&shared, epoch).await?;
            shared.loops.messages_to_send(BATCH, &busy.senders(), &busy.full()).await
        };
        let begun: Result<Vec<Message>, StoreError> = tokio::select! {
            () = shutdown.cancelled() => break,
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
            let (shared, shutdown) = (Arc::clone(&shared), shutdown.clone());
            let send = async move {
                send_all(&shared, epoch, due, &shutdown).await;
                notice
            };
            under_way.spawn(send.in_current_span());
        }
    }
    let last = async { while under_way.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST, last).await.is_err() {
        tracing::info!(
            "what is under way to those who are told has no answer yet; it is sent again, under its id"
        );
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
        let mut done = shared.loops.tell(epoch, &one, told.as_ref()).await;
        if let Err(error @ StoreError::Corrupt(_)) = &done {
            tracing::error!(project = one.project_name, what = ?one.what, %error, "an end can't be told, and nobody is told of it");
            done = shared.loops.tell(epoch, &one, None).await;
        }
        match done {
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
                    // Deliveries go earlier than builds: then nobody knows any more who has pushed.
                    let came = store.delivery_that_came(of.project, begun.hook, &begun.delivery).await?;
                    Some((begun, came))
                }
                None => None,
            };
            let hidden = Hidden::from_others(&record);
            let hide = move |text: &mut String| hidden.text(text);
            read(move || of_build(&record, begun.as_ref().map(|(begun, came)| (begun, came.as_ref())), &hide))
                .await
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
async fn send_all(shared: &Shared, epoch: Epoch, due: Vec<Message>, shutdown: &CancellationToken) {
    for one in due {
        if shutdown.is_cancelled() {
            return;
        }
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
    let Some(claimed) = shared.loops.claim_message(epoch, one).await? else { return Ok(false) };
    let Claimed { event, facts, attempts, doubts, age } = claimed;
    let sent = match (What::read(&event, facts), address(shared, one)) {
        (None, _) => Sent::Never("it isn't understood by this version of the farm".to_owned()),
        // The key may come back, and another coordinator may have it.
        (_, Err(why @ Unopened::KeyIsLost(_))) => {
            Sent::Later(format!("where it goes can't be opened: {why}"), None)
        }
        (_, Err(why)) => Sent::Never(format!("where it goes can't be opened: {why}; make the notice anew")),
        (Some(what), Ok(address)) => {
            let page = what.build().and_then(|build| shared.config.build_url(&one.project_name, build));
            let said = Said { what, project: &one.project_name, page, at: Utc::now() };
            let full = if address.is_none() { shared.loops.count_mail(one.project).await? } else { None };
            let to = match &address {
                Some(address) => Where::Url(one.kind, address, one.has_before),
                None => Where::Mail(&one.addresses),
            };
            match full {
                Some(wait) => Sent::Later(too_many(&one.project_name), Some(wait)),
                None => {
                    let sent = shared.notices.send(to, &said, one.id, Utc::now().timestamp());
                    let Answer { sent, .. } = Box::pin(sent).await;
                    sent
                }
            }
        }
    };
    let notice = format!("{}/{}", one.project_name, one.notice_name);
    match sent {
        Sent::Taken => {
            shared.loops.message_sent(one).await?;
            tracing::info!(notice, event, "told");
        }
        Sent::Later(why, asked) if age <= MOST_AGE => {
            tracing::debug!(notice, why, "not taken yet");
            let again = Again { wait: asked.unwrap_or_else(|| pause(attempts)), is_doubtful: false };
            shared.loops.put_off_message(epoch, one, &why, again).await?;
            return Ok(false);
        }
        Sent::Doubtful(why) if doubts < DOUBTS.0 && age <= MOST_AGE => {
            tracing::debug!(notice, why, "perhaps not taken");
            let again = Again { wait: DOUBTS.1, is_doubtful: true };
            shared.loops.put_off_message(epoch, one, &why, again).await?;
            return Ok(false);
        }
        Sent::Later(why, _) | Sent::Doubtful(why) | Sent::Never(why) => {
            tracing::warn!(notice, event, why, "nobody is told");
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
