//! `farm inspect`.

use std::io::Write as _;

use farm_proto::v1::InspectImageRequest;
use farm_types::{ImageRef, Invalid, Platform};

use super::now_ms;
use farm_types::chain::io_in_short;

use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Exit, Result};
use crate::image::json::ImageJson;
use crate::image::tree::{details, overview};
use crate::image::{Image, Variant};
use crate::output::{Out, format, json};

/// Arguments of `farm inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// REGISTRY/REPO[:TAG][@DIGEST]
    #[arg(value_name = "IMAGE")]
    image: String,

    /// Show this platform only, with all that is known of it
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,

    /// Show every platform with all that is known of it
    #[arg(long)]
    details: bool,

    /// Print one JSON object
    #[arg(long, conflicts_with_all = ["raw", "quiet", "format"])]
    json: bool,

    /// Print it by a template of the JSON's names, like '{{ digest }}'
    #[arg(long, value_name = "TEMPLATE", conflicts_with_all = ["raw", "quiet"])]
    format: Option<String>,

    /// Print the index, or with --platform that platform's manifest, byte for byte
    #[arg(long, conflicts_with = "quiet")]
    raw: bool,

    /// Print only the digest of the index, or with --platform of that platform's manifest
    #[arg(short, long)]
    quiet: bool,
}

const AFTER_HELP: &str = "\
Examples:
  farm inspect localhost:5002/app:latest
  farm inspect localhost:5002/app:latest --platform linux/arm64
  farm inspect registry.example/app@sha256:… --json

What is no image (a chart, a signature, a module, …) is called what it is.

It is the farm that asks the registry, with its own credentials: the image is looked for where the
farm is (localhost is the farm's machine), and this machine needs neither a login nor a way there.";

/// Shows an image.
///
/// # Errors
/// It isn't there, the registry doesn't answer, or it has not that platform.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    let image: ImageRef = args.image.parse()?;
    let platform = match &args.platform {
        Some(text) => Some(text.parse::<Platform>()?),
        None => None,
    };
    let client = Client::connect(&setup.address).await?;
    let image = inspect(&client, &image).await?;
    let chosen = match &platform {
        Some(platform) => Some(of_platform(&image, platform)?),
        None => None,
    };
    let variants: Vec<&Variant> = chosen.map_or_else(|| image.variants.iter().collect(), |one| vec![one]);
    let mut out = Out::stdout();
    if args.raw {
        let bytes = chosen.map_or(image.manifest.as_slice(), |variant| &variant.raw.manifest);
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            // A reader that went away had enough.
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                let why = format!("standard output can't be written ({})", io_in_short(&e));
                return Err(Error::Usage(why));
            }
            _ => {}
        }
    } else if args.quiet {
        out.line(chosen.map_or(image.digest.as_str(), |variant| &variant.raw.digest));
    } else if let Some(template) = &args.format {
        format::print(&mut out, template, [ImageJson::new(&image, &variants)])?;
    } else if args.json {
        out.line(&json::text(&ImageJson::new(&image, &variants)));
    } else if args.details || chosen.is_some() || !image.is_index() {
        out.lines(details(&image, &variants, now_ms()));
    } else {
        out.lines(overview(&image, now_ms()));
    }
    Ok(Exit::Done)
}

/// Asks the farm.
///
/// # Errors
/// There is no such image, or its registry doesn't answer.
pub(crate) async fn inspect(client: &Client, image: &ImageRef) -> Result<Image> {
    let request = InspectImageRequest { reference: image.to_string() };
    let answer = client.images().inspect_image(request).await.map_err(|e| client.error(&e))?;
    Ok(answer.into_inner().into())
}

/// The variant of this platform.
///
/// # Errors
/// There is none.
pub fn of_platform<'a>(image: &'a Image, platform: &Platform) -> Result<&'a Variant> {
    image.require_images()?;
    let cure = || format!("{} has {}", image.reference, image.platforms());
    image.variant(platform).ok_or_else(|| Invalid::new("--platform", platform.to_string(), cure()).into())
}
