//! Who calls the farm: [`principals`] and the [`tokens`] that show them, [`projects`] and their [`members`], what they [`trust`]
//! and what was taken for it ([`replay`]), and the [`audit`] of what they did.

pub mod audit;
pub mod members;
pub mod principals;
pub mod projects;
pub mod replay;
pub mod tokens;
pub mod trust;
