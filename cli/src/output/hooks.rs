//! What people and scripts see of a project's webhooks and what was delivered.

use farm_proto::v1::{Delivery, Hook, HookSchedule, HookToken};
use serde::Serialize;

use super::text::{ago, bytes, columns, harmless, span, time};

/// A hook, as `farm hook ls --json` prints it.
#[derive(Debug, Serialize)]
pub struct HookJson<'a> {
    id: &'a str,
    name: &'a str,
    provider: &'a str,
    host: &'a str,
    repository: &'a str,
    repository_id: Option<&'a str>,
    clone_url: Option<&'a str>,
    api_url: Option<&'a str>,
    url: Option<&'a str>,
    secrets: u32,
    new_secret_used: bool,
    publishes: &'a [String],
    created: Option<String>,
    created_by: &'a str,
    last_delivery: Option<String>,
    token: Option<TokenJson<'a>>,
    default_branch: Option<&'a str>,
    sweep: SweepJson<'a>,
    schedules: Vec<ScheduleJson<'a>>,
    base_images: &'a [String],
}

/// What is known of pushes that weren't delivered.
#[derive(Debug, Serialize)]
struct SweepJson<'a> {
    on: bool,
    strayed: Option<&'a str>,
    last: Option<String>,
    result: Option<&'a str>,
    trouble: bool,
    next: Option<String>,
}

/// A time at which something is built.
#[derive(Debug, Serialize)]
struct ScheduleJson<'a> {
    name: &'a str,
    line: &'a str,
    next: Option<String>,
}

/// A hook's token at its forge, without itself.
#[derive(Debug, Serialize)]
struct TokenJson<'a> {
    app: Option<u64>,
    created: Option<String>,
    created_by: &'a str,
    given_up: u32,
    installation: Option<u64>,
    last_status: Option<String>,
    trouble: Option<&'a str>,
    waiting: u32,
}

impl<'a> From<&'a HookToken> for TokenJson<'a> {
    fn from(token: &'a HookToken) -> Self {
        Self {
            created: time(token.created_ms),
            created_by: &token.created_by,
            given_up: token.given_up,
            last_status: time(token.told_ms),
            trouble: said(&token.trouble),
            waiting: token.waiting,
            app: Some(token.app).filter(|app| *app > 0),
            installation: Some(token.installation).filter(|id| *id > 0),
        }
    }
}

fn said(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

impl<'a> From<&'a Hook> for HookJson<'a> {
    fn from(hook: &'a Hook) -> Self {
        Self {
            id: &hook.id,
            name: &hook.name,
            provider: &hook.provider,
            host: &hook.host,
            repository: &hook.repository,
            repository_id: said(&hook.repository_id),
            clone_url: said(&hook.clone_url),
            api_url: said(&hook.api_url),
            url: said(&hook.url),
            secrets: hook.secrets,
            new_secret_used: hook.is_new_used,
            publishes: &hook.publishes,
            created: time(hook.created_ms),
            created_by: &hook.created_by,
            last_delivery: time(hook.last_delivery_ms),
            token: hook.token.as_ref().map(TokenJson::from),
            default_branch: said(&hook.default_branch),
            sweep: SweepJson {
                on: hook.sweeps,
                strayed: said(&hook.strayed),
                last: time(hook.looked_ms),
                result: said(&hook.look_result),
                trouble: hook.is_look_trouble,
                next: time(hook.next_look_ms),
            },
            schedules: hook
                .schedules
                .iter()
                .map(|one| ScheduleJson { name: &one.name, line: &one.line, next: time(one.next_ms) })
                .collect(),
            base_images: &hook.base_images,
        }
    }
}

/// A delivery, as `farm hook deliveries --json` prints it.
#[derive(Debug, Serialize)]
pub struct DeliveryJson<'a> {
    id: &'a str,
    sequence: i64,
    event: &'a str,
    git_ref: &'a str,
    state: &'a str,
    reason: &'a str,
    builds: &'a [String],
    attempts: u32,
    received: Option<String>,
    finished: Option<String>,
    body_bytes: i64,
}

impl<'a> From<&'a Delivery> for DeliveryJson<'a> {
    fn from(delivery: &'a Delivery) -> Self {
        Self {
            id: &delivery.id,
            sequence: delivery.sequence,
            event: &delivery.event,
            git_ref: &delivery.git_ref,
            state: &delivery.state,
            reason: &delivery.reason,
            builds: &delivery.builds,
            attempts: delivery.attempts,
            received: time(delivery.received_ms),
            finished: time(delivery.finished_ms),
            body_bytes: delivery.body_bytes,
        }
    }
}

/// When a delivery came last.
fn last(hook: &Hook, now: i64) -> String {
    if hook.last_delivery_ms > 0 { ago(hook.last_delivery_ms, now) } else { "never".to_owned() }
}

/// A table of a project's hooks.
pub fn hooks(hooks: &[Hook], now: i64) -> Vec<String> {
    let head = ["HOOK", "OF", "REPOSITORY", "ADDED", "BY", "DELIVERED"];
    let rows = hooks.iter().map(|hook| {
        vec![
            harmless(&hook.name),
            harmless(&hook.provider),
            format!("{}/{}", harmless(&hook.host), harmless(&hook.repository)),
            ago(hook.created_ms, now),
            harmless(&hook.created_by),
            last(hook, now),
        ]
    });
    columns(&[head.map(ToOwned::to_owned).to_vec()].into_iter().chain(rows).collect::<Vec<_>>())
}

/// Whether its forge is told how builds stand, and how that goes.
fn statuses(hook: &Hook, now: i64) -> String {
    let Some(token) = &hook.token else {
        return format!("the forge isn't told how builds stand: farm hook token {}", harmless(&hook.name));
    };
    let what = match token.app {
        0 => "a token".to_owned(),
        app => format!("the key of GitHub App {app}"),
    };
    let since =
        format!("by {what} that {} has given {}", harmless(&token.created_by), ago(token.created_ms, now));
    let told = match (token.told_ms, token.trouble.as_str()) {
        (0, "") => "none was sent yet".to_owned(),
        (told, "") => format!("the last one was sent {}", ago(told, now)),
        (_, why) => format!("the last one wasn't taken {}: {}", ago(token.trouble_ms, now), harmless(why)),
    };
    let waiting = match token.waiting {
        0 => String::new(),
        waiting => format!("; {waiting} wait"),
    };
    let given_up = match token.given_up {
        0 => String::new(),
        given_up => format!("; {given_up} given up"),
    };
    format!("{since}; {told}{waiting}{given_up}")
}

/// Whether it is looked for what its forge didn't deliver, and what came of that.
fn sweep(hook: &Hook, now: i64) -> String {
    if !hook.strayed.is_empty() {
        return format!("nothing is done of the farm's own accord: {}", harmless(&hook.strayed));
    }
    if !hook.sweeps {
        let name = harmless(&hook.name);
        let off =
            format!("it isn't looked for pushes that weren't delivered: farm hook set {name} --sweep on");
        // Schedules and base images wait for it.
        return match hook.is_look_trouble {
            true => format!(
                "{off}; the last look at the repository failed {}: {}",
                ago(hook.looked_ms, now),
                harmless(&hook.look_result)
            ),
            false => off,
        };
    }
    if hook.repository_id.is_empty() {
        return "it is looked for pushes that weren't delivered, once a first delivery has come".to_owned();
    }
    let next = match hook.next_look_ms {
        0 => String::new(),
        next if next <= now => "; the next look is due".to_owned(),
        next => format!("; the next look in {}", span(next - now)),
    };
    match (hook.looked_ms, hook.is_look_trouble) {
        (0, _) => format!("no look for pushes that weren't delivered yet{next}"),
        (at, true) => format!("the last look failed {}: {}{next}", ago(at, now), harmless(&hook.look_result)),
        (at, false) => format!("looked {}: {}{next}", ago(at, now), harmless(&hook.look_result)),
    }
}

/// What the rules of the default branch build at which times, and upon which images.
fn planned(hook: &Hook, now: i64) -> Vec<(&'static str, String)> {
    let schedule = |one: &HookSchedule| {
        let next =
            if one.next_ms > now { format!("in {}", span(one.next_ms - now)) } else { "now".to_owned() };
        ("schedule", format!("{} ({}), next {next}", harmless(&one.name), harmless(&one.line)))
    };
    let mut rows: Vec<(&'static str, String)> = hook.schedules.iter().map(schedule).collect();
    if !hook.base_images.is_empty() {
        let all = hook.base_images.iter().any(|image| image == "*");
        let text = if all { "all that the farm is told of".to_owned() } else { hook.base_images.join(", ") };
        rows.push(("built upon", harmless(&text)));
    }
    rows
}

/// One hook.
pub fn hook(hook: &Hook, now: i64) -> Vec<String> {
    let unknown = "not known yet: the first delivery says it";
    let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { harmless(text) };
    let secret = match (hook.secrets, hook.is_new_used) {
        (0 | 1, true) => "one, which is used",
        (0 | 1, false) => "one, by which nothing came yet",
        (_, true) => "two: the newer one is used, the older one ends within a day",
        (_, false) => "two: the newer one isn't used yet",
    };
    let mut rows = vec![
        ("hook", format!("{}, of {}", harmless(&hook.name), harmless(&hook.provider))),
        ("repository", format!("{}/{}", harmless(&hook.host), harmless(&hook.repository))),
        ("id there", or(&hook.repository_id, unknown)),
        ("fetched", or(&hook.clone_url, "nothing: it has images only")),
        ("url", or(&hook.url, "for admins of the project")),
        ("secret", secret.to_owned()),
        (
            "publishes",
            match &hook.publishes[..] {
                [] => "no protected tags".to_owned(),
                refs => format!("protected tags for {}", harmless(&refs.join(", "))),
            },
        ),
        ("statuses", statuses(hook, now)),
        ("sweep", sweep(hook, now)),
        ("added", format!("{} by {}", ago(hook.created_ms, now), harmless(&hook.created_by))),
        ("delivered", last(hook, now)),
    ];
    if matches!(hook.provider.as_str(), "dockerhub" | "distribution") {
        rows.retain(|(name, _)| !["id there", "sweep"].contains(name));
    }
    rows.extend(planned(hook, now));
    if matches!(hook.provider.as_str(), "dockerhub" | "distribution" | "generic") {
        rows.retain(|(name, _)| *name != "statuses");
    }
    columns(&rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect::<Vec<_>>())
}

/// A branch's or a tag's name, and of other refs what stands behind `refs/`.
fn in_short(git_ref: &str) -> &str {
    let starts = ["refs/heads/", "refs/tags/", "refs/"];
    starts.iter().find_map(|start| git_ref.strip_prefix(start)).unwrap_or(git_ref)
}

/// A table of what was delivered to a hook.
pub fn deliveries(deliveries: &[Delivery], now: i64) -> Vec<String> {
    let head = ["DELIVERY", "EVENT", "REF", "CAME", "SIZE", "STATE", "BUILDS", "WHY"];
    let rows = deliveries.iter().map(|delivery| {
        let tries =
            if delivery.attempts > 0 { format!(" ({} tries)", delivery.attempts) } else { String::new() };
        vec![
            harmless(&delivery.id),
            harmless(&delivery.event),
            harmless(in_short(&delivery.git_ref)),
            ago(delivery.received_ms, now),
            bytes(u64::try_from(delivery.body_bytes).unwrap_or(0)),
            format!("{}{tries}", harmless(&delivery.state)),
            harmless(&delivery.builds.join(" ")),
            harmless(&delivery.reason),
        ]
    });
    columns(&[head.map(ToOwned::to_owned).to_vec()].into_iter().chain(rows).collect::<Vec<_>>())
}

/// What to do at the sender, for a hook that was just made or has another secret. The URL is told by the caller.
pub fn paste(hook: &Hook, secret: &str) -> Vec<String> {
    let url = harmless(&hook.url);
    let repository = harmless(&hook.repository);
    let place = format!("{}/{repository}", harmless(&hook.host));
    let lines: &[String] = &match hook.provider.as_str() {
        "github" => [
            format!("at https://{place}/settings/hooks/new"),
            "content type application/json; events: pushes, and as you like pull requests, releases, issue comments".to_owned(),
        ],
        "gitlab" => [
            format!("at https://{place}/-/hooks: the secret as secret token, or as signing token"),
            "triggers: push and tag push events, and as you like merge requests, releases, comments".to_owned(),
        ],
        "gitea" | "forgejo" => [
            format!("at https://{place}/settings/hooks"),
            "content type application/json; events: push, and as you like pull requests, releases, issue comments".to_owned(),
        ],
        "generic" => [
            "sign by Standard Webhooks (webhook-id, webhook-timestamp, webhook-signature)".to_owned(),
            "the body's form: docs/guide/webhooks.md".to_owned(),
        ],
        "dockerhub" => [
            format!("at https://hub.docker.com/repository/docker/{repository}/webhooks, as its URL:"),
            format!("{url}?token={secret}"),
        ],
        _ => [
            "in the registry's configuration, as an endpoint of `notifications` with the header".to_owned(),
            format!("Authorization: [\"Bearer {secret}\"]; let it ignore the action pull"),
        ],
    };
    lines.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_stands_with_what_it_is_for_and_what_is_said_to_paste() {
        let made = Hook {
            name: "app".into(),
            provider: "github".into(),
            host: "github.com".into(),
            repository: "acme/app".into(),
            url: "https://farm.example/hooks/abc".into(),
            created_by: "ada".into(),
            created_ms: 1_000,
            secrets: 1,
            ..Default::default()
        };
        let table = hooks(std::slice::from_ref(&made), 61_000);
        assert!(table[1].contains("github.com/acme/app") && table[1].ends_with("never"), "{table:?}");
        let shown = hook(&made, 61_000).join("\n");
        assert!(shown.contains("not known yet") && shown.contains("nothing came yet"), "{shown}");
        assert!(shown.contains("farm hook token app"), "{shown}");
        let token = HookToken { created_by: "ada".into(), created_ms: 1_000, ..Default::default() };
        let with = |token: HookToken| {
            let hooks = Hook { token: Some(token), ..made.clone() };
            hook(&hooks, 61_000).join("\n")
        };
        assert!(with(token.clone()).contains("none was sent yet"));
        assert!(with(HookToken { app: 7, ..token.clone() }).contains("by the key of GitHub App 7 that ada"));
        let told = HookToken { told_ms: 31_000, ..token };
        let lost = HookToken { given_up: 3, ..told.clone() };
        assert!(with(lost).contains("the last one was sent 30 s ago; 3 given up"));
        assert!(with(told.clone()).contains("the last one was sent 30 s ago"), "{}", with(told.clone()));
        let troubled =
            HookToken { trouble: "it answers 401\u{1b}[2J".into(), trouble_ms: 51_000, waiting: 2, ..told };
        let shown = with(troubled);
        assert!(
            shown.contains("wasn't taken 10 s ago: it answers 401") && shown.contains("2 wait"),
            "{shown}"
        );
        assert!(!shown.contains('\u{1b}'), "{shown}");
        assert!(paste(&made, "s")[0].contains("https://github.com/acme/app/settings/hooks/new"));
        let hub = Hook { provider: "dockerhub".into(), ..made };
        assert!(paste(&hub, "s")[1].ends_with("/hooks/abc?token=s"));
        let came = Delivery {
            id: "x\u{1b}[2J".into(),
            event: "push".into(),
            state: "ignored".into(),
            reason: "why".into(),
            attempts: 2,
            received_ms: 1_000,
            ..Default::default()
        };
        let table = deliveries(&[came], 61_000);
        assert!(table[1].contains("ignored (2 tries)") && !table[1].contains('\u{1b}'), "{table:?}");
    }
}
