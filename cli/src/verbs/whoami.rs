//! `farm whoami`.

use farm_proto::v1::{WhoAmIRequest, WhoAmIResponse};

use super::now_ms;
use crate::calls::through;
use crate::config::{Address, Setup, Source};
use crate::connect::Client;
use crate::error::{Exit, Result};
use crate::output::Out;
use crate::output::json;
use crate::output::people::{WhoamiJson, until};
use crate::output::text::harmless;

/// Arguments of `farm whoami`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farm whoami\n  farm whoami --context team\n  FARM_TOKEN=$(cat token) farm whoami --json"
)]
pub struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Says whom the farm takes the caller for.
///
/// # Errors
/// The farm doesn't know the token, or can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    let client = Client::connect(&setup.address).await?;
    let asked = through(async || client.people().who_am_i(WhoAmIRequest {}).await).await;
    let who = asked.map_err(|status| client.error(&status))?;
    let mut out = Out::stdout();
    if args.json {
        out.line(&json::text(&json(&who, &setup.address)));
    } else {
        out.lines(lines(&who, &setup.address, now_ms()));
    }
    Ok(Exit::Done)
}

/// The project that is meant when nothing is said, if there is one.
fn meant(who: &WhoAmIResponse) -> Option<&str> {
    match who.memberships.as_slice() {
        _ if who.farm_admin => Some("default"),
        [only] => Some(&only.project),
        _ => None,
    }
}

fn json<'a>(who: &'a WhoAmIResponse, address: &'a Address) -> WhoamiJson<'a> {
    let context = match &address.source {
        Source::Named(name, _) => Some(name.as_str()),
        _ => None,
    };
    let said = address.project.as_ref().map(|(name, _)| name.as_str());
    WhoamiJson::new(who, &address.url, context, said.or_else(|| meant(who)))
}

fn lines(who: &WhoAmIResponse, address: &Address, now: i64) -> Vec<String> {
    let name = harmless(&who.name);
    let is = match who.kind.as_str() {
        "person" | "service" => format!("{name}, a {}", who.kind),
        "subject" => format!("{name}, by a token of its own system"),
        "admin" => format!("{name}: whoever has the farm's own token file"),
        kind => format!("{name}, {}", harmless(kind)),
    };
    let roles = who.memberships.iter();
    let roles: Vec<String> =
        roles.map(|member| format!("{} of {}", harmless(&member.role), harmless(&member.project))).collect();
    let may = match roles.as_slice() {
        _ if who.farm_admin => "everything, as an admin of the farm".to_owned(),
        [] => match &who.sign_in {
            Some(origin) if !origin.groups.is_empty() => format!(
                "nothing yet, in no project; an admin of one can let you in, or one of your groups: farm member set {name} \
                 --role builder, or farm member set --group GROUP --role builder"
            ),
            _ => format!(
                "nothing yet; an admin of a project can give a role there: farm member set {name} --role builder"
            ),
        },
        roles => roles.join(", "),
    };
    let token = match who.token_hint.as_str() {
        "" => "the farm's own".to_owned(),
        hint => format!("{}…, {}", harmless(hint), until(who.token_expires_ms, now)),
    };
    let said = address.project.as_ref().map(|(project, from)| {
        let is_in = who.farm_admin || who.memberships.iter().any(|member| member.project == project.as_str());
        let but = if is_in { String::new() } else { format!("; {name} is in no project of this name") };
        format!("{project}, from {from}{but}")
    });
    let project = said.unwrap_or_else(|| match meant(who) {
        Some(project) => format!("{}, since none is said", harmless(project)),
        None if who.memberships.is_empty() => "none".to_owned(),
        None => "none is said; say it with --project or FARM_PROJECT".to_owned(),
    });
    let mut lines = vec![
        format!("who      {is}"),
        format!("may      {may}"),
        format!("token    {token}"),
        format!("farm     {}{}", harmless(&address.url), harmless(&address.named())),
        format!("project  {project}"),
    ];
    if let Some(origin) = &who.sign_in {
        let groups: Vec<String> = origin.groups.iter().map(|group| harmless(group)).collect();
        let groups = match groups.as_slice() {
            [] => "in no group".to_owned(),
            groups => format!("in {}", groups.join(", ")),
        };
        lines.insert(3, format!("sign-in  at {}, {groups}", harmless(&origin.issuer)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use farm_proto::v1::Membership;

    use super::*;

    fn here(project: Option<&str>) -> Address {
        Address {
            url: "http://f".to_owned(),
            token_file: None,
            ca_file: None,
            project: project.map(|name| (name.parse().unwrap(), "FARM_PROJECT")),
            source: Source::Named("team".to_owned(), "--context"),
        }
    }

    fn ada(projects: &[(&str, &str)]) -> WhoAmIResponse {
        let one = |(project, role): &(&str, &str)| Membership {
            project: (*project).to_owned(),
            role: (*role).to_owned(),
        };
        WhoAmIResponse {
            name: "ada".into(),
            kind: "person".into(),
            memberships: projects.iter().map(one).collect(),
            token_hint: "farm_p_12345".into(),
            ..Default::default()
        }
    }

    #[test]
    fn who_one_is_and_where_commands_go_is_told() {
        let two = [("api", "viewer"), ("web", "admin")];
        assert_eq!(
            lines(&ada(&two), &here(Some("web")), 0),
            [
                "who      ada, a person",
                "may      viewer of api, admin of web",
                "token    farm_p_12345…, until it is revoked",
                "farm     http://f (team)",
                "project  web, from FARM_PROJECT",
            ]
        );
        let project = |who: &WhoAmIResponse, said| lines(who, &here(said), 0)[4].clone();
        assert_eq!(project(&ada(&two), None), "project  none is said; say it with --project or FARM_PROJECT");
        assert_eq!(project(&ada(&two[1..]), None), "project  web, since none is said");
        assert!(project(&ada(&two), Some("shop")).ends_with("ada is in no project of this name"));
        assert!(lines(&ada(&[]), &here(None), 0)[1].contains("farm member set ada --role builder"));
        let signed_in = |groups: &[&str]| {
            let groups = groups.iter().map(|group| (*group).to_owned()).collect();
            let sign_in = farm_proto::v1::SignInOrigin { issuer: "https://sso.example".into(), groups };
            lines(&WhoAmIResponse { sign_in: Some(sign_in), ..ada(&[]) }, &here(None), 0)
        };
        let told = signed_in(&["devs", "web"]);
        assert_eq!(told[3], "sign-in  at https://sso.example, in devs, web");
        assert!(
            told[1].contains("in no project") && told[1].contains("farm member set --group GROUP"),
            "{told:?}"
        );
        assert_eq!(signed_in(&[])[3], "sign-in  at https://sso.example, in no group");
        let admin = WhoAmIResponse {
            name: "admin".into(),
            kind: "admin".into(),
            farm_admin: true,
            ..Default::default()
        };
        let told = lines(&admin, &here(None), 0);
        assert_eq!(told[1..3], ["may      everything, as an admin of the farm", "token    the farm's own"]);
        assert_eq!(told[4], "project  default, since none is said");
    }
}
