//! `farm copy`, `farm promote` and `farm tag`: an image that is there already gets other tags.

use farm_proto::v1::{Build, BuildSpec, SubmitBuildRequest};
use farm_types::{CopySpec, CopyVerb, ImageRef, ImageTag, Invalid, Platform, SigningKeyName};

use super::expected::expected;
use super::of_flag;
use super::watch::{How, see_end};
use crate::calls;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Exit, Result};
use crate::interrupt::{Interrupts, Role};
use crate::output::Mode;
use crate::output::Out;
use crate::output::display::Display;
use crate::output::json::{self, BuildJson};
use crate::output::text::harmless;

/// How a copy is made; the flags of all verbs that make one.
#[derive(Debug, Clone, clap::Args)]
pub struct Ways {
    /// Return as soon as the farm has accepted it
    #[arg(long)]
    detach: bool,

    /// Move tags only while they point to what they point to now
    #[arg(long)]
    if_unchanged: bool,

    /// Sign it where it comes to by this key of the project (farm signing-key), as cosign does, before tags move
    #[arg(long, value_name = "KEY")]
    sign: Option<String>,

    /// Give up what isn't there after this [default: what the farm allows, 6h unless changed]
    #[arg(long, value_name = "DURATION", value_parser = timeout)]
    timeout: Option<u64>,

    #[command(flatten)]
    how: How,

    /// The same key makes the same copy once [default: a random one]
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,

    /// The farm makes the same copy by itself: it is there once, whoever comes first.
    #[arg(skip)]
    is_the_farms: bool,
}

/// What is taken of an image.
#[derive(Debug, clap::Args)]
pub struct Parts {
    /// Of an index these platforms only, separated by commas [default: all of it, byte for byte]
    #[arg(long, value_name = "OS/ARCH,…", value_delimiter = ',')]
    platform: Vec<String>,
}

impl Parts {
    /// The platforms, each once; none: all.
    ///
    /// # Errors
    /// One isn't any.
    pub(super) fn platforms(&self) -> std::result::Result<Vec<Platform>, Invalid> {
        if self.platform.is_empty() { Ok(Vec::new()) } else { Platform::parse_list(&self.platform.join(",")) }
    }
}

impl Ways {
    /// The same for another copy, which has a key of its own if this one has one.
    pub(super) fn of_another(&self, name: &str) -> Self {
        let idempotency_key = self.idempotency_key.as_ref().map(|key| format!("{key}-{name}"));
        Self { idempotency_key, ..self.clone() }
    }

    /// The same for a copy that the farm makes by itself, by this key.
    pub(super) fn of_the_farms(&self, key: String) -> Self {
        Self { idempotency_key: Some(key), is_the_farms: true, ..self.clone() }
    }

    /// Nobody waits for the end.
    pub(super) fn is_detached(&self) -> bool {
        self.detach
    }

    /// What comes of it is told as JSON.
    pub(super) fn is_json(&self) -> bool {
        self.how.json
    }

    pub(super) fn has_key(&self) -> bool {
        self.idempotency_key.is_some()
    }
}

/// Milliseconds.
fn timeout(text: &str) -> std::result::Result<u64, String> {
    let cure = "write a time like 90s, 10m or 2h";
    let duration =
        farm_types::spec::parse_duration(text).filter(|duration| !duration.is_zero()).ok_or(cure)?;
    u64::try_from(duration.as_millis()).map_err(|_| cure.to_owned())
}

/// Arguments of `farm copy`.
#[derive(Debug, clap::Args)]
#[command(after_help = COPY_HELP)]
pub struct CopyArgs {
    /// The image: [REGISTRY/]REPO[:TAG] or REPO@DIGEST
    #[arg(value_name = "SRC")]
    from: String,

    /// To where: [REGISTRY/]REPO[:TAG]; without a tag it gets that of SRC
    #[arg(value_name = "DST", required = true)]
    to: Vec<String>,

    #[command(flatten)]
    parts: Parts,

    #[command(flatten)]
    ways: Ways,
}

/// Arguments of `farm promote`.
#[derive(Debug, clap::Args)]
#[command(after_help = PROMOTE_HELP)]
pub struct PromoteArgs {
    /// The image: [REGISTRY/]REPO[:TAG] or REPO@DIGEST
    #[arg(value_name = "SRC")]
    from: String,

    /// To where: [REGISTRY/]REPO[:TAG]; without a tag it gets that of SRC
    #[arg(value_name = "DST", required = true)]
    to: Vec<String>,

    #[command(flatten)]
    parts: Parts,

    #[command(flatten)]
    ways: Ways,
}

/// Arguments of `farm tag`.
#[derive(Debug, clap::Args)]
#[command(after_help = TAG_HELP)]
pub struct TagArgs {
    /// The image: [REGISTRY/]REPO[:TAG] or REPO@DIGEST
    #[arg(value_name = "SRC")]
    from: String,

    /// Its new tags: names alone are tags in the repository of SRC
    #[arg(value_name = "TAG", required = true)]
    to: Vec<String>,

    #[command(flatten)]
    ways: Ways,
}

const COPY_HELP: &str = "\
Examples:
  farm copy docker.io/library/alpine:3.21 registry.example/base/alpine
  farm copy localhost:5002/app:1.4 registry.example/team/app:1.4 registry.example/team/app:latest
  farm copy docker.io/library/alpine:3.21 localhost:5002/alpine --platform linux/amd64,linux/arm64

All platforms and their attestations are copied, byte for byte: the digest stays. What is there
already is left alone, and within one registry nothing is moved over the network. It is a build
that builds nothing: farm builds lists it, farm cancel ends it before its first tag moves, farm
retry does it again, and it goes on when a coordinator dies. Tags move last, and never back: what
was asked for later wins.

Exit codes: those of farm submit";

const PROMOTE_HELP: &str = "\
Examples:
  farm promote localhost:5002/app:1.4 docker.io/acme/app:1.4 docker.io/acme/app:latest
  farm promote registry.example/team/app@sha256:DIGEST registry.example/prod/app:stable
  farm promote localhost:5002/app:1.4 registry.example/prod/app --sign release

The same as farm copy, by another name: the image of SRC, with all its platforms and attestations
and by the same digest, is where it is used. The project needs the right to push there, or a login
of its own: farm registry login HOST.

Exit codes: those of farm submit";

const TAG_HELP: &str = "\
Examples:
  farm tag registry.example/team/app:1.4 stable
  farm tag registry.example/team/app@sha256:DIGEST 1.4.1 1.4 registry.example/prod/app:1.4

What SRC is gets further tags. Nothing is copied within a repository. Tags move in the order in
which that was asked for, among builds, too.

Exit codes: those of farm submit";

/// Copies.
///
/// # Errors
/// What can't be read of the arguments, or the farm can't be asked or refuses.
pub(crate) async fn copy(args: CopyArgs, setup: &Setup) -> Result<Exit> {
    run(CopyVerb::Copy, (&args.from, args.parts.platforms()?), &args.to, args.ways, setup).await
}

/// Promotes.
///
/// # Errors
/// As of [`copy`].
pub(crate) async fn promote(args: PromoteArgs, setup: &Setup) -> Result<Exit> {
    run(CopyVerb::Promote, (&args.from, args.parts.platforms()?), &args.to, args.ways, setup).await
}

/// Tags.
///
/// # Errors
/// As of [`copy`].
pub(crate) async fn tag(args: TagArgs, setup: &Setup) -> Result<Exit> {
    run(CopyVerb::Tag, (&args.from, Vec::new()), &args.to, args.ways, setup).await
}

async fn run(
    verb: CopyVerb,
    (from, platforms): (&str, Vec<Platform>),
    to: &[String],
    ways: Ways,
    setup: &Setup,
) -> Result<Exit> {
    let from: ImageRef = from.parse()?;
    let tags = to.iter().map(|to| destination(verb, &from, to)).collect::<Result<Vec<_>, _>>()?;
    let client = Client::connect(&setup.address).await?;
    Ok(make(&client, CopySpec { from, verb, platforms }, &tags, &ways, setup).await?.0)
}

/// Has the farm make a copy, and follows it. How it ended, if it was seen to its end.
///
/// # Errors
/// As of [`copy`].
pub(super) async fn make(
    client: &Client,
    copy: CopySpec,
    tags: &[ImageTag],
    ways: &Ways,
    setup: &Setup,
) -> Result<(Exit, Option<Box<Build>>)> {
    let mode = ways.how.mode(&setup.defaults)?;
    let mut display = Display::new(mode, ways.how.json)?;
    let what = format!("{} of {}", copy.verb, copy.from);
    let sign: Option<SigningKeyName> = ways.sign.as_deref().map(|key| of_flag("--sign", key)).transpose()?;
    let expected = if ways.if_unchanged { Box::pin(expected(client, tags)).await? } else { Vec::new() };
    let spec = BuildSpec {
        tags: tags.iter().map(ToString::to_string).collect(),
        timeout_ms: ways.timeout.unwrap_or_default(),
        copy: Some((&copy).into()),
        expected: expected.iter().map(Into::into).collect(),
        sign: sign.as_ref().map(ToString::to_string).unwrap_or_default(),
        ..Default::default()
    };
    let request = SubmitBuildRequest {
        idempotency_key: ways.idempotency_key.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
        spec: Some(spec),
        values: Vec::new(),
    };
    let mut interrupts = (!ways.detach).then(|| Interrupts::listen(Role::Owner));
    let pressed_twice = async {
        match &mut interrupts {
            // The first press is heeded once the build is known.
            Some(interrupts) => interrupts.press(2).await,
            None => std::future::pending().await,
        }
    };
    let (build, replayed) = tokio::select! {
        accepted = Box::pin(calls::submit(client, request)) => accepted?,
        () = pressed_twice => return Err(calls::left()),
    };
    if sign.is_some() && build.spec.as_ref().is_some_and(|spec| spec.sign.is_empty()) {
        Box::pin(calls::cancel(client, &build.id)).await?;
        display.finish(None, Vec::new());
        return Err(Error::Farm(calls::UNSIGNED.to_owned()));
    }
    display.line(&format!("build {}  {}", harmless(&build.id), harmless(&what)));
    if replayed && !ways.is_the_farms {
        display.line("this is the copy that was made before with this idempotency key");
    }
    let Some(interrupts) = interrupts else {
        display.line(&format!("submitted   farm attach {}", build.id));
        display.finish(None, Vec::new());
        if ways.how.json {
            Out::stdout().line(&json::text(&BuildJson::new(&build, None, &[])));
        } else if mode == Mode::Quiet {
            Out::stdout().line(&build.id);
        }
        return Ok((Exit::Done, None));
    };
    Box::pin(see_end(client, &build.id, interrupts, display, ways.how.json)).await
}

/// A destination as it was written: without a tag it gets the source's; of `farm tag` a name alone is one in the source's repository.
pub(super) fn destination(
    verb: CopyVerb,
    from: &ImageRef,
    text: &str,
) -> std::result::Result<ImageTag, Invalid> {
    if verb == CopyVerb::Tag && !text.contains(['/', ':']) {
        return format!("{}:{text}", from.repository)
            .parse()
            .map_err(|error: Invalid| Invalid::new("tag", text, error.cure));
    }
    let last = text.rsplit_once('/').map_or(text, |(_, last)| last);
    if last.contains(':') || text.contains('@') {
        return text.parse();
    }
    match &from.tag {
        Some(tag) => format!("{text}:{tag}").parse(),
        None => {
            let cure = format!("{from} has no tag that it could get; write which one: {text}:TAG");
            Err(Invalid::new("tag", text, cure))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_without_a_tag_gets_that_of_the_source_and_a_name_alone_is_a_tag_of_it() {
        let digest = farm_types::Digest::of(b"x");
        let tagged: ImageRef = "r.example/team/app:1.4".parse().unwrap();
        let bare: ImageRef = format!("r.example/team/app@{digest}").parse().unwrap();
        let to = |verb, from: &ImageRef, text: &str| destination(verb, from, text).map(|tag| tag.to_string());
        assert_eq!(to(CopyVerb::Copy, &tagged, "q.example:5000/app").unwrap(), "q.example:5000/app:1.4");
        assert_eq!(to(CopyVerb::Copy, &tagged, "q.example/app:2").unwrap(), "q.example/app:2");
        assert_eq!(to(CopyVerb::Promote, &tagged, "app").unwrap(), "docker.io/library/app:1.4");
        assert_eq!(to(CopyVerb::Tag, &tagged, "stable").unwrap(), "r.example/team/app:stable");
        assert_eq!(to(CopyVerb::Tag, &bare, "prod/app:1").unwrap(), "docker.io/prod/app:1");
        let unsaid = to(CopyVerb::Promote, &bare, "q.example/app").unwrap_err().to_string();
        assert!(unsaid.contains("write which one: q.example/app:TAG"), "{unsaid}");
        let wrong = to(CopyVerb::Tag, &tagged, "a b").unwrap_err().to_string();
        assert!(wrong.contains("\"a b\""), "{wrong}");
        assert!(to(CopyVerb::Copy, &tagged, &format!("q.example/app@{digest}")).is_err());
    }
}
