//! What of an outbox is under way: of each sender one thing at a time, and of a few senders of one place at once, so that one that hangs holds
//! up no other.

/// So many senders of one place are busy at once.
pub const MOST_AT_ONCE: usize = 4;

/// What is to be sent.
pub trait Due {
    /// Of whom one thing at a time is sent.
    type Sender: Copy + PartialEq;

    /// Who sends it.
    fn sender(&self) -> Self::Sender;

    /// Where it goes.
    fn place(&self) -> &str;
}

/// Who is busy, and where.
#[derive(Debug)]
pub struct Busy<T: Due>(Vec<(T::Sender, String)>);

impl<T: Due> Default for Busy<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Due> Busy<T> {
    /// What of it is begun, by senders: as many as their places have room for. What isn't is read again.
    pub fn begin(&mut self, due: Vec<T>) -> Vec<(T::Sender, Vec<T>)> {
        let mut begun: Vec<(T::Sender, Vec<T>)> = Vec::new();
        for one in due {
            let sender = one.sender();
            if let Some((_, own)) = begun.iter_mut().find(|(other, _)| *other == sender) {
                own.push(one);
            } else if self.0.iter().all(|(other, _)| *other != sender) && self.at(one.place()) < MOST_AT_ONCE
            {
                self.0.push((sender, one.place().to_owned()));
                begun.push((sender, vec![one]));
            }
        }
        begun
    }

    /// A sender isn't busy any more.
    pub fn end(&mut self, sender: T::Sender) {
        self.0.retain(|(one, _)| *one != sender);
    }

    fn at(&self, place: &str) -> usize {
        self.0.iter().filter(|(_, one)| one == place).count()
    }

    /// Who is busy.
    pub fn senders(&self) -> Vec<T::Sender> {
        self.0.iter().map(|(sender, _)| *sender).collect()
    }

    /// Places that have no room.
    pub fn full(&self) -> Vec<String> {
        let places = self.0.iter().map(|(_, place)| place);
        places.filter(|place| self.at(place) >= MOST_AT_ONCE).cloned().collect()
    }
}
