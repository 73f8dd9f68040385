//! Which attestations are made, and the form of what is published, by the flags for that.

use farm_types::packaging::{Packaging, Placement};
use farm_types::{Annotation, ImageRef, Invalid, MediaTypes, Platform, Provenance, SinglePlatform};

use super::args::Args;
use super::buildx::{Attest, attest};
use super::flag::flag;
use crate::error::Result;
use crate::outputs::wanted::Wanted;
use crate::switches::go_bool;

/// The scanner that buildx takes, too, when none is named.
const SCANNER: &str = "docker.io/docker/buildkit-syft-scanner:stable-1";

/// The attestations that are asked for: provenance, and the image that makes an SBOM.
pub(super) fn attestations(args: &Args) -> Result<(Provenance, Option<ImageRef>)> {
    let mut provenance = match &args.provenance {
        Some(text) => text.parse().map_err(|e| flag("--provenance", e))?,
        None => Provenance::Off,
    };
    let mut sbom = match &args.sbom {
        Some(text) => asked_sbom(text)?,
        None => None,
    };
    for text in &args.attest {
        match attest(text)? {
            Attest::Provenance(asked) => provenance = asked,
            Attest::Sbom(false, _) => sbom = None,
            Attest::Sbom(true, generator) => sbom = Some(scanner(&generator, "--attest", text)?),
        }
    }
    Ok((provenance, sbom))
}

/// `--sbom`, `--sbom=BOOL` or `--sbom=generator=IMAGE`.
fn asked_sbom(text: &str) -> Result<Option<ImageRef>> {
    match (go_bool(text), text.strip_prefix("generator=")) {
        (Some(true), _) => scanner("", "--sbom", text).map(Some),
        (Some(false), _) => Ok(None),
        (None, Some(generator)) if !generator.is_empty() => scanner(generator, "--sbom", text).map(Some),
        _ => Err(Invalid::new("--sbom", text, "write true, false or generator=IMAGE").into()),
    }
}

fn scanner(generator: &str, name: &str, text: &str) -> Result<ImageRef> {
    let image = if generator.is_empty() { SCANNER } else { generator };
    image.parse().map_err(|e: Invalid| Invalid::new(name, text, e.cure).into())
}

/// The form that is asked for.
pub(super) fn packaging(args: &Args, wanted: &Wanted, has_epoch: bool) -> Result<Packaging> {
    let mut annotations: Vec<Annotation> = Vec::new();
    for text in args.annotation.iter().filter(|text| !text.is_empty()) {
        for annotation in Annotation::parse(text).map_err(|e| flag("--annotation", e))? {
            // As with buildx: of one that is given twice the last one counts.
            annotations.retain(|other| {
                (other.level, &other.platform, &other.key)
                    != (annotation.level, &annotation.platform, &annotation.key)
            });
            annotations.push(annotation);
        }
    }
    annotations.sort();
    let media_types = match &args.media_type {
        Some(text) => text.parse().map_err(|e| flag("--media-type", e))?,
        None if wanted.is_docker() => MediaTypes::Docker,
        None => MediaTypes::default(),
    };
    let attestations = match &args.attestations {
        Some(text) => text.parse().map_err(|e| flag("--attestations", e))?,
        None => Default::default(),
    };
    let rewrite_timestamp = args.rewrite_timestamp || wanted.rewrites_timestamps();
    if rewrite_timestamp && !has_epoch {
        let cure = "files get the times of SOURCE_DATE_EPOCH, which isn't set; add --source-date-epoch commit, or seconds since 1970";
        return Err(Invalid::new("--rewrite-timestamp", "", cure).into());
    }
    let packaging = Packaging { media_types, annotations, attestations, rewrite_timestamp };
    if !wanted.pushes() {
        let given = [
            ("--annotation", args.annotation.first().cloned()),
            ("--media-type", args.media_type.clone()),
            ("--attestations", args.attestations.clone()),
            ("--if-unchanged", args.if_unchanged.then(String::new)),
            ("--rewrite-timestamp", args.rewrite_timestamp.then(String::new)),
        ];
        if let Some((name, value)) = given.into_iter().find_map(|(name, value)| Some((name, value?))) {
            let cure = "it is about what is published, and here nothing is; add --push, or leave it out";
            return Err(Invalid::new(name, value, cure).into());
        }
    }
    Ok(packaging)
}

/// Sees whether that form can be; without platforms as far as can be said before they are known.
pub(super) fn check(
    single_platform: SinglePlatform,
    packaging: &Packaging,
    platforms: &[Platform],
    attests: bool,
) -> Result<(), Invalid> {
    let inline = attests && packaging.attestations == Placement::Inline;
    single_platform.check(platforms.len(), inline).map_err(|e| flag("--single-platform", e))?;
    if platforms.is_empty() && packaging.annotations.iter().any(|annotation| annotation.platform.is_some()) {
        return Ok(());
    }
    let is_index = single_platform == SinglePlatform::Index;
    let name = |e: &Invalid| if e.thing == "media type" { "--media-type" } else { "--annotation" };
    packaging.check(platforms, is_index, attests).map_err(|e| flag(name(&e), e))
}
