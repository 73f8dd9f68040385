//! `--dry-run`: what would be read, built and published, and by whom; nothing is sent.

use std::collections::BTreeMap;

use farm_dockerfile::{Build, Dockerfile, Programs};
use farm_proto::v1::{ListWorkersRequest, Worker};
use farm_types::snapshot::ROOT_CONTEXT;
use farm_types::{BuildSpec, Emulation, Platform, Runs, SnapshotRef};
use serde::Serialize;

use super::bring::{by_default, partial};
use super::give::Giving;
use super::plan::Plan;
use crate::config::Address;
use crate::connect::Client;
use crate::error::Result;
use crate::fetch;
use crate::output::progress::UNNEEDED;
use crate::output::text::{bytes, columns, count, first_line, harmless};
use crate::outputs::wanted::Sink;
use crate::source;
use farm_source::Source;

/// What `farm submit --dry-run` finds that would be done.
#[derive(Debug, Serialize)]
pub(super) struct DryRun {
    /// The context as the user named it.
    context: String,
    files: usize,
    /// The length of the files together, equal ones once.
    bytes: u64,
    /// What is read, by context, where that isn't all: what the Dockerfile names.
    reads: BTreeMap<String, Vec<String>>,
    /// The digest of the source; the same as that of a build of it. Null: some of it would be fetched.
    tree_id: Option<String>,
    /// What would be fetched first, by a worker: ROOT to address.
    fetches: BTreeMap<String, String>,
    dockerfile: String,
    target: Option<String>,
    platforms: Vec<Part>,
    /// Published; empty when nothing is.
    tags: Vec<String>,
    /// What each platform's image has to pass before that; left out where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    gate: Option<String>,
    /// By which key of the project it would be signed; left out where it isn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    sign: Option<String>,
    /// What the tags would point to if there is one platform: index or manifest.
    single_platform: &'static str,
    /// Where the result would go besides.
    outputs: Vec<DryOutput>,
    /// That it goes nowhere was asked for.
    #[serde(skip)]
    is_only_cached: bool,
    /// Their names; values may be nobody's business.
    build_args: Vec<String>,
    /// Registries that it would pull from by logins that come with it.
    registry_logins: Vec<String>,
    /// What RUN instructions could mount: ids of secrets.
    secrets: Vec<String>,
    /// The same of ssh.
    ssh: Vec<String>,
    /// What was left out of the source though no pattern says so.
    warnings: Vec<String>,
}

/// A place that the result would go to.
#[derive(Debug, Serialize)]
struct DryOutput {
    /// local, tar, oci or docker.
    r#type: &'static str,
    /// The file or folder, - for standard output; null: an engine.
    dest: Option<String>,
    /// The Docker engine.
    engine: Option<String>,
}

/// A platform, and who would build it as things are now.
#[derive(Debug, Serialize)]
struct Part {
    platform: String,
    /// native, emulated or unneeded; null: nobody, it would wait.
    support: Option<&'static str>,
    workers: Vec<String>,
    /// Why it isn't native, or would wait.
    reason: Option<String>,
}

impl DryRun {
    /// Reads the source and asks the farm for its workers.
    ///
    /// # Errors
    /// The source can't be read, or the farm can't be asked.
    pub(super) async fn new(plan: &Plan, giving: &Giving, address: &Address) -> Result<Self> {
        let client = Client::connect(address).await?;
        let answer = client.farm().list_workers(ListWorkersRequest {}).await.map_err(|e| client.error(&e))?;
        let workers = answer.into_inner().workers;
        let platforms =
            if plan.platforms.is_empty() { by_default(&client).await?.0 } else { plan.platforms.clone() };
        giving.check(plan, &platforms)?;
        let meant = plan.meant(&platforms)?;
        let source = source::read(&plan.location, plan.temporary.is_some(), meant.as_ref()).await?;
        let dry = Self::of(plan, giving, &source, platforms, &workers)?;
        Ok(Self { reads: meant.as_ref().map(partial).unwrap_or_default(), ..dry })
    }

    fn of(
        plan: &Plan,
        giving: &Giving,
        source: &Source,
        platforms: Vec<Platform>,
        workers: &[Worker],
    ) -> Result<Self> {
        let (tree_id, content_key) = source.names();
        let spec = plan.spec(SnapshotRef { tree_id, content_key }, platforms)?;
        // One that can't be read, or told, is taken as the farm takes it; so is one that isn't here yet.
        let is_here = !plan.fetches.contains_key(ROOT_CONTEXT);
        let file = std::fs::read(&plan.location.dockerfile).ok().filter(|_| is_here);
        let file = file.map(|bytes| Dockerfile::parse(&bytes));
        let part = |platform: &Platform| {
            // A gate runs a program of the image, whatever its Dockerfile runs.
            let file = file.as_ref().filter(|_| spec.gate.is_none());
            let runs = file.and_then(|file| runs(file, &spec, platform)).unwrap_or_default();
            part(platform, &runs, spec.emulation, workers)
        };
        let parts = spec.platforms.iter().map(part).collect();
        let BuildSpec { tags, target, build_args, dockerfile, single_platform, mounts, gate, sign, .. } =
            spec;
        let mut engines = giving.engines().iter();
        let outputs = plan.wanted.asked.iter().map(|asked| match &asked.sink {
            Sink::Load { .. } => {
                let engine = engines.next().map(|engine| engine.shown.clone());
                DryOutput { r#type: asked.sink.kind(), dest: None, engine }
            }
            sink => {
                let dest = sink.path().map_or_else(|| "-".to_owned(), |path| path.display().to_string());
                DryOutput { r#type: sink.kind(), dest: Some(dest), engine: None }
            }
        });
        Ok(Self {
            outputs: outputs.collect(),
            is_only_cached: plan.wanted.is_only_cached(),
            context: plan.location.shown.clone(),
            files: if is_here { source.files } else { 0 },
            bytes: if is_here { source.file_bytes() } else { 0 },
            reads: BTreeMap::new(),
            tree_id: plan.fetches.is_empty().then(|| tree_id.to_string()),
            fetches: plan
                .fetches
                .iter()
                .map(|(root, spec)| (root.clone(), fetch::shown(&spec.source)))
                .collect(),
            dockerfile,
            target,
            platforms: parts,
            tags: tags.iter().map(ToString::to_string).collect(),
            gate: gate.map(|gate| gate.to_string()),
            sign: sign.map(|key| key.to_string()),
            single_platform: single_platform.as_str(),
            build_args: build_args.into_keys().collect(),
            registry_logins: mounts.logins.iter().map(ToString::to_string).collect(),
            secrets: mounts.secrets.keys().map(ToString::to_string).collect(),
            ssh: mounts.ssh.iter().map(|(id, source)| format!("{id}={}", source.as_str())).collect(),
            warnings: plan.warnings.iter().chain(&source.warnings).cloned().collect(),
        })
    }

    /// For people.
    pub(super) fn lines(&self) -> Vec<String> {
        let target = self.target.as_ref().map(|target| format!(", stage {target}")).unwrap_or_default();
        let fetches = self.fetches.values().map(|address| format!("would fetch {}", harmless(address)));
        let mut out: Vec<String> = fetches.collect();
        let (context, dockerfile) = (harmless(&self.context), harmless(&self.dockerfile));
        out.push(match self.fetches.contains_key(ROOT_CONTEXT) {
            true => format!("would build what is there  {dockerfile}{target}"),
            false => format!(
                "would build {context}  {}, {}  {dockerfile}{target}",
                count(self.files, "file"),
                bytes(self.bytes)
            ),
        });
        out.extend(self.reads.iter().map(|(root, patterns)| reads(root, patterns)));
        if !self.secrets.is_empty() {
            out.push(format!("steps could mount the secrets {}", harmless(&self.secrets.join(", "))));
        }
        out.extend(
            self.ssh
                .iter()
                .filter_map(|ssh| ssh.split_once('='))
                .map(|(id, source)| format!("steps could use the {source} given as --ssh {}", harmless(id))),
        );
        if !self.registry_logins.is_empty() {
            out.push(format!("would log in at {}", harmless(&self.registry_logins.join(", "))));
        }
        out.extend(self.warnings.iter().map(|warning| format!("warning  {warning}")));
        let rows: Vec<Vec<String>> = self
            .platforms
            .iter()
            .map(|part| {
                let workers = harmless(&part.workers.join(", "));
                let how = match part.support {
                    None => "would wait".to_owned(),
                    Some(UNNEEDED) => format!("on {workers}"),
                    Some(support) => format!("{support} on {workers}"),
                };
                let reason = part.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
                vec![part.platform.clone(), format!("{how}{reason}")]
            })
            .collect();
        out.extend(columns(&rows));
        out.extend(self.gate.iter().map(|gate| format!("would have to pass {}", first_line(gate, 200))));
        out.extend(self.sign.iter().map(|key| format!("would be signed by {key}")));
        let form = if self.single_platform == "manifest" { "  as a plain manifest" } else { "" };
        out.extend(self.tags.iter().map(|tag| format!("would publish {tag}{form}")));
        out.extend(self.outputs.iter().map(|output| match (&output.dest, &output.engine) {
            (Some(dest), _) if dest == "-" => {
                format!("would write type={} to standard output", output.r#type)
            }
            (Some(dest), _) => format!("would write type={} to {}", output.r#type, harmless(dest)),
            (None, engine) => {
                format!("would load it into {}", harmless(engine.as_deref().unwrap_or_default()))
            }
        }));
        if self.tags.is_empty() && self.outputs.is_empty() && !self.is_only_cached {
            out.push("would publish nothing, since no tag was given (-t)".to_owned());
        }
        out.push("dry run: nothing was sent".to_owned());
        out
    }
}

/// `reads only src, *.c of the context: the Dockerfile names nothing else`.
fn reads(root: &str, patterns: &[String]) -> String {
    const SHOWN: usize = 8;
    let root = root.replace(':', " ");
    let own: Vec<&String> = patterns.iter().filter(|pattern| *pattern != ".dockerignore").collect();
    if own.is_empty() {
        return format!("reads nothing of the {}: the Dockerfile names none of it", harmless(&root));
    }
    let mut list: Vec<String> = own.iter().take(SHOWN).map(|pattern| harmless(pattern)).collect();
    if own.len() > SHOWN {
        list.push(format!("and {} more", own.len() - SHOWN));
    }
    format!("reads only {} of the {}: the Dockerfile names nothing else", list.join(", "), harmless(&root))
}

/// Whose programs would run.
fn runs(file: &Dockerfile, spec: &BuildSpec, platform: &Platform) -> Option<Runs> {
    let target = spec.target.as_deref();
    let build = Build { target, args: &spec.build_args, contexts: &spec.named_contexts, platform };
    Some(Programs::of(file, &build)?.into())
}

/// Who would build this platform: the rules of the scheduler, as far as they show without a queue.
fn part(platform: &Platform, runs: &Runs, emulation: Emulation, workers: &[Worker]) -> Part {
    let online: Vec<&Worker> = workers.iter().filter(|worker| worker.state == "online").collect();
    // Those that offer all of these, whichever way counts.
    let offering = |wanted: &[String], supports: &[&str]| -> Vec<String> {
        let offers = |worker: &Worker, name: &String| {
            let mut all = worker.platforms.iter();
            all.any(|offer| offer.platform == *name && supports.contains(&offer.support.as_str()))
        };
        let able = online.iter().filter(|worker| wanted.iter().all(|name| offers(worker, name)));
        able.map(|worker| worker.name.clone()).collect()
    };
    let name = platform.to_string();
    let needed: Vec<String> = runs.needed(platform).iter().map(ToString::to_string).collect();
    let home = offering(std::slice::from_ref(&name), &["native"]);
    let (native, able) = (offering(&needed, &["native"]), offering(&needed, &["native", "emulated"]));
    let names = needed.join(" and ");
    let (support, workers, reason) = if native.iter().any(|worker| home.contains(worker)) {
        (Some("native"), native.into_iter().filter(|worker| home.contains(worker)).collect(), None)
    } else if !native.is_empty() {
        (Some(UNNEEDED), native, Some(format!("no program of {name} runs")))
    } else if needed.is_empty() {
        (None, Vec::new(), Some("no worker is connected".to_owned()))
    } else if emulation == Emulation::Never {
        (None, Vec::new(), Some(format!("no native {names} worker is connected, and the policy is never")))
    } else if able.is_empty() {
        (None, Vec::new(), Some(format!("no worker for {names} is connected")))
    } else {
        let why = format!("no native {names} worker is connected; policy {emulation}");
        (Some("emulated"), able, Some(why))
    };
    Part { platform: name, support, workers, reason }
}

#[cfg(test)]
mod tests {
    use farm_proto::v1::PlatformOffer;

    use super::*;

    fn worker(name: &str, state: &str, offers: &[(&str, &str)]) -> Worker {
        let platforms = offers.iter().map(|(platform, support)| PlatformOffer {
            platform: (*platform).to_owned(),
            support: (*support).to_owned(),
            told: false,
        });
        Worker {
            name: name.into(),
            state: state.into(),
            platforms: platforms.collect(),
            ..Default::default()
        }
    }

    #[test]
    fn native_comes_before_emulated_and_the_policy_decides_between_that_and_waiting() {
        let workers = [
            worker("a", "online", &[("linux/amd64", "native"), ("linux/arm64", "emulated")]),
            worker("b", "offline", &[("linux/arm64", "native")]),
        ];
        let support = |platform: &str, policy: &str| {
            let part = part(&platform.parse().unwrap(), &Runs::Target, policy.parse().unwrap(), &workers);
            (part.support, part.workers.join(","))
        };
        assert_eq!(support("linux/amd64", "never"), (Some("native"), "a".into()));
        assert_eq!(support("linux/arm64", "fallback"), (Some("emulated"), "a".into()));
        assert_eq!(support("linux/arm64", "never"), (None, String::new()));
        assert_eq!(support("linux/s390x", "allow"), (None, String::new()));
    }

    #[test]
    fn what_runs_no_program_of_its_platform_is_built_by_anybody() {
        let workers = [
            worker("a", "online", &[("linux/amd64", "native"), ("linux/arm64", "emulated")]),
            worker("b", "online", &[("linux/riscv64", "native")]),
        ];
        let support = |platform: &str, runs: &str, policy: &str| {
            let part =
                part(&platform.parse().unwrap(), &runs.parse().unwrap(), policy.parse().unwrap(), &workers);
            (part.support, part.workers.join(","))
        };
        assert_eq!(support("linux/s390x", "none", "never"), (Some("unneeded"), "a,b".into()));
        assert_eq!(support("linux/amd64", "engine", "never"), (Some("native"), "a".into()));
        assert_eq!(support("linux/s390x", "linux/amd64", "never"), (Some("unneeded"), "a".into()));
        assert_eq!(support("linux/s390x", "linux/arm64", "never"), (None, String::new()));
        assert_eq!(support("linux/s390x", "linux/arm64", "fallback"), (Some("emulated"), "a".into()));
    }
}
