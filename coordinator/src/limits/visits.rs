//! The calls of callers whom nobody has asked who they are, by where they come from: so many at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many from one place at once: health is watched by few, and whoever shows a token of another system is answered soon.
pub const MOST: u32 = 128;

/// The calls that are under way.
#[derive(Debug, Default)]
pub struct Visits(Mutex<HashMap<IpAddr, u32>>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Visit {
    visits: Arc<Visits>,
    place: IpAddr,
}

impl Visits {
    /// Begins one; `None`: there are [`MOST`] from this place.
    pub fn begin(self: &Arc<Self>, place: IpAddr) -> Option<Visit> {
        let mut all = self.all();
        let count = all.entry(place).or_default();
        if *count >= MOST {
            return None;
        }
        *count += 1;
        drop(all);
        Some(Visit { visits: Arc::clone(self), place })
    }

    fn all(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut all = self.visits.all();
        if let Some(count) = all.get_mut(&self.place) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_let_in_at_once_and_none_is_remembered() {
        let (visits, place) = (Arc::new(Visits::default()), IpAddr::from([10, 0, 0, 1]));
        let all: Vec<Visit> = (0..MOST).map(|_| visits.begin(place).unwrap()).collect();
        assert!(visits.begin(place).is_none());
        assert!(visits.begin(IpAddr::from([10, 0, 0, 2])).is_some());
        drop(all);
        assert!(visits.begin(place).is_some());
        assert!(visits.all().is_empty());
    }
}
