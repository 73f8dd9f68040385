//! What people and scripts see of who uses the farm: tokens, projects, members, and what was done.

use chrono::DateTime;
use farm_proto::v1::{AuditEntry, FarmAdmin, Member, Project, Token, VerifyAuditResponse, WhoAmIResponse};
use serde::Serialize;
use serde_json::Value;

use super::json::known;
use super::text::{ago, ahead, columns, harmless, time};

/// The kind of members that sign in.
const PERSON: &str = "person";

/// Who the caller is, as `farm whoami --json` prints it.
#[derive(Debug, Serialize)]
pub struct WhoamiJson<'a> {
    name: &'a str,
    kind: &'a str,
    farm_admin: bool,
    projects: Vec<MembershipJson<'a>>,
    token: Option<ShownJson<'a>>,
    sign_in: Option<OriginJson<'a>>,
    farm: FarmJson<'a>,
    project: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct MembershipJson<'a> {
    project: &'a str,
    role: &'a str,
}

#[derive(Debug, Serialize)]
struct ShownJson<'a> {
    hint: &'a str,
    expires: Option<String>,
}

#[derive(Debug, Serialize)]
struct OriginJson<'a> {
    issuer: &'a str,
    groups: &'a [String],
}

#[derive(Debug, Serialize)]
struct FarmJson<'a> {
    url: &'a str,
    context: Option<&'a str>,
}

impl<'a> WhoamiJson<'a> {
    /// What a farm said, which one that was, and the project in which commands are given.
    pub fn new(
        who: &'a WhoAmIResponse,
        url: &'a str,
        context: Option<&'a str>,
        project: Option<&'a str>,
    ) -> Self {
        let memberships = who.memberships.iter();
        let hint = who.token_hint.as_str();
        Self {
            name: &who.name,
            kind: &who.kind,
            farm_admin: who.farm_admin,
            projects: memberships
                .map(|member| MembershipJson { project: &member.project, role: &member.role })
                .collect(),
            token: (!hint.is_empty()).then(|| ShownJson { hint, expires: time(who.token_expires_ms) }),
            sign_in: who
                .sign_in
                .as_ref()
                .map(|origin| OriginJson { issuer: &origin.issuer, groups: &origin.groups }),
            farm: FarmJson { url, context },
            project,
        }
    }
}

/// A token, as `farm token ls --json` prints it; never the secret.
#[derive(Debug, Serialize)]
pub struct TokenJson {
    id: String,
    hint: String,
    label: Option<String>,
    of: String,
    kind: String,
    only_project: Option<String>,
    most_role: Option<String>,
    created: Option<String>,
    created_by: String,
    expires: Option<String>,
    revoked: Option<String>,
    last_used: Option<String>,
}

impl From<&Token> for TokenJson {
    fn from(token: &Token) -> Self {
        let scope = token.scope.clone().unwrap_or_default();
        Self {
            id: token.id.clone(),
            hint: token.hint.clone(),
            label: known(&token.label),
            of: token.holder.clone(),
            kind: token.kind.clone(),
            only_project: known(&scope.project),
            most_role: known(&scope.role),
            created: time(token.created_ms),
            created_by: token.created_by.clone(),
            expires: time(token.expires_ms),
            revoked: time(token.revoked_ms),
            last_used: time(token.last_used_ms),
        }
    }
}

/// A project, as `farm project ls --json` prints it.
#[derive(Debug, Serialize)]
pub struct ProjectJson {
    name: String,
    created: Option<String>,
    members: u32,
    role: String,
}

impl From<&Project> for ProjectJson {
    fn from(project: &Project) -> Self {
        Self {
            name: project.name.clone(),
            created: time(project.created_ms),
            members: project.members,
            role: project.role.clone(),
        }
    }
}

/// Somebody in a project, as `farm member ls --json` prints it.
#[derive(Debug, Serialize)]
pub struct MemberJson {
    name: String,
    kind: String,
    role: String,
    linked: Option<bool>,
    signed_in: Option<String>,
}

impl MemberJson {
    /// A member of a project of a farm at which people sign in at this issuer; empty: at none.
    pub fn new(member: &Member, issuer: &str) -> Self {
        Self {
            name: member.name.clone(),
            kind: member.kind.clone(),
            role: member.role.clone(),
            linked: (!issuer.is_empty() && member.kind == PERSON).then_some(member.linked),
            signed_in: time(member.signed_in_ms),
        }
    }
}

/// An admin of the farm, as `farm admin ls --json` prints it.
#[derive(Debug, Serialize)]
pub struct AdminJson {
    name: String,
    group: bool,
    linked: Option<bool>,
    signed_in: Option<String>,
}

impl AdminJson {
    /// As of a member.
    pub fn new(admin: &FarmAdmin, issuer: &str) -> Self {
        Self {
            name: admin.name.clone(),
            group: admin.group,
            linked: (!issuer.is_empty() && !admin.group).then_some(admin.linked),
            signed_in: time(admin.signed_in_ms),
        }
    }
}

/// What was done, as `farm audit --json` prints it.
#[derive(Debug, Serialize)]
pub struct AuditJson {
    id: i64,
    time: Option<String>,
    project: Option<String>,
    who: String,
    token_hint: Option<String>,
    address: Option<String>,
    action: String,
    subject: String,
    detail: Value,
}

impl From<&AuditEntry> for AuditJson {
    fn from(entry: &AuditEntry) -> Self {
        Self {
            id: entry.id,
            time: time(entry.at_ms),
            project: known(&entry.project),
            who: entry.principal.clone(),
            token_hint: known(&entry.token_hint),
            address: known(&entry.address),
            action: entry.action.clone(),
            subject: entry.subject.clone(),
            // What a newer farm writes otherwise is left out, not made up.
            detail: serde_json::from_str(&entry.detail_json).unwrap_or_default(),
        }
    }
}

/// What the audit's chain proves, as `farm audit --verify --json` prints it.
#[derive(Debug, Serialize)]
pub struct VerifiedJson<'a> {
    rows: u64,
    seals: u64,
    first_id: Option<i64>,
    last_id: Option<i64>,
    head: Option<String>,
    unsealed: u64,
    removed: u64,
    removed_until: Option<String>,
    broken: Vec<BrokenJson>,
    outside: Vec<OutsideJson<'a>>,
}

#[derive(Debug, Serialize)]
struct BrokenJson {
    first_id: i64,
    last_id: i64,
    sealed: Option<String>,
    what: &'static str,
}

#[derive(Debug, Serialize)]
struct OutsideJson<'a> {
    head: &'a str,
    found: bool,
    whole: bool,
    last_id: Option<i64>,
    sealed: Option<String>,
    rows_after: Option<u64>,
}

impl<'a> VerifiedJson<'a> {
    /// What a farm found.
    pub fn new(found: &'a VerifyAuditResponse) -> Self {
        let broken = found.broken.iter().map(|broken| BrokenJson {
            first_id: broken.first_id,
            last_id: broken.last_id,
            sealed: time(broken.sealed_ms),
            what: if broken.link { "link" } else { "rows" },
        });
        let outside = found.outside.iter().map(|outside| OutsideJson {
            head: &outside.head,
            found: outside.found,
            whole: outside.whole,
            last_id: outside.found.then_some(outside.last_id),
            sealed: time(outside.sealed_ms),
            rows_after: outside.found.then_some(outside.rows_after),
        });
        Self {
            rows: found.rows,
            seals: found.seals,
            first_id: (found.first_id > 0).then_some(found.first_id),
            last_id: (found.last_id > 0).then_some(found.last_id),
            head: known(&found.head),
            unsealed: found.unsealed,
            removed: found.removed,
            removed_until: time(found.removed_until_ms),
            broken: broken.collect(),
            outside: outside.collect(),
        }
    }
}

/// A table of the members of a project; with who has signed in, of a farm at which people do.
pub fn members(members: &[Member], issuer: &str, now: i64) -> Vec<String> {
    let signed_in = if issuer.is_empty() { "" } else { "SIGNED IN" };
    let head = ["MEMBER", "KIND", "ROLE", signed_in].map(ToOwned::to_owned).to_vec();
    let rows = members.iter().map(|member| {
        let signed_in = match issuer.is_empty() || member.kind != PERSON {
            true => String::new(),
            false => signed_in_words(member.linked, member.signed_in_ms, now),
        };
        vec![harmless(&member.name), harmless(&member.kind), harmless(&member.role), signed_in]
    });
    columns(&[head].into_iter().chain(rows).collect::<Vec<_>>())
}

/// When a person has signed in last, where people do.
pub fn signed_in_words(is_linked: bool, signed_in_ms: i64, now: i64) -> String {
    match (is_linked, signed_in_ms) {
        (false, _) => "not linked".to_owned(),
        (true, 0) => "linked, never".to_owned(),
        (true, at) => ago(at, now),
    }
}

/// A token's first characters and whose it is: `farm_p_12345… of ada`.
pub fn token_name(token: &Token) -> String {
    format!("{}… of {}", harmless(&token.hint), harmless(&token.holder))
}

/// Until when a token counts; 0: it doesn't end by itself.
pub fn until(expires_ms: i64, now: i64) -> String {
    match DateTime::from_timestamp_millis(expires_ms) {
        Some(at) if expires_ms > 0 => {
            format!("until {} ({})", at.format("%Y-%m-%d %H:%M UTC"), ahead(expires_ms, now))
        }
        _ => "until it is revoked".to_owned(),
    }
}

/// A table of tokens.
pub fn tokens(tokens: &[Token], now: i64) -> Vec<String> {
    // Two tokens may begin alike; then only their ids tell them apart.
    let is_alike = |token: &Token| tokens.iter().filter(|other| other.hint == token.hint).count() > 1;
    let id = if tokens.iter().any(is_alike) { "ID" } else { "" };
    let head = ["TOKEN", "OF", "LABEL", "LIMITS", "MADE", "BY", "USED", "ENDS", id];
    let rows = tokens.iter().map(|token| {
        let ends = match (token.revoked_ms, token.expires_ms) {
            (0, 0) => "never".to_owned(),
            (0, at) if at > now => ahead(at, now),
            (0, at) => format!("ended {}", ago(at, now)),
            (at, _) => format!("revoked {}", ago(at, now)),
        };
        let used = if token.last_used_ms > 0 { ago(token.last_used_ms, now) } else { "never".to_owned() };
        vec![
            harmless(&token.hint),
            harmless(&token.holder),
            harmless(&token.label),
            limits(token),
            ago(token.created_ms, now),
            harmless(&token.created_by),
            used,
            ends,
            if is_alike(token) { harmless(&token.id) } else { String::new() },
        ]
    });
    columns(&[head.map(ToOwned::to_owned).to_vec()].into_iter().chain(rows).collect::<Vec<_>>())
}

/// How far a token reaches, where that is less than its holder may.
pub fn limits(token: &Token) -> String {
    let scope = token.scope.clone().unwrap_or_default();
    let role = known(&scope.role).map(|role| format!("at most {}", harmless(&role)));
    let project = known(&scope.project).map(|project| format!("{} only", harmless(&project)));
    role.into_iter().chain(project).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use farm_proto::v1::TokenScope;

    use super::*;

    fn token(hint: &str, scope: (&str, &str)) -> Token {
        Token {
            id: format!("id-of-{hint}"),
            hint: hint.into(),
            holder: "ada".into(),
            kind: "person".into(),
            scope: Some(TokenScope { project: scope.0.into(), role: scope.1.into(), lives_seconds: 0 }),
            created_ms: 1_000,
            created_by: "admin".into(),
            ..Default::default()
        }
    }

    #[test]
    fn tokens_stand_with_what_limits_and_ends_them() {
        let day = 24 * 3_600_000;
        let laptop = Token {
            label: "laptop".into(),
            expires_ms: 90 * day,
            last_used_ms: 1_000,
            ..token("farm_p_12345", ("web", "builder"))
        };
        let old = Token { revoked_ms: 2_000, ..token("farm_p_abcde", ("", "")) };
        assert_eq!(
            tokens(&[laptop.clone(), old], 61_000),
            [
                "TOKEN         OF   LABEL   LIMITS                     MADE       BY     USED       ENDS",
                "farm_p_12345  ada  laptop  at most builder, web only  1 min ago  admin  1 min ago  in 90 d",
                "farm_p_abcde  ada                                     1 min ago  admin  never      revoked 59 s ago",
            ]
        );
        let ended = Token { expires_ms: 2_000, ..token("farm_p_12345", ("", "")) };
        let alike = tokens(&[laptop, ended], 61_000);
        assert!(alike[0].ends_with("ID") && alike[1].ends_with("id-of-farm_p_12345"), "{alike:?}");
        assert!(alike[2].contains("ended 59 s ago"), "{alike:?}");
    }

    #[test]
    fn who_has_signed_in_is_told_of_persons_where_people_sign_in() {
        let member = |name: &str, kind: &str, linked: bool, signed_in_ms: i64| Member {
            name: name.into(),
            kind: kind.into(),
            role: "viewer".into(),
            linked,
            signed_in_ms,
        };
        let all = [
            member("ada", "person", true, 1_000),
            member("bob", "person", false, 0),
            member("eve", "person", true, 0),
            member("web/ci", "service", false, 0),
            member("devs", "group", false, 0),
        ];
        assert_eq!(
            members(&all, "https://sso.example", 181_000),
            [
                "MEMBER  KIND     ROLE    SIGNED IN",
                "ada     person   viewer  3 min ago",
                "bob     person   viewer  not linked",
                "eve     person   viewer  linked, never",
                "web/ci  service  viewer",
                "devs    group    viewer",
            ]
        );
        assert_eq!(members(&all[1..2], "", 0), ["MEMBER  KIND    ROLE", "bob     person  viewer"]);
        let json = |member: &Member, issuer: &str| {
            let json = serde_json::to_value(MemberJson::new(member, issuer)).unwrap();
            (json["linked"].clone(), json["signed_in"].clone())
        };
        assert_eq!(json(&all[0], "https://sso.example"), (true.into(), "1970-01-01T00:00:01.000Z".into()));
        assert_eq!(json(&all[1], "https://sso.example"), (false.into(), Value::Null));
        assert_eq!(json(&all[3], "https://sso.example"), (Value::Null, Value::Null));
        assert_eq!(json(&all[1], ""), (Value::Null, Value::Null));
    }

    #[test]
    fn when_a_token_ends_is_told_as_a_time_and_as_a_span() {
        assert_eq!(until(0, 0), "until it is revoked");
        assert_eq!(until(90 * 86_400_000, 10), "until 1970-04-01 00:00 UTC (in 90 d)");
    }
}
