//! Whom a token or a certificate shows: asked of the database, and known for a moment.
//!
//! What is known is fresh for [`FRESH`]: within that a revocation may be overlooked. While the database doesn't answer, whoever
//! was known within the grace goes on, and a token that isn't known is told that it can't be looked up: never that it is wrong.
//! A token that nobody knows is asked for each time, and not remembered: there are too many that could be made up.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use farm_store::machines::certificates::{Ended, ShownWorker};
use farm_store::people::principals::Shown;
use farm_store::{Store, StoreError};
use farm_types::{Digest, ProjectId, ProjectName, TokenId};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::principal::{Kind, Principal, SignInRules};
use super::revocations::{BACK, EVERY, Revocations};
use crate::unstored;

/// What was asked so lately isn't asked again.
const FRESH: Duration = Duration::from_secs(1);
/// The database has so long to say whether somebody who is known still is.
const PATIENCE: Duration = Duration::from_secs(1);
/// It is noted so often which tokens were used.
const NOTE: Duration = Duration::from_secs(20);
/// So many tokens that aren't known are looked up at once.
const STRANGERS: usize = 4;
/// So many are remembered.
const MANY: usize = 10_000;

/// A worker may renew its certificate for so long after that one's end.
const RENEWS: Duration = Duration::from_secs(24 * 3600);

/// What a caller shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proof {
    /// A token of this digest.
    Token(Digest),
    /// A certificate of this digest, whose key the caller has.
    Certificate(Digest),
    /// A browser's session, whose secret has this digest: it shows the token by which somebody has signed in.
    Session(Digest),
}

/// What the database says of it.
enum Found {
    Token(Option<Shown>),
    Certificate(Option<ShownWorker>),
    /// A session of the local admin's.
    Admin,
}

/// Tells callers by what they show.
#[derive(Debug)]
pub struct Identities {
    store: Store,
    admin: Digest,
    peers: RwLock<Vec<Digest>>,
    known: Mutex<HashMap<Proof, Known>>,
    projects: Mutex<HashMap<ProjectName, (ProjectId, Instant)>>,
    /// Shown since this was last noted.
    used: Mutex<HashSet<TokenId>>,
    revocations: Revocations,
    is_answered: watch::Receiver<bool>,
    strangers: Semaphore,
    grace: Duration,
    sign_in: SignInRules,
}

#[derive(Debug, Clone)]
struct Known {
    principal: Arc<Principal>,
    asked: Instant,
    /// The token ends by then.
    ends: Option<Instant>,
}

impl Identities {
    /// `admin` is the digest of the local admin's token; `is_answered` tells whether the database was, when it was last asked;
    /// whoever was known within `grace` goes on without it; `sign_in` says which sign-ins count.
    pub fn new(
        store: Store,
        admin: Digest,
        is_answered: watch::Receiver<bool>,
        grace: Duration,
        sign_in: SignInRules,
    ) -> Self {
        Self {
            store,
            admin,
            peers: RwLock::default(),
            known: Mutex::default(),
            projects: Mutex::default(),
            used: Mutex::default(),
            revocations: Revocations::default(),
            is_answered,
            strangers: Semaphore::new(STRANGERS),
            grace,
            sign_in,
        }
    }

    /// Says by what the other coordinators are known from now on.
    pub fn know_peers(&self, digests: Vec<Digest>) {
        *self.peers.write().unwrap_or_else(PoisonError::into_inner) = digests;
    }

    /// Whether it was known lately whom this shows.
    pub fn remembers(&self, proof: Proof) -> bool {
        if let Proof::Token(digest) = proof {
            let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
            if digest == self.admin || peers.contains(&digest) {
                return true;
            }
        }
        self.known().contains_key(&proof)
    }

    /// Whom this shows. A worker's certificate shows it for another 24 h after its end: for renewing it, and nothing else.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`: nobody, or it counts no more; `UNAVAILABLE`: the database doesn't say.
    pub async fn identify(&self, proof: Proof) -> Result<Arc<Principal>, Status> {
        if let Proof::Token(digest) = proof {
            // Digests are compared, so the time tells nothing about the token.
            if digest == self.admin {
                return Ok(Arc::new(Principal::own(Kind::Admin)));
            }
            if self.peers.read().unwrap_or_else(PoisonError::into_inner).contains(&digest) {
                return Ok(Arc::new(Principal::own(Kind::Coordinator)));
            }
        }
        let known = self.known().get(&proof).cloned();
        let (since, fresh) = match (&known, proof) {
            (Some(known), Proof::Certificate(_)) => (self.revocations.confirmed(known.asked), FRESH + EVERY),
            (Some(known), Proof::Token(_) | Proof::Session(_)) => (known.asked, FRESH),
            (None, _) => (Instant::now(), FRESH),
        };
        if let Some(known) = known.as_ref().filter(|_| since.elapsed() < fresh) {
            return known.goes_on();
        }
        let goes_on = known.filter(|_| since.elapsed() < self.grace);
        let asked = Instant::now();
        let shown = match &goes_on {
            // Nobody waits twice for a database that is away.
            Some(known) if !*self.is_answered.borrow() => return known.goes_on(),
            Some(_) => tokio::time::timeout(PATIENCE, self.find(proof)).await.ok(),
            // Whoever has no token can ask as often as they like: few at once, so that they keep the database from nobody.
            None => match tokio::time::timeout(PATIENCE, self.strangers.acquire()).await {
                Ok(_turn) => Some(self.find(proof).await),
                Err(_) => None,
            },
        };
        match (shown, goes_on) {
            (Some(Ok(found)), _) => {
                let is_first =
                    matches!(&found, Found::Token(Some(shown)) if shown.sign_in.is_some() && !shown.is_used);
                let principal = self.learn(proof, found, asked)?;
                if let Some(token) = principal.token.filter(|_| is_first) {
                    self.note_first(token).await;
                }
                Ok(principal)
            }
            (Some(Err(error)), Some(known)) if error.is_transient() => known.goes_on(),
            (None, Some(known)) => known.goes_on(),
            (Some(Err(error)), _) if error.is_transient() => Err(away()),
            (Some(Err(error)), _) => Err(unstored::store(error)),
            (None, None) => Err(away()),
        }
    }

    /// The project of this name, for whoever may act in all.
    ///
    /// # Errors
    /// `UNAVAILABLE`: the database doesn't say.
    pub async fn project(&self, name: &ProjectName) -> Result<Option<ProjectId>, Status> {
        let known = self.projects.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        if let Some((id, _)) = known.filter(|(_, asked)| asked.elapsed() < FRESH) {
            return Ok(Some(id));
        }
        let asked = Instant::now();
        match self.store.project_named(name).await {
            Ok(found) => {
                let mut projects = self.projects.lock().unwrap_or_else(PoisonError::into_inner);
                projects.retain(|_, (_, asked)| asked.elapsed() < self.grace);
                if let Some(id) = found {
                    projects.insert(name.clone(), (id, asked));
                }
                Ok(found)
            }
            Err(error) if error.is_transient() => {
                let known = known.filter(|(_, asked)| asked.elapsed() < self.grace);
                known.map(|(id, _)| Some(id)).ok_or_else(away)
            }
            Err(error) => Err(unstored::store(error)),
        }
    }

    /// Makes it count here at once that this shows nobody any more.
    pub fn forget(&self, proof: Proof) {
        self.known().remove(&proof);
    }

    /// Makes it count here at once that another project, or none, has this name.
    pub fn forget_project(&self, name: &ProjectName) {
        self.projects.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Notes from time to time which tokens were used, and keeps up with which workers were revoked, until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        tokio::join!(self.note(&shutdown), self.keep_up(&shutdown));
    }

    /// Forgets workers that were revoked.
    async fn keep_up(&self, shutdown: &CancellationToken) {
        while tokio::time::timeout(EVERY, shutdown.cancelled()).await.is_err() {
            let now = Instant::now();
            match self.store.revoked_lately(BACK).await {
                Ok(revoked) => {
                    self.known().retain(|_, known| {
                        let worker = known.principal.worker.as_ref();
                        worker.is_none_or(|worker| !revoked.contains(&worker.shown.join))
                    });
                    self.revocations.asked(now);
                }
                Err(error) => tracing::debug!(%error, "it can't be asked which workers were revoked"),
            }
        }
    }

    async fn note(&self, shutdown: &CancellationToken) {
        while tokio::time::timeout(NOTE, shutdown.cancelled()).await.is_err() {
            self.note_used().await;
        }
        self.note_used().await;
    }

    /// Notes at once that the token of a sign-in is used. One that nobody has used ends, so its first use must neither come late nor be
    /// lost with this process.
    async fn note_first(&self, token: TokenId) {
        let noted = tokio::time::timeout(PATIENCE, self.store.note_used(&[token])).await;
        if !matches!(noted, Ok(Ok(()))) {
            // It is among the others that are noted from time to time.
            tracing::warn!("it can't be noted that the token of a sign-in is used; trying again");
        }
    }

    async fn note_used(&self) {
        let used: Vec<TokenId> = self.used.lock().unwrap_or_else(PoisonError::into_inner).drain().collect();
        if used.is_empty() {
            return;
        }
        if let Err(error) = self.store.note_used(&used).await {
            tracing::debug!(%error, "it can't be noted which tokens were used; trying again");
            // It isn't for lists only: a sign-in that nobody has used ends.
            self.used.lock().unwrap_or_else(PoisonError::into_inner).extend(used);
        }
    }

    async fn find(&self, proof: Proof) -> Result<Found, StoreError> {
        Ok(match proof {
            Proof::Token(digest) => Found::Token(self.store.shown_by(digest).await?),
            Proof::Certificate(digest) => Found::Certificate(self.store.shown_by_certificate(digest).await?),
            Proof::Session(digest) => match self.store.token_of_browser_session(digest).await? {
                Some(token) if token == self.admin => Found::Admin,
                Some(token) => Found::Token(self.store.shown_by(token).await?),
                None => Found::Token(None),
            },
        })
    }

    fn learn(&self, proof: Proof, found: Found, asked: Instant) -> Result<Arc<Principal>, Status> {
        let known = match found {
            Found::Token(shown) => by_token(shown, asked, &self.sign_in),
            Found::Certificate(shown) => by_certificate(shown, asked),
            Found::Admin => Ok(Known { principal: Arc::new(Principal::own(Kind::Admin)), asked, ends: None }),
        };
        let known = known.map_err(|why| {
            self.known().remove(&proof);
            Status::unauthenticated(why)
        })?;
        let mut all = self.known();
        if all.len() >= MANY {
            all.retain(|_, known| known.asked.elapsed() < FRESH);
        }
        if all.len() < MANY {
            all.insert(proof, known.clone());
        }
        drop(all);
        if let Some(token) = known.principal.token {
            self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(token);
        }
        Ok(known.principal)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Proof, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn goes_on(&self) -> Result<Arc<Principal>, Status> {
        match self.ends {
            Some(ends) if ends <= Instant::now() => {
                let Principal { name, hint, worker, sign_in, .. } = &*self.principal;
                Err(Status::unauthenticated(match worker {
                    Some(worker) => over(&worker.shown),
                    None if sign_in.is_some() => {
                        format!("your sign-in ({hint}… of {name}) has ended; {AGAIN}")
                    }
                    None => format!("token {hint}… of {name} has expired; {CURE}"),
                }))
            }
            _ => Ok(Arc::clone(&self.principal)),
        }
    }
}

const CURE: &str = "make another one with `farm token create`, or ask an admin for one";
/// The same for what comes of a sign-in.
const AGAIN: &str = "sign in again: farm login";

/// Whom a token shows, or why it counts no more.
fn by_token(shown: Option<Shown>, asked: Instant, rules: &SignInRules) -> Result<Known, String> {
    let shown =
        shown.ok_or("the farm does not know this token; check FARM_TOKEN or FARM_TOKEN_FILE".to_owned())?;
    if let Some(why) = ended(&shown) {
        return Err(why);
    }
    if let Some(origin) =
        shown.sign_in.as_ref().filter(|origin| rules.issuer.as_ref() != Some(&origin.issuer))
    {
        return Err(format!(
            "your sign-in ({}… of {}) counts no more, as people don't sign in at {} here any more; {AGAIN}",
            shown.hint, shown.principal.name, origin.issuer
        ));
    }
    let left = shown.expires_at.map(|at| (at - shown.now).to_std().unwrap_or_default());
    Ok(Known {
        ends: left.map(|left| asked + left),
        principal: Arc::new(Principal::shown(shown, rules)),
        asked,
    })
}

/// Whom a certificate shows, or why it counts no more.
fn by_certificate(shown: Option<ShownWorker>, asked: Instant) -> Result<Known, String> {
    let shown = shown.ok_or(
        "the farm does not know this worker's certificate: it is of another farm, or of before a new beginning; an admin can \
         invite the worker again: farm workers invite"
            .to_owned(),
    )?;
    let ShownWorker { name, now, expires_at, .. } = &shown;
    let when = |at: &DateTime<Utc>| at.format("%Y-%m-%d %H:%M UTC").to_string();
    match shown.ended {
        None => {}
        Some(Ended::Revoked(at)) => {
            return Err(format!(
                "the certificate of worker {name} was revoked on {}; an admin can invite it again: farm workers invite --name \
                 {name}",
                when(&at)
            ));
        }
        Some(Ended::Expired) => {
            return Err(format!(
                "the certificate of worker {name} ended on {} and can't be renewed any more; an admin can invite the worker again \
                 (farm workers invite --name {name}), and farm-worker join brings it back",
                when(expires_at)
            ));
        }
    }
    let ends = *expires_at + RENEWS;
    let Ok(left) = (ends - *now).to_std() else { return Err(over(&shown)) };
    Ok(Known { ends: Some(asked + left), principal: Arc::new(Principal::worker(shown, asked)), asked })
}

/// What is said of a certificate that can't be renewed any more.
fn over(shown: &ShownWorker) -> String {
    let ShownWorker { name, expires_at, .. } = shown;
    format!(
        "the certificate of worker {name} ended on {}, too long ago to be renewed; an admin can revoke the worker and invite it \
         again: farm workers revoke {name}; farm workers invite --name {name}",
        expires_at.format("%Y-%m-%d %H:%M UTC")
    )
}

/// Why a token counts no more.
fn ended(shown: &Shown) -> Option<String> {
    let Shown { principal, hint, .. } = shown;
    let (how, when) = match (shown.revoked_at, shown.expires_at) {
        (Some(at), _) => ("was revoked", at),
        (None, Some(at)) if at <= shown.now => ("expired", at),
        _ => return None,
    };
    let when = when.format("%Y-%m-%d %H:%M UTC");
    if shown.sign_in.is_some() {
        // Nobody's deed: by itself when it hadn't been used for a while (`Store::end_unused_sign_ins`).
        if shown.revoked_at.is_some() && !shown.is_used {
            return Some(format!(
                "your sign-in ({hint}… of {}) ended on {when} without having been used; {AGAIN}",
                principal.name
            ));
        }
        let how = if how == "expired" { "ended" } else { how };
        return Some(format!("your sign-in ({hint}… of {}) {how} on {when}; {AGAIN}", principal.name));
    }
    Some(format!("token {hint}… of {} {how} on {when}; {CURE}", principal.name))
}

fn away() -> Status {
    Status::unavailable(
        "the farm's database does not answer, so the farm can't tell who you are; try again in a moment",
    )
}
