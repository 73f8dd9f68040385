//! Who calls the farm.

pub mod replay;
pub mod trust;
