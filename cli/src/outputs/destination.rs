//! Where outputs go: looked at before the build, written whole or not at all.
//!
//! A regular file appears by its name when it is complete, in the place of an older one whose mode it takes over; the place
//! that a link points to is written, not the link. What is no regular file (a device, a pipe) is written into.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farm_types::Invalid;

use super::wanted::{Place, Sink, Wanted};
use crate::error::io_in_short;

/// Sees now what would be a pity later.
///
/// # Errors
/// A place that can't be written, with the cure.
pub fn check(wanted: &Wanted) -> Result<(), Invalid> {
    for asked in &wanted.asked {
        let invalid = |value: String, cure: &str| Err(Invalid::new("--output", value, cure));
        match &asked.sink {
            Sink::Folder { dest, .. } | Sink::Layout { dest, .. } => {
                if fs::metadata(dest).is_ok_and(|metadata| !metadata.is_dir()) {
                    return invalid(dest.display().to_string(), "this is a file; name a folder");
                }
            }
            Sink::Tar { dest: Place::File(path), .. } | Sink::Image { dest: Place::File(path), .. } => {
                if path.is_dir() {
                    return invalid(path.display().to_string(), "this is a folder; name a file");
                }
                let folder = folder_of(path);
                if !folder.is_dir() {
                    return invalid(path.display().to_string(), "its folder isn't there; make it first");
                }
            }
            Sink::Tar { dest: Place::Stdout, .. } | Sink::Image { dest: Place::Stdout, .. } => {
                if io::stdout().is_terminal() {
                    let cure = "standard output is a terminal, and this is no text; name a file with dest=FILE, or send it on (… | tar -t)";
                    return invalid(format!("type={}", asked.sink.kind()), cure);
                }
            }
            Sink::Load { .. } => {}
        }
    }
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What is being written, for whoever waits for it: dropping this removes a file that isn't complete, also when the thread
/// that writes it is stuck and nobody waits for that any more.
#[derive(Debug, Default)]
pub struct Unfinished(Known);

/// What a [`Writing`] tells to its [`Unfinished`].
#[derive(Debug, Clone, Default)]
pub struct Known(Arc<Mutex<Part>>);

#[derive(Debug, Default)]
enum Part {
    #[default]
    None,
    Begun(PathBuf),
    /// Nobody waits: nothing may begin, or come into its place, any more.
    GivenUp,
}

impl Unfinished {
    /// To write with.
    pub fn known(&self) -> Known {
        self.0.clone()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let mut part = self.0.lock();
        if let Part::Begun(path) = &*part {
            let _ = fs::remove_file(path);
        }
        *part = Part::GivenUp;
    }
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, Part> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn given_up() -> io::Error {
    io::Error::other("it was given up")
}

/// A file on its way. Dropped before [`Writing::finish`] it leaves nothing.
pub enum Writing {
    /// Standard output.
    Stdout(io::Stdout),
    /// No regular file: written into.
    Into(File),
    /// Beside its place.
    Beside(Beside),
}

/// A file that is not in its place yet.
pub struct Beside {
    file: File,
    part: PathBuf,
    place: PathBuf,
    known: Known,
}

impl Drop for Beside {
    fn drop(&mut self) {
        let mut part = self.known.lock();
        if let Part::Begun(path) = &*part {
            let _ = fs::remove_file(path);
            *part = Part::None;
        }
    }
}

impl Writing {
    /// Begins to write there.
    ///
    /// # Errors
    /// The system doesn't let us, or nobody waits for it any more.
    pub fn begin(place: &Place, known: &Known) -> io::Result<Self> {
        let path = match place {
            Place::Stdout => return Ok(Self::Stdout(io::stdout())),
            Place::File(path) => path,
        };
        let mode = match fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => {
                let kind = metadata.file_type();
                let truncate = !(kind.is_fifo() || kind.is_char_device() || kind.is_block_device());
                return Ok(Self::Into(OpenOptions::new().write(true).truncate(truncate).open(path)?));
            }
            Ok(metadata) => Some(metadata.permissions().mode() & 0o7777),
            Err(_) => None,
        };
        let place = final_place(path)?;
        let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let part = folder_of(&place).join(format!(".{name}.{}.part", uuid::Uuid::new_v4().simple()));
        let file = {
            let mut begun = known.lock();
            if matches!(*begun, Part::GivenUp) {
                return Err(given_up());
            }
            let file = OpenOptions::new().write(true).create_new(true).mode(0o666).open(&part)?;
            *begun = Part::Begun(part.clone());
            file
        };
        let beside = Beside { file, part, place, known: known.clone() };
        if let Some(mode) = mode {
            beside.file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        Ok(Self::Beside(beside))
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// The system doesn't let us; nothing is left then.
    pub fn finish(self) -> io::Result<()> {
        match self {
            Self::Stdout(mut stdout) => stdout.flush(),
            Self::Into(mut file) => file.flush(),
            Self::Beside(beside) => {
                let mut part = beside.known.lock();
                if matches!(*part, Part::GivenUp) {
                    return Err(given_up());
                }
                fs::rename(&beside.part, &beside.place)?;
                *part = Part::None;
                Ok(())
            }
        }
    }
}

/// Where links lead, also the last one to what isn't there yet.
fn final_place(path: &Path) -> io::Result<PathBuf> {
    let mut place = path.to_owned();
    // As many as the kernel follows.
    for _ in 0..40 {
        match fs::read_link(&place) {
            Ok(target) => place = folder_of(&place).join(target),
            Err(_) => return Ok(place),
        }
    }
    Err(io::Error::other("too many links"))
}

impl Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(stdout) => stdout.write(bytes),
            Self::Into(file) => file.write(bytes),
            Self::Beside(beside) => beside.file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.flush(),
            Self::Into(file) => file.flush(),
            Self::Beside(beside) => beside.file.flush(),
        }
    }
}

/// What went wrong there, for a person.
pub fn failed(what: &str, error: &io::Error) -> String {
    format!("{what} can't be written ({})", io_in_short(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &Path) -> Place {
        Place::File(path.to_owned())
    }

    #[test]
    fn a_file_appears_whole_keeps_its_mode_and_leaves_nothing_when_it_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.tar");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let mut writing = Writing::begin(&place(&path), &Known::default()).unwrap();
        writing.write_all(b"half").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        drop(writing);
        assert_eq!(
            (fs::read(&path).unwrap(), fs::read_dir(folder.path()).unwrap().count()),
            (b"old".to_vec(), 1)
        );
        let mut writing = Writing::begin(&place(&path), &Known::default()).unwrap();
        writing.write_all(b"new").unwrap();
        writing.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_not_there_while_its_thread_still_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.tar");
        let count = || fs::read_dir(folder.path()).unwrap().count();
        let unfinished = Unfinished::default();
        let known = unfinished.known();
        let mut writing = Writing::begin(&place(&path), &known).unwrap();
        assert_eq!(count(), 1);
        drop(unfinished);
        assert_eq!(count(), 0);
        writing.write_all(b"late").unwrap();
        assert!(writing.finish().is_err());
        assert!(Writing::begin(&place(&path), &known).is_err());
        assert_eq!(count(), 0);
    }

    #[test]
    fn links_and_devices_are_written_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (link, target) = (folder.path().join("link"), folder.path().join("target"));
        for old in [None, Some("old")] {
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink("target", &link).unwrap();
            if let Some(old) = old {
                fs::write(&target, old).unwrap();
            }
            let mut writing = Writing::begin(&place(&link), &Known::default()).unwrap();
            writing.write_all(b"new").unwrap();
            writing.finish().unwrap();
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            assert_eq!(fs::read(&target).unwrap(), b"new");
            fs::remove_file(&target).unwrap();
        }
        let mut writing = Writing::begin(&place(Path::new("/dev/null")), &Known::default()).unwrap();
        writing.write_all(b"x").unwrap();
        writing.finish().unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }

    #[test]
    fn what_can_not_be_written_is_told_before() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let refused = |form: &str, name: &str| {
            let output = format!("{form},dest={}", folder.path().join(name).display());
            check(&Wanted::new(&[output], false, false).unwrap()).map_err(|error| error.to_string())
        };
        assert!(refused("type=local", "file").unwrap_err().contains("name a folder"));
        assert!(refused("type=tar", "").unwrap_err().contains("name a file"));
        assert!(refused("type=oci", "none/x").unwrap_err().contains("make it first"));
        assert!(refused("type=local", "none/x").is_ok());
        assert!(refused("type=docker", "file").is_ok());
    }
}
