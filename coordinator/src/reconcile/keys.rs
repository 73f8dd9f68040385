//! Takes up new keys of the farm, and, while leading, seals anew what was sealed by others than the one that seals now.

use std::sync::Arc;

use farm_store::StoreError;
use farm_store::hooks::secrets::HookSecretKey;
use farm_store::hooks::tokens::HookTokenKey;
use farm_store::machines::leader::Epoch;
use farm_store::notices::registered::NoticeKey;
use farm_store::people::git_logins::GitLoginId;
use farm_store::people::logins::LoginKey;
use farm_store::people::signing_keys::SigningKeyKey;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Lead;
use crate::keys::{LOOK, agree};
use crate::seal::Owner;
use crate::shared::Shared;

/// So many are read at once.
const BATCH: i64 = 200;
/// So many of those that can't be opened are named.
const NAMED: usize = 10;

/// What can't be opened, and so stays sealed by an old key.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stuck {
    count: usize,
    first: Vec<String>,
}

impl Stuck {
    fn add(&mut self, what: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(what());
        }
    }
}

/// Looks until `shutdown`.
pub(crate) async fn run(
    shared: Arc<Shared>,
    lead: watch::Receiver<Option<Lead>>,
    shutdown: CancellationToken,
) {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Told once, and anew when it changes.
    let mut told = Stuck::default();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.cancelled() => return,
        }
        shared.keyring.look_again();
        agree(&shared).await;
        // What is sealed anew has to be opened by all.
        let leads = lead.borrow().filter(|_| shared.keyring.seals_by_newest());
        let Some(lead) = leads else {
            told = Stuck::default();
            continue;
        };
        match reseal(&shared, lead.epoch).await {
            Ok(stuck) => {
                if stuck != told && stuck.count > 0 {
                    tracing::error!(
                        count = stuck.count,
                        first = stuck.first.join(", "),
                        "data keys can't be opened, and stay sealed by an old key of the farm; all others are sealed anew"
                    );
                }
                told = stuck;
            }
            Err(error) => {
                tracing::warn!(%error, "what was sealed by an old key could not be sealed anew; trying again");
            }
        }
    }
}

/// Goes through all that older keys have sealed, past what can't be opened.
async fn reseal(shared: &Shared, epoch: Epoch) -> Result<Stuck, StoreError> {
    let mut stuck = Stuck::default();
    let ids = shared.keyring.ids();
    let Some((newest, older)) = ids.split_first().filter(|(_, older)| !older.is_empty()) else {
        return Ok(stuck);
    };
    let older: Vec<String> = older.iter().map(ToString::to_string).collect();
    let done = reseal_secrets(shared, epoch, &older, &mut stuck).await?
        + reseal_builds(shared, epoch, &older, &mut stuck).await?
        + reseal_logins(shared, epoch, &older, &mut stuck).await?
        + reseal_git_logins(shared, epoch, &older, &mut stuck).await?
        + reseal_hooks(shared, epoch, &older, &mut stuck).await?
        + reseal_tokens(shared, epoch, &older, &mut stuck).await?
        + reseal_notices(shared, epoch, &older, &mut stuck).await?
        + reseal_signing_keys(shared, epoch, &older, &mut stuck).await?;
    if done > 0 {
        tracing::info!(done, by = %newest, "sealed anew");
    }
    Ok(stuck)
}

/// Those of projects' secrets; gives how many.
async fn reseal_secrets(
    shared: &Shared,
    epoch: Epoch,
    older: &[String],
    stuck: &mut Stuck,
) -> Result<usize, StoreError> {
    let (mut done, mut last) = (0, None);
    loop {
        let after = last.as_ref().map(|(project, name, version)| (*project, name, *version));
        let found = shared.loops.secret_keys_by(older, after, BATCH).await?;
        if found.is_empty() {
            return Ok(done);
        }
        for (project, name, version, old) in found {
            match shared.keyring.reseal(Owner::Secret(project, &name, version), &old) {
                Ok(new) => {
                    let which = (project, &name, version);
                    done += usize::from(shared.loops.reseal_secret_key(epoch, which, &old, &new).await?);
                }
                Err(why) => {
                    stuck.add(|| format!("version {version} of secret {name} of project {project} ({why})"));
                }
            }
            last = Some((project, name, version));
        }
    }
}

/// Those of builds; gives how many.
async fn reseal_builds(
    shared: &Shared,
    epoch: Epoch,
    older: &[String],
    stuck: &mut Stuck,
) -> Result<usize, StoreError> {
    let (mut done, mut last) = (0, None);
    loop {
        let found = shared.loops.build_keys_by(older, last, BATCH).await?;
        if found.is_empty() {
            return Ok(done);
        }
        for (project, build, old) in found {
            match shared.keyring.reseal(Owner::Build(project, build), &old) {
                Ok(new) => {
                    done +=
                        usize::from(shared.loops.reseal_build_key(epoch, project, build, &old, &new).await?);
                }
                Err(why) => stuck.add(|| format!("build {build} ({why})")),
            }
            last = Some((project, build));
        }
    }
}

/// Those of projects' logins at registries; gives how many.
async fn reseal_logins(
    shared: &Shared,
    epoch: Epoch,
    older: &[String],
    stuck: &mut Stuck,
) -> Result<usize, StoreError> {
    let (mut done, mut last): (_, Option<LoginKey>) = (0, None);
    loop {
        let after = last.as_ref().map(|login| (login.project, &login.host));
        let found = shared.loops.login_keys_by(older, after, BATCH).await?;
        if found.is_empty() {
            return Ok(done);
        }
        for old in found {
            match shared.keyring.reseal(Owner::Login(old.project, &old.host), &old.key) {
                Ok(new) => done += usize::from(shared.loops.reseal_login_key(epoch, &old, &new).await?),
                Err(why) => {
                    stuck.add(|| format!("login at {} of project {} ({why})", old.host, old.project));
                }
            }
            last = Some(old);
        }
    }
}

/// Those of projects' logins for git; gives how many.
async fn reseal_git_logins(
    shared: &Shared,
    epoch: Epoch,
    older: &[String],
    stuck: &mut Stuck,
) -> Result<usize, StoreError> {
    let (mut done, mut last): (_, Option<GitLoginId>) = (0, None);
    loop {
        let found = shared.loops.git_login_keys_by(older, last.as_ref(), BATCH).await?;
        if found.is_empty() {
            return Ok(done);
        }
        for (id, old) in found {
            match shared.keyring.reseal(Owner::Git(id.project, id.kind.as_str(), &id.place), &old) {
                Ok(new) => {
                    done += usize::from(shared.loops.reseal_git_login_key(epoch, &id, &old, &new).await?);
                }
                Err(why) => {
                    stuck.add(|| format!("login for git at {} of project {} ({why})", id.place, id.project));
                }
            }
            last = Some(id);
        }
    }
}

/// Those of hooks' secrets; gives how many.
async fn reseal_hooks(
    shared: &Shared,
    epoch: Epoch,
    older: &[String],
    stuck: &mut Stuck,
) -> Result<usize, StoreError> {
    let (mut done, mut last): (_, Option<HookSecretKey>) = (0, None);
    loop {
        let after = last.as_ref().map(|of| (of.project, of.hook, of.secret));
        let found = shared.loops.hook_keys_by(older, after, BATCH).await?;
        if found.is_empty() {
            return Ok(done);
        }
        for old in found {
            match shared.keyring.reseal(Owner::Hook(old.project, old.hook, old.secret), &old.key) {
                Ok(new) => done += usize::from(shared.loops.reseal_hook_key(epoch, &old, &new).await?),
                Err(why) => {
                    stuck.add(|| format!("a secret of hook {} of project {} ({why})", old.hook, old.project))
                }
            }
            last = Some(old);
        }
    }
}

/// Those of hooks' tokens at their forges; gives how many.
async fn reseal_tokens(
    shared: &Shared,
    epoch: Epoch,
    older: &[String],
    stuck: &mut Stuck,
) -> Result<usize, StoreError> {
    let (mut done, mut last): (_, Option<HookTokenKey>) = (0, None);
    loop {
        let after = last.as_ref().map(|of| (of.project, of.hook));
        let found = shared.loops.hook_token_keys_by(older, after, BATCH).await?;
        if found.is_empty() {
            return Ok(done);
        }
        for old in found {
            match shared.keyring.reseal(Owner::Token(old.project, old.hook, old.version), &old.key) {
                Ok(new) => done += usize::from(shared.loops.reseal_hook_token_key(epoch, &old, &new).await?),
                Err(why) => {
                    stuck.add(|| format!("the token of hook {} of project {} ({why})", old.hook, old.project))
                }
            }
            last = Some(old);
        }
    }
}

/// Those of where notices go; gives how many.
async fn reseal_notices(
    shared: &Shared,
    epoch: Epoch,
    older: &[String],
    stuck: &mut Stuck,
) -> Result<usize, StoreError> {
    let (mut done, mut last): (_, Option<NoticeKey>) = (0, None);
    loop {
        let after = last.as_ref().map(|of| (of.project, of.notice));
        let found = shared.loops.notice_keys_by(older, after, BATCH).await?;
        if found.is_empty() {
            return Ok(done);
        }
        for old in found {
            match shared.keyring.reseal(Owner::Notice(old.project, old.notice, old.version), &old.key) {
                Ok(new) => done += usize::from(shared.loops.reseal_notice_key(epoch, &old, &new).await?),
                Err(why) => stuck
                    .add(|| format!("where notice {} of project {} goes ({why})", old.notice, old.project)),
            }
            last = Some(old);
        }
    }
}

/// Those of projects' signing keys; gives how many.
async fn reseal_signing_keys(
    shared: &Shared,
    epoch: Epoch,
    older: &[String],
    stuck: &mut Stuck,
) -> Result<usize, StoreError> {
    let (mut done, mut last): (_, Option<SigningKeyKey>) = (0, None);
    loop {
        let after = last.as_ref().map(|of| (of.project, &of.name));
        let found = shared.loops.signing_key_keys_by(older, after, BATCH).await?;
        if found.is_empty() {
            return Ok(done);
        }
        for old in found {
            match shared.keyring.reseal(Owner::Signing(old.project, &old.name, old.version), &old.key) {
                Ok(new) => done += usize::from(shared.loops.reseal_signing_key(epoch, &old, &new).await?),
                Err(why) => {
                    stuck.add(|| format!("signing key {} of project {} ({why})", old.name, old.project))
                }
            }
            last = Some(old);
        }
    }
}
