//! Finding the context, the Dockerfile and the named contexts that a command names, before any work.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Address, ContextError};

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
}

impl Location {
    /// Looks at what `farm submit CONTEXT -f FILE --build-context NAME=FOLDER` names. Without `file` it is
    /// `Dockerfile`, or else `dockerfile`, in the context; a relative `file` is taken from the working
    /// folder, as Docker takes it.
    ///
    /// # Errors
    /// Something isn't there, isn't what it should be, or can't be read.
    pub fn find(
        context: &str,
        file: Option<&Path>,
        named: &BTreeMap<String, PathBuf>,
    ) -> Result<Self, ContextError> {
        // A folder that is there is one, whatever it looks like.
        if let Some(address) = Address::of(context)
            && !Path::new(context).is_dir()
        {
            return Err(ContextError::Location(format!(
                "context {context:?}: farm fetches no contexts from addresses yet; {}",
                address.instead_of_context(context)
            )));
        }
        if let Some(text) = file.and_then(Path::to_str)
            && let Some(address) = Address::of(text)
            && !Path::new(text).is_file()
        {
            return Err(ContextError::Location(format!(
                "-f {text:?}: farm fetches no Dockerfiles from addresses yet; {}",
                address.instead_of_dockerfile(text)
            )));
        }
        let root = folder("context", context, Path::new(context))?;
        let shown = match Path::new(context).file_name() {
            // `.` and `..` say nothing to who reads it later.
            None => root.file_name().map_or(context.to_owned(), |name| name.to_string_lossy().into_owned()),
            Some(_) => context.trim_end_matches('/').to_owned(),
        };
        let dockerfile = dockerfile(&root, file)?;
        let Some(dockerfile_name) =
            dockerfile.file_name().and_then(|name| name.to_str()).map(ToOwned::to_owned)
        else {
            return Err(ContextError::Location(format!("-f {}: this is no file name", dockerfile.display())));
        };
        let named = named
            .iter()
            .map(|(name, path)| {
                let what = format!("build context {name}");
                Ok((name.clone(), folder(&what, &path.display().to_string(), path)?))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { root, shown, dockerfile, dockerfile_name, named })
    }
}

fn folder(what: &str, written: &str, path: &Path) -> Result<PathBuf, ContextError> {
    let wrong = |text: String| ContextError::Location(format!("{what} {written:?}: {text}"));
    let root = path.canonicalize().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            wrong("there is no such folder; name one, for example: farm submit .".to_owned())
        }
        _ => wrong(crate::error::io_in_short(&e)),
    })?;
    if !root.is_dir() {
        return Err(wrong(
            "this is a file, and a folder is needed; the Dockerfile is named with -f FILE".to_owned(),
        ));
    }
    match std::fs::read_dir(&root) {
        Ok(_) => Ok(root),
        Err(e) => {
            Err(wrong(format!("can't be read ({}); mend it with chmod u+rx", crate::error::io_in_short(&e))))
        }
    }
}

fn dockerfile(root: &Path, file: Option<&Path>) -> Result<PathBuf, ContextError> {
    let wrong = |text: String| Err(ContextError::Location(text));
    let path = match file {
        Some(file) => file.to_owned(),
        None => {
            let usual = root.join("Dockerfile");
            let lower = root.join("dockerfile");
            if !usual.exists() && lower.is_file() { lower } else { usual }
        }
    };
    let shown = path.display();
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let cure = match candidates(path.parent().unwrap_or(root)) {
                found if found.is_empty() => "name it with -f FILE".to_owned(),
                found => format!("name it with -f FILE; there is {}", found.join(", ")),
            };
            return wrong(format!("there is no Dockerfile at {shown}; {cure}"));
        }
        Err(e) => {
            return wrong(format!("can't read the Dockerfile {shown} ({})", crate::error::io_in_short(&e)));
        }
    };
    if metadata.is_dir() {
        return wrong(format!("-f {shown}: this is a folder; name the Dockerfile in it"));
    }
    if !metadata.is_file() {
        return wrong(format!("-f {shown}: this is no regular file; name the Dockerfile with -f FILE"));
    }
    if let Err(e) = std::fs::File::open(&path) {
        return wrong(format!(
            "can't read the Dockerfile {shown} ({}); make it readable, for example with chmod u+r",
            crate::error::io_in_short(&e)
        ));
    }
    if metadata.len() == 0 {
        return wrong(format!(
            "the Dockerfile {shown} is empty; it needs at least a FROM line, or name another with -f FILE"
        ));
    }
    Ok(path)
}

/// Up to three files that look like the one that was meant.
fn candidates(folder: &Path) -> Vec<String> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let Ok(listing) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<String> = listing
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            let lower = name.to_ascii_lowercase();
            (lower.contains("dockerfile") || lower.contains("containerfile"))
                && !lower.ends_with(".dockerignore")
        })
        .map(|name| folder.join(name).display().to_string())
        .collect();
    found.sort();
    found.truncate(3);
    found
}
