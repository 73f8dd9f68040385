//! Rows that nobody can read, of a build of the driver's own, which are put back afterwards.
//!
//! While a row is unreadable nothing else is wrong, so nothing else may stand still: a canary, a build that is submitted
//! then, has to end before the row is put back.

use std::time::{Duration, Instant, SystemTime};

use super::fault::Fault;
use super::plan::{Kind, SPOILED_TAG, Submission, TAGS};
use super::rows::Row;
use super::stage::Target;
use super::{Broken, Driver, HELD_UP, TICK};
use crate::database::try_psql;

/// So long a build may take to be accepted.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(10);
/// With more builds than this open, the canary may have to wait for them.
const FEW: usize = 2;
/// So long after it was spoiled the canary is submitted: by then the jobs of the spoiled build are the next to be leased, or
/// it is to be published.
const CANARY_AFTER: Duration = Duration::from_secs(5);
/// So long the row may not be put back, as Postgres is still on its way.
const PUT_BACK_WITHIN: Duration = Duration::from_secs(30);

/// A build that has to end while a row is unreadable.
#[derive(Debug)]
pub struct Canary {
    number: usize,
    row: Row,
    since: Instant,
    /// Nothing else was broken since.
    pub calm: bool,
}

impl Driver {
    /// When little is to be done: submits a build, makes a row of it unreadable, and submits the canary, from which on it `lasts`.
    pub(super) fn spoil_row(&mut self, row: Row, lasts: Duration) {
        let begin = Instant::now();
        while self.open > FEW && begin.elapsed() < HELD_UP {
            self.tick();
        }
        let is_quiet = self.open <= FEW;
        let number = self.users.len();
        self.submit(Submission { kind: Kind::Copies, tag: SPOILED_TAG + number });
        let (url, sql, begin) =
            (self.stage.database_url(), row.spoil(&format!("build-{number}")), Instant::now());
        let spoiled = loop {
            if !self.database_is_away() && try_psql(&url, &sql).is_some_and(|count| count != "0") {
                break true;
            }
            if begin.elapsed() > ACCEPTED_WITHIN {
                break false;
            }
            self.tick();
        };
        if !spoiled {
            println!(
                "{:7.1} s  no row of build-{number} could be spoiled",
                self.begin.elapsed().as_secs_f64()
            );
            self.unmet += 1;
            return;
        }
        let (fault, target) = (Fault::SpoilRow(row), Target::Row);
        println!(
            "{:7.1} s  {fault} of build-{number}, {:.1} s",
            self.begin.elapsed().as_secs_f64(),
            lasts.as_secs_f64()
        );
        let calm = is_quiet && self.broken.is_empty();
        let now = Instant::now();
        self.broken.push(Broken {
            fault,
            target,
            begun: SystemTime::now(),
            until: now + CANARY_AFTER + lasts,
        });
        while now.elapsed() < CANARY_AFTER {
            self.tick();
        }
        let canary = self.submit(Submission { kind: Kind::Copies, tag: number % TAGS });
        self.canary = Some(Canary { number: canary, row, since: Instant::now(), calm });
    }

    /// Looks at the canary, and puts the row back. False: Postgres doesn't answer, and it is to be tried again.
    pub(super) fn put_row_back(&mut self, row: Row) -> bool {
        let url = self.stage.database_url();
        if self.database_is_away() {
            return false;
        }
        if let Some(canary) = self.canary.take()
            && canary.calm
        {
            let sql = format!(
                "SELECT count(*) FROM builds WHERE finished_at IS NOT NULL AND idempotency_key = 'build-{}'",
                canary.number
            );
            self.canaries += 1;
            if try_psql(&url, &sql).as_deref() != Some("1") {
                self.stood_still.push(format!(
                    "build-{} had not ended after {:.1} s while {:?} of another one was unreadable",
                    canary.number,
                    canary.since.elapsed().as_secs_f64(),
                    canary.row
                ));
            }
        }
        let begin = Instant::now();
        while !row.put_back(&url) {
            assert!(begin.elapsed() < PUT_BACK_WITHIN, "{row:?} can't be put back");
            std::thread::sleep(TICK);
        }
        true
    }
}
