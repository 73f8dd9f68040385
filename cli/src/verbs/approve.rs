//! `farm approve`: lets what a fork proposes be built.

use farm_proto::v1::{ApproveBuildRequest, GetProposalRequest, Proposal};
use farm_types::text::ago;

use super::{build_id, confirm, now_ms};
use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Exit, Result};
use crate::output::Out;
use crate::output::text::harmless;

/// Arguments of `farm approve`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The build that `farm hook deliveries`, a commit's status and the build's page name
    #[arg(value_name = "BUILD")]
    id: String,

    /// Only if this is the head that it is about: the commit's name, or how that begins
    #[arg(long, value_name = "COMMIT")]
    commit: Option<String>,

    /// Approve it without asking
    #[arg(long)]
    yes: bool,
}

const AFTER_HELP: &str = "\
Examples:
  farm approve 7f3k2m
  farm approve 7f3k2m --commit 4a1c0de --yes

What a fork's pull request proposes is held until somebody approves that head: here, on the
build's page, or by a comment `/farm approve` of somebody who may write to the repository. It
takes a publisher of the project. Look at what the commit changes first: its steps run on the
farm's untrusted machines. Nothing is published, and no secrets and logins are given. Another
push has to be approved by itself.

Exit codes:
  0    approved, now or before
  2    the build isn't held for approval, its head has moved on, or nobody has confirmed it
  3    no farm answers, or it refuses you";

/// Shows what is proposed, asks, and approves that.
///
/// # Errors
/// There is no such build, it isn't held, the head has moved on, or the farm can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    let id = build_id(&args.id)?;
    let client = Client::connect(&setup.address).await?;
    let asked = GetProposalRequest { build_id: id.clone() };
    let answer = through(async || client.hooks().get_proposal(asked.clone()).await).await;
    let proposal = answer.map_err(|status| client.error(&status))?.proposal;
    let proposal =
        proposal.ok_or_else(|| Error::Farm(format!("the farm at {} says nothing of it", client.url())))?;
    let mut out = Out::stdout();
    out.lines(lines(&proposal, now_ms()));
    let short = proposal.commit.get(..12).unwrap_or(&proposal.commit).to_owned();
    // What is over, or is meant otherwise, is refused by the farm with the reason.
    if proposal.held && !args.yes {
        let question = format!("Approve {short} of pull request {}?", proposal.number);
        let what =
            format!("build {id} is held until {short} of pull request {} is approved", proposal.number);
        if !confirm(&question, &what)? {
            out.line("nothing was approved");
            return Ok(Exit::Usage);
        }
    }
    // What was shown, and nothing that came since.
    let commit = args.commit.unwrap_or_else(|| proposal.commit.clone());
    let request = ApproveBuildRequest { build_id: id.clone(), commit };
    let answer = client.hooks().approve_build(request).await.map_err(|status| client.error(&status))?;
    let answer = answer.into_inner();
    let by = harmless(&answer.proposal.unwrap_or_default().approved_by);
    let hook = harmless(&proposal.hook);
    out.line(&match answer.again {
        true => format!("{short} was approved already, by {by}   farm hook deliveries {hook}"),
        false => format!("{short} is approved, and built now   farm hook deliveries {hook}"),
    });
    Ok(Exit::Done)
}

/// What is proposed, a line each.
fn lines(of: &Proposal, now: i64) -> Vec<String> {
    let or = |text: &str, unknown: &str| match text {
        "" => unknown.to_owned(),
        text => harmless(text),
    };
    let mut lines = vec![
        format!("pull request {} of {}", of.number, harmless(&of.repository)),
        format!(
            "  from    {}, branch {}",
            or(&of.head_repository, "a repository that nobody names"),
            harmless(&of.head)
        ),
        format!("  by      {}", or(&of.opener, "nobody says who")),
        format!("  to      branch {}", harmless(&of.base)),
        format!("  commit  {}", harmless(&of.commit)),
    ];
    if !of.images.is_empty() {
        lines.push(format!("  images  {}", harmless(&of.images.join(", "))));
    }
    if of.held {
        lines.push(format!("  held    {}", ago(of.held_ms, now)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_approved_is_shown_and_nothing_in_it_moves_the_cursor() {
        let of = Proposal {
            number: 7,
            repository: "acme/app".into(),
            head_repository: "eve/app".into(),
            head: "main\u{1b}[2J".into(),
            commit: "4a1c".repeat(10),
            base: "main".into(),
            images: vec!["app".into(), "web".into()],
            held: true,
            held_ms: 0,
            ..Default::default()
        };
        let shown = lines(&of, 120_000).join("\n");
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
        for part in
            ["pull request 7 of acme/app", "eve/app", "nobody says who", "images  app, web", &of.commit]
        {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        let of = Proposal { head_repository: String::new(), ..of };
        assert!(lines(&of, 0)[1].contains("a repository that nobody names"));
    }
}
