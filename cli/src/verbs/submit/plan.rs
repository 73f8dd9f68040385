//! The command line of `farm submit`, checked before anything is read or sent.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use farm_dockerfile::{Build, Dockerfile, Sources};
use farm_proto::convert::{check_build_arg, check_stage};
use farm_types::run_options::parse_bytes;
use farm_types::spec::{Call, NamedContext, Purpose, parse_duration};
use farm_types::{
    BuildSpec, Emulation, ImageTag, Invalid, Platform, Provenance, PullMode, RunOptions, SnapshotRef,
};
use tempfile::TempDir;

use super::Args;
use super::buildx::attest;
use super::call::Asked;
use super::results::ResultFiles;
use crate::context::Location;
use crate::context::stdin::{self, Came};
use crate::error::{Error, Result};
use crate::outputs::wanted::Wanted;

/// The longest idempotency key, bytes.
const KEY_BYTES: usize = 128;

/// What is to be built, but for the snapshot, and for the platforms when none were named.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) location: Location,
    /// Empty: all that the farm builds natively.
    pub(super) platforms: Vec<Platform>,
    pub(super) idempotency_key: String,
    tags: Vec<ImageTag>,
    target: Option<String>,
    build_args: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    no_cache: bool,
    no_cache_stages: Vec<String>,
    run: RunOptions,
    pull: bool,
    pub(super) result_files: ResultFiles,
    /// What came from standard input; goes with the plan.
    pub(super) temporary: Option<TempDir>,
    pub(super) provenance: Provenance,
    named_contexts: BTreeMap<String, NamedContext>,
    emulation: Emulation,
    timeout_ms: Option<u64>,
    /// Nobody waits for its end.
    is_detached: bool,
    /// What is given out, and whether it is published.
    pub(super) wanted: Wanted,
    /// The frontend is asked, and nothing is built.
    pub(super) asked: Option<Asked>,
}

impl Plan {
    /// Checks all that can be checked here. `environment` gives the values of `--build-arg NAME`, `input` what `-` stands
    /// for.
    ///
    /// # Errors
    /// The first thing that can't be taken, with its cure.
    pub(super) fn new(
        args: Args,
        environment: impl Fn(&str) -> std::result::Result<Option<String>, Invalid>,
        input: impl Read,
    ) -> Result<Self> {
        args.others.check()?;
        let asked = Asked::new(args.check, args.call.as_deref())?;
        if let (true, Some(asked)) = (args.json, asked)
            && asked.call != Call::Check
        {
            let cure = "that is the JSON of a build, which an answer isn't; write --call METHOD,format=json";
            return Err(Invalid::new("--json", "", cure).into());
        }
        let mut platforms = Vec::new();
        for list in &args.platform {
            for platform in Platform::parse_list(list).map_err(|e| flag("--platform", e))? {
                if !platforms.contains(&platform) {
                    platforms.push(platform);
                }
            }
        }
        let mut tags: Vec<ImageTag> = Vec::new();
        for text in &args.tag {
            let tag = text.parse().map_err(|e| flag("-t", e))?;
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        let mut build_args = BTreeMap::new();
        for text in &args.build_arg {
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                // As with Docker: what the environment hasn't got isn't passed on.
                None => (text.as_str(), environment(text).map_err(|e| flag("--build-arg", e))?),
            };
            check_build_arg(name).map_err(|e| flag("--build-arg", e))?;
            if let Some(value) = value {
                build_args.insert(name.to_owned(), value);
            }
        }
        let mut labels = BTreeMap::new();
        for text in &args.label {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            if name.is_empty() {
                return Err(Invalid::new("--label", text, "write NAME=VALUE").into());
            }
            labels.insert(name.to_owned(), value.to_owned());
        }
        let mut named_contexts = BTreeMap::new();
        let mut folders = BTreeMap::new();
        for text in &args.build_context {
            let (name, context) = named_context(text)?;
            if let Context::Folder(path) = &context {
                folders.insert(name.clone(), path.clone());
            }
            let context = match context {
                Context::Folder(_) => NamedContext::Local,
                Context::Image(image) => NamedContext::Image(image),
            };
            if named_contexts.insert(name, context).is_some() {
                return Err(Invalid::new("--build-context", text, "this name stands twice; keep one").into());
            }
        }
        let mut provenance = match &args.provenance {
            Some(text) => text.parse().map_err(|e| flag("--provenance", e))?,
            None => Provenance::Off,
        };
        for text in &args.attest {
            provenance = attest(text)?.unwrap_or(provenance);
        }
        let mut no_cache_stages = Vec::new();
        for name in args.no_cache_filter.iter().flat_map(|list| list.split(',')) {
            check_stage(name).map_err(|e| flag("--no-cache-filter", e))?;
            // As in a Dockerfile, where capitals don't matter.
            no_cache_stages.push(name.to_ascii_lowercase());
        }
        let run = run_options(&args)?;
        // As with buildx, a question has no use for them.
        let wanted = match asked {
            Some(_) => Wanted::default(),
            None => Wanted::new(&args.output, args.load, args.push)?,
        };
        let tags = wanted.tags(tags)?;
        check_outputs(&args, &wanted, &tags)?;
        wanted.check(&platforms, provenance)?;
        let result_files = if args.dry_run || asked.is_some() {
            ResultFiles::default()
        } else {
            ResultFiles { iidfile: args.iidfile, metadata_file: args.metadata_file }
        };
        result_files.check(wanted.has_digest(&tags), args.detach)?;
        let emulation = match &args.emulation {
            Some(text) => text.parse().map_err(|e| flag("--emulation", e))?,
            None => Emulation::default(),
        };
        let timeout_ms = args.timeout.as_deref().map(timeout_ms).transpose()?;
        let idempotency_key = match args.idempotency_key {
            Some(key) if key.is_empty() || key.len() > KEY_BYTES => {
                let cure = format!("write 1 to {KEY_BYTES} bytes, for example a commit's id");
                return Err(Invalid::new("--idempotency-key", key, cure).into());
            }
            Some(key) => key,
            None => uuid::Uuid::new_v4().to_string(),
        };
        // Last, since it touches the disk.
        let (context, file, temporary) = stand_in(args.context, args.file, input)?;
        let mut location = Location::find(&context, file.as_deref(), &folders)?;
        if let Some(folder) = &temporary
            && context == folder.path().to_string_lossy()
        {
            "standard input".clone_into(&mut location.shown);
        }
        Ok(Self {
            location,
            no_cache_stages,
            run,
            result_files,
            temporary,
            platforms,
            idempotency_key,
            tags,
            target: args.target.filter(|target| !target.is_empty()),
            build_args,
            labels,
            no_cache: args.no_cache,
            pull: args.pull,
            provenance,
            named_contexts,
            emulation,
            timeout_ms,
            is_detached: args.detach,
            wanted,
            asked,
        })
    }

    /// The request for this snapshot and these platforms.
    ///
    /// # Errors
    /// An output has an attribute that isn't one.
    pub(super) fn spec(&self, snapshot: SnapshotRef, platforms: Vec<Platform>) -> Result<BuildSpec> {
        let mut spec = BuildSpec {
            snapshot,
            platforms,
            // As with buildx, a question has no use for them.
            tags: if self.asked.is_some() { Vec::new() } else { self.tags.clone() },
            dockerfile: self.location.dockerfile_name.clone(),
            target: self.target.clone(),
            build_args: self.build_args.clone(),
            labels: self.labels.clone(),
            no_cache: self.no_cache,
            no_cache_stages: self.no_cache_stages.clone(),
            run: self.run.clone(),
            pull: if self.pull { PullMode::Always } else { PullMode::Default },
            provenance: self.provenance,
            named_contexts: self.named_contexts.clone(),
            emulation: self.emulation,
            timeout_ms: self.timeout_ms,
            exports: Vec::new(),
            image_names: Vec::new(),
            purpose: self.asked.map_or(Purpose::Image, |asked| Purpose::Call(asked.call)),
            partial: BTreeMap::new(),
        };
        self.wanted.complete(&mut spec)?;
        Ok(spec)
    }

    /// What of the contexts the build can name on these platforms; `None`: all is read and sent. When that turns out not to
    /// be enough the rest is sent, so where nobody is there to do that, all of it is sent at first.
    ///
    /// # Errors
    /// The Dockerfile can't be read.
    pub(super) fn meant(&self, platforms: &[Platform]) -> Result<Option<Sources>> {
        let Some(platform) = platforms.first().filter(|_| !self.is_detached) else { return Ok(None) };
        let path = &self.location.dockerfile;
        let bytes = std::fs::read(path).map_err(|error| {
            let why = crate::error::io_in_short(&error);
            Error::Usage(format!("can't read the Dockerfile {} ({why})", path.display()))
        })?;
        let file = Dockerfile::parse(&bytes);
        if self.asked.is_some() && !file.directives.is_foreign() {
            return Ok(Some(Sources::of_a_question(&self.named_contexts)));
        }
        let build = Build {
            target: self.target.as_deref(),
            args: &self.build_args,
            contexts: &self.named_contexts,
            platform,
        };
        Ok(Sources::of(&file, &build, platforms).filter(|sources| !sources.are_all()))
    }
}

/// Sees what can't go together with outputs.
fn check_outputs(args: &Args, wanted: &Wanted, tags: &[ImageTag]) -> Result<(), Invalid> {
    let flag = if args.load && args.output.is_empty() { "--load" } else { "--output" };
    let value = || args.output.first().cloned().unwrap_or_default();
    if wanted.gives_out() && args.detach {
        let cure = "with --detach nobody is there to receive it when the build is done; leave --detach out";
        return Err(Invalid::new(flag, value(), cure));
    }
    if wanted.takes_stdout() && args.json {
        let cure =
            "standard output can't hold both it and --json; name a file with dest=FILE, or leave --json out";
        return Err(Invalid::new(flag, value(), cure));
    }
    if wanted.is_pushed_by_wish() && tags.is_empty() {
        let cure = "it can't be pushed without a name; add -t REGISTRY/REPO:TAG";
        return Err(Invalid::new(if args.push { "--push" } else { flag }, value(), cure));
    }
    Ok(())
}

/// The milliseconds of `--timeout`.
fn timeout_ms(text: &str) -> Result<u64, Invalid> {
    let limit = parse_duration(text).filter(|limit| !limit.is_zero());
    let millis = limit.and_then(|limit| u64::try_from(limit.as_millis()).ok());
    millis.ok_or_else(|| Invalid::new("--timeout", text, "write a time like 90s, 10m or 2h, at most 30 days"))
}

fn run_options(args: &Args) -> Result<RunOptions, Invalid> {
    let list = |texts: &[String]| {
        texts.iter().flat_map(|text| text.split(',')).map(str::to_owned).collect::<Vec<_>>()
    };
    let hosts = list(&args.add_host);
    let ulimits = list(&args.ulimit);
    Ok(RunOptions {
        network: match &args.network {
            Some(text) => text.parse().map_err(|e| flag("--network", e))?,
            None => Default::default(),
        },
        add_hosts: hosts
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_, _>>()
            .map_err(|e| flag("--add-host", e))?,
        shm_bytes: match &args.shm_size {
            Some(text) => Some(parse_bytes(text).map_err(|e| flag("--shm-size", e))?),
            None => None,
        },
        ulimits: ulimits
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_, _>>()
            .map_err(|e| flag("--ulimit", e))?,
        hostname: None,
    })
}

/// The context and the Dockerfile, with a folder that holds what `-` stands for.
fn stand_in(
    context: String,
    file: Option<PathBuf>,
    input: impl Read,
) -> Result<(String, Option<PathBuf>, Option<TempDir>)> {
    let from_input = file.as_deref() == Some(Path::new("-"));
    match (context.as_str(), from_input) {
        ("-", true) => Err(Error::Usage(
            "- -f -: context and Dockerfile can't both come from standard input; name a file, or a folder"
                .to_owned(),
        )),
        ("-", false) => {
            let (folder, came) = stdin::read(input)?;
            let path = folder.path().to_string_lossy().into_owned();
            if let (Came::Dockerfile, Some(file)) = (came, &file) {
                return Err(Error::Usage(format!(
                    "-f {}: standard input is a Dockerfile itself, not an archive; leave -f out",
                    file.display()
                )));
            }
            // Within an archive, as Docker takes it.
            let file = file.map(|file| folder.path().join(file));
            Ok((path, file, Some(folder)))
        }
        (_, true) => {
            let folder = stdin::read_dockerfile(input)?;
            let file = folder.path().join("Dockerfile");
            Ok((context, Some(file), Some(folder)))
        }
        _ => Ok((context, file, None)),
    }
}

/// Says which flag the value came from.
fn flag(name: &str, mut error: Invalid) -> Invalid {
    if !error.thing.starts_with('-') {
        error.thing = name.to_owned();
    }
    error
}

enum Context {
    Folder(PathBuf),
    Image(String),
}

fn named_context(text: &str) -> Result<(String, Context), Invalid> {
    let invalid = |cure: &str| Err(Invalid::new("--build-context", text, cure));
    let Some((name, value)) = text.split_once('=') else {
        return invalid("write NAME=FOLDER or NAME=docker-image://IMAGE");
    };
    // In a Dockerfile stages' names are compared without regard to capitals, and buildx writes them small.
    let name = name.to_ascii_lowercase();
    if name.is_empty() || value.is_empty() {
        return invalid("write NAME=FOLDER or NAME=docker-image://IMAGE");
    }
    if name.contains(char::is_whitespace) || name.chars().any(char::is_control) {
        return invalid("a name has no blanks");
    }
    if ["context", "dockerfile"].contains(&name.as_str()) {
        return invalid("the builder has this name for itself; choose another");
    }
    if let Some(image) = value.strip_prefix("docker-image://") {
        return match image {
            "" => invalid("name the image, for example docker-image://localhost:5002/base:1"),
            image => Ok((name, Context::Image(image.to_owned()))),
        };
    }
    if value.contains("://") || value.starts_with("git@") || value.starts_with("target:") || value == "-" {
        return invalid("farm takes a folder or docker-image://IMAGE, and nothing else yet");
    }
    Ok((name, Context::Folder(value.into())))
}
