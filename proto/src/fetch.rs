//! Fetches on the wire.

use std::collections::{BTreeMap, HashMap};

use farm_types::{
    ArchiveOrigin, ArchiveSource, Digest, FetchSource, FetchSpec, Fetched, FetchedRoot, GitOrigin, GitPoint,
    GitSource, Invalid, Lfs, MOST_REFS, MOST_TAGS, Origin, Refs, SnapshotRef, Take,
};

use crate::v1;

const ALL: &str = "all";
const CONTEXT: &str = "context";
const BUILD: &str = "build";
const FILE: &str = "file";
const REFS: &str = "refs";

impl From<&FetchSpec> for v1::FetchSpec {
    fn from(fetch: &FetchSpec) -> Self {
        let (take, dockerfile, file) = match &fetch.take {
            Take::All => (ALL, "", ""),
            Take::File(path) => (FILE, "", path.as_str()),
            Take::Context => (CONTEXT, "", ""),
            Take::Build(dockerfile) => (BUILD, dockerfile.as_str(), ""),
            Take::Refs => (REFS, "", ""),
        };
        Self {
            git: fetch.source.git().map(Into::into),
            archive: fetch.source.archive().map(Into::into),
            take: take.to_owned(),
            dockerfile: dockerfile.to_owned(),
            file: file.to_owned(),
        }
    }
}

impl TryFrom<v1::FetchSpec> for FetchSpec {
    type Error = Invalid;

    fn try_from(fetch: v1::FetchSpec) -> Result<Self, Invalid> {
        let source = match (fetch.git, fetch.archive) {
            (Some(git), None) => FetchSource::Git(git.try_into()?),
            (None, Some(archive)) => FetchSource::Archive(archive.try_into()?),
            _ => return Err(Invalid::new("fetch", "", "say from where: git or archive")),
        };
        let take = match fetch.take.as_str() {
            "" | ALL => Take::All,
            CONTEXT => Take::Context,
            BUILD => Take::Build(fetch.dockerfile),
            FILE => Take::File(fetch.file),
            REFS => Take::Refs,
            other => return Err(Invalid::new("take", other, "write all, file, context or build")),
        };
        let fetch = Self { source, take };
        fetch.check()?;
        Ok(fetch)
    }
}

impl From<&ArchiveSource> for v1::ArchiveSource {
    fn from(source: &ArchiveSource) -> Self {
        Self {
            url: source.archive.as_str().to_owned(),
            checksum: source.checksum.as_ref().map(ToString::to_string).unwrap_or_default(),
            lfs: source.lfs.as_str().to_owned(),
        }
    }
}

impl TryFrom<v1::ArchiveSource> for ArchiveSource {
    type Error = Invalid;

    fn try_from(source: v1::ArchiveSource) -> Result<Self, Invalid> {
        let checksum = match source.checksum.as_str() {
            "" => None,
            checksum => Some(checksum.parse()?),
        };
        Ok(Self { archive: source.url.parse()?, checksum, lfs: lfs(&source.lfs)? })
    }
}

fn lfs(word: &str) -> Result<Lfs, Invalid> {
    if word.is_empty() { Ok(Lfs::default()) } else { word.parse() }
}

impl From<&ArchiveOrigin> for v1::ArchiveOrigin {
    fn from(origin: &ArchiveOrigin) -> Self {
        Self { url: origin.archive.to_string(), digest: origin.digest.to_string() }
    }
}

impl TryFrom<v1::ArchiveOrigin> for ArchiveOrigin {
    type Error = Invalid;

    fn try_from(origin: v1::ArchiveOrigin) -> Result<Self, Invalid> {
        Ok(Self { archive: origin.url.parse()?, digest: origin.digest.parse()? })
    }
}

/// Origins as a spec has them, by their roots.
pub(crate) fn told(
    origins: &BTreeMap<String, Origin>,
) -> (HashMap<String, v1::GitOrigin>, HashMap<String, v1::ArchiveOrigin>) {
    let (mut git, mut archives) = (HashMap::new(), HashMap::new());
    for (root, origin) in origins {
        match origin {
            Origin::Git(origin) => drop(git.insert(root.clone(), origin.into())),
            Origin::Archive(origin) => drop(archives.insert(root.clone(), origin.into())),
        }
    }
    (git, archives)
}

/// Reads them back.
pub(crate) fn origins(
    git: HashMap<String, v1::GitOrigin>,
    archives: HashMap<String, v1::ArchiveOrigin>,
) -> Result<BTreeMap<String, Origin>, Invalid> {
    let mut all = BTreeMap::new();
    for (root, origin) in git {
        all.insert(root, Origin::Git(origin.try_into()?));
    }
    for (root, origin) in archives {
        if let Some(twice) = all.insert(root.clone(), Origin::Archive(origin.try_into()?)) {
            drop(twice);
            return Err(Invalid::new("origin", root, "a root is from one place; leave the other out"));
        }
    }
    Ok(all)
}

impl From<&GitSource> for v1::GitSource {
    fn from(source: &GitSource) -> Self {
        Self {
            repository: source.repository.to_string(),
            r#ref: match &source.point {
                GitPoint::Head => String::new(),
                GitPoint::Named(name) => name.clone(),
                GitPoint::Ref(name) => name.to_string(),
                GitPoint::Commit(commit) => commit.to_string(),
            },
            expected_commit: source.expected.as_ref().map(ToString::to_string).unwrap_or_default(),
            subdir: source.subdir.clone(),
            keep_git: source.keep_git,
            submodules: source.submodules,
            lfs: source.lfs.as_str().to_owned(),
        }
    }
}

impl TryFrom<v1::GitSource> for GitSource {
    type Error = Invalid;

    fn try_from(source: v1::GitSource) -> Result<Self, Invalid> {
        Ok(Self {
            repository: source.repository.parse()?,
            point: source.r#ref.parse()?,
            expected: match source.expected_commit.as_str() {
                "" => None,
                commit => Some(commit.parse()?),
            },
            subdir: source.subdir,
            keep_git: source.keep_git,
            submodules: source.submodules,
            lfs: lfs(&source.lfs)?,
        })
    }
}

impl From<&GitOrigin> for v1::GitOrigin {
    fn from(origin: &GitOrigin) -> Self {
        Self {
            repository: origin.repository.to_string(),
            r#ref: origin.full_ref.as_ref().map(ToString::to_string).unwrap_or_default(),
            commit: origin.commit.to_string(),
            committed: origin.committed_at,
            subdir: origin.subdir.clone(),
        }
    }
}

impl TryFrom<v1::GitOrigin> for GitOrigin {
    type Error = Invalid;

    fn try_from(origin: v1::GitOrigin) -> Result<Self, Invalid> {
        Ok(Self {
            repository: origin.repository.parse()?,
            full_ref: match origin.r#ref.as_str() {
                "" => None,
                name => Some(name.parse()?),
            },
            commit: origin.commit.parse()?,
            committed_at: origin.committed,
            subdir: origin.subdir,
        })
    }
}

impl From<&Fetched> for v1::Fetched {
    fn from(fetched: &Fetched) -> Self {
        let root = |(name, root): (&String, &FetchedRoot)| v1::FetchedRoot {
            name: name.clone(),
            tree: root.tree.to_string(),
            content: root.content.to_string(),
        };
        Self {
            snapshot: Some(v1::SnapshotRef {
                tree_id: fetched.snapshot.tree_id.to_string(),
                content_key: fetched.snapshot.content_key.to_string(),
                upload_id: String::new(),
            }),
            roots: fetched.roots.iter().map(root).collect(),
            origin: match &fetched.origin {
                Origin::Git(origin) => Some(origin.into()),
                Origin::Archive(_) => None,
            },
            archive: match &fetched.origin {
                Origin::Git(_) => None,
                Origin::Archive(origin) => Some(origin.into()),
            },
            dockerfile: fetched.dockerfile.clone(),
            files: fetched.files,
            bytes: fetched.bytes,
            tags: fetched.tags.clone(),
            refs: fetched.refs.as_deref().map(Into::into),
        }
    }
}

impl TryFrom<v1::Fetched> for Fetched {
    type Error = Invalid;

    fn try_from(fetched: v1::Fetched) -> Result<Self, Invalid> {
        let missing = |thing: &str| Invalid::new(thing, "", "it is not there");
        let snapshot = fetched.snapshot.ok_or_else(|| missing("snapshot"))?;
        let root = |root: v1::FetchedRoot| -> Result<(String, FetchedRoot), Invalid> {
            let (tree, content): (Digest, Digest) = (root.tree.parse()?, root.content.parse()?);
            Ok((root.name, FetchedRoot { tree, content }))
        };
        Ok(Self {
            snapshot: SnapshotRef {
                tree_id: snapshot.tree_id.parse()?,
                content_key: snapshot.content_key.parse()?,
            },
            roots: fetched.roots.into_iter().map(root).collect::<Result<_, _>>()?,
            origin: match (fetched.origin, fetched.archive) {
                (Some(origin), None) => Origin::Git(origin.try_into()?),
                (None, Some(origin)) => Origin::Archive(origin.try_into()?),
                _ => return Err(missing("origin")),
            },
            dockerfile: fetched.dockerfile,
            files: fetched.files,
            bytes: fetched.bytes,
            tags: fetched.tags.into_iter().take(MOST_TAGS).collect(),
            refs: fetched.refs.map(|refs| Refs::try_from(refs).map(Box::new)).transpose()?,
        })
    }
}

impl From<&Refs> for v1::Refs {
    fn from(refs: &Refs) -> Self {
        let at = refs
            .at
            .iter()
            .map(|(name, commit)| v1::RefAt { name: name.to_string(), commit: commit.to_string() });
        Self {
            at: at.collect(),
            is_cut: refs.is_cut,
            default_branch: refs.default_branch.clone().unwrap_or_default(),
            has_expected: refs.has_expected,
        }
    }
}

impl TryFrom<v1::Refs> for Refs {
    type Error = Invalid;

    fn try_from(refs: v1::Refs) -> Result<Self, Invalid> {
        let is_cut = refs.is_cut || refs.at.len() > MOST_REFS;
        let at = refs.at.into_iter().take(MOST_REFS).map(|at| Ok((at.name.parse()?, at.commit.parse()?)));
        let default_branch = Some(refs.default_branch).filter(|branch| !branch.is_empty());
        let read = Self::bounded(at.collect::<Result<Vec<_>, Invalid>>()?, default_branch, refs.has_expected);
        Ok(Self { is_cut: read.is_cut || is_cut, ..read })
    }
}

#[cfg(test)]
mod tests {
    use farm_types::BuildSpec;

    use super::*;

    #[test]
    fn where_refs_are_reads_back_from_the_wire() {
        let at = |name: &str| (name.parse().unwrap(), "1".repeat(40).parse().unwrap());
        let refs = Refs::bounded([at("refs/heads/main"), at("refs/tags/v1")], Some("main".to_owned()), true);
        assert_eq!(Refs::try_from(v1::Refs::from(&refs)).unwrap(), refs);
    }

    #[test]
    fn a_fetch_reads_back_from_the_wire_and_has_nothing_of_a_build() {
        let mut wire = v1::BuildSpec {
            fetch: Some(v1::FetchSpec {
                git: Some(v1::GitSource {
                    repository: "git@example.com:team/app".to_owned(),
                    r#ref: "main".to_owned(),
                    subdir: "docker".to_owned(),
                    ..Default::default()
                }),
                take: "build".to_owned(),
                dockerfile: "web.Dockerfile".to_owned(),
                ..Default::default()
            }),
            timeout_ms: 1000,
            ..Default::default()
        };
        let spec = BuildSpec::try_from(wire.clone()).unwrap();
        let again = v1::BuildSpec::from(&spec);
        assert!(again.platforms.is_empty());
        assert_eq!(
            again.fetch.as_ref().unwrap().git.as_ref().unwrap().repository,
            "ssh://git@example.com/team/app"
        );
        assert_eq!(BuildSpec::try_from(again).unwrap(), spec);
        wire.tags.push("localhost:5002/app:1".to_owned());
        assert!(BuildSpec::try_from(wire.clone()).unwrap_err().to_string().contains("leave the rest out"));
        wire.tags.clear();
        wire.fetch.as_mut().unwrap().git.as_mut().unwrap().subdir = "../x".to_owned();
        assert!(BuildSpec::try_from(wire).is_err());
    }

    #[test]
    fn an_archive_is_fetched_instead_and_never_both() {
        let archive = v1::ArchiveSource {
            url: "https://x.example/a.tar.gz?s=1".to_owned(),
            checksum: Digest::of(b"").to_string(),
            lfs: "pointers".to_owned(),
        };
        let mut fetch =
            v1::FetchSpec { archive: Some(archive), take: "build".to_owned(), ..Default::default() };
        let spec = FetchSpec::try_from(fetch.clone()).unwrap();
        assert_eq!(v1::FetchSpec::from(&spec), fetch);
        fetch.git =
            Some(v1::GitSource { repository: "https://x.example/a.git".to_owned(), ..Default::default() });
        assert!(FetchSpec::try_from(fetch).unwrap_err().to_string().contains("git or archive"));
        let digest = Digest::of(b"");
        let origin = ArchiveOrigin { archive: "https://x.example/a.tar".parse().unwrap(), digest };
        let all = BTreeMap::from([("context".to_owned(), Origin::Archive(origin))]);
        let (git, archives) = told(&all);
        assert_eq!(origins(git, archives).unwrap(), all);
    }
}
