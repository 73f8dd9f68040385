//! What people and scripts see of whom a project tells how its builds end.

use farm_proto::v1::ProjectNotice as Notice;
use serde::Serialize;

use super::text::{ago, columns, harmless, time};

/// A notice, as `farm notice ls --json` prints it.
#[derive(Debug, Serialize)]
pub struct NoticeJson<'a> {
    id: &'a str,
    name: &'a str,
    kind: &'a str,
    host: Option<&'a str>,
    addresses: &'a [String],
    on: &'a [String],
    hooks: &'a [String],
    refs: &'a [String],
    created: Option<String>,
    created_by: &'a str,
    last_told: Option<String>,
    sent: u64,
    waiting: u64,
    given_up: u64,
    trouble: Option<&'a str>,
    next_try: Option<String>,
    held_until: Option<String>,
    old_secret_until: Option<String>,
}

fn said(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

impl<'a> From<&'a Notice> for NoticeJson<'a> {
    fn from(notice: &'a Notice) -> Self {
        Self {
            id: &notice.id,
            name: &notice.name,
            kind: &notice.kind,
            host: said(&notice.host),
            addresses: &notice.addresses,
            on: &notice.events,
            hooks: &notice.hooks,
            refs: &notice.refs,
            created: time(notice.created_ms),
            created_by: &notice.created_by,
            last_told: time(notice.told_ms),
            sent: notice.sent,
            waiting: notice.waiting,
            given_up: notice.given_up,
            trouble: said(&notice.trouble),
            next_try: time(notice.next_ms),
            held_until: time(notice.held_until_ms),
            old_secret_until: time(notice.before_ends_ms),
        }
    }
}

/// Where a notice goes, as far as anybody is shown.
fn to(notice: &Notice) -> String {
    match notice.kind.as_str() {
        "mail" => harmless(&notice.addresses.join(", ")),
        _ => format!("{}/…", harmless(&notice.host)),
    }
}

/// What a notice tells, and where.
pub fn told(notice: &Notice) -> String {
    format!("{} by {} to {}", harmless(&notice.events.join(", ")), harmless(&notice.kind), to(notice))
}

/// How it goes, in a word or two.
fn state(notice: &Notice) -> String {
    match (notice.trouble.as_str(), notice.waiting) {
        ("", 0) => "fine".to_owned(),
        ("", waiting) => format!("{waiting} wait"),
        (_, waiting) => format!("trouble, {waiting} wait"),
    }
}

/// A table of a project's notices.
pub fn notices(notices: &[Notice], now: i64) -> Vec<String> {
    let head = ["NOTICE", "BY", "TO", "ON", "ADDED", "IS"];
    let rows = notices.iter().map(|notice| {
        vec![
            harmless(&notice.name),
            harmless(&notice.kind),
            to(notice),
            harmless(&notice.events.join(",")),
            ago(notice.created_ms, now),
            state(notice),
        ]
    });
    columns(&[head.map(ToOwned::to_owned).to_vec()].into_iter().chain(rows).collect::<Vec<_>>())
}

/// One notice.
pub fn notice(notice: &Notice, now: i64) -> Vec<String> {
    let of = match (&notice.hooks[..], &notice.refs[..]) {
        ([], []) => "all builds of the project".to_owned(),
        (hooks, refs) => {
            let hooks = (!hooks.is_empty()).then(|| format!("webhooks {}", hooks.join(", ")));
            let refs = (!refs.is_empty()).then(|| format!("refs {}", refs.join(", ")));
            format!(
                "builds of {}",
                harmless(&[hooks, refs].into_iter().flatten().collect::<Vec<_>>().join(" and "))
            )
        }
    };
    let last = match (notice.told_ms, notice.trouble.as_str()) {
        (0, "") => "nothing was sent yet".to_owned(),
        (told, "") => format!("the last one was taken {}", ago(told, now)),
        (_, why) => format!("the last one wasn't taken {}: {}", ago(notice.trouble_ms, now), harmless(why)),
    };
    let mut rows = vec![
        ("notice", format!("{}, by {}", harmless(&notice.name), harmless(&notice.kind))),
        ("to", to(notice)),
        ("tells", harmless(&notice.events.join(", "))),
        ("of", of),
        ("sent", format!("{}; {last}", notice.sent)),
        ("waiting", notice.waiting.to_string()),
        ("given up", notice.given_up.to_string()),
        ("added", format!("{} by {}", ago(notice.created_ms, now), harmless(&notice.created_by))),
    ];
    let until = |at: i64| time(at).unwrap_or_default();
    if notice.next_ms > 0 {
        rows.push((
            "next try",
            format!("{}; a `farm notice test` that is taken has it go on now", until(notice.next_ms)),
        ));
    }
    if notice.held_until_ms > 0 {
        let at = until(notice.held_until_ms);
        rows.push((
            "this hour",
            format!("too much to tell one by one: most of what else ends comes as one summary, {at}"),
        ));
    }
    if notice.before_ends_ms > 0 {
        rows.push((
            "secret",
            format!("signed by two, by the older one until {}", until(notice.before_ends_ms)),
        ));
    }
    columns(&rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_shows_what_it_tells_and_whether_that_is_taken() {
        let mut made = Notice {
            name: "chat".into(),
            kind: "slack".into(),
            host: "hooks.slack.com".into(),
            events: vec!["failure".into(), "recovered".into()],
            created_ms: 1,
            created_by: "ada".into(),
            ..Default::default()
        };
        assert_eq!(told(&made), "failure, recovered by slack to hooks.slack.com/…");
        let shown = notice(&made, 60_001).join("\n");
        assert!(shown.contains("nothing was sent yet") && shown.contains("all builds"), "{shown}");
        made.trouble = "it answers 503\u{1b}[2J".into();
        (made.trouble_ms, made.told_ms, made.waiting, made.given_up) = (1, 1, 3, 2);
        made.hooks = vec!["app".into()];
        made.refs = vec!["refs/heads/main".into()];
        (made.held_until_ms, made.before_ends_ms, made.next_ms) = (3_600_000, 86_400_000, 90_000);
        let shown = notice(&made, 60_001).join("\n");
        for part in [
            "wasn't taken",
            "503",
            "next try",
            "webhooks app and refs refs/heads/main",
            "one summary",
            "signed by two",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(!shown.contains('\u{1b}'), "{shown}");
        assert!(notices(&[made], 60_001)[1].contains("trouble, 3 wait"));
    }
}
