//! `farm logout`: the token goes, a sign-in ends at the farm, too, and what the farm is known by stays.

use chrono::DateTime;
use farm_proto::v1::RevokeTokenRequest;
use tonic::Code;

use super::now_ms;
use crate::config::edit::Edit;
use crate::config::kept::{SignIn, forget_token, homeless, kept_sign_in, token_file};
use crate::config::{Address, KEPT, LOCAL, NamedFarm, Setup, Source, path};
use crate::connect::{Client, bearer};
use crate::error::{Error, Exit, Result};
use crate::output::Out;
use crate::output::people::until;
use crate::output::text::harmless;
use crate::security::security;

/// Arguments of `farm logout`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Which of the farms in `farm config` [default: the one that is used]
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

const AFTER_HELP: &str = "\
Examples:
  farm logout
  farm logout team

What came of signing in ends at the farm, with all that was made with it; a token that an admin
gave you goes on there, for whoever else has it. The address and the CA stay, so that `farm login`
knows the farm again; `farm config remove NAME` forgets these, too.";

/// Takes away the token that is kept for a farm, and ends the sign-in that it is of.
///
/// # Errors
/// There is no such farm, its token is kept by somebody else, or the file can't be taken away.
pub(crate) async fn run(args: Args, setup: impl FnOnce() -> Result<Setup>) -> Result<Exit> {
    let name = match args.name {
        Some(name) => name,
        None => match setup()?.address.source {
            Source::Named(name, _) => name,
            _ => LOCAL.to_owned(),
        },
    };
    if name == LOCAL {
        return Err(Error::Usage(
            "the farm on this machine has a token of its own, which isn't kept for you; \
             `farm logout NAME` is for those that `farm config` lists"
                .to_owned(),
        ));
    }
    let edit = Edit::open(path().ok_or_else(homeless)?)?;
    let farm = edit.config().context(&name, "context")?;
    let ours = token_file(&name)?;
    let said = match &farm.token_file {
        Some(file) if *file != ours => {
            return Err(Error::Usage(format!(
                "the token for {name} is in {}, which is yours; delete it yourself",
                file.display()
            )));
        }
        Some(file) if file.exists() => {
            let ended = match kept_sign_in(file) {
                Some(sign_in) => Some(end(farm, sign_in).await),
                None => None,
            };
            forget_token(file)?;
            let url = harmless(&farm.url);
            match ended {
                Some(Ok(())) => format!("your sign-in for {name} ({url}) has ended"),
                Some(Err(why)) => format!("the token for {name} ({url}) is gone; {why}"),
                None => format!("the token for {name} ({url}) is gone; the farm itself may still take it"),
            }
        }
        _ => format!("there is no token for {name} ({})", harmless(&farm.url)),
    };
    Out::stdout().line(&said);
    Ok(Exit::Done)
}

/// Ends a sign-in at its farm; else says why it goes on, and until when.
async fn end(farm: &NamedFarm, SignIn { token, ends_ms }: SignIn) -> Result<(), String> {
    revoke(farm, token).await.map_err(|error| format!("{}: {error}", goes_on(ends_ms, now_ms())))
}

/// What is so of a sign-in of which its farm can't be told that it is over. Its end is told by this machine's clock, so what lies
/// behind is no news of the farm's.
fn goes_on(ends_ms: Option<i64>, now: i64) -> String {
    match (ends_ms, ends_ms.and_then(DateTime::from_timestamp_millis)) {
        (Some(ends), Some(at)) if ends <= now => {
            let at = at.format("%Y-%m-%d %H:%M UTC");
            format!("the farm, which can't be told, would have ended it by itself at {at}")
        }
        (Some(ends), _) => format!("the farm, which can't be told, takes it {}", until(ends, now)),
        (None, _) => "the farm, which can't be told, takes it until it ends".to_owned(),
    }
}

/// Ends a sign-in that is forgotten here; answers whether it has ended. That the farm can't be told is said, and no reason not to go
/// on: it ends by itself.
pub(super) async fn end_former(farm: &NamedFarm, former: SignIn) -> bool {
    match end(farm, former).await {
        Ok(()) => true,
        Err(why) => {
            let url = harmless(&farm.url);
            Out::stderr().line(&format!("your former sign-in at {url} is forgotten here; {why}"));
            false
        }
    }
}

async fn revoke(farm: &NamedFarm, token: String) -> Result<()> {
    let ca_file = farm.ca_file.clone().map(|file| (file, KEPT));
    let address =
        Address { url: farm.url.clone(), token_file: None, ca_file, project: None, source: Source::Flag };
    let shows = bearer(&token, "the file")?;
    let client = Client::connect_as(&address, shows, &security(&address)?).await?;
    match client.people().revoke_token(RevokeTokenRequest { token }).await {
        // It had ended.
        Err(status) if status.code() == Code::Unauthenticated => Ok(()),
        ended => ended.map(drop).map_err(|status| client.error(&status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_farm_that_can_t_be_told_has_ended_nothing_whatever_the_clock_says() {
        let ends = 1_800_000_000_000;
        assert_eq!(
            goes_on(Some(ends), ends - 3_600_000),
            "the farm, which can't be told, takes it until 2027-01-15 08:00 UTC (in 1 h)"
        );
        assert_eq!(
            goes_on(Some(ends), ends),
            "the farm, which can't be told, would have ended it by itself at 2027-01-15 08:00 UTC"
        );
        assert_eq!(goes_on(None, ends), "the farm, which can't be told, takes it until it ends");
    }
}
