//! What `farm submit` takes from the environment, as buildx does. `docs/reference/buildx-flags.md` lists all variables that
//! buildx knows; a new one is read here.

use std::collections::BTreeMap;

use farm_types::{Invalid, Platform};

/// Seconds since 1970 of the image's times (reproducible-builds.org), as a build argument.
pub(super) const EPOCH: &str = "SOURCE_DATE_EPOCH";
/// The platforms when none are named.
pub(super) const PLATFORM: &str = "DOCKER_DEFAULT_PLATFORM";
/// What a year of four digits can hold, which is all that an image's times can be.
const EPOCHS: std::ops::RangeInclusive<i64> = -62_167_219_200..=253_402_300_799;

/// Gives a variable's value.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Result<Option<String>, Invalid>;

/// Sets the build argument SOURCE_DATE_EPOCH from the environment, unless it was given. An empty value is as good as none.
///
/// # Errors
/// It is no number, which the engine would find out later.
pub(super) fn source_date_epoch(
    build_args: &mut BTreeMap<String, String>,
    environment: Lookup<'_>,
) -> Result<(), Invalid> {
    let (thing, value) = match build_args.get(EPOCH) {
        Some(value) => ("--build-arg SOURCE_DATE_EPOCH", value.clone()),
        None => (EPOCH, environment(EPOCH)?.unwrap_or_default()),
    };
    if value.is_empty() {
        return Ok(());
    }
    if !value.parse().is_ok_and(|seconds: i64| EPOCHS.contains(&seconds)) {
        let cure =
            "write seconds since 1970, like 1000000000 or the output of git log -1 --format=%ct, or unset it";
        return Err(Invalid::new(thing, value, cure));
    }
    build_args.entry(EPOCH.to_owned()).or_insert(value);
    Ok(())
}

/// The platforms that lists name; `local` is this machine's, as with buildx.
///
/// # Errors
/// One of them is none.
pub(super) fn platforms<'a>(lists: impl IntoIterator<Item = &'a String>) -> Result<Vec<Platform>, Invalid> {
    let mut platforms = Vec::new();
    for list in lists {
        let here = |part: &str| match part.trim() {
            part if part.eq_ignore_ascii_case("local") => format!("linux/{}", std::env::consts::ARCH),
            part => part.to_owned(),
        };
        let list: Vec<String> = list.split(',').map(here).collect();
        for platform in Platform::parse_list(&list.join(","))? {
            if !platforms.contains(&platform) {
                platforms.push(platform);
            }
        }
    }
    Ok(platforms)
}
