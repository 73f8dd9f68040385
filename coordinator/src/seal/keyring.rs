//! The farm's keys: lines of a file (or of a variable), of which the first seals and all open.
//!
//! The file is made at the first start (mode 0600), beside the farm's CA, and is looked at again when something was sealed by a key
//! that isn't known: another coordinator may have got a new one. Whoever has it and a copy of the database has all that is
//! sealed; whoever loses it, none.

use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context as _;
use farm_store::builds::mounts::SealedKey;
use farm_types::Digest;
use ring::aead::LessSafeKey;
use zeroize::Zeroizing;

use super::{DataKey, KEY_BYTES, Owner, Unopened, key, open, seal};

/// How a line begins. Scanners know it by that.
const PREFIX: &str = "farm_key_";

/// What a key is known by, in the database and to people: it follows from the key and tells nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId(String);

impl KeyId {
    fn of(bytes: &[u8; KEY_BYTES]) -> Self {
        let digest = Digest::of(&[b"farm key id\n", &bytes[..]].concat()).hex();
        Self(digest.chars().take(12).collect())
    }

    /// The id as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

struct Key {
    id: KeyId,
    key: LessSafeKey,
}

/// The keys, at least one; the first seals.
type Keys = Arc<Vec<Key>>;

/// All keys of the farm.
pub struct Keyring {
    keys: RwLock<Keys>,
    file: Option<PathBuf>,
}

impl Keyring {
    /// The keys in this file; makes one when the file isn't there.
    ///
    /// # Errors
    /// The file can't be read or made, or holds something else.
    pub fn of_file(file: &Path) -> anyhow::Result<Self> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let text = make(file).with_context(|| file.display().to_string())?;
                tracing::info!(file = %file.display(), "the farm has made its key for secrets: keep a copy of it");
                text
            }
            Err(error) => return Err(error).with_context(|| file.display().to_string()),
        };
        let mode = std::fs::metadata(file)?.permissions().mode();
        if mode & 0o077 != 0 {
            tracing::warn!(file = %file.display(), "the farm's keys can be read by others on this machine; chmod 600");
        }
        let keys = parse(&text).with_context(|| file.display().to_string())?;
        Ok(Self { keys: RwLock::new(keys), file: Some(file.to_owned()) })
    }

    /// The keys in this text, which isn't looked at again.
    ///
    /// # Errors
    /// It holds something else, or none.
    pub fn from_text(text: &str) -> anyhow::Result<Self> {
        Ok(Self { keys: RwLock::new(parse(text)?), file: None })
    }

    /// What the key that seals is known by.
    pub fn newest(&self) -> Option<KeyId> {
        self.now().first().map(|key| key.id.clone())
    }

    /// What all are known by, the one that seals first.
    pub fn ids(&self) -> Vec<KeyId> {
        self.now().iter().map(|key| key.id.clone()).collect()
    }

    /// A new data key, and itself sealed.
    pub fn new_data_key(&self, owner: Owner<'_>) -> (DataKey, SealedKey) {
        let bytes: Zeroizing<[u8; KEY_BYTES]> = Zeroizing::new(rand::random());
        (DataKey { key: key(&bytes), owner: owner.bound() }, self.sealed(owner, &bytes))
    }

    /// A data key that was sealed.
    ///
    /// # Errors
    /// The key that sealed it isn't here, or it was for another owner.
    pub fn open(&self, owner: Owner<'_>, sealed: &SealedKey) -> Result<DataKey, Unopened> {
        let bytes = self.unsealed(owner, sealed)?;
        Ok(DataKey { key: key(&bytes), owner: owner.bound() })
    }

    /// A data key sealed anew by the key that seals now.
    ///
    /// # Errors
    /// As of [`open`](Self::open).
    pub fn reseal(&self, owner: Owner<'_>, old: &SealedKey) -> Result<SealedKey, Unopened> {
        Ok(self.sealed(owner, &*self.unsealed(owner, old)?))
    }

    /// Reads the file again. An unfit one is told of, and the keys stay what they were.
    pub fn look_again(&self) {
        let Some(file) = &self.file else { return };
        let read = std::fs::read_to_string(file).map(Zeroizing::new).map_err(anyhow::Error::from);
        match read.and_then(|text| parse(&text)) {
            Ok(keys) => *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys,
            Err(error) => {
                tracing::warn!(file = %file.display(), error = format!("{error:#}"), "the farm's keys can't be read again; they stay what they were");
            }
        }
    }

    fn now(&self) -> Keys {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn sealed(&self, owner: Owner<'_>, bytes: &[u8; KEY_BYTES]) -> SealedKey {
        let keys = self.now();
        match keys.first() {
            Some(first) => {
                SealedKey { by: first.id.to_string(), bytes: seal(&first.key, &owner.bound(), bytes) }
            }
            None => unreachable!("a text without a key is refused"),
        }
    }

    fn unsealed(&self, owner: Owner<'_>, sealed: &SealedKey) -> Result<Zeroizing<[u8; KEY_BYTES]>, Unopened> {
        let find = || self.now().iter().position(|key| key.id.as_str() == sealed.by);
        if find().is_none() {
            self.look_again();
        }
        let keys = self.now();
        let by = keys.iter().find(|key| key.id.as_str() == sealed.by);
        let by = by.ok_or_else(|| Unopened::KeyIsLost(sealed.by.clone()))?;
        let bytes = open(&by.key, &owner.bound(), &sealed.bytes)?;
        let bytes: [u8; KEY_BYTES] = bytes.as_slice().try_into().map_err(|_| Unopened::Forged)?;
        Ok(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("ids", &self.ids()).field("file", &self.file).finish()
    }
}

/// A new key's line.
pub(super) fn new_line() -> Zeroizing<String> {
    let bytes: Zeroizing<[u8; KEY_BYTES]> = Zeroizing::new(rand::random());
    Zeroizing::new(format!("{PREFIX}{}\n", Digest::from(*bytes).hex()))
}

/// Keys, one a line (in a variable also one a comma); `#` begins a comment.
fn parse(text: &str) -> anyhow::Result<Keys> {
    let lines = text.split(['\n', ',']).map(|line| line.split('#').next().unwrap_or_default().trim());
    let mut keys: Vec<Key> = Vec::new();
    for (number, line) in (1..).zip(lines) {
        if line.is_empty() {
            continue;
        }
        let digits = line.strip_prefix(PREFIX);
        let bytes = digits.and_then(|digits| format!("sha256:{digits}").parse::<Digest>().ok());
        let Some(bytes) = bytes else {
            anyhow::bail!("line {number} is no key of a farm: {PREFIX} and 64 digits of hex");
        };
        let bytes = Zeroizing::new(bytes.as_bytes().to_owned());
        let id = KeyId::of(&bytes);
        anyhow::ensure!(keys.iter().all(|known| known.id != id), "the key {id} is in it twice; keep one");
        keys.push(Key { id, key: key(&bytes) });
    }
    anyhow::ensure!(
        !keys.is_empty(),
        "there is no key in it; put back the copy that you have, or, if nothing sealed is to be opened any more, delete the \
         file, and a new key is made"
    );
    Ok(Arc::new(keys))
}

/// Makes the file, whole or not at all; another coordinator may be first, and then it is its.
fn make(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = new_line();
    let beside = write_beside(file, &text)?;
    let linked = std::fs::hard_link(&beside, file);
    let _ = std::fs::remove_file(&beside);
    match linked {
        Ok(()) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            Ok(Zeroizing::new(std::fs::read_to_string(file)?))
        }
        Err(error) => Err(error.into()),
    }
}

/// Puts a new key in front of those in the file, which then seals. Gives what it is known by.
///
/// # Errors
/// There is no file yet, it holds something else, or it can't be written.
pub fn rotate(file: &Path) -> anyhow::Result<KeyId> {
    let old = Zeroizing::new(std::fs::read_to_string(file).with_context(|| file.display().to_string())?);
    parse(&old).with_context(|| file.display().to_string())?;
    let text = Zeroizing::new(format!("{}{}", &*new_line(), &*old));
    write_over(file, &text)?;
    let keys = parse(&text)?;
    keys.first().map(|key| key.id.clone()).context("there is no key")
}

/// Takes a key out of the file.
///
/// # Errors
/// It isn't there, or is the one that seals; or the file can't be written.
pub fn remove(file: &Path, id: &str) -> anyhow::Result<()> {
    let old = Zeroizing::new(std::fs::read_to_string(file).with_context(|| file.display().to_string())?);
    let keys = parse(&old).with_context(|| file.display().to_string())?;
    let place = keys.iter().position(|key| key.id.as_str() == id);
    let ids: Vec<&str> = keys.iter().map(|key| key.id.as_str()).collect();
    let place = place.with_context(|| format!("no key {id}; there are {}", ids.join(", ")))?;
    anyhow::ensure!(
        place > 0,
        "{id} is the key that seals now; `farm-coordinator keys rotate` makes another one"
    );
    let is_kept = |line: &&str| parse(line).map_or(true, |keys| keys.iter().all(|key| key.id.as_str() != id));
    let text: Zeroizing<String> =
        Zeroizing::new(old.split_inclusive('\n').filter(is_kept).collect::<String>());
    parse(&text)?;
    write_over(file, &text)
}

fn write_over(file: &Path, text: &str) -> anyhow::Result<()> {
    let beside = write_beside(file, text)?;
    std::fs::rename(&beside, file).with_context(|| file.display().to_string())
}

/// Writes a file of another name in the same folder, which nobody else reads, to the disk.
fn write_beside(file: &Path, text: &str) -> anyhow::Result<PathBuf> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let random: [u8; 8] = rand::random();
    let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let beside = file.with_extension(format!("{random}.new"));
    let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    Ok(beside)
}

#[cfg(test)]
mod tests {
    use farm_types::{BuildId, ProjectId};

    use super::*;

    #[test]
    fn all_coordinators_of_a_folder_have_one_key_and_a_new_one_opens_what_the_old_one_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep/keys");
        let ids: Vec<Vec<KeyId>> = std::thread::scope(|scope| {
            let open = || Keyring::of_file(&file).unwrap().ids();
            let starting: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
            starting.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|one| *one == ids[0] && one.len() == 1), "{ids:?}");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);

        let (running, owner) =
            (Keyring::of_file(&file).unwrap(), Owner::Build(ProjectId::generate(), BuildId::generate()));
        let (_, old) = running.new_data_key(owner);
        let newest = rotate(&file).unwrap();
        let other = Keyring::of_file(&file).unwrap();
        assert_eq!(other.ids(), [newest.clone(), ids[0][0].clone()]);
        let (_, new) = other.new_data_key(owner);
        assert_eq!(new.by, newest.as_str());
        // One that runs finds the new key when it meets it.
        assert!(running.open(owner, &new).is_ok() && running.open(owner, &old).is_ok());
        let resealed = other.reseal(owner, &old).unwrap();
        assert_eq!(resealed.by, newest.as_str());
        let refused = remove(&file, newest.as_str()).unwrap_err().to_string();
        assert!(refused.contains("seals now"), "{refused}");
        assert!(remove(&file, "0").unwrap_err().to_string().contains(newest.as_str()));
        remove(&file, ids[0][0].as_str()).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let without = Keyring::of_file(&file).unwrap();
        assert!(without.open(owner, &resealed).is_ok());
        assert_eq!(without.open(owner, &old).unwrap_err(), Unopened::KeyIsLost(ids[0][0].to_string()));
    }

    #[test]
    fn what_is_no_key_is_told_and_not_shown() {
        for (text, said) in [
            ("", "no key in it"),
            ("# only this\n", "no key in it"),
            ("farm_key_12", "line 1 is no key"),
            ("\n0000", "line 2 is no key"),
        ] {
            let error = format!("{:#}", Keyring::from_text(text).unwrap_err());
            assert!(error.contains(said) && !error.contains("0000") && !error.contains("12"), "{error}");
        }
        let line = new_line();
        let twice = format!("{}{}", &*line, &*line);
        assert!(Keyring::from_text(&twice).unwrap_err().to_string().contains("twice"));
        let two = format!("{} # new\n# old\n{}", line.trim(), &*new_line());
        let keyring = Keyring::from_text(&two).unwrap();
        assert_eq!(keyring.ids().len(), 2);
        assert!(!format!("{keyring:?}").contains(line.trim()));
        let commas = two.replace(" # new\n# old\n", ",");
        assert_eq!(Keyring::from_text(&commas).unwrap().ids(), keyring.ids());
    }
}
