//! Secrets that steps mount (`RUN --mount=type=secret`): BuildKit's `moby.buildkit.secrets.v1`.
//!
//! Of an id that isn't here the engine is told so; a mount that isn't `required` is left out then.

use std::sync::Arc;

use bollard_buildkit_proto::moby::buildkit::secrets::v1::secrets_server;
use bollard_buildkit_proto::moby::buildkit::secrets::v1::{GetSecretRequest, GetSecretResponse};
use farm_types::MountType;
use tonic::{Request, Response, Status};

use super::missed::Missed;
use crate::buildkit::types::Mounted;

/// What is served here.
pub(super) const METHODS: &[&str] = &["/moby.buildkit.secrets.v1.Secrets/GetSecret"];

/// Gives the engine what it asks for.
pub(in crate::buildkit) struct Secrets {
    mounted: Arc<Mounted>,
    missed: Missed,
}

impl Secrets {
    pub(in crate::buildkit) fn new(mounted: Arc<Mounted>, missed: Missed) -> Self {
        Self { mounted, missed }
    }
}

#[tonic::async_trait]
impl secrets_server::Secrets for Secrets {
    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        match id.parse().ok().and_then(|id| self.mounted.secrets.get(&id)) {
            Some(value) => Ok(Response::new(GetSecretResponse { data: value.to_vec() })),
            None => Err(self.missed.note(MountType::Secret, &id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use secrets_server::Secrets as _;
    use zeroize::Zeroizing;

    use super::*;

    #[tokio::test]
    async fn what_was_given_is_told_and_what_was_not_is_noted() {
        let mut mounted = Mounted::default();
        mounted.secrets.insert("npm".parse().unwrap(), Zeroizing::new(b"hush\0\n".to_vec()));
        let secrets = Secrets::new(Arc::new(mounted), Missed::default());
        let ask = async |id: &str| {
            let request = Request::new(GetSecretRequest { id: id.to_owned(), ..Default::default() });
            secrets.get_secret(request).await
        };
        assert_eq!(ask("npm").await.unwrap().into_inner().data, b"hush\0\n");
        for id in ["git", "other", "a b"] {
            let status = ask(id).await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::NotFound, "{id}");
            assert!(secrets.missed.holds(MountType::Secret, id), "{id}");
        }
    }
}
