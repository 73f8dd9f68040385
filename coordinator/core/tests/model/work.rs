//! Builds, jobs and attempts: `store/src/builds/submit.rs`, `store/src/work/{lease,finish,decide,reap}.rs`.

use farm_core::builds::{JobOutcome, Verdict, verdict};
use farm_core::life;
use farm_core::life::attempt::{JobFate, Said, StopReason, end};
use farm_core::life::build::{ExecutionEnd, after_execution};
use farm_core::work::again::{self, Ending, History, Next};
use farm_core::work::plan::{Decision, Limits, Settling, Slots, State, WaitingJob, WorkerView, plan};
use farm_types::state::{AttemptState, BuildState, ExecutionState, JobState, TagState, WorkerState};
use farm_types::{
    Cause, EngineId, Failure, FailureCode, JobId, Offer, Platform, ProjectId, RunMode, Runs, Support,
    TrustClass, WorkerId,
};
use uuid::Uuid;

use crate::world::*;

fn id<T: From<Uuid>>(row: Row) -> T {
    T::from(Uuid::from_u128(u128::try_from(row).unwrap() + 1))
}

fn row(id: Uuid) -> Row {
    usize::try_from(id.as_u128()).unwrap() - 1
}

impl World {
    pub fn submit(&mut self, platforms: &[Platform], tag: Option<u8>) {
        let execution = self.executions.len();
        let first = self.jobs.len();
        for platform in platforms {
            self.jobs.push(Job {
                execution,
                platform: platform.clone(),
                state: JobState::Ready,
                required: true,
                attempts: 0,
                lost: 0,
                killed: 0,
                given_back: 0,
                excluded: Vec::new(),
                not_before: self.now,
                ready_at: self.now,
                result: None,
                failure: None,
            });
        }
        self.executions
            .push(Execution { state: ExecutionState::Open, jobs: (first..self.jobs.len()).collect() });
        self.builds.push(Build {
            execution,
            state: BuildState::Queued,
            order: i64::try_from(self.builds.len()).unwrap(),
            tag,
            image: self.builds.len(),
            queue_deadline: self.now + QUEUE_DEADLINE,
            publish_deadline: i64::MAX,
            failure: None,
            publication: None,
        });
    }

    /// One more build of an execution that is under way.
    pub fn join(&mut self, build: Row) {
        let execution = self.builds[build].execution;
        if self.executions[execution].state != ExecutionState::Open {
            return;
        }
        let started =
            self.executions[execution].jobs.iter().any(|job| self.jobs[*job].state == JobState::Running);
        let state = if started { BuildState::Running } else { BuildState::Queued };
        let order = i64::try_from(self.builds.len()).unwrap();
        let queue_deadline = self.now + QUEUE_DEADLINE;
        self.builds.push(Build { state, order, queue_deadline, ..self.builds[build].clone() });
    }

    /// A build that has ended, once more: a build of its own, with the place of the old one.
    pub fn retry(&mut self, build: Row) {
        let old = &self.builds[build];
        if !old.state.is_final() {
            return;
        }
        let (tag, order, image) = (old.tag, old.order, old.image);
        let jobs = &self.executions[old.execution].jobs;
        if jobs.is_empty() {
            self.copy(image, tag, order);
            return;
        }
        let platforms: Vec<Platform> = jobs.iter().map(|job| self.jobs[*job].platform.clone()).collect();
        self.submit(&platforms, tag);
        if let Some(new) = self.builds.last_mut() {
            new.order = order;
        }
    }

    /// A tag goes back to what an older build has published there: a build of its own, of a new intent and without jobs.
    pub fn rollback(&mut self, to: Row) {
        let of = &self.builds[to];
        if of.publication.as_ref().is_some_and(|of| of.tag == TagState::Verified) {
            self.copy(of.image, of.tag, i64::try_from(self.builds.len()).unwrap());
        }
    }

    fn copy(&mut self, image: Row, tag: Option<u8>, order: i64) {
        let execution = self.executions.len();
        self.executions.push(Execution { state: ExecutionState::Built, jobs: Vec::new() });
        self.builds.push(Build {
            execution,
            state: BuildState::Publishing,
            order,
            tag,
            image,
            queue_deadline: i64::MAX,
            publish_deadline: self.now + PUBLISH_DEADLINE,
            failure: None,
            publication: None,
        });
    }

    /// What the scheduler of a coordinator would do now.
    pub fn propose(&mut self, coordinator: Row) {
        let Some(epoch) = self.coordinators[coordinator] else { return };
        let waiting = (0..self.jobs.len()).filter(|job| self.jobs[*job].state == JobState::Ready);
        let waiting = waiting
            .map(|job| {
                let row = &self.jobs[job];
                WaitingJob {
                    job: id::<JobId>(job),
                    project: id::<ProjectId>(0),
                    platform: row.platform.clone(),
                    runs: Runs::Target,
                    emulation: "fallback".parse().unwrap(),
                    weight: 1,
                    virtual_time: self.time(row.ready_at),
                    ready_at: self.time(row.ready_at),
                    not_before: self.time(row.not_before),
                    excluded: row.excluded.iter().map(|worker| id::<WorkerId>(*worker)).collect(),
                    cleaned_until: None,
                    pushes: true,
                    protected: false,
                    proposed: false,
                    mounts: false,
                    entitlements: Default::default(),
                    fetches: false,
                    archive: false,
                    gated: false,
                }
            })
            .collect();
        let offer = |(platform, support): &(Platform, Support)| Offer {
            platform: platform.clone(),
            support: *support,
            told: true,
        };
        let workers = (0..self.workers.len())
            .map(|worker| {
                let row = &self.workers[worker];
                WorkerView {
                    id: id::<WorkerId>(worker),
                    engine: id::<EngineId>(worker),
                    offers: row.offers.iter().map(offer).collect(),
                    last_seen: self.time(row.last_seen),
                    state: match (row.connected, row.quarantine) {
                        (false, _) => WorkerState::Offline,
                        (true, Some(_)) => WorkerState::Quarantined,
                        (true, None) => WorkerState::Online,
                    },
                    takes_unneeded: true,
                    takes_mounts: true,
                    trust: TrustClass::Trusted,
                    stages: false,
                    engine_is_fit: true,
                    grants: Default::default(),
                    has_git: false,
                    takes_archives: false,
                    runs_gates: true,
                    fetching: 0,
                }
            })
            .collect();
        let slots = |worker: Row| Slots {
            total: self.workers[worker].slots,
            used: self.workers[worker].used,
            leased_at: None,
        };
        let engines = (0..self.workers.len()).map(|worker| (id::<EngineId>(worker), slots(worker))).collect();
        let settling = (self.leader.settling_until > self.now).then(|| Settling {
            silent_since: self.time(self.leader.silent_since),
            until: self.time(self.leader.settling_until),
        });
        let state = State {
            waiting,
            unreadable: Vec::new(),
            workers,
            engines,
            shares: Default::default(),
            aside: Default::default(),
            settling,
        };
        for decision in plan(&state, Limits::default(), self.time(self.now)) {
            if let Decision::Assign { job, worker, support, .. } = decision {
                let (job, worker) = (row(job.as_uuid()), row(worker.as_uuid()));
                if support == RunMode::Emulated {
                    self.check_emulation(job);
                }
                self.writes.push((epoch, coordinator, Write::Lease { job, worker }));
            }
        }
    }

    /// Invariant 6: emulated only where no native worker was schedulable for half a minute.
    fn check_emulation(&self, job: Row) {
        let platform = &self.jobs[job].platform;
        let native = self.workers.iter().filter(|w| w.offers.contains(&(platform.clone(), Support::Native)));
        for worker in native {
            assert!(worker.last_seen + 30 <= self.now, "{platform} is emulated beside a native worker");
        }
    }

    pub fn lease(&mut self, epoch: i64, job: Row, worker: Row) {
        let able =
            self.leads(epoch) && self.workers[worker].connected && self.workers[worker].quarantine.is_none();
        let free = self.workers[worker].used < self.workers[worker].slots;
        let Ok(next) = life::job::LEASE.take(self.jobs[job].state) else { return };
        if !able || !free {
            return;
        }
        self.jobs[job].state = next;
        self.jobs[job].attempts += 1;
        self.workers[worker].used += 1;
        self.attempts.push(Attempt {
            job,
            worker,
            boot: self.workers[worker].known_boot,
            state: AttemptState::Offered,
            stop: None,
            stop_since: 0,
            lease_expires: self.now + LEASE,
            offered_at: self.now,
            ends: 0,
        });
    }

    pub fn started(&mut self, attempt: Row) {
        let Ok(next) = life::attempt::START.take(self.attempts[attempt].state) else { return };
        self.attempts[attempt].state = next;
        let job = self.attempts[attempt].job;
        self.jobs[job].state = life::job::START.take(self.jobs[job].state).unwrap();
        let execution = self.jobs[job].execution;
        for build in self.builds.iter_mut().filter(|build| build.execution == execution) {
            build.state = life::build::START.take(build.state).unwrap_or(build.state);
        }
    }

    /// The end of an attempt as its worker tells it. Answers whether it counted.
    pub fn finish(&mut self, attempt: Row, said: Said) -> bool {
        let before = &self.attempts[attempt];
        let ended = end(before.stop, said);
        if before.state == ended.transition.to() {
            return true;
        }
        let Ok(next) = ended.transition.take(before.state) else { return false };
        self.end_attempt(attempt, next, ended.job, ended.failure);
        true
    }

    fn end_attempt(&mut self, attempt: Row, next: AttemptState, fate: JobFate, failure: Option<Failure>) {
        let Attempt { job, worker, .. } = self.attempts[attempt];
        self.attempts[attempt].state = next;
        self.attempts[attempt].ends += 1;
        self.workers[worker].used -= 1;
        if failure.is_some_and(|failure| failure.cause == Cause::Killed) {
            self.jobs[job].killed += 1;
        }
        match fate {
            JobFate::Result => {
                self.jobs[job].state = life::job::SUCCEED.take(self.jobs[job].state).unwrap();
                self.jobs[job].result = Some(attempt);
            }
            JobFate::Cancelled => {
                self.jobs[job].state = life::job::STOPPED.take(self.jobs[job].state).unwrap();
            }
            JobFate::Ending(ending) => self.settle_job(job, ending, worker),
        }
        self.decide(self.jobs[job].execution);
    }

    fn settle_job(&mut self, job: Row, ending: Ending, worker: Row) {
        let lost = ending == Ending::Lost;
        let now = self.now;
        let row_of = &mut self.jobs[job];
        row_of.lost += u32::from(lost);
        row_of.given_back += u32::from(ending == Ending::Released { declined: false });
        let history = History {
            attempts: row_of.attempts,
            lost: row_of.lost,
            killed: row_of.killed,
            full: 0,
            given_back: row_of.given_back,
        };
        match again::after(ending, history, id::<WorkerId>(worker), 0.5) {
            Next::GiveUp(failure) => {
                row_of.state = life::job::FAIL.take(row_of.state).unwrap();
                row_of.failure = Some(failure);
            }
            Next::Again { after, avoid, refund } => {
                row_of.state = life::job::AGAIN.take(row_of.state).unwrap();
                row_of.attempts -= u32::from(refund);
                row_of.not_before = now + i64::try_from(after.as_secs()).unwrap();
                row_of.ready_at = now;
                if let Some(avoid) =
                    avoid.map(|worker| row(worker.as_uuid())).filter(|w| !row_of.excluded.contains(w))
                {
                    row_of.excluded.push(avoid);
                }
            }
        }
    }

    fn decide(&mut self, execution: Row) {
        let outcome = |job: &Row| {
            let Job { state, required, failure, .. } = self.jobs[*job].clone();
            JobOutcome { state, required, failure }
        };
        let jobs: Vec<JobOutcome> = self.executions[execution].jobs.iter().map(outcome).collect();
        match verdict(&jobs) {
            Verdict::Open => {}
            Verdict::Built => {
                self.end_execution(execution, life::execution::BUILT, ExecutionEnd::Built, None)
            }
            Verdict::Failed(failure) => self.fail_execution(execution, failure),
            Verdict::Cancelled => {
                let live =
                    self.live().iter().any(|a| self.jobs[self.attempts[*a].job].execution == execution);
                if !live {
                    self.end_execution(execution, life::execution::CANCEL, ExecutionEnd::Cancelled, None);
                }
            }
        }
    }

    fn fail_execution(&mut self, execution: Row, failure: Failure) {
        if self.executions[execution].state == ExecutionState::Open {
            self.stop_jobs(execution, StopReason::FailedElsewhere);
            self.end_execution(execution, life::execution::FAIL, ExecutionEnd::Failed, Some(failure));
        }
    }

    fn end_execution(
        &mut self,
        execution: Row,
        transition: life::Transition<ExecutionState>,
        how: ExecutionEnd,
        failure: Option<Failure>,
    ) {
        let Ok(next) = transition.take(self.executions[execution].state) else { return };
        self.executions[execution].state = next;
        for build in self.builds.iter_mut().filter(|build| build.execution == execution) {
            let Some(transition) = after_execution(build.state, how) else { continue };
            build.state = transition.take(build.state).unwrap();
            match build.state {
                BuildState::Publishing => build.publish_deadline = self.now + PUBLISH_DEADLINE,
                BuildState::Failed => build.failure.clone_from(&failure),
                _ => {}
            }
        }
    }

    fn stop_jobs(&mut self, execution: Row, why: StopReason) {
        for attempt in self.live() {
            let Attempt { job, worker, state, .. } = self.attempts[attempt];
            if self.jobs[job].execution != execution {
                continue;
            }
            match life::attempt::WITHDRAW.take(state) {
                Ok(next) => {
                    self.attempts[attempt].state = next;
                    self.attempts[attempt].ends += 1;
                    self.jobs[job].state = life::job::STOPPED.take(self.jobs[job].state).unwrap();
                    self.workers[worker].used -= 1;
                }
                Err(_) => {
                    self.tell_to_stop(attempt, why);
                }
            }
        }
        for job in self.executions[execution].jobs.clone() {
            let state = self.jobs[job].state;
            self.jobs[job].state = life::job::CANCEL.take(state).unwrap_or(state);
        }
    }

    pub fn cancel(&mut self, build: Row) {
        let Ok(next) = life::build::ASK_CANCEL.take(self.builds[build].state) else {
            // `call_off`: what is merged may have moved a tag.
            let row = &mut self.builds[build];
            if row.publication.is_none() {
                row.state = life::build::CALL_OFF.take(row.state).unwrap_or(row.state);
            }
            return;
        };
        self.builds[build].state = next;
        let execution = self.builds[build].execution;
        let wanted = self
            .builds
            .iter()
            .any(|b| b.execution == execution && matches!(b.state, BuildState::Queued | BuildState::Running));
        if wanted {
            self.builds[build].state = life::build::CANCELLED.take(next).unwrap();
        } else {
            self.stop_jobs(execution, StopReason::Cancelled);
            self.decide(execution);
        }
    }

    /// What only time brings about, as the leader of this epoch sees it.
    pub fn keep_house(&mut self, epoch: i64) {
        if !self.leads(epoch) {
            return;
        }
        if self.leader.settling_until <= self.now {
            self.quarantine();
            self.reap();
        }
        for attempt in self.live() {
            if self.attempts[attempt].offered_at + ATTEMPT_DEADLINE < self.now {
                self.tell_to_stop(attempt, StopReason::Deadline);
            }
        }
        for job in 0..self.jobs.len() {
            let execution = self.jobs[job].execution;
            let over =
                self.builds.iter().filter(|b| b.execution == execution).all(|b| b.queue_deadline <= self.now);
            if let (true, Ok(next)) = (over, life::job::EXPIRE.take(self.jobs[job].state)) {
                let failure = Failure::new(Cause::Deadline, FailureCode::QueueDeadline, "it waited too long");
                self.jobs[job].state = next;
                self.jobs[job].failure = Some(failure.clone());
                self.fail_execution(execution, failure);
            }
        }
        self.end_overdue_publications();
    }

    /// The reason and the time stay the first ones.
    pub fn tell_to_stop(&mut self, attempt: Row, why: StopReason) {
        let row = &mut self.attempts[attempt];
        if row.stop.is_none() {
            (row.stop, row.stop_since) = (Some(why), self.now);
        }
    }

    fn quarantine(&mut self) {
        for attempt in self.live() {
            let row = &self.attempts[attempt];
            let worker = &mut self.workers[row.worker];
            let unheeded = row.stop.is_some() && row.stop_since + STOP_WITHIN < self.now;
            if unheeded && worker.connected && worker.known_boot == row.boot && worker.quarantine.is_none() {
                worker.quarantine = Some(attempt);
            }
        }
    }

    fn reap(&mut self) {
        for attempt in self.live() {
            let row = &self.attempts[attempt];
            let worker = &self.workers[row.worker];
            let reborn = worker.known_boot != row.boot && worker.booted_at < self.now - REBOOT_GRACE;
            // An earlier end in this pass may have ended it, too.
            let over = row.lease_expires < self.now || reborn || worker.quarantine.is_some();
            if !self.is_live(attempt) || !over {
                continue;
            }
            let ended = end(row.stop, Said::Silence { unanswered: row.state == AttemptState::Offered });
            let next = ended.transition.take(row.state).unwrap();
            self.end_attempt(attempt, next, ended.job, ended.failure);
        }
    }
}
