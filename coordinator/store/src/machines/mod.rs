//! Workers with their engines, and coordinators: who is there, who leads, and who is set aside.

pub mod caches;
pub mod certificates;
pub mod drain;
pub mod invitations;
pub mod joins;
pub mod keys;
pub mod leader;
pub mod sick;
pub mod workers;
