//! What an image has to pass once it is pushed: a command that runs in it, by a solve of its own on the engine that has built it.
//!
//! The solve is of a Dockerfile of two instructions: FROM what was pushed, by its digest, and RUN the command. The image's own user,
//! environment and working directory hold, as FROM takes them over. Nothing of the build's secrets, keys, entitlements and arguments goes
//! with it, nothing is taken from the cache, and nothing comes of it but how it ends.
//!
//! Invariants: whatever the command, the Dockerfile has these two instructions and no other; what is told of the solve's steps can't be
//! taken for the build's; that a command ended badly is its user's, and all else is what it is in a build.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use farm_proto::v1::AttemptEvent;
use farm_proto::v1::attempt_event::Event;
use farm_types::run_options::Network;
use farm_types::{
    Cause, Digest, Entitlements, Failure, FailureCode, Gate, ImageRef, Platform, Provenance, PullMode,
    Repository, RunOptions,
};
use tokio::sync::mpsc;

use crate::buildkit::{MemoryTree, Mounted, Solve, SourceTree};

/// Events on their way.
const QUEUE: usize = 16;
/// What the digests of the gate's steps begin with: an engine may have a step of both solves.
const MARK: &str = "gate:";
/// What the names of its steps begin with.
const LABEL: &str = "[gate] ";
/// As BuildKit cuts a step's name in a message ([`crate::buildkit`], `failure`).
const STEP_CHARS: usize = 160;

/// A gate, and what its solve has of the build's.
pub(crate) struct Gating {
    gate: Gate,
    repository: Repository,
    solve: Solve,
}

impl Gating {
    /// The gate of a build that is solved so; none where nothing is pushed.
    pub(crate) fn of(gate: Option<Gate>, build: &Solve) -> Option<Self> {
        let (gate, export) = gate.zip(build.export.as_ref())?;
        let repository = export.repositories.first()?.clone();
        let network = match build.run.network {
            Network::None => Network::None,
            // That of the machine is an entitlement.
            Network::Default | Network::Host => Network::Default,
        };
        let solve = Solve {
            platform: build.platform.clone(),
            dockerfile: "Dockerfile".to_owned(),
            target: None,
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            no_cache: true,
            no_cache_stages: Vec::new(),
            run: RunOptions { network, allow: Entitlements::new(), ..build.run.clone() },
            pull: PullMode::Default,
            provenance: Provenance::Off,
            sbom: None,
            form: Default::default(),
            named_contexts: BTreeMap::new(),
            roots: BTreeMap::new(),
            partial: BTreeMap::new(),
            shared_key: format!("{}-gate", build.shared_key),
            caches: build.caches.clone(),
            export: None,
            outputs: Vec::new(),
            image_names: Vec::new(),
            logins: build.logins.clone(),
            lending: build.lending.clone(),
            bounds: build.bounds.clone(),
            fetches: build.fetches.clone(),
            mounted: Arc::<Mounted>::default(),
            mask: build.mask.clone(),
            internal: build.internal,
            call: None,
        };
        Some(Self { gate, repository, solve })
    }

    /// The solve that runs it in what was pushed.
    pub(crate) fn solve(&self, pushed: &Digest) -> Solve {
        let text = dockerfile(&self.repository, pushed, &self.gate);
        let tree: Arc<dyn SourceTree> = Arc::new(MemoryTree::new([("Dockerfile", 0o644, text.into_bytes())]));
        let mut solve = self.solve.clone();
        solve.roots = [("dockerfile".to_owned(), tree)].into();
        if let Some(bounds) = &mut solve.bounds {
            bounds.pushed =
                Some(ImageRef { repository: self.repository.clone(), tag: None, digest: Some(*pushed) });
        }
        solve
    }

    /// Passes on what its solve tells, as a gate's. The second part has to run beside the solve; it ends when all senders are gone.
    pub(crate) fn tell(
        &self,
        onward: mpsc::Sender<AttemptEvent>,
    ) -> (mpsc::Sender<AttemptEvent>, impl Future<Output = ()> + Send + use<>) {
        let (sender, mut events) = mpsc::channel::<AttemptEvent>(QUEUE);
        let shown = self.gate.shown();
        let telling = async move {
            while let Some(mut event) = events.recv().await {
                if marked(&mut event, &shown) {
                    // An error: nobody listens.
                    let _ = onward.send(event).await;
                }
            }
        };
        (sender, telling)
    }

    /// What a failure of its solve means to the build.
    pub(crate) fn failed(&self, failure: Failure, platform: &Platform) -> Failure {
        let command = self.gate.shown();
        let step = failure.step.clone().unwrap_or_default();
        let what: String = step.chars().take(STEP_CHARS).collect();
        let own = failure.message.strip_prefix(&format!("{what}: ")).filter(|_| !what.is_empty());
        let (cause, code, message) = match (&failure.code, failure.exit_code) {
            // An image that was made for others to stand upon: the engine runs these before.
            _ if step.contains("] ONBUILD ") => {
                let why = own.unwrap_or(&failure.message);
                let message = format!(
                    "the gate could not be run on {platform}: the image has ONBUILD triggers, which run in whatever stands upon it, and \
                     one of them failed: {}: {why}",
                    named(&step)
                );
                match failure.cause {
                    Cause::User => (Cause::User, FailureCode::GateFailed, message),
                    cause => (cause, failure.code.clone(), message),
                }
            }
            (FailureCode::RunFailed, Some(code)) => {
                let message = format!("the gate failed on {platform} with exit code {code}: {command}");
                (Cause::User, FailureCode::GateFailed, message)
            }
            (FailureCode::RunFailed, None) => {
                let why = own.unwrap_or(&failure.message);
                let message = format!("the gate could not be run on {platform}: {command}: {why}");
                (Cause::User, FailureCode::GateFailed, message)
            }
            // It was there a moment ago, or the engine's push was none.
            (FailureCode::BaseImageMissing, _) => {
                let message =
                    format!("what was just pushed can't be pulled again for its gate: {}", failure.message);
                (Cause::Infrastructure, FailureCode::RegistryUnavailable, message)
            }
            (code, _) => {
                let message = match own {
                    Some(own) => format!("the gate on {platform}, {command}: {own}"),
                    None => format!("the gate on {platform}: {}", failure.message),
                };
                (failure.cause, code.clone(), message)
            }
        };
        let lacks_shell = matches!(self.gate, Gate::Shell(_)) && code == FailureCode::GateFailed;
        let says = |text: &str| text.contains("exec: \"/bin/sh\": ");
        let message = match lacks_shell
            && (says(&failure.message) || failure.log_tail.iter().any(|line| says(line)))
        {
            true => format!(
                "{message}; the image has no /bin/sh: write the command as an array, like '[\"/app\", \"--self-test\"]'"
            ),
            false => message,
        };
        let name = if step.is_empty() || is_command(&step) { command } else { named(&step).to_owned() };
        Failure {
            cause,
            code,
            message,
            step: Some(format!("{LABEL}{name}")),
            // Nobody has written that Dockerfile.
            source: None,
            ..failure
        }
    }
}

/// The Dockerfile that runs a gate. Its command stands in a JSON array in which nothing has a meaning to a Dockerfile: neither `$` nor
/// `<<` nor a line's end, which are written by their numbers.
fn dockerfile(repository: &Repository, pushed: &Digest, gate: &Gate) -> String {
    let words: Vec<String> = gate.arguments().into_iter().map(quoted).collect();
    format!("FROM {repository}@{pushed}\nRUN [{}]\n", words.join(","))
}

/// A JSON text of letters, digits and what means nothing to anybody.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || " /._-=:,@%+".contains(c) {
            quoted.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // A text takes all.
            let _ = write!(quoted, "\\u{unit:04x}");
        }
    }
    quoted.push('"');
    quoted
}

/// Whether it is the gate's own command that a step of this name runs.
fn is_command(step: &str) -> bool {
    named(step).starts_with("RUN [")
}

/// A step's name (`[2/2] RUN …`) without its place.
fn named(step: &str) -> &str {
    step.split_once("] ").map_or(step, |(_, name)| name)
}

/// Makes an event of the solve one of a gate's; false: it says nothing to anybody.
fn marked(event: &mut AttemptEvent, command: &str) -> bool {
    let mark = |digest: &mut String| digest.insert_str(0, MARK);
    match &mut event.event {
        Some(Event::Step(step)) => {
            mark(&mut step.digest);
            if step.number > 0 {
                let name = if is_command(&step.name) { command } else { named(&step.name) };
                step.name = format!("{LABEL}{name}");
                // It is none of the Dockerfile's.
                (step.number, step.total) = (0, 0);
                step.stage.clear();
                step.instruction.clear();
            }
        }
        Some(Event::Log(log)) => mark(&mut log.step_digest),
        Some(Event::Transfer(transfer)) => mark(&mut transfer.step_digest),
        // Of a Dockerfile that nobody has written.
        Some(Event::Warning(_)) => return false,
        Some(Event::Notice(_)) | None => {}
    }
    true
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
