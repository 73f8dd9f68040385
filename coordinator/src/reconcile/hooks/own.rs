//! What a delivery of the farm's own says, and two kinds of these: a schedule's, when its time has come, and those that follow from an
//! image that has moved, of all hooks whose default branches build something upon it. (The third is a push that was missed: [`super::looks`].)
//!
//! Which these are the default branch's rules have said when they were read last ([`planned`]). A delivery reads them anew, and what isn't
//! in them any more isn't built. An image that the farm has put there itself, for a hook, leads to none for that hook, nor for those by
//! which that came to be: so hooks whose images are built upon one another end. And upon all that one move leads to each
//! hook builds once for each image that its rules name.
//!
//! All of them fetch by the repository's name, so each waits until it was seen lately that this is still the hook's ([`unready`]).

use std::time::Duration;

use farm_hooks::{Delivery, Happened, MovedImage, Outcome};
use farm_rules::{Cron, Event, EventKind, Rules};
use farm_store::StoreError;
use farm_store::hooks::deliveries::Waiting;
use farm_store::hooks::own::{Came, Due, Made, NewOwn, Planned, Root};
use farm_store::machines::leader::Epoch;
use farm_types::{Commit, Digest, HookId, ImageTag};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::step::Begun;
use crate::shared::Shared;

/// So many hooks, one's images built upon another's, end a chain.
const LONGEST: usize = 8;
/// So many schedules and images a hook has at most; and so long is the line of one, bytes.
const MOST: usize = 200;
const LONGEST_LINE: usize = 256;
/// What waits for a look at its repository does so no longer.
const PATIENCE: chrono::TimeDelta = chrono::TimeDelta::days(1);
/// So many schedules are looked at at once.
const BATCH: i64 = 100;

/// What the farm tells itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Own {
    /// What happened. The commit of a schedule and of an image that has moved is none: they build what their branch is at.
    pub event: Event,
    /// Of a schedule: when it came, as the rules had it then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
}

impl Own {
    /// As it is kept.
    pub(super) fn body(&self) -> Vec<u8> {
        // It is made of texts and numbers.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What a delivery of the farm's own says.
    pub(super) fn delivery(self, id: &str) -> Delivery {
        let event = self.event.kind.as_str().to_owned();
        let happened = Happened {
            event: self.event,
            before: None,
            is_forced: false,
            pull_request: None,
            proposed: Default::default(),
        };
        Delivery {
            id: id.to_owned(),
            event,
            repository: None,
            actor: None,
            outcome: Outcome::Event(Box::new(happened)),
        }
    }
}

/// What is to be done with a branch as it is, whatever it is at.
fn of_branch(kind: EventKind, branch: &str) -> Option<Event> {
    Some(Event {
        kind,
        git_ref: format!("refs/heads/{branch}").parse().ok()?,
        commit: none()?,
        default_branch: Some(branch.to_owned()),
        changed: None,
        message: String::new(),
    })
}

fn none() -> Option<Commit> {
    "0".repeat(40).parse().ok()
}

/// What rules say of times and images, from this time on.
pub(super) fn planned(rules: &Rules, from: chrono::DateTime<chrono::Utc>) -> Planned {
    let next = |(name, cron): (&str, &Cron)| {
        let line = cron.as_str();
        Some((name.to_owned(), line.to_owned(), cron.next(from)?)).filter(|_| line.len() <= LONGEST_LINE)
    };
    let schedules = rules.schedules().into_iter().filter_map(next).take(MOST).collect();
    let mut bases: Vec<String> = Vec::new();
    for images in rules.images().iter().filter_map(|image| image.on.base_image.as_ref()) {
        match &images[..] {
            [] => bases.push("*".to_owned()),
            images => bases.extend(images.iter().map(ToString::to_string)),
        }
    }
    bases.sort();
    bases.dedup();
    bases.truncate(MOST);
    Planned { schedules, bases }
}

/// What is in the way of a delivery of the farm's own. Once it has its place, nothing is: what follows is fetched by its commit.
///
/// # Errors
/// [`StoreError::Stale`]: it kept others about its ref waiting, and is begun anew. Or another coordinator leads, or the database can't be
/// reached.
pub(super) async fn unready(
    shared: &Shared,
    epoch: Epoch,
    of: &Waiting,
) -> Result<Option<Begun>, StoreError> {
    if of.own.is_none() || of.is_placed {
        return Ok(None);
    }
    if !of.strayed.is_empty() {
        return Ok(Some(Begun::Ignored(of.strayed.clone())));
    }
    if shared.loops.is_checked(of, shared.config.hooks.looks() * 2).await? {
        return Ok(None);
    }
    let name = &of.hook_name;
    if shared.loops.now().await? - of.asked_at > PATIENCE {
        let why = format!(
            "for a day nobody could see whether {} is still the hook's repository: farm hook show {name}",
            of.full_name
        );
        return Ok(Some(Begun::Ignored(why)));
    }
    let what = format!(
        "waits for a look whether {} is still the hook's repository: farm hook show {name}",
        of.full_name
    );
    if shared.loops.hurry_look(epoch, of, &what).await? {
        return Err(StoreError::Stale("the delivery, which is begun anew"));
    }
    Ok(Some(Begun::Goes(what)))
}

/// Makes deliveries of all schedules that are due: one of each, however many times have passed.
///
/// # Errors
/// Another coordinator leads, an older one runs beside it, or the database can't be reached.
pub(super) async fn come(shared: &Shared, epoch: Epoch) -> Result<(), StoreError> {
    for due in shared.loops.due_schedules(BATCH).await? {
        let next = due.line.parse::<Cron>().ok().and_then(|cron| cron.next(due.now));
        // One that isn't due was planned before the clock was set back.
        let new = scheduled(&due).filter(|_| due.next_at <= due.now);
        match shared.loops.come(epoch, &due, next, new.as_ref()).await {
            Ok(true) => {
                tracing::info!(hook = due.hook_name, schedule = due.name, "its time has come");
                shared.hints.delivered.notify_one();
            }
            Ok(false) => {
                tracing::info!(
                    hook = due.hook_name,
                    schedule = due.name,
                    "passed over: the last one goes on, or the hook is off"
                );
            }
            Err(StoreError::Stale(why)) => tracing::debug!(why, "not done"),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn scheduled(due: &Due) -> Option<NewOwn> {
    let branch = due.default_branch.as_deref().filter(|_| due.is_on)?;
    let event = of_branch(EventKind::Schedule { name: due.name.clone() }, branch)?;
    let own = Own { event, line: Some(due.line.clone()) };
    Some(NewOwn {
        event: "schedule",
        of: format!("{} ({})", due.name, due.line),
        body: own.body(),
        lineage: Vec::new(),
        root: None,
        found: None,
        wait: Duration::ZERO,
    })
}

/// What follows from images that have moved: deliveries of the project's hooks.
///
/// # Errors
/// Another coordinator leads, or the database can't be reached.
pub(super) async fn moved(
    shared: &Shared,
    epoch: Epoch,
    of: &Waiting,
    images: &[MovedImage],
) -> Result<Begun, StoreError> {
    let mut all: Vec<(HookId, NewOwn)> = Vec::new();
    let (mut names, mut said): (Vec<String>, Vec<String>) = Default::default();
    for image in images.iter().take(MOST) {
        let name = format!("{}/{}:{}", of.host, image.repository, image.tag);
        if is_about_another(&image.tag) {
            said.push(format!("{name} says something of another image, and nothing is built upon that"));
            continue;
        }
        let Ok(tag) = name.parse::<ImageTag>() else {
            said.push(format!("{name} is no image that could be built upon"));
            continue;
        };
        let upon = shared.loops.built_upon(of.project, &tag).await?;
        if upon.is_empty() {
            said.push(format!("no hook of the project builds anything upon {tag}"));
            continue;
        }
        let came = shared.loops.came(&tag, image.digest).await?;
        let Came { lineage, root } = came.unwrap_or_else(|| Came { lineage: Vec::new(), root: root(of) });
        for one in upon {
            if lineage.contains(&one.hook) {
                said.push(format!("{}: {tag} has come of what it has built itself", one.name));
            } else if lineage.len() >= LONGEST {
                let why =
                    format!("{}: {LONGEST} hooks, each building upon another's image, end here", one.name);
                said.push(why);
            } else if let Some(event) =
                of_branch(EventKind::BaseImage { image: tag.to_string() }, &one.default_branch)
            {
                let new = NewOwn {
                    event: "base_image",
                    of: tag.to_string(),
                    body: Own { event, line: None }.body(),
                    lineage: lineage.clone(),
                    root: Some(Root { id: root, base: one.base, told_by: told_by(of, &tag) }),
                    found: None,
                    wait: Duration::from_secs(shared.config.hooks.base_image_seconds),
                };
                all.push((one.hook, new));
                names.push(one.name);
            }
        }
    }
    let made = match shared.loops.make_own(epoch, of.project, &all).await {
        Ok(made) => made,
        Err(StoreError::Older(why)) => return Ok(Begun::Later(why)),
        Err(error) => return Err(error),
    };
    let mut done: Vec<String> = Vec::new();
    for ((name, (_, new)), made) in names.iter().zip(&all).zip(made) {
        let image = &new.of;
        match made {
            Made::There => done.push(format!("{name} is to build upon {image}")),
            Made::Known => said.push(format!("{name} builds already upon what has led to {image}")),
            Made::TooMany => {
                let why = "it has built upon too many moves of images within an hour; name the images that count in its base_image";
                said.push(format!("{name}: {why}"));
            }
            Made::Gone => {}
        }
    }
    if done.is_empty() {
        return Ok(Begun::Ignored(said.join("; ")));
    }
    done.append(&mut said);
    Ok(Begun::Done { builds: Vec::new(), reason: done.join("; ") })
}

/// What begins by a delivery, if the farm hasn't put the image there: the same each time that it is processed.
fn root(of: &Waiting) -> Uuid {
    half(&format!("{}\n{}\n{}", of.hook, of.id, of.run))
}

/// By what hooks are told of one of a delivery's images: the same each time that it is processed.
fn told_by(of: &Waiting, image: &ImageTag) -> Uuid {
    half(&format!("{}\n{}\n{}\n{image}", of.hook, of.id, of.run))
}

/// What stands for a text.
fn half(text: &str) -> Uuid {
    let whole = Digest::of(text.as_bytes());
    let mut half = [0; 16];
    half.iter_mut().zip(whole.as_bytes()).for_each(|(to, from)| *to = *from);
    Uuid::from_bytes(half)
}

/// Whether a tag is that of a signature, an attestation or the like, which tools put beside each image: `sha256-DIGITS[.sig]`.
fn is_about_another(tag: &str) -> bool {
    let Some(rest) = tag.strip_prefix("sha256-") else { return false };
    let digits = rest.split('.').next().unwrap_or_default();
    digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_images_are_taken_from_rules_each_once() {
        let text = "version: 1\nimages:\n  a:\n    on:\n      schedule: {nightly: \"0 3 * * *\"}\n      base_image: [docker.io/library/python:3.13]\n  \
                    b:\n    on:\n      schedule: {nightly: \"0 3 * * *\", weekly: \"@weekly\"}\n      base_image:\n";
        let rules = Rules::parse(text).unwrap();
        let said = planned(&rules, "2026-11-30T00:00:00Z".parse().unwrap());
        let times: Vec<String> = said
            .schedules
            .iter()
            .map(|(name, line, next)| format!("{name} {line} {}", next.format("%F %R")))
            .collect();
        assert_eq!(times, ["nightly 0 3 * * * 2026-11-30 03:00", "weekly @weekly 2026-12-06 00:00"]);
        assert_eq!(said.bases, ["*", "docker.io/library/python:3.13"]);
    }

    #[test]
    fn signatures_and_attestations_are_none_of_the_images_that_are_built_upon() {
        let digits = "0a".repeat(32);
        for tag in ["", ".sig", ".att", ".sbom"].map(|end| format!("sha256-{digits}{end}")) {
            assert!(is_about_another(&tag), "{tag}");
        }
        for tag in ["1.2", "sha256-1", "sha256-", "latest.sig"] {
            assert!(!is_about_another(tag), "{tag}");
        }
    }

    #[test]
    fn what_the_farm_tells_itself_reads_back() {
        let event = of_branch(EventKind::Schedule { name: "nightly".to_owned() }, "main").unwrap();
        let own = Own { event, line: Some("0 3 * * *".to_owned()) };
        let read: Own = serde_json::from_slice(&own.body()).unwrap();
        assert_eq!(read, own);
        let delivery = read.delivery("1");
        assert!(matches!(delivery.outcome, Outcome::Event(happened) if happened.event.commit.is_none()));
    }
}
