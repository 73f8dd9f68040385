//! Against a FAKE BuildService that plays a written sequence.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use farm_proto::v1::build_service_server::{BuildService, BuildServiceServer};
use farm_proto::v1::{
    CancelBuildRequest, CancelBuildResponse, GetBuildRequest, GetBuildResponse, ListBuildsRequest,
    ListBuildsResponse, OfferAgentsRequest, OfferAgentsResponse, ProvideSourceRequest, ProvideSourceResponse,
    ReadFetchedRequest, ReadFetchedResponse, RetryBuildRequest, RetryBuildResponse, SubmitBuildRequest,
    SubmitBuildResponse, WatchBuildResponse,
};
use futures::Stream;
use tonic::{Request, Response, Streaming};

use super::*;

/// Short, and shorter than what is silent here.
const STEADY_HERE: Duration = Duration::from_millis(200);

/// What one watch answers: messages, then its end.
type Watch = (Vec<WatchBuildResponse>, Result<(), Status>);

/// A watch without messages that ends so stands for a while first.
const SILENT: &str = "silent, then broken";

#[derive(Clone)]
struct Fake {
    watches: Arc<Mutex<VecDeque<Watch>>>,
    /// The cursor of each watch.
    cursors: Arc<Mutex<Vec<Vec<u8>>>>,
    /// How long it takes until a farm that is away says so.
    slow: Duration,
}

#[tonic::async_trait]
impl BuildService for Fake {
    type WatchBuildStream = Pin<Box<dyn Stream<Item = Result<WatchBuildResponse, Status>> + Send>>;
    type OfferAgentsStream = tokio_stream::Empty<Result<OfferAgentsResponse, Status>>;

    async fn watch_build(
        &self,
        request: Request<WatchBuildRequest>,
    ) -> Result<Response<Self::WatchBuildStream>, Status> {
        self.cursors.lock().unwrap().push(request.into_inner().cursor.to_vec());
        let watch = self.watches.lock().unwrap().pop_front();
        let Some((messages, end)) = watch else {
            tokio::time::sleep(self.slow).await;
            return Err(Status::unavailable("away"));
        };
        if messages.is_empty() {
            let Err(status) = end else { return Ok(Response::new(Box::pin(tokio_stream::empty()))) };
            if status.message() != SILENT {
                return Err(status);
            }
            let silent = self.slow;
            return Ok(Response::new(Box::pin(futures::stream::once(async move {
                tokio::time::sleep(silent).await;
                Err(Status::unavailable(SILENT))
            }))));
        }
        let stream: Vec<_> = messages.into_iter().map(Ok).chain(end.err().map(Err)).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(stream))))
    }

    async fn submit_build(
        &self,
        _: Request<SubmitBuildRequest>,
    ) -> Result<Response<SubmitBuildResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn get_build(&self, _: Request<GetBuildRequest>) -> Result<Response<GetBuildResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn list_builds(
        &self,
        _: Request<ListBuildsRequest>,
    ) -> Result<Response<ListBuildsResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn cancel_build(
        &self,
        _: Request<CancelBuildRequest>,
    ) -> Result<Response<CancelBuildResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn retry_build(
        &self,
        _: Request<RetryBuildRequest>,
    ) -> Result<Response<RetryBuildResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn offer_agents(
        &self,
        _: Request<Streaming<OfferAgentsRequest>>,
    ) -> Result<Response<Self::OfferAgentsStream>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn read_fetched(
        &self,
        _: Request<ReadFetchedRequest>,
    ) -> Result<Response<ReadFetchedResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn provide_source(
        &self,
        _: Request<ProvideSourceRequest>,
    ) -> Result<Response<ProvideSourceResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }
}

fn state(cursor: u8, state: &str) -> WatchBuildResponse {
    let build = Build { id: "7f3k2m".into(), state: state.into(), ..Default::default() };
    WatchBuildResponse { cursor: vec![cursor].into(), event: Some(Event::Build(build)) }
}

fn output(cursor: u8) -> WatchBuildResponse {
    let events = AttemptEvents { attempt_id: format!("piece {cursor}"), ..Default::default() };
    WatchBuildResponse { cursor: vec![cursor].into(), event: Some(Event::Attempt(events)) }
}

/// Follows a farm that answers so; gives the result, what was told, and the cursors of the watches.
async fn followed(
    watches: Vec<Watch>,
    to_the_end: bool,
) -> (Result<Option<Build>>, Vec<String>, Vec<Vec<u8>>) {
    followed_within(GIVE_UP, Duration::ZERO, watches, to_the_end).await
}

async fn followed_within(
    give_up: Duration,
    slow: Duration,
    watches: Vec<Watch>,
    to_the_end: bool,
) -> (Result<Option<Build>>, Vec<String>, Vec<Vec<u8>>) {
    let fake = Fake { watches: Arc::new(Mutex::new(watches.into())), cursors: Arc::default(), slow };
    let router = tonic::transport::Server::builder().add_service(BuildServiceServer::new(fake.clone()));
    let client = crate::testing::client(router).await;
    let mut told = Vec::new();
    let result = follow_within(
        Limits { give_up, steady: STEADY_HERE },
        &client,
        "7f3k2m",
        to_the_end,
        async |_| {},
        |seen| {
            told.push(match seen {
                Seen::Build(build) => build.state.clone(),
                Seen::Attempt(events) => events.attempt_id.clone(),
                Seen::Away(_) => "away".to_owned(),
                Seen::Back => "back".to_owned(),
            });
        },
    )
    .await;
    let cursors = fake.cursors.lock().unwrap().clone();
    (result, told, cursors)
}

#[tokio::test]
async fn a_restart_of_the_farm_is_survived_and_told_once() {
    let away = || (Vec::new(), Err(Status::unavailable("away")));
    let (result, told, cursors) = followed(
        vec![
            (vec![state(1, "running"), output(2)], Err(Status::unavailable("going down"))),
            away(),
            away(),
            away(),
            (vec![output(3), state(4, "succeeded"), output(5)], Ok(())),
        ],
        true,
    )
    .await;
    assert_eq!(result.unwrap().unwrap().state, "succeeded");
    assert_eq!(told, ["running", "piece 2", "away", "back", "piece 3", "succeeded", "piece 5"]);
    assert_eq!(cursors, [vec![], vec![2], vec![2], vec![2], vec![2]]);
}

#[tokio::test]
async fn a_stream_that_ends_before_the_build_does_is_opened_again_without_a_word() {
    let (result, told, cursors) =
        followed(vec![(vec![state(1, "running")], Ok(())), (vec![state(2, "failed")], Ok(()))], true).await;
    assert_eq!(result.unwrap().unwrap().state, "failed");
    assert_eq!(told, ["running", "failed"]);
    assert_eq!(cursors, [vec![], vec![1]]);
}

#[tokio::test]
async fn a_final_state_whose_output_is_not_all_there_is_not_the_end() {
    let (result, told, _) = followed(
        vec![
            (vec![state(1, "succeeded")], Err(Status::unavailable("going down"))),
            (vec![output(2)], Ok(())),
        ],
        true,
    )
    .await;
    assert!(result.is_ok());
    assert_eq!(told, ["succeeded", "piece 2"]);
}

#[tokio::test]
async fn without_following_the_end_of_the_stream_is_the_end() {
    let (result, told, _) = followed(vec![(vec![state(1, "running")], Ok(()))], false).await;
    assert_eq!(result.unwrap().unwrap().state, "running");
    assert_eq!(told, ["running"]);
}

#[tokio::test]
async fn a_build_that_is_not_there_and_a_farm_that_stays_away_are_errors() {
    let (result, ..) = followed(vec![(Vec::new(), Err(Status::not_found("no build 7f3k2m")))], true).await;
    let error = result.unwrap_err();
    assert_eq!((error.exit().code(), error.to_string().as_str()), (2, "no build 7f3k2m"));
    let give_up = Duration::from_millis(700);
    let (result, told, _) = followed_within(give_up, Duration::ZERO, Vec::new(), true).await;
    let error = result.unwrap_err();
    assert_eq!((error.exit().code(), told), (3, vec!["away".to_owned()]));
    assert!(error.to_string().contains("farm logs 7f3k2m -f"), "{error}");
    // The time that calls take counts, not only that of the pauses.
    let (result, _, cursors) = followed_within(give_up, Duration::from_millis(800), Vec::new(), true).await;
    assert!(result.is_err() && cursors.len() <= 2, "{}", cursors.len());
}

#[tokio::test]
async fn a_silent_build_on_connections_that_break_now_and_then_is_no_farm_that_is_away() {
    let silent = || (Vec::new(), Err(Status::unavailable(SILENT)));
    let watches = vec![silent(), silent(), silent(), (vec![state(1, "succeeded")], Ok(()))];
    // Each stands for longer than a farm may be away.
    let (give_up, stands) = (Duration::from_millis(400), Duration::from_millis(600));
    let (result, told, _) = followed_within(give_up, stands, watches, true).await;
    assert_eq!(result.unwrap().unwrap().state, "succeeded");
    assert_eq!(told, ["succeeded"]);
}
