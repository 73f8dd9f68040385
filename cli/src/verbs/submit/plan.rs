//! The command line of `farm submit`, checked before anything is read or sent.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use farm_dockerfile::{Build, Dockerfile, Sources};
use farm_proto::convert::{check_build_arg, check_stage};
use farm_types::packaging::Packaging;
use farm_types::run_options::{Ulimit, parse_bytes};
use farm_types::snapshot::{ROOT_CONTEXT, named_root};
use farm_types::spec::{Call, NamedContext, Purpose, Verify, parse_duration};
use farm_types::{
    BuildSpec, ContextName, Digest, Emulation, Entitlement, Entitlements, FetchSpec, Gate, ImageRef,
    ImageTag, Invalid, Lfs, Platform, Provenance, PullMode, RunOptions, SigningKeyName, SinglePlatform,
    SnapshotRef, Take,
};
use tempfile::TempDir;

use super::args::Args;
use super::call::Asked;
use super::environment;
use super::flag::flag;
use super::packaging;
use super::remote::{self, KEEP_GIT};
use super::results::ResultFiles;
use super::secrets;
use super::templated;
use crate::address::{Address, GitSwitches, fetch_source};
use crate::error::{Error, Result};
use crate::mounts::Mounting;
use crate::outputs::wanted::Wanted;
use crate::switches::go_bool;
use farm_source::stdin::{self, Came};
use farm_source::{Links, Location};

/// The longest idempotency key, bytes.
const KEY_BYTES: usize = 128;

/// What is to be built, but for the snapshot, and for the platforms when none were named.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) location: Location,
    /// Empty: all that the farm builds natively.
    pub(super) platforms: Vec<Platform>,
    /// Those without which the others are published.
    pub(super) optional: Vec<Platform>,
    /// The variable that named them, if no flag did.
    pub(super) platforms_from: Option<&'static str>,
    /// What was asked for and has no effect.
    pub(super) warnings: Vec<String>,
    pub(super) idempotency_key: String,
    tags: Vec<ImageTag>,
    target: Option<String>,
    pub(super) build_args: BTreeMap<String, String>,
    pub(super) mounting: Mounting,
    labels: BTreeMap<String, String>,
    no_cache: bool,
    no_cache_stages: Vec<String>,
    run: RunOptions,
    pull: bool,
    pub(super) result_files: ResultFiles,
    /// What came from standard input; goes with the plan.
    pub(super) temporary: Option<TempDir>,
    pub(super) provenance: Provenance,
    pub(super) sbom: Option<ImageRef>,
    pub(super) packaging: Packaging,
    /// Tags are moved only while they point to what they point to now.
    pub(super) if_unchanged: bool,
    pub(super) single_platform: SinglePlatform,
    /// `None`: as the project says.
    pub(super) verify: Option<Verify>,
    pub(super) gate: Option<Gate>,
    pub(super) sign: Option<SigningKeyName>,
    named_contexts: BTreeMap<String, NamedContext>,
    /// `None`: as the project says.
    pub(super) emulation: Option<Emulation>,
    timeout_ms: Option<u64>,
    /// Nobody waits for its end.
    is_detached: bool,
    /// What is given out, and whether it is published.
    pub(super) wanted: Wanted,
    /// The frontend is asked, and nothing is built.
    pub(super) asked: Option<Asked>,
    /// What workers fetch, by the roots of the source. If the context is among it, the location is a stand-in for that: a folder that
    /// gets the Dockerfile when it is known.
    pub(super) fetches: BTreeMap<String, FetchSpec>,
    /// The time of the context's commit becomes SOURCE_DATE_EPOCH.
    pub(super) takes_epoch: bool,
}

impl Plan {
    /// Checks all that can be checked here. `variable` gives the environment's values, `input` what `-` stands for.
    ///
    /// # Errors
    /// The first thing that can't be taken, with its cure.
    pub(super) fn new(
        args: Args,
        variable: impl Fn(&str) -> std::result::Result<Option<String>, Invalid>,
        input: impl Read,
    ) -> Result<Self> {
        args.others.check()?;
        let mut platforms_from = None;
        let asked = Asked::new(args.check, args.call.as_deref())?;
        if let (true, Some(asked)) = (args.json, asked)
            && asked.call != Call::Check
        {
            let cure = "that is the JSON of a build, which an answer isn't; write --call METHOD,format=json";
            return Err(Invalid::new("--json", "", cure).into());
        }
        let mut platforms = environment::platforms(&args.platform).map_err(|e| flag("--platform", e))?;
        let from_environment = if platforms.is_empty() { variable(environment::PLATFORM)? } else { None };
        if let Some(list) = from_environment.filter(|list| !list.is_empty()) {
            platforms = environment::platforms([&list]).map_err(|e| flag("DOCKER_DEFAULT_PLATFORM", e))?;
            platforms_from = Some(environment::PLATFORM);
        }
        let mut tags: Vec<ImageTag> = Vec::new();
        let (texts, left_out) = templated::filled(&args.tag, &args.context, &variable)?;
        for text in &texts {
            let tag: ImageTag = text.parse().map_err(|e| flag("-t", e))?;
            tag.repository
                .host()
                .check()
                .map_err(|e| Invalid::new("-t", text, format!("its registry: {}", e.cure)))?;
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        let mut build_args = BTreeMap::new();
        for text in &args.build_arg {
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                // As with Docker: what the environment hasn't got isn't passed on.
                None => (text.as_str(), variable(text).map_err(|e| flag("--build-arg", e))?),
            };
            check_build_arg(name).map_err(|e| flag("--build-arg", e))?;
            if let Some(value) = value {
                build_args.insert(name.to_owned(), value);
            }
        }
        let takes_epoch = match args.source_date_epoch.as_deref() {
            Some("commit") => true,
            Some(seconds) => {
                build_args.insert(environment::EPOCH.to_owned(), seconds.to_owned());
                false
            }
            None => false,
        };
        if !takes_epoch {
            environment::source_date_epoch(&mut build_args, &variable)?;
        }
        // No step runs for an answer.
        let (secrets, ssh) = match asked {
            Some(_) => (&[][..], &[][..]),
            None => (&args.secret[..], &args.ssh[..]),
        };
        let mut mounting = Mounting::read(secrets, ssh, &variable)?;
        mounting.take_logins(&args.registry_login, &variable)?;
        if let (true, Some(id)) = (args.detach, mounting.agents().keys().next()) {
            let cure = format!(
                "with --detach nobody is there whose agent could sign; name the file of a key (--ssh {id}=KEYFILE), or leave \
                 --detach out"
            );
            return Err(Invalid::new("--ssh", id.as_str(), cure).into());
        }
        let mut labels = BTreeMap::new();
        for text in &args.label {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            if name.is_empty() {
                return Err(Invalid::new("--label", text, "write NAME=VALUE").into());
            }
            labels.insert(name.to_owned(), value.to_owned());
        }
        let keeps_git = build_args.get(KEEP_GIT).is_some_and(|value| go_bool(value) == Some(true));
        let lfs = match &args.lfs {
            Some(text) => text.parse().map_err(|e| flag("--lfs", e))?,
            // An answer has no files in it.
            None if asked.is_some() => Lfs::Pointers,
            None => Lfs::default(),
        };
        let keep_git = args.keep_git || keeps_git;
        let switches = GitSwitches { keep_git, submodules: args.submodules, lfs };
        let NamedContexts { named: named_contexts, folders, fetches: named_fetches } =
            NamedContexts::parse(&args.build_context, switches)?;
        let checksum = args.checksum.as_deref().map(str::parse::<Digest>).transpose();
        let checksum = checksum.map_err(|e| flag("--checksum", e))?;
        let fetch = remote::context(&args.context, args.file.as_deref(), switches, checksum)?;
        remote::check_switches(&args, fetch.as_ref(), &named_fetches)?;
        let (provenance, sbom) = packaging::attestations(&args)?;
        let single_platform: SinglePlatform = match &args.single_platform {
            Some(text) => text.parse().map_err(|e| flag("--single-platform", e))?,
            None => SinglePlatform::default(),
        };
        let verify = Verify::new(args.verify.as_deref().unwrap_or_default(), args.verify_except.clone())
            .map_err(|e| flag(if e.thing == "verify" { "--verify" } else { "--verify-except" }, e))?;
        let verify = (args.verify.is_some() || !args.verify_except.is_empty()).then_some(verify);
        let gate = args.gate.as_deref().map(str::parse::<Gate>).transpose().map_err(|e| flag("--gate", e))?;
        // As with buildx, a question has no use for it.
        let gate = gate.filter(|_| asked.is_none());
        let sign = args.sign.as_deref().map(str::parse::<SigningKeyName>).transpose();
        let sign = sign.map_err(|e| flag("--sign", e))?.filter(|_| asked.is_none());
        if let (Some(false), Some(tag), false) =
            (args.push, args.tag.first(), args.load || !args.output.is_empty())
        {
            let cure = "without --output and --load results are pushed to the registries of the tags; leave -t out to see only \
                        whether it builds";
            return Err(Invalid::new("--push=false", tag, cure).into());
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
            None => Wanted::new(&args.output, args.load, args.push == Some(true))?,
        };
        let tags = wanted.tags(tags)?;
        check_outputs(&args, &wanted, &tags)?;
        let attests = provenance != Provenance::Off || sbom.is_some();
        wanted.check(&platforms, attests)?;
        let form =
            packaging::packaging(&args, &wanted, takes_epoch || build_args.contains_key(environment::EPOCH))?;
        packaging::check(single_platform, &form, &platforms, attests)?;
        let optional = environment::platforms(&args.optional).map_err(|e| flag("--optional", e))?;
        if let (Some(first), true) = (optional.first(), !args.output.is_empty() || args.load) {
            let cure = "what is given out (--output, --load) is of all platforms; leave one of the two out";
            return Err(Invalid::new("--optional", first.to_string(), cure).into());
        }
        if !platforms.is_empty() {
            BuildSpec::check_optional(&platforms, &optional).map_err(|e| flag("--optional", e))?;
        }
        let result_files = if args.dry_run || asked.is_some() {
            ResultFiles::default()
        } else {
            ResultFiles::check(args.iidfile, args.metadata_file, wanted.has_digest(&tags), args.detach)?
        };
        let emulation = match &args.emulation {
            Some(text) => Some(text.parse().map_err(|e| flag("--emulation", e))?),
            None => None,
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
        let links = match &args.context_links {
            Some(text) => text.parse()?,
            None => Links::default(),
        };
        let (location, temporary) = match &fetch {
            Some(fetch) => remote::stand_in(&args.context, fetch, &folders, links)?,
            None => locate(&args.context, args.file.as_deref(), &folders, links, input)?,
        };
        let context = fetch.map(|fetch| (ROOT_CONTEXT.to_owned(), fetch));
        let fetches = named_fetches.into_iter().chain(context).collect();
        result_files.spare(&location.dockerfile)?;
        Ok(Self {
            location,
            no_cache_stages,
            run,
            result_files,
            temporary,
            platforms,
            optional,
            platforms_from,
            warnings: [args.ignored.warnings(), mounting.warnings().to_vec(), left_out].concat(),
            idempotency_key,
            tags,
            target: args.target.filter(|target| !target.is_empty()),
            build_args,
            mounting,
            labels,
            no_cache: args.no_cache,
            pull: args.pull,
            provenance,
            sbom,
            packaging: form,
            if_unchanged: args.if_unchanged,
            single_platform,
            verify,
            gate,
            sign,
            named_contexts,
            emulation,
            timeout_ms,
            is_detached: args.detach,
            wanted,
            asked,
            fetches,
            takes_epoch,
        })
    }

    /// Whether attestations are made.
    pub(super) fn attests(&self) -> bool {
        self.provenance != Provenance::Off || self.sbom.is_some()
    }

    /// Sees whether what is asked for can be published in this form, for these platforms.
    ///
    /// # Errors
    /// It can't.
    pub(super) fn check_form(&self, platforms: &[Platform]) -> Result<(), Invalid> {
        packaging::check(self.single_platform, &self.packaging, platforms, self.attests())
    }

    /// What is said of build arguments that look like secrets.
    pub(super) fn secrets(&self) -> Vec<String> {
        secrets::warnings(&self.build_args, self.asked, self.provenance)
    }

    /// The request for this snapshot and these platforms.
    ///
    /// # Errors
    /// An output has an attribute that isn't one.
    pub(super) fn spec(&self, snapshot: SnapshotRef, platforms: Vec<Platform>) -> Result<BuildSpec> {
        let mut spec = BuildSpec {
            snapshot,
            optional: self.optional.clone(),
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
            sbom: self.sbom.clone(),
            single_platform: self.single_platform,
            named_contexts: self.named_contexts.clone(),
            emulation: self.emulation.unwrap_or_default(),
            timeout_ms: self.timeout_ms,
            exports: Vec::new(),
            image_names: Vec::new(),
            purpose: self.asked.map_or(Purpose::Image, |asked| Purpose::Call(asked.call)),
            partial: BTreeMap::new(),
            mounts: self.mounting.mounts().clone(),
            origins: BTreeMap::new(),
            verify: self.verify.clone().unwrap_or_default(),
            packaging: self.packaging.clone(),
            expected: Vec::new(),
            gate: self.gate.clone(),
            sign: self.sign.clone(),
        };
        self.wanted.complete(&mut spec)?;
        spec.check_gate().map_err(|e| flag("--gate", e))?;
        spec.check_sign().map_err(|e| flag("--sign", e))?;
        spec.check_logins()?;
        Ok(spec)
    }

    /// What of the contexts the build can name on these platforms; `None`: all is read and sent. When that turns out not to
    /// be enough the rest is sent, so where nobody is there to do that, all of it is sent at first. What is fetched is all there.
    ///
    /// # Errors
    /// The Dockerfile can't be read.
    pub(super) fn meant(&self, platforms: &[Platform]) -> Result<Option<Sources>> {
        let is_known = !self.is_detached && self.fetches.is_empty();
        let Some(platform) = platforms.first().filter(|_| is_known) else { return Ok(None) };
        let path = self.location.dockerfile_without_links()?;
        let bytes = std::fs::read(&path).map_err(|error| {
            let why = farm_types::chain::io_in_short(&error);
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
        return Err(Invalid::new(if args.push == Some(true) { "--push" } else { flag }, value(), cure));
    }
    Ok(())
}

/// The milliseconds of `--timeout`.
fn timeout_ms(text: &str) -> Result<u64, Invalid> {
    let limit = parse_duration(text).filter(|limit| !limit.is_zero());
    let millis = limit.and_then(|limit| u64::try_from(limit.as_millis()).ok());
    millis.ok_or_else(|| Invalid::new("--timeout", text, "write a time like 90s, 10m or 2h, at most 30 days"))
}

/// The parts of lists; an empty one has none.
fn list(texts: &[String]) -> Vec<&str> {
    texts.iter().filter(|text| !text.is_empty()).flat_map(|text| text.split(',')).collect()
}

/// As buildx takes them, an empty one is none; several may stand in one, too. A device's name may have a comma.
fn entitlements(texts: &[String]) -> Result<Entitlements, Invalid> {
    let mut all = Entitlements::new();
    for text in texts {
        let read = match text.starts_with("device") {
            true => text.parse().map(|one| [one].into()),
            false => Entitlement::list(text),
        };
        all.append(&mut read.map_err(|e| flag("--allow", e))?);
    }
    Ok(all)
}

fn run_options(args: &Args) -> Result<RunOptions, Invalid> {
    let hosts = list(&args.add_host);
    let mut ulimits: Vec<Ulimit> = Vec::new();
    for text in list(&args.ulimit) {
        let ulimit: Ulimit = text.parse().map_err(|e| flag("--ulimit", e))?;
        // Of each kind there is one, and the last one counts.
        ulimits.retain(|known| known.name() != ulimit.name());
        ulimits.push(ulimit);
    }
    Ok(RunOptions {
        network: match args.network.as_deref().filter(|text| !text.is_empty()) {
            Some(text) => text.parse().map_err(|e| flag("--network", e))?,
            None => Default::default(),
        },
        allow: entitlements(&args.allow)?,
        add_hosts: hosts
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_, _>>()
            .map_err(|e| flag("--add-host", e))?,
        shm_bytes: match &args.shm_size {
            // 0 is the engine's own, as with Docker.
            Some(text) => {
                Some(parse_bytes(text).map_err(|e| flag("--shm-size", e))?).filter(|bytes| *bytes > 0)
            }
            None => None,
        },
        ulimits,
        hostname: None,
    })
}

/// Where the source lies, with a folder that holds what `-` stands for.
fn locate(
    context: &str,
    file: Option<&Path>,
    named: &BTreeMap<String, PathBuf>,
    links: Links,
    input: impl Read,
) -> Result<(Location, Option<TempDir>)> {
    let file = file.filter(|file| !file.as_os_str().is_empty());
    let wanted = farm_source::Wanted { file, is_own_file: false, named, links };
    match (context, file == Some(Path::new("-"))) {
        ("-", true) => Err(Error::Usage(
            "- -f -: context and Dockerfile can't both come from standard input; name a file, or a folder"
                .to_owned(),
        )),
        ("-", false) => match (stdin::read(input)?, file) {
            (Came::Context(unpacked), _) => {
                let (location, folder) = Location::in_archive(unpacked, &wanted)?;
                Ok((location, Some(folder)))
            }
            (Came::Dockerfile(_), Some(file)) => Err(Error::Usage(format!(
                "-f {}: standard input is a Dockerfile itself, not an archive; leave -f out",
                file.display()
            ))),
            (Came::Dockerfile(folder), None) => {
                let mut location = Location::look(&folder.path().to_string_lossy(), &wanted)?;
                "standard input".clone_into(&mut location.shown);
                Ok((location, Some(folder)))
            }
        },
        (_, true) => {
            let folder = stdin::read_dockerfile(input)?;
            let file = folder.path().join("Dockerfile");
            let wanted = farm_source::Wanted { file: Some(&file), is_own_file: true, ..wanted };
            Ok((Location::look(context, &wanted)?, Some(folder)))
        }
        _ => Ok((Location::look(context, &wanted)?, None)),
    }
}

/// What `--build-context` names.
#[derive(Default)]
struct NamedContexts {
    named: BTreeMap<String, NamedContext>,
    /// Where those are that are folders of this machine.
    folders: BTreeMap<String, PathBuf>,
    /// Those that are fetched, by their roots.
    fetches: BTreeMap<String, FetchSpec>,
}

impl NamedContexts {
    fn parse(texts: &[String], switches: GitSwitches) -> Result<Self, Invalid> {
        let mut contexts = Self::default();
        let mut written: BTreeMap<ContextName, &str> = BTreeMap::new();
        for text in texts {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            if let (Ok(key), false) = (name.parse::<ContextName>(), value.is_empty())
                && let Some(other) = written.insert(key.clone(), name)
            {
                let cure = match other == name {
                    true => "this name stands twice; keep one".to_owned(),
                    false => format!("{other} and {name} are both names of {key}; keep one"),
                };
                return Err(Invalid::new("--build-context", text, cure));
            }
            contexts.add(text, switches)?;
        }
        Ok(contexts)
    }

    fn add(&mut self, text: &str, switches: GitSwitches) -> Result<(), Invalid> {
        let invalid = |cure: &str| Err(Invalid::new("--build-context", text, cure));
        let Some((name, value)) = text.split_once('=') else {
            return invalid(
                "write NAME=FOLDER, NAME=URL (a git repository or an archive) or NAME=docker-image://IMAGE",
            );
        };
        if name.is_empty() || value.is_empty() {
            return invalid(
                "write NAME=FOLDER, NAME=URL (a git repository or an archive) or NAME=docker-image://IMAGE",
            );
        }
        let name = name.parse::<ContextName>()?.to_string();
        if let Some(image) = value.strip_prefix("docker-image://") {
            if image.is_empty() {
                return invalid("name the image, for example docker-image://localhost:5002/base:1");
            }
            self.named.insert(name, NamedContext::Image(image.to_owned()));
            return Ok(());
        }
        if let Some(address) = Address::of(value)
            && !Path::new(value).is_dir()
        {
            let named = |error| flag("--build-context", error);
            if let Some(source) = fetch_source(address, value, switches).map_err(named)? {
                let fetch = FetchSpec { source, take: Take::Context };
                fetch.check().map_err(named)?;
                self.fetches.insert(named_root(&name), fetch);
                self.named.insert(name, NamedContext::Local);
                return Ok(());
            }
            return invalid(&format!(
                "nothing is fetched from there; {}",
                address.instead_of_named_context()
            ));
        }
        if value.starts_with("target:") || value == "-" {
            return invalid(
                "farm takes a folder, a git repository, an archive or docker-image://IMAGE, and nothing else yet",
            );
        }
        self.named.insert(name.clone(), NamedContext::Local);
        self.folders.insert(name, value.into());
        Ok(())
    }
}
