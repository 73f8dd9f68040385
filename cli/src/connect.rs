//! The connection to a farm: where it is, how the caller says who it is, and what a failure means.
//!
//! Invariant: the token is in the request's metadata and nowhere else; no message, no log and no error of
//! this crate holds it.

use std::path::PathBuf;
use std::time::Duration;

use farm_client::{Bearer, BearerError, Endpoints, Security, TlsFailure, is_loopback};
use farm_proto::MAX_MESSAGE_BYTES;
use farm_proto::v1::GetAudienceRequest;
use farm_proto::v1::audit_service_client::AuditServiceClient;
use farm_proto::v1::build_service_client::BuildServiceClient;
use farm_proto::v1::farm_service_client::FarmServiceClient;
use farm_proto::v1::git_service_client::GitServiceClient;
use farm_proto::v1::hook_service_client::HookServiceClient;
use farm_proto::v1::image_service_client::ImageServiceClient;
use farm_proto::v1::machine_service_client::MachineServiceClient;
use farm_proto::v1::mirror_service_client::MirrorServiceClient;
use farm_proto::v1::notice_service_client::NoticeServiceClient;
use farm_proto::v1::output_service_client::OutputServiceClient;
use farm_proto::v1::people_service_client::PeopleServiceClient;
use farm_proto::v1::project_service_client::ProjectServiceClient;
use farm_proto::v1::registry_service_client::RegistryServiceClient;
use farm_proto::v1::secret_service_client::SecretServiceClient;
use farm_proto::v1::sign_in_service_client::SignInServiceClient;
use farm_proto::v1::signing_service_client::SigningServiceClient;
use farm_proto::v1::snapshot_service_client::SnapshotServiceClient;
use farm_proto::v1::trust_service_client::TrustServiceClient;
use farm_types::chain::{in_short, io_in_short};
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::Channel;

use crate::authorized::{Authorized, Who};
use crate::ci::exchange::Exchange;
use crate::ci::{Job, advice};
use crate::config::{Address, folder, is_absent};
use crate::error::{Error, Result};
use crate::folders::local_files;
use crate::limits::{Limited, Limits};
use crate::patient::Patient;
use crate::security::{Dial, dials, security, unbelieved};

/// Of several coordinators the next one is tried when the one before has not answered for so long.
const HEAD_START: Duration = Duration::from_millis(250);

/// A channel whose calls say who makes them, end, and wait when the farm has too many.
pub type AuthChannel = Patient;

/// A token as it stands in a file or in the environment.
///
/// # Errors
/// It is none; `from` says where it came from.
pub fn bearer(token: &str, from: &str) -> Result<Bearer> {
    token.parse().map_err(|e: BearerError| {
        let is = match e {
            BearerError::Empty => "is empty",
            BearerError::Characters => "has characters that no token has",
        };
        Error::Farm(format!("the token in {from} {is}; put the farm's token there"))
    })
}

/// A farm that answered, and may be called with the user's token.
#[derive(Clone)]
pub struct Client {
    url: String,
    pub(crate) channel: AuthChannel,
}

impl Client {
    /// Connects to the farm at this address, with the token that this user has; a job that has one of its own system's gets one of
    /// the farm's for it, once a command. Of several coordinators the first that answers is called; later calls move to the next
    /// when it fails.
    ///
    /// # Errors
    /// The address is none, nothing answers there within 5 s, there is no token, or the farm takes it from no such job.
    pub async fn connect(address: &Address) -> Result<Self> {
        let url = address.url.trim_end_matches('/');
        let security = security(address)?;
        let dials = dials(url, &security)?;
        let is_local = dials.iter().all(|dial| is_loopback(&dial.uri));
        let hosts: Vec<String> = dials.iter().filter_map(|dial| dial.uri.host().map(str::to_owned)).collect();
        let endpoints = Limited::new(reach(dials, address, &security).await?, Limits::default());
        let found = match find_token(address.token_file.clone(), is_local) {
            Ok(found) => found,
            Err(error) => return Err(without_token(error, endpoints).await),
        };
        let project = address.project.as_ref();
        let who = match found {
            Found::Token(bearer) => match project {
                Some((project, from)) => {
                    let unfit = |_| Error::Usage(format!("{from} {project}: no project has such a name"));
                    Who::Token(bearer.in_project(project.as_str()).map_err(unfit)?)
                }
                None => Who::Token(bearer),
            },
            Found::Job(job) => {
                let project = project.map(|(name, _)| name.clone());
                Who::Job(Exchange::begin(job, endpoints.clone(), url, &hosts, project).await?)
            }
        };
        Ok(Self { url: url.to_owned(), channel: Patient::new(Authorized::new(endpoints, who)) })
    }

    /// The same with this token and these certificates, whatever the user has set.
    ///
    /// # Errors
    /// The address is none, or nothing answers there within 5 s.
    pub async fn connect_as(address: &Address, bearer: Bearer, security: &Security) -> Result<Self> {
        let url = address.url.trim_end_matches('/');
        let channels = reach(dials(url, security)?, address, security).await?;
        Ok(Self { url: url.to_owned(), channel: limited(channels, bearer) })
    }

    /// A farm behind a channel that is there already.
    pub fn over(channel: Channel, bearer: Bearer, url: &str) -> Self {
        Self { url: url.to_owned(), channel: limited(channel.into(), bearer) }
    }

    /// Its address, for messages.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What a failed call means for the user.
    pub fn error(&self, status: &Status) -> Error {
        Error::from_status(status, &self.url)
    }

    /// Submits and follows builds.
    pub fn builds(&self) -> BuildServiceClient<AuthChannel> {
        BuildServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Answers what the farm has.
    pub fn farm(&self) -> FarmServiceClient<AuthChannel> {
        FarmServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Lets machines join.
    pub fn machines(&self) -> MachineServiceClient<AuthChannel> {
        MachineServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Reads images in registries.
    pub fn images(&self) -> ImageServiceClient<AuthChannel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Keeps what is mirrored again and again.
    pub fn mirrors(&self) -> MirrorServiceClient<AuthChannel> {
        MirrorServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Gives out what builds have made.
    pub fn outputs(&self) -> OutputServiceClient<AuthChannel> {
        OutputServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Knows what was done.
    pub fn audit(&self) -> AuditServiceClient<AuthChannel> {
        AuditServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Knows who calls, and keeps tokens.
    pub fn people(&self) -> PeopleServiceClient<AuthChannel> {
        PeopleServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Keeps projects and who is in them.
    pub fn projects(&self) -> ProjectServiceClient<AuthChannel> {
        ProjectServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Lets people in by their issuer, and keeps who they are there.
    pub fn sign_ins(&self) -> SignInServiceClient<AuthChannel> {
        SignInServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Keeps projects' logins for git.
    pub fn git_logins(&self) -> GitServiceClient<AuthChannel> {
        GitServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Keeps projects' logins at registries.
    pub fn registries(&self) -> RegistryServiceClient<AuthChannel> {
        RegistryServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Keeps projects' webhooks.
    pub fn hooks(&self) -> HookServiceClient<AuthChannel> {
        HookServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Keeps whom projects tell how their builds end.
    pub fn notices(&self) -> NoticeServiceClient<AuthChannel> {
        NoticeServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Keeps what projects trust.
    pub fn trusts(&self) -> TrustServiceClient<AuthChannel> {
        TrustServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Keeps projects' secrets.
    pub fn secrets(&self) -> SecretServiceClient<AuthChannel> {
        SecretServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Keeps by which keys projects sign.
    pub fn signing_keys(&self) -> SigningServiceClient<AuthChannel> {
        SigningServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Takes sources.
    pub fn snapshots(&self) -> SnapshotServiceClient<AuthChannel> {
        SnapshotServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }
}

/// The calls of a farm by which people sign in, for somebody who has no token yet.
///
/// # Errors
/// The address is none, or nothing answers there within 5 s.
pub(crate) async fn stranger(address: &Address, security: &Security) -> Result<SignInServiceClient<Limited>> {
    let url = address.url.trim_end_matches('/');
    let channels = reach(dials(url, security)?, address, security).await?;
    Ok(SignInServiceClient::new(Limited::new(channels, Limits::default())))
}

fn limited(endpoints: Endpoints, bearer: Bearer) -> AuthChannel {
    Patient::new(Authorized::new(Limited::new(endpoints, Limits::default()), Who::Token(bearer)))
}

/// Connects to the first that answers, or says of each what is wrong with it.
async fn reach(dials: Vec<Dial>, address: &Address, security: &Security) -> Result<Endpoints> {
    let failed = match first_of(&dials).await {
        Ok(channels) => return Ok(channels),
        Err(failed) => failed,
    };
    // Where a farm is that isn't believed, another address is no cure.
    if let Some((dial, failure)) = failed.iter().find_map(|(dial, e)| Some((dial, TlsFailure::of(e)?))) {
        return Err(unbelieved(dial, &failure, address, security).await);
    }
    let failed: Vec<String> = failed
        .iter()
        .map(|(dial, error)| format!("{}{} ({})", dial.url, address.named(), in_short(error)))
        .collect();
    Err(Error::Farm(format!(
        "no farm at {}. Start one here with `farm up`, or choose another with `farm config`, FARM_URL or --url.",
        failed.join(" nor at ")
    )))
}

/// Connects to the first that answers, and knows the others; else gives why each doesn't.
async fn first_of(dials: &[Dial]) -> Result<Endpoints, Vec<(&Dial, tonic::transport::Error)>> {
    let mut connecting = JoinSet::new();
    for (place, dial) in dials.iter().enumerate() {
        let endpoint = dial.endpoint.clone();
        let head_start = HEAD_START.saturating_mul(u32::try_from(place).unwrap_or(u32::MAX));
        connecting.spawn(async move {
            tokio::time::sleep(head_start).await;
            (place, endpoint.connect().await)
        });
    }
    let mut failed = Vec::new();
    while let Some(Ok((place, connected))) = connecting.join_next().await {
        match connected {
            Ok(channel) => {
                let later = dials.iter().skip(place + 1);
                let others = later.chain(dials.iter().take(place));
                return Ok(Endpoints::new(channel, others.map(|dial| dial.endpoint.connect_lazy())));
            }
            Err(error) => failed.push((place, error)),
        }
    }
    failed.sort_by_key(|(place, _)| *place);
    Err(failed.into_iter().map(|(place, error)| (&dials[place], error)).collect())
}

/// What shows who calls.
enum Found {
    Token(Bearer),
    Job(Job),
}

/// The value of a variable, if there is one in it.
fn set(name: &str) -> Option<String> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(|value| value.to_string_lossy().into_owned())
}

/// FARM_TOKEN, else the file FARM_TOKEN_FILE, else the context's, else what a job shows by FARM_ID_TOKEN, else
/// `~/.config/farm/token`, else, for an address of this machine, that of a farm here: the user's own, or root's; else what GitHub
/// gives to its jobs. It is last since jobs may have it for other purposes.
fn find_token(of_context: Option<PathBuf>, is_local: bool) -> Result<Found> {
    if let Some(token) = set("FARM_TOKEN") {
        return bearer(&token, "FARM_TOKEN").map(Found::Token);
    }
    let named = std::env::var_os("FARM_TOKEN_FILE").filter(|value| !value.is_empty());
    let named = named.map(|path| (PathBuf::from(path), "FARM_TOKEN_FILE"));
    let named = named.or_else(|| of_context.map(|path| (path, "the context")));
    let is_named = named.is_some();
    if let Some(job) = Job::given(&set).filter(|_| !is_named) {
        return Ok(Found::Job(job));
    }
    let usual = folder().map(|config| config.join("token"));
    // They make whoever has them the farm's admin: they go to no other machine.
    let of_this_machine = local_files("token").into_iter().filter(|_| is_local);
    let error = match first_token(named, usual.into_iter().chain(of_this_machine)) {
        Ok(bearer) => return Ok(Found::Token(bearer)),
        Err(error) => error,
    };
    match Job::of_github(&set)?.filter(|_| !is_named) {
        Some(job) => Ok(Found::Job(job)),
        None => Err(error),
    }
}

/// What is said when there is no token, with how a job gets one if this is one.
async fn without_token(error: Error, endpoints: Limited) -> Error {
    let Error::Farm(text) = error else { return error };
    if advice(&set, None).is_none() {
        return Error::Farm(text);
    }
    let asked = TrustServiceClient::new(endpoints).get_audience(GetAudienceRequest {}).await;
    let audience = asked.ok().map(|answer| answer.into_inner().audience);
    let advice = advice(&set, audience.as_deref()).unwrap_or_default();
    Error::Farm(format!("{text}\n{advice}"))
}

fn first_token(named: Option<(PathBuf, &str)>, usual: impl Iterator<Item = PathBuf>) -> Result<Bearer> {
    let unreadable = |path: &PathBuf, e: &std::io::Error| {
        Error::Farm(format!(
            "can't read the token file {} ({}); make it readable for you, or set FARM_TOKEN",
            path.display(),
            io_in_short(e)
        ))
    };
    if let Some((path, by)) = named {
        return match std::fs::read_to_string(&path) {
            Ok(token) => bearer(&token, &path.display().to_string()),
            Err(e) if is_absent(&e) => Err(Error::Farm(format!(
                "{by} names {}, and there is no such file; put the farm's token there, `farm login` again, or name another",
                path.display()
            ))),
            Err(e) => Err(unreadable(&path, &e)),
        };
    }
    let (mut looked, mut failed) = (Vec::new(), None);
    for path in usual {
        match std::fs::read_to_string(&path) {
            Ok(token) => return bearer(&token, &path.display().to_string()),
            Err(e) if is_absent(&e) => looked.push(path.display().to_string()),
            // One that is another's (after su HOME may be) doesn't hide the next.
            Err(e) => failed = failed.or_else(|| Some(unreadable(&path, &e))),
        }
    }
    Err(failed.unwrap_or_else(|| {
        Error::Farm(if looked.is_empty() {
            "no token for the farm: FARM_TOKEN isn't set, and HOME names no folder that is there. Set FARM_TOKEN to the token that the \
             farm's owner gave you, or FARM_TOKEN_FILE to a file with it."
                .to_owned()
        } else {
            format!(
                "no token for the farm: FARM_TOKEN isn't set, and there is no {}. Put the token that the farm's owner \
                 gave you into the first of these files, or set FARM_TOKEN.",
                looked.join(" and no ")
            )
        })
    }))
}

#[cfg(test)]
mod tests {
    use tonic::Request;
    use tonic::service::Interceptor as _;

    use super::*;
    use crate::config::Source;

    /// What a call has in its metadata.
    fn token(mut bearer: Bearer) -> String {
        let request = bearer.call(Request::new(())).unwrap();
        request.metadata().get("authorization").unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn the_first_token_file_counts_and_a_missing_one_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("two"), "s3cret\n").unwrap();
        let found =
            first_token(None, [path("one"), path("two")].into_iter()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(token(found), "Bearer s3cret");
        let none =
            |named: Option<(PathBuf, &str)>, usual: Vec<PathBuf>| match first_token(named, usual.into_iter())
            {
                Ok(_) => panic!("there is no token"),
                Err(e) => (e.exit().code(), e.to_string()),
            };
        let (code, text) = none(None, vec![path("one"), path("three")]);
        assert!(code == 3 && text.contains("FARM_TOKEN") && text.contains("three"), "{text}");
        let (_, text) = none(Some((path("named"), "FARM_TOKEN_FILE")), vec![path("two")]);
        assert!(text.contains("FARM_TOKEN_FILE names"), "{text}");
        let (_, text) = none(None, Vec::new());
        assert!(text.contains("FARM_TOKEN_FILE") && !text.contains("these files"), "{text}");
        // A folder can't be read as a file, whoever one is.
        let past = first_token(None, [dir.path().to_owned(), path("two")].into_iter())
            .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(token(past), "Bearer s3cret");
        let (_, text) = none(None, vec![path("two/below"), dir.path().to_owned()]);
        assert!(text.contains("can't read the token file"), "{text}");
        std::fs::write(path("empty"), "\n").unwrap();
        let (_, text) = none(None, vec![path("empty")]);
        assert!(text.contains("is empty"), "{text}");
    }

    #[tokio::test]
    async fn where_nothing_listens_it_is_said_so_with_the_cure() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("http://127.0.0.1:{port}/");
        let address = Address { url, token_file: None, ca_file: None, project: None, source: Source::Flag };
        let Err(error) = Client::connect(&address).await else { panic!("nothing is there") };
        assert_eq!(error.exit().code(), 3);
        let both = Address { url: format!("{},http://127.0.0.1:1", address.url), ..address.clone() };
        let Err(none) = Client::connect(&both).await else { panic!("nothing is there") };
        let nor = format!("at http://127.0.0.1:{port} (connection refused) nor at http://127.0.0.1:1 (conn");
        assert!(none.to_string().contains(&nor), "{none}");
        let text = error.to_string();
        assert!(text.contains(&format!("no farm at http://127.0.0.1:{port} (connection refused)")), "{text}");
        assert!(text.contains("FARM_URL"));
    }
}
