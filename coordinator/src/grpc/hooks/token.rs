//! A hook's token at its forge, or its App's key: tried there, kept sealed, and told to nobody again; and the webhook that is made there by it.

use farm_hooks::Provider;
use farm_proto::v1;
use farm_store::StoreError;
use farm_store::hooks::registered::Hook;
use farm_store::hooks::tokens::{KnownApp, KnownToken, SealedToken};
use farm_types::Invalid;
use secrecy::{ExposeSecret as _, SecretString};
use tonic::Status;
use uuid::Uuid;

use crate::forge::ask::{Webhook, is_of};
use crate::forge::github::app;
use crate::forge::{Access, Kind, Named, Repository, Unsaid};
use crate::grpc::builds::mounts::covered;
use crate::grpc::status;
use crate::hooks::receive::opened;
use crate::hooks::token::repository;
use crate::people::Member;
use crate::seal::Owner;
use crate::shared::Shared;

/// The longest token, bytes.
const LONGEST: usize = 16 * 1024;

/// Why a token isn't kept.
pub(super) enum Unkept {
    /// It came without TLS.
    Bare,
    /// It can't be one, or won't do at the forge.
    Invalid(Invalid),
    /// The forge doesn't say whether it will do.
    Unsaid(String),
    /// The webhook isn't made, which is no fault of the token.
    Uninstalled(String),
    /// The database, or what it says.
    Store(StoreError),
}

impl Unkept {
    pub(super) fn status(self, hook: &str, store: impl FnOnce(StoreError) -> Status) -> Status {
        match self {
            Self::Bare => Status::permission_denied(
                "the token came over a connection without TLS, on which others could read it, and was not taken: make another, and call \
                 the farm by https:// (`farm login https://…`), or have whoever runs it start the coordinator with --insecure-secrets",
            ),
            Self::Invalid(invalid) => status::invalid(invalid),
            Self::Unsaid(why) => Status::failed_precondition(format!(
                "the token for hook {hook} was not kept, as nobody could say whether it will do: {why}; try again once that is mended"
            )),
            Self::Uninstalled(why) => Status::failed_precondition(format!(
                "the webhook of hook {hook} could not be made at the forge: {why}"
            )),
            Self::Store(error) => store(error),
        }
    }
}

/// An App, as somebody names it: by its App id or client id, and where it is installed, if that is said.
#[derive(Debug)]
pub(super) struct Asked {
    pub name: String,
    pub installation: Option<i64>,
}

/// Keeps a token, or an App's private key, if it will do at the hook's forge.
pub(super) async fn set(
    shared: &Shared,
    member: &Member,
    hook: &Hook,
    (token, app): (SecretString, Option<Asked>),
) -> Result<(), Unkept> {
    if !covered(shared, member.caller.is_encrypted) {
        return Err(Unkept::Bare);
    }
    let invalid =
        |why: String| Unkept::Invalid(Invalid::new("token", format!("for hook {}", hook.name), why));
    let text = token.expose_secret();
    let is_word = text.chars().all(|c| c.is_ascii_graphic());
    if text.is_empty() || text.len() > LONGEST || !is_word && app.is_none() {
        return Err(invalid(format!(
            "a token is one word of at most {LONGEST} bytes, as the forge shows it once"
        )));
    }
    let provider: Provider =
        hook.provider.parse().map_err(|error| Unkept::Store(StoreError::corrupt(error)))?;
    let named = Named {
        provider,
        host: &hook.host,
        api: hook.api_url.as_deref(),
        full_name: &hook.full_name,
        id: hook.repository_id.as_deref(),
    };
    let Some((kind, at)) = named.at() else {
        return Err(invalid(format!("the farm knows no API of {provider}, so there is nothing to tell")));
    };
    let said = |why| match why {
        Unsaid::Away(why) => Unkept::Unsaid(why),
        unfit @ Unsaid::Unfit(_) => invalid(unfit.to_string()),
    };
    let access = match &app {
        None => Access::Token(token.clone()),
        Some(_) if kind != Kind::Github => {
            return Err(invalid(format!("{provider} has no Apps; give a token, without --app")));
        }
        // Its key's signature, and what is lent for clones, would come to somebody else.
        Some(_) if !is_of(&at.api, &hook.host) => {
            return Err(invalid(format!(
                "an App is known to the API of its own host only, and {} is none of {}; make the hook anew, with --api-url as that host has it, or \
                 without",
                at.api, hook.host
            )));
        }
        Some(Asked { name, installation }) => {
            app::name(name).map_err(|why| Unkept::Invalid(Invalid::new("App", name, why)))?;
            let key = app::Key::parse(text).map_err(|why| invalid(why.to_owned()))?;
            Access::App(shared.forges.installed(&at, (name, key), *installation).await.map_err(said)?)
        }
    };
    let app = match &access {
        Access::Token(_) => None,
        Access::App(app) => {
            Some(KnownApp { name: app.name.clone(), id: app.id, installation: app.installation })
        }
    };
    shared.forges.check(&Repository { kind, at, access }).await.map_err(said)?;
    let version = Uuid::new_v4();
    let (key, sealed) = shared.keyring.new_data_key(Owner::Token(member.project, hook.id, version));
    let new = SealedToken { version, key: sealed, bytes: key.seal_one(text.as_bytes()), app };
    let kept =
        shared.store.set_hook_token(&member.caller.by(), member.project, &hook.name, hook.id, &new).await;
    kept.map_err(Unkept::Store)?;
    shared.hints.told.notify_one();
    tracing::info!(project = %member.project_name, hook = hook.name, by = member.name, "a hook's token was set");
    Ok(())
}

/// Makes the hook's webhook at its forge, or changes it there.
pub(super) async fn install(shared: &Shared, member: &Member, hook: &Hook) -> Result<(), Unkept> {
    let invalid =
        |why: String| Unkept::Invalid(Invalid::new("token", format!("for hook {}", hook.name), why));
    let provider: Provider =
        hook.provider.parse().map_err(|error| Unkept::Store(StoreError::corrupt(error)))?;
    let begin = shared.config.hooks_url().ok_or_else(|| {
        let why = "the farm doesn't say where forges reach it: start a coordinator with --hooks-listen ADDRESS (and --hooks-url URL)";
        Unkept::Uninstalled(why.to_owned())
    })?;
    let (store, project) = (&shared.store, member.project);
    let token = store.hook_token(project, hook.id).await.map_err(Unkept::Store)?;
    let token = token.ok_or_else(|| {
        invalid(format!("it has none; give it one: farm hook token {} --create", hook.name))
    })?;
    let secrets = store.secrets_of_hook(project, hook.id).await.map_err(Unkept::Store)?;
    let (_, sealed) = secrets.first().ok_or(Unkept::Store(StoreError::NotFound("hook")))?;
    let secret = opened(shared, project, hook.id, sealed)
        .map_err(|why| Unkept::Uninstalled(format!("its secret can't be opened: {why}")))?;
    let named = Named {
        provider,
        host: &hook.host,
        api: hook.api_url.as_deref(),
        full_name: &hook.full_name,
        id: hook.repository_id.as_deref(),
    };
    let at = repository(shared, (project, hook.id), named, &token)
        .map_err(|why| Unkept::Uninstalled(why.to_string()))?;
    let url = format!("{begin}/hooks/{}", hook.address);
    shared.forges.install(&at, Webhook { url: &url, secret: &secret }).await.map_err(|why| match why {
        Unsaid::Away(why) => Unkept::Uninstalled(why),
        unfit @ Unsaid::Unfit(_) => invalid(unfit.to_string()),
    })?;
    store.hook_installed(&member.caller.by(), project, &hook.name, hook.id).await.map_err(Unkept::Store)?;
    tracing::info!(project = %member.project_name, hook = hook.name, by = member.name, "a webhook was made at its forge");
    Ok(())
}

/// As people see it.
pub(super) fn present(token: KnownToken) -> v1::HookToken {
    let (trouble, trouble_ms) =
        token.trouble.map_or_else(Default::default, |(why, at)| (why, at.timestamp_millis()));
    let (app, installation) = token.app.map(|app| (app.id, app.installation)).unwrap_or_default();
    v1::HookToken {
        created_by: token.created_by,
        created_ms: token.created_at.timestamp_millis(),
        told_ms: token.told_at.map_or(0, |at| at.timestamp_millis()),
        trouble,
        trouble_ms,
        waiting: u32::try_from(token.waiting).unwrap_or(0),
        given_up: u32::try_from(token.given_up).unwrap_or(0),
        // GitHub numbers them from 1 on.
        app: u64::try_from(app).unwrap_or(0),
        installation: u64::try_from(installation).unwrap_or(0),
    }
}
