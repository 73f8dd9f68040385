//! What a fetch brings, on its way to the coordinator by the lease of its attempt.

use farm_proto::v1::{
    FindMissingRequest, FindMissingResponse, FindMissingSourceRequest, FinishSourceRequest,
    FinishUploadRequest, FinishUploadResponse, LendGitLoginRequest, LendGitLoginResponse, OpenSourceRequest,
    OpenUploadRequest, OpenUploadResponse, SendSourceRequest, UploadObjectsRequest, UploadObjectsResponse,
};
use farm_source::upload::Farm;
use farm_types::{Cause, Failure, FailureCode, GitPlace, GitUrl};
use futures::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};
use zeroize::Zeroizing;

use super::Client;
use super::tokens::{Asking, patient};
use crate::attempts::Lease;
use crate::fetching::Logins;
use crate::git::GitLogin;

/// The coordinator, as a source is brought to it for one attempt.
pub struct Bringing {
    client: Client,
    lease: Lease,
}

impl Bringing {
    /// For the attempt of this lease.
    pub fn new(client: Client, lease: Lease) -> Self {
        Self { client, lease }
    }
}

impl Logins for Bringing {
    async fn login(&self, repository: &GitUrl) -> Result<Option<(GitPlace, GitLogin)>, Failure> {
        let request = LendGitLoginRequest { lease: Some(self.lease.into()) };
        let ask = || -> Asking<LendGitLoginResponse> {
            let (mut client, request) = (self.client.clone(), request.clone());
            Box::pin(async move { client.lend_git_login(request).await })
        };
        let lent = patient(ask).await.map_err(|status| {
            let text = format!("the project's login for {repository} could not be had: {}", status.message());
            Failure::new(Cause::Infrastructure, FailureCode::SourceUnreachable, text)
        })?;
        let LendGitLoginResponse { username, token, key, host_keys, place } = lent;
        let (token, key) = (Zeroizing::new(token), Zeroizing::new(key));
        let login = if !key.is_empty() {
            let known_hosts = known_hosts(repository.host(), &host_keys);
            Some(GitLogin::Key { pem: key, known_hosts })
        } else if !token.is_empty() {
            Some(GitLogin::Token { username, password: token })
        } else {
            None
        };
        let place = place.parse().unwrap_or_else(|_| GitPlace::of(repository));
        Ok(login.map(|login| (place, login)))
    }
}

/// Lines of known_hosts (sshd(8)) for a host.
fn known_hosts(host: &str, keys: &[String]) -> String {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, "22"),
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let name = if port == "22" { bare.to_owned() } else { format!("[{bare}]:{port}") };
    keys.iter().map(|key| format!("{name} {key}\n")).collect()
}

impl Farm for Bringing {
    async fn open_upload(&self, request: OpenUploadRequest) -> Result<OpenUploadResponse, Status> {
        let request = OpenSourceRequest { lease: Some(self.lease.into()), open: Some(request) };
        self.client.clone().open_source(request).await.map(Response::into_inner)
    }

    async fn find_missing(&self, request: FindMissingRequest) -> Result<FindMissingResponse, Status> {
        let request = FindMissingSourceRequest { lease: Some(self.lease.into()), find: Some(request) };
        self.client.clone().find_missing_source(request).await.map(Response::into_inner)
    }

    async fn upload_objects(
        &self,
        messages: ReceiverStream<UploadObjectsRequest>,
    ) -> Result<UploadObjectsResponse, Status> {
        let lease = self.lease;
        let messages = messages
            .map(move |objects| SendSourceRequest { lease: Some(lease.into()), objects: Some(objects) });
        self.client.clone().send_source(messages).await.map(Response::into_inner)
    }

    async fn finish_upload(&self, request: FinishUploadRequest) -> Result<FinishUploadResponse, Status> {
        let request = FinishSourceRequest { lease: Some(self.lease.into()), finish: Some(request) };
        self.client.clone().finish_source(request).await.map(Response::into_inner)
    }
}
