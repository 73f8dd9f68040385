//! `farm rm`: tags, and images by their digests, leave a registry.

use std::collections::BTreeMap;

use farm_proto::v1::RemoveImagesRequest;
use farm_types::{ImageRef, Invalid, Repository};

use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Exit, Result};
use crate::output::tags::{Removed, RemovedJson, removed};
use crate::output::{Out, json};

/// Arguments of `farm rm`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The tags, and images by their digests: [REGISTRY/]REPO:TAG or REPO@DIGEST
    #[arg(value_name = "REF", required = true)]
    images: Vec<String>,

    /// Say what would go, and remove nothing
    #[arg(long)]
    dry_run: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "\
Examples:
  farm rm registry.example/team/app:pr-17
  farm rm registry.example/team/app:1.3 registry.example/team/app:old --dry-run
  farm rm registry.example/team/app@sha256:DIGEST

With its last tag an image goes, with all that it lists and no other tag reaches; what another tag
of the repository reaches stays, and the tag goes alone, where the registry can do that. A
protected tag of the project goes in no case. For admins of the project; there is no way back.

Exit codes:
  0  removed
  1  a part of it was removed
  2  a tag can't be taken, isn't there, is protected, or something else needs the image
  3  no farm answers, or it refuses that";

/// Removes them.
///
/// # Errors
/// One can't be removed: then nothing of its repository is.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    let wanted = wanted(&args.images)?;
    let client = Client::connect(&setup.address).await?;
    let mut all: Vec<Removed> = Vec::new();
    let mut failed = None;
    for (repository, request) in wanted {
        let request = RemoveImagesRequest { dry_run: args.dry_run, ..request };
        match client.images().remove_images(request).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                all.push(Removed {
                    repository: repository.to_string(),
                    images: answer.removed,
                    below: answer.below,
                    left: answer.left,
                    trouble: answer.trouble,
                });
            }
            Err(status) => {
                failed = Some(client.error(&status));
                break;
            }
        }
    }
    let mut out = Out::stdout();
    if args.json && !(all.is_empty() && failed.is_some()) {
        out.line(&json::text(&RemovedJson::new(&all, args.dry_run, None)));
    } else {
        out.lines(removed(&all, args.dry_run));
    }
    let is_partial = all.iter().any(|one| !one.trouble.is_empty());
    match failed {
        Some(error) => Err(error),
        // As of a build that failed.
        None if is_partial => Ok(Exit::BuildFailed),
        None => Ok(Exit::Done),
    }
}

/// What is wanted of each repository.
fn wanted(images: &[String]) -> Result<BTreeMap<Repository, RemoveImagesRequest>> {
    let mut all: BTreeMap<Repository, RemoveImagesRequest> = BTreeMap::new();
    for text in images {
        let image: ImageRef = text.parse()?;
        let invalid = |cure: String| Error::from(Invalid::new("image", text, cure));
        let request = all.entry(image.repository.clone()).or_insert_with(|| RemoveImagesRequest {
            repository: image.repository.to_string(),
            ..Default::default()
        });
        match (image.tag, image.digest) {
            (None, Some(digest)) => request.digests.push(digest.to_string()),
            (Some(_), Some(_)) => {
                return Err(invalid(
                    "write the tag, or the digest: REPO:TAG removes a tag, REPO@DIGEST an image".to_owned(),
                ));
            }
            // Elsewhere it is latest; what can't be taken back is to be written out.
            (Some(tag), None) if !text.ends_with(&format!(":{tag}")) => {
                return Err(invalid(format!("write which tag, {text}:latest for example")));
            }
            (Some(tag), None) => request.tags.push(tag),
            (None, None) => return Err(invalid("write REPO:TAG or REPO@DIGEST".to_owned())),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(images: &[&str]) -> Result<BTreeMap<Repository, RemoveImagesRequest>> {
        wanted(&images.iter().map(|image| (*image).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_named_is_asked_for_by_its_repository() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let all =
            of(&["r.example/a:1", "r.example/b:2", "r.example/a:old", &format!("r.example/a@{digest}")])
                .unwrap();
        let a = &all[&"r.example/a".parse().unwrap()];
        assert_eq!(
            (a.tags.as_slice(), a.digests.as_slice()),
            (&["1".into(), "old".into()][..], &[digest.clone()][..])
        );
        assert_eq!(all[&"r.example/b".parse().unwrap()].tags, ["2"]);
    }

    #[test]
    fn what_isnt_written_out_is_not_removed() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (image, said) in [
            ("r.example/a", "r.example/a:latest for example"),
            ("localhost:5000/a", "write which tag"),
            (&format!("r.example/a:1@{digest}"), "write the tag, or the digest"),
            ("r.example/a:", "image"),
        ] {
            let error = of(&[image]).unwrap_err();
            assert!(error.to_string().contains(said), "{image}: {error}");
            assert_eq!(error.exit(), Exit::Usage);
        }
        assert!(of(&["r.example/latest:latest"]).is_ok());
        assert!(of(&["r.example/latest"]).is_err());
    }
}
