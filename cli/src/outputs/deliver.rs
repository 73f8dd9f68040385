//! From a build that has succeeded to what was asked for: each place in turn, each platform in its turn.
//!
//! Invariant: an error leaves no half file, and what was complete before it stays. The farm is told that its outputs may go
//! only when all are where they belong.

use std::io::{self, BufWriter, Read};
use std::path::Path;
use std::time::Instant;

use farm_proto::v1::{Build, BuildSpec, Output, ReleaseOutputsRequest};
use farm_types::{Platform, Provenance};
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::archive::{Writer, each};
use super::destination::{Known, Unfinished, Writing, failed};
use super::docker::{BodyWriter, DockerEngine};
use super::download::{Incoming, Source};
use super::layout::{self, Image};
use super::unpack::{Unpacked, Unpacking};
use super::wanted::{Asked, Place, Sink, Wanted};
use crate::calls::through;
use crate::error::{Error, Result};
use crate::output::text::{bytes, count, harmless, short_digest};

/// How bytes are gathered before they are written.
const BUFFER: usize = 256 << 10;

/// An output that was written, as the command tells and prints it.
#[derive(Debug, Clone, Serialize)]
pub struct Delivered {
    /// local, tar, oci or docker, as buildx's types are called.
    pub r#type: &'static str,
    /// The file or folder as it was named, - for standard output; null: an engine.
    pub dest: Option<String>,
    /// The Docker engine that has it.
    pub engine: Option<String>,
    /// The platforms that it has.
    pub platforms: Vec<String>,
    /// How many bytes came from the farm.
    pub bytes: u64,
    /// Files, folders and links that were written into a folder.
    pub entries: Option<u64>,
    /// The digest of the image's manifest or index.
    pub digest: Option<String>,
    /// The names that the image bears in the archive or the engine.
    pub names: Vec<String>,
    /// How long fetching and writing took.
    pub seconds: f64,
    /// The image's facts, for files of facts.
    #[serde(skip)]
    pub image: Option<Image>,
    /// Sentences on what couldn't be written as it is.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

impl Delivered {
    /// The lines that say so to people.
    pub fn lines(&self) -> Vec<String> {
        let size = bytes(self.bytes);
        let of = match self.platforms.len() {
            1 => String::new(),
            n => format!(", {}", count(n, "platform")),
        };
        let digest =
            self.digest.as_deref().map(|digest| format!("  {}", short_digest(digest))).unwrap_or_default();
        let mut out: Vec<String> =
            self.warnings.iter().map(|warning| format!("warning  {}", harmless(warning))).collect();
        out.push(match (&self.dest, &self.engine, self.entries) {
            (_, Some(engine), _) => {
                let names =
                    if self.names.is_empty() { "without a name".to_owned() } else { self.names.join(", ") };
                format!("loaded   {}{digest}  {size}{of}  into {}", harmless(&names), harmless(engine))
            }
            (Some(dest), None, Some(entries)) if self.image.is_none() => {
                let entries = count(usize::try_from(entries).unwrap_or(usize::MAX), "entry")
                    .replace("entrys", "entries");
                format!("written  {}/  {entries}, {size}{of}", harmless(dest.trim_end_matches('/')))
            }
            (Some(dest), None, _) if dest == "-" => format!("written  standard output{digest}  {size}{of}"),
            (Some(dest), None, _) => format!("written  {}{digest}  {size}{of}", harmless(dest)),
            (None, None, _) => format!("written  {size}"),
        });
        out
    }
}

/// Brings all that was asked for where it belongs. Dropping the future leaves what can't be ended (a thread that writes into a
/// pipe which nobody reads, an engine that doesn't answer) to itself; no half file is left.
///
/// # Errors
/// An output is gone, can't be fetched or can't be written.
pub(crate) async fn deliver(
    source: &Source,
    build: &Build,
    wanted: &Wanted,
    engines: &[DockerEngine],
) -> Result<Vec<Delivered>> {
    let spec = build.spec.clone().unwrap_or_default();
    let platforms: Vec<Platform> =
        spec.platforms.iter().map(|platform| platform.parse()).collect::<Result<_, farm_types::Invalid>>()?;
    let (_, places) = wanted.exports(&platforms, attests(&spec))?;
    let mut engines = engines.iter();
    let mut all = Vec::new();
    for (asked, export) in wanted.asked.iter().zip(places) {
        let outputs = outputs(build, &platforms, export)?;
        let sum: u64 = outputs.iter().map(|(_, output)| output.bytes).sum();
        let begin = Instant::now();
        let mut delivered = Delivered {
            r#type: asked.sink.kind(),
            dest: match &asked.sink {
                Sink::Load { .. } => None,
                sink => Some(sink.path().map_or_else(|| "-".to_owned(), |path| path.display().to_string())),
            },
            engine: None,
            platforms: platforms.iter().map(ToString::to_string).collect(),
            bytes: sum,
            entries: None,
            digest: None,
            names: Vec::new(),
            seconds: 0.0,
            image: None,
            warnings: Vec::new(),
        };
        let parts = Parts { source: source.clone(), outputs };
        match &asked.sink {
            Sink::Load { .. } => {
                let engine =
                    engines.next().ok_or_else(|| Error::Usage("--load: there is no engine".to_owned()))?;
                let (image, said) = load(parts, engine).await?;
                delivered.engine = Some(engine.shown.clone());
                delivered.names = said.into_iter().filter(|name| !name.starts_with("sha256:")).collect();
                delivered.digest = Some(image.descriptor.digest.to_string());
                delivered.image = Some(image);
            }
            _ => {
                let done = write(parts, asked.clone()).await?;
                if let Some(image) = &done.image {
                    delivered.names.clone_from(&image.names);
                    delivered.digest = Some(image.descriptor.digest.to_string());
                }
                if let Some(unpacked) = done.unpacked {
                    delivered.entries = Some(unpacked.entries);
                    delivered.warnings = unpacked.warnings;
                }
                delivered.image = done.image;
            }
        }
        delivered.seconds = begin.elapsed().as_secs_f64();
        all.push(delivered);
    }
    // They go by themselves after a while; that they may go now is a courtesy.
    let request = ReleaseOutputsRequest { build_id: source.build.clone() };
    let _ = through(async || source.client.outputs().release_outputs(request.clone()).await).await;
    Ok(all)
}

/// Whether a build that was asked for so makes attestations.
fn attests(spec: &BuildSpec) -> bool {
    !["", Provenance::Off.as_str()].contains(&spec.provenance.as_str()) || !spec.sbom_generator.is_empty()
}

/// The bytes of all outputs that are to be received.
pub fn total(build: &Build, wanted: &Wanted) -> u64 {
    let spec = build.spec.clone().unwrap_or_default();
    let platforms: Vec<Platform> =
        spec.platforms.iter().filter_map(|platform| platform.parse().ok()).collect();
    let Ok((_, places)) = wanted.exports(&platforms, attests(&spec)) else { return 0 };
    let sums = places.into_iter().filter_map(|export| outputs(build, &platforms, export).ok());
    sums.flatten().map(|(_, output)| output.bytes).sum()
}

/// One output of every platform, in the order of the request.
fn outputs(build: &Build, platforms: &[Platform], export: usize) -> Result<Vec<(Platform, Output)>> {
    let of = |platform: &Platform| {
        let name = platform.to_string();
        let job = build.jobs.iter().find(|job| job.platform == name)?;
        let output =
            job.outputs.iter().find(|output| usize::try_from(output.export).is_ok_and(|e| e == export))?;
        (output.removed_ms == 0).then(|| (platform.clone(), output.clone()))
    };
    platforms
        .iter()
        .map(|platform| {
            of(platform).ok_or_else(|| {
                Error::Usage(format!(
                    "what build {} made for {platform} is not on the farm (any more): it is kept until it was received, and for \
                     a while after the build's end; submit it again with another --idempotency-key",
                    build.id
                ))
            })
        })
        .collect()
}

/// One output of several platforms, to be fetched one after the other.
struct Parts {
    source: Source,
    outputs: Vec<(Platform, Output)>,
}

impl Parts {
    fn open(&self) -> impl Iterator<Item = (&Platform, Incoming)> {
        // Lazily: a stream that nobody reads holds up the others of its connection.
        self.outputs
            .iter()
            .map(|(platform, output)| (platform, self.source.open(&platform.to_string(), output)))
    }

    /// One image, whatever the number of platforms.
    fn image(&self, to: impl io::Write) -> io::Result<Image> {
        if let [(platform, output)] = &self.outputs[..] {
            return layout::copy(self.source.open(&platform.to_string(), output), to);
        }
        let inputs = self
            .outputs
            .iter()
            .map(|(platform, output)| (platform.clone(), || self.source.open(&platform.to_string(), output)));
        layout::merge(inputs.collect(), to)
    }
}

/// What writing gave.
#[derive(Default)]
struct Done {
    image: Option<Image>,
    unpacked: Option<Unpacked>,
}

async fn write(parts: Parts, asked: Asked) -> Result<Done> {
    let what =
        asked.sink.path().map_or_else(|| "standard output".to_owned(), |path| path.display().to_string());
    // When nobody waits for this any more, the thread may be stuck in a pipe that nobody reads.
    let unfinished = Unfinished::default();
    let known = unfinished.known();
    let writing = spawn_blocking(move || match &asked.sink {
        Sink::Folder { dest, split } => folder(&parts, dest, *split),
        Sink::Tar { dest, split } => tar(&parts, dest, *split, &known),
        Sink::Image { dest, .. } => {
            let mut to = BufWriter::with_capacity(BUFFER, Writing::begin(dest, &known)?);
            let image = parts.image(&mut to)?;
            to.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
            Ok(Done { image: Some(image), unpacked: None })
        }
        Sink::Layout { dest, .. } => layout_folder(&parts, dest),
        Sink::Load { .. } => Ok(Done::default()),
    });
    writing
        .await
        .map_err(|_| Error::Usage(format!("{what} was not written: this command met a defect of its own")))?
        .map_err(|error| match error.get_ref().is_some_and(|inner| inner.is::<Error>()) {
            true => inner(error),
            false => Error::Usage(format!("{}; the build is done", failed(&what, &error))),
        })
}

/// The farm's error, if it is what kept bytes from coming.
fn inner(error: io::Error) -> Error {
    let text = error.to_string();
    match error.into_inner().and_then(|inner| inner.downcast::<Error>().ok()) {
        Some(inner) => *inner,
        None => Error::Usage(text),
    }
}

fn folder(parts: &Parts, dest: &Path, split: Option<bool>) -> io::Result<Done> {
    let several = parts.outputs.len() > 1;
    let split = split.unwrap_or(several);
    let mut unpacking = Unpacking::open(dest)?;
    if several && !split {
        unpacking = unpacking.shared();
    }
    for (platform, incoming) in parts.open() {
        let below = split.then(|| sub_folder(platform));
        unpacking.take(incoming, below.as_deref(), &platform.to_string())?;
    }
    Ok(Done { image: None, unpacked: Some(unpacking.finish()?) })
}

/// The sub-folder of a platform, named as BuildKit names it.
fn sub_folder(platform: &Platform) -> String {
    platform.to_string().replace('/', "_")
}

fn tar(parts: &Parts, dest: &Place, split: Option<bool>, known: &Known) -> io::Result<Done> {
    let several = parts.outputs.len() > 1;
    let split = split.unwrap_or(several);
    let mut to = BufWriter::with_capacity(BUFFER, Writing::begin(dest, known)?);
    if !several && !split {
        for (_, mut incoming) in parts.open() {
            io::copy(&mut incoming, &mut to)?;
        }
    } else {
        joined(parts, split, &mut to)?;
    }
    to.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
    Ok(Done::default())
}

/// Writes one archive that has the files of all platforms.
fn joined(parts: &Parts, split: bool, to: impl io::Write) -> io::Result<()> {
    let mut writer = Writer::new(to);
    let mut taken: std::collections::HashMap<Vec<u8>, String> = std::collections::HashMap::new();
    for (platform, incoming) in parts.open() {
        let below = sub_folder(platform);
        if split {
            writer.own(tar::EntryType::Directory, &format!("{below}/"), 0o755, b"")?;
        }
        each(incoming, |mut entry, content: &mut dyn Read| {
            let kind = entry.header.entry_type();
            if split {
                prefix(&mut entry.path, &below);
                // As BuildKit's own archives of several platforms have it: also links to a place from the root.
                if kind == tar::EntryType::Link {
                    prefix(&mut entry.link, &below);
                } else if entry.link.starts_with(b"/") {
                    let link = [b"/", below.as_bytes(), &entry.link].concat();
                    entry.link = link;
                }
            } else if let Some(other) = taken.insert(entry.path.clone(), platform.to_string()) {
                if kind == tar::EntryType::Directory {
                    return Ok(());
                }
                return Err(io::Error::other(format!(
                    "{} is in the output for {other} and in that for {platform}; leave platform-split=false out",
                    entry.shown()
                )));
            }
            writer.entry(&entry, content)
        })?;
    }
    writer.end().map(drop)
}

fn prefix(path: &mut Vec<u8>, below: &str) {
    let whole = [below.as_bytes(), b"/", path].concat();
    *path = whole;
}

fn layout_folder(parts: &Parts, dest: &Path) -> io::Result<Done> {
    let mut unpacking = Unpacking::open(dest)?;
    // The archive goes through a pipe to whoever takes it apart.
    let (reader, writer) = io::pipe()?;
    let (image, taken) = std::thread::scope(|scope| {
        let making = scope.spawn(move || parts.image(BufWriter::with_capacity(BUFFER, writer)));
        let taken = unpacking.take_layout(reader);
        let image = making.join().unwrap_or_else(|_| Err(io::Error::other("a thread of this command died")));
        (image, taken)
    });
    // What went wrong on one side is why the other broke off.
    let (image, index) = match (image, taken) {
        (Err(error), Err(why)) if error.kind() == io::ErrorKind::BrokenPipe => return Err(why),
        (image, taken) => (image?, taken?),
    };
    unpacking.join_index(&index)?;
    Ok(Done { image: Some(image), unpacked: Some(unpacking.finish()?) })
}

async fn load(parts: Parts, engine: &DockerEngine) -> Result<(Image, Vec<String>)> {
    let (writer, pieces) = BodyWriter::new();
    let making = spawn_blocking(move || {
        let made = {
            let mut to = BufWriter::with_capacity(BUFFER, &writer);
            parts.image(&mut to).and_then(|image| io::Write::flush(&mut to).map(|()| image))
        };
        if made.is_err() {
            writer.break_off();
        }
        made
    });
    let (made, loaded) = tokio::join!(making, engine.load(pieces));
    let made = made.map_err(|_| {
        Error::Usage("the image was not loaded: this command met a defect of its own".to_owned())
    })?;
    match (made, loaded) {
        (Ok(image), Ok(said)) => Ok((image, said)),
        // Why the engine got no more is known here; why it took no more, there.
        (Err(error), _) if error.kind() != io::ErrorKind::BrokenPipe => Err(inner(error)),
        (_, Err(error)) => Err(error),
        (Err(_), Ok(_)) => Err(Error::Usage("the Docker engine did not take the whole image".to_owned())),
    }
}
