//! What is kept of repositories goes with its reason: the project, or the login by which it was fetched.

use farm_proto::v1::{CheckKeptRequest, CheckKeptResponse, KeptRepository};

use super::Client;
use super::tokens::{Asking, patient};
use crate::git::{Git, Kept};

/// So many are asked about at once.
const MOST: usize = 1000;

/// Asks the coordinator which those are, and removes them. If it can't be asked they stay until the next time.
pub(crate) async fn forget_gone(client: &Client, git: &Git) {
    for some in git.kept().await.chunks(MOST) {
        let request = CheckKeptRequest { kept: some.iter().map(asked).collect() };
        let ask = || -> Asking<CheckKeptResponse> {
            let (mut client, request) = (client.clone(), request.clone());
            Box::pin(async move { client.check_kept(request).await })
        };
        let gone = match patient(ask).await {
            Ok(answer) => answer.gone,
            Err(status) => {
                tracing::debug!(%status, "whether what is kept of repositories is to go can't be told now");
                return;
            }
        };
        for kept in gone.into_iter().filter_map(|n| some.get(usize::try_from(n).ok()?)) {
            tracing::info!(project = %kept.project, repository = %kept.repository, "a mirror of a repository goes: its project or its login has gone");
            git.forget(kept.project, Some(&kept.repository)).await;
        }
    }
}

fn asked(kept: &Kept) -> KeptRepository {
    KeptRepository {
        project_id: kept.project.to_string(),
        repository: kept.repository.as_str().to_owned(),
        place: kept.place.as_ref().map(|place| place.as_str().to_owned()).unwrap_or_default(),
    }
}
