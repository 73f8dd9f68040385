//! Wire to domain and back.

use std::collections::{BTreeSet, HashMap};

use farm_types::mounts::{MOST_MOUNTS, Mounts};
use farm_types::spec::{NamedContext, Purpose, Verify};
use farm_types::{
    BuildSpec, CopySpec, CopyVerb, Export, FetchSpec, ImageRef, ImageTag, Invalid, MediaTypes, Offer,
    Placement, Platform, PullMode, RegistryHost, RunOptions, SinglePlatform, SnapshotRef,
};

pub use crate::failure::{fit, without_nul};
use crate::{fetch, packaging, v1};

/// The longest timeout of a build: sums of times stay in their range.
const LONGEST_TIMEOUT_MS: u64 = 30 * 24 * 3600 * 1000;

/// Exports of one build.
const MAX_EXPORTS: usize = 16;

/// The prefix of a named context that is an image.
const IMAGE_SCHEME: &str = "docker-image://";
/// The whole value of a named context that is a root of the snapshot.
const LOCAL_SCHEME: &str = "local:";

impl From<&BuildSpec> for v1::BuildSpec {
    fn from(spec: &BuildSpec) -> Self {
        let (origins, archive_origins) = fetch::told(&spec.origins);
        Self {
            snapshot: spec.purpose.copy().is_none().then(|| v1::SnapshotRef {
                tree_id: spec.snapshot.tree_id.to_string(),
                content_key: spec.snapshot.content_key.to_string(),
                upload_id: String::new(),
            }),
            platforms: match spec.purpose {
                Purpose::Fetch(_) | Purpose::Copy(_) => Vec::new(),
                _ => spec.platforms.iter().map(ToString::to_string).collect(),
            },
            optional_platforms: spec.optional.iter().map(ToString::to_string).collect(),
            tags: spec.tags.iter().map(ToString::to_string).collect(),
            dockerfile: spec.dockerfile.clone(),
            target: spec.target.clone().unwrap_or_default(),
            build_args: spec.build_args.clone().into_iter().collect(),
            labels: spec.labels.clone().into_iter().collect(),
            no_cache: spec.no_cache,
            pull: spec.pull == PullMode::Always,
            provenance: spec.provenance.as_str().to_owned(),
            sbom_generator: spec.sbom.as_ref().map(ToString::to_string).unwrap_or_default(),
            named_contexts: spec
                .named_contexts
                .iter()
                .map(|(name, context)| {
                    let value = match context {
                        NamedContext::Image(image) => format!("{IMAGE_SCHEME}{image}"),
                        NamedContext::Local => LOCAL_SCHEME.to_owned(),
                    };
                    (name.clone(), value)
                })
                .collect(),
            single_platform: spec.single_platform.as_str().to_owned(),
            emulation: spec.emulation.to_string(),
            timeout_ms: spec.timeout_ms.unwrap_or_default(),
            exports: spec.exports.iter().map(Into::into).collect(),
            image_names: spec.image_names.iter().map(ToString::to_string).collect(),
            network: spec.run.network.as_str().to_owned(),
            entitlements: spec.run.allow.iter().map(ToString::to_string).collect(),
            add_hosts: spec.run.add_hosts.iter().map(ToString::to_string).collect(),
            shm_bytes: spec.run.shm_bytes.unwrap_or(0),
            ulimits: spec.run.ulimits.iter().map(ToString::to_string).collect(),
            no_cache_stages: spec.no_cache_stages.clone(),
            hostname: spec.run.hostname.as_ref().map(ToString::to_string).unwrap_or_default(),
            run_image: match &spec.purpose {
                Purpose::Run(image) => image.clone(),
                _ => String::new(),
            },
            call: match spec.purpose {
                Purpose::Call(call) => call.as_str().to_owned(),
                _ => String::new(),
            },
            partial: spec
                .partial
                .iter()
                .map(|(root, patterns)| (root.clone(), v1::Patterns { patterns: patterns.clone() }))
                .collect(),
            secrets: spec
                .mounts
                .secrets
                .iter()
                .map(|(id, source)| (id.to_string(), source.to_string()))
                .collect(),
            ssh: spec
                .mounts
                .ssh
                .iter()
                .map(|(id, source)| (id.to_string(), source.as_str().to_owned()))
                .collect(),
            registry_logins: spec.mounts.logins.iter().map(ToString::to_string).collect(),
            fetch: spec.purpose.fetch().map(Into::into),
            copy: spec.purpose.copy().map(Into::into),
            origins,
            archive_origins,
            // Of a fetch there is nothing to say.
            verify: match spec.purpose.is_build() {
                true => spec.verify.as_str().to_owned(),
                false => String::new(),
            },
            verify_except: spec.verify.exceptions().to_vec(),
            media_types: unless_usual(spec.packaging.media_types, MediaTypes::as_str),
            annotations: spec.packaging.annotations.iter().map(Into::into).collect(),
            attestations: unless_usual(spec.packaging.attestations, Placement::as_str),
            rewrite_timestamp: spec.packaging.rewrite_timestamp,
            expected: spec.expected.iter().map(Into::into).collect(),
            gate: spec.gate.as_ref().map(ToString::to_string).unwrap_or_default(),
            sign: spec.sign.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }
}

/// The word for what differs from what holds unless it is said.
fn unless_usual<T: Default + PartialEq + Copy>(value: T, word: impl FnOnce(T) -> &'static str) -> String {
    if value == T::default() { String::new() } else { word(value).to_owned() }
}

impl TryFrom<v1::BuildSpec> for BuildSpec {
    type Error = Invalid;

    fn try_from(spec: v1::BuildSpec) -> Result<Self, Invalid> {
        if let Some(fetch) = &spec.fetch {
            return of_fetch(fetch, &spec);
        }
        if let Some(copy) = &spec.copy {
            return of_copy(copy, &spec);
        }
        let form = packaging::packaging(&spec)?;
        let snapshot = spec
            .snapshot
            .ok_or_else(|| Invalid::new("snapshot", "", "a build needs a source; finish an upload first"))?;
        let platforms = platforms(&spec.platforms)?;
        if platforms.is_empty() {
            return Err(Invalid::new("platform", "", "name at least one, for example linux/amd64"));
        }
        let optional = spec
            .optional_platforms
            .iter()
            .map(|text| text.parse())
            .collect::<Result<BTreeSet<Platform>, Invalid>>()?;
        let optional: Vec<Platform> = optional.into_iter().collect();
        Self::check_optional(&platforms, &optional)?;
        let (tags, timeout_ms) = (tags(&spec.tags)?, timeout(spec.timeout_ms)?);
        let expected = packaging::expected(&spec.expected, &tags)?;
        let dockerfile = if spec.dockerfile.is_empty() { "Dockerfile".to_owned() } else { spec.dockerfile };
        if dockerfile.starts_with('/') || dockerfile.split('/').any(|part| part == "..") {
            return Err(Invalid::new("dockerfile", dockerfile, "it must lie within the snapshot"));
        }
        for key in spec.build_args.keys() {
            check_build_arg(key)?;
        }
        for stage in &spec.no_cache_stages {
            check_stage(stage)?;
        }
        let run = RunOptions {
            network: if spec.network.is_empty() { Default::default() } else { spec.network.parse()? },
            allow: spec.entitlements.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            add_hosts: spec.add_hosts.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            shm_bytes: (spec.shm_bytes > 0).then_some(spec.shm_bytes),
            ulimits: spec.ulimits.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            hostname: if spec.hostname.is_empty() { None } else { Some(spec.hostname.parse()?) },
        };
        let purpose = match (spec.run_image.is_empty(), spec.call.is_empty()) {
            (true, true) => Purpose::Image,
            (false, true) => Purpose::Run(spec.run_image.clone()),
            (true, false) => Purpose::Call(spec.call.parse()?),
            (false, false) => return Err(Invalid::new("call", spec.call, "it can't go with run_image")),
        };
        if let (true, Some(tag)) = (purpose != Purpose::Image, spec.tags.first()) {
            return Err(Invalid::new("tag", tag, "what runs an image or asks a frontend publishes nothing"));
        }
        let gate = if spec.gate.is_empty() { None } else { Some(spec.gate.parse()?) };
        let sign = packaging::signing_key(&spec.sign)?;
        let provenance =
            if spec.provenance.is_empty() { Default::default() } else { spec.provenance.parse()? };
        let single_platform: SinglePlatform = if spec.single_platform.is_empty() {
            Default::default()
        } else {
            spec.single_platform.parse()?
        };
        let exports = exports(spec.exports, &purpose)?;
        let image_names = spec.image_names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
        let maps = [&spec.build_args, &spec.labels, &spec.named_contexts];
        let texts = maps.into_iter().flatten().flat_map(|(key, value)| [key, value]);
        let partial = spec.partial.iter().flat_map(|(root, all)| all.patterns.iter().chain([root]));
        let texts = texts.chain(partial).chain(&spec.verify_except);
        if let Some(text) =
            texts.chain([&dockerfile, &spec.target, &spec.run_image]).find(|text| text.contains('\0'))
        {
            return Err(Invalid::new("value", text, "it holds a NUL byte, which no program takes"));
        }
        let named_contexts = spec
            .named_contexts
            .into_iter()
            .map(|(name, value)| {
                let context = match value.strip_prefix(IMAGE_SCHEME) {
                    Some(image) if !image.is_empty() => NamedContext::Image(image.to_owned()),
                    _ if value == LOCAL_SCHEME => NamedContext::Local,
                    _ => {
                        return Err(Invalid::new(
                            "build context",
                            format!("{name}={value}"),
                            "farm takes a folder or docker-image://REF",
                        ));
                    }
                };
                Ok((name, context))
            })
            .collect::<Result<_, _>>()?;
        let spec = Self {
            snapshot: SnapshotRef {
                tree_id: snapshot.tree_id.parse()?,
                content_key: snapshot.content_key.parse()?,
            },
            platforms,
            optional,
            tags,
            dockerfile,
            target: (!spec.target.is_empty()).then_some(spec.target),
            build_args: spec.build_args.into_iter().collect(),
            labels: spec.labels.into_iter().collect(),
            no_cache: spec.no_cache,
            no_cache_stages: spec.no_cache_stages,
            run,
            pull: if spec.pull { PullMode::Always } else { PullMode::Default },
            provenance,
            sbom: packaging::generator(&spec.sbom_generator)?,
            single_platform,
            named_contexts,
            emulation: if spec.emulation.is_empty() { Default::default() } else { spec.emulation.parse()? },
            timeout_ms,
            exports,
            image_names,
            purpose,
            mounts: mounts(spec.secrets, spec.ssh, &spec.registry_logins)?,
            partial: spec.partial.into_iter().map(|(root, all)| (root, all.patterns)).collect(),
            origins: fetch::origins(spec.origins, spec.archive_origins)?,
            verify: Verify::new(&spec.verify, spec.verify_except)?,
            packaging: form,
            expected,
            gate,
            sign,
        };
        spec.check_packaging()?;
        spec.check_gate()?;
        spec.check_sign()?;
        Ok(spec)
    }
}

/// What a fetch is as a build: nothing of a build's own may be said with it.
fn of_fetch(fetch: &v1::FetchSpec, spec: &v1::BuildSpec) -> Result<BuildSpec, Invalid> {
    let fetch = FetchSpec::try_from(fetch.clone())?;
    let snapshot = match &spec.snapshot {
        // As it is told again, to whom it is leased.
        Some(known) => {
            SnapshotRef { tree_id: known.tree_id.parse()?, content_key: known.content_key.parse()? }
        }
        None => SnapshotRef::none(),
    };
    let alone = v1::BuildSpec { snapshot: spec.snapshot.clone(), fetch: spec.fetch.clone(), ..said(spec) };
    if *spec != alone {
        let value = fetch.source.to_string();
        return Err(Invalid::new(
            "fetch",
            value,
            "with a fetch nothing can be said of a build; leave the rest out",
        ));
    }
    Ok(BuildSpec { timeout_ms: timeout(spec.timeout_ms)?, ..BuildSpec::to_fetch(fetch, snapshot) })
}

impl From<&CopySpec> for v1::CopySpec {
    fn from(copy: &CopySpec) -> Self {
        Self {
            from: copy.from.to_string(),
            verb: copy.verb.as_str().to_owned(),
            platforms: copy.platforms.iter().map(ToString::to_string).collect(),
        }
    }
}

/// What a copy is as a build: beside its tags nothing of a build's own may be said with it.
fn of_copy(copy: &v1::CopySpec, spec: &v1::BuildSpec) -> Result<BuildSpec, Invalid> {
    let verb = if copy.verb.is_empty() { CopyVerb::default() } else { copy.verb.parse()? };
    let from: ImageRef = copy.from.parse()?;
    let alone = v1::BuildSpec {
        tags: spec.tags.clone(),
        expected: spec.expected.clone(),
        sign: spec.sign.clone(),
        copy: spec.copy.clone(),
        ..said(spec)
    };
    if *spec != alone {
        let cure = "with a copy nothing but tags and by what they are signed can be said of a build; leave the rest out";
        return Err(Invalid::new("copy", copy.from.as_str(), cure));
    }
    let tags = tags(&spec.tags)?;
    if tags.is_empty() {
        return Err(Invalid::new("copy", copy.from.as_str(), "say to where: name a tag at least"));
    }
    Ok(BuildSpec {
        timeout_ms: timeout(spec.timeout_ms)?,
        expected: packaging::expected(&spec.expected, &tags)?,
        sign: packaging::signing_key(&spec.sign)?,
        ..BuildSpec::to_copy(CopySpec { from, verb, platforms: platforms(&copy.platforms)? }, tags)
    })
}

/// What whoever tells a spec again says of any.
fn said(spec: &v1::BuildSpec) -> v1::BuildSpec {
    v1::BuildSpec {
        timeout_ms: spec.timeout_ms,
        dockerfile: spec.dockerfile.clone(),
        provenance: spec.provenance.clone(),
        emulation: spec.emulation.clone(),
        network: spec.network.clone(),
        single_platform: spec.single_platform.clone(),
        ..Default::default()
    }
}

fn timeout(ms: u64) -> Result<Option<u64>, Invalid> {
    if ms > LONGEST_TIMEOUT_MS {
        return Err(Invalid::new("timeout", ms.to_string(), "write at most 30 days"));
    }
    Ok((ms > 0).then_some(ms))
}

/// Each once.
fn platforms(texts: &[String]) -> Result<Vec<Platform>, Invalid> {
    let mut platforms = Vec::new();
    for text in texts {
        let platform = text.parse()?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

/// Each once.
fn tags(texts: &[String]) -> Result<Vec<ImageTag>, Invalid> {
    let mut tags = Vec::new();
    for tag in texts {
        let tag = tag.parse()?;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    Ok(tags)
}

fn mounts(
    secrets: HashMap<String, String>,
    ssh: HashMap<String, String>,
    logins: &[String],
) -> Result<Mounts, Invalid> {
    let count = secrets.len() + ssh.len() + logins.len();
    if count > MOST_MOUNTS {
        let cure = format!("a build has at most {MOST_MOUNTS} of --secret, --ssh and --registry-login");
        return Err(Invalid::new("secrets", count.to_string(), cure));
    }
    let secrets = secrets.iter().map(|(id, source)| Ok((id.parse()?, source.parse()?)));
    let secrets = secrets.collect::<Result<_, Invalid>>()?;
    let ssh = ssh.iter().map(|(id, source)| Ok((id.parse()?, source.parse()?)));
    let logins = logins.iter().map(|host| {
        let named: RegistryHost = host.parse()?;
        if named.as_str() == host {
            host.parse()
        } else {
            Err(Invalid::new("registry", host, format!("write {named}")))
        }
    });
    let logins = logins.collect::<Result<_, Invalid>>()?;
    Ok(Mounts { secrets, ssh: ssh.collect::<Result<_, Invalid>>()?, logins })
}

/// The exports of a spec, if a build can have them.
fn exports(exports: Vec<v1::Export>, purpose: &Purpose) -> Result<Vec<Export>, Invalid> {
    if let (true, Some(export)) = (*purpose != Purpose::Image, exports.first()) {
        let cure = "what runs an image or asks a frontend makes nothing that could be given out";
        return Err(Invalid::new("export", &export.form, cure));
    }
    if exports.len() > MAX_EXPORTS {
        let cure = format!("a build has at most {MAX_EXPORTS}");
        return Err(Invalid::new("exports", exports.len().to_string(), cure));
    }
    exports.into_iter().map(|export| Export::new(export.form.parse()?, export.attributes)).collect()
}

impl From<&Export> for v1::Export {
    fn from(export: &Export) -> Self {
        Self {
            form: export.form.as_str().to_owned(),
            attributes: export.attributes().clone().into_iter().collect(),
        }
    }
}

/// Refuses what can't be a stage's name: the engine takes them in one list.
///
/// # Errors
/// It is empty, or holds what no name holds.
pub fn check_stage(name: &str) -> Result<(), Invalid> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || !name.chars().all(is_part) {
        return Err(Invalid::new("stage", name, "write the name of a stage (FROM … AS NAME)"));
    }
    Ok(())
}

/// Refuses build arguments that steer the engine: farm sets those itself.
///
/// # Errors
/// The name is empty, holds `=`, or is one of farm's own.
pub fn check_build_arg(name: &str) -> Result<(), Invalid> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(Invalid::new("build argument", name, "write NAME=VALUE"));
    }
    if ["BUILDKIT_SYNTAX", "BUILDKIT_CACHE_MOUNT_NS"].contains(&name) {
        return Err(Invalid::new("build argument", name, "farm sets this one itself; leave it out"));
    }
    Ok(())
}

impl From<&Offer> for v1::OfferedPlatform {
    fn from(offer: &Offer) -> Self {
        Self { platform: offer.platform.to_string(), support: offer.support.to_string(), told: offer.told }
    }
}

impl TryFrom<v1::OfferedPlatform> for Offer {
    type Error = Invalid;

    fn try_from(offer: v1::OfferedPlatform) -> Result<Self, Invalid> {
        Ok(Self { platform: offer.platform.parse()?, support: offer.support.parse()?, told: offer.told })
    }
}

impl TryFrom<&v1::PlatformOffer> for Offer {
    type Error = Invalid;

    fn try_from(offer: &v1::PlatformOffer) -> Result<Self, Invalid> {
        Ok(Self { platform: offer.platform.parse()?, support: offer.support.parse()?, told: offer.told })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farm_types::{Digest, Failure};

    fn wire() -> v1::BuildSpec {
        v1::BuildSpec {
            snapshot: Some(v1::SnapshotRef {
                tree_id: Digest::of(b"t").to_string(),
                content_key: Digest::of(b"c").to_string(),
                upload_id: String::new(),
            }),
            platforms: vec!["linux/arm64/v8".into(), "linux/arm64".into(), "linux/amd64".into()],
            tags: vec!["localhost:5002/app".into()],
            build_args: [("A".to_owned(), "1".to_owned())].into(),
            named_contexts: [
                ("base".to_owned(), "docker-image://localhost:5002/x:1".to_owned()),
                ("lib".to_owned(), "local:".to_owned()),
            ]
            .into(),
            provenance: "max".into(),
            emulation: "fallback=90s".into(),
            partial: [("context".to_owned(), v1::Patterns { patterns: vec!["src/*.c".into()] })].into(),
            exports: vec![
                v1::Export { form: "files".into(), attributes: Default::default() },
                v1::Export {
                    form: "oci".into(),
                    attributes: [("compression".to_owned(), "zstd".to_owned())].into(),
                },
            ],
            image_names: vec!["app".into()],
            gate: "[\"/app\", \"--self-test\"]".into(),
            sign: "release".into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_spec_survives_the_way_there_and_back() {
        let spec = BuildSpec::try_from(wire()).unwrap();
        assert_eq!(spec.platforms.len(), 2);
        assert_eq!(spec.dockerfile, "Dockerfile");
        assert_eq!(BuildSpec::try_from(v1::BuildSpec::from(&spec)).unwrap(), spec);
        let alone = v1::BuildSpec {
            platforms: vec!["linux/amd64".into()],
            tags: vec!["LOCALHOST:5002/app".into()],
            provenance: String::new(),
            single_platform: "manifest".into(),
            ..wire()
        };
        let spec = BuildSpec::try_from(alone).unwrap();
        assert_eq!(spec.single_platform, SinglePlatform::Manifest);
        assert_eq!(spec.tags[0].to_string(), "localhost:5002/app:latest");
        assert_eq!(BuildSpec::try_from(v1::BuildSpec::from(&spec)).unwrap(), spec);
    }

    #[test]
    fn a_spec_that_climbs_or_steers_the_engine_is_refused() {
        let refused = |change: fn(&mut v1::BuildSpec)| {
            let mut spec = wire();
            change(&mut spec);
            BuildSpec::try_from(spec).unwrap_err().to_string()
        };
        assert!(refused(|s| s.dockerfile = "../Dockerfile".into()).contains("within"));
        assert!(refused(|s| s.platforms.clear()).contains("at least one"));
        assert!(refused(|s| s.snapshot = None).contains("source"));
        assert!(refused(|s| s.single_platform = "manifest".into()).contains("2 platforms"));
        assert!(refused(|s| s.single_platform = "list".into()).contains("index or manifest"));
        assert!(refused(|s| s.verify = "yes".into()).contains("elf or off"));
        assert!(refused(|s| s.verify_except = vec!["[a".into()]).contains("[a"));
        assert!(refused(|s| s.gate = "[\"/app\"".into()).contains("JSON array"));
        let nothing_pushed = |s: &mut v1::BuildSpec| (s.tags, s.gate) = (Vec::new(), "true".into());
        assert!(refused(nothing_pushed).contains("pushes nothing"));
        let unpublished = |s: &mut v1::BuildSpec| (s.tags, s.gate) = (Vec::new(), String::new());
        assert!(refused(unpublished).contains("signing key \"release\": what is published is signed"));
        assert!(refused(|s| s.sign = "./cosign.key".into()).contains("name of a signing key"));
        let syntax = |s: &mut v1::BuildSpec| drop(s.build_args.insert("BUILDKIT_SYNTAX".into(), "x".into()));
        assert!(refused(syntax).contains("farm sets"));
        let git = |s: &mut v1::BuildSpec| drop(s.named_contexts.insert("g".into(), "https://x/y.git".into()));
        assert!(refused(git).contains("docker-image://"));
        let export = |form: &str, key: &str| v1::Export {
            form: form.to_owned(),
            attributes: [(key.to_owned(), "x".to_owned())].into(),
        };
        let mut spec = wire();
        spec.exports = vec![export("oci", "dest")];
        assert!(BuildSpec::try_from(spec.clone()).unwrap_err().to_string().contains("dest"));
        spec.exports = vec![export("image", "push")];
        assert!(BuildSpec::try_from(spec).unwrap_err().to_string().contains("files, tar, oci or docker"));
        assert!(refused(|s| s.run_image = "app".into()).contains("nothing"));
    }

    #[test]
    fn no_nul_comes_past_the_edge() {
        let failure = v1::Failure {
            cause: "user".into(),
            message: "a\0b".into(),
            source: Some(v1::SourceExcerpt { lines: vec!["F\0R\0".into()], ..Default::default() }),
            ..Default::default()
        };
        let failure = Failure::try_from(failure).unwrap();
        assert!(!format!("{failure:?}").contains("\\0"), "{failure:?}");
        let mut spec = wire();
        spec.labels.insert("a".into(), "b\0".into());
        assert!(BuildSpec::try_from(spec).unwrap_err().to_string().contains("NUL"));
    }
}
