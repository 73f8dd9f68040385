//! The calls that are under way of callers whom nobody has asked who they are: so many at once, of one place and of all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The calls that are under way.
#[derive(Debug)]
pub struct Visits {
    most_of_one: u32,
    most: u32,
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    count: u32,
    places: HashMap<IpAddr, u32>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Visit {
    visits: Arc<Visits>,
    place: Option<IpAddr>,
}

/// Of which there are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// From this place there are.
    Place(IpAddr),
    /// In all.
    All,
}

impl Visits {
    /// At most `most` at once, and `most_of_one` of one place.
    pub fn new(most_of_one: u32, most: u32) -> Self {
        Self { most_of_one, most, all: Mutex::default() }
    }

    /// How many there may be of one place.
    pub fn most_of_one(&self) -> u32 {
        self.most_of_one
    }

    /// How many there may be in all.
    pub fn most(&self) -> u32 {
        self.most
    }

    /// Begins one, from this place where that is known.
    ///
    /// # Errors
    /// There are as many as may be.
    pub fn begin(self: &Arc<Self>, place: Option<IpAddr>) -> Result<Visit, Full> {
        let mut all = self.all();
        if let Some(place) =
            place.filter(|place| all.places.get(place).is_some_and(|count| *count >= self.most_of_one))
        {
            return Err(Full::Place(place));
        }
        if all.count >= self.most {
            return Err(Full::All);
        }
        all.count += 1;
        if let Some(place) = place {
            *all.places.entry(place).or_default() += 1;
        }
        drop(all);
        Ok(Visit { visits: Arc::clone(self), place })
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut all = self.visits.all();
        all.count -= 1;
        let Some(place) = self.place else { return };
        if let Some(count) = all.places.get_mut(&place) {
            *count -= 1;
            if *count == 0 {
                all.places.remove(&place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_let_in_at_once_and_none_is_remembered() {
        let (visits, place) = (Arc::new(Visits::new(3, 5)), IpAddr::from([10, 0, 0, 1]));
        let other = IpAddr::from([10, 0, 0, 2]);
        let begin = |place| visits.begin(Some(place));
        let all: Vec<Visit> = (0..3).map(|_| begin(place).unwrap()).collect();
        assert_eq!(begin(place).unwrap_err(), Full::Place(place));
        let others = [begin(other).unwrap(), visits.begin(None).unwrap()];
        assert_eq!(begin(other).unwrap_err(), Full::All);
        assert_eq!(visits.begin(None).unwrap_err(), Full::All);
        drop(all);
        assert!(begin(place).is_ok() && begin(other).is_ok());
        drop(others);
        let all = visits.all();
        assert!(all.count == 0 && all.places.is_empty());
    }
}
