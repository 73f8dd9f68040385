//! The platforms that a build has of which nobody says for which it is: those that the farm has native workers for.

use std::collections::BTreeSet;

use farm_store::machines::workers::WorkerRecord;
use farm_types::{Offer, Support};

/// What these workers run natively.
pub fn native<'w>(workers: impl IntoIterator<Item = &'w WorkerRecord>) -> BTreeSet<String> {
    workers
        .into_iter()
        // What the farm offers doesn't change when one is silent for a moment.
        .filter(|worker| worker.state.is_leasable())
        .flat_map(|worker| worker.offers.iter().filter(|offer| is_main(offer, &worker.offers)))
        .map(|offer| offer.platform.to_string())
        .collect()
}

/// Whether an offer is what its machine is: native, and not the 32-bit mode or a feature level of a CPU that
/// offers its plain 64-bit platform too. Nobody who names no platform means those.
fn is_main(offer: &Offer, all: &[Offer]) -> bool {
    let native = |architecture: &str| {
        all.iter().any(|o| {
            o.support == Support::Native
                && o.platform.architecture() == architecture
                && o.platform.variant().is_empty()
        })
    };
    offer.support == Support::Native
        && match offer.platform.architecture() {
            "386" => !native("amd64"),
            "arm" => !native("arm64"),
            same => offer.platform.variant().is_empty() || !native(same),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_32_bit_mode_of_a_64_bit_machine_is_not_what_nobody_asked_for() {
        let offer =
            |platform: &str, support| Offer { platform: platform.parse().unwrap(), support, told: false };
        let all = [
            offer("linux/amd64", Support::Native),
            offer("linux/386", Support::Native),
            offer("linux/amd64/v3", Support::Native),
            offer("linux/arm64", Support::Emulated),
        ];
        let main: Vec<String> =
            all.iter().filter(|o| is_main(o, &all)).map(|o| o.platform.to_string()).collect();
        assert_eq!(main, ["linux/amd64"]);
        let small = [offer("linux/arm/v7", Support::Native)];
        assert!(is_main(&small[0], &small));
    }
}
