//! `farm token create`. The secret is all that it writes to standard output, so that it can go into a file.

use std::time::Duration;

use farm_proto::v1::{
    CreatePersonTokenRequest, CreateServiceTokenRequest, CreateTokenRequest, Token, TokenScope,
};
use farm_types::spec::parse_duration_within;
use farm_types::{PrincipalName, ProjectName, Role};
use serde_json::json;

use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Result};
use crate::output::Out;
use crate::output::json;
use crate::output::people::{TokenJson, limits, token_name, until};
use crate::output::text::harmless;
use crate::verbs::{now_ms, of_flag};

/// The longest that a token may count, when it isn't to count until it is revoked.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// Arguments of `farm token create`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Create {
    /// Whose it is to be; a person of this name is made if there is none. For admins of the farm
    #[arg(long = "for", value_name = "PERSON", conflicts_with = "service")]
    person: Option<String>,

    /// A service of the project, which is made if there is none of this name. For admins of the project
    #[arg(long, value_name = "NAME", requires = "role", conflicts_with = "only_project")]
    service: Option<String>,

    /// The most that it gives: viewer, builder, publisher or admin; of a service, what that may do
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,

    /// It counts in this project only
    #[arg(long, value_name = "NAME")]
    only_project: Option<String>,

    /// How long it counts: 12h, 90d or the like, or never for until it is revoked
    #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = life)]
    expires: Life,

    /// What it is for, in your words
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,

    /// Print one JSON object, with the secret in it
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Examples:
  farm token create --label laptop >token
  farm token create --role viewer --only-project web --expires 12h
  farm token create --for ada >ada.token
  farm token create --service ci --role builder --project web --expires never >ci.token

The token stands alone on standard output, once: the farm keeps only its digest. What you make for
yourself reaches no further than the token that you make it with, and ends with it. What a person
may do is said by their roles, which a token only makes less: farm member set ada --role builder.";

/// How long a token counts; `None`: until it is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Life(Option<Duration>);

fn life(text: &str) -> std::result::Result<Life, String> {
    if text == "never" {
        return Ok(Life(None));
    }
    let life = parse_duration_within(text, LONGEST).filter(|life| !life.is_zero());
    let cure = "write a number and a unit, like 12h or 90d, at most 10 years; or never";
    life.map(|life| Life(Some(life))).ok_or_else(|| cure.to_owned())
}

/// Makes a token.
///
/// # Errors
/// A name or a role is none, the farm refuses, or it can't be asked.
pub(crate) async fn run(args: Create, setup: &Setup) -> Result<()> {
    // All is checked before anything is asked.
    let role: Option<Role> = args.role.map(|role| of_flag("--role", &role)).transpose()?;
    let person: Option<PrincipalName> = args.person.map(|name| of_flag("--for", &name)).transpose()?;
    let service: Option<PrincipalName> = args.service.map(|name| of_flag("--service", &name)).transpose()?;
    let only: Option<ProjectName> =
        args.only_project.map(|name| of_flag("--only-project", &name)).transpose()?;
    let lives_seconds = args.expires.0.map_or(0, |life| life.as_secs());
    let label = args.label.unwrap_or_default();
    let role = role.map(|role| role.to_string()).unwrap_or_default();
    let client = Client::connect(&setup.address).await?;
    // Not repeated when the connection breaks: nobody would see what the first call has made.
    let scope = Some(TokenScope {
        project: only.map(|name| name.to_string()).unwrap_or_default(),
        role: role.clone(),
        lives_seconds,
    });
    let mut people = client.people();
    let (secret, token) = if let Some(service) = &service {
        let service = service.to_string();
        let request = CreateServiceTokenRequest { service, role: role.clone(), lives_seconds, label };
        let made = people.create_service_token(request).await.map_err(|e| client.error(&e))?.into_inner();
        (made.secret, made.token)
    } else if let Some(person) = person {
        let request = CreatePersonTokenRequest { person: person.to_string(), scope, label };
        let made = people.create_person_token(request).await.map_err(|e| client.error(&e))?.into_inner();
        (made.secret, made.token)
    } else {
        let request = CreateTokenRequest { scope, label };
        let made = people.create_token(request).await.map_err(|e| client.error(&e))?.into_inner();
        (made.secret, made.token)
    };
    let nothing = || Error::Farm(format!("the farm at {} made a token and gave none back", client.url()));
    let token = token.filter(|_| !secret.is_empty()).ok_or_else(nothing)?;
    let mut out = Out::stdout();
    if args.json {
        out.line(&json::text(&json!({ "secret": secret, "token": TokenJson::from(&token) })));
        return Ok(());
    }
    let mut told = Out::stderr();
    let service_role = service.is_some().then_some(role.as_str());
    told.line(&format!("token {}", what(&token, service_role, now_ms())));
    if is_short(&token, lives_seconds, now_ms()) {
        told.line(
            "It ends then, with what it was made with. What is to go on without you is a service of the project: \
             farm token create --service NAME --role builder",
        );
    }
    out.line(&secret);
    told.line(
        "It is shown this once. Whoever has it says so to the farm by FARM_TOKEN, or keeps it for good:",
    );
    told.line(&format!("  farm config add NAME {} --token-stdin <FILE", harmless(client.url())));
    Ok(())
}

/// Whether a token ends clearly before the end that it was to have.
fn is_short(token: &Token, lives_seconds: u64, now: i64) -> bool {
    let meant = i64::try_from(lives_seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
    let is_endless = lives_seconds == 0;
    token.expires_ms > 0
        && (is_endless || token.expires_ms < now.saturating_add(meant).saturating_sub(60_000))
}

/// Whose it is, how far it reaches, and until when.
fn what(token: &Token, service_role: Option<&str>, now: i64) -> String {
    let reaches = match (service_role, limits(token).as_str()) {
        (Some(role), _) => format!("{role} of its project"),
        (None, "") => format!("all that {} may", harmless(&token.holder)),
        (None, limits) => limits.to_owned(),
    };
    format!("{}: {reaches}, {}", token_name(token), until(token.expires_ms, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_counts_for_a_span_or_never_ends_by_itself() {
        assert_eq!(life("90d"), Ok(Life(Some(Duration::from_secs(90 * 86_400)))));
        assert_eq!(life("never"), Ok(Life(None)));
        assert!(life("9years").is_ok());
        for text in ["", "0", "0s", "soon", "11years", "1500ms"] {
            assert!(life(text).unwrap_err().contains("or never"), "{text}");
        }
    }

    #[test]
    fn a_token_that_ends_with_what_it_was_made_with_is_told_so() {
        let ends = |expires_ms| Token { expires_ms, ..Default::default() };
        assert!(is_short(&ends(43_200_000), 90 * 86_400, 0) && is_short(&ends(43_200_000), 0, 0));
        assert!(!is_short(&ends(43_200_000), 43_200, 1_000) && !is_short(&ends(43_200_000), 3_600, 0));
        assert!(!is_short(&ends(0), 0, 0));
    }

    #[test]
    fn what_was_made_is_told_in_a_line() {
        let mut token = Token { hint: "farm_p_12345".into(), holder: "ada".into(), ..Default::default() };
        assert_eq!(what(&token, None, 0), "farm_p_12345… of ada: all that ada may, until it is revoked");
        token.scope = Some(TokenScope { project: "web".into(), role: "viewer".into(), ..Default::default() });
        token.expires_ms = 43_200_000;
        assert_eq!(
            what(&token, None, 0),
            "farm_p_12345… of ada: at most viewer, web only, until 1970-01-01 12:00 UTC (in 12 h)"
        );
        assert!(what(&token, Some("builder"), 0).contains(": builder of its project, until"));
    }
}
