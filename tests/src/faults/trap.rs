//! Where a coordinator is stopped or killed: at a step of its publish pass, exactly.
//!
//! The steps are those of `reconcile/publish/put.rs`. Those that are requests to the registry are met at its [`Door`], before
//! the registry gets to know of it, or when it has done its part and the answer is still on its way. Those that write to
//! the database are met in the middle of their transaction: it waits for a row that another session holds. Nothing in
//! farm knows of it.
//!
//! [`Door`]: super::door::Door

use std::fmt;
use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// A request of a coordinator's, as the door sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    ReadsChild,
    LooksForIndex,
    LooksForChild,
    PutsIndex,
    /// It sends a blob: what is on its way then breaks off in the middle.
    PutsBlob,
    LooksAtTag,
    PutsTag,
    /// It looks at a tag that it has just put.
    Verifies,
}

/// A step of the publish pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    ReadChildren,
    MergeKept,
    LookForIndex,
    PutIndex,
    DestinationPushed,
    LookAtTag,
    ClaimTag,
    PutTag,
    TagPutNoted,
    Verify,
    VerifiedNoted,
    /// Of a tag that may have been overtaken: it is looked at once more, put back, and that is noted.
    LookAgain,
    PutBack,
    LookNoted,
}

/// When within its step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before the registry is asked.
    Before,
    /// The registry has done it; the answer waits.
    After,
    /// In the middle of a transaction.
    Within,
}

/// What is done to the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Kill,
    /// For longer than its leadership lasts.
    Stop,
}

/// Where in the publish pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    pub step: Step,
    pub when: When,
}

impl Point {
    /// All of them, in the order of the pass. (Images that the same process has read for the merge aren't looked for.)
    pub const PASS: [Point; 16] = [
        Point { step: Step::ReadChildren, when: When::Before },
        Point { step: Step::ReadChildren, when: When::After },
        Point { step: Step::MergeKept, when: When::Within },
        Point { step: Step::LookForIndex, when: When::Before },
        Point { step: Step::PutIndex, when: When::Before },
        Point { step: Step::PutIndex, when: When::After },
        Point { step: Step::DestinationPushed, when: When::Within },
        Point { step: Step::LookAtTag, when: When::Before },
        Point { step: Step::LookAtTag, when: When::After },
        Point { step: Step::ClaimTag, when: When::Within },
        Point { step: Step::PutTag, when: When::Before },
        Point { step: Step::PutTag, when: When::After },
        Point { step: Step::TagPutNoted, when: When::Within },
        Point { step: Step::Verify, when: When::Before },
        Point { step: Step::Verify, when: When::After },
        Point { step: Step::VerifiedNoted, when: When::Within },
    ];

    /// Where something was done that is written down nowhere, or is being written down.
    pub const NOT_NOTED: [Point; 6] = [
        Point { step: Step::MergeKept, when: When::Within },
        Point { step: Step::PutIndex, when: When::After },
        Point { step: Step::ClaimTag, when: When::Within },
        Point { step: Step::PutTag, when: When::After },
        Point { step: Step::TagPutNoted, when: When::Within },
        Point { step: Step::Verify, when: When::Before },
    ];

    /// Those of the later look at a tag that was overtaken.
    pub const LATER_LOOK: [Point; 4] = [
        Point { step: Step::LookAgain, when: When::Before },
        Point { step: Step::PutBack, when: When::Before },
        Point { step: Step::PutBack, when: When::After },
        Point { step: Step::LookNoted, when: When::Within },
    ];

    /// The request at which the door acts: a transaction is met after the request that comes before it.
    pub fn request(self) -> (Asked, When) {
        match self.step {
            Step::ReadChildren => (Asked::ReadsChild, self.when),
            Step::MergeKept => (Asked::ReadsChild, When::After),
            Step::LookForIndex => (Asked::LooksForIndex, self.when),
            Step::PutIndex => (Asked::PutsIndex, self.when),
            Step::DestinationPushed => (Asked::PutsIndex, When::After),
            Step::LookAtTag | Step::LookAgain => (Asked::LooksAtTag, self.when),
            Step::ClaimTag => (Asked::LooksAtTag, When::After),
            Step::PutTag | Step::PutBack => (Asked::PutsTag, self.when),
            Step::TagPutNoted | Step::LookNoted => (Asked::PutsTag, When::After),
            Step::Verify => (Asked::Verifies, self.when),
            Step::VerifiedNoted => (Asked::Verifies, When::After),
        }
    }

    /// The rows that the step's transaction comes to, of builds whose tag is `tag`; nothing for a request.
    pub fn rows(self, tag: &str) -> Option<String> {
        let publishing =
            format!("SELECT publication_id FROM tags WHERE tag = '{tag}' AND settled_at IS NULL");
        Some(match self.step {
            Step::MergeKept => format!(
                "SELECT 1 FROM jobs WHERE execution_id IN (SELECT execution_id FROM builds WHERE state = 'publishing'
                 AND spec->>'tags' ~ '[:\"]{tag}\"') FOR UPDATE"
            ),
            Step::DestinationPushed => {
                format!("SELECT 1 FROM destinations WHERE publication_id IN ({publishing}) FOR UPDATE")
            }
            Step::ClaimTag | Step::TagPutNoted | Step::VerifiedNoted => {
                format!("SELECT 1 FROM tags WHERE tag = '{tag}' AND settled_at IS NULL FOR UPDATE")
            }
            Step::LookNoted => format!("SELECT 1 FROM tag_heads WHERE tag = '{tag}' FOR UPDATE"),
            _ => return None,
        })
    }
}

impl fmt::Display for Point {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?} {:?}", self.when, self.step)
    }
}

/// What the door does when the request comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Does(How),
    /// It keeps the request, or its answer, until it is let go.
    Holds,
}

/// Waits for a request, once.
#[derive(Clone, Debug)]
pub struct Trap {
    pub asked: Asked,
    pub when: When,
    /// Of this tag only.
    pub tag: Option<String>,
    pub action: Action,
}

/// A trap that was met.
#[derive(Clone, Copy, Debug)]
pub struct Sprung {
    /// The coordinator's process.
    pub pid: u32,
}

/// Whose connection this is: the one of `pids` that has the socket from `from` to `to`, ports of the loopback.
pub fn owner(pids: &[u32], from: u16, to: u16) -> Option<u32> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let (local, remote) = (format!(":{from:04X}"), format!(":{to:04X}"));
    let inode = table.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_it = fields.next()?.ends_with(&local) && fields.next()?.ends_with(&remote);
        // After the state: queues, timer, retransmits, user, timeout.
        if is_it { fields.nth(6).map(str::to_owned) } else { None }
    })?;
    let socket = format!("socket:[{inode}]");
    let has = |pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|to| to.as_os_str() == socket.as_str())
    };
    pids.iter().copied().find(has)
}

/// A process that is gone already is no loss.
pub fn signal(pid: u32, how: How) {
    let signal = match how {
        How::Kill => Signal::KILL,
        How::Stop => Signal::STOP,
    };
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}
