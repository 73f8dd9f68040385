//! Workers with their engines, and coordinators: who is there, who leads, and who is set aside.

pub mod drain;
pub mod leader;
pub mod sick;
pub mod workers;
