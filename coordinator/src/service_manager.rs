//! The service manager that has started this process, such as systemd, hears how it is (`farm_proto::notify`).

/// Logs what a service manager couldn't be told.
pub(crate) fn told(result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, "the service manager in NOTIFY_SOCKET can't be told");
    }
}
