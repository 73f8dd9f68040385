//! What was refused or closed, counted and told once a minute: whoever is flooded must not be flooded by their log as well.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// So many of one kind are told by name.
const NAMED: usize = 8;
/// So many are counted apart; the rest of a minute together.
const COUNTED: usize = 1000;

/// Those by which connections end that were simply not used any more; clients make another when they need one.
const ORDINARY: [&str; 2] = ["first_call_seconds", "idle_connection_seconds"];

/// Counts since they were last told.
#[derive(Debug, Default)]
pub struct Tally(Mutex<BTreeMap<&'static str, BTreeMap<String, u64>>>);

impl Tally {
    /// One more that this limit has refused or closed, of whoever that is.
    pub fn count(&self, limit: &'static str, who: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = all.entry(limit).or_default();
        if let Some(count) = counts.get_mut(who) {
            *count += 1;
            return;
        }
        let who = if counts.len() < COUNTED { who } else { "others" };
        *counts.entry(who.to_owned()).or_default() += 1;
    }

    /// Logs a line for each limit that has refused anything since this was last done; a warning, unless it is ordinary.
    pub fn tell(&self) {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (limit, counts) in all {
            let (count, who) = words(counts);
            if ORDINARY.contains(&limit) {
                tracing::debug!(
                    limit,
                    count,
                    who,
                    "connections without a call were closed within the last minute"
                );
            } else {
                tracing::warn!(limit, count, who, "a limit was reached within the last minute");
            }
        }
    }
}

/// How many in all, and who most of them.
fn words(counts: BTreeMap<String, u64>) -> (u64, String) {
    let sum = counts.values().sum();
    let mut counts: Vec<(String, u64)> = counts.into_iter().collect();
    counts.sort_by(|(a, m), (b, n)| n.cmp(m).then_with(|| a.cmp(b)));
    let more = counts.len().saturating_sub(NAMED);
    let mut named: Vec<String> =
        counts.iter().take(NAMED).map(|(who, count)| format!("{who} ({count})")).collect();
    if more > 0 {
        named.push(format!("{more} more"));
    }
    (sum, named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_are_named_and_all_are_counted() {
        let tally = Tally::default();
        for n in 0..2000 {
            tally.count("x", &format!("10.0.{}.{}", n / 256, n % 256));
            tally.count("x", "ada");
        }
        let counts = std::mem::take(&mut *tally.0.lock().unwrap()).remove("x").unwrap();
        assert!(counts.len() <= COUNTED + 1);
        let (sum, words) = words(counts);
        assert_eq!(sum, 4000);
        assert!(words.starts_with("ada (2000), others (1001), 10.0.0.0 (1), "), "{words}");
        assert!(words.ends_with(", 993 more"), "{words}");
    }
}
