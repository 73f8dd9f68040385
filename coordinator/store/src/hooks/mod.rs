//! What forges and registries tell the farm: the hooks that are [`registered`], their [`secrets`] and [`tokens`] (sealed: this crate opens
//! none), the project's own [`rules`] for them, what was delivered ([`deliveries`]) and how each pass of that ends (`ending`), where refs were then ([`heads`]), what forks propose
//! ([`forks`]), who approves that ([`approvals`]) and what they have of a project by that ([`bounds`]), what was begun ([`builds`]), and how
//! forges are to show that ([`statuses`]) and are told so ([`sending`]), and how it is begun anew from there ([`again`]). What the farm
//! delivers to itself is in [`own`], and by which it finds what its forges didn't in [`looks`] (what they find: `looked`). What is old goes by
//! `old`.

pub mod again;
pub mod approvals;
pub mod bounds;
pub mod builds;
pub mod deliveries;
mod ending;
pub mod forks;
pub mod heads;
mod looked;
pub mod looks;
mod old;
pub mod own;
pub mod registered;
pub mod rules;
pub mod secrets;
pub mod sending;
pub mod statuses;
pub mod tokens;
