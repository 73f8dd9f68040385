//! Signatures of what is put, before any tag points to it: by the key of its project that the build was accepted with.
//!
//! Each image is signed in both forms that cosign knows ([`farm_core::publish::signature`], [`farm_core::publish::bundle`]): version 2 and most
//! admission controllers look for the first, version 3 for the second, and where there is any bundle, whoever's, for no other. Invariant: what
//! this key has signed already isn't signed once more, so that a build that is published anew, by a coordinator that comes after one that died
//! as well, adds nothing; and what others have signed stays.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use farm_core::publish::bundle::{self, Bundle};
use farm_core::publish::referrer::{EMPTY_CONFIG, Subject, fallback_tag};
use farm_core::publish::signature::{self, Signatures};
use farm_store::StoreError;
use farm_store::publish::destinations::DueDestination;
use farm_types::{Digest, FailureCode, SigningKeyName};
use futures::{StreamExt as _, TryStreamExt as _};

use super::locks::TagLocks;
use crate::registry::{By, RegistryError};
use crate::seal::{Owner, Unopened};
use crate::shared::Shared;
use crate::signing::{PublicKey, SigningKey};

/// So many images of an index are signed at once.
const AT_ONCE: usize = 4;
/// So many bundles that refer to an image are looked into, from the youngest on.
const MOST_BUNDLES: usize = 100;

/// Why it isn't signed.
pub(super) enum Unsigned {
    Store(StoreError),
    Registry(RegistryError),
}

impl From<StoreError> for Unsigned {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<RegistryError> for Unsigned {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

/// Signs what is there of a destination, if its build asks for that.
pub(super) async fn sign(
    shared: &Shared,
    due: &DueDestination,
    registries: &By<'_>,
    locks: &TagLocks,
) -> Result<(), Unsigned> {
    let Some((name, _)) = &due.sign else { return Ok(()) };
    let key = open(shared, due).await?;
    let subjects = signature::subjects(&due.bytes, &due.media_type).map_err(StoreError::corrupt)?;
    let signing = &Signing { due, registries, locks, public: key.public(), key };
    let count = subjects.len();
    let signed = futures::stream::iter(subjects).map(|subject| async move {
        let made = [signing.simple(&subject).await, signing.bundled(&subject).await];
        let made = made.into_iter().collect::<Result<Vec<bool>, RegistryError>>();
        made.map_err(|error| RegistryError {
            message: format!("{}@{} can't be signed: {}", due.repository, subject.digest, error.message),
            ..error
        })
    });
    let made: Vec<Vec<bool>> = signed.buffer_unordered(AT_ONCE).try_collect().await?;
    let made = made.into_iter().flatten().filter(|made| *made).count();
    tracing::info!(key = %name, images = count, made, "signed");
    Ok(())
}

/// The key that the build was accepted with, and no other that has its name by now.
async fn open(shared: &Shared, due: &DueDestination) -> Result<SigningKey, Unsigned> {
    let Some((name, version)) = &due.sign else {
        return Err(StoreError::corrupt("nothing is to be signed").into());
    };
    let gone = |what: &str| {
        let build = &due.build;
        let message = format!(
            "what build {build} publishes was to be signed by {name}, and that signing key was {what} since the build was accepted; tags \
             stay as they are: farm retry {build} signs by the key that has the name then"
        );
        RegistryError { code: FailureCode::SigningKeyGone, message }
    };
    let kept = shared.loops.sealed_signing_key(due.project, name).await?.ok_or_else(|| gone("removed"))?;
    if *version != Some(kept.version) {
        return Err(gone("replaced").into());
    }
    let owner = Owner::Signing(due.project, name, kept.version);
    let opened = shared.keyring.open(owner, &kept.key).and_then(|key| key.open_one(&kept.bytes));
    let key = opened.map_err(|why| unopened(name, &why))?;
    SigningKey::from_der(&key).map_err(|why| unusable(name, why).into())
}

fn unopened(name: &SigningKeyName, why: &Unopened) -> RegistryError {
    tracing::error!(%name, %why, "a signing key can't be opened");
    match why {
        // Whoever runs the farm puts it back, or another coordinator has it.
        Unopened::KeyIsLost(_) => RegistryError {
            code: FailureCode::RegistryUnavailable,
            message: format!(
                "signing key {name} can't be opened: {why}; whoever runs the farm gives all coordinators the same keys (farm-coordinator keys ls)"
            ),
        },
        Unopened::Forged => unusable(name, "it isn't in the farm's database as it was put there"),
    }
}

fn unusable(name: &SigningKeyName, why: &str) -> RegistryError {
    let message = format!("signing key {name} can't be used: {why}; an admin of the project sets it anew");
    RegistryError { code: FailureCode::SigningKeyGone, message }
}

/// What is signed, by which key and where.
struct Signing<'a> {
    due: &'a DueDestination,
    registries: &'a By<'a>,
    locks: &'a TagLocks,
    key: SigningKey,
    public: PublicKey,
}

impl Signing<'_> {
    /// Puts a signature under the tag for them; false: the key's is there.
    async fn simple(&self, subject: &Subject) -> Result<bool, RegistryError> {
        let (repository, registries) = (&self.due.repository, self.registries);
        let payload = signature::payload(repository, subject.digest);
        let tag = signature::tag(subject.digest);
        let lock = self.locks.of(format!("{repository}:{tag}"));
        let _turn = lock.lock().await;
        let of_others = |why: farm_types::Invalid| {
            let text = format!(
                "{repository}:{tag}, where signatures of the image lie, can't be added to: {why}; remove that tag (farm rm {repository}:{tag}), \
                 and have only those push there whom you trust"
            );
            RegistryError::rejected(repository, text)
        };
        let there = match registries.manifest(repository, &tag).await? {
            Some(there) => Signatures::read(&there.bytes).map_err(of_others)?,
            None => Signatures::default(),
        };
        if there.of(Digest::of(&payload)).any(|text| self.public.has_signed_text(&payload, text)) {
            return Ok(false);
        }
        let put = there.with(&payload, &self.signature(&payload)?).map_err(of_others)?;
        for blob in [payload, put.config] {
            self.blob(blob).await?;
        }
        registries.put(repository, &tag, &put.manifest, &put.media_type).await?;
        Ok(true)
    }

    /// Puts a bundle that refers to the image; false: the key's is there.
    async fn bundled(&self, subject: &Subject) -> Result<bool, RegistryError> {
        let repository = &self.due.repository;
        let statement = bundle::statement(subject.digest);
        let to_sign = bundle::to_sign(&statement);
        let statement = BASE64.encode(&statement);
        let lock = self.locks.of(format!("{repository}:{}", fallback_tag(subject.digest)));
        let _turn = lock.lock().await;
        if self.has_bundle(subject, &statement, &to_sign).await? {
            return Ok(false);
        }
        let bundle = Bundle::new(statement, self.signature(&to_sign)?, self.public.hint());
        let unwritable = |error: serde_json::Error| RegistryError::rejected(repository, error.to_string());
        let bundle = bundle.bytes().map_err(unwritable)?;
        let artifact = bundle::artifact(&bundle, subject).map_err(unwritable)?;
        self.blob(bundle).await?;
        self.blob(EMPTY_CONFIG).await?;
        let entry = bundle::entry(&artifact);
        self.registries.refer(repository, subject.digest, &artifact, &entry).await?;
        Ok(true)
    }

    /// Whether one that refers to the image is this key's.
    async fn has_bundle(
        &self,
        subject: &Subject,
        statement: &str,
        signed: &[u8],
    ) -> Result<bool, RegistryError> {
        let (repository, registries) = (&self.due.repository, self.registries);
        let all = registries.referrers(repository, subject.digest).await?;
        let digests = all.iter().rev().filter(|entry| bundle::may_be(entry));
        // Who writes a list may write anything into it.
        let digests = digests.filter_map(|entry| entry.digest.parse::<Digest>().ok()).take(MOST_BUNDLES);
        for digest in digests {
            let Some(artifact) = registries.manifest(repository, &digest.to_string()).await? else {
                continue;
            };
            let Some(blob) = bundle::blob(&artifact.bytes) else { continue };
            // What is listed needn't be there.
            let bytes = match registries.blob(repository, blob, bundle::LONGEST).await {
                Ok(bytes) => bytes,
                Err(error) if error.is_transient() => return Err(error),
                Err(_) => continue,
            };
            let Some(bundle) = Bundle::read(&bytes) else { continue };
            if bundle.of(statement).any(|text| self.public.has_signed_text(signed, text)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// In base64.
    fn signature(&self, message: &[u8]) -> Result<String, RegistryError> {
        let signed = self.key.sign(message);
        let broken =
            |why: &str| RegistryError { code: FailureCode::RegistryUnavailable, message: why.to_owned() };
        signed.map(|signature| BASE64.encode(signature)).map_err(broken)
    }

    /// Brings a blob there, unless it is.
    async fn blob(&self, blob: impl Into<Bytes>) -> Result<(), RegistryError> {
        let (repository, blob) = (&self.due.repository, blob.into());
        if self.registries.has_blob(repository, Digest::of(&blob)).await? {
            return Ok(());
        }
        self.registries.put_blob(repository, blob).await
    }
}
