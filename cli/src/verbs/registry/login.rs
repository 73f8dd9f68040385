//! `farm registry login`: a user's name and password (or a token of the registry's), which the registry has to take before they are kept.

use std::io::Read as _;

use farm_proto::v1::SetRegistryLoginRequest;
use farm_types::{Invalid, RegistryHost};
use zeroize::Zeroizing;

use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Result};
use crate::output::Out;
use crate::output::text::harmless;
use crate::prompt;
use crate::security::covered_for_secrets;

/// The longest password, bytes.
const LONGEST: u64 = 16 * 1024;

/// Arguments of `farm registry login`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The registry, as images' names have it: HOST or HOST:PORT; docker.io is Docker Hub
    #[arg(value_name = "HOST")]
    host: String,

    /// The user's name there
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,

    /// Read the password, or a token of the registry's, from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,

    /// Have one of the farm's credential helpers give name and password, each time for a while
    #[arg(long, value_name = "NAME", conflicts_with_all = ["username", "password_stdin"])]
    helper: Option<String>,
}

pub const AFTER_HELP: &str = "\
Examples:
  farm registry login registry.example:5000
  farm registry login ghcr.io -u ci --password-stdin --project web <token
  farm registry login docker.io -u ci
  farm registry login 1.dkr.ecr.eu-central-1.amazonaws.com --helper ecr --project web

The farm shows it to the registry at once, and keeps it only if the registry takes it. It takes the
place of the login that the project had there. It goes over TLS only.";

/// Gives the project a login.
///
/// # Errors
/// There is nobody to ask for it, the registry doesn't take it, the farm refuses, or it can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<()> {
    let host = RegistryHost::of_login(&args.host)?;
    if let Some(helper) = args.helper {
        let client = Client::connect(&setup.address).await?;
        let request = SetRegistryLoginRequest { host: host.to_string(), helper, ..Default::default() };
        return set(&client, request).await;
    }
    // Before anybody is asked for a password.
    let client = Client::connect(&covered_for_secrets(&setup.address)?).await?;
    let (username, password) = match (args.username, args.password_stdin) {
        (Some(username), true) => (username, piped()?),
        _ if !prompt::can_be_asked() => {
            return Err(Error::Usage(format!(
                "the password for {host} is missing, and nobody can be asked here: add -u NAME --password-stdin <FILE"
            )));
        }
        (username, _) => {
            let username = match username {
                Some(username) => username,
                None => prompt::word(&format!("User at {host}: ")).await?,
            };
            let question = format!("Password or token of {} at {host}: ", harmless(&username));
            (username, Zeroizing::new(prompt::secret(&question).await?))
        }
    };
    let password =
        password.strip_suffix('\n').map_or(&**password, |text| text.strip_suffix('\r').unwrap_or(text));
    if password.is_empty() {
        return Err(
            Invalid::new("password", "", "it is empty; give one, or a token of the registry's").into()
        );
    }
    let request = SetRegistryLoginRequest {
        host: host.to_string(),
        username,
        password: password.to_owned(),
        helper: String::new(),
    };
    set(&client, request).await
}

async fn set(client: &Client, request: SetRegistryLoginRequest) -> Result<()> {
    let set = client.registries().set_registry_login(request).await;
    let set = set.map_err(|status| client.error(&status))?.into_inner();
    let login = set.login.unwrap_or_default();
    let who = match login.helper.as_str() {
        "" => format!("as {}", harmless(&login.username)),
        helper => format!("by helper {}", harmless(helper)),
    };
    Out::stdout().line(&format!(
        "project {} has a login at {} now, {who}: the registry takes it",
        harmless(&set.project),
        harmless(&login.host),
    ));
    Ok(())
}

/// All of standard input.
fn piped() -> Result<Zeroizing<String>> {
    let invalid = |cure: &str| Invalid::new("--password-stdin", "", cure);
    let mut text = Zeroizing::new(String::new());
    let read = std::io::stdin().lock().take(LONGEST + 3).read_to_string(&mut text);
    match read {
        Ok(length) if u64::try_from(length).is_ok_and(|length| length <= LONGEST + 2) => Ok(text),
        Ok(_) => Err(invalid("a password has at most 16 KiB").into()),
        Err(error) => Err(invalid(&format!("standard input can't be read as text: {error}")).into()),
    }
}
