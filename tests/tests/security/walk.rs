//! Every method by every kind of caller: who is let in is written down here once more, apart from the coordinator's own table.

use std::collections::BTreeMap;
use std::time::Duration;

use farm_proto::DESCRIPTORS;
use farm_proto::v1;
use farm_tests::client::Client;
use farm_tests::database::psql;
use farm_tests::farm::Farm;
use farm_tests::machine::{self, Machine};
use prost::Message as _;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::team;

/// No call of the walk takes longer, whatever it leads to.
const LONG: Duration = Duration::from_secs(20);

/// What it takes to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Open,
    /// Who one is.
    Oneself,
    Known,
    Viewer,
    Builder,
    Publisher,
    ProjectAdmin,
    FarmAdmin,
    Worker,
    /// For a worker that shows a certificate.
    Certificate,
    Coordinator,
}

const DOORS: &[(Door, &[&str])] = &[
    (
        Door::Open,
        &[
            "grpc.health.v1.Health/Check",
            "grpc.health.v1.Health/Watch",
            "grpc.health.v1.Health/List",
            "farm.v1.MachineService/JoinFarm",
            "farm.v1.SignInService/GetSignIn",
            "farm.v1.SignInService/BeginDeviceSignIn",
            "farm.v1.SignInService/SignIn",
            "farm.v1.TrustService/GetAudience",
            "farm.v1.TrustService/ExchangeToken",
        ],
    ),
    (
        Door::Known,
        &[
            "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "farm.v1.FarmService/GetFarm",
            "farm.v1.FarmService/ListWorkers",
            "farm.v1.FarmService/MeasureCaches",
            "farm.v1.PeopleService/CreateToken",
            "farm.v1.PeopleService/ListTokens",
            "farm.v1.PeopleService/RevokeToken",
            "farm.v1.ProjectService/ListProjects",
        ],
    ),
    (
        Door::Viewer,
        &[
            "farm.v1.BuildService/GetBuild",
            "farm.v1.BuildService/ListBuilds",
            "farm.v1.BuildService/WatchBuild",
            "farm.v1.OutputService/FetchOutput",
            "farm.v1.ImageService/GetTagHistory",
            "farm.v1.ImageService/InspectImage",
            "farm.v1.ImageService/ListTags",
            "farm.v1.ImageService/GetRepositoryUsage",
            "farm.v1.MirrorService/ListMirrors",
            "farm.v1.ProjectService/GetUsage",
            "farm.v1.ProjectService/ListMembers",
            "farm.v1.ProjectService/GetAccess",
            "farm.v1.ProjectService/GetProjectSettings",
            "farm.v1.HookService/ListHooks",
            "farm.v1.HookService/ListDeliveries",
            "farm.v1.HookService/GetHookRules",
            "farm.v1.NoticeService/ListNotices",
            "farm.v1.HookService/GetProposal",
            "farm.v1.SigningService/ListSigningKeys",
        ],
    ),
    (
        Door::Builder,
        &[
            "farm.v1.BuildService/SubmitBuild",
            "farm.v1.BuildService/CancelBuild",
            "farm.v1.BuildService/RetryBuild",
            "farm.v1.BuildService/OfferAgents",
            "farm.v1.BuildService/ProvideSource",
            "farm.v1.BuildService/ReadFetched",
            "farm.v1.SnapshotService/OpenUpload",
            "farm.v1.SnapshotService/FindMissing",
            "farm.v1.SnapshotService/UploadObjects",
            "farm.v1.SnapshotService/FinishUpload",
            "farm.v1.OutputService/ReleaseOutputs",
            "farm.v1.MirrorService/AddMirror",
            "farm.v1.MirrorService/RemoveMirror",
            "farm.v1.SecretService/ListSecrets",
        ],
    ),
    (Door::Publisher, &["farm.v1.HookService/ApproveBuild"]),
    (
        Door::ProjectAdmin,
        &[
            "farm.v1.AuditService/ListAudit",
            "farm.v1.ImageService/RemoveImages",
            "farm.v1.PeopleService/CreateServiceToken",
            "farm.v1.ProjectService/SetMember",
            "farm.v1.ProjectService/ProtectTags",
            "farm.v1.ProjectService/SetProjectDefaults",
            "farm.v1.ProjectService/RemoveMember",
            "farm.v1.SecretService/SetSecret",
            "farm.v1.SecretService/RemoveSecret",
            "farm.v1.TrustService/AddTrust",
            "farm.v1.TrustService/ListTrusts",
            "farm.v1.TrustService/RemoveTrust",
            "farm.v1.RegistryService/SetRegistryLogin",
            "farm.v1.RegistryService/ListRegistryLogins",
            "farm.v1.RegistryService/RemoveRegistryLogin",
            "farm.v1.GitService/SetGitLogin",
            "farm.v1.GitService/ListGitLogins",
            "farm.v1.GitService/RemoveGitLogin",
            "farm.v1.SigningService/SetSigningKey",
            "farm.v1.SigningService/RemoveSigningKey",
            "farm.v1.HookService/AddHook",
            "farm.v1.HookService/TestHook",
            "farm.v1.HookService/Redeliver",
            "farm.v1.HookService/SetHook",
            "farm.v1.HookService/RotateHook",
            "farm.v1.HookService/SetHookToken",
            "farm.v1.HookService/InstallHook",
            "farm.v1.HookService/RemoveHookToken",
            "farm.v1.HookService/SetHookRules",
            "farm.v1.HookService/RemoveHook",
            "farm.v1.NoticeService/AddNotice",
            "farm.v1.NoticeService/TestNotice",
            "farm.v1.NoticeService/RotateNotice",
            "farm.v1.NoticeService/RemoveNotice",
        ],
    ),
    (
        Door::FarmAdmin,
        &[
            "farm.v1.AuditService/ListFarmAudit",
            "farm.v1.AuditService/VerifyAudit",
            "farm.v1.FarmService/DrainWorkers",
            "farm.v1.FarmService/ResumeWorkers",
            "farm.v1.FarmService/RemoveWorkers",
            "farm.v1.FarmService/PruneCaches",
            "farm.v1.MachineService/InviteWorker",
            "farm.v1.MachineService/ListInvitations",
            "farm.v1.MachineService/WithdrawInvitation",
            "farm.v1.MachineService/RevokeWorkers",
            "farm.v1.PeopleService/CreatePersonToken",
            "farm.v1.PeopleService/SetFarmAdmin",
            "farm.v1.PeopleService/ListFarmAdmins",
            "farm.v1.ProjectService/CreateProject",
            "farm.v1.ProjectService/AllowRepositories",
            "farm.v1.ProjectService/AllowEntitlements",
            "farm.v1.ProjectService/SetProjectQuota",
            "farm.v1.ProjectService/RemoveProject",
            "farm.v1.SignInService/LinkPerson",
            "farm.v1.SignInService/UnlinkPerson",
        ],
    ),
    (
        Door::Worker,
        &[
            "farm.v1.WorkerService/Control",
            "farm.v1.WorkerService/SendEvents",
            "farm.v1.WorkerService/FetchFolders",
            "farm.v1.WorkerService/FetchFiles",
            "farm.v1.WorkerService/SendOutput",
            "farm.v1.WorkerService/LendToken",
            "farm.v1.WorkerService/LendLogin",
            "farm.v1.WorkerService/LookUpImage",
            "farm.v1.WorkerService/LendMounts",
            "farm.v1.WorkerService/LendGitLogin",
            "farm.v1.WorkerService/CheckKept",
            "farm.v1.WorkerService/CheckPushed",
            "farm.v1.WorkerService/FindVerdicts",
            "farm.v1.WorkerService/AskAgent",
            "farm.v1.WorkerService/OpenSource",
            "farm.v1.WorkerService/FindMissingSource",
            "farm.v1.WorkerService/SendSource",
            "farm.v1.WorkerService/FinishSource",
        ],
    ),
    (Door::Certificate, &["farm.v1.MachineService/RenewCertificate"]),
    (Door::Oneself, &["farm.v1.PeopleService/WhoAmI"]),
    (Door::Coordinator, &["farm.v1.PeerService/Hint", "farm.v1.PeerService/RelayAgent"]),
];

/// Whoever knocks, by what they may pass.
struct Knocking {
    who: &'static str,
    token: String,
    /// The connection that shows who they are; else one that shows nothing.
    channel: Option<Channel>,
    /// Doors that let them in; `None`: nobody knows them.
    may: Option<&'static [Door]>,
}

const NONE: &[Door] = &[Door::Oneself, Door::Known];
const VIEWER: &[Door] = &[Door::Oneself, Door::Known, Door::Viewer];
const BUILDER: &[Door] = &[Door::Oneself, Door::Known, Door::Viewer, Door::Builder];
const PUBLISHER: &[Door] = &[Door::Oneself, Door::Known, Door::Viewer, Door::Builder, Door::Publisher];
const ADMIN: &[Door] =
    &[Door::Oneself, Door::Known, Door::Viewer, Door::Builder, Door::Publisher, Door::ProjectAdmin];
const FARM_ADMIN: &[Door] = &[
    Door::Oneself,
    Door::Known,
    Door::Viewer,
    Door::Builder,
    Door::Publisher,
    Door::ProjectAdmin,
    Door::FarmAdmin,
];
/// The farm's own token file is a worker's, too, as it was before workers had certificates.
const OWN_FILE: &[Door] = &[
    Door::Oneself,
    Door::Known,
    Door::Viewer,
    Door::Builder,
    Door::Publisher,
    Door::ProjectAdmin,
    Door::FarmAdmin,
    Door::Worker,
];

/// A worker takes jobs, and does nothing else.
const WORKER: &[Door] = &[Door::Oneself, Door::Worker, Door::Certificate];
/// One whose certificate has ended may only have another.
const LATE: &[Door] = &[Door::Certificate];

async fn knocking(farm: &Farm) -> Vec<Knocking> {
    for name in ["web", "api"] {
        team::project(farm, name).await;
    }
    let known = |who, token, may| Knocking { who, token, channel: None, may: Some(may) };
    let unknown = |who, token| Knocking { who, token, channel: None, may: None };
    let mut all = vec![
        unknown("nobody", String::new()),
        unknown("a token that was never made", format!("farm_p_{}", "0".repeat(64))),
        known("the farm's own token file", farm.token(), OWN_FILE),
    ];
    for (who, name, role, may) in [
        ("a viewer", "vera", "viewer", VIEWER),
        ("a builder", "bob", "builder", BUILDER),
        ("a publisher", "pia", "publisher", PUBLISHER),
        ("an admin of the project", "ada", "admin", ADMIN),
    ] {
        all.push(known(who, team::person(farm, name, "web", role).await, may));
    }
    for (who, name, role) in [
        ("another project's viewer", "vic", "viewer"),
        ("another project's builder", "ben", "builder"),
        ("another project's publisher", "pat", "publisher"),
        ("another project's admin", "amy", "admin"),
    ] {
        all.push(known(who, team::person(farm, name, "api", role).await, NONE));
    }
    all.push(known("a service", team::service(farm, "ci", "web", "builder").await, BUILDER));
    all.push(known("another project's service", team::service(farm, "ci", "api", "admin").await, NONE));
    let viewing = v1::TokenScope { role: "viewer".to_owned(), ..Default::default() };
    all.push(known("an admin's token for viewing", team::token(farm, "ada", viewing).await, VIEWER));
    team::join(farm, "ada", "api", "viewer").await;
    let elsewhere = v1::TokenScope { project: "api".to_owned(), ..Default::default() };
    all.push(known("an admin's token for another project", team::token(farm, "ada", elsewhere).await, NONE));
    let mut admin = Client::connect(farm).await;
    let request = v1::SetFarmAdminRequest { person: "fay".to_owned(), admin: true };
    admin.people.set_farm_admin(request).await.unwrap();
    all.push(known(
        "an admin of the farm",
        team::token(farm, "fay", v1::TokenScope::default()).await,
        FARM_ADMIN,
    ));
    let less = v1::TokenScope { role: "builder".to_owned(), ..Default::default() };
    all.push(known("a farm admin's token for building", team::token(farm, "fay", less).await, NONE));
    let late = team::token(farm, "bob", v1::TokenScope::default()).await;
    let was = psql(
        farm.database_url(),
        &format!(
            "UPDATE tokens SET expires_at = farm_now() - interval '1 s' WHERE hint = '{}' RETURNING 1",
            &late[..12]
        ),
    );
    assert_eq!(was, "1");
    all.push(unknown("an expired token", late));
    let gone = team::token(farm, "bob", v1::TokenScope::default()).await;
    admin.people.revoke_token(v1::RevokeTokenRequest { token: gone.clone() }).await.unwrap();
    all.push(unknown("a revoked token", gone));
    let left = team::person(farm, "lea", "web", "admin").await;
    let mut web = Client::within(farm, &farm.token(), Some("web")).await;
    web.projects
        .remove_member(v1::RemoveMemberRequest { name: "lea".to_owned(), ..Default::default() })
        .await
        .unwrap();
    all.push(known("somebody who was taken out", left, NONE));
    all.extend(machines(farm).await);
    all
}

/// Workers with certificates, of all ages.
async fn machines(farm: &Farm) -> Vec<Knocking> {
    let expire = |name: &str, ago: &str| {
        let was = psql(
            farm.database_url(),
            &format!(
                "UPDATE certificates SET expires_at = farm_now() - interval '{ago}'
                 WHERE join_id = (SELECT id FROM joins WHERE name = '{name}') RETURNING 1"
            ),
        );
        assert_eq!(was, "1");
    };
    let mut all = Vec::new();
    for (who, name, may) in [
        ("a worker", "w-good", Some(WORKER)),
        ("a worker whose certificate ended a while ago", "w-late", Some(LATE)),
        ("a worker whose certificate ended long ago", "w-old", None),
        ("a revoked worker", "w-gone", None),
    ] {
        let machine = machine::machine(farm, name).await;
        match name {
            "w-late" => expire(name, "23 hours"),
            "w-old" => expire(name, "25 hours"),
            "w-gone" => {
                let request = v1::RevokeWorkersRequest { names: vec![name.to_owned()] };
                Client::connect(farm).await.machines.revoke_workers(request).await.unwrap();
            }
            _ => {}
        }
        all.push(Knocking { who, token: String::new(), channel: Some(machine.channel(farm, 0).await), may });
    }
    // A certificate of the same form and name, by which the farm was never asked.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "w-good");
    let own = params.self_signed(&key).unwrap();
    let certificate = v1::Certificate { chain: vec![own.der().to_vec().into()], ..Default::default() };
    let forged = Machine::of(key, certificate).channel(farm, 0).await;
    let who = "a worker's name on a certificate of one's own";
    all.push(Knocking { who, token: String::new(), channel: Some(forged), may: None });
    // A token is what a call is judged by, whatever the connection shows.
    let good = machine::machine(farm, "w-both").await.channel(farm, 0).await;
    let viewer = team::token(farm, "vera", v1::TokenScope::default()).await;
    let who = "a viewer over a worker's connection";
    all.push(Knocking { who, token: viewer, channel: Some(good), may: Some(VIEWER) });
    all
}

/// The methods of farm, by the descriptors that clients are given.
fn methods() -> Vec<String> {
    let files = prost_types::FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let services = files.file.iter().flat_map(|file| file.service.iter().map(move |service| (file, service)));
    services
        .flat_map(|(file, service)| {
            service
                .method
                .iter()
                .map(move |method| format!("{}.{}/{}", file.package(), service.name(), method.name()))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_lets_in_whom_it_should_and_nobody_else() {
    let doors: BTreeMap<&str, Door> =
        DOORS.iter().flat_map(|(door, methods)| methods.iter().map(|method| (*method, *door))).collect();
    let missing: Vec<String> =
        methods().into_iter().filter(|method| !doors.contains_key(method.as_str())).collect();
    assert!(missing.is_empty(), "this test doesn't know {missing:?}");

    // It has more callers whom nobody knows than one address sends in a minute.
    let farm = Farm::builder().config("[limits]\nstrangers_per_minute_per_address = 0").start();
    let all = Box::pin(knocking(&farm)).await;
    let channel = Endpoint::new(farm.url()).unwrap().connect().await.unwrap();
    let (mut calls, mut let_in, mut wrong) = (0, 0, Vec::new());
    for knocking in &all {
        for (method, door) in &doors {
            let channel = knocking.channel.as_ref().unwrap_or(&channel);
            let answer = knock(channel, method, &knocking.token).await;
            calls += 1;
            let (is_let_in, is_right) = match (&answer, knocking.may) {
                (Answer::In, may) => (true, *door == Door::Open || may.is_some_and(|may| may.contains(door))),
                (Answer::Refused(status), None) => {
                    (false, *door != Door::Open && status.code() == Code::Unauthenticated)
                }
                // What it might do with a certificate that hasn't ended, it is told so.
                (Answer::Refused(status), Some(LATE)) if [Door::Worker, Door::Oneself].contains(door) => {
                    (false, status.code() == Code::Unauthenticated)
                }
                (Answer::Refused(status), Some(may)) => (
                    false,
                    !may.contains(door) && *door != Door::Open && status.code() == Code::PermissionDenied,
                ),
            };
            let_in += usize::from(is_let_in);
            if !is_right {
                wrong.push(format!("{} at {method}: {answer:?}", knocking.who));
            }
        }
    }
    println!("walk callers={} methods={} calls={calls} let_in={let_in}", all.len(), doors.len());
    assert!(wrong.is_empty(), "{} of {calls}:\n{}", wrong.len(), wrong.join("\n"));
    let unknown = knock(&channel, "farm.v1.FarmService/NoSuchMethod", &farm.token()).await;
    assert!(matches!(unknown, Answer::In), "{unknown:?}");
}

#[derive(Debug)]
enum Answer {
    /// The gate let it through, whatever the handler said of an empty message.
    In,
    Refused(Status),
}

/// Calls a method in project web with an empty message.
async fn knock(channel: &Channel, method: &str, token: &str) -> Answer {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let mut request = Request::new(tokio_stream::once(()));
    if !token.is_empty() {
        let bearer = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
        request.metadata_mut().insert("authorization", bearer);
    }
    request.metadata_mut().insert("farm-project", MetadataValue::from_static("web"));
    let path = format!("/{method}").parse().unwrap();
    let call = async {
        let mut answers =
            client.streaming(request, path, ProstCodec::<(), ()>::default()).await?.into_inner();
        answers.message().await
    };
    let Ok(answer) = tokio::time::timeout(LONG, call).await else { panic!("{method} never ends") };
    match answer {
        // A handler's own refusals of what an empty message asks for don't come from the gate, and say so.
        Err(status)
            if [Code::Unauthenticated, Code::PermissionDenied].contains(&status.code())
                && !status.message().contains("only a person makes tokens") =>
        {
            Answer::Refused(status)
        }
        _ => Answer::In,
    }
}
