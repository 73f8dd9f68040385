//! `farm hook token`: by which a hook's forge is told how builds stand, or the key of the GitHub App that tells it. It is read here, sent over TLS, and never comes back.

use std::io::{IsTerminal as _, Read};

use farm_proto::v1::{InstallHookRequest, RemoveHookTokenRequest, SetHookTokenRequest};
use farm_types::Invalid;
use farm_types::chain::io_in_short;
use zeroize::Zeroizing;

use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Result};
use crate::output::Out;
use crate::output::text::harmless;
use crate::prompt;
use crate::security::covered_for_secrets;

/// The longest token, bytes.
const LONGEST: u64 = 16 * 1024;

/// Arguments of `farm hook token`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// As `farm hook ls` lists it
    #[arg(value_name = "HOOK")]
    name: String,

    /// The file that has the token, or - for standard input [default: standard input, or a question where that is a terminal]
    #[arg(long, value_name = "FILE", conflicts_with = "rm")]
    file: Option<String>,

    /// The GitHub App whose private key it is, by its App id or client id
    #[arg(long, value_name = "APP_ID", conflicts_with = "rm")]
    app: Option<String>,

    /// Where the App is installed [default: the farm looks for it by the repository]
    #[arg(long, value_name = "ID", requires = "app")]
    installation: Option<u64>,

    /// Also make the webhook at the forge, or change the one that is there
    #[arg(long, conflicts_with = "rm")]
    create: bool,

    /// Erase the token: the forge is told nothing any more
    #[arg(long)]
    rm: bool,
}

pub const AFTER_HELP: &str = "\
Examples:
  farm hook token app
  farm hook token app --file token
  printf %s \"$TOKEN\" | farm hook token app --project web
  farm hook token app --app Iv23liExample --file app.private-key.pem
  farm hook token app --create
  farm hook token app --rm

With it the forge shows at each commit how the builds stand that follow from it: farm/IMAGE, or
farm where .farm.yaml is wrong. What it has to be allowed, by forge:
  github          fine-grained: Commit statuses, write; classic: repo:status
  gitlab          a project access token with the role Developer and the scope api
  gitea, forgejo  the scope write:repository, of an account that writes to the repository
A GitHub App (--app) makes check runs in the place of statuses, which show why a build failed and
at which line. It needs the permission Checks: write, and has to be installed on the repository; by
its key the farm is lent tokens for this repository alone, which end after an hour.
To make the webhook as well (--create) it takes more: Webhooks, write (classic: admin:repo_hook);
the role Maintainer; an admin of the repository. Gitea and Forgejo tell only such an admin's token
who may approve a fork's head by a comment.
It is tried at the forge before it is kept, and told to nobody again.";

/// Gives a hook a token, or erases it.
///
/// # Errors
/// There is nobody to ask for it, the farm or the forge refuses it, or the farm can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<()> {
    let name = args.name;
    if args.rm {
        let client = Client::connect(&setup.address).await?;
        let request = RemoveHookTokenRequest { name: name.clone() };
        let removed =
            client.hooks().remove_hook_token(request).await.map_err(|status| client.error(&status))?;
        let removed = removed.into_inner();
        let (name, project) = (harmless(&name), harmless(&removed.project));
        Out::stdout().line(&match removed.is_removed {
            true => {
                format!("hook {name} of project {project} has no token any more; erase it at the forge, too")
            }
            false => format!("hook {name} of project {project} has no token"),
        });
        return Ok(());
    }
    // Before anybody types it.
    let address = covered_for_secrets(&setup.address)?;
    let app = args.app.map(|name| App { name, installation: args.installation.unwrap_or_default() });
    let token = match app {
        Some(_) => read_key(&name, args.file.as_deref())?,
        None => read(&name, args.file.as_deref()).await?,
    };
    let client = Client::connect(&address).await?;
    give(&client, &name, (&token, app), args.create).await
}

/// A GitHub App, as somebody names it; without a name it is none.
#[derive(Debug, Default)]
pub struct App {
    name: String,
    /// 0: it is looked for.
    installation: u64,
}

/// Gives a hook its token, and has its webhook made by that.
///
/// # Errors
/// The farm or the forge refuses it, or the farm can't be asked.
pub(crate) async fn give(
    client: &Client,
    name: &str,
    (token, app): (&str, Option<App>),
    create: bool,
) -> Result<()> {
    let App { name: app, installation } = app.unwrap_or_default();
    let request = SetHookTokenRequest { name: name.to_owned(), token: token.to_owned(), app, installation };
    let set =
        client.hooks().set_hook_token(request).await.map_err(|status| client.error(&status))?.into_inner();
    let hook = set.hook.unwrap_or_default();
    let what = match hook.token.as_ref().map_or(0, |token| token.app) {
        0 => "has a token now".to_owned(),
        app => format!("is GitHub App {app} now"),
    };
    Out::stdout().line(&format!(
        "hook {} of project {} {what}; {} shows at its commits how builds stand",
        harmless(&hook.name),
        harmless(&set.project),
        harmless(&hook.host)
    ));
    if create {
        let request = InstallHookRequest { name: name.to_owned() };
        client.hooks().install_hook(request).await.map_err(|status| client.error(&status))?;
        Out::stdout().line(&format!(
            "{}/{} delivers to it now",
            harmless(&hook.host),
            harmless(&hook.repository)
        ));
    }
    Ok(())
}

/// The token, from wherever it comes.
///
/// # Errors
/// It can't be read, or nobody can be asked.
pub(crate) async fn read(hook: &str, file: Option<&str>) -> Result<Zeroizing<String>> {
    let text = match file {
        Some(path) if path != "-" => {
            let unread = |why: std::io::Error| {
                Invalid::new("--file", path, format!("it can't be read ({})", io_in_short(&why)))
            };
            let file = std::fs::File::open(path).map_err(unread)?;
            bounded(file).map_err(unread)?
        }
        None if prompt::can_be_asked() => {
            let cure = format!("name the file that has the token: farm hook token {hook} --file FILE");
            Zeroizing::new(prompt::secret_or(&format!("Token for hook {}: ", harmless(hook)), &cure).await?)
        }
        None if std::io::stdin().is_terminal() => {
            return Err(Error::Usage(
                "nobody can be asked for the token here; name a file with --file, or give it on standard input"
                    .to_owned(),
            ));
        }
        _ => bounded(std::io::stdin().lock())
            .map_err(|why| Error::Usage(format!("standard input can't be read ({})", io_in_short(&why))))?,
    };
    let token = text.trim_end_matches(['\r', '\n']);
    if token.is_empty() {
        return Err(Invalid::new(
            "token",
            format!("for hook {hook}"),
            "it is empty; give the one that the forge shows",
        )
        .into());
    }
    Ok(Zeroizing::new(token.to_owned()))
}

/// An App's private key, which has several lines, so nobody types it.
fn read_key(hook: &str, file: Option<&str>) -> Result<Zeroizing<String>> {
    let text = match file {
        Some(path) if path != "-" => {
            let unread = |why: std::io::Error| {
                Invalid::new("--file", path, format!("it can't be read ({})", io_in_short(&why)))
            };
            bounded(std::fs::File::open(path).map_err(unread)?).map_err(unread)?
        }
        None if std::io::stdin().is_terminal() => {
            return Err(Error::Usage(format!(
                "an App's private key has several lines: name its file, farm hook token {hook} --app APP_ID --file FILE, or give it on standard input"
            )));
        }
        _ => bounded(std::io::stdin().lock())
            .map_err(|why| Error::Usage(format!("standard input can't be read ({})", io_in_short(&why))))?,
    };
    if text.trim().is_empty() {
        let cure = "it is empty; give the file that GitHub made for the App";
        return Err(Invalid::new("private key", format!("for hook {hook}"), cure).into());
    }
    Ok(text)
}

/// All of it, or more than a token may have.
fn bounded(from: impl Read) -> std::io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    from.take(LONGEST + 3).read_to_string(&mut text)?;
    Ok(text)
}
