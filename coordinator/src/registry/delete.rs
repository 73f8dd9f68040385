//! Taking a manifest out of a registry (OCI distribution-spec v1.1, "Deleting Manifests").

use farm_types::{Digest, FailureCode, Repository};
use reqwest::{Method, StatusCode};

use super::requests::{Asked, Told};
use super::{By, RegistryError};

/// What became of a manifest that was to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone, or wasn't there.
    Gone,
    /// The registry is configured to delete nothing; or, of a tag alone, it can't.
    NotAllowed,
}

/// The longest answer to a deletion, bytes; there is nothing in it that is read.
const MAX_ANSWER: usize = 64 * 1024;

impl By<'_> {
    /// Takes the manifest of this digest out of the repository. Registries that keep a tag by its manifest take the tags
    /// away that point to it.
    ///
    /// # Errors
    /// The registry refuses this caller or can't be reached.
    pub async fn delete(&self, repository: &Repository, digest: Digest) -> Result<Deleted, RegistryError> {
        self.delete_at(repository, &digest.to_string()).await
    }

    /// Asks for the deletion of what is under this tag or digest. Of registries before distribution-spec v1.1 some refuse the name of a
    /// tag here.
    pub(super) async fn delete_at(
        &self,
        repository: &Repository,
        at: &str,
    ) -> Result<Deleted, RegistryError> {
        let host = repository.registry();
        let path = format!("manifests/{at}");
        let asked = Asked { method: Method::DELETE, ..Asked::get(&path, MAX_ANSWER) };
        // Whatever comes of it: what was seen there may not be there any more.
        let told = self.tell(repository, &asked).await;
        self.registries.memory.forget(repository);
        let refusal = match told? {
            Told::Answer(_) => return Ok(Deleted::Gone),
            Told::No(refusal) => refusal,
        };
        let status = refusal.status;
        // What is no digest is none that some registries can delete.
        let is_by_name = !at.contains(':');
        match status {
            StatusCode::NOT_FOUND if is_by_name => Ok(Deleted::NotAllowed),
            StatusCode::NOT_FOUND => Ok(Deleted::Gone),
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Ok(Deleted::NotAllowed),
            StatusCode::BAD_REQUEST if is_by_name => Ok(Deleted::NotAllowed),
            // As some registries say it.
            StatusCode::BAD_REQUEST if refusal.has(&["UNSUPPORTED"]) => Ok(Deleted::NotAllowed),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(RegistryError {
                code: FailureCode::RegistryAuth,
                message: match self.own() {
                    Some(login) => format!(
                        "{host} doesn't let the project's user {} delete in {} ({status}); give it the right to delete",
                        login.who(),
                        repository.name()
                    ),
                    None => format!(
                        "{host} doesn't let farm delete in {} ({status}); give the user of [registries.\"{host}\"] the right \
                         to delete, or set retention.unpublished_hours to 0",
                        repository.name()
                    ),
                },
            }),
            _ if status.is_server_error() || [408, 425, 429].contains(&status.as_u16()) => {
                Err(RegistryError {
                    code: FailureCode::RegistryUnavailable,
                    message: format!("{host} can't be reached or has trouble: it answered {status}"),
                })
            }
            _ => Err(RegistryError::rejected(repository, format!("it answered {status} to a deletion"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What farm makes of an answer with this status and body.
    async fn answered(status: &str, body: &str) -> Result<Deleted, RegistryError> {
        asked_for(&Digest::of(b"x").to_string(), status, body).await
    }

    async fn asked_for(what: &str, status: &str, body: &str) -> Result<Deleted, RegistryError> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("127.0.0.1:{}/a", listener.local_addr().unwrap().port()).parse().unwrap();
        let answer =
            format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 4096];
                let read = stream.read(&mut head).await.unwrap();
                let open = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
                let is_deletion = head[..read].starts_with(b"DELETE");
                stream.write_all(if is_deletion { answer.as_bytes() } else { open }).await.unwrap();
            }
        });
        let registries =
            crate::registry::tests::reach(Default::default(), std::time::Duration::from_secs(10));
        registries.farm().delete_at(&at, what).await
    }

    #[tokio::test]
    async fn a_registry_that_deletes_nothing_is_told_from_one_that_has_trouble_or_refuses() {
        let unsupported = "{\"errors\":[{\"code\":\"UNSUPPORTED\"}]}";
        assert_eq!(answered("202 Accepted", "").await.unwrap(), Deleted::Gone);
        assert_eq!(answered("405 Method Not Allowed", unsupported).await.unwrap(), Deleted::NotAllowed);
        assert_eq!(answered("400 Bad Request", unsupported).await.unwrap(), Deleted::NotAllowed);
        let code = async |status: &str| answered(status, "").await.unwrap_err().code;
        assert_eq!(code("400 Bad Request").await, FailureCode::RegistryRejected);
        assert_eq!(code("403 Forbidden").await, FailureCode::RegistryAuth);
        assert_eq!(code("429 Too Many Requests").await, FailureCode::RegistryUnavailable);
        assert_eq!(code("503 Service Unavailable").await, FailureCode::RegistryUnavailable);
    }

    #[tokio::test]
    async fn a_tag_alone_is_not_taken_away_by_every_registry() {
        let invalid = "{\"errors\":[{\"code\":\"DIGEST_INVALID\"}]}";
        assert_eq!(asked_for("1", "202 Accepted", "").await.unwrap(), Deleted::Gone);
        for refusal in ["400 Bad Request", "404 Not Found", "405 Method Not Allowed"] {
            assert_eq!(asked_for("1", refusal, invalid).await.unwrap(), Deleted::NotAllowed, "{refusal}");
        }
        assert!(asked_for("1", "503 Service Unavailable", "").await.unwrap_err().is_transient());
    }
}
