//! Secrets that steps mount (`RUN --mount=type=secret`): BuildKit's `moby.buildkit.secrets.v1`.
//!
//! Of an id that isn't here the engine is told so; a mount that isn't `required` is left out then. Which ids it asked for in
//! vain is noted, as what it says of that later names no cure.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use bollard_buildkit_proto::moby::buildkit::secrets::v1::secrets_server;
use bollard_buildkit_proto::moby::buildkit::secrets::v1::{GetSecretRequest, GetSecretResponse};
use farm_types::{Cause, Failure, FailureCode, MountType};
use tonic::{Request, Response, Status};

use crate::buildkit::types::Mounted;

/// What is served here.
pub(super) const METHODS: &[&str] = &["/moby.buildkit.secrets.v1.Secrets/GetSecret"];

/// Gives the engine what it asks for.
pub(in crate::buildkit) struct Secrets {
    mounted: Arc<Mounted>,
    missed: Missed,
}

/// The ids that were asked for in vain.
#[derive(Clone, Default)]
pub(in crate::buildkit) struct Missed(Arc<Mutex<BTreeSet<String>>>);

impl Secrets {
    pub(in crate::buildkit) fn new(mounted: Arc<Mounted>, missed: Missed) -> Self {
        Self { mounted, missed }
    }
}

impl Missed {
    /// A failure that came of such an id, with what to do about it.
    pub(in crate::buildkit) fn explain(&self, failure: Failure, said: &str) -> Failure {
        let missed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The engine's own sentence, which ends with it, and not what a command printed.
        let is_it = |id: &&String| said.ends_with(&format!("secret {id}: not found"));
        match missed.iter().find(is_it).filter(|_| failure.exit_code.is_none()) {
            None => failure,
            Some(id) => {
                let message = format!(
                    "the Dockerfile requires the secret {id}, which the build wasn't given: --secret id={id},src=FILE or \
                     --secret id={id},env=NAME"
                );
                Failure { cause: Cause::User, code: FailureCode::SecretMissing, message, ..failure }
            }
        }
    }
}

#[tonic::async_trait]
impl secrets_server::Secrets for Secrets {
    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        let key = id.parse().ok().map(|id| (MountType::Secret, id));
        match key.and_then(|key| self.mounted.get(&key)) {
            Some(value) => Ok(Response::new(GetSecretResponse { data: value.to_vec() })),
            None => {
                let status = Status::not_found(format!("secret {id} not found"));
                self.missed.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
                Err(status)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use secrets_server::Secrets as _;
    use zeroize::Zeroizing;

    use super::*;

    #[tokio::test]
    async fn what_was_given_is_told_and_what_was_not_has_a_cure() {
        let key = (MountType::Secret, "npm".parse().unwrap());
        let ssh = (MountType::Ssh, "git".parse().unwrap());
        let mounted: Mounted =
            [(key, Zeroizing::new(b"hush\0\n".to_vec())), (ssh, Zeroizing::new(b"key".to_vec()))].into();
        let missed = Missed::default();
        let secrets = Secrets::new(Arc::new(mounted), missed.clone());
        let ask = async |id: &str| {
            let request = Request::new(GetSecretRequest { id: id.to_owned(), ..Default::default() });
            secrets.get_secret(request).await
        };
        assert_eq!(ask("npm").await.unwrap().into_inner().data, b"hush\0\n");
        for id in ["git", "other", "a b"] {
            assert_eq!(ask(id).await.unwrap_err().code(), tonic::Code::NotFound, "{id}");
        }
        let failure = |exit_code| Failure {
            exit_code,
            ..Failure::new(Cause::User, FailureCode::EngineError, "as it was".to_owned())
        };
        let said = "failed to solve: secret other: not found";
        let told = missed.explain(failure(None), said);
        assert_eq!(told.code, FailureCode::SecretMissing);
        assert!(told.message.contains("--secret id=other,src=FILE"), "{told:?}");
        // Of others the engine speaks for itself, and a command may print what it likes.
        assert_eq!(missed.explain(failure(None), "secret npm: not found").message, "as it was");
        assert_eq!(missed.explain(failure(Some(1)), said).message, "as it was");
    }
}
