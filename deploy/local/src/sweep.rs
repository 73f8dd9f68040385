//! What a dead supervisor may have left, found by records and by the engine's own control group and folder only.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};

use crate::child::{Record, all, ends_within};
use crate::layout::{Layout, OwnEngine};

/// How long a leftover has to end by itself: its supervisor's death has told it to already.
const BY_ITSELF: Duration = Duration::from_secs(5);

/// Ends the processes that are recorded as a former supervisor's and still there, then what the own engine's builds
/// run. Its mounts went with its namespaces; what is mounted below the folder is somebody else's. Only for the holder of the folder's lock. Gives what was found, in words.
pub fn sweep(layout: &Layout) -> Vec<String> {
    let mut found = Vec::new();
    let records = fs::read_dir(layout.run("parts")).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in records.filter(|path| path.extension().is_some_and(|e| e == "json")) {
        let record = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
        if let Some(record) = record
            && let Some(process) = record.find()
        {
            found.push(format!("{} (pid {})", record.part, record.pid));
            let ask = if record.part == "postgres" { Signal::INT } else { Signal::TERM };
            let _ = pidfd_send_signal(&process, ask);
            if !ends_within(&process, BY_ITSELF) {
                let _ = pidfd_send_signal(&process, Signal::KILL);
                ends_within(&process, BY_ITSELF);
            }
        }
        let _ = fs::remove_file(path);
    }
    let killed: usize =
        [OwnEngine::Trusted, OwnEngine::Untrusted].map(|engine| group(&layout.group_of(engine))).iter().sum();
    if killed > 0 {
        found.push(format!("{killed} processes of builds"));
    }
    crate::binfmt::Changes::load(layout).unmount(layout);
    found
}

/// Kills what runs in a control group of this name, and removes the group. Gives the number of processes.
pub fn group(name: &str) -> usize {
    let within = format!("/{name}/");
    let processes: Vec<u32> = all()
        .filter(|pid| {
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            groups.lines().any(|line| format!("{line}/").contains(&within))
        })
        .collect();
    for pid in &processes {
        if let Ok(process) = crate::child::open(*pid) {
            let _ = pidfd_send_signal(&process, Signal::KILL);
            ends_within(&process, Duration::from_secs(2));
        }
    }
    // One hierarchy, or one for each controller.
    let base = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(base).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([base.to_owned()]) {
        let _ = remove_group(&hierarchy.join(name));
    }
    processes.len()
}

fn remove_group(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_group(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

/// What is mounted below a folder in our view of the file system, innermost first.
pub fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .filter(|at| at.starts_with(folder) && at != folder)
        .collect();
    found.reverse();
    found
}

/// proc_pid_mountinfo(5) writes blanks and backslashes as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        match after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &after[3..];
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    PathBuf::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    #[test]
    fn only_the_recorded_process_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::find(Some(folder.path())).unwrap();
        layout.prepare().unwrap();
        let sleeper = || Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        let (mut ours, mut other) = (sleeper(), sleeper());
        let record = |pid| Record::of(pid, "worker").unwrap();
        record(ours.id()).write(&layout.run("parts/worker.json")).unwrap();
        let stranger = Record { start_time: 1, ..record(other.id()) };
        stranger.write(&layout.run("parts/stranger.json")).unwrap();
        // A child of ours stays a zombie until it is waited for, which a pidfd tells as its end.
        assert_eq!(sweep(&layout), [format!("worker (pid {})", ours.id())]);
        assert!(ours.wait().unwrap().code().is_none());
        assert!(other.try_wait().unwrap().is_none());
        assert_eq!(fs::read_dir(layout.run("parts")).unwrap().count(), 0);
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn mount_points_are_read_as_they_are() {
        assert_eq!(unescape("/a\\040b/c\\134d"), Path::new("/a b/c\\d"));
    }
}
