//! `--iidfile` and `--metadata-file`: what other tools read of a build that was published or given out as an image.
//!
//! All is checked before the build begins and written when it is done. When the build fails there is no file, as with
//! Docker; whatever else there was (a device, a pipe) stays as it is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use farm_proto::v1::Build;
use farm_types::Invalid;
use farm_types::chain::io_in_short;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::output::summary::tag_reference;
use crate::outputs::layout::Image;
use crate::place::Place;

/// What takes longer waits for somebody: a pipe has no reader.
const SOON: Duration = Duration::from_secs(1);

/// The facts of a build that go into one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Digest,
    Metadata,
}

/// Where they go.
#[derive(Debug, Default)]
pub(super) struct ResultFiles {
    files: Vec<(What, Place)>,
    is_cleared: bool,
}

impl ResultFiles {
    /// Sees now what would be a pity later. Changes nothing.
    ///
    /// # Errors
    /// A file can't be written there, or there will be nothing to write; or nobody, as the command won't wait.
    pub(super) fn check(
        iidfile: Option<PathBuf>,
        metadata_file: Option<PathBuf>,
        has_digest: bool,
        detach: bool,
    ) -> Result<Self, Invalid> {
        let mut files: Vec<(What, Place)> = Vec::new();
        let asked =
            [("--iidfile", What::Digest, iidfile), ("--metadata-file", What::Metadata, metadata_file)];
        for (flag, what, path) in asked.into_iter().filter_map(|(flag, what, path)| Some((flag, what, path?)))
        {
            let invalid = |cure: &str| Invalid::new(flag, path.display().to_string(), cure);
            if detach {
                return Err(invalid(
                    "with --detach nobody is there to write it when the build is done; leave --detach out, or ask later: \
                     farm show BUILD --json",
                ));
            }
            if what == What::Digest && !has_digest {
                return Err(invalid(
                    "nothing is published without -t, and files are no image, so there is no digest; add -t REPO:TAG, or --load",
                ));
            }
            let place = Place::find(&path).map_err(|why| invalid(&why))?;
            if files.iter().any(|(_, other)| other.is_same(&place)) {
                return Err(invalid("--iidfile names the same file; name two"));
            }
            files.push((what, place));
        }
        Ok(Self { files, is_cleared: false })
    }

    /// Where they go, each with its flag.
    pub(super) fn places(&self) -> impl Iterator<Item = (&'static str, &Place)> {
        self.files.iter().map(|(what, place)| (what.flag(), place))
    }

    /// Sees that none of them is a file that the build begins with.
    ///
    /// # Errors
    /// One is.
    pub(super) fn spare(&self, dockerfile: &Path) -> Result<(), Invalid> {
        match self.files.iter().find(|(_, place)| place.is_file(dockerfile)) {
            None => Ok(()),
            Some((what, place)) => {
                let cure = "this is the Dockerfile, and would be lost; name another file";
                Err(Invalid::new(what.flag(), place.named().display().to_string(), cure))
            }
        }
    }

    /// Takes out what an earlier build has left.
    ///
    /// # Errors
    /// It can't be done.
    pub(super) fn clear(&mut self) -> Result<(), Invalid> {
        self.is_cleared = true;
        for (what, place) in &self.files {
            place.clear().map_err(|e| {
                let why = format!("it can't be written ({}); name another file", io_in_short(&e));
                Invalid::new(what.flag(), place.named().display().to_string(), why)
            })?;
        }
        Ok(())
    }

    /// Writes them. A pipe waits for its reader; `told` is told so when that takes a while. Dropping the future leaves it.
    /// `image`: what was given out, which counts when nothing was published.
    ///
    /// # Errors
    /// They can't be written.
    pub(super) async fn write(
        mut self,
        build: &Build,
        image: Option<&Image>,
        mut told: impl FnMut(&str),
    ) -> Result<()> {
        let published = build.publication.as_ref().map(|publication| publication.index_digest.clone());
        let digest =
            published.filter(|digest| !digest.is_empty()).or(image.map(|image| image.id().to_string()));
        for (what, place) in &self.files {
            let text = match (what, &digest) {
                (What::Digest, None) => continue,
                (What::Digest, Some(digest)) => digest.clone(),
                (What::Metadata, _) => {
                    format!("{}\n", serde_json::to_string_pretty(&metadata(build, image)).unwrap_or_default())
                }
            };
            let named = place.named().display();
            let into = place.clone();
            let mut writing = tokio::task::spawn_blocking(move || into.write(text.as_bytes()));
            let written = match tokio::time::timeout(SOON, &mut writing).await {
                Ok(written) => written,
                Err(_) => {
                    told(&format!("waiting until somebody reads {named}"));
                    writing.await
                }
            };
            written.unwrap_or_else(|e| Err(std::io::Error::other(e))).map_err(|e| {
                Error::Usage(format!("{named} can't be written ({}); the build is done", io_in_short(&e)))
            })?;
        }
        self.is_cleared = false;
        Ok(())
    }
}

impl What {
    fn flag(self) -> &'static str {
        match self {
            Self::Digest => "--iidfile",
            Self::Metadata => "--metadata-file",
        }
    }
}

impl Drop for ResultFiles {
    /// Where nothing was written nothing is left; what was written stays.
    fn drop(&mut self) {
        for (_, place) in self.files.iter().filter(|_| self.is_cleared) {
            place.give_up();
        }
    }
}

/// The keys of buildx (its `docs/reference/buildx_build.md`, `--metadata-file`).
fn metadata(build: &Build, image: Option<&Image>) -> Value {
    let mut object = Map::new();
    object.insert("buildx.build.ref".to_owned(), json!(format!("farm/farm/{}", build.id)));
    if let Some(publication) = build.publication.as_ref().filter(|p| !p.index_digest.is_empty()) {
        let tags: Vec<String> = publication
            .destinations
            .iter()
            .flat_map(|destination| {
                destination.tags.iter().map(|tag| tag_reference(&destination.repository, tag))
            })
            .collect();
        object.insert(
            "containerimage.descriptor".to_owned(),
            json!({
                "mediaType": publication.index_media_type, "digest": publication.index_digest,
                "size": publication.index_size,
            }),
        );
        object.insert("containerimage.digest".to_owned(), json!(publication.index_digest));
        object.insert("image.name".to_owned(), json!(tags.join(",")));
    } else if let Some(image) = image {
        if let Some(config) = image.config {
            object.insert("containerimage.config.digest".to_owned(), json!(config.to_string()));
        }
        object.insert("containerimage.descriptor".to_owned(), json!(image.descriptor));
        object.insert("containerimage.digest".to_owned(), json!(image.descriptor.digest.to_string()));
        if !image.names.is_empty() {
            object.insert("image.name".to_owned(), json!(image.names.join(",")));
        }
    }
    Value::Object(object)
}
