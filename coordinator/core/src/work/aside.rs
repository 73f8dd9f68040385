//! The words for a job that waits because who could run it is set aside: drained, quarantined, on probation, withdrawn.
//!
//! [`plan`](super::plan) sees most of these workers as silent since then, so what it says to do is right; but to the
//! job's owner "silent" would be a riddle, and the cure is another one.

use farm_types::{Offer, Support};

use crate::work::waiting::{Waiting, Wanted};

/// A connected worker that gets no ordinary jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aside {
    /// Its name.
    pub name: String,
    /// What it would run.
    pub offers: Vec<Offer>,
    /// Why it gets none.
    pub reason: Reason,
}

/// Why a worker gets no ordinary jobs; the texts are for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// An administrator said so.
    Drained,
    /// It did not stop what it was told to.
    Quarantined(String),
    /// It failed several jobs for reasons of its own.
    Probation(String),
    /// It says so itself: its disk is full, its engine is away.
    Withdrawn(String),
}

/// The reason in words, for the job's owner; names the workers that could run the job and are set aside, if there are
/// any.
pub fn words(why: &Waiting, aside: &[Aside]) -> String {
    let told = match why {
        Waiting::Backoff | Waiting::Cleaning | Waiting::Unreadable | Waiting::Slots { .. } => None,
        Waiting::NoWorker { wanted, emulated_refused: false } => {
            able(aside, wanted, false).map(|able| format!("no worker{wanted} takes jobs now: {able}"))
        }
        Waiting::NoWorker { wanted, emulated_refused: true } => able(aside, wanted, true).map(|able| {
            format!(
                "no native worker{wanted} takes jobs now, and the policy does not allow emulation: {able}"
            )
        }),
        Waiting::Silent { wanted: Wanted::Any } => {
            able(aside, &Wanted::Any, true).map(|able| format!("no worker takes jobs now: {able}"))
        }
        Waiting::Silent { wanted } => {
            able(aside, wanted, true).map(|able| format!("no native worker{wanted} takes jobs now: {able}"))
        }
        Waiting::Probation { wanted } => {
            able(aside, wanted, false).map(|able| format!("a trial build{wanted} to succeed: {able}"))
        }
    };
    told.unwrap_or_else(|| why.words())
}

/// Those that could run what is wanted, and what keeps each from it.
fn able(aside: &[Aside], wanted: &Wanted, only_native: bool) -> Option<String> {
    let is_wanted = |offer: &Offer| match wanted {
        Wanted::Platform(platform) => offer.platform == *platform,
        Wanted::Programs(platforms) => platforms.contains(&offer.platform),
        Wanted::Any => true,
    };
    let offers = |worker: &&Aside| {
        let may = |offer: &Offer| offer.support == Support::Native || !only_native || *wanted == Wanted::Any;
        worker.offers.iter().any(|offer| is_wanted(offer) && may(offer))
    };
    let able: Vec<&Aside> = aside.iter().filter(offers).collect();
    let drained: Vec<&str> = able
        .iter()
        .filter(|worker| worker.reason == Reason::Drained)
        .map(|worker| worker.name.as_str())
        .collect();
    let are = if drained.len() == 1 { "is" } else { "are" };
    let drained = (!drained.is_empty()).then(|| {
        let (names, same) = (drained.join(", "), drained.join(" "));
        format!("{names} {are} drained; `farm workers resume {same}` takes that back")
    });
    let others = able.iter().filter_map(|worker| {
        let name = &worker.name;
        match &worker.reason {
            Reason::Drained => None,
            Reason::Quarantined(why) => Some(format!("{name} is quarantined: {why}")),
            Reason::Probation(why) => Some(format!("{name} is on probation: {why}")),
            Reason::Withdrawn(why) => Some(format!("{name} has withdrawn: {why}")),
        }
    });
    let all: Vec<String> = drained.into_iter().chain(others).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aside(name: &str, reason: Reason) -> Aside {
        let offer =
            |platform: &str, support| Offer { platform: platform.parse().unwrap(), support, told: false };
        let offers = vec![offer("linux/arm64", Support::Native), offer("linux/amd64", Support::Emulated)];
        Aside { name: name.to_owned(), offers, reason }
    }

    fn wanted(platform: &str) -> Wanted {
        Wanted::Platform(platform.parse().unwrap())
    }

    fn nobody(platform: &str, emulated_refused: bool) -> Waiting {
        Waiting::NoWorker { wanted: wanted(platform), emulated_refused }
    }

    #[test]
    fn a_drained_worker_is_named_to_those_only_who_wait_for_it() {
        let drained = [aside("w1", Reason::Drained)];
        let said = words(&nobody("linux/arm64", false), &drained);
        assert!(said.contains("w1 is drained; `farm workers resume w1`"), "{said}");
        assert!(words(&nobody("linux/amd64", false), &drained).contains("w1 is drained"));
        let silent = Waiting::Silent { wanted: wanted("linux/arm64") };
        assert!(words(&silent, &drained).contains("w1 is drained"));
        // It would emulate there, which is not what the job waits for.
        let refused = nobody("linux/amd64", true);
        assert_eq!(words(&refused, &drained), refused.words());
        let other = nobody("linux/s390x", false);
        assert_eq!(words(&other, &drained), other.words());
        // Who waits for anybody waits for this one, too.
        let any = Waiting::NoWorker { wanted: Wanted::Any, emulated_refused: false };
        assert!(words(&any, &drained).starts_with("no worker takes jobs now: w1 is drained"));
        let programs = Wanted::Programs(vec!["linux/arm64".parse().unwrap()]);
        let said = words(&Waiting::NoWorker { wanted: programs, emulated_refused: false }, &drained);
        assert!(
            said.starts_with("no worker for linux/arm64 (programs of which the build runs) takes"),
            "{said}"
        );
    }

    #[test]
    fn what_keeps_each_worker_from_the_job_is_said() {
        let all = [
            aside("w1", Reason::Drained),
            aside("w2", Reason::Quarantined("it did not stop".to_owned())),
            aside("w3", Reason::Withdrawn("its disk is full".to_owned())),
            aside("w4", Reason::Drained),
        ];
        assert_eq!(
            words(&nobody("linux/arm64", false), &all),
            "no worker for linux/arm64 takes jobs now: w1, w4 are drained; `farm workers resume w1 w4` takes that \
             back; w2 is quarantined: it did not stop; w3 has withdrawn: its disk is full"
        );
        let probation = Waiting::Probation { wanted: wanted("linux/arm64") };
        let said = words(&probation, &[aside("w5", Reason::Probation("it failed 3 jobs".to_owned()))]);
        assert_eq!(said, "a trial build for linux/arm64 to succeed: w5 is on probation: it failed 3 jobs");
    }
}
