//! Agents of ssh: the call by which they are offered, and the one by which a worker asks them.
//!
//! Invariant: only who made a build may offer agents for it, and only for those that its spec names; and both calls need a line that
//! others can't read, as those that bring and lend secrets.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farm_proto::v1;
use farm_store::builds::mounts::LeasedAgents;
use farm_store::builds::record::BuildRecord;
use farm_types::Invalid;
use futures::Stream;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::mounts::{covered, namesake};
use crate::agents::{self, Asked, Question};
use crate::grpc::status;
use crate::people::Member;
use crate::shared::Shared;

/// How many questions one offer may have unanswered at once.
const AT_ONCE: usize = 32;

/// Whether this caller may offer agents for this build.
///
/// # Errors
/// It has made another one, none are asked of this one, or others can read the line.
pub(super) fn may_offer(shared: &Shared, member: &Member, record: &BuildRecord) -> Result<(), Status> {
    if !covered(shared, member.caller.is_encrypted) {
        return Err(Status::permission_denied(
            "an ssh agent was offered over a connection without TLS, on which others could read what it signs; call the farm by \
             https:// (`farm login https://…`), or have whoever runs it start the coordinator with --insecure-secrets",
        ));
    }
    let id = &record.short_id;
    if !member.caller.principal.has_submitted(record) {
        return Err(Status::permission_denied(format!(
            "build {id} is {}'s{}, and only who submitted a build can offer an ssh agent for it",
            record.created_by,
            namesake(member, record)
        )));
    }
    if record.spec.mounts.agents().next().is_none() {
        return Err(Status::failed_precondition(format!("build {id} asks no ssh agent")));
    }
    Ok(())
}

/// What comes next in such a call.
enum Next {
    Asked(Option<Asked>),
    Answered(Option<v1::OfferAgentsRequest>),
}

/// Passes questions on to whoever offers, and its answers to who asked.
pub(super) fn offer(
    shared: Arc<Shared>,
    record: &BuildRecord,
    mut answers: Streaming<v1::OfferAgentsRequest>,
    shutdown: CancellationToken,
) -> impl Stream<Item = Result<v1::OfferAgentsResponse, Status>> + use<> {
    let build = record.id;
    async_stream::try_stream! {
        let mut offer = shared.agents.offer(build);
        let mut waiting: HashMap<u64, oneshot::Sender<Bytes>> = HashMap::new();
        let mut number = 0;
        // That it stands.
        yield v1::OfferAgentsResponse::default();
        loop {
            waiting.retain(|_, answer| !answer.is_closed());
            let next = tokio::select! {
                asked = offer.next(), if waiting.len() < AT_ONCE => Ok(Next::Asked(asked)),
                answer = answers.message() => answer.map(Next::Answered),
                () = shutdown.cancelled() => Err(Status::unavailable("this coordinator stops; call again")),
            };
            match next? {
                Next::Asked(None) => {
                    Err(Status::failed_precondition("another command answers for this build's ssh agents now"))?;
                }
                Next::Asked(Some(Asked { question, answer })) => {
                    number += 1;
                    waiting.insert(number, answer);
                    yield v1::OfferAgentsResponse { number, id: question.id.to_string(), messages: question.messages };
                }
                Next::Answered(None) => break,
                Next::Answered(Some(v1::OfferAgentsRequest { number, answer, .. })) => {
                    if let Some(waits) = waiting.remove(&number) {
                        // An error: nobody waits any more.
                        let _ = waits.send(answer);
                    }
                }
            }
        }
    }
}

/// Has an agent of a leased attempt's build answer.
///
/// # Errors
/// Others can read the line, the build asks no such agent, or see [`agents::ask`].
pub(crate) async fn ask(
    shared: &Shared,
    is_encrypted: bool,
    leased: &LeasedAgents,
    asked: v1::AskAgentRequest,
) -> Result<v1::AskAgentResponse, Status> {
    if !covered(shared, is_encrypted) {
        return Err(Status::permission_denied(
            "this worker's connection is without TLS, so it reaches no ssh agents; have it join by https:// (`farm workers \
             invite`), or have whoever runs the farm start the coordinator with --insecure-secrets",
        ));
    }
    let id = asked.id.parse().map_err(status::invalid)?;
    if !leased.mounts.agents().any(|known| *known == id) {
        let cure = "the build asks no ssh agent of this id";
        return Err(status::invalid(Invalid::new("id", asked.id, cure)));
    }
    let question = Question::new(leased.build, id, asked.messages)?;
    let away = Duration::from_secs(shared.config.limits.agent_away_seconds);
    let answer = agents::ask(&shared.agents, &shared.others, &question, away).await?;
    Ok(v1::AskAgentResponse { answer })
}
