//! Who calls the farm: [`principals`] and the [`tokens`] that show them, [`projects`] and their [`members`], what a project is
//! allowed ([`access`]) and may take ([`quotas`]), its [`secrets`], by which [`signing_keys`] it signs, its [`logins`] at registries and what these let it read ([`read_limits`]), what it [`trust`]s and what was taken for that ([`replay`]), how persons [`sign_in`] at an
//! issuer, and the [`audit`] of what they did, with the [`seals`] over it and how the [`trail`] is read.

pub mod access;
pub mod audit;
pub mod browser_sessions;
pub mod git_logins;
pub mod logins;
pub mod members;
pub mod principals;
pub mod projects;
pub mod quotas;
pub mod read_limits;
pub mod replay;
pub mod seals;
pub mod secrets;
pub mod sign_in;
pub mod signing_keys;
pub(crate) mod standing;
pub mod tokens;
pub mod trail;
pub mod trust;
pub mod usage;
