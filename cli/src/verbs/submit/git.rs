//! A context that is a git repository: what the command says of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use farm_source::{Links, Location};
use farm_types::{FetchSpec, Invalid, Take};
use tempfile::TempDir;

use super::args::Args;
use crate::address::{Address, GitSwitches, git_source};
use crate::error::{Error, Result};

/// With what buildx is told to keep `.git`.
pub(super) const KEEP_GIT: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";

/// What is to be fetched as the context, if that is an address in git.
///
/// # Errors
/// It is an address of which nothing is fetched, or the Dockerfile isn't in the repository.
pub(super) fn context(
    context: &str,
    file: Option<&Path>,
    switches: GitSwitches,
) -> Result<Option<FetchSpec>> {
    // A folder that is there is one, whatever it looks like.
    let address = Address::of(context).filter(|_| !Path::new(context).is_dir());
    let file = file.filter(|file| !file.as_os_str().is_empty());
    match address {
        None => {}
        Some(Address::Git) => {
            let file = file.map(|file| file.to_string_lossy().into_owned()).unwrap_or_default();
            if file == "-" {
                let cure = "the Dockerfile of a repository is in it; name it by its path there, or clone the repository";
                return Err(Invalid::new("-f", file, cure).into());
            }
            let take = Take::build(file.trim_start_matches("./")).map_err(|mut error| {
                "-f".clone_into(&mut error.thing);
                error
            })?;
            let fetch = FetchSpec { source: git_source(context, switches)?, take };
            fetch.check()?;
            return Ok(Some(fetch));
        }
        Some(address) => {
            return Err(Error::Usage(format!(
                "context {context:?}: farm fetches no archives and files from addresses yet; {}",
                address.instead_of_context(context)
            )));
        }
    }
    let named = file.filter(|file| !file.is_file()).and_then(Path::to_str);
    match named.and_then(|text| Some((text, Address::of(text)?))) {
        None => Ok(None),
        Some((text, address)) => Err(Error::Usage(format!(
            "-f {text:?}: farm fetches no Dockerfiles from addresses; {}",
            address.instead_of_dockerfile(text)
        ))),
    }
}

/// A folder that stands for a repository until that is fetched, with an empty Dockerfile of the right name.
///
/// # Errors
/// There is no place for one, or a named context isn't there.
pub(super) fn stand_in(
    context: &str,
    fetch: &FetchSpec,
    named: &BTreeMap<String, PathBuf>,
    links: Links,
) -> Result<(Location, Option<TempDir>)> {
    let name = match &fetch.take {
        Take::Build(path) if !path.is_empty() => path.rsplit('/').next().unwrap_or(path),
        _ => "Dockerfile",
    };
    let made = tempfile::tempdir().and_then(|folder| {
        std::fs::write(folder.path().join(name), "FROM scratch\n")?;
        Ok(folder)
    });
    let folder = made.map_err(|e| {
        let why = farm_types::chain::io_in_short(&e);
        Error::Usage(format!("no temporary folder can be made ({why}); name another one with TMPDIR"))
    })?;
    let file = folder.path().join(name);
    let wanted = farm_source::Wanted { file: Some(&file), is_own_file: true, named, links };
    let mut location = Location::look(&folder.path().to_string_lossy(), &wanted)?;
    context.clone_into(&mut location.shown);
    Ok((location, Some(folder)))
}

/// Sees that there is something that the switches are for.
///
/// # Errors
/// There isn't.
pub(super) fn check_switches(args: &Args, is_context: bool, is_named: bool) -> Result<(), Invalid> {
    if args.source_date_epoch.as_deref() == Some("commit") && !is_context {
        let cure = "the context is no git repository that the farm fetches; write the seconds: --source-date-epoch \
                    $(git log -1 --format=%ct)";
        return Err(Invalid::new("--source-date-epoch", "commit", cure));
    }
    let given = [("--keep-git", args.keep_git), ("--submodules", args.submodules)];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) if !is_context && !is_named => {
            Err(Invalid::new(flag, "", "it is for git repositories, and none is named; leave it out"))
        }
        _ => Ok(()),
    }
}
