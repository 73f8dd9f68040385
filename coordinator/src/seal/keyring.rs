//! The farm's keys: lines of a file (or of a variable), of which the first seals that all coordinators have, and all open.
//!
//! The file is made at the first start (mode 0600), beside the farm's CA, and is looked at again when something was sealed by a key
//! that isn't known: another coordinator may have got a new one. Whoever has it and a copy of the database has all that is
//! sealed; whoever loses it, none.

use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
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

/// The keys, at least one.
type Keys = Arc<Vec<Key>>;

/// All keys of the farm.
pub struct Keyring {
    keys: RwLock<Keys>,
    /// By which is sealed; `None`, or one that isn't here: by the first.
    seals: RwLock<Option<KeyId>>,
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
        Ok(Self { keys: RwLock::new(keys), seals: RwLock::default(), file: Some(file.to_owned()) })
    }

    /// The keys in this text, which isn't looked at again.
    ///
    /// # Errors
    /// It holds something else, or none.
    pub fn from_text(text: &str) -> anyhow::Result<Self> {
        Ok(Self { keys: RwLock::new(parse(text)?), seals: RwLock::default(), file: None })
    }

    /// Seals from now on by the first key that all others have as well; by the first one if there is none. Gives its id if it is another
    /// one than before.
    pub fn agree<'a>(&self, others: impl Iterator<Item = &'a [String]> + Clone) -> Option<KeyId> {
        let keys = self.now();
        let have = |key: &&Key| others.clone().all(|ids| ids.iter().any(|id| id == key.id.as_str()));
        let agreed = keys.iter().find(have).or_else(|| keys.first()).map(|key| key.id.clone());
        let mut seals = self.seals.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = *seals != agreed;
        seals.clone_from(&agreed);
        agreed.filter(|_| is_new)
    }

    /// Whether the first of the keys seals.
    pub fn seals_by_newest(&self) -> bool {
        self.sealing(&self.now()).map(|key| key.id.clone()) == self.newest()
    }

    fn sealing<'a>(&self, keys: &'a Keys) -> Option<&'a Key> {
        let seals = self.seals.read().unwrap_or_else(PoisonError::into_inner);
        keys.iter().find(|key| Some(&key.id) == seals.as_ref()).or_else(|| keys.first())
    }

    /// What the first key is known by, which seals as soon as all coordinators have it.
    pub fn newest(&self) -> Option<KeyId> {
        self.now().first().map(|key| key.id.clone())
    }

    /// What all are known by, the newest first.
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
        match self.sealing(&keys) {
            Some(by) => SealedKey { by: by.id.to_string(), bytes: seal(&by.key, &owner.bound(), bytes) },
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
    let folder = folder_of(file);
    make_folder(folder)?;
    let (beside, out) = create_beside(file)?;
    let linked = write(out, &text).and_then(|()| std::fs::hard_link(&beside, file));
    let _ = std::fs::remove_file(&beside);
    let text = match linked {
        Ok(()) => text,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            Zeroizing::new(std::fs::read_to_string(file)?)
        }
        Err(error) => return Err(error.into()),
    };
    // Before anything is sealed by it: after a loss of power it must still be there.
    to_disk(folder)?;
    Ok(text)
}

/// Puts a new key in front of those in the file, which seals as soon as all coordinators have it. Gives what it is known by.
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
    // As they are read: where several stand in a line, the others stay.
    let is_kept = |part: &&str| parse(part).map_or(true, |keys| keys.iter().all(|key| key.id.as_str() != id));
    // No longer than it was, so that no copy stays behind.
    let mut text = Zeroizing::new(String::with_capacity(old.len() + 1));
    for part in old.split(['\n', ',']).filter(is_kept) {
        text.push_str(part);
        text.push('\n');
    }
    let left = parse(&text)?;
    let others = keys.iter().map(|key| &key.id).filter(|other| other.as_str() != id);
    anyhow::ensure!(
        left.iter().map(|key| &key.id).eq(others),
        "a bug: without {id} other keys would be missing, too; nothing was changed"
    );
    write_over(file, &text)
}

/// Puts another text in the place of a file's, whole or not at all. Whoever may read it stays the same: whoever runs the command
/// isn't whom the coordinators run as.
fn write_over(file: &Path, text: &str) -> anyhow::Result<()> {
    let told = || file.display().to_string();
    // A link stays one.
    let target = std::fs::canonicalize(file).with_context(told)?;
    let (beside, out) = create_beside(&target).with_context(told)?;
    let replaced = same_owner(&target, &out)
        .and_then(|()| Ok(write(out, text)?))
        .and_then(|()| Ok(std::fs::rename(&beside, &target)?));
    if replaced.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    replaced.with_context(told)?;
    to_disk(folder_of(&target)).with_context(told)
}

/// Gives a new file the owner, the group and the mode of another one.
fn same_owner(as_of: &Path, new: &std::fs::File) -> anyhow::Result<()> {
    let (old, own) = (std::fs::metadata(as_of)?, new.metadata()?);
    let (uid, gid) = (old.uid(), old.gid());
    if (own.uid(), own.gid()) != (uid, gid) {
        std::os::unix::fs::fchown(new, Some(uid), Some(gid)).with_context(|| {
            format!(
                "it belongs to user {uid} and group {gid}, and a new one can't be given to them; nothing was changed: run this as \
                 that user (sudo -u), or as root"
            )
        })?;
    }
    Ok(new.set_permissions(std::fs::Permissions::from_mode(old.mode() & 0o777))?)
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Makes a folder, and what is missing above it, for good.
fn make_folder(folder: &Path) -> anyhow::Result<()> {
    let missing: Vec<&Path> = folder.ancestors().take_while(|folder| !folder.exists()).collect();
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    missing.into_iter().try_for_each(|made| to_disk(folder_of(made)))
}

/// Waits until the names in a folder are on the disk.
fn to_disk(folder: &Path) -> anyhow::Result<()> {
    let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.with_context(|| format!("{} can't be written to the disk", folder.display()))
}

/// A new file of another name in the same folder, which nobody else reads.
fn create_beside(file: &Path) -> std::io::Result<(PathBuf, std::fs::File)> {
    let random: [u8; 8] = rand::random();
    let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let beside = file.with_extension(format!("{random}.new"));
    let out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    Ok((beside, out))
}

/// Writes it, to the disk.
fn write(mut out: std::fs::File, text: &str) -> std::io::Result<()> {
    out.write_all(text.as_bytes())?;
    out.sync_all()
}

#[cfg(test)]
#[path = "keyring_tests.rs"]
mod tests;
