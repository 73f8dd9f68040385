//! The whole way: a farm's process, whose project trusts a repository, and a job that has a token of its issuer and nothing else.

use std::time::{Duration, Instant};

use farm_proto::v1;
use farm_proto::v1::build_service_client::BuildServiceClient;
use farm_proto::v1::people_service_client::PeopleServiceClient;
use farm_proto::v1::project_service_client::ProjectServiceClient;
use farm_proto::v1::trust_service_client::TrustServiceClient;
use farm_tests::farm::Farm;
use farm_tests::issuer::{Issuer, Key, Kind};
use serde_json::json;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

struct World {
    farm: Farm,
    channel: Channel,
    issuer: Issuer,
    key: Key,
}

async fn world() -> World {
    let key = Key::new("one", Kind::Rs256);
    let issuer = Issuer::start(&[&key]);
    let config = format!(
        "[oidc]\naudience = 'https://farm.example'\n[oidc.issuers.'{}']\nplain_http = true\nalgorithms = ['RS256']\n",
        issuer.url()
    );
    let farm = Farm::builder().config(&config).start();
    let channel = Endpoint::new(farm.url()).unwrap().connect().await.unwrap();
    World { farm, channel, issuer, key }
}

/// A call with this token in this project.
fn call<T>(token: &str, project: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request.metadata_mut().insert("farm-project", project.parse().unwrap());
    request
}

impl World {
    fn trusts(&self) -> TrustServiceClient<Channel> {
        TrustServiceClient::new(self.channel.clone())
    }

    /// Has the project trust the repository acme/app.
    async fn trust(
        &self,
        project: &str,
        change: impl Fn(&mut v1::AddTrustRequest),
    ) -> Result<v1::Trust, Status> {
        let one = |value: &str| v1::ClaimValues { values: vec![value.to_owned()] };
        let claims = [("repository_id", "74"), ("repository_owner_id", "65")];
        let mut asked = v1::AddTrustRequest {
            provider: "github".to_owned(),
            issuer: self.issuer.url(),
            name: "acme/app".to_owned(),
            claims: claims.map(|(claim, value)| (claim.to_owned(), one(value))).into(),
            role: "builder".to_owned(),
            ..Default::default()
        };
        change(&mut asked);
        let answer = self.trusts().add_trust(call(&self.farm.token(), project, asked)).await?;
        Ok(answer.into_inner().trust.unwrap())
    }

    async fn exchange(&self, project: &str) -> Result<v1::ExchangeTokenResponse, Status> {
        let token = self.key.sign(&self.issuer.job(json!({})));
        let asked = v1::ExchangeTokenRequest { token, project: project.to_owned() };
        Ok(self.trusts().exchange_token(asked).await?.into_inner())
    }

    /// Whether a token may see the builds of a project.
    async fn reads(&self, token: &str, project: &str) -> Result<(), Code> {
        let mut builds = BuildServiceClient::new(self.channel.clone());
        let listed = builds.list_builds(call(token, project, v1::ListBuildsRequest::default())).await;
        listed.map(drop).map_err(|status| status.code())
    }
}

#[tokio::test]
async fn a_job_without_a_secret_builds_in_the_project_that_trusts_it_until_it_does_no_more() {
    let world = world().await;
    let asked = world.trusts().get_audience(v1::GetAudienceRequest {}).await.unwrap().into_inner();
    assert_eq!(asked.audience, "https://farm.example");
    let web = v1::CreateProjectRequest { name: "web".to_owned(), admin: String::new() };
    let mut projects = ProjectServiceClient::new(world.channel.clone());
    projects.create_project(call(&world.farm.token(), "default", web)).await.unwrap();
    let trust = world.trust("web", |_| {}).await.unwrap();
    assert_eq!((trust.audience.as_str(), trust.created_by.as_str()), ("https://farm.example", "admin"));

    let given = world.exchange("web").await.unwrap();
    assert_eq!((given.name.as_str(), given.role.as_str()), ("github:acme/app@refs/heads/main", "builder"));
    let mut people = PeopleServiceClient::new(world.channel.clone());
    let me = people.who_am_i(call(&given.secret, "web", v1::WhoAmIRequest {})).await.unwrap().into_inner();
    assert_eq!((me.name.as_str(), me.kind.as_str(), me.farm_admin), (given.name.as_str(), "subject", false));
    assert_eq!(me.memberships, [v1::Membership { project: "web".to_owned(), role: "builder".to_owned() }]);
    assert_eq!(me.token_expires_ms, given.expires_ms);
    // It is in this project and no admin there, and makes no tokens.
    assert_eq!(world.reads(&given.secret, "web").await, Ok(()));
    assert_eq!(world.reads(&given.secret, "default").await, Err(Code::PermissionDenied));
    let list = call(&given.secret, "web", v1::ListTrustsRequest {});
    assert_eq!(world.trusts().list_trusts(list).await.unwrap_err().code(), Code::PermissionDenied);
    let make = people.create_token(call(&given.secret, "web", v1::CreateTokenRequest::default())).await;
    assert_eq!(make.unwrap_err().code(), Code::PermissionDenied);

    // Neither the project that trusts nobody, nor one that isn't there, says more than that.
    let said = [world.exchange("default").await.unwrap_err(), world.exchange("nothing").await.unwrap_err()];
    let [trusting, absent] =
        said.map(|status| (status.code(), status.message().replace("default", "nothing")));
    assert_eq!((trusting.0, &trusting), (Code::PermissionDenied, &absent));

    let list = world.trusts().list_trusts(call(&world.farm.token(), "web", v1::ListTrustsRequest {})).await;
    let [listed] = &list.unwrap().into_inner().trusts[..] else { panic!("one trust was added") };
    assert!(listed.id == trust.id && listed.last_used_ms > 0 && listed.claims == trust.claims);
    let remove =
        |project| call(&world.farm.token(), project, v1::RemoveTrustRequest { id: trust.id.clone() });
    let theirs = world.trusts().remove_trust(remove("default")).await.unwrap_err();
    assert!(theirs.message().contains("no such trust"), "{theirs}");
    world.trusts().remove_trust(remove("web")).await.unwrap();
    let begin = Instant::now();
    while world.reads(&given.secret, "web").await != Err(Code::Unauthenticated) {
        assert!(begin.elapsed() < Duration::from_secs(5), "it counts for more than 5 s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(world.exchange("web").await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_trust_that_nobody_can_mean_is_refused_with_its_cure() {
    let world = world().await;
    let said = async |change: &dyn Fn(&mut v1::AddTrustRequest)| {
        let status = world.trust("default", |asked| change(asked)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        status.message().to_owned()
    };
    assert!(said(&|asked| asked.provider = "gihtub".into()).await.contains("did you mean github?"));
    assert!(said(&|asked| asked.issuer = "http://github.example".into()).await.contains("https://"));
    assert!(said(&|asked| drop(asked.claims.remove("repository_id"))).await.contains("repository_id"));
    assert!(said(&|asked| asked.role = "bulider".into()).await.contains("did you mean builder?"));
    assert!(said(&|asked| asked.name = "a\nb".into()).await.contains("one line"));
    assert!(said(&|asked| asked.audience = "a".repeat(256)).await.contains("255 bytes"));
    // What is no project's name, and what is no token.
    let wrong = v1::ExchangeTokenRequest { token: "farm_p_0".into(), project: "default".into() };
    assert_eq!(world.trusts().exchange_token(wrong.clone()).await.unwrap_err().code(), Code::Unauthenticated);
    let wrong = v1::ExchangeTokenRequest { project: "No Project".into(), ..wrong };
    assert_eq!(world.trusts().exchange_token(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    let long = v1::ExchangeTokenRequest { token: "a".repeat(100_000), project: "default".into() };
    assert_eq!(world.trusts().exchange_token(long).await.unwrap_err().code(), Code::OutOfRange);
}
