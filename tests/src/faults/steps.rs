//! Coordinators that are killed or stopped at a step of their publish pass, and a walk through all of these steps.

use std::time::{Duration, Instant, SystemTime};

use super::fault::Fault;
use super::plan::{Kind, Submission, TAGS};
use super::stage::Target;
use super::trap::{Action, How, Point, Sprung, Step, Trap, When};
use super::{Broken, Driver, TICK, Watch};
use crate::database::try_psql;
use crate::session::Session;

/// So long somebody has to come to a step.
const COMES_WITHIN: Duration = Duration::from_secs(20);
/// So long a tag may not be looked at that was overtaken: its looks come after twice the time each time.
const LOOKED_WITHIN: Duration = Duration::from_secs(60);
/// So long what has come to its transaction has to wait for the row.
const WAITS_WITHIN: Duration = Duration::from_secs(3);
/// So long the walk waits for builds and leaders.
const WALK_WAITS: Duration = Duration::from_secs(60);
/// Longer than a leadership.
const SHORT_STOP: Duration = Duration::from_secs(4);
/// Tags of the walk begin here, beyond those of a plan.
const FIRST_TAG: usize = 100;

impl Driver {
    /// Submits a build, and does it to the coordinator that comes to this step. If it is stopped, a newer build wants
    /// the same tag from the next one.
    pub(super) fn break_at_step(&mut self, point: Point, how: How, lasts: Duration) {
        let tag = self.users.len() % TAGS;
        self.submit(Submission { kind: Kind::Copies, tag });
        let Some(n) = self.meet(point, how, tag, COMES_WITHIN) else {
            println!("{:7.1} s  nobody came to {point}", self.begin.elapsed().as_secs_f64());
            self.unmet += 1;
            return;
        };
        self.hit(point, how, n, lasts);
        if how == How::Stop {
            self.submit(Submission { kind: Kind::Copies, tag });
        }
    }

    fn hit(&mut self, point: Point, how: How, n: usize, lasts: Duration) {
        let (fault, target) = (Fault::AtStep(point, how), Target::Coordinator(n));
        println!(
            "{:7.1} s  {fault}, {target:?}, {:.1} s",
            self.begin.elapsed().as_secs_f64(),
            lasts.as_secs_f64()
        );
        self.broken.push(Broken { fault, target, begun: SystemTime::now(), until: Instant::now() + lasts });
    }

    /// Waits for a coordinator at this step of a publication to a tag, and does it to it. Gives which it was.
    fn meet(&mut self, point: Point, how: How, tag: usize, within: Duration) -> Option<usize> {
        let (asked, when) = point.request();
        let name = format!("t{tag}");
        let rows = point.rows(&name);
        let action = if rows.is_some() { Action::Holds } else { Action::Does(how) };
        let of_tag = matches!(
            asked,
            super::trap::Asked::LooksAtTag | super::trap::Asked::PutsTag | super::trap::Asked::Verifies
        );
        self.stage.door.arm(Trap { asked, when, tag: of_tag.then_some(name), action });
        let begin = Instant::now();
        let sprung = loop {
            if let Some(sprung) = self.stage.door.sprung() {
                break sprung;
            }
            if begin.elapsed() > within {
                self.stage.door.let_go();
                return None;
            }
            self.tick();
        };
        let leader = self.stage.leader();
        let n = self.stage.coordinator_of(sprung.pid)?;
        if let Some(rows) = rows
            && !self.stop_within(&rows, how, &sprung)
        {
            return None;
        }
        if let Some((leader, epoch)) = leader
            && leader == n
        {
            self.watch = Some(Watch { epoch, since: SystemTime::now() });
        }
        self.stage.harm(Fault::AtStep(point, how), Target::Coordinator(n));
        Some(n)
    }

    /// Holds the rows, lets the request go on, and does it to the coordinator when its transaction waits for one of them.
    fn stop_within(&mut self, rows: &str, how: How, sprung: &Sprung) -> bool {
        let mut session = Session::open(&self.stage.database_url());
        let held = session.try_ask(&format!("BEGIN; SET lock_timeout = '1 s'; {rows}")).is_some();
        self.stage.door.let_go();
        let begin = Instant::now();
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                   AND pg_backend_pid() = ANY(pg_blocking_pids(pid))";
        while held && begin.elapsed() < WAITS_WITHIN {
            if session.try_ask(sql).is_some_and(|waits| waits != "0") {
                super::trap::signal(sprung.pid, how);
                return true;
            }
            std::thread::sleep(TICK / 10);
        }
        false
    }

    /// Kills a coordinator at each step, and stops one at each while a newer build passes; without `all` only kills, where
    /// most is at stake. Gives the points that nobody came to.
    pub(super) fn walk(&mut self, all: bool) -> Vec<Point> {
        let hows: &[How] = if all { &[How::Kill, How::Stop] } else { &[How::Kill] };
        let (pass, later_look): (&[Point], &[Point]) =
            if all { (&Point::PASS, &Point::LATER_LOOK) } else { (&Point::NOT_NOTED, &[]) };
        let mut unmet = Vec::new();
        let mut tag = FIRST_TAG;
        for (points, later) in [(pass, false), (later_look, true)] {
            for (point, how) in points.iter().flat_map(|point| hows.iter().map(move |how| (*point, *how))) {
                tag += 1;
                let met = if later { self.overtake(point, how, tag) } else { self.pass(point, how, tag) };
                if !met {
                    unmet.push(point);
                }
            }
        }
        unmet
    }

    /// A build whose publication is met at this point, and for a stop a newer one, are waited for.
    fn pass(&mut self, point: Point, how: How, tag: usize) -> bool {
        let mut builds = vec![self.submit(Submission { kind: Kind::Copies, tag })];
        let met = self.meet(point, how, tag, COMES_WITHIN);
        if let Some(n) = met {
            self.hit(point, how, n, WALK_WAITS);
        }
        if how == How::Stop {
            builds.push(self.submit(Submission { kind: Kind::Copies, tag }));
            // The newer one only: the older one may be in the stopped one's hands.
            self.wait_for_end_of(&builds[1..]);
        }
        self.mend(|_| true);
        self.wait_for_end_of(&builds);
        met.is_some()
    }

    /// A tag that a stopped coordinator puts late is looked at once more, and at that look it is done to the other one.
    fn overtake(&mut self, point: Point, how: How, tag: usize) -> bool {
        let late = Point { step: Step::PutTag, when: When::Before };
        let older = self.submit(Submission { kind: Kind::Copies, tag });
        let Some(first) = self.meet(late, How::Stop, tag, COMES_WITHIN) else { return false };
        self.hit(late, How::Stop, first, 3 * WALK_WAITS);
        let newer = self.submit(Submission { kind: Kind::Copies, tag });
        self.wait_for_end_of(&[newer]);
        // The old put gets there, as the next trap lets it go. Who sent it stands still until the other one was met.
        let met = self.meet(point, how, tag, LOOKED_WITHIN);
        if let Some(n) = met {
            self.hit(point, how, n, SHORT_STOP);
        }
        let begin = Instant::now();
        while self.broken.len() > 1 && begin.elapsed() < WALK_WAITS {
            self.tick();
        }
        self.mend(|_| true);
        self.wait_for_end_of(&[older, newer]);
        met.is_some()
    }

    fn wait_for_end_of(&mut self, builds: &[usize]) {
        let keys: Vec<String> = builds.iter().map(|number| format!("'build-{number}'")).collect();
        let sql = format!(
            "SELECT count(*) FROM builds WHERE finished_at IS NOT NULL AND idempotency_key IN ({})",
            keys.join(", ")
        );
        let (url, begin) = (self.stage.database_url(), Instant::now());
        // What doesn't end is the verdict's to tell.
        while begin.elapsed() < WALK_WAITS && try_psql(&url, &sql) != Some(builds.len().to_string()) {
            self.tick();
        }
    }
}
