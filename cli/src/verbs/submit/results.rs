//! `--iidfile` and `--metadata-file`: what other tools read of a build that was published or given out as an image.

use std::fs;
use std::path::{Path, PathBuf};

use farm_proto::v1::Build;
use farm_types::Invalid;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result, io_in_short};
use crate::output::summary::tag_reference;
use crate::outputs::layout::Image;

/// Where they go.
#[derive(Debug, Default)]
pub(super) struct ResultFiles {
    pub(super) iidfile: Option<PathBuf>,
    pub(super) metadata_file: Option<PathBuf>,
}

impl ResultFiles {
    /// Sees now what would be a pity later, and removes what an earlier build has left: when this one fails there is no
    /// file (as with Docker).
    ///
    /// # Errors
    /// A file can't be written there, or there will be nothing to write; or nobody, as the command won't wait.
    pub(super) fn check(&self, has_digest: bool, detach: bool) -> Result<(), Invalid> {
        let files = [("--iidfile", &self.iidfile), ("--metadata-file", &self.metadata_file)];
        for (flag, path) in files.into_iter().filter_map(|(flag, path)| Some((flag, path.as_ref()?))) {
            let invalid = |cure: &str| Invalid::new(flag, path.display().to_string(), cure);
            if detach {
                return Err(invalid(
                    "with --detach nobody is there to write it when the build is done; leave --detach out, or ask later: \
                     farm show BUILD --json",
                ));
            }
            if flag == "--iidfile" && !has_digest {
                return Err(invalid(
                    "nothing is published without -t, and files are no image, so there is no digest; add -t REPO:TAG, or --load",
                ));
            }
            let folder =
                path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if !folder.is_dir() {
                return Err(invalid("its folder isn't there; make it first"));
            }
            if path.is_dir() {
                return Err(invalid("this is a folder; name a file"));
            }
            if let Err(e) = fs::remove_file(path)
                && e.kind() != std::io::ErrorKind::NotFound
            {
                return Err(invalid(&format!("it can't be written ({})", io_in_short(&e))));
            }
        }
        Ok(())
    }

    /// Writes them. `image`: what was given out, which counts when nothing was published.
    ///
    /// # Errors
    /// They can't be written.
    pub(super) fn write(&self, build: &Build, image: Option<&Image>) -> Result<()> {
        let write = |path: &Path, text: &str| {
            fs::write(path, text).map_err(|e| {
                Error::Usage(format!(
                    "{} can't be written ({}); the build is done",
                    path.display(),
                    io_in_short(&e)
                ))
            })
        };
        let published = build.publication.as_ref().map(|publication| publication.index_digest.clone());
        let digest =
            published.filter(|digest| !digest.is_empty()).or(image.map(|image| image.id().to_string()));
        if let (Some(path), Some(digest)) = (&self.iidfile, digest) {
            write(path, &digest)?;
        }
        if let Some(path) = &self.metadata_file {
            let text = serde_json::to_string_pretty(&metadata(build, image)).unwrap_or_default();
            write(path, &format!("{text}\n"))?;
        }
        Ok(())
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
