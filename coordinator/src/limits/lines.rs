//! The connections that are open, in all and per address; and which of them goes when there are too many.
//!
//! When as many are open as may be, one on which nobody whom the farm knows has a call gives way to the new one: of the same
//! address, if that has too many, else of the address that has the most. The oldest goes first, as whoever opens connections
//! and does nothing with them has opened it long ago. Only if all are in use the new one is refused.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::line::{Line, Patience};

/// The connections that are open.
#[derive(Debug)]
pub struct Lines {
    most: usize,
    most_of_one: usize,
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    count: usize,
    next: u64,
    places: HashMap<IpAddr, BTreeMap<u64, Arc<Line>>>,
}

/// A connection's place among them, until it is dropped.
#[derive(Debug)]
pub struct Seat {
    lines: Arc<Lines>,
    number: u64,
    line: Arc<Line>,
}

impl Seat {
    /// The connection that has it.
    pub fn line(&self) -> &Arc<Line> {
        &self.line
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.lines.all().leave(self.line.place, self.number);
    }
}

/// Which limit refuses a connection, or makes another one go.
pub type Limit = &'static str;

impl Lines {
    /// At most `most` at once, and `most_of_one` of one address.
    pub fn new(most: usize, most_of_one: usize) -> Self {
        Self { most, most_of_one, all: Mutex::default() }
    }

    /// Takes a connection from this place; `shared` if many come from there, so that it isn't counted as one. With it comes
    /// the limit for which another had to go, if one had.
    ///
    /// # Errors
    /// There are too many, and all are in use.
    pub fn admit(
        self: &Arc<Self>,
        place: IpAddr,
        shared: bool,
    ) -> Result<(Seat, Option<(Limit, IpAddr)>), Limit> {
        let mut all = self.all();
        let mut gone = None;
        let of_place = all.places.get(&place).map_or(0, BTreeMap::len);
        if !shared && of_place >= self.most_of_one {
            all.give_way(place).then_some(()).ok_or("max_connections_per_address")?;
            gone = Some(("max_connections_per_address", place));
        } else if all.count >= self.most {
            let from = all.crowd().ok_or("max_connections")?;
            gone = Some(("max_connections", from));
        }
        all.next += 1;
        all.count += 1;
        let (number, line) = (all.next, Arc::new(Line::new(place)));
        all.places.entry(place).or_default().insert(number, Arc::clone(&line));
        drop(all);
        Ok((Seat { lines: Arc::clone(self), number, line }, gone))
    }

    /// Ends those that have outlived it; tells of each the limit and the place.
    pub fn sweep(&self, patience: Patience) -> Vec<(Limit, IpAddr)> {
        let all = self.all();
        let mut ended = Vec::new();
        for line in all.places.values().flat_map(BTreeMap::values) {
            if let Some(limit) = line.outlived(patience) {
                line.close();
                ended.push((limit, line.place));
            }
        }
        ended
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    fn leave(&mut self, place: IpAddr, number: u64) {
        let Some(lines) = self.places.get_mut(&place) else { return };
        // One that gave way has left already.
        if lines.remove(&number).is_some() {
            self.count -= 1;
        }
        if lines.is_empty() {
            self.places.remove(&place);
        }
    }

    /// Ends the oldest of a place that isn't in use; false: there is none.
    fn give_way(&mut self, place: IpAddr) -> bool {
        let lines = self.places.get(&place);
        let oldest = lines.and_then(|lines| lines.iter().find(|(_, line)| !line.is_busy()));
        let Some((&number, line)) = oldest else { return false };
        line.close();
        self.leave(place, number);
        true
    }

    /// The same of the place that has the most, or if all of these are in use, of another; gives which.
    fn crowd(&mut self) -> Option<IpAddr> {
        let mut places: Vec<(usize, IpAddr)> =
            self.places.iter().map(|(place, lines)| (lines.len(), *place)).collect();
        places.sort_unstable_by(|a, b| b.cmp(a));
        places.into_iter().map(|(_, place)| place).find(|place| self.give_way(*place))
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::Turn;
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn busy(seat: &Seat) -> Turn {
        let mut turn = Turn::begin(Arc::clone(seat.line()));
        turn.know();
        turn
    }

    #[test]
    fn who_does_nothing_gives_way_and_who_is_served_stays() {
        let lines = Arc::new(Lines::new(6, 3));
        let admit = |last| lines.admit(ip(last), false);
        let (first, gone) = admit(1).unwrap();
        assert!(gone.is_none());
        let _served = busy(&first);
        let (second, _) = admit(1).unwrap();
        let (third, _) = admit(1).unwrap();
        // The fourth of one address: its oldest that isn't in use goes.
        let (fourth, gone) = admit(1).unwrap();
        assert_eq!(gone, Some(("max_connections_per_address", ip(1))));
        assert!(!first.line().is_closed() && second.line().is_closed() && !third.line().is_closed());
        drop(second);
        // Others fill it up; then the most numerous gives way.
        let others: Vec<Seat> = [2, 3, 3].into_iter().map(|last| admit(last).unwrap().0).collect();
        let (newcomer, gone) = admit(4).unwrap();
        assert_eq!(gone, Some(("max_connections", ip(1))));
        assert!(third.line().is_closed() && others.iter().all(|seat| !seat.line().is_closed()));
        // When all are in use nobody has to go.
        let _served: Vec<Turn> = others.iter().chain([&fourth, &newcomer]).map(busy).collect();
        assert_eq!(admit(5).err(), Some("max_connections"));
        drop(others);
        assert!(admit(5).is_ok());
        assert_eq!(lines.all().count, 3);
    }

    #[test]
    fn a_stranger_s_call_keeps_no_place_and_a_proxy_s_address_is_not_one() {
        let lines = Arc::new(Lines::new(100, 1));
        let (seat, _) = lines.admit(ip(1), false).unwrap();
        let _turn = Turn::begin(Arc::clone(seat.line()));
        assert!(lines.admit(ip(1), false).is_ok());
        assert!(seat.line().is_closed());
        let of_proxy: Vec<_> = (0..5).map(|_| lines.admit(ip(9), true).unwrap()).collect();
        assert!(of_proxy.iter().all(|(seat, gone)| gone.is_none() && !seat.line().is_closed()));
        drop((seat, of_proxy));
        let all = lines.all();
        assert_eq!((all.count, all.places.len()), (0, 0));
    }
}
