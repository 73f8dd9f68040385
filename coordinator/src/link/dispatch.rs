//! The loops that tell workers what they have to know, and write down the signs that they gave.

use std::sync::Arc;

use farm_proto::v1;
use farm_store::work::lease::OfferedAttempt;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::hints::BACKSTOP;

/// Tells the connected workers what they have to know, until `shutdown`.
pub async fn dispatch(context: Arc<Context>, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        if let Err(error) = dispatch_one(&context).await {
            tracing::warn!(%error, "workers could not be told; trying again");
        }
        tokio::select! {
            () = context.hints.dispatch.notified() => {}
            () = tokio::time::sleep(BACKSTOP) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

async fn dispatch_one(context: &Context) -> farm_store::Result<()> {
    for (worker, attempt, reason) in context.store.stops_via(context.id).await? {
        context.link.say(worker, (attempt, false), || {
            v1::control_response::Message::Stop(v1::Stop { attempt_id: attempt.to_string(), reason })
        });
    }
    for (worker, probe) in context.store.probes_via(context.id).await? {
        context.link.say(worker, (probe.into(), true), || {
            v1::control_response::Message::Probe(v1::Probe { probe_id: probe.to_string() })
        });
    }
    for offered in context.store.offered_via(context.id).await? {
        let worker = offered.worker;
        context.link.say(worker, (offered.attempt, true), || {
            v1::control_response::Message::Offered(offer(context, offered))
        });
    }
    Ok(())
}

/// Writes the workers' signs to the database in one statement a second, until `shutdown`.
pub async fn flush_beats(context: Arc<Context>, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(BACKSTOP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !shutdown.is_cancelled() {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.cancelled() => break,
        }
        let beats = context.link.take_beats();
        if beats.is_empty() {
            continue;
        }
        if let Err(error) = context.store.heartbeats(context.id, &beats, context.config.limits.lease()).await
        {
            tracing::warn!(%error, "heartbeats could not be written; trying again");
            context.link.keep_beats(beats);
        }
    }
}

fn offer(context: &Context, offered: OfferedAttempt) -> v1::Offered {
    let repositories = offered.spec.repositories();
    v1::Offered {
        lease: Some(v1::Lease {
            attempt_id: offered.attempt.to_string(),
            lease_token: offered.token.as_uuid().to_string(),
        }),
        build_id: offered.build.to_string(),
        project: offered.project_name,
        platform: offered.platform.to_string(),
        support: offered.support.to_string(),
        runs: offered.runs.to_string(),
        attempt_number: offered.number,
        repositories: repositories.iter().map(ToString::to_string).collect(),
        registries: context.registries.lend(&repositories),
        roots: offered.roots,
        log_bytes: context.config.limits.log_bytes,
        output_bytes: context.config.limits.output_bytes,
        progress_ms: context.config.limits.progress_deadline_seconds.saturating_mul(1000),
        spec: Some((&offered.spec).into()),
    }
}
