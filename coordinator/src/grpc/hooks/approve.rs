//! What forks propose, and who lets it be built.

use farm_proto::v1;
use farm_store::StoreError;
use farm_types::ShortId;
use tonic::Status;

use crate::grpc::status;
use crate::hooks::approving::{Named, Unapproved, approve, present, proposed};
use crate::people::Member;
use crate::shared::Shared;

impl From<Unapproved> for Status {
    fn from(why: Unapproved) -> Self {
        match why {
            Unapproved::Commit(invalid) => status::invalid(invalid),
            Unapproved::Unheld(why) => Self::failed_precondition(why),
            Unapproved::Store(error) => status::store(error),
        }
    }
}

/// What a build is held for.
pub(super) async fn show(
    shared: &Shared,
    member: &Member,
    build: &str,
) -> Result<v1::GetProposalResponse, Status> {
    let (id, record) = found(shared, member, build).await?;
    let named = Named { project: member.project, build: record, id: &id };
    let proposal = Some(present(&proposed(shared, named).await?, &id));
    Ok(v1::GetProposalResponse { proposal, project: member.project_name.to_string() })
}

/// Approves that.
pub(super) async fn give(
    shared: &Shared,
    member: &Member,
    asked: v1::ApproveBuildRequest,
) -> Result<v1::ApproveBuildResponse, Status> {
    let (id, record) = found(shared, member, &asked.build_id).await?;
    let named = Named { project: member.project, build: record, id: &id };
    let (waits, again) = approve(shared, &member.caller.by(), named, &asked.commit).await?;
    let proposal = Some(present(&waits, &id));
    Ok(v1::ApproveBuildResponse { proposal, again, project: member.project_name.to_string() })
}

async fn found(
    shared: &Shared,
    member: &Member,
    build: &str,
) -> Result<(ShortId, farm_types::BuildId), Status> {
    let id: ShortId = build.parse().map_err(status::invalid)?;
    match shared.store.build(member.project, &id).await {
        Ok(record) => Ok((id, record.id)),
        Err(StoreError::NotFound(_)) => Err(Status::not_found(format!(
            "there is no build {id}; `farm builds --fetches` lists those that are there"
        ))),
        Err(error) => Err(status::store(error)),
    }
}
