//! What people and scripts see of a project's logins for git.

use farm_proto::v1::GitLogin;
use serde::Serialize;

use super::text::{ago, columns, harmless, time};

/// A login, as `farm git ls --json` prints it.
#[derive(Debug, Serialize)]
pub struct GitLoginJson<'a> {
    place: &'a str,
    kind: &'a str,
    user: Option<&'a str>,
    set: Option<String>,
    set_by: &'a str,
    last_used: Option<String>,
}

impl<'a> From<&'a GitLogin> for GitLoginJson<'a> {
    fn from(login: &'a GitLogin) -> Self {
        Self {
            place: &login.place,
            kind: &login.kind,
            user: Some(login.username.as_str()).filter(|name| !name.is_empty()),
            set: time(login.created_ms),
            set_by: &login.created_by,
            last_used: time(login.last_used_ms),
        }
    }
}

/// A table of a project's logins.
pub fn git_logins(logins: &[GitLogin], now: i64) -> Vec<String> {
    let head = ["REPOSITORIES", "LOGIN", "SET", "BY", "LAST USED"];
    let rows = logins.iter().map(|login| {
        vec![
            harmless(&login.place),
            match login.username.as_str() {
                "" => format!("{} (ssh)", harmless(&login.kind)),
                user => format!("{} of {} (https)", harmless(&login.kind), harmless(user)),
            },
            ago(login.created_ms, now),
            harmless(&login.created_by),
            if login.last_used_ms > 0 { ago(login.last_used_ms, now) } else { "never".to_owned() },
        ]
    });
    columns(&[head.map(ToOwned::to_owned).to_vec()].into_iter().chain(rows).collect::<Vec<_>>())
}
