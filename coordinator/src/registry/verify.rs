//! Whether a registry takes a login, before it is kept.
//!
//! As `docker login` does it: `GET /v2/` with the login, or with a token of the registry's service that is asked for nothing. What answers
//! whoever asks can't tell. Nothing of it is kept here.

use std::sync::Arc;

use farm_types::{FailureCode, Invalid, RegistryHost, Repository};
use reqwest::{Method, Url};
use tokio::time::{Instant, timeout_at};

use super::challenge::Challenge;
use super::login::{Login, LoginBy, Whose};
use super::realm::{Trust, trust};
use super::tokens::with_login;
use super::{Registries, RegistryError};

/// Why a login is not known to be good.
#[derive(Debug, thiserror::Error)]
pub enum Unverified {
    /// The registry doesn't take it.
    #[error("{0}")]
    Refused(String),
    /// It can't be asked, or what answers is no registry.
    #[error(transparent)]
    Registry(RegistryError),
    /// No request can be sent to such a host.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

impl Registries {
    /// Shows a registry a login.
    ///
    /// # Errors
    /// It doesn't take it; or it can't be asked.
    pub async fn verify(&self, login: &Arc<Login>) -> Result<(), Unverified> {
        let host = &login.host;
        let deadline = Instant::now() + self.timeout;
        let about: Repository = format!("{host}/any").parse()?;
        let Ok(Ok(_turn)) = timeout_at(deadline, self.looks.acquire()).await else {
            return Err(Unverified::Registry(RegistryError::too_many_looks(&about)));
        };
        let whose = Whose::Project(Arc::clone(login));
        let refused = || {
            Unverified::Refused(match &login.by {
                LoginBy::Password(username, _) => format!(
                    "{host} doesn't take this password for user {username:?}; give one, or a token of the registry's, that `docker \
                     login {host}` takes"
                ),
                LoginBy::Helper(name, _) => format!(
                    "{host} doesn't take what credential helper {name:?} gives; whoever runs the farm finds out why: the user that it \
                     runs as may lack rights in the cloud"
                ),
            })
        };
        let asked = async {
            let (way, _) = self.ask_way(&about, deadline).await.map_err(Unverified::Registry)?;
            let client = self.client(&about);
            let request = client.request(Method::GET, &self.url(host.as_str(), ""));
            let request = match &way {
                Some(challenge) => match self.token(&about, challenge, &[], &whose, deadline).await {
                    Ok(Some(given)) => request.bearer_auth(&given.token),
                    Ok(None) => request,
                    // Its own service said no; another one wasn't asked.
                    Err(error) if error.code == FailureCode::RegistryAuth && self.is_own(host, challenge) => {
                        return Err(refused());
                    }
                    Err(error) => return Err(Unverified::Registry(error)),
                },
                None => {
                    let login =
                        self.credentials(host.as_str(), &whose).await.map_err(Unverified::Registry)?;
                    with_login(login.as_ref(), request)
                }
            };
            let answered = match timeout_at(deadline, client.send(request)).await {
                Ok(answered) => answered.map_err(|failed| RegistryError::unsent(&about, &failed)),
                Err(_) => Err(RegistryError::timeout(&about, self.timeout)),
            };
            answered.map_err(Unverified::Registry)
        };
        let status = asked.await?.status();
        match status.as_u16() {
            200..300 => Ok(()),
            401 | 403 => Err(refused()),
            408 | 425 | 429 | 500.. => {
                let message = format!("{host} can't be reached or has trouble: it answered {status}");
                Err(Unverified::Registry(RegistryError { code: FailureCode::RegistryUnavailable, message }))
            }
            _ => {
                let message = format!(
                    "{host} answers GET /v2/ with {status}, as no registry does; name the registry as images' names do"
                );
                Err(Unverified::Registry(RegistryError { code: FailureCode::RegistryRejected, message }))
            }
        }
    }

    /// Whether the token service that a registry names is one that gets its logins.
    fn is_own(&self, host: &RegistryHost, challenge: &Challenge) -> bool {
        let (name, plain) = (host.as_str(), self.plain_http(host.as_str()));
        let realm = Url::parse(&challenge.realm);
        realm.is_ok_and(|realm| matches!(trust(name, plain, self.known.get(name), &realm), Trust::Own(_)))
    }
}
