//! A FAKE coordinator: it speaks `WorkerService`, and over TLS of `MachineService` what workers call (`machines.rs`), over a
//! real connection, and does nothing else. It leases nothing and stores
//! nothing but what tests look at. The real coordinator is met in the end-to-end tests.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use farm_proto::v1::machine_service_server::MachineServiceServer;
use farm_proto::v1::worker_service_server::{WorkerService, WorkerServiceServer};
use farm_proto::v1::{self, control_request, control_response};
use futures::Stream;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use super::machines::shown;
use super::{Authority, Source, token, until};
use crate::link::{self, Client};

/// What the fake was told, and what it is to do.
#[derive(Debug, Default)]
pub struct Script {
    /// Refuse each Hello with this.
    pub refuse_hello: Option<Status>,
    /// Answer each Finished.
    pub answer_finished: bool,
    /// Sent after each Welcome.
    pub offer: Vec<v1::Offered>,
    /// All that workers said, in order, without heartbeats.
    pub heard: Vec<control_request::Message>,
    /// The leases of the last heartbeat.
    pub heartbeat: Vec<v1::Lease>,
    /// How many heartbeats came.
    pub heartbeats: usize,
    /// Chunks by their numbers, as stored.
    pub chunks: BTreeMap<u64, Vec<v1::AttemptEvent>>,
    /// Numbers of chunks in the order in which they came.
    pub came: Vec<u64>,
    /// Store chunks, but break the stream instead of acknowledging the next so many.
    pub break_before_ack: usize,
    /// Take chunks in, but keep silent.
    pub hold_acks: bool,
    /// Refuse chunks with this.
    pub refuse_events: Option<Status>,
    /// Pieces of outputs as stored, by export and number, with the digest that came with it.
    pub pieces: BTreeMap<(u32, u64), (bytes::Bytes, bytes::Bytes)>,
    /// Numbers of pieces in the order in which they came.
    pub pieces_came: Vec<u64>,
    /// Refuse pieces with this.
    pub refuse_pieces: Option<Status>,
    /// Answers to questions for tokens, in order; then there are none.
    pub tokens: VecDeque<Result<v1::LendTokenResponse, Status>>,
    /// What was asked for.
    pub tokens_asked: Vec<v1::LendTokenRequest>,
    /// Answers to questions for logins, in order; then there are none.
    pub logins: VecDeque<Result<v1::LendLoginResponse, Status>>,
    /// The registries that were asked for.
    pub logins_asked: Vec<String>,
    /// Answers to questions about images, in order; then there are none.
    pub images: VecDeque<Result<v1::LookUpImageResponse, Status>>,
    /// The images that were asked about.
    pub images_asked: Vec<String>,
    /// The source that it serves.
    pub source: Option<Source>,
    /// Break each call for files after so many files.
    pub files_per_call: Option<usize>,
    /// Paths asked for.
    pub fetched: Vec<String>,
    /// Bearer tokens that it saw.
    pub authorization: Vec<String>,
    /// The certificates that control streams have shown.
    pub shown: Vec<Vec<u8>>,
    /// Refuse Hellos that show one of these with this.
    pub refuse_shown: Option<(Vec<Vec<u8>>, Status)>,
    /// What was asked of it to join.
    pub joins: Vec<v1::JoinFarmRequest>,
    /// Refuse these.
    pub refuse_join: Option<Status>,
    /// Refuse those that say no name.
    pub needs_name: bool,
    /// Where it says that the farm's coordinators are.
    pub coordinators: Vec<String>,
    /// The certificates by which others were asked for.
    pub renewals: Vec<Vec<u8>>,
    /// Refuse these.
    pub refuse_renewal: Option<Status>,
    /// How long its certificates live, and when they are to be renewed, milliseconds.
    pub times: (u64, u64),
}

/// A FAKE coordinator for tests of the protocol.
#[derive(Clone)]
pub struct Fake {
    /// What it was told, and what it is to do.
    pub script: Arc<Mutex<Script>>,
    /// To the newest control stream.
    pub say: watch::Sender<Option<mpsc::Sender<Result<v1::ControlResponse, Status>>>>,
    /// By whose certificates it speaks TLS, and which it gives.
    pub(super) authority: Option<Arc<Authority>>,
    address: SocketAddr,
    stop: CancellationToken,
}

impl Fake {
    /// Starts one.
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), Arc::default(), None).await
    }

    /// Starts one that speaks TLS and certifies workers.
    pub async fn start_with_tls(authority: impl Into<Arc<Authority>>) -> Self {
        let script = Script { times: (60_000, 40_000), ..Script::default() };
        let address = "127.0.0.1:0".parse().unwrap();
        Self::start_at(address, Arc::new(Mutex::new(script)), Some(authority.into())).await
    }

    /// Starts one at this address that goes on with this script.
    pub async fn start_at(
        address: SocketAddr,
        script: Arc<Mutex<Script>>,
        authority: Option<Arc<Authority>>,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (say, stop) = (watch::Sender::new(None), CancellationToken::new());
        let fake = Self { script, say, authority, address, stop };
        let listener = listener.into_std().unwrap();
        let service =
            WorkerServiceServer::new(fake.clone()).max_decoding_message_size(farm_proto::MAX_MESSAGE_BYTES);
        let machines = MachineServiceServer::new(fake.clone());
        let tls = fake.authority.as_ref().map(|authority| {
            let (certificate, key) = authority.server();
            ServerTlsConfig::new()
                .identity(Identity::from_pem(certificate, key))
                .client_ca_root(Certificate::from_pem(&authority.pem))
                .client_auth_optional(true)
        });
        let stop = fake.stop.clone();
        // With its runtime all its connections end, as with a process.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let incoming = TcpIncoming::from(TcpListener::from_std(listener).unwrap());
                let mut server = Server::builder();
                if let Some(tls) = tls {
                    server = server.tls_config(tls).unwrap();
                }
                let server = server.add_service(service).add_service(machines);
                tokio::select! {
                    _ = server.serve_with_incoming(incoming) => {}
                    () = stop.cancelled() => {}
                }
            });
        });
        fake
    }

    /// Ends it, with all its connections, and starts another one in its place.
    pub async fn restart(self) -> Self {
        self.stop.cancel();
        let address = self.address;
        until("the port is free", || std::net::TcpListener::bind(address).is_ok()).await;
        Self::start_at(address, Arc::clone(&self.script), self.authority.clone()).await
    }

    /// Its address.
    pub fn url(&self) -> link::CoordinatorUrl {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address).parse().unwrap()
    }

    /// Whose certificates it has and gives.
    pub fn authority(&self) -> &Authority {
        self.authority.as_ref().unwrap()
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        link::client(
            link::bulk(&self.url().into(), &farm_client::Security::default()).unwrap(),
            &token().into(),
        )
    }

    /// Looks at, or changes, the script.
    pub fn with<T>(&self, look: impl FnOnce(&mut Script) -> T) -> T {
        look(&mut self.script.lock().unwrap())
    }

    /// Waits for the next heartbeat.
    pub async fn heartbeat(&self) {
        let before = self.with(|script| script.heartbeats);
        until("a heartbeat", || self.with(|script| script.heartbeats) > before).await;
    }

    /// Says something on the newest control stream.
    pub async fn tell(&self, message: control_response::Message) {
        let stream = self.say.borrow().clone().unwrap();
        stream.send(Ok(v1::ControlResponse { message: Some(message) })).await.unwrap();
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl WorkerService for Fake {
    type ControlStream = Answers<v1::ControlResponse>;
    type SendEventsStream = Answers<v1::SendEventsResponse>;
    type FetchFoldersStream = Answers<v1::FetchFoldersResponse>;
    type FetchFilesStream = Answers<v1::FetchFilesResponse>;
    type SendOutputStream = Answers<v1::SendOutputResponse>;

    async fn control(
        &self,
        request: Request<Streaming<v1::ControlRequest>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        use control_request::Message;
        if let Some(token) = request.metadata().get("authorization") {
            self.with(|script| script.authorization.push(token.to_str().unwrap().to_owned()));
        }
        let shown = shown(&request);
        let mut requests = request.into_inner();
        let hello = requests.message().await?.and_then(|request| request.message);
        let Some(Message::Hello(hello)) = hello else { return Err(Status::invalid_argument("no Hello")) };
        let offers = self.with(|script| {
            script.heard.push(Message::Hello(hello));
            let refused = script.refuse_shown.as_ref().filter(|(which, _)| which.contains(&shown));
            let refused = refused.map(|(_, status)| status.clone());
            script.shown.push(shown);
            match refused.or_else(|| script.refuse_hello.clone()) {
                Some(status) => Err(status),
                None => Ok(script.offer.clone()),
            }
        })?;
        let (answers, stream) = mpsc::channel(64);
        let welcome = v1::Welcome {
            version: farm_proto::WORKER_PROTOCOL,
            heartbeat_ms: 50,
            lease_ms: 1_000,
            ..Default::default()
        };
        let mut first = vec![control_response::Message::Welcome(welcome)];
        first.extend(offers.into_iter().map(control_response::Message::Offered));
        for message in first {
            answers.try_send(Ok(v1::ControlResponse { message: Some(message) })).unwrap();
        }
        self.say.send_replace(Some(answers.clone()));
        let (fake, stop) = (self.clone(), self.stop.clone());
        tokio::spawn(async move {
            let hearing = async {
                while let Ok(Some(request)) = requests.message().await {
                    let answer = fake.with(|script| match request.message {
                        Some(Message::Heartbeat(heartbeat)) => {
                            script.heartbeat = heartbeat.running;
                            script.heartbeats += 1;
                            Some(control_response::Message::HeartbeatReply(v1::HeartbeatReply::default()))
                        }
                        Some(message) => {
                            script.heard.push(message.clone());
                            match message {
                                Message::Finished(finished) if script.answer_finished => {
                                    let attempt_id = finished.lease.unwrap().attempt_id;
                                    let reply = v1::FinishedReply { attempt_id, accepted: true };
                                    Some(control_response::Message::FinishedReply(reply))
                                }
                                _ => None,
                            }
                        }
                        None => None,
                    });
                    if let Some(message) = answer {
                        let _ = answers.send(Ok(v1::ControlResponse { message: Some(message) })).await;
                    }
                }
            };
            tokio::select! {
                () = hearing => {}
                () = stop.cancelled() => {}
            }
            fake.say.send_if_modified(|say| {
                let ours = say.as_ref().is_some_and(|say| say.same_channel(&answers));
                if ours {
                    *say = None;
                }
                ours
            });
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn lend_token(
        &self,
        request: Request<v1::LendTokenRequest>,
    ) -> Result<Response<v1::LendTokenResponse>, Status> {
        self.with(|script| {
            script.tokens_asked.push(request.into_inner());
            let none = || Err(Status::unimplemented("an older coordinator"));
            script.tokens.pop_front().unwrap_or_else(none).map(Response::new)
        })
    }

    async fn lend_login(
        &self,
        request: Request<v1::LendLoginRequest>,
    ) -> Result<Response<v1::LendLoginResponse>, Status> {
        self.with(|script| {
            script.logins_asked.push(request.into_inner().host);
            let none = || Err(Status::unimplemented("an older coordinator"));
            script.logins.pop_front().unwrap_or_else(none).map(Response::new)
        })
    }

    async fn look_up_image(
        &self,
        request: Request<v1::LookUpImageRequest>,
    ) -> Result<Response<v1::LookUpImageResponse>, Status> {
        self.with(|script| {
            script.images_asked.push(request.into_inner().image);
            let none = || Err(Status::unimplemented("an older coordinator"));
            script.images.pop_front().unwrap_or_else(none).map(Response::new)
        })
    }

    async fn lend_mounts(
        &self,
        _: Request<v1::LendMountsRequest>,
    ) -> Result<Response<v1::LendMountsResponse>, Status> {
        Err(Status::unimplemented("an older coordinator"))
    }

    async fn ask_agent(
        &self,
        _: Request<v1::AskAgentRequest>,
    ) -> Result<Response<v1::AskAgentResponse>, Status> {
        Err(Status::unimplemented("an older coordinator"))
    }

    async fn send_events(
        &self,
        request: Request<Streaming<v1::SendEventsRequest>>,
    ) -> Result<Response<Self::SendEventsStream>, Status> {
        let mut requests = request.into_inner();
        let (answers, stream) = mpsc::channel(64);
        let (fake, stop) = (self.clone(), self.stop.clone());
        tokio::spawn(async move {
            let taking = async {
                while let Ok(Some(request)) = requests.message().await {
                    assert!(request.payload.len() <= farm_proto::PIECE_BYTES);
                    let answer = fake.with(|script| {
                        if let Some(status) = script.refuse_events.clone() {
                            return Some(Err(status));
                        }
                        let next = script.chunks.keys().next_back().copied().unwrap_or(0) + 1;
                        assert!(request.seq <= next, "a gap: {} after {}", request.seq, next - 1);
                        script.came.push(request.seq);
                        let events = v1::AttemptEventList::decode(request.payload).unwrap().events;
                        script.chunks.entry(request.seq).or_insert(events);
                        if script.break_before_ack > 0 {
                            script.break_before_ack -= 1;
                            return Some(Err(Status::unavailable("broken on purpose")));
                        }
                        let acked_seq = next.max(request.seq + 1) - 1;
                        (!script.hold_acks).then_some(Ok(v1::SendEventsResponse { acked_seq }))
                    });
                    let Some(answer) = answer else { continue };
                    let is_end = answer.is_err();
                    if answers.send(answer).await.is_err() || is_end {
                        return;
                    }
                }
            };
            tokio::select! {
                () = taking => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn fetch_folders(
        &self,
        _: Request<v1::FetchFoldersRequest>,
    ) -> Result<Response<Self::FetchFoldersStream>, Status> {
        let folders = self.with(|script| script.source.as_ref().map(Source::folders));
        let folders = folders.ok_or_else(|| Status::not_found("no source"))?;
        let answers =
            folders.into_iter().map(|folder| Ok(v1::FetchFoldersResponse { folders: vec![folder] }));
        Ok(Response::new(Box::pin(tokio_stream::iter(answers.collect::<Vec<_>>()))))
    }

    async fn fetch_files(
        &self,
        request: Request<v1::FetchFilesRequest>,
    ) -> Result<Response<Self::FetchFilesStream>, Status> {
        let paths = request.into_inner().paths;
        let answers = self.with(|script| {
            let mut answers = Vec::new();
            for (index, path) in paths.iter().enumerate() {
                if script.files_per_call.is_some_and(|most| index >= most) {
                    answers.push(Err(Status::unavailable("broken on purpose")));
                    break;
                }
                script.fetched.push(path.clone());
                let index = u32::try_from(index).unwrap();
                let content = script.source.as_ref().unwrap().files()[path].clone().into_bytes();
                let half = content.len() / 2;
                for (data, last) in [(&content[..half], false), (&content[half..], true)] {
                    answers.push(Ok(v1::FetchFilesResponse { index, data: data.to_vec().into(), last }));
                }
            }
            answers
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }

    async fn send_output(
        &self,
        request: Request<Streaming<v1::SendOutputRequest>>,
    ) -> Result<Response<Self::SendOutputStream>, Status> {
        let mut requests = request.into_inner();
        let (answers, stream) = mpsc::channel(64);
        let (fake, stop) = (self.clone(), self.stop.clone());
        tokio::spawn(async move {
            let taking = async {
                while let Ok(Some(request)) = requests.message().await {
                    assert!(request.data.len() <= farm_proto::OUTPUT_PIECE_BYTES);
                    let answer = fake.with(|script| {
                        if let Some(status) = script.refuse_pieces.clone() {
                            return Some(Err(status));
                        }
                        let of = |seq| (request.export, seq);
                        let next = script.pieces.range(of(0)..of(u64::MAX)).count();
                        let next = u64::try_from(next).unwrap() + 1;
                        assert!(request.seq <= next, "a gap: {} after {}", request.seq, next - 1);
                        script.pieces_came.push(request.seq);
                        script.pieces.entry(of(request.seq)).or_insert((request.data, request.digest));
                        if script.break_before_ack > 0 {
                            script.break_before_ack -= 1;
                            return Some(Err(Status::unavailable("broken on purpose")));
                        }
                        let acked_seq = next.max(request.seq + 1) - 1;
                        (!script.hold_acks).then_some(Ok(v1::SendOutputResponse { acked_seq }))
                    });
                    let Some(answer) = answer else { continue };
                    let is_end = answer.is_err();
                    if answers.send(answer).await.is_err() || is_end {
                        return;
                    }
                }
            };
            tokio::select! {
                () = taking => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn lend_git_login(
        &self,
        _: Request<v1::LendGitLoginRequest>,
    ) -> Result<Response<v1::LendGitLoginResponse>, Status> {
        Ok(Response::new(v1::LendGitLoginResponse::default()))
    }

    async fn check_kept(
        &self,
        _: Request<v1::CheckKeptRequest>,
    ) -> Result<Response<v1::CheckKeptResponse>, Status> {
        Ok(Response::new(v1::CheckKeptResponse::default()))
    }

    async fn check_pushed(
        &self,
        _: Request<v1::CheckPushedRequest>,
    ) -> Result<Response<v1::CheckPushedResponse>, Status> {
        Ok(Response::new(v1::CheckPushedResponse::default()))
    }

    async fn find_verdicts(
        &self,
        _: Request<v1::FindVerdictsRequest>,
    ) -> Result<Response<v1::FindVerdictsResponse>, Status> {
        Ok(Response::new(v1::FindVerdictsResponse::default()))
    }

    async fn open_source(
        &self,
        _: Request<v1::OpenSourceRequest>,
    ) -> Result<Response<v1::OpenUploadResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn find_missing_source(
        &self,
        _: Request<v1::FindMissingSourceRequest>,
    ) -> Result<Response<v1::FindMissingResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn send_source(
        &self,
        _: Request<Streaming<v1::SendSourceRequest>>,
    ) -> Result<Response<v1::UploadObjectsResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn finish_source(
        &self,
        _: Request<v1::FinishSourceRequest>,
    ) -> Result<Response<v1::FinishUploadResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }
}
