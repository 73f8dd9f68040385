//! The coordinator: takes builds, gives jobs to workers, publishes what they push.
//!
//! `grpc`, `hooks` and `web` are the edges, `link` the workers connected here, `reconcile` the leader's loops, `registry` and
//! `blobs` the outside. All state is in the database (`farm-store`), all decisions in `farm-core`.

pub mod agents;
pub mod blobs;
pub mod config;
mod dockerfile;
pub mod forge;
pub mod grpc;
pub mod hints;
pub mod hooks;
pub mod http;
mod keys;
pub mod limits;
pub mod link;
pub mod listeners;
pub mod logs;
pub mod migrate;
pub mod notices;
pub mod others;
pub mod outbound;
pub mod peers;
pub mod people;
pub mod process;
mod read_limits;
pub mod reconcile;
pub mod registry;
pub mod seal;
mod service_manager;
pub mod shared;
pub mod shown;
mod signing;
pub mod tls;
pub mod tree;
mod unstored;
pub mod web;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use farm_store::Store;
use secrecy::ExposeSecret as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use uuid::Uuid;

use blobs::Blobs;
use config::Config;
use limits::Doors;
use outbound::Outbound;
use people::accesses::Accesses;
use people::identities::Identities;
use people::principal::SignInRules;
use people::sign_in::SignIns;
use registry::Registries;
use registry::helpers::Helpers;
use registry::staging::Staging;
use shared::Shared;
use tls::{Authority, Purpose, Tls};

/// So many connections to the database the leader's loops have; they are opened only when that many are needed at once.
const LOOP_CONNECTIONS: u32 = 8;
/// How long a call waits for a connection to the database.
const ACQUIRE: Duration = Duration::from_secs(5);
/// How long one statement may take. A user hears within 30 s that the database doesn't answer.
const STATEMENT: Duration = Duration::from_secs(12);
/// The database has so much longer to say that it took too long.
const GRACE: Duration = Duration::from_secs(3);

/// The database, by the configuration; nothing is connected yet.
///
/// # Errors
/// The address is none of Postgres's.
pub(crate) fn open_store(config: &Config) -> Result<Store, farm_types::Invalid> {
    let limits = farm_store::Limits {
        connections: config.database_connections,
        loops: LOOP_CONNECTIONS,
        acquire: ACQUIRE,
        statement: STATEMENT,
        grace: GRACE,
        leader_fresh: config.leadership.fresh(),
        leader_statement: config.leadership.statement(),
        suspect_after: config.limits.suspect(),
    };
    let store = Store::open(config.database_url.expose_secret(), limits)?;
    Ok(store.with_patched_engines(config.patched_engines.clone()))
}

/// Says at each start what can be read by whom, where somebody has said that it may be.
fn tell_of_plaintext(config: &Config) {
    if !config.speaks_tls() && !config.listen.ip().is_loopback() {
        tracing::warn!(
            listen = %config.listen,
            "without TLS (--insecure-plaintext): whoever is between sees tokens, sources and registry passwords"
        );
    }
    if config.advertise.as_ref().is_some_and(|said| said.starts_with("http://")) && config.speaks_tls() {
        tracing::warn!(
            address = config.advertised(),
            "--advertise says http://, but this coordinator speaks TLS; it is told to the others as https://"
        );
    }
}

/// The staging registry, if there is one, with the key of its tokens.
fn open_staging(config: &Config) -> anyhow::Result<Option<Staging>> {
    let Some(host) = &config.staging.registry else { return Ok(None) };
    let folder = config.staging_folder();
    let authority = Authority::open(&folder, Purpose::Staging)
        .with_context(|| format!("the key of the staging registry in {} can't be used", folder.display()))?;
    let staging = Staging::new(host.parse()?, &authority.key(), authority.der())?;
    tracing::info!(registry = host, certificate = %folder.join("ca.pem").display(), "untrusted machines push to a staging registry");
    Ok(Some(staging))
}

/// This life of the machine's kernel, by which it is told from all other machines.
fn machine() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

/// Where a coordinator serves.
#[derive(Debug, Clone)]
pub struct Serving {
    /// What it listens on, as `https://` or `http://`.
    pub url: String,
    /// The CA that its clients have to trust, by its fingerprint, and the file it is in.
    pub authority: Option<(farm_client::Fingerprint, std::path::PathBuf)>,
}

/// Serves on the listener until `shutdown`; `ready` is called once everything answers.
///
/// # Errors
/// The database can't be reached in time or is a newer farm's; a file or folder can't be used; a loop dies.
pub(crate) async fn run(
    mut config: Config,
    listener: TcpListener,
    shutdown: CancellationToken,
    ready: impl FnOnce(&Serving),
) -> anyhow::Result<()> {
    let address = listener.local_addr()?;
    config.listen = address;
    let token_file = config.token_file();
    let admin = people::local::admin_token(&token_file)
        .with_context(|| format!("token file {:?} can't be used", token_file.display()))?;
    let patience = Duration::from_secs(config.limits.blob_timeout_seconds);
    let blobs = Blobs::local(&config.state_dir.join("blobs"), patience)
        .with_context(|| format!("state folder {:?} can't be used", config.state_dir.display()))?;
    let tls = Tls::open(&config)?;
    let keyring = Arc::new(keys::open(&config)?);
    let peers = tls::of_peers(&config, tls.as_deref())?;
    tell_of_plaintext(&config);
    let store = open_store(&config)?;
    tokio::select! {
        migrated = migrate::at_start(&store, &config) => migrated?,
        () = shutdown.cancelled() => return Ok(()),
    }
    let timeout = Duration::from_secs(config.limits.registry_timeout_seconds);
    let outbound = Outbound::new(config.rules());
    let registries = Registries::new(config.registries.clone(), &outbound, timeout)?;
    let registries = registries.with_staging(open_staging(&config)?);
    let is_answered = watch::Sender::new(true);
    let grace = Duration::from_secs(config.identity_grace_seconds);
    let sign_in = config.sign_in.clone();
    let rules = sign_in.as_ref().map_or_else(SignInRules::default, |settings| SignInRules {
        issuer: Some(settings.issuer.clone()),
        admin_groups: settings.admin_groups.clone(),
    });
    let identities = Identities::new(store.clone(), admin, is_answered.subscribe(), grace, rules);
    let helpers = Arc::new(Helpers::new(config.credential_helpers.clone()));
    let shared_registries = config.shared_registries.clone();
    let accesses =
        Accesses::new(store.clone(), Arc::clone(&keyring), Arc::clone(&helpers), shared_registries);
    let forges = forge::Forges::new(outbound.client(Vec::new())?);
    let mailer = config.mail.as_ref().map(notices::mail::Mailer::new).transpose()?;
    let notices = notices::send::Senders::new(outbound.client(Vec::new())?, mailer);
    let issuers = Arc::new(people::oidc::fetch::Http::new(outbound.client(Vec::new())?));
    let sign_in =
        sign_in.map(|settings| SignIns::new(settings, config.oidc.clone(), issuers.clone())).transpose()?;
    let pages = config.web.public_url.as_deref().filter(|_| config.web.listen.is_some());
    let sign_in = sign_in.map(|sign_in| sign_in.with_pages(pages));
    let exchange = people::oidc::Exchange::new(issuers, config.oidc.clone(), config.audience());
    let doors = Arc::new(Doors::new(&config.limits));
    let nobody = hooks::nobody::Nobody::new(&keyring);
    let shared = Arc::new(Shared {
        id: Uuid::now_v7(),
        machine: machine(),
        config,
        loops: store.of_loops(),
        store,
        is_answered,
        blobs,
        identities: Arc::new(identities),
        doors: Arc::clone(&doors),
        accesses,
        helpers,
        forges,
        notices,
        exchange,
        sign_in,
        secret: people::local::Secret::generate()?,
        peers,
        tls: tls.clone(),
        nobody,
        keyring,
        hints: Arc::default(),
        link: link::Link::default(),
        agents: agents::Agents::default(),
        others: others::Others::default(),
        registries,
    });
    // Before anything is sealed.
    keys::agree(&shared).await;
    keys::tell_of_lost(&shared).await;
    let listeners = listeners::bind(&shared).await?;
    let (lead, led) = watch::channel(None);
    let mut loops: JoinSet<&'static str> = JoinSet::new();
    // What a loop logs says which loop it was: its span has the name of its pass.
    macro_rules! spawn {
        ($name:literal, $run:expr) => {{
            let run = $run.instrument(tracing::error_span!($name));
            loops.spawn(async move {
                run.await;
                $name
            });
        }};
    }
    spawn!("campaign", reconcile::machines::campaign(Arc::clone(&shared), lead, shutdown.clone()));
    spawn!("schedule", reconcile::work::schedule::run(Arc::clone(&shared), led.clone(), shutdown.clone()));
    spawn!(
        "publish",
        reconcile::publish::publications::run(Arc::clone(&shared), led.clone(), shutdown.clone())
    );
    spawn!("unstage", reconcile::publish::unstage::run(Arc::clone(&shared), led.clone(), shutdown.clone()));
    spawn!("mirrors", reconcile::publish::mirrors::run(Arc::clone(&shared), led.clone(), shutdown.clone()));
    spawn!("clean", reconcile::publish::clean::run(Arc::clone(&shared), led.clone(), shutdown.clone()));
    spawn!("seal", reconcile::logs::run(Arc::clone(&shared), led.clone(), shutdown.clone()));
    spawn!("retain", reconcile::builds::run(Arc::clone(&shared), led.clone(), shutdown.clone()));
    spawn!("audit", reconcile::people::run(Arc::clone(&shared), led.clone(), shutdown.clone()));
    spawn!("deliveries", reconcile::hooks::run(Arc::clone(&shared), led.clone(), shutdown.clone()));
    spawn!("looks", reconcile::hooks::looks::run(Arc::clone(&shared), led.clone(), shutdown.clone()));
    spawn!("statuses", reconcile::hooks::statuses::run(Arc::clone(&shared), led.clone(), shutdown.clone()));
    spawn!("notices", reconcile::notices::run(Arc::clone(&shared), led.clone(), shutdown.clone()));
    spawn!("listeners", listeners::run(Arc::clone(&shared), listeners, shutdown.clone()));
    spawn!("keys", reconcile::keys::run(Arc::clone(&shared), led.clone(), shutdown.clone()));
    spawn!("house", reconcile::work::reap::keep_house(Arc::clone(&shared), led, shutdown.clone()));
    spawn!("dispatch", link::dispatch::dispatch(Arc::clone(&shared), shutdown.clone()));
    spawn!("peers", peers::run(Arc::clone(&shared), shutdown.clone()));
    let (identities, end) = (Arc::clone(&shared.identities), shutdown.clone());
    spawn!("people", async move { identities.run(end).await });
    spawn!("read limits", read_limits::run(Arc::clone(&shared), shutdown.clone()));
    spawn!("limits", doors.run(shutdown.clone()));
    spawn!("beats", link::dispatch::flush_beats(Arc::clone(&shared), shutdown.clone()));
    let speaks_tls = shared.config.speaks_tls();
    let scheme = if speaks_tls { "https" } else { "http" };
    let authority = tls.as_ref().filter(|_| speaks_tls).and_then(|tls| tls.authority());
    if let Some(tls) = tls {
        spawn!("certificates", tls.keep(shutdown.clone()));
    }
    ready(&Serving { url: format!("{scheme}://{address}"), authority });
    let serve = grpc::serve(shared, listener, shutdown.clone());
    tokio::pin!(serve);
    tokio::select! {
        served = &mut serve => {
            shutdown.cancel();
            served?;
        }
        Some(ended) = loops.join_next() => {
            if shutdown.is_cancelled() {
                serve.await?;
            } else {
                // Without one of its loops a coordinator only looks alive.
                shutdown.cancel();
                anyhow::bail!("the loop {:?} has died", ended);
            }
        }
    }
    while loops.join_next().await.is_some() {}
    Ok(())
}
