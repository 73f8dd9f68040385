//! `farm git login`: a token for https, or a private key for ssh with the keys by which its host is known.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use farm_proto::v1::SetGitLoginRequest;
use farm_types::chain::io_in_short;
use farm_types::{GitPlace, Invalid};
use zeroize::Zeroizing;

use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Result};
use crate::output::Out;
use crate::output::text::harmless;
use crate::prompt;
use crate::security::covered_for_secrets;

/// The longest token, key or file of hosts, bytes.
const LONGEST: u64 = 16 * 1024;

/// Arguments of `farm git login`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For which repositories: HOST, HOST/OWNER or HOST/OWNER/REPO
    #[arg(value_name = "PLACE")]
    place: GitPlace,

    /// The user's name that goes with the token [default: one that forges take with any token]
    #[arg(short, long, value_name = "NAME", conflicts_with = "ssh_key")]
    username: Option<String>,

    /// Read the token from standard input
    #[arg(long, conflicts_with = "ssh_key")]
    token_stdin: bool,

    /// A private key for ssh, such as a deploy key, without a passphrase
    #[arg(long, value_name = "FILE")]
    ssh_key: Option<PathBuf>,

    /// Where the host's own keys stand [default: ~/.ssh/known_hosts]
    #[arg(long, value_name = "FILE", requires = "ssh_key")]
    known_hosts: Option<PathBuf>,
}

pub const AFTER_HELP: &str = "\
Examples:
  farm git login github.com/acme --token-stdin <token
  farm git login gitlab.example/team/app -u deploy-7 --token-stdin --project web <token
  farm git login github.com/acme/app --ssh-key deploy_key
  farm git login git.example:2222 --ssh-key key --known-hosts hosts

A token is for addresses with https://, a key for ssh:// and git@HOST:PATH; a place can have both.
Of several places the one that says most of a repository counts. A token that may read, and
nothing else, is enough. It goes over TLS only.";

/// Gives the project a login.
///
/// # Errors
/// There is nobody to ask for it, the key or the host's can't be read, the farm refuses, or it can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<()> {
    let place = args.place;
    let request = match &args.ssh_key {
        Some(path) => SetGitLoginRequest {
            key: key(path)?.as_str().to_owned(),
            host_keys: host_keys(place.host(), args.known_hosts.as_deref())?,
            place: place.to_string(),
            ..Default::default()
        },
        None => SetGitLoginRequest { place: place.to_string(), ..Default::default() },
    };
    // Before anybody is asked for a token.
    let client = Client::connect(&covered_for_secrets(&setup.address)?).await?;
    let request = if request.key.is_empty() {
        with_token(request, args.username, args.token_stdin).await?
    } else {
        request
    };
    let set = client.git_logins().set_git_login(request).await;
    let set = set.map_err(|status| client.error(&status))?.into_inner();
    let login = set.login.unwrap_or_default();
    let (what, how) = match login.kind.as_str() {
        "key" => ("a key".to_owned(), "ssh"),
        _ => (format!("a token of {}", harmless(&login.username)), "https"),
    };
    Out::stdout().line(&format!(
        "project {} has {what} for {} now, by {how}",
        harmless(&set.project),
        harmless(&login.place)
    ));
    Ok(())
}

async fn with_token(
    mut request: SetGitLoginRequest,
    username: Option<String>,
    from_stdin: bool,
) -> Result<SetGitLoginRequest> {
    let token = if from_stdin {
        piped()?
    } else if prompt::can_be_asked() {
        Zeroizing::new(prompt::secret(&format!("Token for {}: ", request.place)).await?)
    } else {
        return Err(Error::Usage(format!(
            "the token for {} is missing, and nobody can be asked here: add --token-stdin <FILE, or --ssh-key FILE",
            request.place
        )));
    };
    let token = token.trim_end_matches(['\n', '\r']);
    if token.is_empty() {
        return Err(Invalid::new("token", "", "it is empty; give one that may read the repositories").into());
    }
    request.username = username.unwrap_or_else(|| user_of(&request.place).to_owned());
    token.clone_into(&mut request.token);
    Ok(request)
}

/// Whom forges take with any token: GitLab documents `oauth2`, GitHub `x-access-token`; others look at the token alone.
fn user_of(place: &str) -> &'static str {
    if place.starts_with("gitlab.") { "oauth2" } else { "x-access-token" }
}

/// All of standard input.
fn piped() -> Result<Zeroizing<String>> {
    let invalid = |cure: &str| Invalid::new("--token-stdin", "", cure);
    let mut text = Zeroizing::new(String::new());
    match std::io::stdin().lock().take(LONGEST + 3).read_to_string(&mut text) {
        Ok(length) if u64::try_from(length).is_ok_and(|length| length <= LONGEST + 2) => Ok(text),
        Ok(_) => Err(invalid("a token has at most 16 KiB").into()),
        Err(error) => Err(invalid(&format!("standard input can't be read as text: {error}")).into()),
    }
}

fn key(path: &Path) -> Result<Zeroizing<String>> {
    let shown = path.display().to_string();
    let invalid = |cure: String| Invalid::new("--ssh-key", &shown, cure);
    let mut text = Zeroizing::new(String::new());
    let read = std::fs::File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_string(&mut text));
    match read {
        Ok(length) if u64::try_from(length).is_ok_and(|length| length <= LONGEST) => {}
        Ok(_) => return Err(invalid("it has more than 16 KiB, so it is no key".to_owned()).into()),
        Err(error) => return Err(invalid(format!("it can't be read ({})", io_in_short(&error))).into()),
    }
    farm_ssh::keys(text.as_bytes()).map_err(|error| invalid(match error {
        farm_ssh::Unusable::Passphrase => {
            "it has a passphrase, which nobody could type when the farm fetches; make a key of its own for that: ssh-keygen -t ed25519 -N '' \
             -f deploy_key"
                .to_owned()
        }
        farm_ssh::Unusable::SecurityKey => "its secret is in a security key; make a key of its own for the farm".to_owned(),
        other => other.to_string(),
    }))?;
    Ok(text)
}

/// The keys by which a host is known, as ssh-keygen(1) finds them: it reads names that are hashed as well.
fn host_keys(host: &str, file: Option<&Path>) -> Result<Vec<String>> {
    let (name, port) = host.rsplit_once(':').unwrap_or((host, "22"));
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let entry = if port == "22" { name.to_owned() } else { format!("[{name}]:{port}") };
    let path = match file {
        Some(path) => path.to_owned(),
        None => PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".ssh/known_hosts"),
    };
    let shown = path.display().to_string();
    let invalid = |cure: String| Invalid::new("--known-hosts", &shown, cure);
    let found = Command::new("ssh-keygen")
        .arg("-F")
        .arg(&entry)
        .arg("-f")
        .arg(&path)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            invalid(format!(
                "ssh-keygen, which reads it, can't be run ({}); install openssh-client",
                io_in_short(&error)
            ))
        })?;
    let keys = keys_in(&String::from_utf8_lossy(&found.stdout));
    if keys.is_empty() {
        let scan = if port == "22" { name.to_owned() } else { format!("-p {port} {name}") };
        return Err(invalid(format!(
            "it has no key of {entry}, so the farm couldn't tell it from others; compare what `ssh-keyscan {scan}` prints with what the host's \
             owner publishes, and put it there"
        ))
        .into());
    }
    Ok(keys)
}

/// `TYPE BASE64` of each line of a known_hosts file (sshd(8)) that isn't marked.
fn keys_in(text: &str) -> Vec<String> {
    let keys = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let names = words.next().filter(|names| !names.starts_with(['#', '@']));
        names.and(words.next().zip(words.next())).map(|(kind, base64)| format!("{kind} {base64}"))
    });
    keys.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_host_are_taken_without_its_names_and_marked_lines_are_not() {
        let text = "# Host git.example found: line 1\n|1|abc=|def= ssh-ed25519 AAAAC3 comment\ngit.example ecdsa-sha2-nistp256 AAAAE2\n\
                    @revoked git.example ssh-rsa AAAAB3\n@cert-authority *.example ssh-rsa AAAAB4\nbroken\n";
        assert_eq!(keys_in(text), ["ssh-ed25519 AAAAC3", "ecdsa-sha2-nistp256 AAAAE2"]);
    }
}
