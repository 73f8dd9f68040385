//! `farm secret`: what a project keeps for its builds. Values are read here, sent over TLS, and never come back.

use std::io::{IsTerminal as _, Read};

use bytes::Bytes;
use farm_proto::v1::{ListSecretsRequest, ProjectSecret, RemoveSecretRequest, SetSecretRequest};
use farm_types::chain::io_in_short;
use farm_types::mounts::MOST_SECRET_BYTES;
use farm_types::{Invalid, SecretName};
use serde_json::json;
use zeroize::Zeroizing;

use super::who::{Said, Who};
use super::{now_ms, of_flag};
use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Exit, Result};
use crate::output::Out;
use crate::output::secrets::{ProjectSecretJson, rule, secrets};
use crate::output::text::harmless;
use crate::output::{format, json};
use crate::prompt;
use crate::security::covered_for_secrets;

/// A shorter value can't be masked in logs, bytes: it would be found everywhere.
const SHORTEST_MASKED: usize = 6;

/// Arguments of `farm secret`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    deed: Deed,
}

/// What `farm secret` can do.
#[derive(Debug, clap::Subcommand)]
enum Deed {
    /// Set a secret of the project, or a new value of one. For its admins
    #[command(after_help = SET_HELP)]
    Set {
        /// What the project calls it: letters, digits, dots, - and _
        #[arg(value_name = "NAME")]
        name: String,

        /// The file that has the value, byte by byte, or - for standard input [default: standard input, or a question where that is a
        /// terminal]
        #[arg(long, value_name = "FILE")]
        file: Option<String>,

        /// Who may use it
        #[command(flatten)]
        who: Who,
    },
    /// Say anew who may use a secret; its value stays. For the project's admins
    #[command(after_help = RULE_HELP)]
    Rule {
        /// As `farm secret ls` lists it
        #[arg(value_name = "NAME")]
        name: String,

        /// Who may use it
        #[command(flatten)]
        who: Who,
    },
    /// List the project's secrets, without their values
    #[command(
        alias = "list",
        after_help = "Examples:\n  farm secret ls --project web\n  farm secret ls --json\n  farm secret ls --format '{{ name }} {{ version }}'"
    )]
    Ls {
        /// Print one JSON object
        #[arg(long, conflicts_with = "format")]
        json: bool,

        /// Print each by a template of the JSON's names, like '{{ name }}'
        #[arg(long, value_name = "TEMPLATE")]
        format: Option<String>,
    },
    /// Erase secrets: no build is accepted with them any more. For the project's admins
    #[command(alias = "remove", after_help = REMOVE_HELP)]
    Rm {
        /// As `farm secret ls` lists them
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}

const AFTER_HELP: &str = "\
Examples:
  farm secret set npm --project web
  farm secret set npm --file .npmrc --role publisher
  farm secret rule npm --ref refs/heads/main --ref 'refs/tags/v*'
  farm secret ls --project web
  farm secret rm npm
  farm submit . --secret id=npm,from=project

The farm keeps values sealed, and gives them to steps that mount them and to nobody else: there is
no way to read one back. A build keeps the value that it was accepted with.";

const SET_HELP: &str = "\
Examples:
  farm secret set npm
  farm secret set npm --file .npmrc
  printf %s \"$TOKEN\" | farm secret set npm --role publisher
  farm secret set deploy --file key.pem --ref refs/heads/main --event push

A file's bytes and those of standard input are the value as they are, a line break at the end as
well; what is typed is without one. At most 500 KiB. The value before is erased; builds that were
accepted with it go on with it.

Whoever may use a secret can read it: a step of their Dockerfile may do with it whatever it likes.
Without --ref and --event whoever may build uses it, but for jobs that may build a pull or merge
request: these do only if --event names what begins them (unknown, where their token doesn't say).
With --ref or --event only jobs of CI systems do that show their system's token (farm trust),
unless --event manual is among them.";

const RULE_HELP: &str = "\
Examples:
  farm secret rule npm --role publisher
  farm secret rule npm --ref refs/heads/main --event push --event manual
  farm secret rule npm --ref none --event none";

const REMOVE_HELP: &str = "\
Examples:
  farm secret rm npm
  farm secret rm npm deploy --project web

Its value is erased. Builds that were accepted with it go on; retries of them need it again.";

/// Sets, lists or removes secrets of a project.
///
/// # Errors
/// There is no value, a name or rule can't be taken, the line can be read by others, the farm refuses, or it can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    match args.deed {
        Deed::Set { name, file, who } => set(&name, file.as_deref(), &who, setup).await?,
        Deed::Rule { name, who } => {
            let request = request(&who, &of_flag("secret", &name)?)?;
            if (&request.role, &request.refs, &request.events) == (&None, &None, &None) {
                return Err(Error::Usage("say what to change: --role, --ref or --event".to_owned()));
            }
            let client = Client::connect(&setup.address).await?;
            let (secret, project) = sent(&client, request).await?;
            let name = harmless(&secret.name);
            Out::stdout().line(&format!("secret {name} of project {project} is used by: {}", rule(&secret)));
        }
        Deed::Ls { json, format } => list(json, format.as_deref(), setup).await?,
        Deed::Rm { names } => {
            let names: Vec<SecretName> =
                names.iter().map(|name| of_flag("secret", name)).collect::<Result<_, _>>()?;
            let client = Client::connect(&setup.address).await?;
            let mut out = Out::stdout();
            for name in names {
                let request = RemoveSecretRequest { name: name.to_string() };
                let removed = client.secrets().remove_secret(request).await.map_err(|e| client.error(&e))?;
                let project = harmless(&removed.into_inner().project);
                out.line(&format!(
                    "secret {name} of project {project} is removed; builds that were accepted with it go on"
                ));
            }
        }
    }
    Ok(Exit::Done)
}

async fn set(name: &str, file: Option<&str>, who: &Who, setup: &Setup) -> Result<()> {
    let name: SecretName = of_flag("secret", name)?;
    let mut request = request(who, &name)?;
    // Before anybody types it.
    let address = covered_for_secrets(&setup.address)?;
    let value = value(&name, file).await?;
    let mut told = Out::stderr();
    told.lines(warnings(&value).map(|warning| format!("warning: {warning}")));
    request.value = Some(Bytes::from(value.to_vec()));
    let client = Client::connect(&address).await?;
    let (secret, project) = sent(&client, request).await?;
    Out::stdout().line(&format!(
        "secret {name} of project {project} is set (version {}); used by: {}",
        secret.version,
        rule(&secret)
    ));
    Ok(())
}

async fn sent(client: &Client, request: SetSecretRequest) -> Result<(ProjectSecret, String)> {
    let answer = client.secrets().set_secret(request).await.map_err(|e| client.error(&e))?.into_inner();
    let nothing = || Error::Farm(format!("the farm at {} gave nothing back of the secret", client.url()));
    Ok((answer.secret.ok_or_else(nothing)?, harmless(&answer.project)))
}

async fn list(as_json: bool, template: Option<&str>, setup: &Setup) -> Result<()> {
    let client = Client::connect(&setup.address).await?;
    let asked = through(async || client.secrets().list_secrets(ListSecretsRequest {}).await).await;
    let listed = asked.map_err(|status| client.error(&status))?;
    let all = || listed.secrets.iter().map(ProjectSecretJson::from);
    let mut out = Out::stdout();
    if let Some(template) = template {
        format::print(&mut out, template, all())?;
    } else if as_json {
        let all: Vec<ProjectSecretJson<'_>> = all().collect();
        out.line(&json::text(&json!({ "project": listed.project, "secrets": all })));
    } else if listed.secrets.is_empty() {
        let project = harmless(&listed.project);
        out.line(&format!(
            "project {project} keeps no secrets yet: farm secret set NAME --project {project}"
        ));
    } else {
        out.lines(secrets(&listed.secrets, now_ms()));
    }
    Ok(())
}

/// A request that says who may use it, without a value.
fn request(who: &Who, name: &SecretName) -> Result<SetSecretRequest, Invalid> {
    let Said { role, refs, events } = who.said()?;
    Ok(SetSecretRequest { name: name.to_string(), value: None, role, refs, events })
}

/// The value, from wherever it comes.
async fn value(name: &SecretName, file: Option<&str>) -> Result<Zeroizing<Vec<u8>>> {
    let value = match file {
        Some(path) if path != "-" => {
            let unread = |why: std::io::Error| {
                Invalid::new("--file", path, format!("it can't be read ({})", io_in_short(&why)))
            };
            let file = std::fs::File::open(path).map_err(unread)?;
            bounded(file).map_err(unread)?
        }
        None if prompt::can_be_asked() => {
            let cure = format!("name the file that has the value: farm secret set {name} --file FILE");
            let line = prompt::secret_or(&format!("Value of secret {name}: "), &cure).await?;
            Zeroizing::new(line.trim_end_matches(['\r', '\n']).as_bytes().to_vec())
        }
        None if std::io::stdin().is_terminal() => {
            return Err(Error::Usage(
                "nobody can be asked for the value here; name a file with --file, or give it on standard input"
                    .to_owned(),
            ));
        }
        _ => bounded(std::io::stdin().lock())
            .map_err(|why| Error::Usage(format!("standard input can't be read ({})", io_in_short(&why))))?,
    };
    if value.is_empty() {
        return Err(Invalid::new("secret", name.as_str(), "its value is empty").into());
    }
    if value.len() > MOST_SECRET_BYTES {
        let cure = format!("it has more than {MOST_SECRET_BYTES} bytes, which is the most");
        return Err(Invalid::new("secret", name.as_str(), cure).into());
    }
    Ok(value)
}

/// All of it, or more than a value may have.
fn bounded(from: impl Read) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let most = u64::try_from(MOST_SECRET_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut value = Zeroizing::new(Vec::new());
    from.take(most).read_to_end(&mut value)?;
    Ok(value)
}

/// What may not be as it was meant.
fn warnings(value: &[u8]) -> impl Iterator<Item = String> + use<> {
    let short = value.len() < SHORTEST_MASKED;
    let short = short.then(|| {
        format!("{} bytes are too few to be masked in logs: what prints them shows them", value.len())
    });
    // One of several lines is meant as a file.
    let is_line = value.strip_suffix(b"\n").is_some_and(|line| !line.contains(&b'\n'));
    let broken = is_line.then(|| {
        "the line break at the end is part of the value; without it: printf %s VALUE | farm secret set NAME".to_owned()
    });
    short.into_iter().chain(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(role: Option<&str>, refs: &[&str], events: &[&str]) -> Who {
        let list = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect();
        Who { role: role.map(ToOwned::to_owned), refs: list(refs), events: list(events) }
    }

    #[test]
    fn what_isnt_said_of_a_rule_isnt_sent_and_none_takes_away() {
        let name = "npm".parse().unwrap();
        let sent = |who: Who| request(&who, &name).unwrap();
        assert_eq!(sent(who(None, &[], &[])), SetSecretRequest { name: "npm".into(), ..Default::default() });
        let all = sent(who(Some("publisher"), &["refs/heads/main", "refs/tags/v*"], &["none"]));
        assert_eq!(all.role.as_deref(), Some("publisher"));
        assert_eq!(all.refs.unwrap().patterns, ["refs/heads/main", "refs/tags/v*"]);
        assert!(all.events.unwrap().names.is_empty());
        for (wrong, said) in [
            (who(Some("viewer"), &[], &[]), "a viewer submits no builds"),
            (who(Some("bulider"), &[], &[]), "did you mean builder?"),
            (who(None, &["main"], &[]), "refs/heads/main for a branch"),
            (who(None, &["none", "refs/heads/main"], &[]), "stands alone"),
            (who(None, &[], &["pull_request_target"]), "what strangers send"),
        ] {
            let error = request(&wrong, &name).unwrap_err().to_string();
            assert!(error.starts_with("--") && error.contains(said), "{error}");
        }
    }

    #[tokio::test]
    async fn a_files_bytes_are_the_value_and_what_cant_be_one_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.display().to_string()
        };
        let name = "npm".parse().unwrap();
        let read = async |path: &str| value(&name, Some(path)).await;
        let key = b"-----BEGIN\r\n\xff\0\n-----END\n";
        assert_eq!(&**read(&at("key", key)).await.unwrap_or_else(|e| panic!("{e}")), key);
        let most = vec![b'x'; MOST_SECRET_BYTES + 1];
        for (path, said) in [
            (at("empty", b""), "its value is empty"),
            (at("large", &most), "more than 512000 bytes"),
            ("/nowhere/x".to_owned(), "it can't be read"),
        ] {
            let error = read(&path).await.unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("xxx"), "{error}");
        }
        assert!(read(&at("just", &most[1..])).await.is_ok());
    }

    #[test]
    fn what_may_not_be_meant_is_warned_of() {
        let told = |value: &[u8]| warnings(value).collect::<Vec<_>>();
        assert!(told(b"hunter22").is_empty() && told(b"several\nlines\n").is_empty());
        assert!(told(b"12345")[0].contains("5 bytes are too few"));
        assert!(told(b"hunter22\n")[0].contains("line break"));
        assert_eq!(told(b"1\n").len(), 2);
    }
}
