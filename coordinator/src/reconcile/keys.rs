//! Takes up new keys of the farm, and, while leading, seals anew what was sealed by others than the one that seals now.

use std::sync::Arc;

use farm_store::StoreError;
use farm_store::machines::leader::Epoch;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Lead;
use crate::keys::{LOOK, agree};
use crate::seal::Owner;
use crate::shared::Shared;

/// So many in one pass.
const BATCH: i64 = 200;

/// Looks until `shutdown`.
pub async fn run(shared: Arc<Shared>, lead: watch::Receiver<Option<Lead>>, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.cancelled() => return,
        }
        shared.keyring.look_again();
        agree(&shared).await;
        // What is sealed anew has to be opened by all.
        let leads = lead.borrow().filter(|_| shared.keyring.seals_by_newest());
        if let Some(lead) = leads
            && let Err(error) = reseal(&shared, lead.epoch).await
        {
            tracing::warn!(%error, "what was sealed by an old key could not be sealed anew; trying again");
        }
    }
}

async fn reseal(shared: &Shared, epoch: Epoch) -> Result<(), StoreError> {
    let ids = shared.keyring.ids();
    let Some((newest, older)) = ids.split_first() else { return Ok(()) };
    if older.is_empty() {
        return Ok(());
    }
    let older: Vec<String> = older.iter().map(ToString::to_string).collect();
    loop {
        let mut done = reseal_secrets(shared, epoch, &older).await?;
        let found = shared.loops.build_keys_by(&older, BATCH).await?;
        for (project, build, old) in &found {
            match shared.keyring.reseal(Owner::Build(*project, *build), old) {
                Ok(new) => {
                    done +=
                        usize::from(shared.loops.reseal_build_key(epoch, *project, *build, old, &new).await?);
                }
                Err(error) => tracing::error!(%error, %build, "a build's key can't be sealed anew"),
            }
        }
        if done > 0 {
            tracing::info!(done, by = %newest, "sealed anew");
        }
        // What can't be opened stays, and must not be tried for ever.
        if done == 0 {
            return Ok(());
        }
    }
}

/// Some of the projects' secrets; gives how many.
async fn reseal_secrets(shared: &Shared, epoch: Epoch, older: &[String]) -> Result<usize, StoreError> {
    let mut done = 0;
    for (project, name, version, old) in shared.loops.secret_keys_by(older, BATCH).await? {
        match shared.keyring.reseal(Owner::Secret(project, &name, version), &old) {
            Ok(new) => {
                let which = (project, &name, version);
                done += usize::from(shared.loops.reseal_secret_key(epoch, which, &old, &new).await?);
            }
            Err(error) => {
                tracing::error!(%error, %project, secret = %name, version, "a secret's key can't be sealed anew");
            }
        }
    }
    Ok(done)
}
