//! What is kept sealed: secrets and keys, which must be worth nothing to whoever has only the database.
//!
//! The farm has keys ([`keyring`]), of which the first seals. They seal data keys only: one for each build, or for what a project
//! keeps. A data key seals values ([`DataKey`]). So a change of the farm's key leaves values alone, and what was sealed for one
//! owner is nothing to another: owner and name are bound in, as associated data.
//!
//! Format: AES-256-GCM (NIST SP 800-38D), a random nonce of 12 bytes, the ciphertext, the tag of 16 bytes.

mod keyring;

use std::fmt;

use farm_types::{
    BuildId, GitPlace, HookId, MountId, NoticeId, ProjectId, RegistryHost, SecretName, SigningKeyName,
    ValueType,
};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use uuid::Uuid;
use zeroize::Zeroizing;

pub use self::keyring::{KeyId, Keyring, remove, rotate};

/// Bytes of a key.
const KEY_BYTES: usize = 32;

/// Whose data key it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner<'a> {
    /// A build's, while it lasts.
    Build(ProjectId, BuildId),
    /// Of one version of a project's secret, while it counts.
    Secret(ProjectId, &'a SecretName, i32),
    /// Of a project's login at a registry.
    Login(ProjectId, &'a RegistryHost),
    /// Of a project's login for git: its kind, and where it counts.
    Git(ProjectId, &'static str, &'a GitPlace),
    /// Of one secret of a webhook, by that secret's id.
    Hook(ProjectId, HookId, Uuid),
    /// Of a webhook's token at its forge, by that token's version.
    Token(ProjectId, HookId, Uuid),
    /// Of where a notice goes and what it is signed by, by the version of that.
    Notice(ProjectId, NoticeId, Uuid),
    /// Of one version of a key by which a project signs.
    Signing(ProjectId, &'a SigningKeyName, Uuid),
}

impl Owner<'_> {
    /// No two owners have the same bytes: what varies in length comes last.
    fn bound(self) -> Vec<u8> {
        match self {
            Self::Build(project, build) => {
                [&b"farm build key"[..], project.as_uuid().as_bytes(), build.as_uuid().as_bytes()].concat()
            }
            Self::Secret(project, name, version) => [
                &b"farm project secret"[..],
                project.as_uuid().as_bytes(),
                &version.to_be_bytes(),
                name.as_str().as_bytes(),
            ]
            .concat(),
            Self::Login(project, host) => {
                [&b"farm registry login"[..], project.as_uuid().as_bytes(), host.as_str().as_bytes()].concat()
            }
            Self::Git(project, kind, place) => [
                &b"farm git login"[..],
                project.as_uuid().as_bytes(),
                kind.as_bytes(),
                b"\n",
                place.as_str().as_bytes(),
            ]
            .concat(),
            Self::Hook(project, hook, secret) => [
                &b"farm hook secret"[..],
                project.as_uuid().as_bytes(),
                hook.as_uuid().as_bytes(),
                secret.as_bytes(),
            ]
            .concat(),
            Self::Token(project, hook, version) => [
                &b"farm hook token"[..],
                project.as_uuid().as_bytes(),
                hook.as_uuid().as_bytes(),
                version.as_bytes(),
            ]
            .concat(),
            Self::Notice(project, notice, version) => [
                &b"farm notice"[..],
                project.as_uuid().as_bytes(),
                notice.as_uuid().as_bytes(),
                version.as_bytes(),
            ]
            .concat(),
            Self::Signing(project, name, version) => [
                &b"farm signing key"[..],
                project.as_uuid().as_bytes(),
                version.as_bytes(),
                name.as_str().as_bytes(),
            ]
            .concat(),
        }
    }
}

/// Why something can't be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unopened {
    /// It was sealed by a key that isn't here.
    #[error("it was sealed by the farm's key {0}, which this coordinator hasn't")]
    KeyIsLost(String),
    /// It isn't what was sealed, or it was for something else.
    #[error("it isn't what was sealed")]
    Forged,
}

/// A value in clear, erased when it is dropped.
pub type Clear = Zeroizing<Vec<u8>>;

/// Seals and opens values of one owner.
pub struct DataKey {
    key: LessSafeKey,
    /// Whose it is, as values are bound to it.
    owner: Vec<u8>,
}

impl DataKey {
    /// A value for this mount, sealed.
    pub fn seal(&self, mount: ValueType, id: &MountId, value: &[u8]) -> Vec<u8> {
        seal(&self.key, &self.bound(mount, id), value)
    }

    /// The value that was sealed for this mount.
    ///
    /// # Errors
    /// It wasn't.
    pub fn open(&self, mount: ValueType, id: &MountId, sealed: &[u8]) -> Result<Clear, Unopened> {
        open(&self.key, &self.bound(mount, id), sealed)
    }

    /// The one value of an owner that has no mounts, sealed.
    pub fn seal_one(&self, value: &[u8]) -> Vec<u8> {
        seal(&self.key, &self.owner, value)
    }

    /// The value that was sealed so.
    ///
    /// # Errors
    /// It wasn't.
    pub fn open_one(&self, sealed: &[u8]) -> Result<Clear, Unopened> {
        open(&self.key, &self.owner, sealed)
    }

    fn bound(&self, mount: ValueType, id: &MountId) -> Vec<u8> {
        let mut bound = self.owner.clone();
        bound.extend_from_slice(mount.as_str().as_bytes());
        bound.push(b'\n');
        bound.extend_from_slice(id.as_str().as_bytes());
        bound
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKey").finish_non_exhaustive()
    }
}

/// Takes 32 bytes for a key.
fn key(bytes: &[u8; KEY_BYTES]) -> LessSafeKey {
    match UnboundKey::new(&AES_256_GCM, bytes) {
        Ok(key) => LessSafeKey::new(key),
        Err(ring::error::Unspecified) => unreachable!("AES-256 takes every key of 32 bytes"),
    }
}

fn seal(key: &LessSafeKey, bound: &[u8], value: &[u8]) -> Vec<u8> {
    let nonce: [u8; NONCE_LEN] = rand::random();
    let mut sealed = nonce.to_vec();
    let mut text = Zeroizing::new(value.to_vec());
    let tag =
        key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound), &mut text);
    sealed.append(&mut text);
    match tag {
        Ok(tag) => sealed.extend_from_slice(tag.as_ref()),
        Err(ring::error::Unspecified) => unreachable!("AES-GCM takes up to 64 GiB"),
    }
    sealed
}

fn open(key: &LessSafeKey, bound: &[u8], sealed: &[u8]) -> Result<Clear, Unopened> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(Unopened::Forged)?;
    let mut text = Zeroizing::new(rest.to_vec());
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let length = key.open_in_place(nonce, Aad::from(bound), &mut text).map_err(|_| Unopened::Forged)?.len();
    text.truncate(length);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owner() -> Owner<'static> {
        Owner::Build(ProjectId::generate(), BuildId::generate())
    }

    proptest! {
        #[test]
        fn a_value_is_opened_by_its_owner_for_its_mount_and_by_nobody_else(
            value in proptest::collection::vec(any::<u8>(), 0..2000), bit in any::<prop::sample::Index>()
        ) {
            let keyring = Keyring::from_text(&keyring::new_line()).unwrap();
            let owner = owner();
            let (key, sealed_key) = keyring.new_data_key(owner);
            let id: MountId = "npm".parse().unwrap();
            let sealed = key.seal(ValueType::Secret, &id, &value);
            prop_assert!(value.len() < 8 || !sealed.windows(value.len()).any(|part| part == value));
            let again = keyring.open(owner, &sealed_key).unwrap();
            prop_assert_eq!(&*again.open(ValueType::Secret, &id, &sealed).unwrap(), &value);
            // Not for another id, mount, build or project; not with a bit changed, not cut.
            prop_assert!(again.open(ValueType::Ssh, &id, &sealed).is_err());
            prop_assert!(again.open(ValueType::Secret, &"np".parse().unwrap(), &sealed).is_err());
            let Owner::Build(project, build) = owner else { panic!("{owner:?}") };
            for other in [Owner::Build(project, BuildId::generate()), Owner::Build(ProjectId::generate(), build)] {
                prop_assert_eq!(keyring.open(other, &sealed_key).unwrap_err(), Unopened::Forged);
            }
            let mut changed = sealed.clone();
            let at = bit.index(changed.len() * 8);
            changed[at / 8] ^= 1 << (at % 8);
            prop_assert!(again.open(ValueType::Secret, &id, &changed).is_err());
            prop_assert!(again.open(ValueType::Secret, &id, &sealed[..sealed.len() - 1]).is_err());
        }
    }

    #[test]
    fn a_projects_secret_is_of_its_project_its_name_and_its_version() {
        let keyring = Keyring::from_text(&keyring::new_line()).unwrap();
        let (project, name): (_, SecretName) = (ProjectId::generate(), "npm".parse().unwrap());
        let (key, sealed_key) = keyring.new_data_key(Owner::Secret(project, &name, 3));
        let sealed = key.seal_one(b"hunter22");
        let again = keyring.open(Owner::Secret(project, &name, 3), &sealed_key).unwrap();
        assert_eq!(&*again.open_one(&sealed).unwrap(), b"hunter22");
        let npm2: SecretName = "npm2".parse().unwrap();
        for other in [
            Owner::Secret(ProjectId::generate(), &name, 3),
            Owner::Secret(project, &npm2, 3),
            Owner::Secret(project, &name, 4),
            Owner::Build(project, BuildId::generate()),
        ] {
            assert_eq!(keyring.open(other, &sealed_key).unwrap_err(), Unopened::Forged, "{other:?}");
            // Nor has another's data key a value that was moved to it.
            let (others, _) = keyring.new_data_key(other);
            assert_eq!(others.open_one(&sealed).unwrap_err(), Unopened::Forged);
        }
    }

    #[test]
    fn a_hooks_secret_is_of_its_project_its_hook_and_itself() {
        let keyring = Keyring::from_text(&keyring::new_line()).unwrap();
        let (project, hook, secret) = (ProjectId::generate(), HookId::generate(), Uuid::new_v4());
        let (key, sealed_key) = keyring.new_data_key(Owner::Hook(project, hook, secret));
        let sealed = key.seal_one(b"hunter22");
        let again = keyring.open(Owner::Hook(project, hook, secret), &sealed_key).unwrap();
        assert_eq!(&*again.open_one(&sealed).unwrap(), b"hunter22");
        for other in [
            Owner::Hook(ProjectId::generate(), hook, secret),
            Owner::Hook(project, HookId::generate(), secret),
            Owner::Hook(project, hook, Uuid::new_v4()),
            Owner::Token(project, hook, secret),
        ] {
            assert_eq!(keyring.open(other, &sealed_key).unwrap_err(), Unopened::Forged, "{other:?}");
        }
    }

    #[test]
    fn a_signing_key_is_of_its_project_its_name_and_its_version() {
        let keyring = Keyring::from_text(&keyring::new_line()).unwrap();
        let (project, name, version) =
            (ProjectId::generate(), "release".parse::<SigningKeyName>().unwrap(), Uuid::new_v4());
        let (key, sealed_key) = keyring.new_data_key(Owner::Signing(project, &name, version));
        let sealed = key.seal_one(b"hunter22");
        let again = keyring.open(Owner::Signing(project, &name, version), &sealed_key).unwrap();
        assert_eq!(&*again.open_one(&sealed).unwrap(), b"hunter22");
        let other_name: SigningKeyName = "release2".parse().unwrap();
        // Not as a secret either, which is lent.
        let secret: SecretName = "release".parse().unwrap();
        for other in [
            Owner::Signing(ProjectId::generate(), &name, version),
            Owner::Signing(project, &other_name, version),
            Owner::Signing(project, &name, Uuid::new_v4()),
            Owner::Secret(project, &secret, 1),
        ] {
            assert_eq!(keyring.open(other, &sealed_key).unwrap_err(), Unopened::Forged, "{other:?}");
        }
    }

    #[test]
    fn a_login_is_of_its_project_and_its_registry() {
        let keyring = Keyring::from_text(&keyring::new_line()).unwrap();
        let (project, host): (_, RegistryHost) = (ProjectId::generate(), "r.example".parse().unwrap());
        let (key, sealed_key) = keyring.new_data_key(Owner::Login(project, &host));
        let sealed = key.seal_one(b"hunter22");
        let again = keyring.open(Owner::Login(project, &host), &sealed_key).unwrap();
        assert_eq!(&*again.open_one(&sealed).unwrap(), b"hunter22");
        let evil: RegistryHost = "evil.example".parse().unwrap();
        for other in [
            Owner::Login(ProjectId::generate(), &host),
            Owner::Login(project, &evil),
            Owner::Build(project, BuildId::generate()),
        ] {
            assert_eq!(keyring.open(other, &sealed_key).unwrap_err(), Unopened::Forged, "{other:?}");
            // Nor has another's data key a value that was moved to it.
            let (others, _) = keyring.new_data_key(other);
            assert_eq!(others.open_one(&sealed).unwrap_err(), Unopened::Forged);
        }
    }
}
