//! Takes a delivery: whose it is, what it says, and a row. Whoever has sent it has an answer within 5 s.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use farm_hooks::{
    About, Delivery, Expected, Headers, Outcome, Provider, Refused, about, delivery_id, parse, verify,
};
use farm_store::StoreError;
use farm_store::hooks::deliveries::{DeliveryState, Kept, NewDelivery, Says};
use farm_store::hooks::registered::{CalledHook, by_hook};
use farm_store::hooks::secrets::SealedSecret;
use farm_types::{HookId, Invalid, ProjectId};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::seal::{Owner, Unopened};
use crate::shared::Shared;

/// The database has so long. Gitea waits for 5 s in all.
const DATABASE: Duration = Duration::from_secs(4);
/// So many deliveries of one hook wait at most; whoever sends more comes back later.
const MOST_WAITING: i64 = 10_000;
/// And after so long.
const LATER: Duration = Duration::from_secs(30);

/// What was sent. Not to be printed: it may hold the secret.
pub struct Sent {
    /// The last part of the path.
    pub address: String,
    /// Those headers that count.
    pub headers: Headers,
    /// Of the address.
    pub token: Option<String>,
    pub body: Bytes,
    /// From where, if that is known.
    pub from: Option<IpAddr>,
}

/// What the sender is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is kept, and how it stands.
    Kept { delivery: String, state: DeliveryState, reason: String, builds: Vec<String> },
    /// One of the same id was kept, with another body.
    Other { delivery: String },
    /// It is no hook's. Nothing else is said.
    Refused,
    /// There were too many within a minute.
    TooMany(Duration),
    /// It can't be kept now.
    Away(Duration),
}

/// What a delivery says, if it is its hook's: the place of the secret, and the reading.
type Judged = Result<(usize, Result<Delivery, Invalid>), Refused>;

/// Takes a delivery.
pub(crate) async fn take(shared: &Shared, sent: Sent) -> Answer {
    match tokio::time::timeout(DATABASE, taken(shared, sent)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(StoreError::NotFound(_))) => Answer::Refused,
        Ok(Err(error)) => {
            tracing::warn!(%error, "a delivery could not be kept; its sender was told to come back");
            Answer::Away(Duration::from_secs(5))
        }
        Err(_) => {
            tracing::warn!("a delivery could not be kept within 4 s; its sender was told to come back");
            Answer::Away(Duration::from_secs(5))
        }
    }
}

async fn taken(shared: &Shared, sent: Sent) -> Result<Answer, StoreError> {
    // What can be no address is looked up as well, to the same end.
    let address: String = sent.address.chars().take(64).collect();
    let hook = shared.store.hook_called(&address, MOST_WAITING).await?;
    let provider = match &hook {
        Some(hook) => hook.provider.parse().map_err(StoreError::corrupt)?,
        None => {
            // As of one that there is.
            let nobody = &shared.nobody;
            shared.store.secrets_of_hook(nobody.project, nobody.hook).await?;
            Provider::Github
        }
    };
    let secrets = secrets(shared, hook.as_ref());
    let now = hook.as_ref().map_or(0, |hook| hook.now.timestamp());
    let Sent { headers, token, body, from, .. } = sent;
    let (headers, body, judged) = judged(provider, headers, token, body, secrets, now).await?;
    let Some(hook) = hook else { return Ok(Answer::Refused) };
    let known_as = format!("{}/{}", hook.project_name, hook.name);
    let (place, read) = match judged {
        Ok(found) => found,
        Err(why) => {
            tracing::info!(hook = known_as, %why, from = from.map(tracing::field::display), "a delivery was refused");
            return Ok(Answer::Refused);
        }
    };
    let Some((secret, _)) = hook.secrets.get(place) else { return Ok(Answer::Refused) };
    if let Err(wait) = shared.doors.delivered(hook.id, &known_as) {
        return Ok(Answer::TooMany(wait));
    }
    if hook.waiting >= MOST_WAITING {
        tracing::warn!(
            hook = known_as,
            "{MOST_WAITING} deliveries wait; no more are taken until some are processed"
        );
        return Ok(Answer::Away(LATER));
    }
    let (state, reason, event, is_of) = match read {
        Ok(mut delivery) => {
            let (state, reason, is_of) = stands(shared, &hook, provider, &mut delivery).await?;
            (state, reason, delivery.event, is_of)
        }
        Err(why) => (DeliveryState::Failed, why.to_string(), "unreadable".to_owned(), Of::Unknown),
    };
    let id = delivery_id(provider, &headers, &body);
    let kept = headers.kept();
    let new = NewDelivery {
        project: hook.project,
        hook: hook.id,
        id: &id,
        event: &event,
        headers: &kept,
        body: &body,
        secret: *secret,
        state,
        reason: &reason,
        says: match is_of {
            Of::Unknown => Says::Nothing,
            Of::Same => Says::Same,
            Of::Strayed => Says::Strayed(&reason),
        },
    };
    let (delivery, builds) = (id.clone(), Vec::new());
    let answer = match shared.store.keep_delivery(&new).await? {
        Kept::New => Answer::Kept { delivery, state, reason: reason.clone(), builds },
        Kept::Again => {
            Answer::Kept { delivery, state: DeliveryState::Received, reason: String::new(), builds }
        }
        Kept::Over { state, reason, builds } => Answer::Kept { delivery, state, reason, builds },
        Kept::Other => Answer::Other { delivery },
        Kept::Gone => Answer::Refused,
    };
    tracing::info!(
        hook = known_as,
        event,
        delivery = id,
        state = %state,
        reason,
        from = from.map(tracing::field::display),
        "delivered"
    );
    if matches!(answer, Answer::Kept { state: DeliveryState::Received, .. }) {
        shared.hints.delivered.notify_one();
    }
    Ok(answer)
}

/// How a delivery stands when it comes, and why: whether something may follow from it is known at once.
async fn stands(
    shared: &Shared,
    hook: &CalledHook,
    provider: Provider,
    delivery: &mut Delivery,
) -> Result<(DeliveryState, String, Of), StoreError> {
    let expected = |id| Expected { provider, id, full_name: &hook.full_name, host: &hook.host };
    let mut found = about(expected(hook.repository_id.as_deref()), delivery);
    if let About::First(id) = &found {
        let by = by_hook(&hook.project_name, &hook.name);
        let known = shared.store.pin_repository(&by, hook.project, hook.id, id).await?;
        // Somebody else may have been the first.
        found = about(expected(Some(&known)), delivery);
    }
    let is_of = match &found {
        About::Own | About::First(_) if delivery.repository.is_some() => Of::Same,
        About::Strayed(_) => Of::Strayed,
        About::Own | About::First(_) | About::Other(_) => Of::Unknown,
    };
    let ignored = |why: &str| (DeliveryState::Ignored, why.to_owned(), is_of);
    Ok(match (&delivery.outcome, found) {
        (_, About::Other(why) | About::Strayed(why)) => ignored(&why),
        (Outcome::Ping, _) => ignored("a ping: the hook is heard"),
        (Outcome::Ignored(why), _) => ignored(why),
        (_, About::Own | About::First(_)) => (DeliveryState::Received, String::new(), is_of),
    })
}

/// Of which repository a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Another one, or it isn't said.
    Unknown,
    /// The hook's, as it is called.
    Same,
    /// The name isn't that of the hook's repository any more.
    Strayed,
}

/// The secrets that count, opened; nobody's where there is no hook.
fn secrets(shared: &Shared, hook: Option<&CalledHook>) -> Vec<Zeroizing<String>> {
    let Some(hook) = hook else {
        let nobody = &shared.nobody;
        // It opens, and counts for nothing.
        let _ = opened(shared, nobody.project, nobody.hook, &nobody.secret);
        return Vec::new();
    };
    let open = |(id, sealed): &(Uuid, SealedSecret)| match opened(shared, hook.project, hook.id, sealed) {
        Ok(secret) => secret,
        Err(why) => {
            tracing::error!(hook = hook.name, secret = %id, %why, "a hook's secret can't be opened: what is signed by it is refused");
            // Nobody has this one; the others keep their places.
            Zeroizing::new(Uuid::new_v4().to_string())
        }
    };
    hook.secrets.iter().map(open).collect()
}

/// A secret of a hook.
///
/// # Errors
/// It can't be opened.
pub fn opened(
    shared: &Shared,
    project: ProjectId,
    hook: HookId,
    sealed: &SealedSecret,
) -> Result<Zeroizing<String>, Unopened> {
    let key = shared.keyring.open(Owner::Hook(project, hook, sealed.id), &sealed.key)?;
    let secret = key.open_one(&sealed.bytes)?;
    std::str::from_utf8(&secret).map(|text| Zeroizing::new(text.to_owned())).map_err(|_| Unopened::Forged)
}

/// Asks whose it is, and reads it, beside other work: a body may be long.
async fn judged(
    provider: Provider,
    headers: Headers,
    token: Option<String>,
    body: Bytes,
    secrets: Vec<Zeroizing<String>>,
    now: i64,
) -> Result<(Headers, Bytes, Judged), StoreError> {
    let work = move || {
        let secrets: Vec<&str> = secrets.iter().map(|secret| secret.as_str()).collect();
        let place = verify(provider, &headers, token.as_deref(), &body, &secrets, now);
        let judged = place.map(|place| (place, parse(provider, &headers, &body)));
        (headers, body, judged)
    };
    tokio::task::spawn_blocking(work).await.map_err(StoreError::corrupt)
}
