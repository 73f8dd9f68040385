//! What the registry has: every index whole, every tag where it belongs, nothing published twice.

use std::collections::BTreeMap;

use super::{Case, Report};
use crate::faults::Done;
use crate::faults::builds::PLATFORMS;
use crate::faults::door::{Put, digest_of};
use crate::faults::facts::{Tag, fetch, fetch_json, seconds};
use crate::faults::fault::Fault;
use crate::faults::trap::How;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What somebody who was stopped had in hand, he does so soon after it goes on, in seconds.
const LATE: f64 = 3.0;

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
/// newer one was settled, unless a coordinator was stopped before it put, or got Postgres's word that it may put late (a
/// registry knows no fence), and then farm has put it right ([`heads`] sees to that).
fn history(case: &Case<'_>, report: &mut Report) {
    let door = &case.run.stage.door;
    for put in door.puts() {
        match judge(&put, &door.address(), &case.tags, &case.run.done) {
            Judgement::Good => {}
            Judgement::Unknown => {
                report.published_twice += 1;
                report.violation(format!("nobody's index was put: {put:?}"));
            }
            Judgement::LateAfterAStop => report.late_puts += 1,
            Judgement::Late => {
                report.violation(format!("an older index was put after a newer one was settled: {put:?}"));
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Good,
    Unknown,
    LateAfterAStop,
    Late,
}

/// `tags` in the order of intent.
fn judge(put: &Put, address: &str, tags: &[Tag], done: &[Done]) -> Judgement {
    let is_tag = !put.reference.starts_with("sha256:");
    if put.media_type != INDEX && !is_tag {
        return Judgement::Good; // an image of a worker's, by digest
    }
    let reference = format!("{address}/{}:{}", put.repository, put.reference);
    let belongs = |tag: &&Tag| tag.digest == put.digest && (!is_tag || tag.reference == reference);
    let Some(known) = tags.iter().find(belongs) else { return Judgement::Unknown };
    let begun = seconds(put.begun);
    let passed = tags.iter().any(|tag| {
        let newer = is_tag && tag.reference == reference && tag.order_key > known.order_key;
        newer && tag.state == "verified" && tag.settled.is_some_and(|settled| settled < begun)
    });
    let stopped = done.iter().any(|done| {
        let stop = matches!(
            done.fault,
            Fault::PauseCoordinator(_)
                | Fault::PausePostgres
                | Fault::AtStep(_, How::Stop)
                | Fault::PostgresLink { .. }
                | Fault::HangStatement(_)
        );
        stop && seconds(done.begun) < begun && begun < seconds(done.ended) + LATE
    });
    match (passed, stopped) {
        (false, _) => Judgement::Good,
        (true, true) => Judgement::LateAfterAStop,
        (true, false) => Judgement::Late,
    }
}

/// `HOST:PORT/REPOSITORY:TAG`, in two.
fn place(reference: &str) -> (&str, &str) {
    let (address, rest) = reference.split_once('/').expect("farm's references have a host");
    (address, rest.rsplit_once(':').map_or(rest, |(repository, _)| repository))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::faults::fault::Role;
    use crate::faults::stage::Target;

    fn tag(digest: &str, order_key: i64, settled: f64) -> Tag {
        Tag {
            build: String::new(),
            digest: digest.to_owned(),
            order_key,
            reference: "localhost:1/app:1".to_owned(),
            state: "verified".to_owned(),
            settled: Some(settled),
        }
    }

    fn put(digest: &str, at: u64) -> Put {
        Put {
            begun: UNIX_EPOCH + Duration::from_secs(at),
            repository: "app".to_owned(),
            reference: "1".to_owned(),
            digest: digest.to_owned(),
            media_type: INDEX.to_owned(),
            is_coordinators: true,
        }
    }

    #[test]
    fn an_older_index_after_a_newer_one_is_late_and_only_a_stop_excuses_it() {
        let tags = [tag("old", 1, 100.0), tag("new", 2, 200.0)];
        let judged = |put: Put, done: &[Done]| judge(&put, "localhost:1", &tags, done);
        assert_eq!(judged(put("old", 99), &[]), Judgement::Good);
        assert_eq!(judged(put("new", 300), &[]), Judgement::Good);
        assert_eq!(judged(put("old", 201), &[]), Judgement::Late);
        let fault = |fault, begun| Done {
            fault,
            target: Target::Coordinator(0),
            begun: UNIX_EPOCH + Duration::from_secs(begun),
            ended: UNIX_EPOCH + Duration::from_secs(begun + 8),
        };
        let (stop, kill) = (Fault::PauseCoordinator(Role::Leader), Fault::KillCoordinator(Role::Leader));
        assert_eq!(judged(put("old", 201), &[fault(stop, 192)]), Judgement::LateAfterAStop);
        assert_eq!(judged(put("old", 201), &[fault(stop, 100)]), Judgement::Late);
        assert_eq!(judged(put("old", 201), &[fault(kill, 190)]), Judgement::Late);
    }

    #[test]
    fn what_no_build_published_and_what_belongs_to_another_tag_is_nobodys() {
        let tags = [tag("old", 1, 100.0)];
        assert_eq!(judge(&put("other", 1), "localhost:1", &tags, &[]), Judgement::Unknown);
        assert_eq!(judge(&put("old", 1), "localhost:2", &tags, &[]), Judgement::Unknown);
        let by_digest = Put { reference: "sha256:old".to_owned(), ..put("old", 1) };
        assert_eq!(judge(&by_digest, "localhost:1", &tags, &[]), Judgement::Good);
        let image = Put { media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(), ..by_digest };
        assert_eq!(judge(&image, "localhost:1", &[], &[]), Judgement::Good);
    }
}
