//! Taking a tag away, and not what it points to (OCI distribution-spec v1.1, "Deleting tags").
//!
//! Registries from before that version refuse it, or take the manifest away with all that points to it. So it is looked what has become
//! of the rest, and what is missing is put back: its bytes were read before, and its blobs are there until the registry collects its
//! garbage.

use std::time::Duration;

use farm_types::{Digest, Repository};
use tokio::time::Instant;

use super::{By, Deleted, Manifest, RegistryError};

/// What may pass is waited for so long in all, and asked for again after each pause: whatever was removed by then keeps builds out.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_secs(1);

/// What became of a tag that was to be taken away alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Untagged {
    /// It is gone, and nothing else.
    Gone,
    /// The registry can't.
    NotAllowed,
    /// The registry says that it is gone, and it is there.
    Stays,
    /// The registry took these away with it, tags or the digest: they are there again.
    PutBack(Vec<String>),
}

impl By<'_> {
    /// Takes a tag away that points to `digest`, as these others do.
    ///
    /// # Errors
    /// The registry refuses this caller or can't be reached; or the manifest isn't there.
    pub async fn untag(
        &self,
        repository: &Repository,
        tag: &str,
        digest: Digest,
        others: &[&str],
    ) -> Result<Untagged, RegistryError> {
        let at = digest.to_string();
        let missing = || RegistryError::rejected(repository, format!("{at} isn't there any more"));
        let manifest = self.manifest(repository, &at).await?.ok_or_else(missing)?;
        if self.delete_at(repository, tag).await? == Deleted::NotAllowed {
            return Ok(Untagged::NotAllowed);
        }
        // Whatever happens to one of them, the others are looked at: first the manifest itself, without which none of them is anything.
        let (mut lost, mut trouble) = (Vec::new(), None);
        let patience = Instant::now() + PATIENCE;
        for name in std::iter::once(at.as_str()).chain(others.iter().copied()) {
            match self.give_back(repository, name, &manifest, patience).await {
                Ok(true) => lost.push(name.to_owned()),
                Ok(false) => {}
                Err(error) => trouble = Some(error),
            }
        }
        if let Some(error) = trouble {
            return Err(error);
        }
        if lost.len() > 1 {
            // Who has lost tags knows them by these.
            lost.retain(|name| *name != at);
        }
        if !lost.is_empty() {
            return Ok(Untagged::PutBack(lost));
        }
        let is_there = self.head(repository, tag).await?.is_some();
        Ok(if is_there { Untagged::Stays } else { Untagged::Gone })
    }
}

impl By<'_> {
    /// Puts a manifest where it isn't any more, if it isn't there; says whether. Trouble that may pass is waited for a little.
    async fn give_back(
        &self,
        repository: &Repository,
        name: &str,
        manifest: &Manifest,
        until: Instant,
    ) -> Result<bool, RegistryError> {
        loop {
            let given = match self.head(repository, name).await {
                Ok(Some(_)) => Ok(false),
                Ok(None) => {
                    self.put(repository, name, &manifest.bytes, &manifest.media_type).await.map(|()| true)
                }
                Err(error) => Err(error),
            };
            match given {
                Err(error) if error.is_transient() && Instant::now() + PAUSE < until => {
                    tokio::time::sleep(PAUSE).await;
                }
                given => return given,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const MANIFEST: &[u8] =
        br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;

    /// What a registry does when it is to delete by the name of a tag.
    #[derive(Clone, Copy)]
    enum Deletes {
        Alone,
        WithAll,
        ManifestOnly,
        Nothing,
        Refuses,
    }

    /// A registry with one manifest, by what it is known there. A simulation: the real one in the tests has one way to delete.
    async fn registry(deletes: Deletes) -> (Repository, Arc<Mutex<Vec<String>>>) {
        let digest = Digest::of(MANIFEST).to_string();
        let names = Arc::new(Mutex::new(vec![digest.clone(), "1".to_owned(), "2".to_owned()]));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("127.0.0.1:{}/a", listener.local_addr().unwrap().port()).parse().unwrap();
        let known = Arc::clone(&names);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut asked = Vec::new();
                while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
                    asked.push(stream.read_u8().await.unwrap());
                }
                let text = String::from_utf8_lossy(&asked).into_owned();
                let mut words = text.split(' ');
                let (method, path) = (words.next().unwrap(), words.next().unwrap());
                let name = path.rsplit('/').next().unwrap().to_owned();
                let is_known = known.lock().unwrap().contains(&name);
                let body = if method == "GET" && is_known { MANIFEST } else { b"" };
                let status = match method {
                    "PUT" => {
                        let mut names = known.lock().unwrap();
                        names.push(name);
                        if !names.contains(&digest) {
                            names.push(digest.clone());
                        }
                        "201 Created"
                    }
                    "DELETE" => match deletes {
                        Deletes::Alone => {
                            known.lock().unwrap().retain(|known| *known != name);
                            "202 Accepted"
                        }
                        Deletes::WithAll => {
                            known.lock().unwrap().clear();
                            "202 Accepted"
                        }
                        Deletes::ManifestOnly => {
                            known.lock().unwrap().retain(|known| *known == "2");
                            "202 Accepted"
                        }
                        Deletes::Nothing => "202 Accepted",
                        Deletes::Refuses => "405 Method Not Allowed",
                    },
                    _ if is_known || path == "/v2/" => "200 OK",
                    _ => "404 Not Found",
                };
                let length = if method == "HEAD" { MANIFEST.len() } else { body.len() };
                let digest =
                    if is_known { format!("Docker-Content-Digest: {digest}\r\n") } else { String::new() };
                let head = format!(
                    "HTTP/1.1 {status}\r\nConnection: close\r\n{digest}Content-Length: {length}\r\n\r\n"
                );
                let answer = [head.as_bytes(), body].concat();
                stream.write_all(&answer).await.unwrap();
                // What was sent along is read before the connection goes.
                let _ = stream.shutdown().await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        });
        (at, names)
    }

    async fn untagged(deletes: Deletes) -> (Untagged, Vec<String>) {
        let (at, names) = registry(deletes).await;
        let registries = crate::registry::tests::reach(BTreeMap::new(), Duration::from_secs(10));
        let digest = Digest::of(MANIFEST);
        let untagged = registries.farm().untag(&at, "1", digest, &["2"]).await.unwrap();
        let mut names = names.lock().unwrap().clone();
        names.sort();
        (untagged, names)
    }

    #[tokio::test]
    async fn what_a_registry_takes_away_with_a_tag_is_put_back() {
        let digest = Digest::of(MANIFEST).to_string();
        let others = ["2".to_owned(), digest.clone()];
        assert_eq!(untagged(Deletes::Alone).await, (Untagged::Gone, others.to_vec()));
        assert_eq!(
            untagged(Deletes::WithAll).await,
            (Untagged::PutBack(vec!["2".to_owned()]), others.to_vec())
        );
        let (put_back, names) = untagged(Deletes::ManifestOnly).await;
        assert_eq!(put_back, Untagged::PutBack(vec![digest.clone()]));
        assert!(names.contains(&digest) && names.contains(&"2".to_owned()));
        let all = ["1".to_owned(), "2".to_owned(), digest.clone()];
        assert_eq!(untagged(Deletes::Nothing).await, (Untagged::Stays, all.to_vec()));
        assert_eq!(untagged(Deletes::Refuses).await, (Untagged::NotAllowed, all.to_vec()));
        let (at, _) = registry(Deletes::Alone).await;
        let registries = crate::registry::tests::reach(BTreeMap::new(), Duration::from_secs(10));
        let gone = registries.farm().untag(&at, "1", Digest::of(b"other"), &[]).await.unwrap_err();
        assert!(gone.message.contains("isn't there any more"), "{gone}");
    }
}
