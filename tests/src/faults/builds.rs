//! The builds of a run: their sources, and the users who submit and cancel them.
//!
//! A user is a thread that runs `farm` as people do, and runs it again while the farm doesn't answer, with the same
//! idempotency key. What it was told counts: from then on the build must not be lost.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::plan::{Kind, Submission};
use super::stage::Stage;
use crate::bed::Bed;
use crate::farm::output;

/// A user gives up after so many tries.
const TRIES: usize = 60;
const PAUSE: Duration = Duration::from_secs(1);
/// The exit code of `farm` when no farm answers.
const NO_ANSWER: i32 = 3;
pub const PLATFORMS: [&str; 2] = ["linux/amd64", "linux/arm64"];
const LINES_PER_BURST: u32 = 20;
/// Far more than is waited for before the cancel.
const CANCELLED_BURSTS: u32 = 200;

/// Writes numbered lines in bursts, leaves a file, and ends with the code that it is given.
const WRITER: &str = r#"text=$1 bursts=$2 code=$3 n=0 burst=0
while [ $burst -lt $bursts ]; do
  burst=$((burst + 1)) i=0
  while [ $i -lt 20 ]; do i=$((i + 1)) n=$((n + 1)); echo "$text line $n ...................................."; done
  sleep 0.3
done
echo "$text" >/out
exit $code
"#;

/// A submission, and what its user saw.
#[derive(Clone, Debug)]
pub struct Submitted {
    pub number: usize,
    pub submission: Submission,
    pub tag: String,
    /// Told by the farm: it was accepted.
    pub id: Option<String>,
    pub begun: SystemTime,
    pub ended: SystemTime,
    pub tries: usize,
    /// What it was told when it was refused, or when it gave up.
    pub trouble: String,
}

impl Submitted {
    /// Its idempotency key, its label, and part of each of its lines.
    pub fn name(&self) -> String {
        name(self.number)
    }

    /// How many lines a step of it writes; none when it has no such step, or doesn't come to its end.
    pub fn lines(&self) -> Option<u32> {
        match self.submission.kind {
            Kind::Writes { bursts } | Kind::Fails { bursts } => Some(bursts * LINES_PER_BURST),
            Kind::Copies | Kind::Cancelled { .. } => None,
        }
    }

    /// Whether one of its rows is made unreadable.
    pub fn is_spoiled(&self) -> bool {
        self.submission.is_spoiled()
    }

    /// The number of a line of its log; nothing for a line that it never wrote.
    pub fn line_number(&self, text: &str) -> Option<u32> {
        let rest = text.strip_prefix(&format!("{} line ", self.name()))?;
        rest.strip_suffix(" ....................................")?.parse().ok()
    }
}

fn name(number: usize) -> String {
    format!("build-{number}")
}

/// Begins to submit; the thread ends when the build was accepted, and cancelled if it is to be.
pub fn submit(stage: &Stage, number: usize, submission: Submission) -> JoinHandle<Submitted> {
    let tag = format!("{}/faults-{}:t{}", stage.door.address(), submission.tag % 3, submission.tag);
    let context = stage.folder().join("contexts").join(number.to_string());
    write_context(&context, number, submission.kind);
    let mut command = stage.command(&["submit"]);
    command.arg(&context).args(["--platform", &PLATFORMS.join(","), "-t", &tag, "--detach", "--json"]);
    command.args(["--idempotency-key", &name(number)]);
    let cancel = stage.command(&["cancel"]);
    std::thread::spawn(move || {
        let begun = SystemTime::now();
        let mut submitted = Submitted {
            number,
            submission,
            tag,
            id: None,
            begun,
            ended: begun,
            tries: 0,
            trouble: String::new(),
        };
        insist(&mut command, &mut submitted, |submitted, stdout| {
            let build: Value = serde_json::from_str(stdout).unwrap_or_default();
            submitted.id = build["id"].as_str().map(str::to_owned);
        });
        submitted.ended = SystemTime::now();
        if let (Some(id), Kind::Cancelled { after }) = (submitted.id.clone(), submission.kind) {
            std::thread::sleep(after);
            let mut cancel = cancel;
            insist(cancel.arg(id), &mut submitted, |_, _| ());
        }
        submitted
    })
}

/// Runs a command until it got an answer, and hands its output on when that was a good one.
fn insist(command: &mut Command, submitted: &mut Submitted, good: impl Fn(&mut Submitted, &str)) {
    for _ in 0..TRIES {
        submitted.tries += 1;
        let answer = output(command);
        if answer.status == 0 {
            submitted.trouble.clear();
            return good(submitted, &answer.stdout);
        }
        submitted.trouble = format!("exit {}: {}", answer.status, answer.stderr.trim());
        // Of an unreadable row more can't be told than that.
        if answer.status != NO_ANSWER && !submitted.is_spoiled() {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

/// The image holds one small file, so that pushing takes no time; the base is only run.
fn write_context(folder: &Path, number: usize, kind: Kind) {
    let (base, name) = (format!("{}/python:3.11-slim", Bed::from_env().registry), name(number));
    let (bursts, code) = match kind {
        Kind::Copies => (0, 0),
        Kind::Writes { bursts } => (bursts, 0),
        Kind::Fails { bursts } => (bursts, 7),
        Kind::Cancelled { .. } => (CANCELLED_BURSTS, 0),
    };
    let dockerfile = if bursts == 0 {
        format!("FROM scratch\nLABEL build={name}\nCOPY text /out\n")
    } else {
        format!(
            "FROM {base} AS work\nCOPY writer.sh /\nRUN sh /writer.sh {name} {bursts} {code}\n\
             FROM scratch\nLABEL build={name}\nCOPY --from=work /out /out\n"
        )
    };
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("Dockerfile"), dockerfile).unwrap();
    fs::write(folder.join("text"), name).unwrap();
    fs::write(folder.join("writer.sh"), WRITER).unwrap();
}
