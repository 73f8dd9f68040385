//! `[outbound]`: where the coordinator may send requests beyond public addresses.

use serde::Deserialize;

use crate::outbound::Allowed;

/// Where the coordinator may send requests beyond public addresses and the registries of `[registries]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Outbound {
    /// Networks (`10.0.0.0/8`) at every port, and hosts with their port (`registry.internal:5000`) at every address.
    pub allow: Vec<Allowed>,
}
