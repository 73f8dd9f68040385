//! ssh agents of builds: who may offer one, and who may ask it.

use farm_proto::v1;
use farm_tests::client::{Client, hello, success};
use farm_tests::farm::Farm;
use farm_tests::machine::{self, invite, join};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::team;
use crate::workers::{NO_STAGING, as_invited, connect};

/// An offer that stands.
struct Offer {
    answers: mpsc::Sender<v1::OfferAgentsRequest>,
    questions: Streaming<v1::OfferAgentsResponse>,
}

impl Offer {
    async fn make(client: &mut Client, build: &str) -> Result<Offer, Status> {
        let (answers, outgoing) = mpsc::channel(8);
        let first = v1::OfferAgentsRequest { build_id: build.to_owned(), ..Default::default() };
        answers.send(first).await.unwrap();
        let mut questions = client.builds.offer_agents(ReceiverStream::new(outgoing)).await?.into_inner();
        assert_eq!(questions.message().await?, Some(v1::OfferAgentsResponse::default()));
        Ok(Offer { answers, questions })
    }

    /// Answers the next question.
    async fn answer(&mut self) -> v1::OfferAgentsResponse {
        let question = self.questions.message().await.unwrap().unwrap();
        self.answer_to(&question).await;
        question
    }

    /// Answers by what was asked, twice over.
    async fn answer_to(&self, question: &v1::OfferAgentsResponse) {
        let answer = question.messages.last().unwrap().repeat(2).into();
        self.answers
            .send(v1::OfferAgentsRequest { number: question.number, answer, ..Default::default() })
            .await
            .unwrap();
    }
}

fn question(lease: &v1::Lease, id: &str) -> v1::AskAgentRequest {
    v1::AskAgentRequest { lease: Some(lease.clone()), id: id.into(), messages: vec!["sign".into()] }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_made_a_build_offers_an_agent_and_only_its_lease_asks_it() {
    let farm =
        Farm::builder().env("FARM_STAGING", NO_STAGING).env("FARM_PATCHED_ENGINES", "docker 0").tls().start();
    team::project(&farm, "web").await;
    team::project(&farm, "api").await;
    let mut ada = Client::with_token(&farm, &team::person(&farm, "ada", "web", "builder").await).await;
    let mut bob = Client::with_token(&farm, &team::person(&farm, "bob", "web", "admin").await).await;
    let mut eve = Client::with_token(&farm, &team::person(&farm, "eve", "api", "admin").await).await;
    let request = v1::InviteWorkerRequest { trust: "untrusted".into(), ..as_invited("fork") };
    let fork = join(&farm, &invite(&farm, request).await.unwrap().token, "").await.unwrap();
    let mut hello_of_fork = hello("fork", 4);
    hello_of_fork.features.push("mounts".into());
    let mut fork = connect(&farm, &fork, hello_of_fork).await.unwrap();
    let good = machine::machine(&farm, "good").await;
    let mut hello_of_good = hello("good", 4);
    hello_of_good.features.push("mounts".into());
    let mut good = connect(&farm, &good, hello_of_good).await.unwrap();

    let snapshot = ada.upload("FROM scratch").await;
    let spec = v1::BuildSpec {
        snapshot: Some(snapshot),
        dockerfile: "Dockerfile".into(),
        platforms: vec!["linux/amd64".into()],
        ssh: [("default".to_owned(), "agent".to_owned())].into(),
        ..Default::default()
    };
    let request =
        v1::SubmitBuildRequest { idempotency_key: "1".into(), spec: Some(spec), ..Default::default() };
    let build = ada.builds.submit_build(request).await.unwrap().into_inner().build.unwrap();
    let offered = good.offer().await;
    let lease = offered.lease.unwrap();
    for (client, code) in [(&mut bob, Code::PermissionDenied), (&mut eve, Code::NotFound)] {
        let refused = Offer::make(client, &build.id).await.err().unwrap();
        assert_eq!(refused.code(), code, "{refused:?}");
    }
    // Who asks before there is an offer waits for it.
    let mut worker = good.work.clone();
    let early = question(&lease, "default");
    let early = tokio::spawn(async move { worker.ask_agent(early).await });
    let mut first = Offer::make(&mut ada, &build.id).await.unwrap();
    let asked = first.answer().await;
    assert_eq!((asked.id.as_str(), &asked.messages[..]), ("default", &[bytes::Bytes::from("sign")][..]));
    assert_eq!(early.await.unwrap().unwrap().into_inner().answer, "signsign");

    // The newest offer counts. A question that the one before had, comes to it.
    let mut worker = good.work.clone();
    let asked = question(&lease, "default");
    let asking = tokio::spawn(async move { worker.ask_agent(asked).await });
    first.questions.message().await.unwrap().unwrap();
    let mut second = Offer::make(&mut ada, &build.id).await.unwrap();
    let ended = first.questions.message().await.unwrap_err();
    assert_eq!(ended.code(), Code::FailedPrecondition, "{ended:?}");
    second.answer().await;
    assert_eq!(asking.await.unwrap().unwrap().into_inner().answer, "signsign");

    let refused = fork.work.ask_agent(question(&lease, "default")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    let long = v1::AskAgentRequest { messages: vec![vec![0; 600_000].into()], ..question(&lease, "default") };
    for asked in [question(&lease, "git"), long] {
        let refused = good.work.ask_agent(asked).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    // Whose lease ends while somebody is asked gets no signature, however late it is given.
    good.start(&lease).await;
    let mut worker = good.work.clone();
    let asked = question(&lease, "default");
    let asking = tokio::spawn(async move { worker.ask_agent(asked).await });
    let open = second.questions.message().await.unwrap().unwrap();
    assert!(good.finish(&lease, success()).await);
    second.answer_to(&open).await;
    let refused = asking.await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let refused = good.work.ask_agent(question(&lease, "default")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");

    // A retry is offered one as well, or isn't made.
    ada.follow(&build.id).await;
    let again = |agents: &[&str]| v1::RetryBuildRequest {
        build_id: build.id.clone(),
        idempotency_key: "again".into(),
        agents: agents.iter().map(|id| (*id).to_owned()).collect(),
        ..Default::default()
    };
    let refused = bob.builds.retry_build(again(&[])).await.unwrap_err();
    assert!(refused.message().contains("--ssh default"), "{refused:?}");
    let refused = bob.builds.retry_build(again(&["default", "git"])).await.unwrap_err();
    assert!(refused.message().contains("--ssh \"git\""), "{refused:?}");
    let retried = bob.builds.retry_build(again(&["default"])).await.unwrap().into_inner().build.unwrap();
    let refused = Offer::make(&mut ada, &retried.id).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    Offer::make(&mut bob, &retried.id).await.unwrap();
}
