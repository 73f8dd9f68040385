//! The loops that tell workers what they have to know, and write down the signs that they gave.

use std::sync::Arc;

use farm_proto::v1;
use farm_store::work::lease::OfferedAttempt;
use farm_types::spec::Verify;
use farm_types::{Repository, TrustClass};
use tokio_util::sync::CancellationToken;

use crate::hints::BACKSTOP;
use crate::link::fetches::Places;
use crate::link::job::Job;
use crate::registry::lending::Borrower;
use crate::registry::login::Allowed;
use crate::shared::Shared;

/// Tells the connected workers what they have to know, until `shutdown`.
pub(crate) async fn dispatch(shared: Arc<Shared>, shutdown: CancellationToken) {
    let places = Places::new(&shared.config);
    while !shutdown.is_cancelled() {
        if let Err(error) = dispatch_one(&shared, &places).await {
            tracing::warn!(%error, "workers could not be told; trying again");
        }
        tokio::select! {
            () = shared.hints.dispatch.notified() => {}
            () = tokio::time::sleep(BACKSTOP) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

async fn dispatch_one(shared: &Shared, places: &Places) -> farm_store::Result<()> {
    if shared.link.is_empty() {
        return Ok(());
    }
    for (worker, attempt, reason) in shared.store.stops_via(shared.id).await? {
        shared.link.say(worker, (attempt, false), || {
            v1::control_response::Message::Stop(v1::Stop { attempt_id: attempt.to_string(), reason })
        });
    }
    for (worker, probe) in shared.store.probes_via(shared.id).await? {
        shared.link.say(worker, (probe.into(), true), || {
            v1::control_response::Message::Probe(v1::Probe { probe_id: probe.to_string() })
        });
    }
    for ask in shared.store.cache_asks_via(shared.id).await? {
        shared.link.say(ask.worker, (ask.id.into(), true), || {
            v1::control_response::Message::CacheAsked(v1::CacheAsked {
                id: ask.id.to_string(),
                older_than_ms: u64::try_from(ask.bounds.older_than.as_millis()).unwrap_or(u64::MAX),
                keep_bytes: ask.bounds.keep_bytes,
                dry_run: ask.bounds.dry_run,
            })
        });
    }
    for offered in shared.store.offered_via(shared.id).await? {
        // A leader of the version before looks at no entitlements and no engines, and a machine's trust may have been taken away
        // meanwhile; it is taken back when its lease ends.
        let is_kept = !offered.engine_is_fit
            || offered.spec.purpose.fetch().is_some()
            || !offered.spec.run.entitlements().is_empty()
            || !offered.staged && !offered.spec.repositories().is_empty();
        if offered.trust == TrustClass::Untrusted && is_kept {
            continue;
        }
        // What a fork proposes stays where nothing is lent, also if its machine has become a trusted one meanwhile.
        if offered.trust == TrustClass::Trusted && offered.fork.is_some() {
            continue;
        }
        let staged = match offered.staged {
            true => match shared.registries.staged(offered.project, offered.attempt) {
                Some(repository) => Some(repository),
                None => {
                    tracing::warn!(attempt = %offered.attempt, "it pushes to a staging registry, and this coordinator has none (--staging)");
                    continue;
                }
            },
            false => None,
        };
        let (worker, attempt, job, support) =
            (offered.worker, offered.attempt, Job::of(&offered), offered.support);
        let allowed =
            shared.accesses.of_attempt(offered.project, offered.attempt, &offered.spec.mounts).await?;
        let asks = shared.link.asks(worker);
        let said = shared.link.say(worker, (attempt, true), || {
            v1::control_response::Message::Offered(offer(shared, places, offered, staged, &allowed, asks))
        });
        let span = job.span();
        // Once: it is said again until it is answered.
        if said && let Some(worker) = shared.link.learn(worker, attempt, job) {
            span.in_scope(|| tracing::info!(worker, %support, "offered"));
        }
    }
    Ok(())
}

/// Writes the workers' signs to the database in one statement a second, until `shutdown`.
pub(crate) async fn flush_beats(shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(BACKSTOP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !shutdown.is_cancelled() {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.cancelled() => break,
        }
        let beats = shared.link.take_beats();
        if beats.is_empty() {
            continue;
        }
        match shared.store.heartbeats(shared.id, &beats, shared.config.limits.lease()).await {
            Ok(over) => shared.link.end(&over),
            Err(error) => {
                tracing::warn!(%error, "heartbeats could not be written; trying again");
                shared.link.keep_beats(beats);
            }
        }
    }
}

/// `staged`: where the attempt of a machine that isn't trusted pushes.
fn offer(
    shared: &Shared,
    places: &Places,
    offered: OfferedAttempt,
    staged: Option<Repository>,
    allowed: &Allowed,
    asks: bool,
) -> v1::Offered {
    let destinations = offered.spec.repositories();
    let borrower = Borrower::new(offered.project, allowed, &destinations);
    // Of a machine that isn't trusted nobody knows who else reads what it is lent.
    let registries = match (&staged, offered.trust) {
        (Some(staged), _) => vec![shared.registries.lend_staging(staged)],
        (None, TrustClass::Untrusted) => Vec::new(),
        (None, TrustClass::Trusted) => shared.registries.lend(&borrower, asks),
    };
    let repositories = match staged {
        Some(staged) => vec![staged],
        None => destinations,
    };
    v1::Offered {
        lease: Some(v1::Lease {
            attempt_id: offered.attempt.to_string(),
            lease_token: offered.token.as_uuid().to_string(),
        }),
        build_id: offered.build.to_string(),
        project: offered.project_name,
        project_id: offered.project.to_string(),
        // By id: a removed project's name may become another's. What one fork's steps have left behind no other build finds.
        caches: match &offered.fork {
            Some(fork) => format!("{}:{}:{fork}", offered.project, offered.trust),
            None => format!("{}:{}", offered.project, offered.trust),
        },
        platform: offered.platform.to_string(),
        support: offered.support.to_string(),
        runs: offered.runs.to_string(),
        attempt_number: offered.number,
        repositories: repositories.iter().map(ToString::to_string).collect(),
        registries,
        fetches: Some(places.of(&allowed.access, offered.trust)),
        roots: offered.roots,
        log_bytes: shared.config.limits.log_bytes,
        output_bytes: shared.config.limits.output_bytes,
        progress_ms: shared.config.limits.progress_deadline_seconds.saturating_mul(1000),
        verify_elf: offered.spec.verify != Verify::Off,
        spec: Some((&offered.spec).into()),
    }
}
