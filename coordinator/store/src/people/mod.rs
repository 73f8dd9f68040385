//! Who calls the farm: [`principals`] and the [`tokens`] that show them, [`projects`] and their [`members`], and what a
//! project is allowed ([`access`]), and the [`audit`] of what they did.

pub mod access;
pub mod audit;
pub mod members;
pub mod principals;
pub mod projects;
pub mod tokens;
