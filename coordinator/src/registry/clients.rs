//! The clients of registries: one for each host, made when it is first needed, with what this host is to be told.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use farm_types::{Invalid, RegistryHost, Repository};
use oci_distribution::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_distribution::secrets::RegistryAuth;
use oci_distribution::{Client, Reference, RegistryOperation};
use secrecy::ExposeSecret as _;
use tokio::time::{Instant, timeout_at};

use super::{Registries, RegistryError};

/// How long a connection may take to come about.
pub(super) const CONNECT: Duration = Duration::from_secs(10);

/// What one call is made with.
pub(super) struct Call {
    pub client: Arc<Client>,
    pub reference: Reference,
    pub auth: RegistryAuth,
}

impl Registries {
    /// Finds out once whether a registry lets anybody in. The client would ask that before each of its calls.
    pub(super) async fn learn(
        &self,
        repository: &Repository,
        deadline: Instant,
    ) -> Result<(), RegistryError> {
        let host = repository.registry();
        let has_login = self.known.get(host).is_some_and(|registry| !registry.username.is_empty());
        let is_known = self.open.lock().unwrap_or_else(PoisonError::into_inner).contains_key(host);
        if has_login || is_known {
            return Ok(());
        }
        let call = self.prepare(repository)?;
        let asked = call.client.auth(&call.reference, &RegistryAuth::Anonymous, RegistryOperation::Pull);
        // What is wrong with it is told by the call that follows.
        if let Ok(Ok(token)) = timeout_at(deadline, asked).await {
            let is_open = token.is_none();
            self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned(), is_open);
            if is_open {
                // It has noted that it is to ask.
                self.forget_client(host);
            }
        }
        Ok(())
    }

    pub(super) fn forget_client(&self, host: &str) {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
    }

    /// Registries on this machine's loopback are taken for plain HTTP, as Docker does, unless configured.
    pub(super) fn plain_http(&self, host: &str) -> bool {
        let local = host.parse().is_ok_and(|host: RegistryHost| host.is_loopback());
        self.known.get(host).and_then(|registry| registry.plain_http).unwrap_or(local)
    }

    pub(super) fn prepare(&self, repository: &Repository) -> Result<Call, RegistryError> {
        let host = repository.registry();
        let client =
            self.client(host).map_err(|error| RegistryError::rejected(repository, error.to_string()))?;
        let name = repository.name().to_owned();
        // Tokens are for a repository, whichever tag is named.
        let reference = Reference::with_tag(host.to_owned(), name, "latest".to_owned());
        let auth = match self.known.get(host) {
            Some(registry) if !registry.username.is_empty() => {
                RegistryAuth::Basic(registry.username.clone(), registry.password.expose_secret().to_owned())
            }
            // A token of no characters, which an open registry does not look at, keeps the client from asking.
            _ if self.open.lock().unwrap_or_else(PoisonError::into_inner).get(host) == Some(&true) => {
                RegistryAuth::Bearer(String::new())
            }
            _ => RegistryAuth::Anonymous,
        };
        Ok(Call { client, reference, auth })
    }

    pub(super) fn client(&self, host: &str) -> Result<Arc<Client>, Invalid> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(host) {
            return Ok(Arc::clone(client));
        }
        let mut config = ClientConfig {
            read_timeout: Some(self.timeout),
            connect_timeout: Some(CONNECT),
            user_agent: concat!("farm/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        if self.plain_http(host) {
            config.protocol = ClientProtocol::HttpsExcept(vec![host.to_owned()]);
        }
        if let Some(file) = self.known.get(host).and_then(|registry| registry.ca_file.as_ref()) {
            let invalid = |why: String| Invalid::new("CA file", file.display().to_string(), why);
            let data = std::fs::read(file).map_err(|e| invalid(e.to_string()))?;
            config.extra_root_certificates.push(Certificate { encoding: CertificateEncoding::Pem, data });
        }
        let client = Client::try_from(config)
            .map_err(|e| Invalid::new("registry", host, format!("its client can't be made: {e}")))?;
        let client = Arc::new(client);
        clients.insert(host.to_owned(), Arc::clone(&client));
        Ok(client)
    }
}
