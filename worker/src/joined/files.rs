//! What a join leaves in the state folder.
//!
//! `identity.pem`: the certificate's key (PKCS #8), then its chain; above them, as lines that PEM readers pass over, what the
//! farm said of its times. So key, certificate and times are replaced as one. `farm.json`: which farm it is, and as what the
//! worker is in it. The first is written last: without it nobody has joined. (A join that waits for its answer has its key in
//! `joining.pem`: `pending.rs`.)
//!
//! Invariant: who reads a file sees the old one or the new one whole, also after a power cut; only its owner can.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use farm_client::{Identity, Trust};
use farm_proto::v1;
use serde::{Deserialize, Serialize};

use super::age::Times;
use super::key::Key;

const IDENTITY: &str = "identity.pem";
const FARM: &str = "farm.json";
/// Where the PEM begins; what is above is ours.
const BEGIN: &str = "-----BEGIN";

/// Why it can't be known what a worker has joined.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// It can't be read.
    #[error("{file}: {why}")]
    Unread {
        file: String,
        /// The system's reason.
        why: io::Error,
    },
    /// It isn't what was written there.
    #[error(
        "{file} is damaged ({why}); have the worker revoked and invited again, then: farm-worker join --again …"
    )]
    Damaged {
        file: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Which farm, and as what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Farm {
    /// Where its coordinators are: `https://HOST:PORT`.
    pub coordinators: Vec<String>,
    /// Its CA, as PEM; `None`: the system's.
    pub ca: Option<String>,
    /// The worker's name there.
    pub name: String,
    pub machine: String,
    pub pool: String,
    pub trust: String,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Pair {
    /// Both as PEM: the key, then the chain.
    pub pem: String,
    pub times: Times,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("times", &self.times).finish_non_exhaustive()
    }
}

/// Why a certificate that a farm has given is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It isn't there at all.
    #[error("the farm gave no certificate")]
    Missing,
    /// It is for another key, or is none.
    #[error("the farm gave a certificate that can't be used: {0}")]
    Identity(#[from] farm_client::IdentityError),
    /// It would be over at once, or never be renewed.
    #[error("the farm gave a certificate that lives for {lives_ms} ms and is to be renewed after {renew_ms}")]
    Times { lives_ms: u64, renew_ms: u64 },
}

impl Pair {
    /// Of a certificate that a farm has just given for this key.
    ///
    /// # Errors
    /// It is not for this key, or its times make no sense.
    pub fn of(certificate: Option<v1::Certificate>, key: &Key, now_ms: i64) -> Result<Self, Unfit> {
        let v1::Certificate { chain, lives_ms, renew_ms, .. } = certificate.ok_or(Unfit::Missing)?;
        if renew_ms == 0 || renew_ms > lives_ms {
            return Err(Unfit::Times { lives_ms, renew_ms });
        }
        let chain: String = chain.iter().map(|der| farm_client::to_pem(der)).collect();
        let pem = format!("{}{chain}", key.pem());
        Identity::from_pem(&pem)?;
        let (lives, renew) = (Duration::from_millis(lives_ms), Duration::from_millis(renew_ms));
        Ok(Self { pem, times: Times { issued_ms: now_ms, lives, renew } })
    }

    fn text(&self) -> String {
        let Times { issued_ms, lives, renew } = self.times;
        format!(
            "The key and the certificate of a worker of farm. Whoever has them is that worker; farm-worker renews them.\n\
             issued-ms: {issued_ms}\nlives-ms: {}\nrenew-ms: {}\n{}",
            lives.as_millis(),
            renew.as_millis(),
            self.pem
        )
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (above, _) = text.split_once(BEGIN).ok_or("there is no PEM in it")?;
        let said = |key: &str| {
            let value = above.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
            value.and_then(|value| value.trim().parse::<u64>().ok()).ok_or(format!("it has no {key}"))
        };
        let (lives, renew) =
            (Duration::from_millis(said("lives-ms")?), Duration::from_millis(said("renew-ms")?));
        let issued_ms = i64::try_from(said("issued-ms")?).map_err(|e| e.to_string())?;
        let pem = text.get(above.len()..).unwrap_or_default().to_owned();
        Identity::from_pem(&pem).map_err(|e| e.to_string())?;
        Ok(Self { pem, times: Times { issued_ms, lives, renew } })
    }
}

/// What a state folder says of the farm that its worker has joined.
#[derive(Clone)]
pub struct Joined {
    pub farm: Farm,
    pub pair: Pair,
}

impl Joined {
    /// What is in the folder; `None`: its worker has joined no farm.
    ///
    /// # Errors
    /// There is something, which can't be read or isn't whole.
    pub fn load(folder: &Path) -> Result<Option<Self>, FilesError> {
        let Some(identity) = read(&folder.join(IDENTITY))? else { return Ok(None) };
        let damaged =
            |name: &str, why| FilesError::Damaged { file: folder.join(name).display().to_string(), why };
        let pair = Pair::parse(&identity).map_err(|why| damaged(IDENTITY, why))?;
        let farm = read(&folder.join(FARM))?.ok_or_else(|| damaged(FARM, "it isn't there".to_owned()))?;
        let farm: Farm = serde_json::from_str(&farm).map_err(|e| damaged(FARM, e.to_string()))?;
        Ok(Some(Self { farm, pair }))
    }

    /// Whom the farm's coordinators have to convince.
    ///
    /// # Errors
    /// The CA that was kept is none.
    pub fn trust(&self) -> Result<Trust, farm_client::TrustError> {
        self.farm.ca.as_ref().map_or(Ok(Trust::System), |pem| Trust::from_pem(pem, FARM))
    }

    /// Keeps it in the folder, which is there. As root: for the folder's owner.
    ///
    /// # Errors
    /// It can't be written.
    pub fn keep(&self, folder: &Path) -> io::Result<()> {
        let farm = serde_json::to_string_pretty(&self.farm).map_err(io::Error::other)?;
        replace(folder, FARM, &farm)?;
        keep_pair(folder, &self.pair)
    }
}

/// Keeps another certificate, with its key, in the place of the one that is there.
///
/// # Errors
/// It can't be written. Then what was there still is.
pub fn keep_pair(folder: &Path, pair: &Pair) -> io::Result<()> {
    replace(folder, IDENTITY, &pair.text())
}

/// Where the certificate is, for people.
pub fn identity_file(folder: &Path) -> String {
    folder.join(IDENTITY).display().to_string()
}

/// Makes the folder if need be (mode 0700), and as root gives it and its lock to `owner`.
///
/// # Errors
/// It can't be made.
pub fn make_folder(folder: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    match owner {
        Some((user, group)) if is_root() => std::os::unix::fs::chown(folder, Some(user), Some(group)),
        _ => Ok(()),
    }
}

/// As root: gives a file in the folder to whom the folder belongs.
///
/// # Errors
/// The system refuses.
pub fn give_to_owner(folder: &Path, file: &Path) -> io::Result<()> {
    if !is_root() {
        return Ok(());
    }
    let owner = fs::metadata(folder)?;
    std::os::unix::fs::lchown(file, Some(owner.uid()), Some(owner.gid()))
}

/// Whether this process may give files away.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn read(file: &Path) -> Result<Option<String>, FilesError> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(FilesError::Unread { file: file.display().to_string(), why }),
    }
}

/// Removes a file, if it is there.
pub(super) fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes a file that only its owner can read, in the place of the one that is there: the old one or the new one, whole.
pub(super) fn replace(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    let (place, beside) = (folder.join(name), folder.join(format!("{name}.new")));
    remove(&beside)?;
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&beside)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())?;
    give_to_owner(folder, &beside)?;
    // A name that comes to the disk before its content would be an empty file after a power cut.
    file.sync_all()?;
    fs::rename(&beside, &place)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Authority;

    fn farm() -> Farm {
        Farm {
            coordinators: vec!["https://farm.example:7070".to_owned()],
            ca: None,
            name: "w1".to_owned(),
            machine: "m1".to_owned(),
            pool: "default".to_owned(),
            trust: "trusted".to_owned(),
        }
    }

    fn pair(authority: &Authority) -> Pair {
        let key = Key::generate().unwrap();
        let certificate = authority.certificate("w1", &key.public(), (60_000, 40_000));
        Pair::of(Some(certificate), &key, 1_000).unwrap()
    }

    #[test]
    fn what_was_joined_is_read_again_and_only_its_owner_can() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        assert!(Joined::load(folder.path()).unwrap().is_none());
        let joined = Joined { farm: farm(), pair: pair(&authority) };
        joined.keep(folder.path()).unwrap();
        let read = Joined::load(folder.path()).unwrap().unwrap();
        assert_eq!((&read.farm, &read.pair.pem), (&joined.farm, &joined.pair.pem));
        assert_eq!(read.pair.times, joined.pair.times);
        for name in [IDENTITY, FARM] {
            let mode = fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_certificate_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let first = Joined { farm: farm(), pair: pair(&authority) };
        first.keep(folder.path()).unwrap();
        // What a worker that was killed while it wrote has left.
        fs::write(folder.path().join("identity.pem.new"), "half").unwrap();
        let second = pair(&authority);
        keep_pair(folder.path(), &second).unwrap();
        let read = Joined::load(folder.path()).unwrap().unwrap();
        assert_eq!(read.pair.pem, second.pem);
        assert!(!folder.path().join("identity.pem.new").exists());
        // In the place of the new one there is what can't be removed.
        fs::create_dir(folder.path().join("identity.pem.new")).unwrap();
        assert!(keep_pair(folder.path(), &first.pair).is_err());
        assert_eq!(Joined::load(folder.path()).unwrap().unwrap().pair.pem, second.pem);
    }

    #[test]
    fn what_is_damaged_is_told_by_its_file_and_with_the_cure() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        Joined { farm: farm(), pair: pair(&authority) }.keep(folder.path()).unwrap();
        let error = || Joined::load(folder.path()).err().unwrap().to_string();
        let whole = fs::read_to_string(folder.path().join(IDENTITY)).unwrap();
        let other = pair(&authority).text();
        let key_end = |text: &str| text.find("-----BEGIN CERTIFICATE").unwrap();
        let mixed = format!("{}{}", &whole[..key_end(&whole)], &other[key_end(&other)..]);
        for (text, why) in [
            ("", "no PEM"),
            (&whole.replace("lives-ms", "lives"), "no lives-ms"),
            (&whole[..whole.len() / 2], "certificate"),
            (&mixed, "don't belong together"),
        ] {
            fs::write(folder.path().join(IDENTITY), text).unwrap();
            let error = error();
            assert!(error.contains("identity.pem") && error.contains(why), "{error}");
            assert!(error.contains("join --again"), "{error}");
        }
        fs::write(folder.path().join(IDENTITY), &whole).unwrap();
        fs::remove_file(folder.path().join(FARM)).unwrap();
        assert!(error().contains("farm.json is damaged (it isn't there)"));
    }

    #[test]
    fn a_certificate_that_is_for_another_key_or_ends_before_it_is_renewed_is_not_taken() {
        let authority = Authority::new();
        let (key, other) = (Key::generate().unwrap(), Key::generate().unwrap());
        let of = |certificate| Pair::of(certificate, &key, 0).err();
        assert_eq!(of(None), Some(Unfit::Missing));
        let foreign = authority.certificate("w1", &other.public(), (60_000, 40_000));
        assert!(matches!(of(Some(foreign)), Some(Unfit::Identity(_))));
        for times in [(60_000, 60_001), (0, 0)] {
            let certificate = authority.certificate("w1", &key.public(), times);
            assert!(matches!(of(Some(certificate)), Some(Unfit::Times { .. })), "{times:?}");
        }
    }
}
