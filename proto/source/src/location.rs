//! Finding the context, the Dockerfile and the named contexts that a command names, before any work.
//!
//! Links of the Dockerfile and of ignore files are followed as buildx follows them ([`super::within`]): within the folder
//! that the file lies in, or within the archive; never to anything else of this machine.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use farm_types::Invalid;
use farm_types::chain::io_in_short;

use super::ContextError;
use super::unpack::{Recorded, Unpacked};
use super::within::{Leads, follow};

/// Where a context and its Dockerfile may lead by links.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Links {
    /// As with buildx: the Dockerfile may lie anywhere, and folders on the way to it and to the context may be links.
    #[default]
    Buildx,
    /// The Dockerfile and the ignore files are in the context, whatever is a link; for who builds what strangers send.
    Inside,
}

impl FromStr for Links {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "buildx" => Ok(Self::Buildx),
            "inside" => Ok(Self::Inside),
            _ => Err(Invalid::new("--context-links", text, "write inside, or buildx for what buildx does")),
        }
    }
}

/// What a command names.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// `-f`; without it `Dockerfile`, or else `dockerfile`, in the context.
    pub file: Option<&'a Path>,
    /// The file was written by farm itself, from standard input.
    pub is_own_file: bool,
    /// `--build-context NAME=FOLDER`.
    pub named: &'a BTreeMap<String, PathBuf>,
    /// `--context-links`.
    pub links: Links,
}

/// Where a build's source lies. All of it was there and readable when it was looked at.
#[derive(Debug, Clone)]
pub struct Location {
    /// The context's folder, absolute and without links.
    pub root: PathBuf,
    /// How the context is called in messages.
    pub shown: String,
    /// The Dockerfile, as it was named.
    pub dockerfile: PathBuf,
    /// Its name in the snapshot's root `dockerfile`.
    pub dockerfile_name: String,
    /// The folders of named contexts, absolute and without links.
    pub named: BTreeMap<String, PathBuf>,
    /// What an archive says of its files; nothing of a folder's.
    pub recorded: Arc<Recorded>,
    /// Sentences on what of an archive was left out.
    pub left_out: Vec<String>,
    /// Where links may lead.
    pub links: Links,
    /// The folder out of which no link of the Dockerfile leads.
    scope: PathBuf,
    /// What all of it is in, if that isn't this machine.
    within: Option<&'static str>,
}

impl Location {
    /// Looks at what `farm submit CONTEXT -f FILE --build-context NAME=FOLDER` names; a relative `file` is taken from the
    /// working folder, as Docker takes it.
    ///
    /// # Errors
    /// Something isn't there, isn't what it should be, can't be read, or leads where it may not.
    pub fn find(
        context: &str,
        file: Option<&Path>,
        named: &BTreeMap<String, PathBuf>,
    ) -> Result<Self, ContextError> {
        Self::look(context, &Wanted { file, is_own_file: false, named, links: Links::default() })
    }

    /// The same with all that can be said of it.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn look(context: &str, wanted: &Wanted<'_>) -> Result<Self, ContextError> {
        let root = folder("context", context, Path::new(context), wanted.links)?;
        let shown = match Path::new(context).file_name() {
            // `.` and `..` say nothing to who reads it later.
            None => root.file_name().map_or(context.to_owned(), |name| name.to_string_lossy().into_owned()),
            Some(_) => context.trim_end_matches('/').to_owned(),
        };
        let dockerfile = match wanted.file {
            Some(file) => file.to_owned(),
            None => usual(&root)?,
        };
        let scope = match dockerfile.parent() {
            Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
            Some(parent) => parent.to_owned(),
            None => PathBuf::from("/"),
        };
        let links = if wanted.is_own_file { Links::Buildx } else { wanted.links };
        Self::at(root, shown, dockerfile, scope, None, &Wanted { links, ..*wanted })
    }

    /// The same for an archive; `file` is in it, as Docker takes it.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn in_archive(
        unpacked: Unpacked,
        wanted: &Wanted<'_>,
    ) -> Result<(Self, tempfile::TempDir), ContextError> {
        let Unpacked { folder, recorded, left_out } = unpacked;
        let root =
            folder.path().canonicalize().map_err(|e| ContextError::unreadable("a temporary folder", &e))?;
        let dockerfile = match wanted.file {
            // An absolute name begins at the archive's root.
            Some(file) => root.join(file.strip_prefix("/").unwrap_or(file)),
            None => usual(&root)?,
        };
        let shown = "standard input".to_owned();
        let mut location = Self::at(
            root.clone(),
            shown,
            dockerfile,
            root,
            Some((Arc::new(recorded), "the archive")),
            wanted,
        )?;
        location.left_out = left_out;
        Ok((location, folder))
    }

    /// The same for a folder of which nothing else on this machine is a part, and its Dockerfile by its path in it; without one the
    /// usual. It is called `shown`, and what is in it by its path.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn enclosed(root: &Path, shown: &str, dockerfile: Option<&str>) -> Result<Self, ContextError> {
        let root = root.canonicalize().map_err(|e| ContextError::unreadable(shown, &e))?;
        let dockerfile = match dockerfile {
            Some(path) => root.join(path),
            None => usual(&root)?,
        };
        let named = BTreeMap::new();
        let wanted = Wanted { file: None, is_own_file: false, named: &named, links: Links::default() };
        Self::at(
            root.clone(),
            shown.to_owned(),
            dockerfile,
            root,
            Some((Arc::default(), "the repository")),
            &wanted,
        )
    }

    fn at(
        root: PathBuf,
        shown: String,
        dockerfile: PathBuf,
        scope: PathBuf,
        within: Option<(Arc<Recorded>, &'static str)>,
        wanted: &Wanted<'_>,
    ) -> Result<Self, ContextError> {
        let Some(dockerfile_name) =
            dockerfile.file_name().and_then(|name| name.to_str()).map(ToOwned::to_owned)
        else {
            return Err(ContextError::Location(format!("-f {}: this is no file name", dockerfile.display())));
        };
        let named = wanted
            .named
            .iter()
            .map(|(name, path)| {
                let what = format!("build context {name}");
                Ok((name.clone(), folder(&what, &path.display().to_string(), path, wanted.links)?))
            })
            .collect::<Result<_, _>>()?;
        let (recorded, within) = within.unzip();
        let location = Self {
            root,
            shown,
            dockerfile,
            dockerfile_name,
            named,
            recorded: recorded.unwrap_or_default(),
            left_out: Vec::new(),
            links: wanted.links,
            scope,
            within,
        };
        location.check_dockerfile()?;
        Ok(location)
    }

    /// Where the Dockerfile is, its links followed.
    ///
    /// # Errors
    /// It is gone since it was looked at.
    pub fn dockerfile_without_links(&self) -> Result<PathBuf, ContextError> {
        let found = self.beside(OsStr::new(&self.dockerfile_name))?;
        found.ok_or_else(|| ContextError::Changed(self.in_short(&self.dockerfile)))
    }

    /// The file of this name beside the Dockerfile, its links followed; nothing if there is none.
    ///
    /// # Errors
    /// It can't be looked at, or leads where it may not.
    pub(super) fn beside(&self, name: &OsStr) -> Result<Option<PathBuf>, ContextError> {
        let named = self.dockerfile.with_file_name(name);
        let path = named.strip_prefix(&self.scope).unwrap_or(Path::new(name));
        let found = match follow(&self.scope, path, true) {
            Ok(Leads::To(path)) => self.scope.join(path),
            Ok(Leads::Missing { .. } | Leads::Nowhere) => return Ok(None),
            Err(e) => return Err(ContextError::unreadable(&self.in_short(&named), &e)),
        };
        if self.links == Links::Inside {
            let real =
                found.canonicalize().map_err(|e| ContextError::unreadable(&self.in_short(&named), &e))?;
            if !real.starts_with(&self.root) {
                return Err(ContextError::Location(format!(
                    "{}: this is {}, outside of the context {}, where --context-links=inside lets nothing come from; put it \
                     into the context, or take --context-links=buildx if you trust who sends this",
                    named.display(),
                    real.display(),
                    self.shown
                )));
            }
        }
        Ok(Some(found))
    }

    /// How a path is called in messages: one in an archive as it is called there.
    pub(super) fn in_short(&self, path: &Path) -> String {
        let shown = if self.within.is_some() { path.strip_prefix(&self.root).unwrap_or(path) } else { path };
        shown.display().to_string()
    }

    fn check_dockerfile(&self) -> Result<(), ContextError> {
        let wrong = |text: String| Err(ContextError::Location(text));
        let shown = self.in_short(&self.dockerfile);
        let Some(path) = self.beside(OsStr::new(&self.dockerfile_name))? else {
            if let Some(target) = link_at(&self.dockerfile) {
                let of = self.within.unwrap_or("its folder");
                let cure = match self.within {
                    Some(within) => format!("put the file itself into {within}"),
                    None => "as with buildx, no link leads out of it; name the file itself with -f FILE"
                        .to_owned(),
                };
                return wrong(format!(
                    "the Dockerfile {shown} is a link to {target}, and there is no such file in {of}; {cure}"
                ));
            }
            let cure = match self.candidates() {
                found if found.is_empty() => "name it with -f FILE".to_owned(),
                found => format!("name it with -f FILE; there is {}", found.join(", ")),
            };
            let place = self.within.map_or(shown.clone(), |within| format!("{shown} in {within}"));
            return wrong(format!("there is no Dockerfile at {place}; {cure}"));
        };
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(e) => return wrong(format!("can't read the Dockerfile {shown} ({})", io_in_short(&e))),
        };
        if metadata.is_dir() {
            return wrong(format!("-f {shown}: this is a folder; name the Dockerfile in it"));
        }
        if !metadata.is_file() {
            return wrong(format!("-f {shown}: this is no regular file; name the Dockerfile with -f FILE"));
        }
        if let Err(e) = super::open_file(&path) {
            return wrong(format!(
                "can't read the Dockerfile {shown} ({}); make it readable, for example with chmod u+r",
                io_in_short(&e)
            ));
        }
        if metadata.len() == 0 {
            return wrong(format!(
                "the Dockerfile {shown} is empty; it needs at least a FROM line, or name another with -f FILE"
            ));
        }
        Ok(())
    }

    /// Up to three files that look like the one that was meant.
    fn candidates(&self) -> Vec<String> {
        let folder = self.dockerfile.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let Ok(listing) = std::fs::read_dir(folder) else { return Vec::new() };
        let mut found: Vec<String> = listing
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| {
                let lower = name.to_ascii_lowercase();
                (lower.contains("dockerfile") || lower.contains("containerfile"))
                    && !lower.ends_with(".dockerignore")
            })
            .map(|name| self.in_short(&folder.join(name)))
            .collect();
        found.sort();
        found.truncate(3);
        found
    }
}

/// Where the link at this path leads, if it is one.
pub(super) fn link_at(path: &Path) -> Option<String> {
    path.read_link().ok().map(|target| target.display().to_string())
}

/// The Dockerfile of who named none.
fn usual(root: &Path) -> Result<PathBuf, ContextError> {
    let is_there = |name: &str| match follow(root, Path::new(name), true) {
        Ok(Leads::To(_)) => Ok(true),
        Ok(Leads::Missing { .. } | Leads::Nowhere) => Ok(false),
        Err(e) => Err(ContextError::unreadable(&root.join(name).display().to_string(), &e)),
    };
    let name = if !is_there("Dockerfile")? && is_there("dockerfile")? { "dockerfile" } else { "Dockerfile" };
    Ok(root.join(name))
}

fn folder(what: &str, written: &str, path: &Path, links: Links) -> Result<PathBuf, ContextError> {
    let wrong = |text: String| ContextError::Location(format!("{what} {written:?}: {text}"));
    let root = path.canonicalize().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            wrong("there is no such folder; name one, for example: farm submit .".to_owned())
        }
        _ => wrong(io_in_short(&e)),
    })?;
    if links == Links::Inside && path.is_relative() {
        let here = Path::new(".").canonicalize().map_err(|e| wrong(io_in_short(&e)))?;
        if follow_no_link(&here, path) != root {
            return Err(wrong(format!(
                "a link on the way leads to {}, and with --context-links=inside a relative path has none; name that folder, or \
                 take --context-links=buildx if you trust who sends this",
                root.display()
            )));
        }
    }
    if !root.is_dir() {
        return Err(wrong(
            "this is a file, and a folder is needed; the Dockerfile is named with -f FILE".to_owned(),
        ));
    }
    match std::fs::read_dir(&root) {
        Ok(_) => Ok(root),
        Err(e) => Err(wrong(format!("can't be read ({}); mend it with chmod u+rx", io_in_short(&e)))),
    }
}

/// Where a path leads from here when nothing on it is a link.
fn follow_no_link(here: &Path, path: &Path) -> PathBuf {
    let mut at = here.to_owned();
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => at.push(name),
            std::path::Component::ParentDir => drop(at.pop()),
            _ => {}
        }
    }
    at
}
