//! The command line: the global flags and the verbs.
//!
//! To add a verb: a file in `verbs/` with its `Args` and `run`, and its line in [`Verb`].

use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::config::Setup;
use crate::error::{Exit, Result};
use crate::verbs;

/// The farm command.
#[derive(Debug, Parser)]
#[command(name = "farm", version, about = "Build container images for several platforms on your farm")]
#[command(after_help = AFTER_HELP, propagate_version = true)]
pub struct Command {
    /// Where the farm is [env: FARM_URL] [default: this machine, http://127.0.0.1:7070]
    #[arg(long, global = true, value_name = "URL")]
    pub url: Option<String>,

    /// Which of the farms in `farm config` [env: FARM_CONTEXT]
    #[arg(long = "context", global = true, value_name = "NAME", conflicts_with = "url")]
    pub of_context: Option<String>,

    /// PEM file with the farm's CA; no other counts then [env: FARM_CA]
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// In which project [env: FARM_PROJECT] [default: your only one]
    #[arg(long, global = true, value_name = "NAME")]
    pub project: Option<String>,

    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

const AFTER_HELP: &str = "\
The token that tells the farm who you are is the first of: FARM_TOKEN, the file that
FARM_TOKEN_FILE names, what a CI system's token in FARM_ID_TOKEN is exchanged for,
~/.config/farm/token, that of a farm on this machine (~/.local/state/farm/token,
/var/lib/farm/token), and what a job of GitHub Actions has by itself (id-token: write).

Exit codes:
  0    done; of a build: built and published
  1    the build failed
  2    the command, a value or a file can't be taken
  3    no farm answers, or it refuses you
  130  cancelled, also by SIGTERM, and by SIGHUP where there is no terminal
  129, 143  ended by a signal while the build goes on";

/// What `farm` can be told to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Build a folder for one or more platforms and publish the result
    Submit(Box<verbs::submit::Args>),
    /// Check a Dockerfile; nothing is built
    Check(verbs::check::Args),
    /// Check .farm.yaml, and say what an event would make of it
    Rules(verbs::rules::Args),
    /// List builds, newest first
    Builds(verbs::builds::Args),
    /// Show one build
    Show(verbs::show::Args),
    /// Print a build's output
    Logs(verbs::logs::Args),
    /// Watch a build as farm submit does
    Attach(verbs::attach::Args),
    /// Build once more what has ended, or only what failed of it
    Retry(verbs::retry::Args),
    /// Cancel a build
    Cancel(verbs::cancel::Args),
    /// Let a fork's pull request be built, which is held until then
    Approve(verbs::approve::Args),
    /// Show an image: its platforms, what they are and where they came from
    Inspect(verbs::inspect::Args),
    /// List the tags of a repository: to what they point, and by which build
    Ls(verbs::ls::Args),
    /// Copy an image with all its platforms to other repositories, or registries
    Copy(verbs::copy::CopyArgs),
    /// Copy an image to where it is used; the same as farm copy
    Promote(verbs::copy::PromoteArgs),
    /// Bring an image into the farm's own registry, to build upon it
    Mirror(verbs::mirror::Args),
    /// Give an image further tags
    Tag(verbs::copy::TagArgs),
    /// Show what a tag has pointed to: when, by which build, and who asked for it
    History(verbs::history::HistoryArgs),
    /// Move a tag back to what it was
    Rollback(verbs::history::RollbackArgs),
    /// Remove tags, and images by their digests, from a registry
    Rm(verbs::rm::Args),
    /// Show what takes room: build caches, the farm's store, registries
    Du(verbs::du::Args),
    /// Make room: drop engines' caches, or tags of a repository that no rule keeps
    Prune(verbs::prune::Args),
    /// Run an image on a worker of its platform
    Run(verbs::run::Args),
    /// Run every platform of an image and compare
    Test(verbs::test::Args),
    /// List the farm's workers; drain, resume or remove some
    Workers(verbs::workers::Args),
    /// Get to know a farm: check whose it is, sign in or give your token, and use it
    Login(verbs::login::Args),
    /// End your sign-in, or take your token for a farm away
    Logout(verbs::logout::Args),
    /// Say who you are to the farm, and what you may do
    Whoami(verbs::whoami::Args),
    /// Make, list and revoke tokens
    Token(verbs::token::Args),
    /// Make, list, show and remove projects
    Project(verbs::project::Args),
    /// Give people and groups roles in a project, list who is in it, take somebody out
    Member(verbs::member::Args),
    /// Say which jobs of CI systems build in a project without a stored secret
    Trust(verbs::trust::Args),
    /// Keep secrets of a project for its builds, and say who may use them
    Secret(verbs::secret::Args),
    /// Keep keys by which the project signs its images, as cosign does
    SigningKey(verbs::signing_key::Args),
    /// Give the project logins of its own at registries
    Registry(verbs::registry::Args),
    /// Give the project logins for repositories that the farm fetches by git
    Git(verbs::git::Args),
    /// Let forges tell the farm what happened in a repository: webhooks
    Hook(verbs::hook::Args),
    /// Say who is told how builds end: signed webhooks, Slack or Mattermost, mail
    Notice(verbs::notice::Args),
    /// Say who is an admin of the whole farm, and who people are at the issuer
    Admin(verbs::admin::Args),
    /// List what was done, by whom, and check that it still stands as it was written
    Audit(verbs::audit::Args),
    /// Show or change which farm is used, and defaults of flags
    Config(verbs::config::Args),
    /// Start a whole farm on this machine
    Up(verbs::up::Args),
    /// Stop the farm on this machine
    Down(verbs::down::Args),
    /// Show how the farm on this machine is
    Status(verbs::status::Args),
    /// Print what makes a shell complete farm's verbs and flags
    Completions(verbs::completions::CompletionsArgs),
    /// Write manual pages
    Man(verbs::completions::ManArgs),
}

impl Command {
    /// Runs the verb.
    ///
    /// # Errors
    /// Whatever the verb's `run` fails with.
    pub async fn run(self) -> Result<Exit> {
        let (url, context) = (self.url.as_deref(), self.of_context.as_deref());
        let (ca, project) = (self.ca.as_deref(), self.project.as_deref());
        let setup = || Setup::find(url, context, ca, project);
        match self.verb {
            Verb::Submit(args) => Box::pin(verbs::submit::run(*args, &setup()?)).await,
            Verb::Check(args) => Box::pin(verbs::check::run(args, &setup()?)).await,
            Verb::Rules(args) => verbs::rules::run(args),
            Verb::Copy(args) => Box::pin(verbs::copy::copy(args, &setup()?)).await,
            Verb::Promote(args) => Box::pin(verbs::copy::promote(args, &setup()?)).await,
            Verb::Ls(args) => Box::pin(verbs::ls::run(args, &setup()?)).await,
            Verb::Rm(args) => Box::pin(verbs::rm::run(args, &setup()?)).await,
            Verb::Du(args) => Box::pin(verbs::du::run(args, &setup()?)).await,
            Verb::Prune(args) => Box::pin(verbs::prune::run(args, &setup()?)).await,
            Verb::History(args) => Box::pin(verbs::history::history(args, &setup()?)).await,
            Verb::Rollback(args) => Box::pin(verbs::history::rollback(args, &setup()?)).await,
            Verb::Mirror(args) => Box::pin(verbs::mirror::run(args, &setup()?)).await,
            Verb::Tag(args) => Box::pin(verbs::copy::tag(args, &setup()?)).await,
            Verb::Builds(args) => Box::pin(verbs::builds::run(args, &setup()?)).await,
            Verb::Show(args) => Box::pin(verbs::show::run(args, &setup()?)).await,
            Verb::Logs(args) => Box::pin(verbs::logs::run(args, &setup()?)).await,
            Verb::Attach(args) => Box::pin(verbs::attach::run(args, &setup()?)).await,
            Verb::Retry(args) => Box::pin(verbs::retry::run(args, &setup()?)).await,
            Verb::Cancel(args) => Box::pin(verbs::cancel::run(args, &setup()?)).await,
            Verb::Approve(args) => Box::pin(verbs::approve::run(args, &setup()?)).await,
            Verb::Inspect(args) => Box::pin(verbs::inspect::run(args, &setup()?)).await,
            Verb::Run(args) => Box::pin(verbs::run::run(args, setup)).await,
            Verb::Test(args) => Box::pin(verbs::test::run(args, &setup()?)).await,
            Verb::Workers(args) => Box::pin(verbs::workers::run(args, &setup()?)).await,
            Verb::Login(args) => Box::pin(verbs::login::run(args, ca, project, setup)).await,
            Verb::Logout(args) => Box::pin(verbs::logout::run(args, setup)).await,
            Verb::Whoami(args) => Box::pin(verbs::whoami::run(args, &setup()?)).await,
            Verb::Token(args) => Box::pin(verbs::token::run(args, &setup()?)).await,
            Verb::Project(args) => Box::pin(verbs::project::run(args, &setup()?)).await,
            Verb::Member(args) => Box::pin(verbs::member::run(args, &setup()?)).await,
            Verb::Trust(args) => Box::pin(verbs::trust::run(args, &setup()?)).await,
            Verb::Secret(args) => Box::pin(verbs::secret::run(args, &setup()?)).await,
            Verb::SigningKey(args) => Box::pin(verbs::signing_key::run(args, &setup()?)).await,
            Verb::Registry(args) => Box::pin(verbs::registry::run(args, &setup()?)).await,
            Verb::Git(args) => Box::pin(verbs::git::run(args, &setup()?)).await,
            Verb::Hook(args) => Box::pin(verbs::hook::run(args, &setup()?)).await,
            Verb::Notice(args) => Box::pin(verbs::notice::run(args, &setup()?)).await,
            Verb::Admin(args) => Box::pin(verbs::admin::run(args, &setup()?)).await,
            Verb::Audit(args) => Box::pin(verbs::audit::run(args, &setup()?)).await,
            Verb::Config(args) => Box::pin(verbs::config::run(args, url, context, (ca, project))).await,
            Verb::Up(args) => verbs::up::run(&args),
            Verb::Down(args) => verbs::down::run(&args),
            Verb::Status(args) => verbs::status::run(&args),
            Verb::Completions(args) => verbs::completions::completions(&args, Self::command()),
            Verb::Man(args) => verbs::completions::man(&args, Self::command()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_builds_context_is_not_the_farms() {
        let command = Command::try_parse_from(["farm", "submit", "app", "--context", "team"]).unwrap();
        assert_eq!(command.of_context.as_deref(), Some("team"));
        let command = Command::try_parse_from(["farm", "submit", "app"]).unwrap();
        assert_eq!(command.of_context, None);
    }

    #[test]
    fn the_command_line_is_sound_and_every_verb_has_examples() {
        let mut command = Command::command();
        command.build();
        command.clone().debug_assert();
        for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
            let text = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(text.contains("Examples:"), "{}", verb.get_name());
            // Where there is no terminal help is 100 wide; what is wider is broken in the middle of a sentence.
            assert!(text.lines().all(|line| line.chars().count() <= 98), "{}", verb.get_name());
        }
    }
}
