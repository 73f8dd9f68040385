//! The words for a job that waits because an administrator has drained who could run it.
//!
//! [`plan`](crate::plan) sees a drained worker as one that is silent since then, so what it says to do is right; but
//! to the job's owner "silent" would be a riddle, and the cure is another one.

use farm_types::{Offer, Platform, Support};

use crate::plan::Waiting;

/// A connected worker that was drained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drained {
    /// Its name.
    pub name: String,
    /// What it would run.
    pub offers: Vec<Offer>,
}

/// The reason in words, for the job's owner; names the drained workers that could run the job, if there are any.
pub fn words(why: &Waiting, drained: &[Drained]) -> String {
    let able = |platform: &Platform, only_native: bool| {
        let offers = |worker: &&Drained| {
            worker.offers.iter().any(|offer| {
                offer.platform == *platform && (offer.support == Support::Native || !only_native)
            })
        };
        let names: Vec<&str> = drained.iter().filter(offers).map(|worker| worker.name.as_str()).collect();
        let are = if names.len() == 1 { "is" } else { "are" };
        let cure = format!(
            "{} {are} drained; `farm workers resume {}` takes that back",
            names.join(", "),
            names.join(" ")
        );
        (!names.is_empty()).then_some(cure)
    };
    let told = match why {
        Waiting::Backoff | Waiting::Slots { .. } => None,
        Waiting::NoWorker { platform, emulated_refused: false } => able(platform, false)
            .map(|cure| format!("no worker for {platform} takes jobs now: {cure}")),
        Waiting::NoWorker { platform, emulated_refused: true } => able(platform, true).map(|cure| {
            format!("no native worker for {platform} takes jobs now, and the policy does not allow emulation: {cure}")
        }),
        Waiting::Silent { platform } => able(platform, true)
            .map(|cure| format!("no native worker for {platform} takes jobs now: {cure}")),
    };
    told.unwrap_or_else(|| why.words())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drained_worker_is_named_to_those_only_who_wait_for_it() {
        let offer =
            |platform: &str, support| Offer { platform: platform.parse().unwrap(), support, told: false };
        let drained = [Drained {
            name: "w1".to_owned(),
            offers: vec![offer("linux/arm64", Support::Native), offer("linux/amd64", Support::Emulated)],
        }];
        let nobody = |platform: &str, emulated_refused| Waiting::NoWorker {
            platform: platform.parse().unwrap(),
            emulated_refused,
        };
        let said = words(&nobody("linux/arm64", false), &drained);
        assert!(said.contains("w1 is drained; `farm workers resume w1`"), "{said}");
        assert!(words(&nobody("linux/amd64", false), &drained).contains("w1 is drained"));
        let silent = Waiting::Silent { platform: "linux/arm64".parse().unwrap() };
        assert!(words(&silent, &drained).contains("w1 is drained"));
        // It would emulate there, which is not what the job waits for.
        let refused = nobody("linux/amd64", true);
        assert_eq!(words(&refused, &drained), refused.words());
        let other = nobody("linux/s390x", false);
        assert_eq!(words(&other, &drained), other.words());
    }
}
