//! Errors of flags' values.

use farm_types::Invalid;

/// Says which flag the value came from.
pub(super) fn flag(name: &str, mut error: Invalid) -> Invalid {
    if !error.thing.starts_with('-') {
        error.thing = name.to_owned();
    }
    error
}
