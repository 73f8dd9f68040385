//! What people and scripts see of a project's logins at registries.

use farm_proto::v1::RegistryLogin;
use serde::Serialize;

use super::text::{ago, columns, harmless, time};

/// A login, as `farm registry ls --json` prints it.
#[derive(Debug, Serialize)]
pub struct LoginJson<'a> {
    host: &'a str,
    user: &'a str,
    helper: Option<&'a str>,
    set: Option<String>,
    set_by: &'a str,
    last_used: Option<String>,
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
