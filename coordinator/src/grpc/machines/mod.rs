//! Workers and coordinators at the edge: what users ask of the farm, what administrators say of workers, how workers join, and the hints
//! of the other coordinators.

mod caches;
pub mod join;
pub mod native;
pub mod peer;
pub mod service;
mod workers;
