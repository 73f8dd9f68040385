//! Who could run a job that waits, and is set aside: drained, quarantined, on probation, withdrawn.
//!
//! [`plan`](super::plan) sees most of these workers as silent since then, so what it says to do is right; but the job's owner is
//! told about them, since the cure is another one.

use farm_types::{Entitlements, Offer, Support};

use crate::work::waiting::{Reason, SetAside, Wanted};

/// A connected worker that gets no ordinary jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aside {
    /// The worker's name.
    pub name: String,
    /// The platforms that it would run if it were not set aside.
    pub offers: Vec<Offer>,
    /// What it would grant.
    pub grants: Entitlements,
    /// Why it gets no ordinary jobs.
    pub reason: Reason,
}

/// Those that could run what is wanted, and grant what it asks for; `only_native`: without emulation.
pub(super) fn set_aside(
    aside: &[Aside],
    wanted: &Wanted,
    entitlements: &Entitlements,
    only_native: bool,
) -> Vec<SetAside> {
    let is_wanted = |offer: &Offer| match wanted {
        Wanted::Platform(platform) => offer.platform == *platform,
        Wanted::Gates(platform) => offer.platform == **platform,
        Wanted::Programs(platforms) => platforms.contains(&offer.platform),
        Wanted::Any | Wanted::Git | Wanted::Archives => true,
    };
    let is_any = matches!(wanted, Wanted::Any | Wanted::Git | Wanted::Archives);
    let may = |offer: &Offer| offer.support == Support::Native || !only_native || is_any;
    let able = aside.iter().filter(|worker| entitlements.is_subset(&worker.grants));
    let able = able.filter(|worker| worker.offers.iter().any(|offer| is_wanted(offer) && may(offer)));
    able.map(|worker| SetAside { name: worker.name.clone(), reason: worker.reason.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use farm_types::Entitlement;

    use super::*;

    #[test]
    fn a_worker_that_is_set_aside_is_named_to_those_only_who_wait_for_it() {
        let offer =
            |platform: &str, support| Offer { platform: platform.parse().unwrap(), support, told: false };
        let offers = vec![offer("linux/arm64", Support::Native), offer("linux/amd64", Support::Emulated)];
        let grants = [Entitlement::NetworkHost].into();
        let drained = [Aside { name: "w1".to_owned(), offers, grants, reason: Reason::Drained }];
        let nothing = Entitlements::new();
        let named =
            |wanted: &Wanted, only_native| set_aside(&drained, wanted, &nothing, only_native).len() == 1;
        let wanted = |platform: &str| Wanted::Platform(platform.parse().unwrap());
        assert!(named(&wanted("linux/arm64"), false) && named(&wanted("linux/arm64"), true));
        // It would emulate there, which is not always what the job waits for.
        assert!(named(&wanted("linux/amd64"), false) && !named(&wanted("linux/amd64"), true));
        assert!(!named(&wanted("linux/s390x"), false));
        // Who waits for anybody waits for this one, too.
        assert!(named(&Wanted::Any, false) && named(&Wanted::Any, true));
        assert!(named(&Wanted::Programs(vec!["linux/arm64".parse().unwrap()]), false));
        // Who waits for what it would not grant doesn't wait for it.
        let granted = |asked| set_aside(&drained, &Wanted::Any, &[asked].into(), false).len();
        assert_eq!((granted(Entitlement::NetworkHost), granted(Entitlement::SecurityInsecure)), (1, 0));
    }
}
