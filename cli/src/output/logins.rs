//! What people and scripts see of a project's logins at registries.

use farm_proto::v1::{FarmLimit, ReadLimit, RegistryLogin};
use serde::Serialize;

use super::text::{ago, columns, harmless, span, time};

/// A login, as `farm registry ls --json` prints it.
#[derive(Debug, Serialize)]
pub struct LoginJson<'a> {
    host: &'a str,
    user: &'a str,
    helper: Option<&'a str>,
    set: Option<String>,
    set_by: &'a str,
    last_used: Option<String>,
    limit: Option<LimitJson>,
}

/// How much a registry lets be read.
#[derive(Debug, Serialize)]
pub struct LimitJson {
    remaining: u64,
    of: u64,
    window_seconds: Option<u64>,
    seen: Option<String>,
}

impl From<&ReadLimit> for LimitJson {
    fn from(limit: &ReadLimit) -> Self {
        Self {
            remaining: limit.remaining,
            of: limit.of,
            window_seconds: Some(limit.window_seconds).filter(|seconds| *seconds > 0),
            seen: time(limit.seen_ms),
        }
    }
}

/// The same, of a registry that the farm asks itself.
#[derive(Debug, Serialize)]
pub struct FarmLimitJson<'a> {
    host: &'a str,
    has_login: bool,
    limit: Option<LimitJson>,
}

impl<'a> From<&'a FarmLimit> for FarmLimitJson<'a> {
    fn from(said: &'a FarmLimit) -> Self {
        Self { host: &said.host, has_login: said.has_login, limit: said.limit.as_ref().map(LimitJson::from) }
    }
}

impl<'a> From<&'a RegistryLogin> for LoginJson<'a> {
    fn from(login: &'a RegistryLogin) -> Self {
        Self {
            host: &login.host,
            user: &login.username,
            helper: Some(login.helper.as_str()).filter(|name| !name.is_empty()),
            set: time(login.created_ms),
            set_by: &login.created_by,
            last_used: time(login.last_used_ms),
            limit: login.limit.as_ref().map(LimitJson::from),
        }
    }
}

/// A table of a project's logins.
pub fn logins(logins: &[RegistryLogin], now: i64) -> Vec<String> {
    let head = ["HOST", "USER", "SET", "BY", "LAST USED"];
    let rows = logins.iter().map(|login| {
        vec![
            harmless(&login.host),
            if login.helper.is_empty() {
                harmless(&login.username)
            } else {
                format!("by helper {}", harmless(&login.helper))
            },
            ago(login.created_ms, now),
            harmless(&login.created_by),
            if login.last_used_ms > 0 { ago(login.last_used_ms, now) } else { "never".to_owned() },
        ]
    });
    columns(&[head.map(ToOwned::to_owned).to_vec()].into_iter().chain(rows).collect::<Vec<_>>())
}

/// What registries have said of how much may be read there: to the project's logins, and to the farm.
pub fn limits(logins: &[RegistryLogin], farm: &[FarmLimit], now: i64) -> Vec<String> {
    let own = logins.iter().map(|login| {
        let who = match login.helper.as_str() {
            "" => format!("as {}", login.username),
            helper => format!("by helper {helper}"),
        };
        (&login.host, who, login.limit.as_ref())
    });
    let farm = farm.iter().map(|said| {
        let who = if said.has_login { "by the farm's login" } else { "by the farm, without a login" };
        (&said.host, who.to_owned(), said.limit.as_ref())
    });
    let line = |(host, who, limit): (&String, String, Option<&ReadLimit>)| {
        let limit = limit?;
        let within = match limit.window_seconds {
            0 => String::new(),
            seconds => {
                format!(" in {}", span(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000)))
            }
        };
        let left = format!("{} of {}{within} are left to read", limit.remaining, limit.of);
        Some(format!("{} {}: {left}, {}", harmless(host), harmless(&who), ago(limit.seen_ms, now)))
    };
    own.chain(farm).filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_told_with_by_whom_and_since_when() {
        let limit = |remaining, window_seconds| {
            Some(ReadLimit { remaining, of: 100, window_seconds, seen_ms: 60_000 })
        };
        let login = |host: &str, limit| RegistryLogin {
            host: host.to_owned(),
            username: "ci".to_owned(),
            limit,
            ..Default::default()
        };
        let logins = [login("docker.io", limit(93, 21_600)), login("r.example", None)];
        let farm = [FarmLimit { host: "docker.io".to_owned(), has_login: false, limit: limit(7, 0) }];
        assert_eq!(
            limits(&logins, &farm, 240_000),
            [
                "docker.io as ci: 93 of 100 in 6 h are left to read, 3 min ago",
                "docker.io by the farm, without a login: 7 of 100 are left to read, 3 min ago"
            ]
        );
    }
}
