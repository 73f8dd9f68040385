//! `farm signing-key`: by which keys a project signs what its builds publish. A private key is read here, or made by the farm, and never comes
//! back.

use std::io::Read as _;

use farm_proto::v1::{ListSigningKeysRequest, RemoveSigningKeyRequest, SetSigningKeyRequest, SigningKey};
use farm_types::chain::io_in_short;
use farm_types::{Invalid, SigningKeyName};
use serde_json::json;
use zeroize::Zeroizing;

use super::who::{Said, Who};
use super::{now_ms, of_flag};
use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::cosign;
use crate::error::{Error, Exit, Result};
use crate::output::Out;
use crate::output::signing_keys::{SigningKeyJson, rule, signing_keys};
use crate::output::text::harmless;
use crate::output::{format, json};
use crate::prompt;
use crate::security::covered_for_secrets;

/// The longest file of a key, bytes.
const LONGEST: u64 = 16 * 1024;
/// Where cosign looks for a password, too.
const PASSWORD: &str = "COSIGN_PASSWORD";

/// Arguments of `farm signing-key`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    deed: Deed,
}

/// What `farm signing-key` can do.
#[derive(Debug, clap::Subcommand)]
enum Deed {
    /// Have the farm make a key, and print its public half. For the project's admins
    #[command(after_help = GENERATE_HELP)]
    Generate {
        /// What the project calls it: letters, digits, dots, - and _
        #[arg(value_name = "NAME")]
        name: String,

        /// Replace the key that is there
        #[arg(long)]
        replace: bool,

        /// Who may have things signed by it
        #[command(flatten)]
        who: Who,
    },
    /// Bring a key that is there, such as cosign's, and print its public half. For the project's admins
    #[command(after_help = ADD_HELP)]
    Add {
        /// What the project calls it: letters, digits, dots, - and _
        #[arg(value_name = "NAME")]
        name: String,

        /// The file of the private key: that of cosign generate-key-pair, or PEM without a password; - for standard input
        #[arg(long, value_name = "FILE")]
        file: String,

        /// Replace the key that is there
        #[arg(long)]
        replace: bool,

        /// Who may have things signed by it
        #[command(flatten)]
        who: Who,
    },
    /// Say anew who may have things signed by a key; it stays. For the project's admins
    #[command(after_help = RULE_HELP)]
    Rule {
        /// As `farm signing-key ls` lists it
        #[arg(value_name = "NAME")]
        name: String,

        /// Who may have things signed by it
        #[command(flatten)]
        who: Who,
    },
    /// Print a public key, as cosign verify --key takes it
    #[command(
        after_help = "Examples:\n  farm signing-key public release >cosign.pub\n  farm signing-key public release --project web"
    )]
    Public {
        /// As `farm signing-key ls` lists it
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// List the keys by which the project signs
    #[command(
        alias = "list",
        after_help = "Examples:\n  farm signing-key ls --project web\n  farm signing-key ls --json\n  farm signing-key ls --format '{{ name }} {{ fingerprint }}'"
    )]
    Ls {
        /// Print one JSON object
        #[arg(long, conflicts_with = "format")]
        json: bool,

        /// Print each by a template of the JSON's names, like '{{ name }}'
        #[arg(long, value_name = "TEMPLATE")]
        format: Option<String>,
    },
    /// Erase keys: nothing is signed by them any more. For the project's admins
    #[command(alias = "remove", after_help = REMOVE_HELP)]
    Rm {
        /// As `farm signing-key ls` lists them
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}

const AFTER_HELP: &str = "\
Examples:
  farm signing-key generate release --project web >cosign.pub
  farm signing-key add release --file cosign.key
  farm signing-key rule release --ref 'refs/tags/v*' --event push --event manual
  farm signing-key public release >cosign.pub
  farm submit . -t registry.example/team/app:1.4 --sign release
  cosign verify --key cosign.pub --private-infrastructure registry.example/team/app:1.4

What is published with --sign is signed before its tags move, by the coordinator: no worker and no
step of a build ever has the key, and there is no way to read one back.";

const GENERATE_HELP: &str = "\
Examples:
  farm signing-key generate release >cosign.pub
  farm signing-key generate release --role publisher --ref refs/heads/main --event push

The private half is made by the coordinator, sealed by the farm's key, and nowhere else: nobody
can sign by it without the farm. It is one for ECDSA on P-256, as cosign makes them.

With --replace the key before is erased: what it has signed stays valid to its own public key, and
what was accepted with it and isn't signed yet fails.";

const ADD_HELP: &str = "\
Examples:
  farm signing-key add release --file cosign.key
  COSIGN_PASSWORD= farm signing-key add release --file cosign.key
  farm signing-key add release --file key.pem --role publisher
  openssl ecparam -name prime256v1 -genkey -noout | farm signing-key add release --file -

cosign's file is opened here, by the password in COSIGN_PASSWORD, or one that is asked for; the
password goes nowhere, and the key is sealed by the farm's own. Other files are PEM without a
password (PKCS #8 or SEC 1), of a key for ECDSA on P-256. The key goes over TLS only.";

const RULE_HELP: &str = "\
Examples:
  farm signing-key rule release --role publisher
  farm signing-key rule release --ref refs/heads/main --event push --event manual
  farm signing-key rule release --ref none --event none

The flags mean what they mean to farm secret rule.";

const REMOVE_HELP: &str = "\
Examples:
  farm signing-key rm release
  farm signing-key rm release nightly --project web

What was signed stays signed. What was accepted with the key and isn't signed yet fails, and its
tags stay as they are.";

/// Makes, brings, lists or removes signing keys of a project.
///
/// # Errors
/// A key, name or rule can't be taken, the line can be read by others, the farm refuses, or it can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    match args.deed {
        Deed::Generate { name, replace, who } => {
            let request = SetSigningKeyRequest { generate: true, replace, ..request(&who, &name)? };
            set(&Client::connect(&setup.address).await?, request).await?;
        }
        Deed::Add { name, file, replace, who } => {
            let request = SetSigningKeyRequest { replace, ..request(&who, &name)? };
            // Before anybody types a password.
            let address = covered_for_secrets(&setup.address)?;
            let key = key(&file).await?;
            let request = SetSigningKeyRequest { key: key.as_str().to_owned(), ..request };
            set(&Client::connect(&address).await?, request).await?;
        }
        Deed::Rule { name, who } => {
            if who.said()?.is_nothing() {
                return Err(Error::Usage("say what to change: --role, --ref or --event".to_owned()));
            }
            let client = Client::connect(&setup.address).await?;
            let (key, project) = sent(&client, request(&who, &name)?).await?;
            let name = harmless(&key.name);
            Out::stdout().line(&format!("signing key {name} of project {project} signs for: {}", rule(&key)));
        }
        Deed::Public { name } => public(&of_flag("signing key", &name)?, setup).await?,
        Deed::Ls { json, format } => list(json, format.as_deref(), setup).await?,
        Deed::Rm { names } => {
            let names: Vec<SigningKeyName> =
                names.iter().map(|name| of_flag("signing key", name)).collect::<Result<_, _>>()?;
            let client = Client::connect(&setup.address).await?;
            let mut out = Out::stdout();
            for name in names {
                let request = RemoveSigningKeyRequest { name: name.to_string() };
                let removed =
                    client.signing_keys().remove_signing_key(request).await.map_err(|e| client.error(&e))?;
                let project = harmless(&removed.into_inner().project);
                out.line(&format!(
                    "signing key {name} of project {project} is removed; what it has signed stays signed"
                ));
            }
        }
    }
    Ok(Exit::Done)
}

fn request(who: &Who, name: &str) -> Result<SetSigningKeyRequest> {
    let name: SigningKeyName = of_flag("signing key", name)?;
    let Said { role, refs, events } = who.said()?;
    Ok(SetSigningKeyRequest { name: name.to_string(), role, refs, events, ..Default::default() })
}

/// Has a key kept, and prints its public half.
async fn set(client: &Client, request: SetSigningKeyRequest) -> Result<()> {
    let (key, project) = sent(client, request).await?;
    let name = harmless(&key.name);
    Out::stderr()
        .line(&format!("signing key {name} of project {project} is set; it signs for: {}", rule(&key)));
    pem(&key);
    Ok(())
}

fn pem(key: &SigningKey) {
    Out::stdout().lines(key.public_key.lines().map(harmless));
}

async fn sent(client: &Client, request: SetSigningKeyRequest) -> Result<(SigningKey, String)> {
    let answer =
        client.signing_keys().set_signing_key(request).await.map_err(|e| client.error(&e))?.into_inner();
    let nothing = || Error::Farm(format!("the farm at {} gave nothing back of the key", client.url()));
    Ok((answer.key.ok_or_else(nothing)?, harmless(&answer.project)))
}

async fn public(name: &SigningKeyName, setup: &Setup) -> Result<()> {
    let client = Client::connect(&setup.address).await?;
    let asked = through(async || client.signing_keys().list_signing_keys(ListSigningKeysRequest {}).await);
    let listed = asked.await.map_err(|status| client.error(&status))?;
    let Some(key) = listed.keys.iter().find(|key| key.name == name.as_str()) else {
        let project = harmless(&listed.project);
        let cure = format!(
            "project {project} has no such key; `farm signing-key ls --project {project}` lists those that it has"
        );
        return Err(Invalid::new("signing key", name.as_str(), cure).into());
    };
    pem(key);
    Ok(())
}

async fn list(as_json: bool, template: Option<&str>, setup: &Setup) -> Result<()> {
    let client = Client::connect(&setup.address).await?;
    let asked = through(async || client.signing_keys().list_signing_keys(ListSigningKeysRequest {}).await);
    let listed = asked.await.map_err(|status| client.error(&status))?;
    let all = || listed.keys.iter().map(SigningKeyJson::from);
    let mut out = Out::stdout();
    if let Some(template) = template {
        format::print(&mut out, template, all())?;
    } else if as_json {
        let all: Vec<SigningKeyJson<'_>> = all().collect();
        out.line(&json::text(&json!({ "project": listed.project, "signing_keys": all })));
    } else if listed.keys.is_empty() {
        let project = harmless(&listed.project);
        out.line(&format!(
            "project {project} has no signing keys yet: farm signing-key generate NAME --project {project}"
        ));
    } else {
        out.lines(signing_keys(&listed.keys, now_ms()));
    }
    Ok(())
}

/// A private key in PEM, opened.
async fn key(file: &str) -> Result<Zeroizing<String>> {
    let invalid = |cure: String| Invalid::new("--file", file, cure);
    let mut text = Zeroizing::new(String::new());
    let read = match file {
        "-" => std::io::stdin().lock().take(LONGEST + 1).read_to_string(&mut text),
        path => std::fs::File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_string(&mut text)),
    };
    match read {
        Ok(length) if u64::try_from(length).is_ok_and(|length| length <= LONGEST) => {}
        Ok(_) => return Err(invalid("it has more than 16 KiB, so it is no key".to_owned()).into()),
        Err(error) => return Err(invalid(format!("it can't be read ({})", io_in_short(&error))).into()),
    }
    if !cosign::is_sealed(&text) {
        return Ok(text);
    }
    let password = match std::env::var(PASSWORD) {
        Ok(password) => Zeroizing::new(password),
        Err(_) if prompt::can_be_asked() => {
            let typed = Zeroizing::new(prompt::secret(&format!("Password of {}: ", harmless(file))).await?);
            Zeroizing::new(typed.trim_end_matches(['\r', '\n']).to_owned())
        }
        Err(_) => {
            return Err(Error::Usage(format!(
                "{file} is sealed by a password, and nobody can be asked for it here: give it in {PASSWORD}"
            )));
        }
    };
    let opening = tokio::task::spawn_blocking(move || cosign::open(&text, &password));
    let opened = opening.await.map_err(|error| Error::Farm(error.to_string()))?;
    opened.map_err(|why| invalid(format!("it can't be opened: {why}")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_a_key_as_it_is_and_what_cant_be_one_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.display().to_string()
        };
        let plain = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert_eq!(key(&at("plain", plain)).await.unwrap_or_else(|e| panic!("{e}")).as_str(), plain);
        let long = "x".repeat(16 * 1024 + 1);
        for (path, said) in [(at("long", &long), "no key"), ("/nowhere/x".to_owned(), "it can't be read")] {
            let error = key(&path).await.unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("xxx"), "{error}");
        }
    }
}
