//! How much one caller may take of the coordinator, so that there is something left for the others.
//!
//! Connections are counted where they are accepted ([`lines`]), and ended when they are of no use ([`line`]). Calls are
//! counted where it is asked who makes them (`people::gate`), before their body is read: those of an identity, those from an
//! address, and apart from these and tighter the calls of strangers, whom no token shows; tightest those that make this farm ask
//! the issuer at which people sign in (`grpc::people::sign_in`), as it has limits of its own for all of the farm. Where a call comes from says the
//! connection, or a proxy that the configuration trusts ([`address`]).
//!
//! What workers do for their jobs is not counted: who may do it the farm has let in by name, a thousand of them may be behind
//! one address, and a worker that is told to wait loses the lease of what it runs. The same goes for coordinators among each
//! other, and whoever has the farm's own token file is counted by address only: that file is shared by all that use a small
//! farm.
//!
//! Whoever is refused is told which limit it was, whose, and when to come back, also in the form that gRPC clients know
//! (`farm_client::busy`); the log has a line a minute for each limit ([`tally`]). To add a limit: its number in
//! `config::limits`, and where it is asked for a method here.

pub mod address;
mod bucket;
pub mod line;
pub mod lines;
mod tally;
mod visits;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use farm_client::busy;
use farm_types::{HookId, PrincipalId};
use http::HeaderMap;
use rustix::process::{Resource, getrlimit};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use self::address::{Proxies, place};
use self::bucket::Buckets;
use self::line::Patience;
use self::lines::{Lines, Seat};
use self::tally::Tally;
pub use self::visits::Visit;
use self::visits::{Full, Visits};
use crate::config;
use crate::people::principal::{Kind, Principal};
use crate::people::rights::Action;

/// Connections are looked at so often.
const SWEEP: Duration = Duration::from_secs(2);
/// What was refused is told so often.
const TELL: Duration = Duration::from_secs(60);
/// So many calls that need no identity from one address at once: health is watched by few, and whoever shows a token of another
/// system is answered soon.
const OPEN_AT_ONCE: u32 = 128;
/// Whoever finds as many at the issuer as may be at once is told to come back after so long.
const AT_THE_ISSUER: Duration = Duration::from_secs(2);
/// So many deliveries are read at once, and so many from one address: each may be long.
const DELIVERIES_AT_ONCE: u32 = 128;
const DELIVERIES_AT_ONCE_OF_ONE: u32 = 64;
/// So many logs are handed out to browsers at once, and so many to one address: each takes some megabytes while it is read.
const LOGS_AT_ONCE: u32 = 32;
const LOGS_AT_ONCE_OF_ONE: u32 = 8;
/// A connection that takes not a byte for so long is dead, as keep-alive has it, but can't be told so.
const BLOCKED: Duration = Duration::from_secs(30);

/// What the limits are kept with.
#[derive(Debug)]
pub struct Doors {
    lines: Arc<Lines>,
    patience: Patience,
    proxies: Proxies,
    identities: Buckets<PrincipalId>,
    addresses: Buckets<IpAddr>,
    /// Calls that need no identity, and calls by tokens that show nobody: neither keeps the other out.
    open: Buckets<IpAddr>,
    wrong: Buckets<IpAddr>,
    visits: Arc<Visits>,
    /// What is asked of the issuer at which people sign in, by address, in all, and at once.
    sign_ins: Buckets<IpAddr>,
    all_sign_ins: Buckets<()>,
    signing_in: Arc<Visits>,
    /// What is delivered to hooks: by hook, by address, what was nobody's, and what is under way.
    of_hooks: Buckets<HookId>,
    deliverers: Buckets<IpAddr>,
    forged: Buckets<IpAddr>,
    delivering: Arc<Visits>,
    /// The logs that are handed out to browsers.
    reading: Arc<Visits>,
    tally: Tally,
}

impl Doors {
    /// As the configuration says; of the files that this process may open a quarter is left for other things.
    pub fn new(limits: &config::Limits) -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let most = limits.max_connections.min((files / 4).saturating_mul(3).max(1));
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        if most < limits.max_connections {
            tracing::warn!(
                connections = most,
                files,
                "this process may open too few files for limits.max_connections; raise LimitNOFILE of its unit (ulimit -n)"
            );
        }
        Self {
            lines: Arc::new(Lines::new(count(most), count(limits.max_connections_per_address))),
            patience: Patience {
                first_call: Duration::from_secs(limits.first_call_seconds),
                idle: Duration::from_secs(limits.idle_connection_seconds),
                stalled: Duration::from_secs(limits.stalled_stream_seconds),
                blocked: BLOCKED,
            },
            proxies: Proxies::new(limits.trusted_proxies.clone(), limits.proxy_header),
            identities: Buckets::new(limits.calls_per_minute_per_identity),
            addresses: Buckets::new(limits.calls_per_minute_per_address),
            open: Buckets::new(limits.strangers_per_minute_per_address),
            wrong: Buckets::new(limits.strangers_per_minute_per_address),
            visits: Arc::new(Visits::new(OPEN_AT_ONCE, u32::MAX)),
            sign_ins: Buckets::new(limits.sign_ins_per_minute_per_address),
            all_sign_ins: Buckets::new(limits.sign_ins_per_minute),
            signing_in: Arc::new(Visits::new(limits.sign_ins_at_once_per_address, limits.sign_ins_at_once)),
            of_hooks: Buckets::new(limits.deliveries_per_minute_per_hook),
            deliverers: Buckets::new(limits.deliveries_per_minute_per_address),
            forged: Buckets::new(limits.strangers_per_minute_per_address),
            delivering: Arc::new(Visits::new(DELIVERIES_AT_ONCE_OF_ONE, DELIVERIES_AT_ONCE)),
            reading: Arc::new(Visits::new(LOGS_AT_ONCE_OF_ONE, LOGS_AT_ONCE)),
            tally: Tally::default(),
        }
    }

    /// A place for a connection that was just accepted; `None`: there is none, and it is closed.
    pub fn admit(&self, peer: SocketAddr) -> Option<Seat> {
        let at = place(peer.ip());
        match self.lines.admit(at, self.proxies.is_one(peer.ip())) {
            Ok((seat, gone)) => {
                if let Some((limit, whose)) = gone {
                    self.tally.count(limit, &whose.to_string());
                }
                Some(seat)
            }
            Err(limit) => {
                self.tally.count(limit, &at.to_string());
                None
            }
        }
    }

    /// Where a call with these headers comes from, over a connection from `peer`.
    pub fn caller(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        self.proxies.caller(peer, headers)
    }

    /// Whether a call may be made that needs no identity, from there; it is one of the calls there until what is given back is
    /// dropped.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`: there were too many within a minute, or there are at once.
    pub fn open_call(&self, from: IpAddr) -> Result<Visit, Status> {
        let at = place(from);
        let few = |wait: Duration, of: String| {
            self.tally.count("strangers_per_minute_per_address", &at.to_string());
            busy(&format!("{of} are let through from one address ({at}) without a token of the farm"), wait)
        };
        let per_minute = self.open.per_minute();
        self.open
            .take(&at, Instant::now())
            .map_err(|wait| few(wait, format!("{per_minute} calls a minute")))?;
        self.visits
            .begin(Some(at))
            .map_err(|_| few(Duration::from_secs(1), format!("{OPEN_AT_ONCE} calls at once")))
    }

    /// Whether the issuer at which people sign in may be asked something for a caller from there whom nobody knows yet; it is
    /// one of the questions under way until what is given back is dropped.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`: there were too many within a minute, or there are at once; from there, or in all.
    pub fn sign_in(&self, from: Option<IpAddr>) -> Result<Visit, Status> {
        let (at, now) = (from.map(place), Instant::now());
        let few = |limit, whose: &str, wait, most: String| {
            self.tally.count(limit, whose);
            busy(&format!("{most} are let through to the issuer at which people sign in"), wait)
        };
        let of = |at: IpAddr| format!(" from one address ({at})");
        // Before a bucket: nothing is taken from whoever comes back for this.
        let visit = self.signing_in.begin(at).map_err(|full| match full {
            Full::Place(at) => {
                let most = format!("{} sign-ins at once{}", self.signing_in.most_of_one(), of(at));
                few("sign_ins_at_once_per_address", &at.to_string(), AT_THE_ISSUER, most)
            }
            Full::All => {
                let most = format!("{} sign-ins at once", self.signing_in.most());
                few("sign_ins_at_once", "all", AT_THE_ISSUER, most)
            }
        })?;
        let in_all = |wait| {
            let most = format!("{} sign-ins a minute", self.all_sign_ins.per_minute());
            few("sign_ins_per_minute", "all", wait, most)
        };
        // Nor for this.
        self.all_sign_ins.look(&(), now).map_err(in_all)?;
        if let Some(at) = at {
            self.sign_ins.take(&at, now).map_err(|wait| {
                let most = format!("{} sign-ins a minute{}", self.sign_ins.per_minute(), of(at));
                few("sign_ins_per_minute_per_address", &at.to_string(), wait, most)
            })?;
        }
        self.all_sign_ins.take(&(), now).map_err(in_all)?;
        Ok(visit)
    }

    /// Whether a delivery from there is read; it is one of those under way until what is given back is dropped.
    ///
    /// # Errors
    /// There were too many within a minute, or there are at once: when to come back.
    pub fn deliver(&self, from: IpAddr) -> Result<Visit, Duration> {
        let (at, now) = (place(from), Instant::now());
        self.forged.look(&at, now).inspect_err(|_| {
            self.tally.count("strangers_per_minute_per_address", &at.to_string());
        })?;
        let visit = self.delivering.begin(Some(at)).map_err(|_| {
            self.tally.count("deliveries at once", &at.to_string());
            Duration::from_secs(1)
        })?;
        self.deliverers.take(&at, now).inspect_err(|_| {
            self.tally.count("deliveries_per_minute_per_address", &at.to_string());
        })?;
        Ok(visit)
    }

    /// A delivery from there was no hook's.
    pub fn forged(&self, from: IpAddr) {
        let _ = self.forged.take(&place(from), Instant::now());
    }

    /// Whether a delivery that is a hook's is taken.
    ///
    /// # Errors
    /// There were too many within a minute: when to come back.
    pub fn delivered(&self, hook: HookId, name: &str) -> Result<(), Duration> {
        self.of_hooks.take(&hook, Instant::now()).inspect_err(|_| {
            self.tally.count("deliveries_per_minute_per_hook", name);
        })
    }

    /// Whether a log is handed out to a browser from there; it is one of those that are until what is given back is dropped.
    ///
    /// # Errors
    /// There are too many at once: when to come back.
    pub fn read_log(&self, from: Option<IpAddr>) -> Result<Visit, Duration> {
        let at = from.map(place);
        self.reading.begin(at).map_err(|_| {
            self.tally.count("logs at once", &at.map(|at| at.to_string()).unwrap_or_default());
            Duration::from_secs(2)
        })
    }

    /// Whether it is asked whom a token shows that isn't known here, from there.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`: too many showed nobody within a minute.
    pub fn look_up(&self, from: IpAddr) -> Result<(), Status> {
        let at = place(from);
        self.wrong.look(&at, Instant::now()).map_err(|wait| {
            self.tally.count("strangers_per_minute_per_address", &at.to_string());
            let per_minute = self.wrong.per_minute();
            let text = format!(
                "from {at} came more than {per_minute} calls within a minute with no token that the farm knows, so that other \
                 tokens aren't looked up for it; check FARM_TOKEN or FARM_TOKEN_FILE wherever calls are made from there"
            );
            busy(&text, wait)
        })
    }

    /// A token from there has shown nobody.
    pub fn unknown(&self, from: IpAddr) {
        // That it was the last one those after it are told.
        let _ = self.wrong.take(&place(from), Instant::now());
    }

    /// Whether this caller may make this call, from there.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`: too many within a minute, of the caller or from the address.
    pub fn known_call(
        &self,
        principal: &Principal,
        action: Action,
        from: Option<IpAddr>,
    ) -> Result<(), Status> {
        let is_work = matches!(action, Action::Work | Action::Renew | Action::Hint);
        if is_work || principal.kind == Kind::Coordinator {
            return Ok(());
        }
        let now = Instant::now();
        if let Some(id) = principal.id {
            self.identities.take(&id, now).map_err(|wait| {
                self.tally.count("calls_per_minute_per_identity", &principal.name);
                let per_minute = self.identities.per_minute();
                busy(&format!("{} makes more than {per_minute} calls a minute", principal.name), wait)
            })?;
        }
        let Some(at) = from.map(place) else { return Ok(()) };
        self.addresses.take(&at, now).map_err(|wait| {
            self.tally.count("calls_per_minute_per_address", &at.to_string());
            let per_minute = self.addresses.per_minute();
            busy(&format!("from {at} come more than {per_minute} calls a minute"), wait)
        })
    }

    /// Ends connections that are of no use, and tells what was refused, until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut told = Instant::now();
        while tokio::time::timeout(SWEEP, shutdown.cancelled()).await.is_err() {
            for (limit, whose) in self.lines.sweep(self.patience) {
                self.tally.count(limit, &whose.to_string());
            }
            if told.elapsed() >= TELL {
                told = Instant::now();
                self.tally.tell();
                let of_addresses = [
                    &self.addresses,
                    &self.open,
                    &self.wrong,
                    &self.sign_ins,
                    &self.deliverers,
                    &self.forged,
                ];
                for buckets in of_addresses {
                    buckets.forget(told);
                }
                self.of_hooks.forget(told);
                self.identities.forget(told);
            }
        }
        self.tally.tell();
    }
}

#[cfg(test)]
mod tests {
    use farm_types::PrincipalKind;

    use super::*;

    fn doors(change: impl FnOnce(&mut config::Limits)) -> Doors {
        let mut limits = config::Limits::default();
        change(&mut limits);
        Doors::new(&limits)
    }

    fn person(name: &str) -> Principal {
        let kind = Kind::Known(PrincipalKind::Person);
        Principal {
            name: name.into(),
            kind,
            id: Some(PrincipalId::generate()),
            ..Principal::own(Kind::Admin)
        }
    }

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 8));

    #[test]
    fn who_calls_too_often_is_told_when_to_come_back_and_nobody_else_is() {
        let doors = doors(|limits| limits.calls_per_minute_per_identity = 3);
        let (ada, bob) = (person("ada"), person("bob"));
        let call = |who: &Principal| doors.known_call(who, Action::ReadBuilds, Some(HOME));
        for _ in 0..3 {
            call(&ada).unwrap();
        }
        let status = call(&ada).unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert!(status.message().starts_with("ada makes more than 3 calls a minute"), "{status:?}");
        let wait = farm_client::come_back(&status).unwrap();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(20), "{wait:?}");
        call(&bob).unwrap();
        // The farm's own token is everybody's in a small farm, and work is never held up.
        let admin = Principal::own(Kind::Admin);
        assert!((0..100).all(|_| call(&admin).is_ok()));
        assert!((0..100).all(|_| doors.known_call(&ada, Action::Work, Some(HOME)).is_ok()));
    }

    #[test]
    fn strangers_have_less_and_take_nothing_from_others() {
        let doors = doors(|limits| limits.strangers_per_minute_per_address = 2);
        for _ in 0..2 {
            doors.look_up(HOME).unwrap();
            doors.unknown(HOME);
        }
        let status = doors.look_up(HOME).unwrap_err();
        assert!(status.message().contains("198.51.100.7"), "{status:?}");
        assert!(farm_client::come_back(&status).is_some());
        doors.look_up(OTHER).unwrap();
        // Who shows a token of another system isn't kept out by wrong tokens.
        for _ in 0..2 {
            doors.open_call(HOME).unwrap();
        }
        assert!(doors.open_call(HOME).is_err());
        doors.known_call(&person("ada"), Action::Submit, Some(HOME)).unwrap();
    }

    #[test]
    fn the_issuer_is_asked_so_often_for_one_address_and_so_often_in_all() {
        let doors = doors(|limits| {
            limits.sign_ins_per_minute_per_address = 3;
            limits.sign_ins_per_minute = 5;
            limits.sign_ins_at_once_per_address = 2;
            limits.sign_ins_at_once = 3;
        });
        let told = |from: Option<IpAddr>, begins: &str| {
            let status = doors.sign_in(from).unwrap_err();
            assert_eq!(status.code(), tonic::Code::ResourceExhausted);
            assert!(status.message().starts_with(begins), "{status:?}");
            farm_client::come_back(&status).unwrap()
        };
        let first = [doors.sign_in(Some(HOME)).unwrap(), doors.sign_in(Some(HOME)).unwrap()];
        let wait = told(
            Some(HOME),
            "2 sign-ins at once from one address (198.51.100.7) are let through to the issuer",
        );
        assert_eq!(wait, AT_THE_ISSUER);
        let other = doors.sign_in(Some(OTHER)).unwrap();
        told(None, "3 sign-ins at once are let through");
        drop((first, other));
        // That there were too many at once has cost nothing.
        drop(doors.sign_in(Some(HOME)).unwrap());
        let wait = told(Some(HOME), "3 sign-ins a minute from one address (198.51.100.7)");
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(20), "{wait:?}");
        drop(doors.sign_in(Some(OTHER)).unwrap());
        told(Some(OTHER), "5 sign-ins a minute are let through");
        // Nobody else is concerned: whoever is known, nor other calls of strangers.
        doors.known_call(&person("ada"), Action::ReadBuilds, Some(HOME)).unwrap();
        doors.open_call(HOME).unwrap();
    }

    #[test]
    fn what_was_no_hooks_is_counted_apart_and_each_hook_by_itself() {
        let doors = doors(|limits| {
            limits.strangers_per_minute_per_address = 2;
            limits.deliveries_per_minute_per_address = 5;
            limits.deliveries_per_minute_per_hook = 1;
        });
        let (one, other) = (HookId::generate(), HookId::generate());
        doors.delivered(one, "one").unwrap();
        assert!(doors.delivered(one, "one").unwrap_err() > Duration::from_secs(50));
        doors.delivered(other, "other").unwrap();
        for _ in 0..2 {
            drop(doors.deliver(HOME).unwrap());
            doors.forged(HOME);
        }
        assert!(doors.deliver(HOME).is_err());
        for _ in 0..5 {
            drop(doors.deliver(OTHER).unwrap());
        }
        assert!(doors.deliver(OTHER).is_err());
        // Wrong tokens of the same place are another matter.
        doors.look_up(HOME).unwrap();
    }

    #[test]
    fn an_address_is_counted_for_all_its_callers() {
        let doors = doors(|limits| limits.calls_per_minute_per_address = 4);
        let call = |from| doors.known_call(&person("x"), Action::ReadBuilds, Some(from));
        for _ in 0..4 {
            call(HOME).unwrap();
        }
        assert!(call(HOME).unwrap_err().message().starts_with("from 198.51.100.7 come more than 4"));
        call(OTHER).unwrap();
    }
}
