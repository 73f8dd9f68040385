//! `farm project set`: what a project may take of the farm, and what its builds are where they don't say it themselves.

use farm_proto::v1::{
    AllowEntitlementsRequest, GetProjectSettingsRequest, GetProjectSettingsResponse, PlatformNames,
    ProjectQuota, ProjectUse, SetProjectDefaultsRequest, SetProjectQuotaRequest,
};
use farm_types::run_options::parse_bytes;
use farm_types::spec::Verify;
use farm_types::{Emulation, Entitlement, Entitlements, Invalid, Platform, ProjectName};
use serde::Serialize;
use tonic::{Code, Status};

use crate::calls::through;
use crate::config::{Address, Setup};
use crate::connect::Client;
use crate::error::{Error, Result};
use crate::output::Out;
use crate::output::text::{bytes, harmless};
use crate::verbs::of_flag;
use crate::verbs::project::access;

/// Arguments of `farm project set`.
#[derive(Debug, clap::Args)]
pub struct Settings {
    /// The project
    #[arg(value_name = "NAME")]
    name: String,

    /// Its share of the slots beside other projects', 1 to 1000; each has 1 at first. For admins of the farm, as the limits are
    #[arg(long, value_name = "N")]
    weight: Option<u32>,

    /// Slots that its jobs hold at once, or none for as many as there are
    #[arg(long, value_name = "N|none")]
    max_running_slots: Option<String>,

    /// Builds that wait at once, or none
    #[arg(long, value_name = "N|none")]
    max_queued_builds: Option<String>,

    /// Builds that are accepted within a minute, or none
    #[arg(long, value_name = "N|none")]
    builds_per_minute: Option<String>,

    /// Bytes of its sources, outputs and secrets, as in 20gb, or none
    #[arg(long, value_name = "SIZE|none")]
    max_stored_bytes: Option<String>,

    /// What its builds may ask for by --allow: network.host, security.insecure, or both with a comma; none for nothing.
    /// For admins of the farm
    #[arg(long, value_name = "LIST|none")]
    allow: Option<String>,

    /// Platforms of builds that name none, separated by commas, or none for those that the farm has native workers for.
    /// For admins of the project
    #[arg(long, value_name = "LIST|none")]
    default_platforms: Option<String>,

    /// When its builds may be emulated that don't say it: never, fallback, fallback=DURATION or allow, or none for what the
    /// farm has (fallback). For admins of the project
    #[arg(long, value_name = "POLICY|none")]
    emulation: Option<String>,

    /// Whether it is looked at whether programs are of their platform's machine, of builds that don't say it: elf or off, or none for
    /// what the farm has (elf). For admins of the project
    #[arg(long, value_name = "elf|off|none")]
    verify: Option<String>,
}

pub const SET_HELP: &str = "\
Examples:
  farm project set web --weight 2 --max-running-slots 8 --max-queued-builds 100
  farm project set web --builds-per-minute 60 --max-stored-bytes 20gb
  farm project set web --max-running-slots none
  farm project set web --allow network.host
  farm project set web --default-platforms linux/amd64,linux/arm64 --emulation never
  farm project set web --verify off

`farm project show` has them beside what is used now. A build that is over a limit of builds or bytes
is refused when it is submitted; one whose project holds all its slots waits.";

/// What a project may take, takes and has by default, as `farm project show --json` prints it.
#[derive(Debug, Serialize)]
pub struct SettingsJson {
    weight: u32,
    limits: LimitsJson,
    used: UsedJson,
    default_platforms: Vec<String>,
    default_emulation: Option<String>,
    default_verify: Option<String>,
}

#[derive(Debug, Serialize)]
struct LimitsJson {
    running_slots: Option<u32>,
    queued_builds: Option<u32>,
    builds_per_minute: Option<u32>,
    stored_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct UsedJson {
    running_slots: u64,
    queued_builds: u64,
    builds_last_minute: u64,
    stored_bytes: u64,
}

impl From<GetProjectSettingsResponse> for SettingsJson {
    fn from(found: GetProjectSettingsResponse) -> Self {
        let GetProjectSettingsResponse { quota, used, default_platforms, default_emulation, default_verify } =
            found;
        let ProjectQuota {
            weight,
            max_running_slots,
            max_queued_builds,
            builds_per_minute,
            max_stored_bytes,
        } = quota.unwrap_or_default();
        let ProjectUse { running_slots, queued_builds, builds, stored_bytes } = used.unwrap_or_default();
        let limit = |most: u32| (most > 0).then_some(most);
        Self {
            weight,
            limits: LimitsJson {
                running_slots: limit(max_running_slots),
                queued_builds: limit(max_queued_builds),
                builds_per_minute: limit(builds_per_minute),
                stored_bytes: (max_stored_bytes > 0).then_some(max_stored_bytes),
            },
            used: UsedJson { running_slots, queued_builds, builds_last_minute: builds, stored_bytes },
            default_platforms,
            default_emulation: (!default_emulation.is_empty()).then_some(default_emulation),
            default_verify: (!default_verify.is_empty()).then_some(default_verify),
        }
    }
}

impl SettingsJson {
    /// A line for what is taken of each kind, and one for what builds are by default.
    pub fn lines(&self) -> Vec<String> {
        let of = |most: Option<String>| most.map(|most| format!(" of {most}")).unwrap_or_default();
        let Self { limits, used, .. } = self;
        let mut lines = vec![
            format!(
                "slots      {}{} in use, with weight {}",
                used.running_slots,
                of(limits.running_slots.map(|most| most.to_string())),
                self.weight
            ),
            format!(
                "builds     {}{} waiting, {}{} within the last minute",
                used.queued_builds,
                of(limits.queued_builds.map(|most| most.to_string())),
                used.builds_last_minute,
                of(limits.builds_per_minute.map(|most| most.to_string()))
            ),
            format!("stored     {}{}", bytes(used.stored_bytes), of(limits.stored_bytes.map(bytes))),
        ];
        let platforms: Vec<String> = self.default_platforms.iter().map(|name| harmless(name)).collect();
        let emulation =
            self.default_emulation.as_ref().map(|policy| format!("emulation {}", harmless(policy)));
        let verify = self.default_verify.as_ref().map(|word| format!("verify {}", harmless(word)));
        let platforms = (!platforms.is_empty()).then(|| format!("for {}", platforms.join(", ")));
        let defaults: Vec<String> = platforms.into_iter().chain(emulation).chain(verify).collect();
        if !defaults.is_empty() {
            lines.push(format!("by default {}", defaults.join(", ")));
        }
        lines
    }
}

/// What the project of the client's calls may take, takes and has by default; `None`: the farm is from before projects had that.
///
/// # Errors
/// The farm refuses, or can't be asked.
pub(crate) async fn of(client: &Client) -> Result<Option<SettingsJson>> {
    let request = GetProjectSettingsRequest { used: true };
    let asked = through(async || client.projects().get_project_settings(request).await);
    known(asked.await).map_err(|status| client.error(&status))
}

fn known(answer: Result<GetProjectSettingsResponse, Status>) -> Result<Option<SettingsJson>, Status> {
    match answer {
        Ok(found) => Ok(Some(found.into())),
        Err(status) if status.code() == Code::Unimplemented => Ok(None),
        Err(status) => Err(status),
    }
}

/// A limit; 0 takes it away.
fn limit(flag: &'static str, text: &str) -> Result<u32> {
    if text == "none" {
        return Ok(0);
    }
    let cure = "write a number from 1 on, or none to take the limit away";
    let number = text.parse().ok().filter(|number| *number > 0);
    Ok(number.ok_or_else(|| Invalid::new(flag, text, cure))?)
}

fn size(text: &str) -> Result<u64> {
    if text == "none" {
        return Ok(0);
    }
    let cure = "write a size like 500mb or 20gb, or none to take the limit away";
    let bytes = parse_bytes(text).ok().filter(|bytes| *bytes > 0);
    Ok(bytes.ok_or_else(|| Invalid::new("--max-stored-bytes", text, cure))?)
}

/// Says what a project may take, and what its builds are by default.
///
/// # Errors
/// A value can't be taken, the farm refuses, or it can't be asked.
pub(crate) async fn set(args: Settings, setup: &Setup, out: &mut Out) -> Result<()> {
    let name: ProjectName = args.name.parse()?;
    let read = |flag, text: &Option<String>| text.as_deref().map(|text| limit(flag, text)).transpose();
    let quota = SetProjectQuotaRequest {
        project: name.to_string(),
        weight: args.weight,
        max_running_slots: read("--max-running-slots", &args.max_running_slots)?,
        max_queued_builds: read("--max-queued-builds", &args.max_queued_builds)?,
        builds_per_minute: read("--builds-per-minute", &args.builds_per_minute)?,
        max_stored_bytes: args.max_stored_bytes.as_deref().map(size).transpose()?,
    };
    let platforms = match args.default_platforms.as_deref() {
        None => None,
        Some("none") => Some(PlatformNames::default()),
        Some(list) => {
            let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
            let names: Vec<Platform> =
                names.map(|name| of_flag("--default-platforms", name)).collect::<Result<_, _>>()?;
            Some(PlatformNames { names: names.iter().map(ToString::to_string).collect() })
        }
    };
    let emulation = match args.emulation.as_deref() {
        None => None,
        Some("none") => Some(String::new()),
        Some(text) => Some(of_flag::<Emulation>("--emulation", text)?.to_string()),
    };
    let verify = match args.verify.as_deref() {
        None => None,
        Some("none") => Some(String::new()),
        Some(word) => {
            let verify = Verify::new(word, Vec::new());
            Some(verify.map_err(|e| Invalid { thing: "--verify".to_owned(), ..e })?.as_str().to_owned())
        }
    };
    let defaults = SetProjectDefaultsRequest { platforms, emulation, verify };
    let entitlements = match args.allow.as_deref() {
        None => None,
        Some("none") => Some(Entitlements::new()),
        Some(list) => {
            let read = Entitlement::list(list);
            Some(read.map_err(|e| Invalid { thing: "--allow".to_owned(), ..e })?)
        }
    };
    let is_quota = quota != SetProjectQuotaRequest { project: name.to_string(), ..Default::default() };
    let is_default = defaults != SetProjectDefaultsRequest::default();
    if !is_quota && !is_default && entitlements.is_none() {
        return Err(Error::Usage(
            "say what to set: --weight, --max-running-slots, --max-queued-builds, --builds-per-minute, --max-stored-bytes, \
             --allow, --default-platforms, --emulation or --verify"
                .to_owned(),
        ));
    }
    // Defaults are said in the project of the call.
    let address = Address { project: Some((name.clone(), "NAME")), ..setup.address.clone() };
    let client = Client::connect(&address).await?;
    if is_quota {
        client.projects().set_project_quota(quota).await.map_err(|e| client.error(&e))?;
    }
    if let Some(entitlements) = &entitlements {
        let names = entitlements.iter().map(ToString::to_string).collect();
        let request = AllowEntitlementsRequest { project: name.to_string(), entitlements: names };
        client.projects().allow_entitlements(request).await.map_err(|e| client.error(&e))?;
    }
    if is_default {
        client.projects().set_project_defaults(defaults).await.map_err(|e| client.error(&e))?;
    }
    let settings = of(&client).await?;
    out.line(&format!("project {name}"));
    out.lines(settings.iter().flat_map(SettingsJson::lines));
    if entitlements.is_some() {
        out.line(&access::of(&client).await?.allowed());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stands_beside_what_may_be() {
        let found = GetProjectSettingsResponse {
            quota: Some(ProjectQuota {
                weight: 2,
                max_running_slots: 8,
                max_stored_bytes: 20 << 30,
                ..Default::default()
            }),
            used: Some(ProjectUse { running_slots: 3, queued_builds: 5, builds: 1, stored_bytes: 1 << 30 }),
            default_platforms: vec!["linux/amd64".into(), "linux/arm64".into()],
            default_emulation: "never".into(),
            default_verify: "off".into(),
        };
        assert_eq!(
            SettingsJson::from(found).lines(),
            [
                "slots      3 of 8 in use, with weight 2",
                "builds     5 waiting, 1 within the last minute",
                &format!("stored     {} of {}", bytes(1 << 30), bytes(20 << 30)),
                "by default for linux/amd64, linux/arm64, emulation never, verify off",
            ]
        );
        let plain = GetProjectSettingsResponse {
            quota: Some(ProjectQuota { weight: 1, ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(SettingsJson::from(plain).lines().len(), 3);
    }

    #[test]
    fn a_farm_from_before_has_no_settings_and_any_other_error_is_one() {
        assert!(matches!(known(Err(Status::unimplemented("x"))), Ok(None)));
        assert!(known(Err(Status::permission_denied("x"))).is_err());
        assert!(matches!(known(Ok(GetProjectSettingsResponse::default())), Ok(Some(_))));
    }

    #[test]
    fn none_takes_a_limit_away_and_nothing_else_does() {
        assert_eq!((limit("--x", "none").unwrap(), limit("--x", "7").unwrap()), (0, 7));
        assert_eq!((size("none").unwrap(), size("1kb").unwrap()), (0, 1024));
        for odd in ["0", "-1", "many", ""] {
            assert!(limit("--x", odd).unwrap_err().to_string().contains("none"), "{odd}");
        }
        assert!(size("0").is_err() && size("big").is_err());
    }
}
