//! Running an image on the farm: its own command, on a worker of its platform, through the engine's build machinery.
//!
//! The run is a build without tags whose Dockerfile has two instructions, FROM the variant's digest and RUN its command in
//! exec form (no shell is needed in the image). So it has what RUN has: the image's environment, user and folder; no
//! terminal, no standard input, no ports, and a copy of the image's files that is dropped at the end. Nothing of it is
//! cached: no cached result is used, and a name of its own for the machine keeps two runs at once from being made one.

pub mod compare;
mod dockerfile;

use std::sync::Arc;
use std::time::Duration;

use farm_proto::v1::attempt_event::Event;
use farm_proto::v1::{Build, StepLog, SubmitBuildRequest};
use farm_types::run_options::Network;
use farm_types::spec::Purpose;
use farm_types::{BuildSpec, Emulation, Platform, Provenance, PullMode, Repository, RunOptions};
use tokio::time::sleep;

use crate::calls;
use crate::connect::Client;
use crate::error::{Error, Result};
use crate::follow::{Seen, follow, is_final};
use crate::image::Variant;
use crate::output::summary::{deciding_attempt, platform_jobs};
use crate::output::text::harmless;
use crate::source;
use crate::upload;
use crate::upload::Sending;
pub use dockerfile::Setting;
use farm_source::Location;
use farm_source::stdin::read_dockerfile;

/// What is to be run, and how.
#[derive(Debug, Clone)]
pub struct Order {
    /// Where the image is.
    pub repository: Repository,
    /// The digest of the variant's manifest.
    pub digest: String,
    /// As the image was named, for lists.
    pub shown: String,
    /// Where it runs.
    pub platform: Platform,
    /// The program and its arguments; never empty.
    pub command: Vec<String>,
    /// Variables besides the image's own.
    pub environment: Vec<Setting>,
    /// `--network`.
    pub network: Network,
    /// `--emulation`.
    pub emulation: Emulation,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The program ended by itself, with this code (128 and the signal's number when a signal ended it).
    Exited(i32),
    /// The farm couldn't run it, or not to the end.
    Failed(String),
    /// Somebody cancelled it.
    Cancelled,
    /// It took longer than it was given.
    TimedOut,
}

/// What a run tells while it goes on.
#[derive(Debug)]
pub enum Told<'a> {
    /// Of the farm's doings, for people.
    Note(String),
    /// A worker has it.
    Started {
        /// `native on w1`.
        on: String,
        /// Why it is emulated, or nothing.
        why: String,
    },
    /// The program wrote this.
    Output(&'a StepLog),
    /// What was written so far is void: the run was lost, and begins anew.
    Anew,
}

impl Order {
    /// The variant's own command, with the part of it that is asked for replaced as `docker run` does it: `entrypoint`
    /// replaces all, `arguments` the image's default arguments.
    ///
    /// # Errors
    /// The image has no command of its own, and none was named; or this is no image.
    pub fn command(variant: &Variant, entrypoint: Option<&str>, arguments: &[String]) -> Result<Vec<String>> {
        let owned = |words: Vec<&str>| words.into_iter().map(str::to_owned).collect::<Vec<_>>();
        if variant.config.is_null() {
            let why = match variant.raw.problem.as_str() {
                "" => "it is no image, so there is nothing to run",
                problem => problem,
            };
            return Err(Error::Usage(format!("{}: {}", harmless(&variant.raw.digest), harmless(why))));
        }
        // A build runs these before all else, a container does not.
        if variant.config["config"]["OnBuild"].as_array().is_some_and(|triggers| !triggers.is_empty()) {
            return Err(Error::Usage(
                "the image has ONBUILD instructions, which would run here too; run an image that is made from it".to_owned(),
            ));
        }
        let mut command = match entrypoint {
            Some(entrypoint) => vec![entrypoint.to_owned()],
            None => owned(variant.words("Entrypoint")),
        };
        if arguments.is_empty() && entrypoint.is_none() {
            command.extend(owned(variant.words("Cmd")));
        } else {
            command.extend(arguments.iter().cloned());
        }
        if command.is_empty() {
            return Err(Error::Usage(
                "the image has no entrypoint and no command of its own; name one after --, for example: -- /bin/sh -c 'uname -m'"
                    .to_owned(),
            ));
        }
        Ok(command)
    }

    /// Brings what the run needs to the farm; nothing runs yet.
    ///
    /// # Errors
    /// The farm can't be reached, or it refuses.
    pub async fn prepare(&self, client: &Client) -> Result<Ready> {
        let text = dockerfile::text(self);
        let folder = read_dockerfile(text.as_bytes())?;
        let path = folder.path().to_string_lossy();
        let location = Location::find(&path, None, &Default::default())?;
        let (_, uploaded) = source::bring(client, &location, true, &Arc::new(Sending::default())).await?;
        let key = uuid::Uuid::new_v4();
        let hostname = format!("run-{}", &key.simple().to_string()[..12]);
        let spec = BuildSpec {
            snapshot: uploaded.snapshot(),
            platforms: vec![self.platform.clone()],
            tags: Vec::new(),
            dockerfile: location.dockerfile_name,
            target: None,
            build_args: Default::default(),
            labels: Default::default(),
            no_cache: true,
            no_cache_stages: Vec::new(),
            run: RunOptions {
                network: self.network,
                hostname: Some(hostname.parse()?),
                ..Default::default()
            },
            pull: PullMode::Default,
            provenance: Provenance::Off,
            sbom: None,
            single_platform: Default::default(),
            named_contexts: Default::default(),
            emulation: self.emulation,
            timeout_ms: None,
            exports: Vec::new(),
            image_names: Vec::new(),
            optional: Vec::new(),
            purpose: Purpose::Run(self.shown.clone()),
            partial: Default::default(),
            mounts: Default::default(),
            origins: Default::default(),
            verify: Default::default(),
            packaging: Default::default(),
            expected: Vec::new(),
            gate: None,
            sign: None,
        };
        Ok(Ready(upload::request(&uploaded, &key.to_string(), &spec, Vec::new())))
    }
}

/// A run that only has to be asked for.
#[derive(Debug)]
pub struct Ready(SubmitBuildRequest);

impl Ready {
    /// Begins it; answers its build.
    ///
    /// # Errors
    /// The farm can't be reached, or it refuses.
    pub async fn start(self, client: &Client) -> Result<Build> {
        let (build, _) = calls::submit(client, self.0).await?;
        Ok(build)
    }
}

/// Follows a run to its end, for at most `limit`; then it is cancelled.
///
/// # Errors
/// The farm can't be asked any more.
pub(crate) async fn watch(
    client: &Client,
    id: &str,
    limit: Duration,
    mut tell: impl FnMut(Told<'_>),
) -> Result<Ended> {
    let mut teller = Teller::default();
    let following = follow(client, id, true, sleep, |seen| teller.seen(&seen, &mut tell));
    let Ok(last) = tokio::time::timeout(limit, following).await else {
        if let Err(error) = calls::cancel(client, id).await {
            tell(Told::Note(format!(
                "it could not be cancelled ({error}); it goes on until the farm ends it"
            )));
        }
        return Ok(Ended::TimedOut);
    };
    last?
        .filter(is_final)
        .map(|build| ended(&build))
        .ok_or_else(|| Error::Farm(format!("the farm at {} told nothing of build {id}", client.url())))
}

fn ended(build: &Build) -> Ended {
    match (build.state.as_str(), &build.failure) {
        ("succeeded", _) => Ended::Exited(0),
        ("cancelled", _) => Ended::Cancelled,
        (_, Some(failure)) => {
            // What the runtime says when there is nothing that it could start; the exit code is its own then.
            let unable = match failure.log_tail.as_slice() {
                [only] if only.starts_with("runc run failed: ") => Some(only),
                _ => None,
            };
            match (failure.exit_code.filter(|_| failure.cause != "infrastructure"), unable) {
                (_, Some(line)) => Ended::Failed(harmless(line)),
                (Some(code), None) => Ended::Exited(code),
                (None, None) => Ended::Failed(harmless(&failure.message)),
            }
        }
        (state, None) => Ended::Failed(format!("it ended as {}", harmless(state))),
    }
}

/// What was told already.
#[derive(Debug, Default)]
struct Teller {
    waiting: String,
    attempt: String,
}

impl Teller {
    fn seen(&mut self, seen: &Seen<'_>, tell: &mut impl FnMut(Told<'_>)) {
        match seen {
            Seen::Build(build) => self.build(build, tell),
            Seen::Attempt(events) => {
                for event in &events.events {
                    if let Some(Event::Log(log)) = &event.event {
                        tell(Told::Output(log));
                    }
                }
            }
            Seen::Away(why) => tell(Told::Note(format!("the farm doesn't answer ({why}); trying again"))),
            Seen::Back => tell(Told::Note("the farm is back".to_owned())),
        }
    }

    fn build(&mut self, build: &Build, tell: &mut impl FnMut(Told<'_>)) {
        for job in platform_jobs(build) {
            if job.state == "ready" && job.waiting != self.waiting {
                self.waiting.clone_from(&job.waiting);
                if !job.waiting.is_empty() {
                    tell(Told::Note(format!("waiting: {}", harmless(&job.waiting))));
                }
            }
            let Some(attempt) = deciding_attempt(job).filter(|attempt| attempt.id != self.attempt) else {
                continue;
            };
            if !self.attempt.is_empty() {
                tell(Told::Note("the worker was lost; running again".to_owned()));
                tell(Told::Anew);
            }
            self.attempt.clone_from(&attempt.id);
            tell(Told::Started {
                on: format!("{} on {}", harmless(&attempt.support), harmless(&attempt.worker)),
                why: harmless(&attempt.support_reason),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use farm_proto::v1::Failure;

    use super::*;

    #[test]
    fn the_programs_own_code_is_told_apart_from_the_farms_troubles() {
        let failed = |cause: &str, exit_code| Build {
            state: "failed".into(),
            failure: Some(Failure {
                cause: cause.into(),
                message: "why".into(),
                exit_code,
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(ended(&failed("user", Some(3))), Ended::Exited(3));
        assert_eq!(ended(&failed("killed", Some(137))), Ended::Exited(137));
        assert_eq!(ended(&failed("infrastructure", Some(1))), Ended::Failed("why".into()));
        assert_eq!(ended(&failed("user", None)), Ended::Failed("why".into()));
        let mut absent = failed("user", Some(1));
        let line =
            "runc run failed: unable to start container process: exec: \"nope\": executable file not found";
        absent.failure.as_mut().unwrap().log_tail = vec![line.to_owned()];
        assert_eq!(ended(&absent), Ended::Failed(line.to_owned()));
    }

    #[test]
    fn the_command_is_the_images_or_what_is_put_in_its_place() {
        let variant = |config: serde_json::Value| Variant {
            what: crate::image::What::Image,
            raw: Default::default(),
            manifest: Default::default(),
            config,
            entry_annotations: Default::default(),
        };
        let both = variant(serde_json::json!({"config": {"Entrypoint": ["e", "1"], "Cmd": ["c"]}}));
        let command = |entrypoint, arguments: &[&str]| {
            let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
            Order::command(&both, entrypoint, &arguments).unwrap_or_default().join(" ")
        };
        assert_eq!(command(None, &[]), "e 1 c");
        assert_eq!(command(None, &["x"]), "e 1 x");
        assert_eq!(command(Some("sh"), &[]), "sh");
        assert_eq!(command(Some("sh"), &["-c", "true"]), "sh -c true");
        let none = Order::command(&variant(serde_json::json!({"config": {}})), None, &[]).unwrap_err();
        assert!(none.to_string().contains("after --"), "{none}");
        assert!(Order::command(&variant(serde_json::Value::Null), None, &[]).is_err());
        let trigger = variant(serde_json::json!({"config": {"Cmd": ["c"], "OnBuild": ["RUN make"]}}));
        assert!(Order::command(&trigger, None, &[]).unwrap_err().to_string().contains("ONBUILD"));
    }
}
