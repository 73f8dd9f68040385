//! What a project may take of the farm and what its builds are by default, as the protocol has it.

use farm_proto::v1;
use farm_store::people::quotas::{Defaults, Quota, QuotaChange, Used};
use farm_types::{Invalid, Platform};

/// As many platforms may a project's builds have by default.
const MAX_PLATFORMS: usize = 32;

/// What is told of a project.
pub(super) fn told(
    quota: &Quota,
    used: Option<&Used>,
    defaults: &Defaults,
) -> v1::GetProjectSettingsResponse {
    v1::GetProjectSettingsResponse {
        quota: Some(v1::ProjectQuota {
            weight: quota.weight,
            max_running_slots: quota.max_running_slots.unwrap_or_default(),
            max_queued_builds: quota.max_queued_builds.unwrap_or_default(),
            builds_per_minute: quota.builds_per_minute.unwrap_or_default(),
            max_stored_bytes: quota.max_stored_bytes.unwrap_or_default(),
        }),
        used: used.map(|used| v1::ProjectUse {
            running_slots: used.running_slots,
            queued_builds: used.queued_builds,
            builds: used.builds,
            stored_bytes: used.stored_bytes,
        }),
        default_platforms: defaults.platforms.iter().map(ToString::to_string).collect(),
        default_emulation: defaults.emulation.map(|policy| policy.to_string()).unwrap_or_default(),
        default_verify: defaults.verify.as_ref().map(|verify| verify.as_str().to_owned()).unwrap_or_default(),
    }
}

/// A change of a quota, if it can be one.
pub(super) fn change(request: &v1::SetProjectQuotaRequest) -> Result<QuotaChange, Invalid> {
    let limit = |name: &'static str, said: Option<u32>| match said {
        Some(most) if i32::try_from(most).is_err() => {
            Err(Invalid::new(name, most.to_string(), format!("write a number up to {}", i32::MAX)))
        }
        said => Ok(said.map(|most| (most > 0).then_some(most))),
    };
    if let Some(weight) = request.weight.filter(|weight| !(1..=1000).contains(weight)) {
        return Err(Invalid::new("weight", weight.to_string(), "write a number from 1 to 1000"));
    }
    if let Some(bytes) = request.max_stored_bytes.filter(|bytes| i64::try_from(*bytes).is_err()) {
        return Err(Invalid::new(
            "stored bytes",
            bytes.to_string(),
            format!("write a number up to {}", i64::MAX),
        ));
    }
    Ok(QuotaChange {
        weight: request.weight,
        max_running_slots: limit("running slots", request.max_running_slots)?,
        max_queued_builds: limit("queued builds", request.max_queued_builds)?,
        // So many are looked at when one comes.
        builds_per_minute: match limit("builds per minute", request.builds_per_minute)? {
            Some(Some(most)) if most > 10_000 => {
                return Err(Invalid::new(
                    "builds per minute",
                    most.to_string(),
                    "write a number up to 10000, or none",
                ));
            }
            said => said,
        },
        max_stored_bytes: request.max_stored_bytes.map(|most| (most > 0).then_some(most)),
    })
}

/// Platforms that builds can have by default.
pub(super) fn platforms(names: &[String]) -> Result<Vec<Platform>, Invalid> {
    if names.len() > MAX_PLATFORMS {
        return Err(Invalid::new(
            "platforms",
            names.len().to_string(),
            format!("name at most {MAX_PLATFORMS}"),
        ));
    }
    let mut platforms = Vec::with_capacity(names.len());
    for name in names {
        let platform: Platform = name.parse()?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_stays_and_nothing_takes_a_limit_away() {
        let request = v1::SetProjectQuotaRequest {
            max_running_slots: Some(4),
            max_queued_builds: Some(0),
            ..Default::default()
        };
        let change = change(&request).unwrap();
        assert_eq!(change.max_running_slots, Some(Some(4)));
        assert_eq!(change.max_queued_builds, Some(None));
        assert_eq!((change.weight, change.builds_per_minute, change.max_stored_bytes), (None, None, None));
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused_by_name() {
        let weight = v1::SetProjectQuotaRequest { weight: Some(0), ..Default::default() };
        assert!(change(&weight).unwrap_err().to_string().contains("weight"));
        let slots = v1::SetProjectQuotaRequest { max_running_slots: Some(u32::MAX), ..Default::default() };
        assert!(change(&slots).unwrap_err().to_string().contains("running slots"));
        let often = v1::SetProjectQuotaRequest { builds_per_minute: Some(20_000), ..Default::default() };
        assert!(change(&often).unwrap_err().to_string().contains("10000"));
        let twice = ["linux/arm64", "linux/arm64/v8"].map(ToOwned::to_owned);
        assert_eq!(platforms(&twice).unwrap().len(), 1);
        assert!(platforms(&["linux/arm46".to_owned()]).is_err());
    }
}
