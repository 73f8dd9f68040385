//! `farm completions` and `farm man`: what shells and man(1) read.

use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;
use farm_types::chain::io_in_short;

use crate::error::{Error, Exit, Result};
use crate::output::Out;
use crate::place::Place;

/// Arguments of `farm completions`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farm completions bash | sudo tee /etc/bash_completion.d/farm\n  farm completions zsh >~/.zfunc/_farm      (with fpath+=~/.zfunc before compinit)\n  farm completions fish >~/.config/fish/completions/farm.fish"
)]
pub struct CompletionsArgs {
    /// The shell: bash, zsh, fish, and others
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Prints what makes a shell complete farm's verbs and flags.
///
/// # Errors
/// None that isn't told elsewhere.
pub fn completions(args: &CompletionsArgs, mut farm: Command) -> Result<Exit> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut farm, "farm", &mut text);
    let mut out = Out::stdout();
    out.lines(String::from_utf8_lossy(&text).lines());
    Ok(Exit::Done)
}

/// Arguments of `farm man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sudo farm man /usr/local/share/man/man1\n  man farm-submit")]
pub struct ManArgs {
    /// The folder for the pages
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Writes a page for farm and for each verb.
///
/// # Errors
/// The folder can't be made or written.
pub fn man(args: &ManArgs, mut farm: Command) -> Result<Exit> {
    let at =
        |path: &Path, e: &std::io::Error| Error::Usage(format!("{}: {}", path.display(), io_in_short(e)));
    std::fs::create_dir_all(&args.folder).map_err(|e| at(&args.folder, &e))?;
    farm.build();
    let verbs = farm.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help");
    let pages: Vec<Command> = verbs.cloned().chain([farm.clone()]).collect();
    for page in &pages {
        let name = match page.get_name() {
            "farm" => "farm".to_owned(),
            verb => format!("farm-{verb}"),
        };
        let path = args.folder.join(format!("{name}.1"));
        let mut text = Vec::new();
        let page = clap_mangen::Man::new(page.clone()).title(name);
        page.render(&mut text).map_err(|e| at(&path, &e))?;
        let place = Place::find(&path).map_err(|why| Error::Usage(format!("{}: {why}", path.display())))?;
        place.write(&text).map_err(|e| at(&path, &e))?;
    }
    Out::stdout().line(&format!("{} pages in {}", pages.len(), args.folder.display()));
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn farm() -> Command {
        <crate::command::Command as clap::CommandFactory>::command()
    }

    #[test]
    fn every_shell_gets_the_verbs_and_their_flags() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut farm(), "farm", &mut text);
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("submit") && text.contains("no-cache-filter"), "{shell}");
        }
    }

    #[test]
    fn there_is_a_page_for_each_verb() {
        let folder = tempfile::tempdir().unwrap();
        let exit = man(&ManArgs { folder: folder.path().join("man1") }, farm()).unwrap();
        assert_eq!(exit, Exit::Done);
        let page = std::fs::read_to_string(folder.path().join("man1/farm-submit.1")).unwrap();
        assert!(page.contains("Examples:") && page.contains("emulation"), "{page}");
        assert!(!page.contains("cgroup"), "a flag that farm refuses is none of farm's");
        assert!(folder.path().join("man1/farm.1").exists());
    }
}
