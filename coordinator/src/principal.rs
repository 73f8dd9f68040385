//! Who calls, and what they may do.
//!
//! Identity comes from the channel (today: a bearer token), never from a message. Every handler asks the
//! one table in [`Principal::may`] before it does anything. To add a right: an [`Action`], its row there.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use farm_client::{Bearer, BearerError};
use farm_types::{Digest, ProjectId};
use tonic::{Request, Status};

/// Who calls, as the token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The name, as records and logs show it.
    pub name: String,
    /// By which [`Principal::may`] decides.
    pub role: Role,
    /// The project in which they act.
    pub project: ProjectId,
}

/// The kinds of principals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// May do everything, also work.
    Admin,
    /// Another coordinator of this farm.
    Coordinator,
}

/// What a handler is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Submit a build or bring its source.
    Submit,
    /// See builds and their logs.
    Read,
    /// End a build.
    Cancel,
    /// See the farm and its workers.
    ReadFarm,
    /// Drain, resume and remove workers.
    ManageWorkers,
    /// See what a registry holds, with the farm's credentials.
    ReadImage,
    /// Take jobs.
    Work,
    /// Make this coordinator look at the database.
    Hint,
}

impl Principal {
    /// The policy: whether this principal may do that in its project.
    pub fn may(&self, action: Action) -> bool {
        match (self.role, action) {
            (
                Role::Admin,
                Action::Submit
                | Action::Read
                | Action::Cancel
                | Action::ReadFarm
                | Action::ManageWorkers
                | Action::ReadImage
                | Action::Work
                | Action::Hint,
            )
            | (Role::Coordinator, Action::Hint) => true,
            (Role::Coordinator, _) => false,
        }
    }
}

/// Tells principals by their tokens. Only a token's digest is kept in memory.
#[derive(Debug, Clone)]
pub struct Tokens {
    admin: Digest,
    project: ProjectId,
    peers: Arc<RwLock<Vec<Digest>>>,
}

impl Tokens {
    /// Takes the local admin's token from its file; makes it (mode 0600) when it isn't there.
    ///
    /// # Errors
    /// The file can't be read or made, or is empty.
    pub fn from_file(path: &Path, project: ProjectId) -> std::io::Result<Self> {
        let token = match std::fs::read_to_string(path) {
            Ok(text) => text.trim().to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                let secret: [u8; 32] = rand::random();
                let token = format!("farm_{}", Digest::from(secret).hex());
                // Whole or not at all, also when the machine loses its power; another coordinator may be first.
                let beside = path.with_extension(format!("{}.new", std::process::id()));
                let mut file = std::fs::OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(&beside)?;
                writeln!(file, "{token}")?;
                file.sync_all()?;
                let linked = std::fs::hard_link(&beside, path);
                std::fs::remove_file(&beside)?;
                match linked {
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                        std::fs::read_to_string(path)?.trim().to_owned()
                    }
                    linked => linked.map(|()| token)?,
                }
            }
            Err(error) => return Err(error),
        };
        if token.is_empty() {
            return Err(std::io::Error::other("it is empty; delete it, and a new token is made"));
        }
        Ok(Self { admin: Digest::of(token.as_bytes()), project, peers: Arc::default() })
    }

    /// Says by what the other coordinators are known from now on.
    pub fn know_peers(&self, digests: Vec<Digest>) {
        *self.peers.write().unwrap_or_else(PoisonError::into_inner) = digests;
    }

    /// The principal who calls, if they may do this. The call's span bears their name from here on.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` without a known token, `PERMISSION_DENIED` without the right.
    pub fn require<T>(&self, request: &Request<T>, action: Action) -> Result<Principal, Status> {
        let token = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or_else(|| Status::unauthenticated("no token was sent; set FARM_TOKEN or FARM_TOKEN_FILE"))?;
        // Digests are compared, so the time tells nothing about the token.
        let digest = Digest::of(token.trim().as_bytes());
        let is_peer = || self.peers.read().unwrap_or_else(PoisonError::into_inner).contains(&digest);
        let (name, role) = if digest == self.admin {
            ("admin", Role::Admin)
        } else if is_peer() {
            ("coordinator", Role::Coordinator)
        } else {
            return Err(Status::unauthenticated(
                "the farm does not know this token; check FARM_TOKEN or FARM_TOKEN_FILE",
            ));
        };
        tracing::Span::current().record("who", tracing::field::display(name));
        let principal = Principal { name: name.to_owned(), role, project: self.project };
        if principal.may(action) {
            Ok(principal)
        } else {
            Err(Status::permission_denied(format!("{} may not do this", principal.name)))
        }
    }
}

/// What this coordinator shows to the other ones when it calls them.
#[derive(Debug, Clone)]
pub struct Secret {
    bearer: Bearer,
    digest: Digest,
}

impl Secret {
    /// A new one, of 32 random bytes.
    ///
    /// # Errors
    /// Never: what it consists of is fit for a header.
    pub fn generate() -> Result<Self, BearerError> {
        let random: [u8; 32] = rand::random();
        let token = format!("farm_peer_{}", Digest::from(random).hex());
        Ok(Self { bearer: token.parse()?, digest: Digest::of(token.as_bytes()) })
    }

    /// What the others know it by.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What shows it in each call.
    pub(crate) fn bearer(&self) -> Bearer {
        self.bearer.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_for_its_owner_only_and_nothing_else_is_let_in() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/token");
        let project = farm_store::default_project();
        let tokens = Tokens::from_file(&path, project).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let token = std::fs::read_to_string(&path).unwrap();
        let may = |header: Option<String>, action| {
            let mut request = Request::new(());
            if let Some(header) = header {
                request.metadata_mut().insert("authorization", header.parse().unwrap());
            }
            tokens.require(&request, action).map_err(|status| status.code())
        };
        let call = |header| may(header, Action::Work);
        assert_eq!(call(Some(format!("Bearer {}", token.trim()))).unwrap().name, "admin");
        assert_eq!(call(None), Err(tonic::Code::Unauthenticated));
        assert_eq!(call(Some("Bearer farm_0".into())), Err(tonic::Code::Unauthenticated));
        assert_eq!(call(Some(token.trim().into())), Err(tonic::Code::Unauthenticated));
        // Another coordinator may do what its kind does, and only as long as it is one.
        let peer = || Some("Bearer farm_peer_1".to_owned());
        assert_eq!(may(peer(), Action::Hint), Err(tonic::Code::Unauthenticated));
        tokens.know_peers(vec![Digest::of(b"farm_peer_1")]);
        assert_eq!(may(peer(), Action::Hint).unwrap().role, Role::Coordinator);
        for action in [Action::Work, Action::Submit, Action::Read, Action::ManageWorkers] {
            assert_eq!(may(peer(), action), Err(tonic::Code::PermissionDenied));
        }
        tokens.know_peers(Vec::new());
        assert_eq!(may(peer(), Action::Hint), Err(tonic::Code::Unauthenticated));
        let again = Tokens::from_file(&path, project).unwrap();
        assert_eq!(again.admin, tokens.admin);
    }
}
