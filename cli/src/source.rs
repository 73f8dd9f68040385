//! A build's source, from the disk into the farm.

use std::path::PathBuf;
use std::sync::Arc;

use chrono::Utc;
use farm_dockerfile::Sources;

use crate::calls;
use crate::connect::Client;
use crate::error::{Error, Result};
use crate::folders::user_folder;
use crate::upload::{Sending, Uploaded, upload};
use farm_source::{Always, Disk, Location, Source, Surroundings};

/// Reads what lies there and uploads what the farm lacks of it. `is_temporary`: it will not be there another time, so
/// nothing is remembered of it.
///
/// # Errors
/// It can't be read, changes without end, or the farm can't take it.
pub(crate) async fn bring(
    client: &Client,
    location: &Location,
    is_temporary: bool,
    sending: &Arc<Sending>,
) -> Result<(Arc<Source>, Uploaded)> {
    let source = read(location, is_temporary, None).await?;
    send(client, source, location, (is_temporary, None), sending).await
}

/// Uploads what the farm lacks of a source that was read just now; where that has changed since, it is read once more.
///
/// # Errors
/// It can't be read, changes without end, or the farm can't take it.
pub(crate) async fn send(
    client: &Client,
    mut source: Arc<Source>,
    location: &Location,
    (is_temporary, meant): (bool, Option<&Sources>),
    sending: &Arc<Sending>,
) -> Result<(Arc<Source>, Uploaded)> {
    let mut result = upload(client, &source, tokio::time::sleep, sending).await;
    if let Err(Error::Changed(_)) = result {
        // Somebody is at work in the folder: take it as it is now.
        source = read(location, is_temporary, meant).await?;
        result = upload(client, &source, tokio::time::sleep, sending).await;
    }
    Ok((source, result?))
}

/// Reads what lies there, or what is meant of it.
///
/// # Errors
/// It can't be read.
pub(crate) async fn read(
    location: &Location,
    is_temporary: bool,
    meant: Option<&Sources>,
) -> Result<Arc<Source>> {
    let (location, meant) = (location.clone(), meant.cloned());
    let reading = tokio::task::spawn_blocking(move || {
        let now_ns = Utc::now().timestamp_nanos_opt().unwrap_or_default();
        let cache = if is_temporary { None } else { index_folder() };
        farm_source::read(
            &location,
            &Surroundings {
                cache,
                now_ns,
                files: &Disk,
                meant: meant.as_ref(),
                known: None,
                goes_on: &Always,
            },
        )
    });
    let source = reading.await.map_err(|e| Error::Usage(format!("reading the context failed: {e}")))??;
    Ok(Arc::new(source))
}

/// Where indexes of contexts are kept: `$XDG_CACHE_HOME/farm/index`, else `~/.cache/farm/index`; none without a home.
fn index_folder() -> Option<PathBuf> {
    Some(user_folder("XDG_CACHE_HOME", ".cache")?.join("farm").join("index"))
}

/// The whole of a source of which a part was sent, for when it turns out not to be enough.
#[derive(Debug, Clone, Copy)]
pub struct Rest<'a> {
    /// Where it lies.
    pub location: &'a Location,
    /// It will not be there another time.
    pub is_temporary: bool,
}

impl Rest<'_> {
    /// Sends all of it to a build that waits for that.
    ///
    /// # Errors
    /// It can't be read, or the farm can't take it.
    pub async fn send(&self, client: &Client, build: &str) -> Result<Uploaded> {
        let (_, uploaded) =
            bring(client, self.location, self.is_temporary, &Arc::new(Sending::default())).await?;
        calls::provide_source(client, build, &uploaded).await?;
        Ok(uploaded)
    }
}
