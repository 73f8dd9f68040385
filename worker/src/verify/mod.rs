//! Whether what was pushed has programs of its platform's machine: the last look of an attempt at what it has made.
//!
//! The engine is asked for the manifest, the configuration and those layers that nobody has looked through yet ([`layer`]); what is
//! known of others the coordinator says ([`crate::link::verdicts`]), which gets the new verdicts with the result, and judges once more.
//! What the engine hasn't got (layers of a base image that nothing was done with) or can't give is not looked at: that ends no build,
//! it is logged, and the build's log says so.

mod layer;
mod tarball;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use farm_proto::v1;
use farm_types::elf::{self, Judgement, Layer, LayerVerdict};
use farm_types::pattern::PatternSet;
use farm_types::{Digest, Failure, Platform};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::attempts::Lease;
use crate::buildkit::Engine;
use crate::buildkit::content::Unreadable;
use crate::link::Client;
use crate::link::verdicts;

/// The longest manifest, index or configuration.
const DOCUMENT_BYTES: usize = 8 << 20;
/// How long all of it may take. What wasn't read by then isn't looked at.
const WITHIN: Duration = Duration::from_secs(5 * 60);
/// Pieces of a layer between the engine and who looks through it; of up to 1 MiB.
const AHEAD: usize = 4;

/// What came of a look.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Verified {
    /// All layers, from the lowest; empty: they aren't known.
    pub(crate) layers: Vec<v1::CheckedLayer>,
    /// Why not all could be looked at, for people.
    pub(crate) unseen: Option<String>,
}

/// Looks at the image of this digest, which this engine has pushed.
///
/// Cancel safety: it may be dropped at any time; a layer that is being read is let go of.
///
/// # Errors
/// It has programs of another machine.
pub(crate) async fn verify(
    engine: &Engine,
    (client, lease): (&Client, Lease),
    digest: &Digest,
    platform: &Platform,
    excepted: &PatternSet,
) -> Result<Verified, Box<Failure>> {
    let until = Instant::now() + WITHIN;
    let stored = match timeout_at(until, stored_layers(engine, digest)).await {
        Ok(Ok(stored)) => stored,
        Ok(Err(why)) => {
            tracing::info!(why, "what was pushed can't be verified");
            return Ok(Verified { unseen: Some(why), ..Verified::default() });
        }
        Err(_) => {
            let why = "the engine took too long to say what it has pushed".to_owned();
            return Ok(Verified { unseen: Some(why), ..Verified::default() });
        }
    };
    let diff_ids: Vec<Digest> = stored.iter().map(|layer| layer.diff_id).collect();
    let found = timeout_at(until, verdicts::find(client, lease, &diff_ids)).await;
    let mut known = found.unwrap_or_default();
    let mut new: HashMap<Digest, LayerVerdict> = HashMap::new();
    let reading = Reading { engine, until, read: AtomicU32::new(0) };
    let mut seen: HashSet<Digest> = known.keys().copied().collect();
    let unknown: VecDeque<Stored> =
        stored.iter().filter(|layer| seen.insert(layer.diff_id)).copied().collect();
    let unknown = Mutex::new(unknown);
    // As one is packed out the next one comes.
    let (one, other) = tokio::join!(reading.look_all(&unknown), reading.look_all(&unknown));
    for (diff_id, verdict) in one.into_iter().chain(other) {
        known.insert(diff_id, verdict.clone());
        new.insert(diff_id, verdict);
    }
    let judged = async |known: &HashMap<Digest, LayerVerdict>| {
        let layers: Vec<(Digest, Option<LayerVerdict>)> =
            diff_ids.iter().map(|diff_id| (*diff_id, known.get(diff_id).cloned())).collect();
        let (platform, excepted) = (platform.clone(), excepted.clone());
        // Patterns and paths are whoever's: of many it takes a while.
        let judging = tokio::task::spawn_blocking(move || {
            let layers = layers.iter().map(|(diff_id, verdict)| Layer { diff_id, verdict: verdict.as_ref() });
            elf::judge(layers, &platform, &excepted)
        });
        judging.await.unwrap_or(Judgement::Unsure(Vec::new()))
    };
    let mut judgement = judged(&known).await;
    if let Judgement::Unsure(again) = &judgement {
        for layer in stored.iter().filter(|layer| again.contains(&layer.diff_id)) {
            if let Some(verdict) = reading.look(layer).await {
                known.insert(layer.diff_id, verdict);
            }
        }
        judgement = judged(&known).await;
    }
    let layers = diff_ids.len();
    let unread = diff_ids.iter().filter(|diff_id| !known.contains_key(diff_id)).count();
    tracing::info!(layers, read = reading.read.load(Ordering::Relaxed), unread, "verified");
    if let Judgement::Foreign(foreign) = judgement {
        return Err(Box::new(foreign.failure(platform)));
    }
    let unseen = match judgement {
        Judgement::Unsure(_) => Some("it has more files of other machines than can be held against what is excepted".to_owned()),
        _ => (unread > 0).then(|| format!("{unread} of its {layers} layers the engine can't give, or they are packed in a way that isn't known here")),
    };
    let layers = diff_ids.iter().map(|diff_id| v1::CheckedLayer {
        diff_id: diff_id.to_string(),
        verdict: new.remove(diff_id).map(Into::into),
    });
    Ok(Verified { layers: layers.collect(), unseen })
}

/// A layer as the engine stores it.
#[derive(Debug, Clone, Copy)]
struct Stored {
    /// Of its bytes as they are stored.
    digest: Digest,
    /// Of its bytes, unpacked.
    diff_id: Digest,
}

/// What is needed of an index or a manifest (OCI image-spec, `image-index.md`, `manifest.md`).
#[derive(Debug, Deserialize)]
struct Manifest {
    #[serde(default)]
    manifests: Vec<Listed>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Listed {
    digest: Digest,
    platform: Option<ListedPlatform>,
}

#[derive(Debug, Deserialize)]
struct ListedPlatform {
    os: String,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: Digest,
}

/// The same of a configuration (`config.md`).
#[derive(Debug, Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

/// The layers of an image, from the lowest; what names an attestation beside it is looked through.
async fn stored_layers(engine: &Engine, digest: &Digest) -> Result<Vec<Stored>, String> {
    let mut manifest: Manifest = document(engine, digest).await?;
    if manifest.config.is_none() {
        // An attestation is of no system.
        let is_image =
            |listed: &&Listed| listed.platform.as_ref().is_none_or(|platform| platform.os != "unknown");
        let image =
            manifest.manifests.iter().find(is_image).ok_or("the index that was pushed names no image")?;
        manifest = document(engine, &image.digest).await?;
    }
    let config = manifest.config.ok_or("the manifest that was pushed names no configuration")?;
    let config: Config = document(engine, &config.digest).await?;
    let (layers, diff_ids) = (manifest.layers, config.rootfs.diff_ids);
    if layers.len() != diff_ids.len() || layers.len() > elf::MOST_LAYERS {
        return Err(format!(
            "the image has {} layers, and its configuration names {}",
            layers.len(),
            diff_ids.len()
        ));
    }
    let layers = layers.into_iter().zip(diff_ids);
    Ok(layers.map(|(layer, diff_id)| Stored { digest: layer.digest, diff_id }).collect())
}

async fn document<T: for<'a> Deserialize<'a>>(engine: &Engine, digest: &Digest) -> Result<T, String> {
    let words = |error: Unreadable| match error {
        Unreadable::Unsupported => format!("{error} (engines do since BuildKit 0.13, Docker 26)"),
        error => error.to_string(),
    };
    let mut reading = engine.read(digest).await.map_err(words)?;
    let mut bytes = Vec::new();
    while let Some(piece) = reading.next().await.map_err(words)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > DOCUMENT_BYTES {
            return Err(format!("{digest} is too long"));
        }
    }
    if Digest::of(&bytes) != *digest {
        return Err(format!("what the engine gives as {digest} isn't that"));
    }
    serde_json::from_slice(&bytes).map_err(|error| format!("{digest} can't be read: {error}"))
}

/// Who looks through layers.
struct Reading<'a> {
    engine: &'a Engine,
    until: Instant,
    /// How many were.
    read: AtomicU32,
}

impl Reading<'_> {
    /// Looks through layers, one after the other, until there are none left.
    async fn look_all(&self, layers: &Mutex<VecDeque<Stored>>) -> Vec<(Digest, LayerVerdict)> {
        let next = || layers.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let mut looked = Vec::new();
        while let Some(layer) = next() {
            looked.extend(self.look(&layer).await.map(|verdict| (layer.diff_id, verdict)));
        }
        looked
    }

    /// What is in a layer; none, and a line in the log, if that can't be told.
    async fn look(&self, layer: &Stored) -> Option<LayerVerdict> {
        let looked = timeout_at(self.until, through(self.engine, *layer)).await;
        let why = match looked.unwrap_or_else(|_| Err("it would take too long".to_owned())) {
            Ok(verdict) => {
                self.read.fetch_add(1, Ordering::Relaxed);
                return Some(verdict);
            }
            Err(why) => why,
        };
        tracing::info!(layer = %layer.digest, why, "a layer isn't looked at");
        None
    }
}

async fn through(engine: &Engine, layer: Stored) -> Result<LayerVerdict, String> {
    let mut reading = engine.read(&layer.digest).await.map_err(|error| error.to_string())?;
    let (sender, pieces) = mpsc::channel(AHEAD);
    let looking = tokio::task::spawn_blocking(move || layer::look(pieces, &layer.diff_id));
    let sending = async move {
        while let Some(piece) = reading.next().await.map_err(|error| error.to_string())? {
            if sender.send(piece).await.is_err() {
                // It has seen enough, and says why.
                break;
            }
        }
        Ok::<_, String>(())
    };
    // A layer that broke off has another digest; what broke it says more.
    let (looked, sent) = tokio::join!(looking, sending);
    sent?;
    looked.map_err(|error| format!("looking through it ended abnormally: {error}"))?
}
