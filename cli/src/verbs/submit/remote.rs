//! A context that is a git repository or an archive at an address: what the command says of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use farm_source::{Links, Location};
use farm_types::{ArchiveSource, Digest, FetchSource, FetchSpec, Invalid, Take};
use tempfile::TempDir;

use super::args::Args;
use crate::address::{Address, GitSwitches, fetch_source};
use crate::error::{Error, Result};

/// With what buildx is told to keep `.git`.
pub(super) const KEEP_GIT: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";

/// What is to be fetched as the context, if that is an address.
///
/// # Errors
/// It is an address of which nothing is fetched, or the Dockerfile isn't in what is.
pub(super) fn context(
    context: &str,
    file: Option<&Path>,
    switches: GitSwitches,
    checksum: Option<Digest>,
) -> Result<Option<FetchSpec>> {
    // A folder that is there is one, whatever it looks like.
    let address = Address::of(context).filter(|_| !Path::new(context).is_dir());
    let file = file.filter(|file| !file.as_os_str().is_empty());
    let fetched = match address {
        Some(address) => Some((address, fetch_source(address, context, switches)?)),
        None => None,
    };
    match fetched {
        None => {}
        Some((address, None)) => {
            let cure = address.instead_of_context();
            return Err(Error::Usage(format!("context {context:?}: nothing is fetched from there; {cure}")));
        }
        Some((_, Some(source))) => {
            let file = file.map(|file| file.to_string_lossy().into_owned()).unwrap_or_default();
            if file == "-" {
                let cure = "the Dockerfile of what is fetched is in it; name it by its path there, or bring the source here";
                return Err(Invalid::new("-f", file, cure).into());
            }
            let take = Take::build(file.trim_start_matches("./")).map_err(|mut error| {
                "-f".clone_into(&mut error.thing);
                error
            })?;
            let fetch = FetchSpec { source: with_checksum(source, checksum)?, take };
            fetch.check()?;
            return Ok(Some(fetch));
        }
    }
    if let Some(checksum) = checksum {
        let cure = "it is of an archive at an address, and the context is none; leave it out";
        return Err(Invalid::new("--checksum", checksum.to_string(), cure).into());
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

/// Adds the checksum that a flag says.
fn with_checksum(source: FetchSource, checksum: Option<Digest>) -> Result<FetchSource, Invalid> {
    let Some(wanted) = checksum else { return Ok(source) };
    let invalid = |cure: &str| Err(Invalid::new("--checksum", wanted.to_string(), cure));
    match source {
        FetchSource::Git(_) => invalid(
            "it is of an archive, and the context is a repository; name the commit in its place: URL#COMMIT",
        ),
        FetchSource::Archive(source) if source.checksum.is_some_and(|known| known != wanted) => {
            invalid("the address says another one; keep one of the two")
        }
        FetchSource::Archive(source) => Ok(ArchiveSource { checksum, ..source }.into()),
    }
}

/// A folder that stands for what is fetched until that is here, with an empty Dockerfile of the right name.
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
    location.shown = match &fetch.source {
        FetchSource::Git(_) => context.to_owned(),
        // In its query there may be a signature.
        FetchSource::Archive(source) => source.to_string(),
    };
    Ok((location, Some(folder)))
}

/// Sees that there is something that the switches are for.
///
/// # Errors
/// There isn't.
pub(super) fn check_switches(
    args: &Args,
    context: Option<&FetchSpec>,
    named: &BTreeMap<String, FetchSpec>,
) -> Result<(), Invalid> {
    let is_context = context.is_some_and(|fetch| fetch.source.git().is_some());
    if args.source_date_epoch.as_deref() == Some("commit") && !is_context {
        let cure = "the context is no git repository that the farm fetches; write the seconds: --source-date-epoch \
                    $(git log -1 --format=%ct)";
        return Err(Invalid::new("--source-date-epoch", "commit", cure));
    }
    let is_git = is_context || named.values().any(|fetch| fetch.source.git().is_some());
    let given = [("--keep-git", args.keep_git), ("--submodules", args.submodules)];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) if !is_git => {
            Err(Invalid::new(flag, "", "it is for git repositories, and none is named; leave it out"))
        }
        _ if args.lfs.is_some() && context.is_none() && named.is_empty() => {
            let cure =
                "it is for git repositories and archives at addresses, and none is named; leave it out";
            Err(Invalid::new("--lfs", "", cure))
        }
        _ => Ok(()),
    }
}
