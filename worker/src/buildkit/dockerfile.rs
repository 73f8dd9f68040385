//! The Dockerfile before the engine sees it: is it there, and which frontend does it ask for.
//!
//! A `# syntax=docker/dockerfile:1` line would make the engine pull that image and run it as the frontend,
//! first of all and for every build. farm always uses the frontend that is built into the engine: it covers
//! the official ones, and a foreign one is code that nobody of the team has looked at, so it is refused.

use std::io::{self, Read};

use farm_types::snapshot::follow;
use farm_types::{Cause, Failure, FailureCode};

use super::tree::{SourceTree, TreeKind, find};

/// The longest Dockerfile that is read, bytes.
const LONGEST: u64 = 16 << 20;
/// How UTF-16 text begins.
const UTF_16: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];
/// As many links as are followed to find it.
const MAX_LINKS: usize = 10;

/// A Dockerfile that may be built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Dockerfile {
    /// Its path, as the build named it.
    pub(super) path: String,
    /// Its text; what is not UTF-8 is replaced.
    pub(super) text: String,
    /// The official frontend that its `# syntax=` line names.
    pub(super) syntax: Option<String>,
}

/// Reads and checks the Dockerfile. Blocks.
pub(super) fn read(tree: Option<&dyn SourceTree>, path: &str) -> Result<Dockerfile, Failure> {
    let user = |code, message: String| Failure::new(Cause::User, code, message);
    let missing = || {
        user(
            FailureCode::DockerfileMissing,
            format!("Dockerfile {path:?}: there is no such file in the source; name it with -f"),
        )
    };
    let tree = tree.ok_or_else(missing)?;
    let place = locate(tree, path)
        // BuildKit takes the lower-case name too when the usual one isn't there.
        .or_else(|| if path == "Dockerfile" { locate(tree, "dockerfile") } else { None })
        .ok_or_else(missing)?;
    let bytes = content(tree, &place).map_err(|error| {
        Failure::new(
            Cause::Infrastructure,
            FailureCode::SourceUnreadable,
            format!("Dockerfile {path:?} cannot be read: {error}"),
        )
    })?;
    if UTF_16.iter().any(|mark| bytes.starts_with(mark)) {
        return Err(user(
            FailureCode::DockerfileSyntax,
            format!("Dockerfile {path:?} is UTF-16 text, which no frontend reads; save it as UTF-8"),
        ));
    }
    // Comments in older encodings are nobody's business.
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let read = farm_dockerfile::Dockerfile::parse(&bytes);
    // UTF-16 without a mark: no instruction has a NUL.
    if let Some(odd) = read.instructions.iter().find(|instruction| instruction.text.contains('\0')) {
        return Err(user(
            FailureCode::DockerfileSyntax,
            format!("Dockerfile {path:?} is not UTF-8 text (line {}); save it as UTF-8", odd.first),
        ));
    }
    if read.is_empty() && read.directives.syntax.is_none() {
        return Err(user(
            FailureCode::DockerfileEmpty,
            format!("Dockerfile {path:?} has no instruction; begin with FROM IMAGE"),
        ));
    }
    let is_foreign = read.directives.is_foreign();
    let syntax = read.directives.syntax;
    if let Some(frontend) = &syntax
        && is_foreign
    {
        return Err(user(
            FailureCode::FrontendRefused,
            format!(
                "Dockerfile {path:?} asks for the frontend {frontend:?}; farm runs none but docker/dockerfile: \
                 change or remove its syntax line"
            ),
        ));
    }
    Ok(Dockerfile { path: path.to_owned(), text, syntax })
}

/// The path of the regular file that this path leads to.
fn locate(tree: &dyn SourceTree, path: &str) -> Option<String> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let entry = &tree.entries()[find(tree.entries(), &path)?];
        match &entry.kind {
            TreeKind::File { .. } => return Some(path),
            TreeKind::Symlink { target } => path = follow(&path, target)?,
            _ => return None,
        }
    }
    None
}

fn content(tree: &dyn SourceTree, path: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    tree.open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::tree::{MemoryTree, TreeEntry};
    use super::*;

    fn outcome(path: &str, text: &str) -> Result<Option<String>, FailureCode> {
        let tree = MemoryTree::new([("sub/Dockerfile", 0o644, text.as_bytes().to_vec())]);
        read(Some(&tree), path).map(|dockerfile| dockerfile.syntax).map_err(|failure| failure.code)
    }

    #[test]
    fn a_dockerfile_that_is_not_there_or_says_nothing_is_refused_before_the_engine_is_asked() {
        assert_eq!(outcome("sub/Dockerfile", "FROM x"), Ok(None));
        assert_eq!(
            outcome("sub/Dockerfile", "# syntax=docker/dockerfile:1\nFROM x"),
            Ok(Some("docker/dockerfile:1".into()))
        );
        assert_eq!(outcome("Dockerfile", "FROM x"), Err(FailureCode::DockerfileMissing));
        assert_eq!(outcome("sub", "FROM x"), Err(FailureCode::DockerfileMissing));
        assert_eq!(outcome("sub/Dockerfile", " \n# only a comment\n"), Err(FailureCode::DockerfileEmpty));
        assert_eq!(
            outcome("sub/Dockerfile", "#syntax=tonistiigi/llb\n{}"),
            Err(FailureCode::FrontendRefused)
        );
        assert_eq!(read(None, "x").unwrap_err().code, FailureCode::DockerfileMissing);
        assert_eq!(
            outcome("sub/Dockerfile", "# syntax=docker/dockerfile:1\n"),
            Ok(Some("docker/dockerfile:1".into()))
        );
    }

    #[test]
    fn the_lower_case_name_and_links_are_followed() {
        let mut tree = MemoryTree::new([("docker/dockerfile", 0o644, b"FROM x".to_vec())]);
        let kind = TreeKind::Symlink { target: "./docker/../docker/dockerfile".into() };
        tree.add(TreeEntry { path: "dockerfile".into(), mode: 0o777, mtime: 0, kind });
        assert_eq!(read(Some(&tree), "Dockerfile").unwrap().text, "FROM x");
    }
}
