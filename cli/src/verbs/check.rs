//! `farm check`: what the rules find wrong in a Dockerfile; nothing is built.

use std::path::PathBuf;

use super::submit::{self, path_or_none};
use crate::config::Setup;
use crate::error::{Exit, Result};

/// Arguments of `farm check`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The folder that COPY and ADD read from; or a git repository: URL[#REF[:FOLDER]]; or an archive: https://HOST/PATH.tar.gz; -: an
    /// archive, or a Dockerfile, from standard input
    #[arg(default_value = ".", value_name = "CONTEXT")]
    context: String,

    /// The Dockerfile [default: CONTEXT/Dockerfile]; -: from standard input
    #[arg(short, long, value_name = "FILE", value_parser = path_or_none())]
    file: Option<PathBuf>,

    /// The platforms, separated by commas [default: all that the farm has native workers for]
    #[arg(long, value_name = "OS/ARCH,…")]
    platform: Vec<String>,

    /// The stage that would be built [default: the last]
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,

    /// Set a build argument; without a value it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,

    /// Where links may lead to the Dockerfile and .dockerignore: buildx (as with buildx), or inside: nowhere out of the context
    /// [env: FARM_CONTEXT_LINKS] [default: buildx]
    #[arg(long, value_name = "WHERE")]
    context_links: Option<String>,

    /// Print one JSON object at the end; what happens meanwhile goes to standard error
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "\
Examples:
  farm check
  farm check web -f docker/web.Dockerfile --platform linux/amd64,linux/arm64

The rules are those of the engine's BuildKit (0.14 and later; an older one can't check, and it is
said so). A worker of each platform is asked; no step is run. A finding is shown once, with its
line, whether it matters to the image, and the cure. `farm submit --check` is the same with all of
submit's flags.

With `# check=error=true` in the Dockerfile, or --build-arg BUILDKIT_DOCKERFILE_CHECK=error=true,
all that is found fails the build, wherever it stands.

Exit codes:
  0    nothing found, or only in stages that no image is made of
  1    something found, or the Dockerfile can't be built from
  2    the command, a value or a file can't be taken
  3    no farm answers, or it refuses the token
  130  cancelled (Ctrl-C, SIGTERM, SIGHUP)";

/// Checks a Dockerfile by the engine's rules, and builds nothing.
///
/// # Errors
/// Something that was asked for can't be taken, or the farm doesn't answer.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    let Args { context, file, platform, target, build_arg, context_links, json } = args;
    let mut asked = submit::Args::default();
    (asked.context, asked.file, asked.platform) = (context, file, platform);
    (asked.target, asked.build_arg, asked.json) = (target, build_arg, json);
    asked.context_links = context_links;
    asked.check = true;
    // The verb is large, and lies on the heap.
    Box::pin(submit::run(asked, setup)).await
}
