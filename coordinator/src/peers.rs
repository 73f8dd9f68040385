//! The other coordinators of the farm: who they are, and telling them to look at what was written here.
//!
//! Each coordinator makes a secret when it starts and shows its digest in the database; with the secret it calls the
//! others, who know it by that digest. So they need no file in common, and the database holds no secret. There is one
//! task for each other coordinator, so that one that hangs holds up no other; what is asked while a call is under way
//! goes into the next one. Who wants to ask them something finds them in [`Others`](crate::others::Others).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use farm_client::{Security, TlsFailure};
use farm_proto::v1;
use farm_proto::v1::peer_service_client::PeerServiceClient;
use farm_store::machines::leader::Peer;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::{Endpoint, Uri};
use uuid::Uuid;

use crate::hints::{BACKSTOP, Look};
use crate::others::Client;
use crate::shared::Shared;

/// How long a call may take.
const CALL: Duration = Duration::from_secs(2);
/// The wait after a call that failed.
const AGAIN: Duration = Duration::from_secs(1);
/// The least time from one call to the next: what comes closer together is told as one.
const BREATH: Duration = Duration::from_millis(20);

/// Keeps up with who the others are, and tells them what was asked here, until `shutdown`.
pub(crate) async fn run(shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut tasks = JoinSet::new();
    let mut told: HashMap<(Uuid, String), AbortHandle> = HashMap::new();
    let mut tick = tokio::time::interval(BACKSTOP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !shutdown.is_cancelled() {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.cancelled() => break,
        }
        let peers = match shared.store.peers(shared.id, shared.config.leadership.silence()).await {
            Ok(peers) => peers,
            Err(error) => {
                tracing::debug!(%error, "the other coordinators are not known");
                continue;
            }
        };
        shared.identities.know_peers(peers.iter().map(|peer| peer.token_digest).collect());
        let there: HashSet<(Uuid, String)> =
            peers.iter().map(|peer| (peer.id, peer.address.clone())).collect();
        told.retain(|peer, task| {
            let stays = there.contains(peer);
            if !stays {
                task.abort();
            }
            stays
        });
        shared.others.keep(&there);
        for peer in peers {
            let key = (peer.id, peer.address.clone());
            if let std::collections::hash_map::Entry::Vacant(new) = told.entry(key) {
                match endpoint(&peer.address, &shared.peers) {
                    Ok(endpoint) => {
                        tracing::info!(coordinator = peer.address, "another coordinator");
                        let calls =
                            |channel| PeerServiceClient::with_interceptor(channel, shared.secret.bearer());
                        shared.others.add(new.key().clone(), calls(endpoint.connect_lazy()));
                        let hints = calls(endpoint.timeout(CALL).connect_lazy());
                        new.insert(tasks.spawn(tell(Arc::clone(&shared), peer, hints)));
                    }
                    Err(error) => tracing::warn!(
                        coordinator = peer.address, %error,
                        "another coordinator's address can't be called; it will look by itself"
                    ),
                }
            }
        }
        while tasks.try_join_next().is_some() {}
    }
}

fn endpoint(address: &str, security: &Security) -> anyhow::Result<Endpoint> {
    let uri: Uri = address.parse()?;
    let agent = concat!("farm-coordinator/", env!("CARGO_PKG_VERSION"));
    let endpoint = farm_client::endpoint(uri, agent, security)?;
    Ok(endpoint.connect_timeout(CALL))
}

/// Tells one other coordinator whatever is asked here, until it is aborted.
async fn tell(shared: Arc<Shared>, peer: Peer, mut client: Client) {
    let mut asked = shared.hints.asked();
    // What was asked before may have been while nobody knew of it.
    let mut look = Look::ALL;
    let mut told = *asked.borrow_and_update();
    let mut is_away = false;
    loop {
        let request = Request::new(v1::HintRequest {
            schedule: look.schedule,
            publish: look.publish,
            dispatch: look.dispatch,
            follow: look.follow,
        });
        // The endpoint's timeout ends what the connection doesn't.
        match client.hint(request).await {
            Ok(_) => {
                is_away = false;
                tokio::time::sleep(BREATH).await;
                if asked.changed().await.is_err() {
                    return;
                }
                let now = *asked.borrow_and_update();
                look = now.since(told);
                told = now;
            }
            Err(status) => {
                // It looks by itself each second, so this makes it slow and nothing worse.
                if !std::mem::replace(&mut is_away, true) {
                    let failure = TlsFailure::of(&status).map(|failure| failure.to_string());
                    tracing::warn!(
                        coordinator = peer.address,
                        error = failure.as_deref().unwrap_or(status.message()),
                        "another coordinator can't be told what happens here; it looks each second. It is called at \
                         what its --advertise says"
                    );
                }
                tokio::time::sleep(AGAIN).await;
                look = Look::ALL;
                told = *asked.borrow_and_update();
            }
        }
    }
}
