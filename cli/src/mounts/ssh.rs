//! `--ssh`: which keys, or which agent, `RUN --mount=type=ssh` may use.
//!
//! The forms are those of `docker buildx build` (BuildKit, `session/sshforward/sshprovider`): an id, and behind it the socket of an
//! agent or files of keys; an id alone is the agent of SSH_AUTH_SOCK. Keys go to the farm as secrets do; of an agent nothing does,
//! it is asked for each signature ([`crate::agents`]).

use std::fs::Metadata;
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;

use farm_types::chain::io_in_short;
use farm_types::mounts::{DEFAULT_SSH, MOST_SSH_BYTES};
use farm_types::{Invalid, MountId, SshSource, ValueType};
use zeroize::Zeroizing;

use super::{Mounting, shown};

/// Where the agent of whoever calls listens.
const SOCKET: &str = "SSH_AUTH_SOCK";

/// What stands behind an id.
enum Given {
    Agent(PathBuf),
    Keys(Zeroizing<Vec<u8>>),
}

impl Mounting {
    /// Reads what `--ssh` names.
    pub(super) fn take_ssh(
        &mut self,
        flags: &[String],
        variable: impl Fn(&str) -> Result<Option<String>, Invalid>,
    ) -> Result<(), Invalid> {
        for flag in flags {
            let told = &shown(flag);
            let (id, paths) = flag.split_once('=').unwrap_or((flag, ""));
            let id = if id.is_empty() { DEFAULT_SSH } else { id };
            let id: MountId = id.parse().map_err(|error: Invalid| {
                Invalid::new(
                    "--ssh",
                    told,
                    format!("its id: {}; write ID, ID=SOCKET or ID=KEYFILE", error.cure),
                )
            })?;
            if self.mounts.ssh.contains_key(&id) {
                let cure =
                    format!("the id {id} is given twice; keep one. Keys of one id are ID=KEYFILE,KEYFILE");
                return Err(Invalid::new("--ssh", told, cure));
            }
            if told != flag {
                let cure = "behind the id comes the path of a key's file or of an agent's socket, not the key itself";
                return Err(Invalid::new("--ssh", told, cure));
            }
            let given = match paths {
                "" => self.own_agent(flag, &variable)?,
                paths => self.given(flag, paths)?,
            };
            let source = match given {
                Given::Agent(socket) => {
                    self.agents.insert(id.clone(), socket);
                    SshSource::Agent
                }
                Given::Keys(keys) => {
                    self.values.insert((ValueType::Ssh, id.clone()), keys);
                    SshSource::Keys
                }
            };
            self.mounts.ssh.insert(id, source);
        }
        Ok(())
    }

    fn own_agent(
        &mut self,
        flag: &str,
        variable: impl Fn(&str) -> Result<Option<String>, Invalid>,
    ) -> Result<Given, Invalid> {
        match variable(SOCKET)?.filter(|socket| !socket.is_empty()) {
            Some(socket) => match self.given(flag, &socket)? {
                Given::Keys(_) => Err(Invalid::new(SOCKET, socket, "that is no agent's socket")),
                agent => Ok(agent),
            },
            None => {
                let cure = "no agent runs here (SSH_AUTH_SOCK isn't set); start one (ssh-agent) and add a key to it (ssh-add), or name \
                            the key's file with --ssh ID=KEYFILE";
                Err(Invalid::new("--ssh", flag, cure))
            }
        }
    }

    fn given(&mut self, flag: &str, paths: &str) -> Result<Given, Invalid> {
        let invalid = |cure: String| Invalid::new("--ssh", flag, cure);
        let paths: Vec<&str> = paths.split(',').collect();
        let mut keys = Zeroizing::new(Vec::new());
        for path in &paths {
            let unread = |error: std::io::Error| {
                let mut cure = format!("can't read {path} ({})", io_in_short(&error));
                if path.starts_with("~/") {
                    cure.push_str("; the shell puts no home there: write $HOME");
                }
                invalid(cure)
            };
            let metadata = std::fs::metadata(path).map_err(unread)?;
            if metadata.file_type().is_socket() {
                return match &paths[..] {
                    [only] => Ok(Given::Agent(PathBuf::from(only))),
                    _ => Err(invalid(format!("{path} is an agent's socket, which goes with no other file"))),
                };
            }
            if metadata.is_dir() {
                return Err(invalid(format!(
                    "{path} is a folder; name the file of a key, or an agent's socket"
                )));
            }
            let most = u64::try_from(MOST_SSH_BYTES).unwrap_or(u64::MAX).saturating_add(1);
            let mut key = Zeroizing::new(Vec::with_capacity(MOST_SSH_BYTES + 1));
            let file = std::fs::File::open(path).map_err(unread)?;
            file.take(most).read_to_end(&mut key).map_err(unread)?;
            if key.len() > MOST_SSH_BYTES {
                return Err(invalid(format!("{path} has more than {MOST_SSH_BYTES} bytes, so it is no key")));
            }
            farm_ssh::keys(&key).map_err(|error| invalid(format!("{path}: {error}")))?;
            self.warnings.extend(open_to_others(path, &metadata));
            // As much as all of it, so that no copy stays behind.
            let mut all = Zeroizing::new(Vec::with_capacity(keys.len() + key.len() + 1));
            all.extend_from_slice(&keys);
            all.extend_from_slice(&key);
            all.push(b'\n');
            keys = all;
            if keys.len() > MOST_SSH_BYTES {
                let cure = format!(
                    "its keys have more than {MOST_SSH_BYTES} bytes together; leave some out, or give an agent"
                );
                return Err(invalid(cure));
            }
        }
        Ok(Given::Keys(keys))
    }
}

/// What ssh wouldn't take.
fn open_to_others(path: &str, metadata: &Metadata) -> Option<String> {
    let mode = metadata.mode() & 0o777;
    (metadata.is_file() && mode & 0o077 != 0).then(|| {
        format!("others on this machine can read the key {path} (mode {mode:04o}): chmod 600 {path}")
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    use super::*;
    use crate::mounts::Mounting;

    /// A key of nobody's, made for this run.
    fn key() -> String {
        let document = ring_key();
        let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, document);
        format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
    }

    /// PKCS #8 of an Ed25519 key: its head, and a seed.
    fn ring_key() -> Vec<u8> {
        let head = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        [&head[..], uuid::Uuid::new_v4().as_bytes(), uuid::Uuid::new_v4().as_bytes()].concat()
    }

    fn write(folder: &Path, name: &str, text: &str) -> String {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    }

    fn read(flags: &[&str], socket: Option<&str>) -> Result<Mounting, Invalid> {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Mounting::read(&[], &flags, |name| Ok(socket.filter(|_| name == SOCKET).map(str::to_owned)))
    }

    #[test]
    fn the_forms_of_buildx_are_read_as_buildx_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (write(folder.path(), "one", &key()), write(folder.path(), "two", &key()));
        let socket = folder.path().join("agent").display().to_string();
        let _agent = UnixListener::bind(&socket).unwrap();
        for (flag, id, socket_of) in [
            ("default".to_owned(), "default", Some(&socket)),
            ("default=".to_owned(), "default", Some(&socket)),
            ("git".to_owned(), "git", Some(&socket)),
            (format!("git={socket}"), "git", None),
            (format!("={socket}"), "default", None),
        ] {
            let mounting = read(&[&flag], socket_of.map(String::as_str)).unwrap();
            let agents: Vec<_> = mounting.agents().iter().map(|(id, path)| (id.as_str(), path)).collect();
            assert_eq!(agents, [(id, &PathBuf::from(&socket))], "{flag}");
            assert!(mounting.values().is_empty() && mounting.is_private());
            assert_eq!(mounting.mounts().ssh.values().next(), Some(&SshSource::Agent));
        }
        let mounting = read(&[&format!("git={one},{two}"), "default"], Some(&socket)).unwrap();
        let values = mounting.values();
        assert_eq!((values.len(), values[0].r#type.as_str(), values[0].id.as_str()), (1, "ssh", "git"));
        assert_eq!(farm_ssh::keys(&values[0].value).unwrap().len(), 2);
        assert!(mounting.warnings().is_empty(), "{:?}", mounting.warnings());
        assert!(!format!("{mounting:?}").contains("PRIVATE"));
        std::fs::set_permissions(&one, std::fs::Permissions::from_mode(0o644)).unwrap();
        let open = read(&[&format!("git={one}")], None).unwrap();
        assert!(open.warnings()[0].contains("(mode 0644): chmod 600"), "{:?}", open.warnings());
    }

    #[test]
    fn what_can_not_be_taken_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| write(folder.path(), name, text);
        let (good, public) = (file("good", &key()), file("good.pub", "ssh-ed25519 AAAA ada"));
        let locked = file("locked", &key().replace("PRIVATE", "ENCRYPTED PRIVATE"));
        let much = file("much", &format!("{}{}", key(), "\n".repeat(MOST_SSH_BYTES / 2)));
        let (other, long) = (file("other", "TOKEN=1"), file("long", &" ".repeat(MOST_SSH_BYTES + 1)));
        let socket = folder.path().join("agent").display().to_string();
        let _agent = UnixListener::bind(&socket).unwrap();
        let folder = folder.path().display().to_string();
        let git = |paths: &str| vec![format!("git={paths}")];
        for (flags, cure) in [
            (vec!["default".to_owned()], "SSH_AUTH_SOCK isn't set"),
            (vec!["a b".to_owned()], "its id"),
            (git("/nowhere"), "can't read /nowhere"),
            (git("~/.ssh/id"), "write $HOME"),
            (git(&folder), "is a folder"),
            (git(&public), "that is a public key"),
            (git(&locked), "ssh-add"),
            (git(&other), "no private key"),
            (git(&long), "no key"),
            (git(&format!("{good},{socket}")), "goes with no other file"),
            (git(&format!("{socket},{good}")), "goes with no other file"),
            (git(&format!("{good},")), "can't read"),
            (git(&format!("{much},{much}")), "bytes together; leave some out"),
            ([git(&good), git(&good)].concat(), "is given twice"),
            (git(&key()), "not the key itself"),
        ] {
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            let error = read(&flags, None).unwrap_err().to_string();
            assert!(error.starts_with("--ssh") && error.contains(cure), "{flags:?}: {error}");
            assert!(!error.contains("PRIVATE"), "{error}");
        }
        let error = read(&["default"], Some(&good)).unwrap_err().to_string();
        assert!(error.contains("no agent's socket"), "{error}");
    }
}
