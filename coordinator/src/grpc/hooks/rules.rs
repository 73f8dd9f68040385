//! A project's own rules for a hook: read as the repository's would be, before they are kept.

use farm_hooks::Provider;
use farm_rules::Rules;
use farm_store::hooks::registered::Hook;
use farm_types::Invalid;
use tonic::Status;

use crate::grpc::status;

/// Refuses what isn't right, or would be of no use.
///
/// # Errors
/// All mistakes, each with its place.
pub(super) async fn check(hook: &Hook, text: &str) -> Result<(), Status> {
    let is_registry = hook.provider.parse::<Provider>().is_ok_and(|provider| provider.is_registry());
    if is_registry {
        let cure = "a registry has images only, of which nothing is built; name a hook of a repository";
        return Err(status::invalid(Invalid::new("hook", &hook.name, cure)));
    }
    let text = text.to_owned();
    // Of long ones it takes a while.
    let read = tokio::task::spawn_blocking(move || Rules::parse(&text).map(drop)).await;
    let read = read.map_err(|error| Status::internal(format!("the rules could not be read: {error}")))?;
    read.map_err(|problems| Status::invalid_argument(format!("the rules for hook {}: {problems}", hook.name)))
}
