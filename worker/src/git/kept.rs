//! `.git` for sources that ask for it: as BuildKit leaves it with `BUILDKIT_CONTEXT_KEEP_GIT_DIR`.
//!
//! A repository of one commit without history, at which HEAD is by its name; a tag is there if it was asked for by that. `origin` is the
//! repository's address. It has no login, no hooks, no log, and its index no inode of this machine's, so that the same is the same.

use std::fs;
use std::path::Path;

use farm_types::git::{Commit, RefName};

use super::error::{FetchError, disk};
use super::program::Call;
use super::remote::kept;
use super::tree::At;

/// Files of git's that tell of how it came here.
const TRACES: [&str; 3] = ["FETCH_HEAD", "ORIG_HEAD", "description"];

/// Makes `.git` in the folder `tree`, of what the repository `at` keeps as `wanted`.
///
/// # Errors
/// Git's, or the disk's.
pub(crate) async fn make(
    at: At<'_>,
    wanted: &Commit,
    commit: &Commit,
    git_ref: Option<&RefName>,
    tree: &Path,
) -> Result<(), FetchError> {
    let git = tree.join(".git");
    let call = || Call::at(&git).from(tree);
    let format = if wanted.as_str().len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
    let tree_too = |call: Call| call.env("GIT_WORK_TREE", tree);
    at.ask(tree_too(call().args(["init", "--quiet", "--template=", "--initial-branch=main", format])))
        .await?;
    let own = kept(wanted);
    let target = git_ref.filter(|name| name.tag().is_some()).map_or(own.as_str(), RefName::as_str);
    let fetch = call()
        .env("GIT_ALLOW_PROTOCOL", "file")
        .args([
            "fetch",
            "--quiet",
            "--depth=1",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
            "--",
        ])
        .args([at.repository.as_os_str()])
        .args([format!("+{wanted}:{target}")])
        .grows(&git);
    at.ask(fetch).await?;
    at.ask(call().args(["update-ref", "--no-deref", "HEAD", commit.as_str()])).await?;
    if target == own {
        at.ask(call().args(["update-ref", "-d", &own])).await?;
    }
    at.ask(call().args(["read-tree", commit.as_str()])).await?;
    at.ask(call().args(["config", "remote.origin.url", at.url.as_str()])).await?;
    at.ask(call().args(["config", "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"])).await?;
    for trace in TRACES {
        if let Err(error) = fs::remove_file(git.join(trace))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(disk("what git leaves of a fetch can't be removed", &error));
        }
    }
    // Empty folders aren't part of what git knows, and others need none of these.
    let _ = fs::remove_dir_all(git.join("logs"));
    let _ = fs::remove_dir(git.join("refs/farm"));
    Ok(())
}
