//! Where outputs go: looked at before the build, written whole or not at all.
//!
//! A regular file appears by its name when it is complete, in the place of an older one whose mode it takes over; the place
//! that a link points to is written, not the link. What is no regular file (a device, a pipe) is written into.

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farm_types::Invalid;
use farm_types::chain::io_in_short;
use rustix::fs::{Access, access};

use super::layout::{INDEX_FILE, joined_index};
use super::wanted::{Place, Sink, Wanted};
use crate::place::Place as Named;

/// Sees now what would be a pity later. `others`: what else the command writes, each with its flag; `dockerfile`: what it is not
/// to lose.
///
/// # Errors
/// A place that can't be written, or that something else is written to, with the cure.
pub fn check<'a>(
    wanted: &Wanted,
    others: impl Iterator<Item = (&'static str, &'a Named)>,
    dockerfile: &Path,
) -> Result<(), Invalid> {
    let mut files: Vec<(&'static str, Cow<'a, Named>)> =
        others.map(|(flag, place)| (flag, Cow::Borrowed(place))).collect();
    for asked in &wanted.asked {
        let invalid = |value: String, cure: &str| Invalid::new("--output", value, cure);
        match &asked.sink {
            Sink::Folder { dest, .. } => {
                folder(dest).map_err(|cure| invalid(dest.display().to_string(), &cure))?;
            }
            Sink::Layout { dest, .. } => {
                folder(dest)
                    .and_then(|()| old_index(dest))
                    .map_err(|cure| invalid(dest.display().to_string(), &cure))?;
            }
            Sink::Tar { dest: Place::File(path), .. } | Sink::Image { dest: Place::File(path), .. } => {
                let invalid = |cure: &str| invalid(path.display().to_string(), cure);
                file(path).map_err(|cure| invalid(&cure))?;
                // What isn't known there (a disk) is none of them.
                let Ok(place) = Named::find(path) else { continue };
                if place.is_file(dockerfile) {
                    return Err(invalid("this is the Dockerfile, and would be lost; name another file"));
                }
                if let Some((flag, _)) = files.iter().find(|(_, other)| other.is_same(&place)) {
                    return Err(invalid(&format!("{flag} names the same file; name two")));
                }
                files.push(("another --output", Cow::Owned(place)));
            }
            Sink::Tar { dest: Place::Stdout, .. } | Sink::Image { dest: Place::Stdout, .. } => {
                if io::stdout().is_terminal() {
                    let cure = "standard output is a terminal, and this is no text; name a file with dest=FILE, or send it on (… | tar -t)";
                    return Err(invalid(format!("type={}", asked.sink.kind()), cure));
                }
            }
            Sink::Load { .. } => {}
        }
    }
    Ok(())
}

/// Sees that a folder can be filled, or made.
fn folder(dest: &Path) -> Result<(), String> {
    // The next one above that is there.
    let mut there = dest;
    let metadata = loop {
        match fs::metadata(there) {
            Ok(metadata) => break metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound && there != Path::new(".") => {
                if there.is_symlink() {
                    return Err("this is a link to what isn't there; name a folder".to_owned());
                }
                there = folder_of(there);
            }
            Err(error) => return Err(format!("it can't be looked at ({})", io_in_short(&error))),
        }
    };
    match metadata.is_dir() {
        true => may_write(there, "name another one"),
        false if there == dest => Err("this is a file; name a folder".to_owned()),
        false => Err(format!("{} is a file; name another folder", there.display())),
    }
}

/// Sees that what is in a layout already can be kept.
fn old_index(dest: &Path) -> Result<(), String> {
    let path = dest.join(INDEX_FILE);
    if path.is_symlink() {
        return Err(format!("its {INDEX_FILE} is a link; name another folder"));
    }
    match fs::read(path) {
        Ok(bytes) => joined_index(&bytes, br#"{"schemaVersion":2,"manifests":[]}"#).map(drop).map_err(|_| {
            format!("its {INDEX_FILE} can't be understood, and would be lost; name another folder")
        }),
        Err(_) => Ok(()),
    }
}

/// Sees that a file can be put there, or written into.
fn file(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Err("this is a folder; name a file".to_owned()),
        Ok(metadata) if !metadata.is_file() => return may_write(path, "name another file"),
        _ => {}
    }
    let place = final_place(path).map_err(|_| "its links lead in a circle; name a file".to_owned())?;
    let folder = folder_of(&place);
    if !folder.is_dir() {
        return Err("its folder isn't there; make it first".to_owned());
    }
    may_write(folder, "name a file in another one")
}

/// Sees that a folder, or what is written into, can be written.
fn may_write(path: &Path, cure: &str) -> Result<(), String> {
    let is_folder = path.is_dir();
    let wanted = if is_folder { Access::WRITE_OK | Access::EXEC_OK } else { Access::WRITE_OK };
    access(path, wanted).map_err(|error| {
        let what = if is_folder { format!("the folder {}", path.display()) } else { "it".to_owned() };
        format!("{what} can't be written ({}); {cure}", io_in_short(&error.into()))
    })
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

    fn told(outputs: &[String], others: &[(&'static str, &Named)], dockerfile: &Path) -> Result<(), String> {
        let wanted = Wanted::new(outputs, false, false).unwrap();
        check(&wanted, others.iter().copied(), dockerfile).map_err(|error| error.to_string())
    }

    #[test]
    fn what_can_not_be_written_is_told_before() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        fs::create_dir(folder.path().join("layout")).unwrap();
        fs::write(folder.path().join("layout/index.json"), "mine").unwrap();
        let refused = |form: &str, name: &str| {
            let output = format!("{form},dest={}", folder.path().join(name).display());
            told(&[output], &[], Path::new("Dockerfile"))
        };
        assert!(refused("type=local", "file").unwrap_err().contains("name a folder"));
        assert!(refused("type=local", "file/x").is_err());
        assert!(refused("type=tar", "").unwrap_err().contains("name a file"));
        assert!(refused("type=oci", "none/x").unwrap_err().contains("make it first"));
        assert!(refused("type=local", "none/x").is_ok());
        assert!(refused("type=docker", "file").is_ok());
        assert!(refused("type=oci,tar=false", "layout").unwrap_err().contains("would be lost"));
        assert!(refused("type=oci,tar=false", "new").is_ok());
        // Where nobody, or only root, may write.
        fs::create_dir(folder.path().join("ro")).unwrap();
        fs::set_permissions(folder.path().join("ro"), fs::Permissions::from_mode(0o555)).unwrap();
        let may = fs::write(folder.path().join("ro/probe"), "").is_ok();
        for form in ["type=local", "type=tar", "type=oci"] {
            assert_eq!(refused(form, "ro/x").is_ok(), may, "{form}");
        }
    }

    #[test]
    fn what_two_would_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let output = |form: &str, name: &str| format!("type={form},dest={}", at(name).display());
        fs::write(at("Dockerfile"), "FROM scratch").unwrap();
        std::os::unix::fs::symlink("a", at("link")).unwrap();
        let other = Named::find(&at("id")).unwrap();
        let others = [("--iidfile", &other)];
        let dockerfile = at("Dockerfile");
        for (outputs, why) in [
            (vec![output("tar", "a"), output("oci", "a")], "another --output names the same"),
            (vec![output("tar", "a"), output("oci", "link")], "another --output names the same"),
            (vec![output("oci", "id")], "--iidfile names the same"),
            (vec![output("oci", "Dockerfile")], "this is the Dockerfile"),
        ] {
            let error = told(&outputs, &others, &dockerfile).unwrap_err();
            assert!(error.contains(why), "{outputs:?}: {error}");
        }
        let null = "type=tar,dest=/dev/null".to_owned();
        assert!(
            told(&[output("tar", "a"), output("oci", "b"), null.clone(), null], &others, &dockerfile).is_ok()
        );
    }
}
