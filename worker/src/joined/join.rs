//! `farm-worker join`: a join token becomes a certificate, which is kept in the state folder; and `farm-worker whoami`, which
//! tells what is there.
//!
//! Nothing is sent before the farm is believed: its CA by the fingerprint or the file that was named, else by what the system
//! trusts.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_client::{Fingerprint, LookError, Returns, Security, Shown, Trust, look};
use farm_proto::v1;
use farm_proto::v1::machine_service_client::MachineServiceClient;
use farm_types::Invalid;
use farm_types::chain::with_causes;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::files::{
    Farm, FilesError, Joined, Pair, Unfit, give_to_owner, identity_file, is_root, make_folder,
};
use super::key::Key;
use super::pending;
use crate::config::{WorkerName, default_state_dir, host_name};
use crate::link::{CoordinatorUrl, Coordinators, endpoint};
use crate::state_dir::{LOCK, claim};

/// How long the farm may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The user whom the package makes for its service; that user's home is the service's state folder.
const PACKAGE_USER: &str = "farm-worker";

/// Whose state folder it is.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// The worker's state folder [default: as root on a machine with farm's package, that of its service; else
    /// $STATE_DIRECTORY, else $XDG_STATE_HOME/farm/worker-NAME or ~/.local/state/farm/worker-NAME].
    #[arg(long, env = "FARM_WORKER_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// The worker's name in the farm, which no other has [default: what its invitation says, else the host's name].
    #[arg(long, env = "FARM_WORKER_NAME", value_name = "NAME")]
    name: Option<WorkerName>,
}

/// Arguments of `farm-worker join`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Where the farm's coordinators are, https://HOST:PORT, with commas between them.
    #[arg(value_name = "URL[,URL...]")]
    farm: Address,

    /// The join token that `farm workers invite` has printed. A dash reads it from standard input.
    #[arg(value_name = "TOKEN|-")]
    token: JoinToken,

    /// What the farm's CA is known by, as `farm workers invite` and farm-coordinator print it.
    #[arg(long, value_name = "FINGERPRINT", conflicts_with = "ca")]
    fingerprint: Option<Fingerprint>,

    /// A PEM file with the farm's CA.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Give up the certificate that is in the state folder for another one.
    #[arg(long)]
    again: bool,

    #[command(flatten)]
    place: Place,
}

const AFTER_HELP: &str = "\
Makes a key, has the farm certify it, and keeps both in the state folder; from then on farm-worker needs nothing
but that folder. The token counts once; if the answer gets lost, it counts again in that folder.

Examples:
  sudo farm-worker join https://farm.example:7070 --fingerprint SHA256:… farm_j_…
  farm-worker join https://farm.example:7070 --ca ca.pem --state-dir /srv/w2 --name w2 - <token";

/// Why a worker didn't join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// What was said can't be meant.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// It would give up a good identity.
    #[error(
        "{folder} has joined {farm} as {name} already: start it, or give --again to take another certificate in the place of \
         that one"
    )]
    Already { folder: String, farm: String, name: String },
    /// There is no identity, or it is of no use any more.
    #[error("{0}")]
    NotJoined(String),
    /// What is in the folder can't be taken.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The folder can't be used.
    #[error("--state-dir {folder}: {why}")]
    Folder { folder: String, why: io::Error },
    /// The farm isn't believed. Nothing was sent to it.
    #[error("the farm at {url}: {why}; nothing was sent to it")]
    Unbelieved { url: String, why: String },
    /// Nobody answers.
    #[error("no coordinator answers at {url}: {why}")]
    Away { url: String, why: String },
    /// The farm will not have this worker.
    #[error("the farm at {url} refuses: {why}{cure}")]
    Refused {
        url: String,
        why: String,
        cure: &'static str,
        /// It is the token that is refused.
        token: bool,
    },
    /// The farm answered with something that is of no use.
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

impl JoinError {
    /// The exit code that stands for it: 2 what was said, 5 the token, or no usable certificate, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Invalid(_) => 2,
            Self::Refused { token: true, .. } | Self::NotJoined(_) => 5,
            _ => 1,
        }
    }
}

/// Coordinators with https:// where nothing else is said.
#[derive(Debug, Clone)]
struct Address(Coordinators);

impl FromStr for Address {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let part = |part: &str| match part.trim() {
            part if part.is_empty() || part.contains("://") => part.to_owned(),
            part => format!("https://{part}"),
        };
        let coordinators: Coordinators = text.split(',').map(part).collect::<Vec<_>>().join(",").parse()?;
        if let Some(open) = coordinators.urls().find(|url| !url.is_tls()) {
            let cure = "a certificate is given over TLS only: write https://; on the coordinator's own machine \
                        https://127.0.0.1:PORT";
            return Err(Invalid::new("farm", open.to_string(), cure));
        }
        Ok(Self(coordinators))
    }
}

/// A join token. It is never printed.
#[derive(Clone)]
struct JoinToken(String);

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinToken(…)")
    }
}

impl FromStr for JoinToken {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.trim().to_owned()))
    }
}

impl JoinToken {
    fn read(self, mut stdin: impl io::Read) -> Result<String, Invalid> {
        let invalid = |cure: String| Invalid::new("join token", "…", cure);
        let token = if self.0 == "-" {
            let mut text = String::new();
            stdin
                .by_ref()
                .take(4096)
                .read_to_string(&mut text)
                .map_err(|e| invalid(format!("it can't be read from standard input ({e})")))?;
            text.trim().to_owned()
        } else {
            self.0
        };
        let is_one = !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let cure = "that is none; `farm workers invite` prints one, with the line to run here";
        if is_one { Ok(token) } else { Err(invalid(cure.to_owned())) }
    }
}

/// The folder, whom it is to belong to where it isn't there yet, and whether it is that of the package's service.
struct Folder {
    path: PathBuf,
    owner: Option<(u32, u32)>,
    is_service: bool,
}

impl Place {
    fn find(&self, passwd: &str, is_root: bool) -> Result<Folder, Invalid> {
        let env = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let service = package_user(passwd);
        let path = match (&self.state_dir, &service) {
            (Some(folder), _) => folder.clone(),
            (None, Some((home, _))) if is_root && env("STATE_DIRECTORY").is_none() => home.clone(),
            (None, _) => {
                let name = self.name.as_ref().map_or_else(host_name, |name| Ok(name.to_string()))?;
                default_state_dir(&name, env)?
            }
        };
        let service = service.filter(|(home, _)| *home == path);
        Ok(Folder { path, owner: service.as_ref().map(|(_, owner)| *owner), is_service: service.is_some() })
    }
}

/// The home, user and group of the package's user, from a text like `/etc/passwd` (passwd(5)).
fn package_user(passwd: &str) -> Option<(PathBuf, (u32, u32))> {
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields.into_iter().find_map(|fields| match fields.as_slice() {
        [PACKAGE_USER, _, user, group, _, home, ..] => {
            Some((PathBuf::from(home), (user.parse().ok()?, group.parse().ok()?)))
        }
        _ => None,
    })
}

fn passwd() -> String {
    fs::read_to_string("/etc/passwd").unwrap_or_default()
}

/// Joins a farm. Gives what people are told.
///
/// # Errors
/// The farm isn't believed, isn't there or refuses; or the state folder can't be used. Then what was there still is, and
/// nothing else is kept but the key, for when a token is shown again.
pub(crate) async fn join(args: Args) -> Result<Vec<String>, JoinError> {
    let token = args.token.read(io::stdin().lock())?;
    let folder = args.place.find(&passwd(), is_root())?;
    let place = &folder.path;
    let unusable = |why| JoinError::Folder { folder: place.display().to_string(), why };
    make_folder(place, folder.owner).map_err(unusable)?;
    let _claim = claim(place).map_err(unusable)?;
    give_to_owner(place, &place.join(LOCK)).map_err(unusable)?;
    if !args.again
        && let Some(joined) = Joined::load(place)?
        && !joined.pair.times.is_lost(now_ms())
    {
        return Err(JoinError::Already {
            folder: place.display().to_string(),
            farm: joined.farm.coordinators.join(", "),
            name: joined.farm.name,
        });
    }

    let Address(coordinators) = args.farm;
    let (trust, ca) = believe(&coordinators, args.fingerprint, args.ca.as_deref()).await?;
    let security = Security { trust, ..Security::default() };
    let key = pending::key(place).map_err(unusable)?;
    let name = args.place.name.as_ref().map(ToString::to_string);
    let (url, answer) = ask(&coordinators, &security, &token, name, &key).await?;
    let pair = Pair::of(answer.certificate.clone(), &key, now_ms())?;
    let farm = Farm {
        coordinators: reachable(&coordinators, &url, answer.coordinators),
        ca,
        name: answer.certificate.map(|certificate| certificate.name).unwrap_or_default(),
        machine: answer.machine,
        pool: answer.pool,
        trust: answer.trust,
    };
    let joined = Joined { farm, pair };
    joined.keep(place).map_err(unusable)?;
    pending::forget(place).map_err(unusable)?;
    let mut lines = described(&joined, place);
    if !answer.platforms.is_empty() || answer.slots > 0 {
        let platforms = (!answer.platforms.is_empty()).then(|| answer.platforms.join(", "));
        let slots = (answer.slots > 0).then(|| match answer.slots {
            1 => "1 slot".to_owned(),
            n => format!("{n} slots"),
        });
        let most: Vec<String> = platforms.into_iter().chain(slots).collect();
        lines.push(format!("at most  {}", most.join("; ")));
    }
    lines.push(match folder.is_service {
        true => "start    systemctl enable --now farm-worker".to_owned(),
        false => format!("start    farm-worker --state-dir {}", place.display()),
    });
    Ok(lines)
}

/// Arguments of `farm-worker whoami`.
#[derive(Debug, clap::Args)]
pub struct WhoAmI {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    place: Place,
}

/// What the worker of a state folder is, for people.
///
/// # Errors
/// It has joined no farm, or too long ago: its certificate can't be renewed any more.
pub fn whoami(args: &WhoAmI) -> Result<Vec<String>, JoinError> {
    let folder = args.place.find(&passwd(), is_root())?.path;
    let shown = folder.display();
    let joined = Joined::load(&folder)?.ok_or_else(|| {
        JoinError::NotJoined(format!("{shown} has joined no farm: `farm workers invite` says how"))
    })?;
    if joined.pair.times.is_lost(now_ms()) {
        return Err(JoinError::NotJoined(format!(
            "the certificate of worker {} in {shown} has ended on {}, by this machine's clock, and can be renewed for a day \
             only: farm workers revoke {}; farm workers invite --name {}",
            joined.farm.name,
            date(joined.pair.times.ends_ms()),
            joined.farm.name,
            joined.farm.name
        )));
    }
    if args.json {
        let Farm { coordinators, name, machine, pool, trust, .. } = &joined.farm;
        let ends = DateTime::<Utc>::from_timestamp_millis(joined.pair.times.ends_ms());
        let object = serde_json::json!({
            "name": name, "machine": machine, "pool": pool, "trust": trust, "coordinators": coordinators,
            "certificate_ends": ends,
        });
        return Ok(vec![object.to_string()]);
    }
    Ok(described(&joined, &folder))
}

fn described(joined: &Joined, folder: &Path) -> Vec<String> {
    let Farm { coordinators, name, machine, pool, trust, .. } = &joined.farm;
    let ends = date(joined.pair.times.ends_ms());
    vec![
        format!("worker   {name}, on machine {machine}, pool {pool}, {trust}"),
        format!("farm     {}", coordinators.join(", ")),
        format!("shows    a certificate until {ends}, which it renews itself, in {}", identity_file(folder)),
    ]
}

fn date(ms: i64) -> String {
    DateTime::<Utc>::from_timestamp_millis(ms)
        .map_or_else(String::new, |at| at.format("%F %R UTC").to_string())
}

fn now_ms() -> i64 {
    Utc::now().timestamp_millis()
}

/// Finds out whether the farm is believed: by whom, and by which CA, as PEM, if not by the system's.
async fn believe(
    coordinators: &Coordinators,
    fingerprint: Option<Fingerprint>,
    ca: Option<&Path>,
) -> Result<(Trust, Option<String>), JoinError> {
    let (url, shown) = first_shown(coordinators).await?;
    let unbelieved = |why: String| JoinError::Unbelieved { url: url.to_string(), why };
    let pem = match (fingerprint, ca) {
        (_, Some(file)) => Some(fs::read_to_string(file).map_err(|e| {
            Invalid::new("--ca", file.to_string_lossy(), e.to_string())
        })?),
        (Some(fingerprint), None) => Some(shown.find(fingerprint).ok_or_else(|| {
            let is = shown.authority().map_or_else(String::new, |(is, _)| is.to_string());
            unbelieved(format!(
                "it doesn't show the CA {fingerprint}, but {is}. One of the two is another farm's, or somebody is between"
            ))
        })?),
        (None, None) => None,
    };
    let trust = match &pem {
        Some(pem) => Trust::from_pem(pem, "--ca").map_err(|e| {
            Invalid::new("--ca", ca.unwrap_or(Path::new("")).to_string_lossy(), e.to_string())
        })?,
        None => Trust::System,
    };
    shown.check(&trust).map_err(|failure| {
        let cure = match (&trust, shown.authority()) {
            (Trust::System, Some((is, _))) => {
                format!(". If farm-coordinator prints this where it starts, give --fingerprint {is}")
            }
            _ => String::new(),
        };
        unbelieved(format!("{failure}{cure}"))
    })?;
    Ok((trust, pem))
}

/// What the first coordinator shows that answers.
async fn first_shown(coordinators: &Coordinators) -> Result<(&CoordinatorUrl, Shown), JoinError> {
    let mut failed = None;
    for url in coordinators.urls() {
        match look(url.uri()).await {
            Ok(shown) => return Ok((url, shown)),
            Err(error) => {
                let (url, why) = (url.to_string(), error.to_string());
                failed = failed.or(Some(match error {
                    LookError::Tls(_) => JoinError::Unbelieved { url, why },
                    LookError::Away(_) | LookError::Silent => JoinError::Away { url, why },
                }));
            }
        }
    }
    // There is at least one.
    Err(failed.unwrap_or_else(|| JoinError::NotJoined(String::new())))
}

/// Asks the coordinators in turn until one says yes or no.
async fn ask(
    coordinators: &Coordinators,
    security: &Security,
    token: &str,
    name: Option<String>,
    key: &Key,
) -> Result<(CoordinatorUrl, v1::JoinFarmResponse), JoinError> {
    let mut failed = None;
    for url in coordinators.urls() {
        let request = v1::JoinFarmRequest {
            token: token.to_owned(),
            name: name.clone().unwrap_or_default(),
            public_key: key.public().into(),
        };
        let mut answer = ask_one(url, security, request.clone()).await;
        // The invitation says no name, and neither does whoever runs this.
        if name.is_none() && answer.as_ref().is_err_and(|status| status.code() == Code::InvalidArgument) {
            answer = ask_one(url, security, v1::JoinFarmRequest { name: host_name()?, ..request }).await;
        }
        match answer {
            Ok(answer) => return Ok((url.clone(), answer)),
            Err(status) => match refusal(url, &status) {
                away @ JoinError::Away { .. } => failed = failed.or(Some(away)),
                refused => return Err(refused),
            },
        }
    }
    // There is at least one.
    Err(failed.unwrap_or_else(|| JoinError::NotJoined(String::new())))
}

async fn ask_one(
    url: &CoordinatorUrl,
    security: &Security,
    request: v1::JoinFarmRequest,
) -> Result<v1::JoinFarmResponse, Status> {
    let away = |error: &(dyn std::error::Error + 'static)| Status::unavailable(with_causes("", Some(error)));
    let channel = endpoint(url, security).map_err(|e| away(&e))?.connect().await.map_err(|e| away(&e))?;
    let mut client = MachineServiceClient::new(channel);
    let silent = || {
        Status::unavailable(
            "it doesn't answer; run the same again, since the token counts for this folder still",
        )
    };
    let mut returns = Returns::default();
    loop {
        let answer = timeout(ANSWER_WITHIN, client.join_farm(request.clone())).await;
        let status = match answer.map_err(|_| silent())? {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => status,
        };
        // Many join at once from this address; nothing was done of this one.
        let Some(wait) = returns.next_wait(&status) else { return Err(status) };
        tokio::time::sleep(wait).await;
    }
}

fn refusal(url: &CoordinatorUrl, status: &Status) -> JoinError {
    let (url, why) = (url.to_string(), status.message().to_owned());
    let refused = |cure, token| JoinError::Refused { url: url.clone(), why: why.clone(), cure, token };
    match status.code() {
        // The farm says what to do.
        Code::Unauthenticated => refused("", true),
        Code::AlreadyExists => refused(". The token is still good", false),
        Code::Unimplemented => refused(
            "; this coordinator is older than the worker and gives no certificates: upgrade it, or start the worker \
             with --token-file",
            false,
        ),
        Code::PermissionDenied
        | Code::NotFound
        | Code::FailedPrecondition
        | Code::InvalidArgument
        | Code::ResourceExhausted => refused("", false),
        _ => JoinError::Away { url, why: with_causes(&why, std::error::Error::source(status)) },
    }
}

/// Those that were named, and where the farm calls itself as it was called here, its others: else what it says of itself may
/// lead nowhere from this machine.
fn reachable(named: &Coordinators, called: &CoordinatorUrl, said: Vec<String>) -> Vec<String> {
    let mut all: Vec<String> = named.urls().map(ToString::to_string).collect();
    let said: Vec<String> = said
        .iter()
        .filter_map(|url| url.parse::<CoordinatorUrl>().ok())
        .filter(CoordinatorUrl::is_tls)
        .map(|url| url.to_string())
        .collect();
    if said.contains(&called.to_string()) {
        all.extend(said.into_iter().filter(|url| named.urls().all(|named| named.to_string() != *url)));
    }
    all
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
