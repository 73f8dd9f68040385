//! What the registry has: every index whole, every tag where it belongs, nothing published twice.

use std::collections::BTreeMap;

use super::{Case, Report};
use crate::faults::builds::PLATFORMS;
use crate::faults::door::digest_of;
use crate::faults::facts::{Tag, fetch, fetch_json, seconds};
use crate::faults::plan::Fault;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A pause, and what the paused one had begun and does after it.
const LATE: f64 = 25.0;

pub fn check(case: &Case<'_>, report: &mut Report) {
    rows(case, report);
    for tag in &case.tags {
        if case.builds.get(&tag.build).is_some_and(|build| build.state == "succeeded") {
            whole(case, tag, report);
        }
    }
    heads(case, report);
    history(case, report);
}

/// A succeeded build has published one index, and each of its tags has it or was passed by a newer one; no other build
/// has published anything.
fn rows(case: &Case<'_>, report: &mut Report) {
    for (id, build) in &case.builds {
        let tags: Vec<&Tag> = case.tags.iter().filter(|tag| tag.build == *id).collect();
        if tags.len() > 1 {
            report.published_twice += 1;
            report.violation(format!("{id} is published {} times: {tags:?}", tags.len()));
        }
        let settled =
            tags.iter().filter(|tag| matches!(tag.state.as_str(), "verified" | "superseded")).count();
        if (build.state == "succeeded") != (settled == 1) {
            report.violation(format!("{id} is {} and its tags are {tags:?}", build.state));
        }
    }
}

/// The index has both platforms, and each image is that build's for that platform.
fn whole(case: &Case<'_>, tag: &Tag, report: &mut Report) {
    let (address, repository) = place(&tag.reference);
    let Some(index) = fetch_json(address, repository, &format!("manifests/{}", tag.digest)) else {
        return report.violation(format!("{}: its index {} isn't in the registry", tag.build, tag.digest));
    };
    let name = case.builds[&tag.build].key.as_str();
    let mut found = Vec::new();
    for entry in index["manifests"].as_array().into_iter().flatten() {
        let platform = &entry["platform"];
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let platform = format!("{}/{}", text(&platform["os"]), text(&platform["architecture"]));
        let manifest = fetch_json(address, repository, &format!("manifests/{}", text(&entry["digest"])));
        let config = manifest.map(|manifest| format!("blobs/{}", text(&manifest["config"]["digest"])));
        let config = config.and_then(|config| fetch_json(address, repository, &config)).unwrap_or_default();
        if format!("{}/{}", text(&config["os"]), text(&config["architecture"])) != platform
            || config["config"]["Labels"]["build"] != name
        {
            report.violation(format!("{}: its image for {platform} is another's: {config}", tag.build));
        }
        found.push(platform);
    }
    found.sort();
    if found != PLATFORMS {
        report.violation(format!("{}: its index has {found:?}", tag.build));
    }
}

/// Each tag points to the index of the newest build that succeeded.
fn heads(case: &Case<'_>, report: &mut Report) {
    let mut newest: BTreeMap<&str, &Tag> = BTreeMap::new();
    for tag in &case.tags {
        if case.builds.get(&tag.build).is_some_and(|build| build.state == "succeeded") {
            newest.insert(&tag.reference, tag); // they come in the order of intent
        }
    }
    for (reference, tag) in newest {
        let (address, repository) = place(reference);
        let name = reference.rsplit_once(':').map_or("", |(_, name)| name);
        let bytes = fetch(address, repository, &format!("manifests/{name}"));
        let digest = bytes.as_deref().map(digest_of);
        if digest.as_deref() != Some(&tag.digest) || tag.state != "verified" {
            report.stale_tags += 1;
            report.violation(format!("{reference} is {digest:?}, and the newest is {tag:?}"));
        }
    }
}

/// What was put, in order: nothing but indexes that farm made, to the tags they belong to, and no older one after a
/// newer one was settled, unless a coordinator was stopped before it put (a registry knows no fence), and then farm has
/// put it right ([`heads`] sees to that).
fn history(case: &Case<'_>, report: &mut Report) {
    for put in case.run.stage.door.puts() {
        let is_index = put.media_type == INDEX;
        let is_tag = !put.reference.starts_with("sha256:");
        if !is_index && !is_tag {
            continue;
        }
        let reference = format!("{}/{}:{}", case.run.stage.door.address(), put.repository, put.reference);
        let known =
            case.tags.iter().find(|tag| tag.digest == put.digest && (!is_tag || tag.reference == reference));
        let Some(known) = known else {
            report.published_twice += 1;
            report.violation(format!("nobody's index was put: {put:?}"));
            continue;
        };
        let begun = seconds(put.begun);
        let newer = case.tags.iter().filter(|tag| is_tag && tag.reference == reference);
        let passed = newer
            .filter(|tag| tag.order_key > known.order_key && tag.state == "verified")
            .any(|tag| tag.settled.is_some_and(|settled| settled < begun));
        if !passed {
            continue;
        }
        let stopped = case.run.done.iter().any(|done| {
            matches!(done.fault, Fault::PauseCoordinator(_) | Fault::PausePostgres)
                && seconds(done.begun) < begun
                && begun < seconds(done.ended) + LATE
        });
        report.late_puts += 1;
        if !stopped {
            report.violation(format!(
                "an older index was put after a newer one was settled: {put:?}, {known:?}"
            ));
        }
    }
}

/// `HOST:PORT/REPOSITORY:TAG`, in two.
fn place(reference: &str) -> (&str, &str) {
    let (address, rest) = reference.split_once('/').expect("farm's references have a host");
    (address, rest.rsplit_once(':').map_or(rest, |(repository, _)| repository))
}
