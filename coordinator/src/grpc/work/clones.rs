//! What a hook's fetches are lent by its GitHub App, where the project has no login for the repository: a token for that repository alone, by
//! which it can be read and no more, and which ends within the hour.

use std::time::Duration;

use farm_hooks::Provider;
use farm_proto::v1;
use farm_store::StoreError;
use farm_store::hooks::tokens::HookApp;
use farm_types::{AttemptId, GitPlace, GitUrl, ProjectId};
use secrecy::ExposeSecret as _;
use tokio::time::timeout;
use tonic::Status;

use crate::forge::ask::is_of;
use crate::forge::{Access, Named, Unsaid};
use crate::grpc::builds::mounts::covered;
use crate::grpc::status;
use crate::hooks::token::repository;
use crate::shared::Shared;

/// So long it may take: a worker waits for 40 s.
const LENT_WITHIN: Duration = Duration::from_secs(30);
/// As whom GitHub is shown such a token by git.
const USERNAME: &str = "x-access-token";

/// A login for an attempt's fetch; an empty one: there is none.
///
/// # Errors
/// Others could read it on the way, the App's key can't be opened, or GitHub doesn't say now what it is lent.
pub(crate) async fn lent(
    shared: &Shared,
    (project, attempt): (ProjectId, AttemptId),
    url: &GitUrl,
    is_encrypted: bool,
) -> Result<v1::LendGitLoginResponse, Status> {
    let none = v1::LendGitLoginResponse::default();
    if url.scheme() != "https" {
        return Ok(none);
    }
    let hook = shared.store.app_of_fetch(attempt).await.map_err(status::store)?;
    let Some(hook) = hook.filter(|hook| is_own(hook, url)) else { return Ok(none) };
    if !covered(shared, is_encrypted) {
        return Err(Status::permission_denied(
            "the worker calls the farm without TLS, so it is lent no login; start it with an address that begins with https://",
        ));
    }
    let provider: Provider =
        hook.provider.parse().map_err(|error| status::store(StoreError::corrupt(error)))?;
    let named = Named {
        provider,
        host: &hook.host,
        api: hook.api_url.as_deref(),
        full_name: &hook.full_name,
        id: hook.repository_id.as_deref(),
    };
    let at = repository(shared, (project, hook.hook), named, &hook.token)
        .map_err(|why| Status::failed_precondition(why.to_string()))?;
    let Access::App(app) = &at.access else { return Ok(none) };
    // Whoever asks goes away soon after.
    let lending = timeout(LENT_WITHIN, Box::pin(shared.forges.lend_clone(app, &at.at)));
    let said = lending.await.unwrap_or_else(|_| Err(Unsaid::Away("GitHub takes long to answer".to_owned())));
    let noted = async |lends: bool| {
        if hook.lends_clones == lends {
            return Ok(());
        }
        let noted = shared.store.note_clones(project, (hook.hook, hook.token.version), lends).await;
        noted.map_err(status::store)
    };
    match said {
        Ok(Some(token)) => {
            noted(true).await?;
            Ok(v1::LendGitLoginResponse {
                username: USERNAME.to_owned(),
                token: token.expose_secret().to_owned(),
                place: GitPlace::of(url).as_str().to_owned(),
                ..Default::default()
            })
        }
        // Another coordinator was lent one, or this one before it was started again.
        Ok(None) if hook.lends_clones => {
            Err(Status::unavailable("GitHub doesn't say now what the App is lent"))
        }
        // What is public is fetched without; of all else git says it.
        Ok(None) => Ok(none),
        Err(unfit @ Unsaid::Unfit(_)) => {
            tracing::debug!(%unfit, "the App isn't lent a token for clones");
            noted(false).await?;
            Ok(none)
        }
        Err(Unsaid::Away(why)) => Err(Status::unavailable(why)),
    }
}

/// Whether what is fetched is the hook's repository at its forge, and that is where what is lent comes from: nobody else is shown it.
fn is_own(hook: &HookApp, url: &GitUrl) -> bool {
    let path = url.path().trim_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    let is_its_api = hook.api_url.as_deref().is_none_or(|api| is_of(api, &hook.host));
    is_its_api && url.host().eq_ignore_ascii_case(&hook.host) && path.eq_ignore_ascii_case(&hook.full_name)
}

#[cfg(test)]
mod tests {
    use farm_store::builds::mounts::SealedKey;
    use farm_store::hooks::tokens::SealedToken;
    use farm_types::HookId;

    use super::*;

    #[test]
    fn what_is_lent_is_shown_at_the_hooks_own_repository_only() {
        let hook = HookApp {
            hook: HookId::generate(),
            provider: "github".to_owned(),
            host: "git.example:8443".to_owned(),
            api_url: None,
            full_name: "acme/app".to_owned(),
            repository_id: None,
            lends_clones: false,
            token: SealedToken {
                version: uuid::Uuid::nil(),
                key: SealedKey { by: String::new(), bytes: Vec::new() },
                bytes: Vec::new(),
                app: None,
            },
        };
        for (url, expected) in [
            ("https://git.example:8443/acme/app.git", true),
            ("https://git.example:8443/Acme/App", true),
            ("https://git.example/acme/app.git", false),
            ("https://evil.example:8443/acme/app.git", false),
            ("https://git.example:8443/acme/app2.git", false),
            ("https://git.example:8443/x/acme/app.git", false),
        ] {
            assert_eq!(is_own(&hook, &url.parse().unwrap()), expected, "{url}");
        }
        // What another's API lends is for no other host.
        let elsewhere = HookApp { api_url: Some("https://api.github.com".to_owned()), ..hook };
        assert!(!is_own(&elsewhere, &"https://git.example:8443/acme/app.git".parse().unwrap()));
    }
}
