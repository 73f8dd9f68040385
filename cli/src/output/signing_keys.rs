//! What people and scripts see of the keys by which a project signs. Never a private one.

use farm_proto::v1::SigningKey;
use serde::Serialize;

use super::secrets::rule_words;
use super::text::{ago, columns, harmless, short_digest, time};

/// A signing key, as `farm signing-key ls --json` prints it.
#[derive(Debug, Serialize)]
pub struct SigningKeyJson<'a> {
    name: &'a str,
    public_key: &'a str,
    fingerprint: &'a str,
    set: Option<String>,
    set_by: &'a str,
    last_used: Option<String>,
    last_used_by: Option<&'a str>,
    last_used_build: Option<&'a str>,
    role: &'a str,
    refs: &'a [String],
    events: &'a [String],
    missing_key: Option<&'a str>,
}

impl<'a> From<&'a SigningKey> for SigningKeyJson<'a> {
    fn from(key: &'a SigningKey) -> Self {
        let known = |text: &'a str| (!text.is_empty()).then_some(text);
        Self {
            name: &key.name,
            public_key: &key.public_key,
            fingerprint: &key.fingerprint,
            set: time(key.set_ms),
            set_by: &key.set_by,
            last_used: time(key.last_used_ms),
            last_used_by: known(&key.last_used_by),
            last_used_build: known(&key.last_used_build),
            role: &key.role,
            refs: &key.refs,
            events: &key.events,
            missing_key: known(&key.missing_key),
        }
    }
}

/// Who may have things signed by a key.
pub fn rule(key: &SigningKey) -> String {
    rule_words(&key.role, &key.refs, &key.events)
}

/// A table of a project's keys.
pub fn signing_keys(keys: &[SigningKey], now: i64) -> Vec<String> {
    let head = ["NAME", "PUBLIC KEY", "SET", "BY", "LAST USED", "RULE"];
    let rows = keys.iter().map(|key| {
        let public = match key.missing_key.as_str() {
            "" => short_digest(&key.fingerprint),
            missing => format!(
                "{}, sealed by key {}, which isn't here",
                short_digest(&key.fingerprint),
                harmless(missing)
            ),
        };
        let used = match key.last_used_ms {
            0 => "never".to_owned(),
            at => format!("{}, {}", ago(at, now), harmless(&key.last_used_build)),
        };
        vec![harmless(&key.name), public, ago(key.set_ms, now), harmless(&key.set_by), used, rule(key)]
    });
    columns(&[head.map(ToOwned::to_owned).to_vec()].into_iter().chain(rows).collect::<Vec<_>>())
}
