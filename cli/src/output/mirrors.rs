//! What people and scripts see of mirrors that the farm repeats.

use farm_proto::v1::Mirror;
use serde::Serialize;

use super::text::{ago, ahead, columns, harmless, span, time};

/// A mirror, as `farm mirror ls --json` prints it.
#[derive(Debug, Serialize)]
pub struct MirrorJson<'a> {
    id: &'a str,
    source: &'a str,
    destination: &'a str,
    platforms: &'a [String],
    per_arch_tags: bool,
    every_seconds: i64,
    created: Option<String>,
    created_by: &'a str,
    running: bool,
    next: Option<String>,
    last_begun: Option<String>,
    last_build: Option<&'a str>,
    last_ended: Option<String>,
    digest: Option<&'a str>,
    trouble: Option<&'a str>,
    failures: u32,
}

fn said(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

impl<'a> From<&'a Mirror> for MirrorJson<'a> {
    fn from(mirror: &'a Mirror) -> Self {
        Self {
            id: &mirror.id,
            source: &mirror.source,
            destination: &mirror.destination,
            platforms: &mirror.platforms,
            per_arch_tags: mirror.per_arch_tags,
            every_seconds: mirror.every_seconds,
            created: time(mirror.created_ms),
            created_by: &mirror.created_by,
            running: mirror.next_ms == 0,
            next: time(mirror.next_ms),
            last_begun: time(mirror.began_ms),
            last_build: said(&mirror.build_id),
            last_ended: time(mirror.ended_ms),
            digest: said(&mirror.digest),
            trouble: said(&mirror.trouble),
            failures: mirror.failures,
        }
    }
}

/// How the last run that has ended went.
fn last(mirror: &Mirror, now: i64) -> String {
    match (mirror.ended_ms, mirror.trouble.as_str()) {
        (0, _) => "not yet".to_owned(),
        (at, "") => format!("mirrored {}", ago(at, now)),
        (at, _) if mirror.failures > 1 => format!("failed {}, {} in a row", ago(at, now), mirror.failures),
        (at, _) => format!("failed {}", ago(at, now)),
    }
}

/// A table of a project's mirrors; beneath it why those failed that did.
pub fn mirrors(mirrors: &[Mirror], now: i64) -> Vec<String> {
    let head = ["DESTINATION", "FROM", "EVERY", "BY", "LAST", "BUILD", "NEXT"];
    let rows = mirrors.iter().map(|mirror| {
        vec![
            harmless(&mirror.destination),
            harmless(&mirror.source),
            span(mirror.every_seconds.saturating_mul(1000)),
            harmless(&mirror.created_by),
            last(mirror, now),
            said(&mirror.build_id).map_or_else(|| "-".to_owned(), harmless),
            if mirror.next_ms == 0 { "goes on".to_owned() } else { ahead(mirror.next_ms, now) },
        ]
    });
    let mut lines =
        columns(&[head.map(ToOwned::to_owned).to_vec()].into_iter().chain(rows).collect::<Vec<_>>());
    for mirror in mirrors.iter().filter(|mirror| !mirror.trouble.is_empty()) {
        lines.push(format!("{}: {}", harmless(&mirror.destination), harmless(&mirror.trouble)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_says_why_and_what_goes_on_is_due_at_no_time() {
        let fine = Mirror {
            destination: "r.example/a:1".to_owned(),
            source: "docker.io/library/a:1".to_owned(),
            every_seconds: 24 * 3600,
            created_by: "ada".to_owned(),
            build_id: "k3m9qz".to_owned(),
            ended_ms: 60_000,
            next_ms: 7_200_000,
            digest: "sha256:0".to_owned(),
            ..Default::default()
        };
        let failed = Mirror {
            destination: "r.example/b:1".to_owned(),
            trouble: "ada is in project web no more\x1b[1m".to_owned(),
            failures: 3,
            next_ms: 0,
            ..fine.clone()
        };
        let new = Mirror { ended_ms: 0, build_id: String::new(), ..fine.clone() };
        let lines = mirrors(&[fine, failed, new], 3_660_000);
        assert!(lines[1].contains("1 d") && lines[1].contains("mirrored 1 h ago"), "{lines:#?}");
        assert!(lines[1].contains("k3m9qz") && lines[1].contains("in 59 min"), "{lines:#?}");
        assert!(
            lines[2].contains("failed 1 h ago, 3 in a row") && lines[2].contains("goes on"),
            "{lines:#?}"
        );
        assert!(lines[3].contains("not yet"), "{lines:#?}");
        assert_eq!(lines.len(), 5);
        assert!(lines[4].starts_with("r.example/b:1: ada is in project web no more"), "{lines:#?}");
        assert!(!lines[4].contains('\x1b'));
    }
}
