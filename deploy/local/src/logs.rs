//! The parts' logs: files that are appended to, kept small, and read by `farm logs --of`.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// When a log is moved to `NAME.log.1`.
const LARGE: u64 = 16 << 20;
/// How much of a log is read at once.
const PIECE: u64 = 1 << 20;

/// One process's part of a log.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    from: u64,
}

impl LogFile {
    /// Opens it to be appended to.
    ///
    /// # Errors
    /// It can't be.
    pub fn begin(path: &Path) -> io::Result<Self> {
        keep_small(path);
        let file = open(path)?;
        let from = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, from })
    }

    /// For the process to write to.
    ///
    /// # Errors
    /// There are too many open files.
    pub fn writer(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// What was written since it began (or since it was made small).
    pub fn text(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.path) {
            let len = file.metadata().map_or(0, |m| m.len());
            let from = if len < self.from { 0 } else { self.from };
            let _ = file.seek(SeekFrom::Start(from)).and_then(|_| file.take(LARGE).read_to_end(&mut bytes));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The rest of the first whole line that begins so.
    pub fn line(&self, start: &str) -> Option<String> {
        let text = self.text();
        let whole = &text[..text.rfind('\n')?];
        whole.lines().find_map(|line| line.strip_prefix(start)).map(str::to_owned)
    }

    /// Its last lines.
    pub fn tail(&self, count: usize) -> Vec<String> {
        last_lines(&self.text(), count)
    }
}

/// Opens a log to be appended to; makes it for all to read, whatever the umask.
///
/// # Errors
/// It can't be.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    match options.append(true).create_new(true).open(path) {
        Ok(file) => {
            file.set_permissions(Permissions::from_mode(0o644))?;
            Ok(file)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => options.create_new(false).open(path),
        Err(e) => Err(e),
    }
}

/// The last `count` lines.
pub fn last_lines(text: &str, count: usize) -> Vec<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|&line| line.to_owned()).collect()
}

/// Keeps a log from growing for ever: its last 16 MiB are copied to `NAME.log.1`, then it is cut to nothing, also where
/// there is no room for the copy. Whoever appends goes on at the new end; what is written between copy and cut is lost.
pub fn keep_small(path: &Path) {
    let keep = || -> io::Result<()> {
        let mut log = OpenOptions::new().read(true).write(true).open(path)?;
        let len = log.metadata()?.len();
        if len > LARGE {
            let mut old = path.as_os_str().to_owned();
            old.push(".1");
            let copied = log
                .seek(SeekFrom::Start(len - LARGE))
                .and_then(|_| File::create(&old))
                .and_then(|mut old| io::copy(&mut (&log).take(LARGE), &mut old));
            if copied.is_err() {
                let _ = fs::remove_file(&old);
            }
            log.set_len(0)?;
        }
        Ok(())
    };
    // One that isn't there is small.
    let _ = keep();
}

/// Reads a log from its last lines on, in pieces that fit in memory however long it is.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    at: u64,
    rest: Vec<u8>,
}

impl Tail {
    /// The last `count` lines of the last MiB, and where to go on.
    ///
    /// # Errors
    /// It can't be read.
    pub fn begin(path: &Path, count: usize) -> io::Result<(Self, Vec<String>)> {
        let mut file = File::open(path)?;
        let at = file.metadata()?.len();
        let from = at.saturating_sub(PIECE);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(at - from).read_to_end(&mut bytes)?;
        // What isn't a whole line yet comes with its end.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let rest = bytes.split_off(whole);
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        if from > 0 {
            text = text.split_once('\n').map(|(_, whole)| whole.to_owned()).unwrap_or_default();
        }
        Ok((Self { path: path.to_owned(), at, rest }, last_lines(&text, count)))
    }

    /// The whole lines that have come since, a MiB at most; empty: none.
    ///
    /// # Errors
    /// It can't be read.
    pub fn more(&mut self) -> io::Result<Vec<String>> {
        let mut file = File::open(&self.path)?;
        if file.metadata()?.len() < self.at {
            // It was made small meanwhile.
            self.at = 0;
        }
        file.seek(SeekFrom::Start(self.at))?;
        let read = file.take(PIECE).read_to_end(&mut self.rest)?;
        self.at += u64::try_from(read).unwrap_or_default();
        let endless = u64::try_from(self.rest.len()).is_ok_and(|len| len >= PIECE);
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map(|end| end + 1);
        let whole = whole.unwrap_or(if endless { self.rest.len() } else { 0 });
        let later = self.rest.split_off(whole);
        let now = std::mem::replace(&mut self.rest, later);
        Ok(String::from_utf8_lossy(&now).lines().map(str::to_owned).collect())
    }

    /// The beginning of a line whose end has not come; for when nothing more is waited for.
    pub fn unfinished(&self) -> Option<String> {
        (!self.rest.is_empty()).then(|| String::from_utf8_lossy(&self.rest).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_process_sees_its_own_lines_only_and_only_whole_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        fs::write(&path, "ready: old\n").unwrap();
        let log = LogFile::begin(&path).unwrap();
        let mut writer = log.writer().unwrap();
        write!(writer, "ready: ne").unwrap();
        assert_eq!(log.line("ready: "), None);
        writeln!(writer, "w").unwrap();
        assert_eq!(log.line("ready: ").as_deref(), Some("new"));
        assert_eq!(log.tail(3), ["ready: new"]);
    }

    #[test]
    fn a_large_log_is_moved_aside_and_appended_to_from_its_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let log = LogFile::begin(&path).unwrap();
        let mut writer = log.writer().unwrap();
        writer.write_all(&vec![b'x'; usize::try_from(LARGE).unwrap() + 1]).unwrap();
        keep_small(&path);
        writeln!(writer, "after").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after\n");
        assert_eq!(fs::metadata(folder.path().join("a.log.1")).unwrap().len(), LARGE);
    }

    #[test]
    fn a_log_without_room_for_its_copy_is_cut_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        fs::write(&path, vec![b'x'; usize::try_from(LARGE).unwrap() + 1]).unwrap();
        fs::create_dir(folder.path().join("a.log.1")).unwrap();
        keep_small(&path);
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    }

    #[test]
    fn a_tail_gives_each_line_once_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut log = File::create(&path).unwrap();
        write!(log, "one\ntwo\nthr").unwrap();
        let (mut tail, lines) = Tail::begin(&path, 1).unwrap();
        assert_eq!((lines, tail.unfinished().as_deref()), (vec!["two".to_owned()], Some("thr")));
        assert_eq!(tail.more().unwrap(), [""; 0]);
        write!(log, "ee\nfour\nfi").unwrap();
        assert_eq!(tail.more().unwrap(), ["three", "four"]);
        // Made small, and begun anew.
        fs::write(&path, "six\n").unwrap();
        assert_eq!(tail.more().unwrap().last().unwrap(), "fisix");
        // A line without end is given in pieces.
        fs::write(&path, vec![b'x'; 3 << 20]).unwrap();
        let (mut tail, lines) = Tail::begin(&path, 5).unwrap();
        assert!(lines.is_empty());
        assert_eq!(tail.more().unwrap()[0].len(), 1 << 20);
    }
}
