//! A folder that can hang: whoever opens or reads a file in it waits until it is let go. The kernel asks for permission
//! and gets no answer (fanotify); when whoever should answer is gone, by whatever end, all goes on. It needs root and a
//! mount namespace of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};

use crate::process::run;

/// Unmounted, and let go, when it is dropped.
#[derive(Debug)]
pub struct HangingFolder {
    at: PathBuf,
    unanswered: Option<Fanotify>,
}

impl HangingFolder {
    /// At a folder, which is made if need be. Those who have it open already are not held up.
    pub fn at(at: &Path) -> HangingFolder {
        fs::create_dir_all(at).unwrap();
        // A mount of its own, as it is the mount that is watched.
        run(Command::new("mount").arg("--bind").arg(at).arg(at));
        HangingFolder { at: at.to_owned(), unanswered: None }
    }

    /// From now on whoever opens a file, or reads one that he has open, waits. Not those who rename or remove.
    pub fn hang(&mut self) {
        let asked = Fanotify::init(
            InitFlags::FAN_CLASS_CONTENT
                | InitFlags::FAN_CLOEXEC
                | InitFlags::FAN_NONBLOCK
                | InitFlags::FAN_UNLIMITED_QUEUE,
            EventFFlags::O_RDONLY,
        )
        .expect("root may watch files");
        let marked = asked.mark(
            MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_MOUNT,
            MaskFlags::FAN_OPEN_PERM | MaskFlags::FAN_ACCESS_PERM,
            nix::fcntl::AT_FDCWD,
            Some(&self.at),
        );
        marked.unwrap_or_else(|error| panic!("{}: {error}", self.at.display()));
        self.unanswered = Some(asked);
    }

    /// The processes that began to wait since this was last asked.
    pub fn who_waits(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        while let Some(asked) = &self.unanswered
            && let Ok(events) = asked.read_events()
            && !events.is_empty()
        {
            pids.extend(events.iter().filter_map(|event| u32::try_from(event.pid()).ok()));
        }
        pids
    }

    /// Whoever waits goes on.
    pub fn go_on(&mut self) {
        self.unanswered = None;
    }
}

impl Drop for HangingFolder {
    fn drop(&mut self) {
        self.go_on();
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}
