//! Who calls the farm, and what they may do.

pub mod oidc;
