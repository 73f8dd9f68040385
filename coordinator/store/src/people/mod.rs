//! Who calls the farm: [`principals`] and the [`tokens`] that show them, [`projects`] and their [`members`], and the
//! [`audit`] of what they did, with the [`seals`] over it and how the [`trail`] is read.

pub mod audit;
pub mod members;
pub mod principals;
pub mod projects;
pub mod seals;
pub mod tokens;
pub mod trail;
