//! The gRPC edge, in rooms by what a call is about: [`builds`], [`work`] (all that workers call), [`publish`] (images),
//! [`sources`], [`logs`] (following), [`machines`] (workers and coordinators), [`people`], [`hooks`] and [`notices`].
//!
//! Who calls, and whether they may, was asked before a handler is reached ([`crate::people::gate`]). A handler validates, makes
//! one call, converts. It never schedules. Each call has a span ([`spans`]).

pub mod builds;
mod health;
pub mod hooks;
pub mod logs;
pub mod machines;
mod mirrors;
pub mod notices;
pub mod people;
pub mod publish;
mod removing;
pub mod sources;
pub mod spans;
pub mod status;
mod tags;
pub mod uploads;
pub mod work;

use std::sync::Arc;

use farm_proto::v1::audit_service_server::AuditServiceServer;
use farm_proto::v1::build_service_server::BuildServiceServer;
use farm_proto::v1::farm_service_server::FarmServiceServer;
use farm_proto::v1::git_service_server::GitServiceServer;
use farm_proto::v1::hook_service_server::HookServiceServer;
use farm_proto::v1::image_service_server::ImageServiceServer;
use farm_proto::v1::machine_service_server::MachineServiceServer;
use farm_proto::v1::mirror_service_server::MirrorServiceServer;
use farm_proto::v1::notice_service_server::NoticeServiceServer;
use farm_proto::v1::output_service_server::OutputServiceServer;
use farm_proto::v1::peer_service_server::PeerServiceServer;
use farm_proto::v1::people_service_server::PeopleServiceServer;
use farm_proto::v1::project_service_server::ProjectServiceServer;
use farm_proto::v1::registry_service_server::RegistryServiceServer;
use farm_proto::v1::secret_service_server::SecretServiceServer;
use farm_proto::v1::sign_in_service_server::SignInServiceServer;
use farm_proto::v1::signing_service_server::SigningServiceServer;
use farm_proto::v1::snapshot_service_server::SnapshotServiceServer;
use farm_proto::v1::trust_service_server::TrustServiceServer;
use farm_proto::v1::worker_service_server::WorkerServiceServer;
use farm_proto::{DESCRIPTORS, MAX_MESSAGE_BYTES, WINDOW_BYTES};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::people::gate::GateLayer;
use crate::shared::Shared;
use crate::tls;

/// The longest message about trusts, joining and signing in, bytes: anybody may send one.
const MAX_TRUST_MESSAGE: usize = 64 * 1024;
/// The longest message about hooks, bytes: rules of 65536 and whose they are.
const MAX_HOOK_MESSAGE: usize = 72 * 1024;
/// The longest message about a project's secrets, bytes: one value of 512000.
const MAX_SECRET_MESSAGE: usize = 1024 * 1024;

/// How often an idle connection is asked whether it is alive, and how long the answer may take.
const KEEPALIVE: std::time::Duration = std::time::Duration::from_secs(10);
/// How long open calls may take to end when the coordinator stops.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(5);

/// Serves until `shutdown`, then ends all streams.
///
/// # Errors
/// The transport fails.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    tokio::spawn(health::tell(
        health,
        shared.is_answered.subscribe(),
        shared.blobs.answers(),
        shutdown.clone(),
    ));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1()?;
    let builds = BuildServiceServer::new(builds::service::Builds::new(Arc::clone(&shared), shutdown.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let snapshots = SnapshotServiceServer::new(sources::Snapshots::new(Arc::clone(&shared)))
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let work = WorkerServiceServer::new(work::Work::new(Arc::clone(&shared), shutdown.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let outputs =
        OutputServiceServer::new(builds::outputs::Outputs::new(Arc::clone(&shared), shutdown.clone()));
    let images = ImageServiceServer::new(publish::Images::new(Arc::clone(&shared)));
    let mirrors = MirrorServiceServer::new(mirrors::Mirrors::new(Arc::clone(&shared)))
        .max_decoding_message_size(MAX_TRUST_MESSAGE);
    let peer = PeerServiceServer::new(machines::peer::Peer::new(Arc::clone(&shared), shutdown.clone()));
    let incoming =
        tls::incoming(listener, shared.tls.as_ref().map(|tls| tls.calls()), Arc::clone(&shared.doors));
    let gate = GateLayer::new(Arc::clone(&shared.identities), Arc::clone(&shared.doors));
    let streams = shared.config.limits.max_streams_per_connection;
    let people = PeopleServiceServer::new(people::People::new(Arc::clone(&shared)));
    let projects = ProjectServiceServer::new(people::Projects::new(Arc::clone(&shared)));
    let trusts = TrustServiceServer::new(people::Trusts::new(Arc::clone(&shared)))
        .max_decoding_message_size(MAX_TRUST_MESSAGE);
    let secrets = SecretServiceServer::new(people::Secrets::new(Arc::clone(&shared)))
        .max_decoding_message_size(MAX_SECRET_MESSAGE);
    let logins = RegistryServiceServer::new(people::RegistryLogins::new(Arc::clone(&shared)))
        .max_decoding_message_size(MAX_TRUST_MESSAGE);
    let git_logins = GitServiceServer::new(people::GitLogins::new(Arc::clone(&shared)))
        .max_decoding_message_size(MAX_TRUST_MESSAGE);
    let signing_keys = SigningServiceServer::new(people::SigningKeys::new(Arc::clone(&shared)))
        .max_decoding_message_size(MAX_TRUST_MESSAGE);
    let sign_in = SignInServiceServer::new(people::SignIn::new(Arc::clone(&shared)))
        .max_decoding_message_size(MAX_TRUST_MESSAGE);
    let hooks = HookServiceServer::new(hooks::Hooks::new(Arc::clone(&shared)))
        .max_decoding_message_size(MAX_HOOK_MESSAGE);
    let notices = NoticeServiceServer::new(notices::Notices::new(Arc::clone(&shared)))
        .max_decoding_message_size(MAX_TRUST_MESSAGE);
    let audit = AuditServiceServer::new(people::Audit::new(Arc::clone(&shared)));
    let joins = MachineServiceServer::new(machines::join::Joins::new(Arc::clone(&shared)))
        .max_decoding_message_size(MAX_TRUST_MESSAGE);
    let farm = FarmServiceServer::new(machines::service::Machines::new(shared));
    let stop = shutdown.clone();
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_concurrent_streams(streams)
        .trace_fn(|request| spans::rpc(request.uri().path()))
        .layer(gate)
        .add_service(health_service)
        .add_service(reflection)
        .add_service(builds)
        .add_service(snapshots)
        .add_service(images)
        .add_service(mirrors)
        .add_service(outputs)
        .add_service(farm)
        .add_service(people)
        .add_service(projects)
        .add_service(trusts)
        .add_service(secrets)
        .add_service(logins)
        .add_service(git_logins)
        .add_service(signing_keys)
        .add_service(sign_in)
        .add_service(hooks)
        .add_service(notices)
        .add_service(audit)
        .add_service(joins)
        .add_service(work)
        .add_service(peer)
        .serve_with_incoming_shutdown(incoming, async move { stop.cancelled().await });
    tokio::pin!(server);
    tokio::select! {
        ended = &mut server => ended?,
        () = shutdown.cancelled() => {
            // The server waits for open streams without limit; a client that doesn't let go is cut off.
            if let Ok(ended) = tokio::time::timeout(DRAIN, server).await {
                ended?;
            }
        }
    }
    Ok(())
}
