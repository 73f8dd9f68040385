//! `farm token`: the list, and revoking; making one is in [`create`].

mod create;

use farm_proto::v1::{ListTokensRequest, RevokeTokenRequest, Token};
use serde_json::json;

use super::now_ms;
use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Exit, Result};
use crate::output::Out;
use crate::output::json;
use crate::output::people::{TokenJson, token_name, tokens};
use crate::output::text::{count, harmless};

/// Arguments of `farm token`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    deed: Deed,
}

/// What `farm token` can do.
#[derive(Debug, clap::Subcommand)]
enum Deed {
    /// Make a token: for yourself, for a person, or for a service of a project
    Create(create::Create),
    /// List the tokens that you may revoke
    #[command(alias = "list", after_help = "Examples:\n  farm token ls\n  farm token ls --json")]
    Ls {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// End tokens, and all that were made with them
    #[command(after_help = REVOKE_HELP)]
    Revoke {
        /// The tokens: as `farm token ls` lists them, their ids, or the tokens themselves
        #[arg(value_name = "TOKEN", required = true)]
        tokens: Vec<String>,
    },
}

const AFTER_HELP: &str = "\
Examples:
  farm token create --expires 30d >token
  farm token create --for ada >ada.token
  farm token create --service ci --role builder --project web >ci.token
  farm token ls
  farm token revoke farm_p_1a2b3";

const REVOKE_HELP: &str = "\
Examples:
  farm token revoke farm_p_1a2b3
  farm token revoke \"$(cat ada.token)\"

Within 5 s nobody takes it any more; what is open by it is cut off, builds that it submitted go
on. You may revoke your own tokens, as an admin of a project those of its services, as an admin of
the farm all.";

/// So many characters of a token are shown.
const HINT: usize = 12;

/// Makes, lists or revokes tokens.
///
/// # Errors
/// The farm refuses, or can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    match args.deed {
        Deed::Create(create) => create::run(create, setup).await?,
        Deed::Ls { json } => list(json, setup).await?,
        Deed::Revoke { tokens } => {
            let client = Client::connect(&setup.address).await?;
            let mut out = Out::stdout();
            for token in tokens {
                let request = RevokeTokenRequest { token: token.clone() };
                let answer = client.people().revoke_token(request).await.map_err(|e| client.error(&e))?;
                out.line(&revoked(&token, &answer.into_inner().tokens));
            }
        }
    }
    Ok(Exit::Done)
}

async fn list(as_json: bool, setup: &Setup) -> Result<()> {
    let client = Client::connect(&setup.address).await?;
    let asked = through(async || client.people().list_tokens(ListTokensRequest {}).await).await;
    let listed = asked.map_err(|status| client.error(&status))?.tokens;
    let mut out = Out::stdout();
    if as_json {
        let listed: Vec<TokenJson> = listed.iter().map(TokenJson::from).collect();
        out.line(&json::text(&json!({ "tokens": listed })));
    } else if listed.is_empty() {
        out.line("no tokens yet; make one with: farm token create");
    } else {
        out.lines(tokens(&listed, now_ms()));
    }
    Ok(())
}

/// What is said of a token that was named so, when these were ended.
fn revoked(name: &str, ended: &[Token]) -> String {
    // Of a whole token no more is printed than is shown of it anyway.
    let shown = if name.starts_with("farm_") { name.get(..HINT).unwrap_or(name) } else { name };
    let is_named = |token: &&Token| token.id == name || token.hint == shown;
    let named: Vec<String> = ended.iter().filter(is_named).map(token_name).collect();
    let made = ended.len() - named.len();
    match (named.as_slice(), made) {
        ([], 0) => format!("token {} counted no more already", harmless(shown)),
        ([], made) => format!(
            "token {} counted no more already; {} made with it ended now",
            harmless(shown),
            count(made, "token")
        ),
        ([one], 0) => format!("token {one} is revoked; nobody takes it any more within 5 s"),
        (named, 0) => {
            format!("tokens {} are revoked; nobody takes them any more within 5 s", named.join(", "))
        }
        (named, made) => format!(
            "token {} is revoked, with {} that {} made with it; nobody takes them any more within 5 s",
            named.join(", "),
            made,
            if made == 1 { "was" } else { "were" }
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_with_a_token_is_told_and_the_token_itself_is_not() {
        let token = |hint: &str| Token {
            id: format!("id-of-{hint}"),
            hint: hint.into(),
            holder: "ada".into(),
            ..Default::default()
        };
        let [one, child] = ["farm_p_12345", "farm_p_abcde"].map(token);
        assert_eq!(
            revoked("farm_p_12345", std::slice::from_ref(&one)),
            "token farm_p_12345… of ada is revoked; nobody takes it any more within 5 s"
        );
        let whole = revoked("farm_p_12345678", &[child, one.clone()]);
        assert_eq!(
            whole,
            "token farm_p_12345… of ada is revoked, with 1 that was made with it; nobody takes them any more within 5 s"
        );
        assert!(revoked("id-of-farm_p_12345", &[one]).starts_with("token farm_p_12345… of ada is"));
        assert_eq!(revoked("farm_p_12345678", &[]), "token farm_p_12345 counted no more already");
    }
}
