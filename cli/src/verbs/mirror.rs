//! `farm mirror`: an image that is built upon comes from where others make it into the farm's own registry.
//!
//! It is a copy like any other ([`super::copy`]). The tags per architecture are copies of their own, within the destination's repository:
//! what they point to has come there with the index, so the source isn't asked again. What the farm repeats by itself is in [`repeated`].

mod repeated;

use farm_proto::v1::{Build, GetAccessRequest};
use farm_types::{CopySpec, CopyVerb, ImageRef, ImageTag, Invalid, PerArch, per_arch_tags};

use super::copy::{Parts, Ways, destination, make};
use super::inspect::inspect;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Exit, Result};
use crate::output::Out;

/// Arguments of `farm mirror`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(disable_help_subcommand = true)]
pub struct Args {
    /// What is done with those that the farm repeats
    #[command(subcommand)]
    deed: Option<repeated::Deed>,

    /// The image: [REGISTRY/]REPO[:TAG] or REPO@DIGEST
    #[arg(value_name = "SRC", required = true)]
    from: Option<String>,

    /// To where: [REGISTRY/]REPO[:TAG] [default: the registry that all projects share, by the name of SRC]
    #[arg(value_name = "DST")]
    to: Option<String>,

    #[command(flatten)]
    parts: Parts,

    /// Give each platform's image a tag of its own, too: TAG-amd64, TAG-arm64, TAG-arm-v7
    #[arg(long)]
    per_arch_tags: bool,

    /// Have the farm do it again and again, each time after so long (24h), until `farm mirror rm`
    #[arg(long, value_name = "DURATION", value_parser = repeated::every)]
    #[arg(conflicts_with_all = ["timeout", "if_unchanged", "idempotency_key", "sign"])]
    every: Option<i64>,

    #[command(flatten)]
    ways: Ways,
}

const AFTER_HELP: &str = "\
Examples:
  farm mirror python:3.11-slim
  farm mirror python:3.11-slim --platform linux/amd64,linux/arm64 --per-arch-tags
  farm mirror registry.example/base/debian:12 localhost:5002/debian:12-base
  farm mirror python:3.11-slim --per-arch-tags --every 24h
  farm mirror ls

A copy (farm copy --help) by another name: only what isn't there yet is fetched, and once more,
when SRC hasn't moved, next to nothing. Without DST it goes to the registry that all projects of
the farm share, if there is one (that of farm up is, localhost:5002): python:3.11-slim becomes
localhost:5002/python:3.11-slim, and registry.example/base/debian:12
localhost:5002/base/debian:12.

With --per-arch-tags each tag is a copy of its own, after that of the index. One that fails keeps
no other from being made; which those are is said at the end, and once more makes what is missing.

With --every the farm goes on with it by itself, in your name and as long as you may: each time is
a copy like others, in `farm builds` too. It is 10m at least. What was missed while the farm stood
is made up for once, and after failures the farm waits longer. The same command again changes how
often; an image called ls or rm is written with its tag, ls:latest.

Exit codes: those of farm submit";

/// Mirrors.
///
/// # Errors
/// What can't be read of the arguments, there is no registry to which it goes by itself, or the farm can't be asked or refuses.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    if let Some(deed) = args.deed {
        return repeated::run(deed, setup).await;
    }
    if args.per_arch_tags && args.ways.is_detached() && args.every.is_none() {
        return Err(Error::Usage(
            "--per-arch-tags cannot be used with --detach, as this command makes them once the index is there; with --every the farm does"
                .to_owned(),
        ));
    }
    let from: ImageRef = args.from.unwrap_or_default().parse()?;
    let platforms = args.parts.platforms()?;
    let named = args.to.as_deref().map(|to| destination(CopyVerb::Mirror, &from, to)).transpose()?;
    let client = Client::connect(&setup.address).await?;
    let tag = match named {
        Some(tag) => tag,
        None => by_default(&client, &from).await?,
    };
    let copy = CopySpec { from, verb: CopyVerb::Mirror, platforms };
    let mut ways = args.ways;
    if let Some(every) = args.every {
        let key = repeated::add(
            &client,
            (&copy, &tag),
            args.per_arch_tags,
            every,
            ways.is_json() && ways.is_detached(),
        )
        .await?;
        if ways.is_detached() {
            return Ok(Exit::Done);
        }
        // The farm begins the first run by itself, and this follows it.
        ways = ways.of_the_farms(key);
    }
    let (exit, ended) = make(&client, copy, std::slice::from_ref(&tag), &ways, setup).await?;
    match ended.filter(|_| args.per_arch_tags && exit == Exit::Done) {
        Some(build) => Box::pin(per_arch(&client, &build, &tag, &ways, setup)).await,
        None => Ok(exit),
    }
}

/// Where an image goes of which nobody says where to: where all projects may push.
async fn by_default(client: &Client, from: &ImageRef) -> Result<ImageTag> {
    let answer = client.projects().get_access(GetAccessRequest {}).await.map_err(|e| client.error(&e))?;
    Ok(beneath(&answer.into_inner().shared, from)?)
}

/// The same, of what all projects may push to.
fn beneath(shared: &[String], from: &ImageRef) -> std::result::Result<ImageTag, Invalid> {
    let name = from.repository.name();
    let name = match from.repository.registry() {
        "docker.io" => name.strip_prefix("library/").unwrap_or(name),
        _ => name,
    };
    let tag = from.tag.as_deref();
    let which = format!("say to where: REGISTRY/{name}:{}", tag.unwrap_or("TAG"));
    match (shared, tag) {
        (_, None) => {
            Err(Invalid::new("mirror", from.to_string(), format!("it has no tag that it could get; {which}")))
        }
        // Its own tag would become another image.
        ([registry], _) if format!("{registry}/{name}").parse() == Ok(from.repository.clone()) => {
            let why = format!("it is in the registry to which it would go by itself already; {which}");
            Err(Invalid::new("mirror", from.to_string(), why))
        }
        ([registry], Some(tag)) if registry != "*" => format!("{registry}/{name}:{tag}").parse(),
        _ => {
            let all = shared.join(", ");
            let why = match shared {
                [] => "this farm has no registry that all projects share".to_owned(),
                _ => format!("all projects of this farm may push to {all}, which is no single registry"),
            };
            Err(Invalid::new("mirror", from.to_string(), format!("{why}; {which}")))
        }
    }
}

/// Gives what a build has published under a tag a tag more per platform.
async fn per_arch(
    client: &Client,
    build: &Build,
    tag: &ImageTag,
    ways: &Ways,
    setup: &Setup,
) -> Result<Exit> {
    let digest = build.publication.as_ref().map(|publication| publication.index_digest.as_str());
    let index = ImageRef {
        repository: tag.repository.clone(),
        tag: None,
        digest: Some(digest.unwrap_or_default().parse()?),
    };
    let image = inspect(client, &index).await?;
    let wanted = per_arch_tags(image.variants.iter().map(|one| (&*one.raw.platform, &*one.raw.digest)), tag)?;
    let (mut missing, mut worst) = (Vec::new(), Exit::Done);
    for PerArch { suffix, from, to } in &wanted {
        // Whoever ends it means all of them; what one fails for need not be so of the others.
        if [Exit::Cancelled, Exit::HungUp, Exit::Terminated].contains(&worst) {
            missing.push(to.to_string());
            continue;
        }
        let copy = CopySpec { from: from.clone(), verb: CopyVerb::Mirror, platforms: Vec::new() };
        let exit = match make(client, copy, std::slice::from_ref(to), &ways.of_another(suffix), setup).await {
            Ok((exit, _)) => exit,
            Err(error) => {
                Out::stderr().line(&error.shown());
                error.exit()
            }
        };
        if exit != Exit::Done {
            missing.push(to.to_string());
            worst = exit;
        }
    }
    if !missing.is_empty() {
        Out::stderr().line(&Error::Usage(account(tag, wanted.len(), &missing)).shown());
    }
    Ok(worst)
}

fn account(tag: &ImageTag, all: usize, missing: &[String]) -> String {
    format!(
        "{tag} is there, and {} of {all} tags per architecture; not {}. The same command once more makes what is missing",
        all - missing.len(),
        missing.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_destination_it_goes_to_the_one_registry_that_all_share() {
        let to = |shared: &[&str], from: &str| {
            let shared: Vec<String> = shared.iter().map(|one| (*one).to_owned()).collect();
            beneath(&shared, &from.parse().unwrap())
                .map(|tag| tag.to_string())
                .map_err(|error| error.to_string())
        };
        let own = ["localhost:5002"];
        assert_eq!(to(&own, "python:3.11-slim").unwrap(), "localhost:5002/python:3.11-slim");
        assert_eq!(to(&own, "python").unwrap(), "localhost:5002/python:latest");
        assert_eq!(to(&own, "acme/app:1").unwrap(), "localhost:5002/acme/app:1");
        assert_eq!(to(&own, "ghcr.example/library/app:1").unwrap(), "localhost:5002/library/app:1");
        assert_eq!(to(&["r.example/base"], "debian:12").unwrap(), "r.example/base/debian:12");
        let none = to(&[], "debian:12").unwrap_err();
        assert!(
            none.contains("no registry that all projects share; say to where: REGISTRY/debian:12"),
            "{none}"
        );
        let many = to(&["a.example", "b.example"], "debian:12").unwrap_err();
        assert!(many.contains("a.example, b.example, which is no single registry"), "{many}");
        assert!(to(&["*"], "debian:12").is_err());
        let there = to(&own, "localhost:5002/app:1").unwrap_err();
        assert!(there.contains("already; say to where: REGISTRY/app:1"), "{there}");
        let digest = farm_types::Digest::of(b"x");
        let bare = to(&own, &format!("debian@{digest}")).unwrap_err();
        assert!(bare.contains("no tag that it could get; say to where: REGISTRY/debian:TAG"), "{bare}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let tag: ImageTag = "r.example/python:3.11".parse().unwrap();
        let account = account(&tag, 3, &["r.example/python:3.11-arm64".to_owned()]);
        assert!(
            account.contains("2 of 3") && account.contains("not r.example/python:3.11-arm64."),
            "{account}"
        );
    }
}
