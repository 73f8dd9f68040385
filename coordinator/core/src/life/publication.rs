//! The lives of a publication, its destinations and their tags.

use farm_types::state::{DestinationState, PublicationState, TagState};

use super::{Transition, transitions};

transitions! { PublicationState:
    /// Every tag is verified or superseded.
    PUBLISH = Pending => Published;
    /// A destination or a tag failed, and the others are settled; or its time is over.
    FAIL = Pending => Failed;
}

/// The life of a destination.
pub mod destination {
    use super::*;

    transitions! { DestinationState:
        /// The index is there, by its digest.
        PUSH = Pending => Pushed;
        /// It can't be put there.
        FAIL = Pending => Failed;
    }
}

/// The life of a tag on its way.
pub mod tag {
    use super::*;

    transitions! { TagState:
        /// The registry took it, for the first time or once more.
        PUT = Wanted | Put => Put;
        /// It was seen to point to the index.
        VERIFY = Put => Verified;
        /// A newer intention has the tag.
        SUPERSEDE = Wanted | Put => Superseded;
        /// It can't be put, or not in time.
        FAIL = Wanted | Put => Failed;
    }
}

/// The transition of a publication with these destinations and tags; `None`: something of it is still under way.
pub fn outcome(destinations: &[DestinationState], tags: &[TagState]) -> Option<Transition<PublicationState>> {
    let open = destinations.contains(&DestinationState::Pending)
        || tags.iter().any(|tag| matches!(tag, TagState::Wanted | TagState::Put));
    let failed = destinations.contains(&DestinationState::Failed) || tags.contains(&TagState::Failed);
    match (open, failed) {
        (true, _) => None,
        (false, true) => Some(FAIL),
        (false, false) => Some(PUBLISH),
    }
}
