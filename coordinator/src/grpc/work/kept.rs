//! What a worker keeps of repositories, and has no reason to keep any more.

use farm_proto::v1;
use farm_store::people::git_logins::KeptRepository;
use farm_types::Invalid;
use tonic::Status;

use crate::grpc::status;
use crate::shared::Shared;

/// So many are asked about at once.
const MOST: usize = 1000;

/// Which of them are to go.
///
/// # Errors
/// There are too many, one has no project's id, or the database can't be reached.
pub(crate) async fn check(
    shared: &Shared,
    kept: Vec<v1::KeptRepository>,
) -> Result<v1::CheckKeptResponse, Status> {
    if kept.len() > MOST {
        let cure = format!("ask about {MOST} at most at once");
        return Err(status::invalid(Invalid::new("kept repositories", kept.len().to_string(), cure)));
    }
    let kept: Result<Vec<_>, Invalid> = kept
        .into_iter()
        .map(|v1::KeptRepository { project_id, repository, place }| {
            Ok(KeptRepository { project: project_id.parse()?, repository, place })
        })
        .collect();
    let gone =
        shared.store.gone_repositories(&kept.map_err(status::invalid)?).await.map_err(status::store)?;
    Ok(v1::CheckKeptResponse { gone: gone.into_iter().filter_map(|n| u32::try_from(n).ok()).collect() })
}
