//! A [`Solve`] as BuildKit's `SolveRequest`, and its answer as a [`Solved`].
//!
//! Attribute names are those of BuildKit's dockerfile frontend (`frontend/dockerui/config.go`) and image
//! exporter (`exporter/containerimage/exptypes/keys.go`). A lone exporter stands in the deprecated fields because
//! engines of every version read those; several at once need BuildKit 0.13.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base64::Engine as _;
use bollard_buildkit_proto::moby::buildkit::v1::sourcepolicy::Policy;
use bollard_buildkit_proto::moby::buildkit::v1::{Exporter, SolveRequest, SolveResponse};
use farm_dockerfile::Selection;
use farm_proto::v1;
use farm_types::run_options::Network;
use farm_types::spec::NamedContext;
use farm_types::{Cause, ContextName, Digest, Failure, FailureCode, Form, Provenance, PullMode};
use serde::Deserialize;

use crate::buildkit::dockerfile::Dockerfile;
use crate::buildkit::session::filesync::Part;
use crate::buildkit::tree::SourceTree;
use crate::buildkit::types::{Export, ImageForm, Output, Solve, Solved};

/// What a frontend is told that its user may not choose.
const OURS: [&str; 2] = ["BUILDKIT_SYNTAX", "BUILDKIT_CACHE_MOUNT_NS"];

/// A host that nobody looks for. An engine keeps the results of RUN instructions for whoever has the same instruction over the
/// same files, whatever made them: a secret, a service that only one project reaches, the contents of its cache mount. Of
/// what belongs to an instruction, names of hosts are all that can be given from outside and shows nowhere in the image. It
/// has to stand last: whatever hosts users name, lists of two projects then differ.
fn mark(caches: &str) -> String {
    format!("{caches}.caches.invalid=192.0.2.1")
}

/// The name under which a named context's folder is served: apart from `context` and `dockerfile`, whatever the
/// user called it.
fn served_name(context: &str) -> String {
    format!("named-{context}")
}

/// The trees to serve, by the names that [`build`] gives them.
pub(crate) fn served(solve: &Solve) -> BTreeMap<String, Arc<dyn SourceTree>> {
    let mut trees: BTreeMap<String, Arc<dyn SourceTree>> = BTreeMap::new();
    for (root, tree) in &solve.roots {
        let name = root.strip_prefix("context:").map_or_else(|| root.clone(), served_name);
        trees.insert(name, Arc::clone(tree));
    }
    for (name, stand_in) in [("dockerfile", "context"), ("context", "dockerfile")] {
        if let (false, Some(tree)) = (trees.contains_key(name), solve.roots.get(stand_in)) {
            trees.insert(name.to_owned(), Arc::clone(tree));
        }
    }
    trees
}

/// What the trees are parts of that aren't whole, by the same names.
pub(crate) fn parts(solve: &Solve) -> BTreeMap<String, Part> {
    let part = |(root, selection): (&String, &Selection)| {
        let name = root.strip_prefix("context:").map_or_else(|| root.clone(), served_name);
        (name, Part { root: root.clone(), selection: selection.clone() })
    };
    solve.partial.iter().map(part).collect()
}

/// The request. `reference` names the solve, `session` who serves its files; `policy` says which images it may take.
pub(crate) fn build(
    solve: &Solve,
    dockerfile: &Dockerfile,
    policy: Option<Policy>,
    reference: &str,
    session: &str,
) -> SolveRequest {
    let mut attrs = HashMap::new();
    let mut set = |key: &str, value: &str| drop(attrs.insert(key.to_owned(), value.to_owned()));
    set("filename", &solve.dockerfile);
    set("platform", &solve.platform.to_string());
    if let Some(target) = &solve.target {
        set("target", target);
    }
    for (key, value) in solve.build_args.iter().filter(|(key, _)| !OURS.contains(&key.as_str())) {
        set(&format!("build-arg:{key}"), value);
    }
    for (key, value) in &solve.labels {
        set(&format!("label:{key}"), value);
    }
    if solve.no_cache {
        // Empty means all stages.
        set("no-cache", "");
    } else if !solve.no_cache_stages.is_empty() {
        set("no-cache", &solve.no_cache_stages.join(","));
    }
    let list = |texts: Vec<String>| texts.join(",");
    match solve.run.network {
        Network::Default => {}
        network @ (Network::None | Network::Host) => set("force-network-mode", network.as_str()),
    }
    // Hashed, because a provenance attestation shows it to whoever may pull the image.
    let caches =
        (!solve.caches.is_empty()).then(|| Digest::of(solve.caches.as_bytes()).hex()[..16].to_owned());
    let mut hosts: Vec<String> = solve.run.add_hosts.iter().map(ToString::to_string).collect();
    hosts.extend(caches.as_deref().map(mark));
    if !hosts.is_empty() {
        set("add-hosts", &list(hosts));
    }
    if let Some(bytes) = solve.run.shm_bytes {
        set("shm-size", &bytes.to_string());
    }
    if !solve.run.ulimits.is_empty() {
        set("ulimit", &list(solve.run.ulimits.iter().map(ToString::to_string).collect()));
    }
    if let Some(hostname) = &solve.run.hostname {
        set("hostname", &hostname.to_string());
    }
    if solve.pull == PullMode::Always {
        set("image-resolve-mode", "pull");
    }
    match solve.provenance {
        Provenance::Off => {}
        Provenance::Min => set("attest:provenance", "mode=min"),
        Provenance::Max => set("attest:provenance", "mode=max"),
    }
    if let Some(generator) = &solve.sbom {
        set("attest:sbom", &format!("generator={generator}"));
    }
    for (name, context) in &solve.named_contexts {
        let value = match context {
            NamedContext::Image(image) => format!("docker-image://{image}"),
            NamedContext::Local => format!("local:{}", served_name(name)),
        };
        // Commands of before keyed them as they were written, and an engine looks for one form only.
        let key = name.parse::<ContextName>().map_or_else(|_| name.clone(), |key| key.to_string());
        set(&format!("context:{key}"), &value);
    }
    if let Some(caches) = &caches {
        set("build-arg:BUILDKIT_CACHE_MOUNT_NS", caches);
    }
    // Its presence alone keeps the engine from looking for a syntax line, whatever our own look missed.
    set("cmdline", dockerfile.syntax.as_deref().unwrap_or("docker/dockerfile"));
    let mut request = SolveRequest {
        r#ref: reference.to_owned(),
        session: session.to_owned(),
        frontend: "dockerfile.v0".to_owned(),
        frontend_attrs: attrs,
        internal: solve.internal,
        entitlements: solve.run.entitlements().iter().map(ToString::to_string).collect(),
        source_policy: policy,
        ..SolveRequest::default()
    };
    let mut exporters: Vec<Exporter> = solve.outputs.iter().map(|o| output(o, &solve.image_names)).collect();
    // Last, as the answer's keys are those of the last one that sets them.
    exporters.extend(solve.export.as_ref().map(|export| push(export, &solve.form)));
    match exporters.pop() {
        Some(only) if exporters.is_empty() => {
            request.exporter_deprecated = only.r#type;
            request.exporter_attrs_deprecated = only.attrs;
        }
        Some(last) => {
            exporters.push(last);
            request.exporters = exporters;
        }
        None => {}
    }
    request
}

fn exporter<'a>(kind: &str, attributes: impl IntoIterator<Item = (&'a str, &'a str)>) -> Exporter {
    let attrs = attributes.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
    Exporter { r#type: kind.to_owned(), attrs: attrs.collect() }
}

/// What makes an output. Its bytes come by the session.
fn output(output: &Output, names: &[String]) -> Exporter {
    let names = names.join(",");
    let attributes = output.export.attributes().iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let name = (output.export.form.is_image() && !names.is_empty()).then_some(("name", names.as_str()));
    let kind = match output.export.form {
        Form::Files => "local",
        Form::Tar => "tar",
        Form::Oci => "oci",
        Form::Docker => "docker",
    };
    exporter(kind, attributes.chain(name))
}

/// The exporter that pushes by digest, without a tag; or only says what it would push.
fn push(export: &Export, form: &ImageForm) -> Exporter {
    let names: Vec<String> = export.repositories.iter().map(ToString::to_string).collect();
    let names = names.join(",");
    let attributes = [
        ("name", names.as_str()),
        ("push", if export.told_only { "false" } else { "true" }),
        ("push-by-digest", "true"),
        ("name-canonical", "true"),
        // Without it some versions make Docker's older kinds of manifests.
        ("oci-mediatypes", if form.docker { "false" } else { "true" }),
        // Without it every build stays in the engine's list of images, for ever.
        ("store", "false"),
    ];
    let annotations: Vec<(String, &str)> = form
        .annotations
        .iter()
        .map(|(key, value)| (format!("annotation-manifest.{key}"), value.as_str()))
        .collect();
    let annotations = annotations.iter().map(|(key, value)| (key.as_str(), *value));
    exporter(
        "image",
        attributes
            .into_iter()
            .chain(export.plain_http.then_some(("registry.insecure", "true")))
            // An engine can't unpack what it has rewritten meanwhile, and says so.
            .chain(
                form.rewrite_timestamp
                    .then_some([("rewrite-timestamp", "true"), ("unpack", "false")])
                    .into_iter()
                    .flatten(),
            )
            .chain(annotations),
    )
}

/// The part of `containerimage.descriptor` that is used.
#[derive(Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: Digest,
    size: u64,
}

/// Reads the answer. `timings` are the steps that were seen.
///
/// # Errors
/// Something was exported, but the answer does not say what: [`Cause::Bug`].
pub(super) fn solved(
    solve: &Solve,
    dockerfile: &Dockerfile,
    response: &SolveResponse,
    timings: Vec<v1::StepTiming>,
) -> Result<Solved, Failure> {
    let count = |steps: usize| u32::try_from(steps).unwrap_or(u32::MAX);
    let mut solved = Solved {
        steps: count(timings.len()),
        steps_cached: count(timings.iter().filter(|timing| timing.cached).count()),
        step_timings: timings,
        syntax_replaced: dockerfile.syntax.clone(),
        ..Solved::default()
    };
    if solve.export.is_some() {
        let descriptor = response.exporter_response.get("containerimage.descriptor");
        let descriptor: Descriptor = descriptor
            .and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok())
            .and_then(|json| serde_json::from_slice(&json).ok())
            .ok_or_else(|| {
                let keys: Vec<_> = response.exporter_response.keys().collect();
                let message = format!("the engine pushed an image but does not say which; it says {keys:?}");
                Failure::new(Cause::Bug, FailureCode::EngineError, message)
            })?;
        solved.digest = Some(descriptor.digest);
        solved.media_type = descriptor.media_type;
        solved.size = descriptor.size;
    }
    Ok(solved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buildkit::tree::MemoryTree;
    use crate::mask::Mask;
    use farm_types::{Entitlement, RunOptions};

    fn example() -> Solve {
        Solve {
            platform: "linux/arm64".parse().unwrap(),
            dockerfile: "Dockerfile".into(),
            target: None,
            build_args: [("A", "1"), ("BUILDKIT_SYNTAX", "evil")].map(|(k, v)| (k.into(), v.into())).into(),
            labels: BTreeMap::new(),
            no_cache: true,
            no_cache_stages: Vec::new(),
            run: RunOptions::default(),
            pull: PullMode::Always,
            provenance: Provenance::Min,
            sbom: Some("r/scanner:1".parse().unwrap()),
            form: ImageForm {
                docker: false,
                annotations: [("a.b".to_owned(), "c".to_owned())].into(),
                rewrite_timestamp: true,
            },
            named_contexts: [
                ("context", NamedContext::Local),
                ("base", NamedContext::Image("r/x:1".into())),
                ("docker.io/library/golden:latest", NamedContext::Image("r/y:1".into())),
            ]
            .map(|(name, context)| (name.to_owned(), context))
            .into(),
            partial: BTreeMap::new(),
            roots: ["context", "context:context"]
                .map(|name| {
                    let tree: Arc<dyn SourceTree> = Arc::new(MemoryTree::default());
                    (name.to_owned(), tree)
                })
                .into(),
            shared_key: String::new(),
            caches: "p".into(),
            export: Some(Export {
                repositories: vec!["localhost:5002/a".parse().unwrap(), "localhost:5003/b".parse().unwrap()],
                plain_http: true,
                told_only: false,
            }),
            outputs: Vec::new(),
            image_names: Vec::new(),
            logins: Vec::new(),
            lending: None,
            bounds: None,
            fetches: Default::default(),
            mounted: Default::default(),
            mask: Mask::default(),
            internal: false,
            call: None,
        }
    }

    #[test]
    fn a_request_says_what_was_asked_for_and_keeps_farms_own_settings() {
        let request = build(&example(), &Dockerfile::default(), None, "ref", "session");
        let attr = |key: &str| request.frontend_attrs.get(key).map(String::as_str);
        assert_eq!(attr("platform"), Some("linux/arm64"));
        assert_eq!(attr("build-arg:A"), Some("1"));
        assert_eq!(attr("build-arg:BUILDKIT_SYNTAX"), None);
        assert_eq!(attr("build-arg:BUILDKIT_CACHE_MOUNT_NS").map(str::len), Some(16));
        assert_eq!(attr("no-cache"), Some(""));
        assert_eq!(attr("context:context"), Some("local:named-context"));
        assert_eq!(attr("context:base"), Some("docker-image://r/x:1"));
        assert_eq!(attr("context:golden"), Some("docker-image://r/y:1"));
        assert!(attr("cmdline").is_some() && request.entitlements.is_empty());
        let run = RunOptions { network: Network::Host, ..RunOptions::default() };
        let host = build(&Solve { run, ..example() }, &Dockerfile::default(), None, "ref", "session");
        assert_eq!(host.frontend_attrs["force-network-mode"], "host");
        assert_eq!(host.entitlements, ["network.host"]);
        let exporter = &request.exporter_attrs_deprecated;
        assert_eq!(exporter["name"], "localhost:5002/a,localhost:5003/b");
        assert_eq!(exporter["registry.insecure"], "true");
        assert!(request.exporters.is_empty());
        assert_eq!(attr("attest:sbom"), Some("generator=docker.io/r/scanner:1"));
        let said = ["oci-mediatypes", "annotation-manifest.a.b", "rewrite-timestamp", "unpack"];
        assert_eq!(said.map(|key| exporter[key].as_str()), ["true", "c", "true", "false"]);
        let plain = build(
            &Solve { form: ImageForm { docker: true, ..ImageForm::default() }, ..example() },
            &Dockerfile::default(),
            None,
            "ref",
            "session",
        );
        let exporter = &plain.exporter_attrs_deprecated;
        assert_eq!(exporter["oci-mediatypes"], "false");
        assert!(!exporter.keys().any(|key| key.starts_with("annotation") || key == "rewrite-timestamp"));
    }

    #[test]
    fn outputs_come_before_the_push_and_only_images_have_names() {
        let (sink, _) = tokio::sync::mpsc::channel(1);
        let of = |form, attributes: &[(&str, &str)]| Output {
            export: farm_types::Export::new(
                form,
                attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
            )
            .unwrap(),
            sink: sink.clone(),
        };
        let outputs = vec![of(Form::Files, &[]), of(Form::Oci, &[("compression", "zstd")])];
        let names = vec!["docker.io/library/app:1".to_owned(), "r/b:2".to_owned()];
        let solve = Solve { outputs, image_names: names, ..example() };
        let request = build(&solve, &Dockerfile::default(), None, "ref", "session");
        let kinds: Vec<&str> = request.exporters.iter().map(|e| e.r#type.as_str()).collect();
        assert_eq!(kinds, ["local", "oci", "image"]);
        assert!(request.exporters[0].attrs.is_empty());
        assert_eq!(request.exporters[1].attrs["name"], "docker.io/library/app:1,r/b:2");
        assert_eq!(request.exporters[1].attrs["compression"], "zstd");
        assert_eq!(request.exporters[2].attrs["push"], "true");
        assert_eq!(request.exporter_deprecated, "");

        let solve = Solve { outputs: vec![of(Form::Tar, &[])], export: None, ..example() };
        let request = build(&solve, &Dockerfile::default(), None, "ref", "session");
        assert_eq!((request.exporter_deprecated.as_str(), request.exporters.len()), ("tar", 0));
    }

    #[test]
    fn stages_and_options_of_run_are_lists() {
        let hosts = ["db=10.0.0.7", "web=fd00::7"].map(|text| text.parse().unwrap()).into();
        let ulimits = ["nofile=1:2", "core=0"].map(|text| text.parse().unwrap()).into();
        let run = RunOptions {
            network: Network::None,
            allow: [Entitlement::SecurityInsecure].into(),
            add_hosts: hosts,
            shm_bytes: Some(1 << 26),
            ulimits,
            hostname: Some("run-1".parse().unwrap()),
        };
        let stages = vec!["a".to_owned(), "b".to_owned()];
        let solve = Solve { no_cache: false, no_cache_stages: stages, run, ..example() };
        let request = build(&solve, &Dockerfile::default(), None, "ref", "session");
        let attr = |key: &str| request.frontend_attrs.get(key).map(String::as_str);
        assert_eq!(attr("no-cache"), Some("a,b"));
        assert_eq!(attr("force-network-mode"), Some("none"));
        assert_eq!(request.entitlements, ["security.insecure"]);
        let of = |request: &SolveRequest| request.frontend_attrs["add-hosts"].clone();
        let (own, mark) =
            (of(&request), of(&build(&example(), &Dockerfile::default(), None, "ref", "session")));
        assert_eq!(own, format!("db=10.0.0.7,web=fd00::7,{mark}"));
        assert_eq!(attr("shm-size"), Some("67108864"));
        assert_eq!(attr("hostname"), Some("run-1"));
        assert_eq!(attr("ulimit"), Some("nofile=1:2,core=0:0"));
    }

    #[test]
    fn what_keeps_caches_apart_is_of_their_owner_and_cant_be_chosen() {
        let attrs = |caches: &str, hosts: &[&str]| {
            let add_hosts = hosts.iter().map(|text| text.parse().unwrap()).collect();
            let args = [("BUILDKIT_CACHE_MOUNT_NS", "p"), ("buildkit_cache_mount_ns", "p")];
            let solve = Solve {
                caches: caches.into(),
                run: RunOptions { add_hosts, ..RunOptions::default() },
                build_args: args.map(|(name, value)| (name.into(), value.into())).into(),
                ..example()
            };
            let attrs = build(&solve, &Dockerfile::default(), None, "ref", "session").frontend_attrs;
            let of = |key: &str| attrs.get(key).cloned().unwrap_or_default();
            (of("build-arg:BUILDKIT_CACHE_MOUNT_NS"), of("add-hosts"))
        };
        let (of_p, of_q) = (attrs("p", &[]), attrs("q", &[]));
        assert!(of_p.0 != of_q.0 && of_p.1 != of_q.1, "{of_p:?} {of_q:?}");
        // Whoever names the other's.
        let pretended = attrs("q", &[&of_p.1]);
        assert_eq!(pretended, (of_q.0, format!("{},{}", of_p.1, of_q.1)));
        assert_ne!(pretended.1, attrs("p", &[&of_q.1]).1);
        assert_eq!(attrs("", &[]), (String::new(), String::new()));
    }

    #[test]
    fn a_missing_root_is_stood_in_for() {
        assert_eq!(
            served(&example()).into_keys().collect::<Vec<_>>(),
            ["context", "dockerfile", "named-context"]
        );
    }

    #[test]
    fn an_answer_without_a_descriptor_is_a_bug() {
        let failure =
            solved(&example(), &Dockerfile::default(), &SolveResponse::default(), Vec::new()).unwrap_err();
        assert_eq!(failure.cause, Cause::Bug);
    }
}
