//! A build's source, from the disk into the farm.

use std::sync::Arc;

use chrono::Utc;

use crate::connect::Farm;
use crate::context::{self, Disk, Location, Source, Surroundings, cache_folder};
use crate::error::{Error, Result};
use crate::upload::{Sending, Uploaded, upload};

/// Reads what lies there and uploads what the farm lacks of it. `is_temporary`: it will not be there another time, so
/// nothing is remembered of it.
///
/// # Errors
/// It can't be read, changes without end, or the farm can't take it.
pub async fn bring(
    farm: &Farm,
    location: &Location,
    is_temporary: bool,
    sending: &Arc<Sending>,
) -> Result<(Arc<Source>, Uploaded)> {
    let source = read(location, is_temporary).await?;
    send(farm, source, location, is_temporary, sending).await
}

/// Uploads what the farm lacks of a source that was read just now; where that has changed since, it is read once more.
///
/// # Errors
/// It can't be read, changes without end, or the farm can't take it.
pub async fn send(
    farm: &Farm,
    mut source: Arc<Source>,
    location: &Location,
    is_temporary: bool,
    sending: &Arc<Sending>,
) -> Result<(Arc<Source>, Uploaded)> {
    let mut result = upload(farm, &source, tokio::time::sleep, sending).await;
    if let Err(Error::Changed(_)) = result {
        // Somebody is at work in the folder: take it as it is now.
        source = read(location, is_temporary).await?;
        result = upload(farm, &source, tokio::time::sleep, sending).await;
    }
    Ok((source, result?))
}

/// Reads what lies there.
///
/// # Errors
/// It can't be read.
pub async fn read(location: &Location, is_temporary: bool) -> Result<Arc<Source>> {
    let location = location.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let now_ns = Utc::now().timestamp_nanos_opt().unwrap_or_default();
        let cache = if is_temporary { None } else { cache_folder() };
        context::read(&location, &Surroundings { cache, now_ns, files: &Disk })
    });
    let source = reading.await.map_err(|e| Error::Usage(format!("reading the context failed: {e}")))??;
    Ok(Arc::new(source))
}
