//! `farm notice add` and `farm notice rotate`: where a notice goes is a secret, and so is what it is signed by, which is shown once.

use std::io::Read as _;

use farm_proto::v1::{AddNoticeRequest, RotateNoticeRequest};
use farm_types::chain::io_in_short;
use farm_types::{Invalid, NoticeKind, NoticeOn, RefPattern};
use serde_json::json;
use zeroize::Zeroizing;

use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Result};
use crate::output::notices::{NoticeJson, told};
use crate::output::text::harmless;
use crate::output::{Out, json};
use crate::prompt;
use crate::security::covered_for_secrets;

/// The longest URL, bytes.
const LONGEST: u64 = 2048;

/// Arguments of `farm notice add`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the project calls it
    #[arg(value_name = "NAME")]
    name: String,

    /// To a URL, as signed JSON; - asks for the URL, or reads it from standard input
    #[arg(long, value_name = "URL", required_unless_present_any = ["slack", "mail"], conflicts_with_all = ["slack", "mail"])]
    webhook: Option<String>,

    /// To a channel of Slack or Mattermost, by its incoming webhook; - as above
    #[arg(long, value_name = "URL", conflicts_with = "mail")]
    slack: Option<String>,

    /// By mail, to these addresses
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    mail: Vec<String>,

    /// What is told: failure, recovered, success, cancelled [default: failure,recovered]
    #[arg(long, value_name = "END", value_delimiter = ',')]
    on: Vec<NoticeOn>,

    /// Only of what this webhook has begun; may be repeated [default: of all builds]
    #[arg(long, value_name = "HOOK", value_delimiter = ',')]
    hook: Vec<String>,

    /// Only of these refs, like refs/heads/main or refs/tags/v* [default: of all builds]
    #[arg(long = "ref", value_name = "REF", value_delimiter = ',')]
    refs: Vec<RefPattern>,

    /// Print one JSON object, with the secret
    #[arg(long)]
    json: bool,
}

/// Arguments of `farm notice rotate`.
#[derive(Debug, clap::Args)]
pub struct Rotate {
    /// As `farm notice ls` lists it
    #[arg(value_name = "NOTICE")]
    name: String,

    /// Print one JSON object, with the secret
    #[arg(long)]
    json: bool,
}

pub const ADD_HELP: &str = "\
Examples:
  farm notice add chat --slack - --project web
  farm notice add ops --webhook https://ops.example.com/farm --on failure,recovered,cancelled
  farm notice add team --mail ada@example.com,bob@example.com
  farm notice add releases --slack - --on success,failure --ref 'refs/tags/v*'

failure: a build failed, or what was delivered to a webhook came to nothing. recovered: one
succeeded where the last one of the same image and ref had failed. A URL that stands on the command
line is seen by others on this machine: give - instead. A webhook's secret is shown this once.";

pub const ROTATE_HELP: &str = "\
Examples:
  farm notice rotate ops

For a day what is sent is signed by both secrets, so the receiver may take the new one meanwhile.";

/// Makes a notice.
///
/// # Errors
/// A value can't be taken, there is nobody to ask for the URL, the farm refuses, or it can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<()> {
    let (kind, url) = match (args.webhook, args.slack) {
        (Some(url), _) => (NoticeKind::Webhook, Some(url)),
        (None, Some(url)) => (NoticeKind::Slack, Some(url)),
        (None, None) => (NoticeKind::Mail, None),
    };
    let (address, url) = match url {
        Some(url) => {
            // Before anybody types it.
            let address = covered_for_secrets(&setup.address)?;
            (address, read(&args.name, Zeroizing::new(url)).await?)
        }
        None => (setup.address.clone(), Zeroizing::default()),
    };
    let client = Client::connect(&address).await?;
    let request = AddNoticeRequest {
        name: args.name,
        kind: kind.to_string(),
        url: url.to_string(),
        addresses: args.mail,
        events: args.on.iter().map(ToString::to_string).collect(),
        hooks: args.hook,
        refs: args.refs.iter().map(ToString::to_string).collect(),
    };
    let added =
        client.notices().add_notice(request).await.map_err(|status| client.error(&status))?.into_inner();
    let (notice, secret) = (added.notice.unwrap_or_default(), Zeroizing::new(added.secret));
    let mut out = Out::stdout();
    if args.json {
        let secret = Some(secret.as_str()).filter(|secret| !secret.is_empty());
        let notice = NoticeJson::from(&notice);
        out.line(&json::text(&json!({ "project": added.project, "notice": notice, "secret": secret })));
        return Ok(());
    }
    let name = harmless(&notice.name);
    out.line(&format!("project {} has notice {name} now: {}", harmless(&added.project), told(&notice)));
    if !secret.is_empty() {
        out.line(&format!("  secret  {}", harmless(&secret)));
    }
    out.line(&format!("  whether it comes there: farm notice test {name}"));
    Ok(())
}

/// Gives a webhook another secret.
///
/// # Errors
/// As of [`run`].
pub(crate) async fn rotate(args: Rotate, setup: &Setup) -> Result<()> {
    let client = Client::connect(&covered_for_secrets(&setup.address)?).await?;
    let request = RotateNoticeRequest { name: args.name };
    let done =
        client.notices().rotate_notice(request).await.map_err(|status| client.error(&status))?.into_inner();
    let (notice, secret) = (done.notice.unwrap_or_default(), Zeroizing::new(done.secret));
    let mut out = Out::stdout();
    if args.json {
        let notice = NoticeJson::from(&notice);
        out.line(&json::text(&json!({ "project": done.project, "notice": notice, "secret": *secret })));
    } else {
        let name = harmless(&notice.name);
        out.line(&format!("notice {name} has another secret; for a day it is signed by the one before, too"));
        out.line(&format!("  secret  {}", harmless(&secret)));
    }
    Ok(())
}

/// The URL, from wherever it comes.
async fn read(notice: &str, said: Zeroizing<String>) -> Result<Zeroizing<String>> {
    if said.as_str() != "-" {
        return Ok(said);
    }
    let text =
        if prompt::can_be_asked() {
            let cure = "give the URL that the receiver shows";
            Zeroizing::new(prompt::secret_or(&format!("URL for notice {}: ", harmless(notice)), cure).await?)
        } else {
            let mut text = Zeroizing::new(String::new());
            std::io::stdin().lock().take(LONGEST + 3).read_to_string(&mut text).map_err(|why| {
                Error::Usage(format!("standard input can't be read ({})", io_in_short(&why)))
            })?;
            text
        };
    let url = text.trim();
    if url.is_empty() {
        return Err(Invalid::new(
            "URL",
            format!("for notice {notice}"),
            "it is empty; give the one that the receiver shows",
        )
        .into());
    }
    Ok(Zeroizing::new(url.to_owned()))
}
