//! Reading a build's source as Docker reads it, into a content-addressed tree.
//!
//! [`Location`] finds the folder and the Dockerfile (quick, before anything is sent anywhere), [`read`] then
//! walks and hashes. The tree has a root for the context, one for the Dockerfile, and one for each named
//! context that is a folder; the forms are those of [`farm_types::snapshot`].
//!
//! What `.dockerignore` leaves out isn't in the tree at all. A `.dockerignore` that leaves out itself thus
//! isn't either: an engine then finds none and leaves nothing out, which is right, since it was done here.
//! The Dockerfile is always in the root `dockerfile`, whatever the patterns say of it.
//!
//! Invariant: links are kept as links and never followed, but for those of the Dockerfile and of ignore files, and these
//! never out of their folder or archive.

mod archive;
pub mod brought;
mod files;
mod ignore;
mod index;
mod known;
mod location;
mod meant;
pub mod stdin;
mod unpack;
pub mod upload;
mod walk;
mod within;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use farm_dockerfile::{Selection, Sources};
use farm_types::Digest;
use farm_types::pattern::PatternSet;
use farm_types::snapshot::{Entry, Folder, Node, ROOT_CONTEXT, ROOT_DOCKERFILE, named_root, names};

pub use files::{Disk, Files, OpenFile, Stat};
pub use index::Index;
pub use known::{Known, KnownFile};
pub use location::{Links, Location, Wanted};
pub use unpack::{Always, GoesOn, Limits, Recorded, Stamp, Unpacked};

pub use files::open as open_file;

/// Why a source can't be read; each text names the file and the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// The system refuses to give it.
    #[error(
        "can't read {name} ({why}); leave it out with a line in .dockerignore, or make it readable, for example with \
         chmod u+rX"
    )]
    Unreadable {
        /// The path, from the context's root.
        name: String,
        /// The system's reason.
        why: String,
    },
    /// A file that changed each time it was read.
    #[error(
        "{0} changed while it was read, twice; submit again when nothing writes to it, or leave it out with a line in .dockerignore"
    )]
    Changed(String),
    /// A name, or a link's target, that isn't UTF-8.
    #[error(
        "{0} isn't valid UTF-8, which image builders can't take; rename it, or leave it out with a line in .dockerignore"
    )]
    Name(String),
    /// It wasn't to go on ([`Surroundings::goes_on`]).
    #[error("its reading was broken off")]
    BrokenOff,
    /// `.dockerignore` can't be understood, or asks too much.
    #[error("{0}")]
    IgnoreFile(String),
    /// The context or the Dockerfile isn't there or isn't what it should be.
    #[error("{0}")]
    Location(String),
}

impl ContextError {
    fn unreadable(name: &str, error: &io::Error) -> Self {
        Self::Unreadable { name: name.to_owned(), why: farm_types::chain::io_in_short(error) }
    }
}

/// An object of the tree, by what it takes to send it.
#[derive(Debug, Clone)]
pub enum Object {
    /// A folder.
    Folder {
        /// The bytes by which a folder is stored, and of which its digest is made.
        bytes: Bytes,
        /// The digests of what is in it.
        children: Vec<Digest>,
        /// From the context's root, for messages.
        name: String,
    },
    /// A file's contents.
    File {
        /// The file on this machine.
        path: PathBuf,
        /// The length, bytes.
        size: u64,
        /// From the context's root, for messages.
        name: String,
    },
}

impl Object {
    /// How much is sent of it, bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Folder { bytes, .. } => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Self::File { size, .. } => *size,
        }
    }
}

/// A source that was read.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// Each root's tree digest and content digest.
    pub roots: BTreeMap<String, (Digest, Digest)>,
    /// Everything that the roots hold, by its digest.
    pub objects: HashMap<Digest, Object>,
    /// How many files it has; one that is in two roots counts once.
    pub files: usize,
    /// How many of them had to be read; of the others the index knew the digests.
    pub files_read: usize,
    /// What was left out though no pattern says so, a sentence each.
    pub warnings: Vec<String>,
}

impl Source {
    /// The snapshot's (`tree_id`, `content_key`).
    pub fn names(&self) -> (Digest, Digest) {
        names(&self.roots)
    }

    /// A source that the farm has already, by the digests of its roots.
    pub fn known(roots: BTreeMap<String, (Digest, Digest)>, files: usize) -> Self {
        Self { roots, files, ..Self::default() }
    }

    /// All files of one of its roots: path, length in bytes, and digest.
    ///
    /// # Errors
    /// A folder of it can't be read.
    pub fn files_of(&self, root: &str) -> io::Result<Vec<(String, u64, Digest)>> {
        let mut files = Vec::new();
        let mut ahead: Vec<_> =
            self.roots.get(root).map(|(tree, _)| (String::new(), *tree)).into_iter().collect();
        while let Some((above, tree)) = ahead.pop() {
            let Some(Object::Folder { bytes, .. }) = self.objects.get(&tree) else { continue };
            for entry in Folder::decode(bytes).map_err(io::Error::other)?.entries {
                let name = format!("{above}{}", entry.name);
                match entry.node {
                    Node::Folder { tree, .. } => ahead.push((name + "/", tree)),
                    Node::File { digest, size } => files.push((name, size, digest)),
                    Node::Symlink { .. } | Node::Fifo => {}
                }
            }
        }
        Ok(files)
    }

    /// Bytes of its files; of equal ones once.
    pub fn file_bytes(&self) -> u64 {
        let sizes = self.objects.values().map(|object| match object {
            Object::File { size, .. } => *size,
            Object::Folder { .. } => 0,
        });
        sizes.sum()
    }
}

/// What [`read`] needs besides the place: where indexes are kept, the time, and how files are opened.
pub struct Surroundings<'a> {
    /// The folder of the indexes; without one every file is read.
    pub cache: Option<PathBuf>,
    /// The time now, nanoseconds since 1970.
    pub now_ns: i64,
    /// How files are opened.
    pub files: &'a dyn Files,
    /// What of the contexts is meant; `None`: all.
    pub meant: Option<&'a Sources>,
    /// Files of the context that are read as if they were in it. A [`Source`] names them as files that aren't there.
    pub known: Option<&'a Known>,
    /// Whether it is to go on, asked for each file and folder.
    pub goes_on: &'a dyn GoesOn,
}

/// Walks and hashes all roots. Takes as many threads as there are CPUs; blocks.
///
/// # Errors
/// Something that isn't left out can't be read or named, or changes all the time.
pub fn read(location: &Location, around: &Surroundings<'_>) -> Result<Source, ContextError> {
    let mut source = Source::default();
    let mut seen = HashSet::new();
    let all = Selection::All;
    source.warnings.clone_from(&location.left_out);
    let patterns = ignore::load(location, &mut source.warnings)?;
    let meant = around.meant.map_or(&all, |meant| &meant.context);
    let what = (&patterns, meant, location.recorded.as_ref());
    source.add(ROOT_CONTEXT.to_owned(), &location.root, what, around, &mut seen)?;
    source.add_dockerfile(location, around, &mut seen)?;
    for (name, root) in &location.named {
        let patterns = ignore::load_named(root, location.links, &mut source.warnings)?;
        let meant = around.meant.and_then(|meant| meant.named.get(name)).unwrap_or(&all);
        let what = (&patterns, meant, &Recorded::default());
        source.add(named_root(name), root, what, around, &mut seen)?;
    }
    source.files = seen.len();
    Ok(source)
}

/// Reads what is meant of a folder, as the root `context`; `ignores`: without what its `.dockerignore` leaves out. Of one that was
/// unpacked `recorded` is what its archive says.
///
/// # Errors
/// As [`read`].
pub fn read_folder(
    root: &Path,
    recorded: &Recorded,
    ignores: bool,
    meant: &Selection,
    around: &Surroundings<'_>,
) -> Result<Source, ContextError> {
    let mut source = Source::default();
    let mut seen = HashSet::new();
    let patterns = match ignores {
        true => ignore::load_named(root, Links::default(), &mut source.warnings)?,
        false => PatternSet::default(),
    };
    let what = (&patterns, meant, recorded);
    source.add(ROOT_CONTEXT.to_owned(), root, what, around, &mut seen)?;
    source.files = seen.len();
    Ok(source)
}

impl Source {
    /// Takes in a folder, but for what its patterns leave out and what isn't meant.
    fn add(
        &mut self,
        root_name: String,
        root: &Path,
        (patterns, selection, recorded): (&PatternSet, &Selection, &Recorded),
        around: &Surroundings<'_>,
        seen: &mut HashSet<PathBuf>,
    ) -> Result<(), ContextError> {
        let known = around.known.filter(|_| root_name == ROOT_CONTEXT);
        let meant = meant::find(root, selection)?;
        let scan = walk::scan(root, patterns, meant, (recorded, known), around.goes_on)?;
        let index = Index::load(around.cache.as_deref(), root, selection);
        let digests = files::in_parallel(scan.files.len(), |i, buffer| {
            let file = &scan.files[i];
            if !around.goes_on.goes_on() {
                return Err(ContextError::BrokenOff);
            }
            match file.known.or_else(|| index.get(&file.name, &file.stat)) {
                Some(digest) => Ok((Some((digest, file.stat)), false)),
                None => files::digest(around.files, &root.join(&file.name), &file.name, buffer)
                    .map(|read| (read, true)),
            }
        })?;
        self.files_read += digests.iter().filter(|(_, read)| *read).count();
        let digests: Vec<Option<(Digest, Stat)>> = digests.into_iter().map(|(digest, _)| digest).collect();
        // What is gone since it was listed is not in the tree.
        let there = || scan.files.iter().zip(&digests).filter_map(|(file, known)| Some((file, (*known)?)));
        let known = there().map(|(file, (digest, stat))| (file.name.as_str(), stat, digest));
        // A cache that can't be written costs time only.
        let _ = index.replace(root, around.now_ns, known);
        for (file, (digest, stat)) in there() {
            seen.insert(root.join(&file.name));
            self.objects.entry(digest).or_insert_with(|| Object::File {
                path: root.join(&file.name),
                size: stat.size,
                name: file.name.clone(),
            });
        }
        let folders = scan.folders(&digests)?;
        for (name, folder) in folders {
            let both = self.add_folder(name, &folder);
            // The last is the root.
            self.roots.insert(root_name.clone(), both);
        }
        self.warnings.extend(scan.left_out);
        Ok(())
    }

    fn add_folder(&mut self, name: String, folder: &Folder) -> (Digest, Digest) {
        let bytes = folder.encode();
        let tree = Digest::of(&bytes);
        let children = folder.children().collect();
        self.objects.entry(tree).or_insert(Object::Folder { bytes: bytes.into(), children, name });
        (tree, folder.content_digest())
    }

    /// The root with the Dockerfile and its own `.dockerignore`, and nothing else.
    fn add_dockerfile(
        &mut self,
        location: &Location,
        around: &Surroundings<'_>,
        seen: &mut HashSet<PathBuf>,
    ) -> Result<(), ContextError> {
        let mut buffer = vec![0; 64 * 1024];
        let mut entries = Vec::new();
        let ignore = format!("{}.dockerignore", location.dockerfile_name);
        for name in [location.dockerfile_name.clone(), ignore] {
            let shown = location.in_short(&location.dockerfile.with_file_name(&name));
            let Some(path) = location.beside(OsStr::new(&name))? else {
                if name == location.dockerfile_name {
                    return Err(ContextError::Changed(shown));
                }
                continue;
            };
            let metadata = path.metadata().map_err(|e| ContextError::unreadable(&shown, &e))?;
            let (digest, stat) = files::digest(around.files, &path, &shown, &mut buffer)?
                .ok_or_else(|| ContextError::Changed(shown.clone()))?;
            seen.insert(path.clone());
            let node = Node::File { size: stat.size, digest };
            let recorded = path.strip_prefix(&location.root).ok().and_then(|path| location.recorded.of(path));
            let Stamp { mode, mtime } =
                recorded.unwrap_or(Stamp { mode: walk::mode(&metadata), mtime: stat.mtime });
            entries.push(Entry { name, mode, mtime, node });
            self.objects.entry(digest).or_insert(Object::File { path, size: stat.size, name: shown });
        }
        let folder = Folder::new(entries).map_err(|e| ContextError::Location(e.to_string()))?;
        let both = self.add_folder(ROOT_DOCKERFILE.to_owned(), &folder);
        self.roots.insert(ROOT_DOCKERFILE.to_owned(), both);
        Ok(())
    }
}

#[cfg(test)]
mod archive_tests;
#[cfg(test)]
mod link_tests;
#[cfg(test)]
mod tests;
