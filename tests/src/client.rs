//! Clients of a farm's coordinator without a command line: users' services, and a simulated worker.
//!
//! The worker here is a fake: it speaks the real protocol over a real connection to a real coordinator, but
//! builds nothing. It is for protocol and scale; real workers are in the end-to-end tests.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use farm_proto::WORKER_PROTOCOL;
use farm_proto::v1;
use farm_proto::v1::audit_service_client::AuditServiceClient;
use farm_proto::v1::build_service_client::BuildServiceClient;
use farm_proto::v1::farm_service_client::FarmServiceClient;
use farm_proto::v1::git_service_client::GitServiceClient;
use farm_proto::v1::hook_service_client::HookServiceClient;
use farm_proto::v1::machine_service_client::MachineServiceClient;
use farm_proto::v1::mirror_service_client::MirrorServiceClient;
use farm_proto::v1::notice_service_client::NoticeServiceClient;
use farm_proto::v1::output_service_client::OutputServiceClient;
use farm_proto::v1::people_service_client::PeopleServiceClient;
use farm_proto::v1::project_service_client::ProjectServiceClient;
use farm_proto::v1::registry_service_client::RegistryServiceClient;
use farm_proto::v1::secret_service_client::SecretServiceClient;
use farm_proto::v1::signing_service_client::SigningServiceClient;
use farm_proto::v1::snapshot_service_client::SnapshotServiceClient;
use farm_proto::v1::trust_service_client::TrustServiceClient;
use farm_proto::v1::worker_service_client::WorkerServiceClient;
use farm_types::snapshot::{Entry, Folder, Node};
use farm_types::{BootId, Digest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::farm::Farm;

pub type Authorized = InterceptedService<Channel, Bearer>;

/// Sends a token with every call, and the name of a project.
#[derive(Clone, Default)]
pub struct Bearer {
    pub token: String,
    pub project: Option<String>,
}

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if !self.token.is_empty() {
            let value = MetadataValue::try_from(format!("Bearer {}", self.token)).unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        if let Some(project) = &self.project {
            request.metadata_mut().insert("farm-project", MetadataValue::try_from(project).unwrap());
        }
        Ok(request)
    }
}

/// All services, with one token.
#[derive(Clone)]
pub struct Client {
    pub builds: BuildServiceClient<Authorized>,
    pub snapshots: SnapshotServiceClient<Authorized>,
    pub farm: FarmServiceClient<Authorized>,
    pub work: WorkerServiceClient<Authorized>,
    pub outputs: OutputServiceClient<Authorized>,
    pub people: PeopleServiceClient<Authorized>,
    pub projects: ProjectServiceClient<Authorized>,
    pub registries: RegistryServiceClient<Authorized>,
    pub git_logins: GitServiceClient<Authorized>,
    pub hooks: HookServiceClient<Authorized>,
    pub mirrors: MirrorServiceClient<Authorized>,
    pub notices: NoticeServiceClient<Authorized>,
    pub audit: AuditServiceClient<Authorized>,
    pub machines: MachineServiceClient<Authorized>,
    pub secrets: SecretServiceClient<Authorized>,
    pub signing_keys: SigningServiceClient<Authorized>,
    pub trusts: TrustServiceClient<Authorized>,
}

impl Client {
    pub async fn connect(farm: &Farm) -> Self {
        Self::with_token(farm, &farm.token()).await
    }

    pub async fn with_token(farm: &Farm, token: &str) -> Self {
        Self::within(farm, token, None).await
    }

    /// Its calls are made in this project.
    pub async fn within(farm: &Farm, token: &str, project: Option<&str>) -> Self {
        let mut endpoint = Endpoint::new(farm.url()).unwrap();
        if let Some(ca) = farm.ca_file() {
            let ca = Certificate::from_pem(std::fs::read(ca).unwrap());
            endpoint = endpoint.tls_config(ClientTlsConfig::new().ca_certificate(ca)).unwrap();
        }
        let bearer = Bearer { token: token.to_owned(), project: project.map(ToOwned::to_owned) };
        Self::over(endpoint.connect().await.unwrap(), bearer)
    }

    /// Over a connection that is there; with no token it is the connection that says who calls.
    pub fn over(channel: Channel, bearer: Bearer) -> Self {
        Self {
            trusts: TrustServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            secrets: SecretServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            mirrors: MirrorServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            signing_keys: SigningServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            notices: NoticeServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            hooks: HookServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            machines: MachineServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            audit: AuditServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            people: PeopleServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            projects: ProjectServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            registries: RegistryServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            git_logins: GitServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            builds: BuildServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            snapshots: SnapshotServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            farm: FarmServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            outputs: OutputServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            work: WorkerServiceClient::with_interceptor(channel, bearer),
        }
    }

    /// Uploads a snapshot with a Dockerfile of this content, in a folder `sub` too; gives its names.
    pub async fn upload(&mut self, content: &str) -> v1::SnapshotRef {
        let (objects, root) = tree(content);
        let upload = self.snapshots.open_upload(v1::OpenUploadRequest::default()).await.unwrap().into_inner();
        let pack = v1::upload_objects_request::Part::Pack(v1::Pack { objects });
        let message = v1::UploadObjectsRequest { upload_id: upload.upload_id.clone(), part: Some(pack) };
        self.snapshots.upload_objects(tokio_stream::once(message)).await.unwrap();
        let root = |name: &str| v1::SnapshotRoot { name: name.into(), tree: root.as_bytes().to_vec().into() };
        let request = v1::FinishUploadRequest {
            upload_id: upload.upload_id.clone(),
            roots: vec![root("dockerfile"), root("context")],
        };
        let names = self.snapshots.finish_upload(request).await.unwrap().into_inner();
        v1::SnapshotRef {
            tree_id: names.tree_id,
            content_key: names.content_key,
            upload_id: upload.upload_id,
        }
    }

    /// Submits a build without tags.
    pub async fn submit(&mut self, snapshot: &v1::SnapshotRef, key: &str, platforms: &[&str]) -> v1::Build {
        let spec = v1::BuildSpec {
            snapshot: Some(snapshot.clone()),
            platforms: platforms.iter().map(|platform| (*platform).to_owned()).collect(),
            emulation: "never".to_owned(),
            ..Default::default()
        };
        let request =
            v1::SubmitBuildRequest { idempotency_key: key.to_owned(), spec: Some(spec), values: Vec::new() };
        self.builds.submit_build(request).await.unwrap().into_inner().build.unwrap()
    }

    pub async fn build(&mut self, id: &str) -> v1::Build {
        let request = v1::GetBuildRequest { build_id: id.to_owned() };
        self.builds.get_build(request).await.unwrap().into_inner().build.unwrap()
    }

    /// Follows a build to its end; gives the last record and, per attempt, the bytes of its log.
    pub async fn follow(&mut self, id: &str) -> (v1::Build, BTreeMap<String, Vec<u8>>) {
        let request = v1::WatchBuildRequest { build_id: id.to_owned(), follow: true, ..Default::default() };
        let mut stream = self.builds.watch_build(request).await.unwrap().into_inner();
        let (mut last, mut logs) = (None, BTreeMap::new());
        while let Some(message) = stream.message().await.unwrap() {
            take(message, &mut last, &mut logs);
        }
        (last.unwrap(), logs)
    }
}

/// Sorts what a follower is told.
pub fn take(
    message: v1::WatchBuildResponse,
    last: &mut Option<v1::Build>,
    logs: &mut BTreeMap<String, Vec<u8>>,
) {
    match message.event.unwrap() {
        v1::watch_build_response::Event::Build(build) => *last = Some(build),
        v1::watch_build_response::Event::Attempt(events) => {
            for event in events.events {
                if let Some(v1::attempt_event::Event::Log(log)) = event.event {
                    logs.entry(events.attempt_id.clone()).or_default().extend_from_slice(&log.data);
                }
            }
        }
    }
}

/// The objects of a folder with a `Dockerfile` and a sub-folder with the same file, children first, and the
/// digest of the root.
pub fn tree(content: &str) -> (Vec<v1::PackedObject>, Digest) {
    let entry = |name: &str, node| Entry { name: name.to_owned(), mode: 0o644, mtime: 0, node };
    let file = Node::File { size: content.len().try_into().unwrap(), digest: Digest::of(content.as_bytes()) };
    let sub = Folder::new(vec![entry("copy", file.clone())]).unwrap();
    let node = Node::Folder { tree: sub.tree_digest(), content: sub.content_digest() };
    let root = Folder::new(vec![entry("Dockerfile", file), entry("sub", node)]).unwrap();
    let packed = |data: Vec<u8>, kind: v1::ObjectKind| v1::PackedObject {
        digest: Digest::of(&data).as_bytes().to_vec().into(),
        kind: kind.into(),
        data: data.into(),
    };
    let objects = vec![
        packed(content.as_bytes().to_vec(), v1::ObjectKind::File),
        packed(sub.encode(), v1::ObjectKind::Folder),
        packed(root.encode(), v1::ObjectKind::Folder),
    ];
    (objects, root.tree_digest())
}

/// How often one that waits for an offer gives a sign: seldom, so that what a test says of its leases counts.
const SIGN: Duration = Duration::from_secs(5);
/// What wasn't offered by then isn't.
const PATIENCE: Duration = Duration::from_secs(30);

/// A simulated worker.
pub struct Sim {
    pub say: mpsc::Sender<v1::ControlRequest>,
    pub hear: Streaming<v1::ControlResponse>,
    pub work: WorkerServiceClient<Authorized>,
    /// How often the coordinator wants a sign.
    pub heartbeat: Duration,
}

pub fn hello(name: &str, slots: u32) -> v1::Hello {
    v1::Hello {
        min_version: WORKER_PROTOCOL,
        max_version: WORKER_PROTOCOL,
        features: ["progress", "probes", "fenced-engine"].map(str::to_owned).to_vec(),
        name: name.to_owned(),
        boot_id: BootId::generate().to_string(),
        software_version: "sim".to_owned(),
        engine: Some(v1::Engine {
            key: format!("engine of {name}"),
            kind: "docker".to_owned(),
            version: "0".to_owned(),
            ..Default::default()
        }),
        platforms: vec![v1::OfferedPlatform {
            platform: "linux/amd64".to_owned(),
            support: "native".to_owned(),
            told: true,
        }],
        slots,
        home: String::new(),
        withdrawn_reason: String::new(),
        dial: 0,
    }
}

impl Sim {
    /// Says Hello and hears Welcome.
    pub async fn connect(client: &Client, hello: v1::Hello) -> Result<Self, Status> {
        let mut work = client.work.clone();
        let (say, said) = mpsc::channel(1024);
        say.send(request(v1::control_request::Message::Hello(hello))).await.unwrap();
        let hear = work.control(ReceiverStream::new(said)).await?.into_inner();
        let mut sim = Self { say, hear, work, heartbeat: Duration::ZERO };
        match sim.next().await? {
            v1::control_response::Message::Welcome(welcome) => {
                assert_eq!(welcome.version, WORKER_PROTOCOL);
                sim.heartbeat = Duration::from_millis(welcome.heartbeat_ms.into());
            }
            other => panic!("{other:?} before Welcome"),
        }
        Ok(sim)
    }

    pub async fn tell(&self, message: v1::control_request::Message) {
        self.say.send(request(message)).await.unwrap();
    }

    /// The next message; what comes later than 20 s doesn't come.
    pub async fn next(&mut self) -> Result<v1::control_response::Message, Status> {
        let message = tokio::time::timeout(Duration::from_secs(20), self.hear.message()).await;
        let message = message.expect("nothing was heard for 20 s")?;
        message.and_then(|m| m.message).ok_or_else(|| Status::aborted("the stream ended"))
    }

    /// The next offer; everything else is passed over. On a slow machine whoever waits for it without a sign is soon silent for too
    /// long to get one.
    pub async fn offer(&mut self) -> v1::Offered {
        let mut sign = tokio::time::interval(SIGN);
        sign.reset();
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            let message = tokio::select! {
                message = self.hear.message() => message.unwrap(),
                _ = sign.tick() => {
                    self.tell(v1::control_request::Message::Heartbeat(v1::Heartbeat::default())).await;
                    continue;
                }
            };
            match message.and_then(|message| message.message) {
                Some(v1::control_response::Message::Offered(offered)) => return offered,
                Some(_) => {}
                None => panic!("the stream ended before an offer"),
            }
        }
        panic!("no offer was heard for {PATIENCE:?}");
    }

    pub async fn start(&self, lease: &v1::Lease) {
        self.tell(v1::control_request::Message::Started(v1::Started { lease: Some(lease.clone()) })).await;
    }

    /// Gives a sign with these leases, and hears which to stop.
    pub async fn beat(&mut self, running: &[v1::Lease]) -> Vec<v1::Stop> {
        let beat = v1::Heartbeat { running: running.to_vec() };
        self.tell(v1::control_request::Message::Heartbeat(beat)).await;
        loop {
            if let v1::control_response::Message::HeartbeatReply(reply) = self.next().await.unwrap() {
                return reply.stop;
            }
        }
    }

    /// Says the end of an attempt, and hears whether it was accepted.
    pub async fn finish(&mut self, lease: &v1::Lease, outcome: v1::finished::Outcome) -> bool {
        self.finish_checked(lease, outcome, None).await
    }

    /// The same, with what the worker found when it looked at itself.
    pub async fn finish_checked(
        &mut self,
        lease: &v1::Lease,
        outcome: v1::finished::Outcome,
        found: Option<&str>,
    ) -> bool {
        let self_check = found.map(|failure| v1::SelfCheck { failure: failure.to_owned() });
        let finished =
            v1::Finished { lease: Some(lease.clone()), outcome: Some(outcome), self_check, pushed: None };
        self.tell(v1::control_request::Message::Finished(finished)).await;
        loop {
            if let v1::control_response::Message::FinishedReply(reply) = self.next().await.unwrap()
                && reply.attempt_id == lease.attempt_id
            {
                return reply.accepted;
            }
        }
    }

    /// Sends chunks of log lines with these numbers on a new stream; gives the last acknowledgement.
    pub async fn log(&mut self, lease: &v1::Lease, chunks: &[(u64, &str)]) -> Result<u64, Status> {
        use prost::Message as _;
        let requests: Vec<v1::SendEventsRequest> = chunks
            .iter()
            .map(|(seq, text)| {
                let log =
                    v1::StepLog { stream: 1, data: text.as_bytes().to_vec().into(), ..Default::default() };
                let event = v1::AttemptEvent { at_ms: 1, event: Some(v1::attempt_event::Event::Log(log)) };
                let list = v1::AttemptEventList { events: vec![event] };
                v1::SendEventsRequest {
                    lease: Some(lease.clone()),
                    seq: *seq,
                    payload: list.encode_to_vec().into(),
                }
            })
            .collect();
        let mut acks = self.work.send_events(tokio_stream::iter(requests)).await?.into_inner();
        let mut last = 0;
        while let Some(ack) = acks.message().await? {
            last = ack.acked_seq;
        }
        Ok(last)
    }
}

pub fn request(message: v1::control_request::Message) -> v1::ControlRequest {
    v1::ControlRequest { message: Some(message) }
}

/// A result of a build without tags.
pub fn success() -> v1::finished::Outcome {
    v1::finished::Outcome::Result(v1::JobResult { steps: 3, steps_cached: 1, ..Default::default() })
}
