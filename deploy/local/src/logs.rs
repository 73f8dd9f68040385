//! The parts' logs: files that are appended to, kept small, and read by `farm logs --of`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// When a log is moved to `NAME.log.1`.
const LARGE: u64 = 16 << 20;

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
        let file = OpenOptions::new().create(true).append(true).open(path)?;
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

/// The last `count` lines.
pub fn last_lines(text: &str, count: usize) -> Vec<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|&line| line.to_owned()).collect()
}

/// Keeps a log from growing for ever: its content is copied to `NAME.log.1` and cut off. Whoever appends goes on at
/// the new end; a line that is written between copy and cut is lost.
pub fn keep_small(path: &Path) {
    if fs::metadata(path).is_ok_and(|m| m.len() > LARGE) {
        let mut old = path.as_os_str().to_owned();
        old.push(".1");
        if fs::copy(path, &old).is_ok()
            && let Ok(file) = OpenOptions::new().write(true).open(path)
        {
            let _ = file.set_len(0);
        }
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
        assert!(fs::metadata(folder.path().join("a.log.1")).unwrap().len() > LARGE);
    }
}
