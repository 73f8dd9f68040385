//! Publishing, the leader, and a registry that knows no fence: `store/src/publish/{publications,destinations}.rs`,
//! `store/src/machines/leader.rs`, `reconcile/publish/publications.rs`.

use farm_core::life;
use farm_core::life::publication;
use farm_types::state::{BuildState, DestinationState, PublicationState, TagState};
use farm_types::{Cause, Failure, FailureCode};

use crate::world::*;

/// A claim is good for that long: later the tag is claimed anew before anything is put.
pub const CLAIM_HOLDS: i64 = 2;
/// For how long a tag is looked at again whose former claim may still have its effect.
pub const RECHECK_FOR: i64 = 24 * 3600;

impl World {
    /// A coordinator renews its leadership, takes it, or learns that another leads.
    pub fn lead(&mut self, coordinator: Row) {
        let Leader { holder, epoch, expires, .. } = self.leader;
        let renews = holder == Some(coordinator)
            && self.coordinators[coordinator] == Some(epoch)
            && expires > self.now;
        if renews {
            self.leader.expires = self.now + LEADER_TTL;
            return;
        }
        if expires > self.now {
            self.coordinators[coordinator] = None;
            return;
        }
        let epoch = epoch + 1;
        if expires + OUTAGE < self.now {
            self.leader.silent_since = expires;
            self.leader.settling_until = self.now + LEASE;
        }
        self.leader =
            Leader { holder: Some(coordinator), epoch, expires: self.now + LEADER_TTL, ..self.leader };
        self.coordinators[coordinator] = Some(epoch);
    }

    /// The publisher of a coordinator looks for what is due.
    pub fn look(&mut self, coordinator: Row, from: usize) {
        let Some(epoch) = self.coordinators[coordinator] else { return };
        for build in (0..self.builds.len()).map(|build| (build + from) % self.builds.len()) {
            let row = &self.builds[build];
            match &row.publication {
                None if row.state == BuildState::Publishing => {
                    self.writes.push((epoch, coordinator, Write::Merge { build }));
                }
                Some(of) if of.state == PublicationState::Pending => {
                    // One task a publication, and one a tag, in a process.
                    let busy = self.tasks.iter().any(|task| {
                        task.coordinator == coordinator
                            && (task.build == build || self.builds[task.build].tag == row.tag)
                    });
                    if !busy {
                        let task = Task {
                            coordinator,
                            epoch,
                            build,
                            step: Step::Index,
                            claimed_at: 0,
                            is_there: false,
                            put: 0,
                            looks_for: None,
                        };
                        self.tasks.push(task);
                    }
                }
                _ => {}
            }
        }
        let due = |head: &Head| head.recheck_at.is_some_and(|at| at <= self.now);
        let tags: Vec<u8> = self.heads.iter().filter(|(_, head)| due(head)).map(|(tag, _)| *tag).collect();
        for tag in tags {
            let is_this = |build: Row| self.builds[build].tag == Some(tag);
            let busy = |task: &Task| task.coordinator == coordinator && is_this(task.build);
            if self.tasks.iter().any(busy) {
                continue;
            }
            let head = self.heads[&tag];
            let task = Task {
                coordinator,
                epoch,
                build: self.wanted(tag).unwrap_or(head.build),
                step: Step::LookAgain,
                claimed_at: 0,
                is_there: false,
                put: 0,
                looks_for: Some(head.build),
            };
            self.tasks.push(task);
        }
    }

    /// `due_rechecks`: what a tag ought to point to. Whoever has it, unless its build failed; then the newest verified one.
    fn wanted(&self, tag: u8) -> Option<Row> {
        let head = self.heads[&tag];
        let rows = (0..self.builds.len()).filter(|row| {
            let build = &self.builds[*row];
            let state = build.publication.as_ref().map(|of| of.tag);
            let counts = state == Some(TagState::Verified)
                || (*row == head.build && matches!(state, Some(TagState::Wanted | TagState::Put)));
            build.tag == Some(tag) && build.order <= head.order && counts
        });
        rows.max_by_key(|row| (self.builds[*row].order, *row == head.build, *row))
    }

    /// `keep_publication`.
    pub fn merge(&mut self, epoch: i64, build: Row) {
        if !self.leads(epoch)
            || self.builds[build].state != BuildState::Publishing
            || self.builds[build].publication.is_some()
        {
            return;
        }
        let jobs = &self.executions[self.builds[build].execution].jobs;
        assert!(
            jobs.iter().all(|job| self.jobs[*job].result.is_some()),
            "merged without all that is required"
        );
        if self.builds[build].tag.is_none() {
            self.builds[build].state = life::build::PUBLISHED.take(BuildState::Publishing).unwrap();
            return;
        }
        self.builds[build].publication = Some(Publication {
            state: PublicationState::Pending,
            destination: DestinationState::Pending,
            tag: TagState::Wanted,
        });
    }

    /// A task goes one step. Between any two it may be stopped for as long as the test likes, or for ever.
    pub fn step(&mut self, index: usize) {
        let task = self.tasks[index].clone();
        let (build, epoch) = (task.build, task.epoch);
        let tag = self.builds[build].tag.unwrap();
        let leads = self.leads(epoch);
        let next = match task.step {
            Step::Index if leads => {
                let of = self.builds[build].publication.as_mut().unwrap();
                of.destination =
                    publication::destination::PUSH.take(of.destination).unwrap_or(of.destination);
                Some(Step::Look)
            }
            Step::Look => {
                self.tasks[index].is_there = self.shows(tag, build);
                Some(Step::Claim)
            }
            Step::Claim if leads => self.claim(epoch, build, tag).then(|| {
                self.tasks[index].claimed_at = self.now;
                Step::Check
            }),
            Step::Check if task.is_there => Some(Step::Note),
            Step::Check if task.claimed_at + CLAIM_HOLDS < self.now => Some(Step::Look),
            Step::Check => Some(Step::Send),
            Step::Send => {
                self.send(index, tag);
                Some(Step::Sent)
            }
            // Its own put is waited for; what the registry doesn't take in time is given up and tried anew.
            Step::Sent if self.flies(task.put) => Some(Step::Sent),
            Step::Sent => Some(Step::Note),
            Step::Note if leads && self.is_open(build) => {
                let of = self.builds[build].publication.as_mut().unwrap();
                of.tag = publication::tag::PUT.take(of.tag).unwrap();
                let head = self.heads[&tag];
                if self.same(head.build, build)
                    && head.order == self.builds[build].order
                    && head.epoch == epoch
                {
                    self.heads.insert(tag, Head { closed: true, ..head });
                }
                Some(Step::Verify)
            }
            Step::Verify if leads && self.shows(tag, build) => {
                let of = self.builds[build].publication.as_mut().unwrap();
                if let Ok(verified) = publication::tag::VERIFY.take(of.tag) {
                    of.tag = verified;
                    self.settle(build);
                }
                None
            }
            Step::Note => Some(Step::AskRecheck),
            Step::AskRecheck => {
                let of = task.looks_for.unwrap_or(build);
                let order = self.builds[of].order;
                let head = self.heads.get(&tag).copied();
                if let Some(head) = head.filter(|head| head.order >= order && !self.same(head.build, of)) {
                    self.heads.insert(tag, Head { recheck_at: Some(self.now), ..head });
                }
                None
            }
            Step::Index | Step::Claim | Step::Verify => None,
            Step::LookAgain
            | Step::ClaimBack
            | Step::CheckBack
            | Step::SendBack
            | Step::SentBack
            | Step::NoteLook { .. } => self.step_back(index),
        };
        match next {
            Some(step) => self.tasks[index].step = step,
            None => drop(self.tasks.remove(index)),
        }
    }

    fn send(&mut self, task: usize, tag: u8) {
        let task = &mut self.tasks[task];
        task.put = self.sent;
        self.puts.push(Put { number: self.sent, tag, build: task.build, sent: self.now });
        self.sent += 1;
    }

    /// Whether two builds publish one and the same index.
    fn same(&self, one: Row, other: Row) -> bool {
        self.builds[one].image == self.builds[other].image
    }

    /// Whether a tag points to a build's index.
    pub fn shows(&self, tag: u8, build: Row) -> bool {
        self.registry.get(&tag).is_some_and(|put| self.same(*put, build))
    }

    fn flies(&self, number: usize) -> bool {
        self.puts.iter().any(|put| put.number == number)
    }

    fn is_open(&self, build: Row) -> bool {
        let of = self.builds[build].publication.as_ref().unwrap();
        matches!(of.tag, TagState::Wanted | TagState::Put)
    }

    /// `claim_tag`: true when the tag may be put.
    fn claim(&mut self, epoch: i64, build: Row, tag: u8) -> bool {
        if !self.is_open(build) {
            return false;
        }
        let (order, now) = (self.builds[build].order, self.now);
        if self.heads.get(&tag).is_some_and(|head| head.order > order) {
            let of = self.builds[build].publication.as_mut().unwrap();
            of.tag = publication::tag::SUPERSEDE.take(of.tag).unwrap();
            self.settle(build);
            return false;
        }
        let new =
            Head { order, build, epoch, claimed_at: now, closed: false, recheck_at: None, recheck_until: 0 };
        let none = Head { closed: true, claimed_at: i64::MIN / 2, ..new };
        let head = self.heads.get(&tag).copied().unwrap_or(none);
        let other = (head.order, head.epoch) != (order, epoch) || !self.same(head.build, build);
        let mut new = Head { recheck_at: head.recheck_at, recheck_until: head.recheck_until, ..new };
        if other && (!head.closed || head.claimed_at > now - LONGEST_PUT) {
            new.recheck_at = Some(now + LONGEST_PUT);
        }
        if other && !head.closed {
            new.recheck_until = now + RECHECK_FOR;
        }
        self.heads.insert(tag, new);
        true
    }

    fn settle(&mut self, build: Row) {
        let of = self.builds[build].publication.as_mut().unwrap();
        let Some(transition) = publication::outcome(&[of.destination], &[of.tag]) else { return };
        let Ok(next) = transition.take(of.state) else { return };
        of.state = next;
        let transition = if next == PublicationState::Published {
            life::build::PUBLISHED
        } else {
            life::build::UNPUBLISHED
        };
        self.builds[build].state = transition.take(self.builds[build].state).unwrap();
    }

    /// `recheck_one`: what an older intention overtook is claimed once more and put back, and that is noted.
    fn step_back(&mut self, index: usize) -> Option<Step> {
        let Task { build, epoch, claimed_at, put, looks_for, .. } = self.tasks[index].clone();
        let (tag, had) = (self.builds[build].tag.unwrap(), looks_for.unwrap());
        let (leads, now) = (self.leads(epoch), self.now);
        // The premise of both writes.
        let head = self.heads[&tag];
        let has_it = leads && self.same(head.build, had) && head.order == self.builds[had].order;
        Some(match self.tasks[index].step {
            Step::LookAgain => {
                let found = self.registry.get(&tag).copied();
                let order = self.builds[had].order;
                let older = |found: Row| {
                    let of = |row: &Build| row.tag == Some(tag) && row.image == self.builds[found].image;
                    self.builds.iter().any(|row| of(row) && row.order <= order)
                };
                let is_older = found.is_some_and(|found| !self.same(found, build) && older(found));
                if is_older && self.wanted(tag) == Some(build) {
                    Step::ClaimBack
                } else {
                    Step::NoteLook { is_put: false, again: false }
                }
            }
            Step::ClaimBack if has_it => {
                self.tasks[index].claimed_at = now;
                let head = self.heads.get_mut(&tag).unwrap();
                if !head.closed && head.epoch != epoch {
                    head.recheck_until = now + RECHECK_FOR;
                }
                let recheck_at = Some(now + LONGEST_PUT);
                *head = Head { epoch, claimed_at: now, closed: false, recheck_at, ..*head };
                Step::CheckBack
            }
            Step::CheckBack if claimed_at + CLAIM_HOLDS < now => {
                Step::NoteLook { is_put: false, again: true }
            }
            Step::CheckBack => Step::SendBack,
            Step::SendBack => {
                self.send(index, tag);
                Step::SentBack
            }
            Step::SentBack if self.flies(put) => Step::SentBack,
            Step::SentBack => Step::NoteLook { is_put: true, again: true },
            Step::NoteLook { is_put, again } if has_it => {
                let head = self.heads.get_mut(&tag).unwrap();
                head.closed |= is_put;
                let waited = (now - head.claimed_at).max(LONGEST_PUT);
                let again =
                    if again { Some(LONGEST_PUT) } else { (head.recheck_until > now).then_some(waited) };
                head.recheck_at = again.map(|after| now + after);
                return None;
            }
            _ => Step::AskRecheck,
        })
    }

    /// A put that was sent has its effect; what was sent too long ago never has.
    pub fn land(&mut self, index: usize) {
        let put = self.puts.remove(index);
        if put.sent + LONGEST_PUT > self.now {
            self.registry.insert(put.tag, put.build);
        }
    }

    pub(crate) fn end_overdue_publications(&mut self) {
        for build in &mut self.builds {
            if build.publish_deadline >= self.now {
                continue;
            }
            let Ok(next) = life::build::UNPUBLISHED.take(build.state) else { continue };
            build.state = next;
            build.failure = Some(Failure::new(Cause::Deadline, FailureCode::PublishDeadline, "not in time"));
            if let Some(of) = &mut build.publication {
                of.state = publication::FAIL.take(of.state).unwrap();
                of.destination =
                    publication::destination::FAIL.take(of.destination).unwrap_or(of.destination);
                of.tag = publication::tag::FAIL.take(of.tag).unwrap_or(of.tag);
            }
        }
    }
}
