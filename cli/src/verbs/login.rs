//! `farm login`: whose farm an address is, by its CA's fingerprint as ssh does it, and a token for it, which is yours or comes of
//! signing in ([`crate::sign_in`]). Kept is only what has worked.

use std::path::{Path, PathBuf};

use farm_client::{Fingerprint, Security, Shown, Trust, look};
use farm_proto::v1::{SignedIn, WhoAmIRequest, WhoAmIResponse};
use farm_types::chain::io_in_short;
use farm_types::{Invalid, ProjectName};

use super::{logout, now_ms, of_flag};
use crate::config::edit::{Edit, write_private};
use crate::config::kept::{
    absolute, ca_file, forget_token, homeless, is_same, kept_sign_in, replace_token, token_file, token_of,
};
use crate::config::{Address, KEPT, LOCAL, NamedFarm, Setup, Source, named_ca, path};
use crate::connect::{Client, bearer};
use crate::error::{Error, Exit, Result};
use crate::output::Out;
use crate::output::people::until;
use crate::output::text::harmless;
use crate::prompt;
use crate::security::{addresses, covered, plaintext, unseen};
use crate::sign_in::{Way, offered};

/// Arguments of `farm login`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Where the farm is: https://HOST:PORT, which is meant without https://, too [default: the one that is used]
    #[arg(value_name = "ADDRESS")]
    address: Option<String>,

    /// What to call it [default: its host]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// The fingerprint of its CA, as farm-coordinator prints it; then nobody is asked
    #[arg(long, value_name = "SHA256:…", conflicts_with = "ca")]
    fingerprint: Option<Fingerprint>,

    /// The file with the token; it is read anew each time
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Read the token from standard input; it is kept in a file that is yours only
    #[arg(long, conflicts_with = "token_file")]
    token_stdin: bool,

    /// Be asked for a token, also where people can sign in
    #[arg(long, conflicts_with_all = ["token_file", "token_stdin"])]
    token: bool,

    /// Sign in in a browser on this machine
    #[arg(long, conflicts_with_all = ["token_file", "token_stdin", "token"])]
    browser: bool,

    /// Sign in with a code that you enter in a browser on any machine
    #[arg(long, conflicts_with_all = ["token_file", "token_stdin", "token", "browser"])]
    device: bool,
}

const AFTER_HELP: &str = "\
Examples:
  farm login farm.example:7070
  farm login https://10.0.0.9:7070 --name team
  farm login farm.example:7070 --fingerprint SHA256:4a7c… --token-stdin <token
  farm login farm.example:7070 --ca ca.pem --token-file token
  farm login farm.example:7070 --device
  farm login

Where people sign in at their company's issuer, a browser opens for it, or a code is shown if
there is none; without ADDRESS you sign in again to the farm that is used. Elsewhere you are asked
for the token that an admin gave you.

A certificate that the system trusts needs no question. Of any other the fingerprint of its CA is
shown; whoever runs the farm sees the same where farm-coordinator starts, or by
  openssl x509 -in STATE_DIR/tls/ca.pem -noout -fingerprint -sha256
What was accepted is kept in ~/.config/farm (NAME.ca.pem, NAME.token), and another CA is refused
from then on.";

/// How the farm is believed from now on.
struct Known {
    trust: Trust,
    /// The CA, if the system doesn't know it.
    pem: Option<String>,
}

/// Gets to know a farm.
///
/// # Errors
/// It doesn't answer, isn't believed, or doesn't take the token; or the configuration can't be written.
pub(crate) async fn run(
    mut args: Args,
    ca: Option<&Path>,
    project: Option<&str>,
    setup: impl FnOnce() -> Result<Setup>,
) -> Result<Exit> {
    let mut project: Option<ProjectName> =
        project.map(|project| of_flag("--project", project)).transpose()?;
    let url = match &args.address {
        Some(address) => with_scheme(address),
        None => {
            let (url, name, of_context) = used(setup()?)?;
            args.name = args.name.or(name);
            project = project.or(of_context);
            url
        }
    };
    let addresses = addresses(&url)?;
    covered(&addresses, plaintext())?;
    let name = match args.name.clone() {
        Some(name) => name,
        None => addresses.first().and_then(|(_, uri)| uri.host()).map(as_name).unwrap_or_default(),
    };
    let mut edit = Edit::open(path().ok_or_else(homeless)?)?;
    let before = edit.config().contexts.get(&name).cloned();
    if let Some(other) = before.as_ref().filter(|before| before.url != url) {
        let cure = format!(
            "that is {} already; give --name ANOTHER, or `farm config remove {name}` before",
            harmless(&other.url)
        );
        return Err(Invalid::new("context", name, cure).into());
    }
    if name == LOCAL {
        return Err(
            Invalid::new("context", name, "that is the farm on this machine; give another --name").into()
        );
    }
    let kept_ca = before.as_ref().and_then(|farm| farm.ca_file.clone());
    let known = get_to_know(&addresses, args.fingerprint, named_ca(ca), kept_ca.as_deref()).await?;

    let security = Security { trust: known.trust, plaintext: plaintext(), ..Security::default() };
    let address =
        Address { url: url.clone(), token_file: None, ca_file: None, project: None, source: Source::Flag };
    let kept_token = match &args.token_file {
        Some(file) => absolute("--token-file", file)?,
        None => token_file(&name)?,
    };
    let (token, signed_in) = token_by(&args, &kept_token, &address, &security).await?;
    let from = if args.token_file.is_some() { "--token-file" } else { "your answer" };
    let client = Client::connect_as(&address, bearer(&token, from)?, &security).await?;
    let who = client.people().who_am_i(WhoAmIRequest {}).await.map_err(|status| match status.code() {
        tonic::Code::Unauthenticated => Error::Farm(format!(
            "the farm at {url} doesn't know this token; nothing was kept. Ask whoever runs the farm for yours."
        )),
        _ => client.error(&status),
    })?;
    let who = who.into_inner();

    let ca = known.pem.as_ref().map(|_| ca_file(&name)).transpose()?;
    let entry = NamedFarm {
        url: url.clone(),
        token_file: Some(kept_token.clone()),
        ca_file: ca.clone(),
        project: project.map(|name| name.to_string()),
    };
    edit.add(&name, &entry, true)?;
    edit.choose(&name)?;
    let ours = token_file(&name)?;
    let is_kept = |farm: &NamedFarm| farm.token_file.as_ref().is_some_and(|file| is_same(file, &ours));
    // Of what was kept here for the farm, a sign-in ends; unless it is the one that goes on.
    let former = before.filter(is_kept).filter(|_| args.token_file.is_none() || !is_same(&kept_token, &ours));
    let former = former.and_then(|farm| Some((farm, kept_sign_in(&ours)?)));
    let former = former.filter(|(_, sign_in)| sign_in.token != token.trim());
    if let (Some(file), Some(pem)) = (&ca, &known.pem) {
        write_private(file, pem.as_bytes())?;
    }
    match &args.token_file {
        Some(_) => edit.save()?,
        None => {
            let ends_ms = signed_in.as_ref().map(|signed_in| signed_in.expires_ms);
            replace_token(&kept_token, &token, ends_ms, edit)?;
        }
    }
    if let Some((farm, sign_in)) = former {
        logout::end_former(&farm, sign_in).await;
        if args.token_file.is_some() {
            forget_token(&ours)?;
            Out::stderr()
                .line(&format!("{}, with the token of your former sign-in, is removed", ours.display()));
        }
    }
    let mut out = Out::stdout();
    if let (Some(file), [fingerprint, ..]) = (&ca, security.trust.fingerprints().as_slice()) {
        out.line(&format!("CA     {fingerprint}, kept in {}", file.display()));
    }
    out.line(&format!("token  in {}", kept_token.display()));
    if let Some(signed_in) = &signed_in {
        out.line(&in_short(signed_in, now_ms()));
    }
    out.line(&format!(
        "{name} ({}) is used from now on; you are {} there",
        harmless(&url),
        harmless(&described(&who))
    ));
    Ok(Exit::Done)
}

/// The farm that is used: its address, its name, and the project that is meant there.
fn used(setup: Setup) -> Result<(String, Option<String>, Option<ProjectName>)> {
    let Address { url, project, source, .. } = setup.address;
    let of_context = project.filter(|(_, from)| *from == KEPT).map(|(name, _)| name);
    match source {
        Source::Named(name, _) if name != LOCAL => Ok((url, Some(name), of_context)),
        Source::Flag | Source::Environment => Ok((with_scheme(&url), None, None)),
        Source::Named(..) | Source::Nobody => Err(Error::Usage(
            "say which farm: farm login https://HOST:PORT; the one on this machine needs no login".to_owned(),
        )),
    }
}

/// The token, in one of the ways that the flags allow; and what came with it, of a sign-in.
async fn token_by(
    args: &Args,
    kept: &Path,
    address: &Address,
    security: &Security,
) -> Result<(String, Option<SignedIn>)> {
    let url = &address.url;
    if args.token_file.is_some() {
        let token = std::fs::read_to_string(kept).map_err(|e| {
            let why = format!("it can't be read ({})", io_in_short(&e));
            Invalid::new("--token-file", kept.display().to_string(), why)
        })?;
        return Ok((token, None));
    }
    if args.token_stdin {
        return Ok((token_of(std::io::stdin())?, None));
    }
    let way = match (args.browser, args.device) {
        (true, _) => Some(Way::Browser),
        (_, true) => Some(Way::Device),
        _ => None,
    };
    let offer = if args.token { None } else { offered(address, security).await? };
    match offer {
        Some(offer) if way.is_some() || prompt::can_be_asked() => {
            let signed_in = offer.sign_in(way).await?;
            Ok((format!("{}\n", signed_in.secret), Some(signed_in)))
        }
        None if way.is_some() => Err(Error::Farm(format!(
            "nobody signs in to the farm at {}; give the token that its admin gave you, by --token-stdin or --token-file FILE",
            harmless(url)
        ))),
        None if prompt::can_be_asked() => {
            let token = prompt::secret(&format!("Your token for {}: ", harmless(url))).await?;
            Ok((format!("{}\n", token.trim()), None))
        }
        Some(_) => Err(Error::Usage(
            "nobody can be asked here; sign in with --device or --browser, or give a token by --token-stdin or --token-file FILE"
                .to_owned(),
        )),
        None => Err(Error::Usage(
            "nobody can be asked for the token here; give it by --token-stdin or --token-file FILE".to_owned(),
        )),
    }
}

/// What a sign-in was told, after it: its groups and its end.
fn in_short(signed_in: &SignedIn, now: i64) -> String {
    let groups: Vec<String> = signed_in.groups.iter().map(|group| harmless(group)).collect();
    let groups = match groups.as_slice() {
        [] => "in no group".to_owned(),
        groups => format!("in {}", groups.join(", ")),
    };
    format!("signed in as {}, {groups}, {}", harmless(&signed_in.name), until(signed_in.expires_ms, now))
}

/// A name, and what goes with it: `ada, builder in web`.
fn described(who: &WhoAmIResponse) -> String {
    let roles = who.memberships.iter().map(|member| format!("{} in {}", member.role, member.project));
    let admin = who.farm_admin.then(|| "admin of the farm".to_owned());
    let mut words: Vec<String> = std::iter::once(who.name.clone()).chain(admin).chain(roles).collect();
    if words.len() == 1 {
        words.push("a member of no project yet".to_owned());
    }
    words.join(", ")
}

/// Finds out whether the farm is believed, and asks if need be.
async fn get_to_know(
    addresses: &[(String, tonic::transport::Uri)],
    fingerprint: Option<Fingerprint>,
    named: Option<(PathBuf, &'static str)>,
    kept: Option<&Path>,
) -> Result<Known> {
    let mut shown = None;
    let mut failed = None;
    for (url, uri) in addresses.iter().filter(|(_, uri)| uri.scheme_str() == Some("https")) {
        match look(uri).await {
            Ok(found) => {
                shown = Some((url, found));
                break;
            }
            Err(error) => failed = failed.or_else(|| Some(unseen(url, &error))),
        }
    }
    let Some((url, shown)) = shown else {
        // All are http addresses.
        return failed.map_or(Ok(Known { trust: Trust::System, pem: None }), Err);
    };
    let usage = |e: farm_client::TrustError| Error::Usage(e.to_string());
    let pem =
        if let Some((file, from)) = named {
            let text = std::fs::read_to_string(&file).map_err(|e| {
                Error::Usage(format!("{from}: {} can't be read ({})", file.display(), io_in_short(&e)))
            })?;
            Some(text)
        } else if let Some(fingerprint) = fingerprint {
            let is = shown.authority().map_or_else(String::new, |(is, _)| is.to_string());
            Some(shown.find(fingerprint).ok_or_else(|| {
                Error::Farm(format!(
                    "the farm at {url} doesn't show the CA {fingerprint}, but {is}; nothing was sent to it"
                ))
            })?)
        } else if let Some(file) =
            kept.filter(|file| Trust::from_file(file).is_ok_and(|trust| shown.check(&trust).is_ok()))
        {
            // As it was; what the system trusts besides doesn't count for a farm whose CA is known.
            let text = std::fs::read_to_string(file);
            Some(text.map_err(|e| {
                Error::Usage(format!("{} can't be read ({})", file.display(), io_in_short(&e)))
            })?)
        } else if kept.is_none_or(|file| !file.exists()) && shown.check(&Trust::System).is_ok() {
            None
        } else {
            Some(ask(url, &shown, kept).await?)
        };
    let trust = match &pem {
        Some(pem) => Trust::from_pem(pem, "the CA").map_err(usage)?,
        None => Trust::System,
    };
    shown.check(&trust).map_err(|failure| Error::Farm(format!("the farm at {url}: {failure}")))?;
    Ok(Known { trust, pem })
}

/// Asks whether this CA is the farm's, unless it is known already.
async fn ask(url: &str, shown: &Shown, kept: Option<&Path>) -> Result<String> {
    let Some((fingerprint, pem)) = shown.authority() else {
        return Err(Error::Farm(format!("the farm at {url} shows no certificate")));
    };
    let before = kept.and_then(|file| Trust::from_file(file).ok()).map(|trust| trust.fingerprints());
    let before = before.unwrap_or_default();
    if before.contains(&fingerprint) {
        return Ok(pem);
    }
    let url = harmless(url);
    let mut text = if let [known, ..] = before.as_slice() {
        format!(
            "THE FARM'S CA HAS CHANGED, or somebody is between and shows another one.\n\
             The farm at {url} was known by {known}\n\
             and shows now                  {fingerprint}"
        )
    } else {
        format!("The farm at {url} shows a certificate of a CA that isn't known here:\n  {fingerprint}")
    };
    text += "\nWhoever runs the farm sees the same where farm-coordinator starts.";
    if !prompt::can_be_asked() {
        return Err(Error::Farm(format!(
            "{text}\nNobody can be asked here. Compare it, then give --fingerprint {fingerprint}, or --ca FILE."
        )));
    }
    Out::stderr().lines(text.lines());
    if prompt::yes("Is it this farm's?").await? {
        Ok(pem)
    } else {
        Err(Error::Farm("nothing was kept, and nothing was sent to that farm".to_owned()))
    }
}

/// The address with https:// where nothing is said; without a slash at its end.
fn with_scheme(address: &str) -> String {
    let part = |part: &str| {
        let part = part.trim().trim_end_matches('/');
        if part.contains("://") || part.is_empty() { part.to_owned() } else { format!("https://{part}") }
    };
    address.split(',').map(part).collect::<Vec<_>>().join(",")
}

/// A host as a context's name: an IPv6 address has characters that none has.
fn as_name(host: &str) -> String {
    host.trim_matches(['[', ']']).replace(':', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_logs_in_is_told_what_they_may() {
        let mut who = WhoAmIResponse { name: "ada".to_owned(), ..Default::default() };
        assert_eq!(described(&who), "ada, a member of no project yet");
        let web = farm_proto::v1::Membership { project: "web".to_owned(), role: "builder".to_owned() };
        who.memberships.push(web);
        assert_eq!(described(&who), "ada, builder in web");
        who.farm_admin = true;
        assert_eq!(described(&who), "ada, admin of the farm, builder in web");
    }

    #[test]
    fn what_a_sign_in_is_good_for_is_told() {
        let mut signed_in = SignedIn { name: "ada".into(), expires_ms: 12 * 3_600_000, ..Default::default() };
        assert_eq!(
            in_short(&signed_in, 0),
            "signed in as ada, in no group, until 1970-01-01 12:00 UTC (in 12 h)"
        );
        signed_in.groups = vec!["devs".into(), "web\u{1b}[2J".into()];
        let told = in_short(&signed_in, 0);
        assert!(told.contains(", in devs, web") && !told.contains('\u{1b}'), "{told}");
    }

    #[test]
    fn https_is_meant_and_the_host_is_the_name() {
        assert_eq!(with_scheme("farm.example:7070/"), "https://farm.example:7070");
        assert_eq!(with_scheme("a:1, http://127.0.0.1:2"), "https://a:1,http://127.0.0.1:2");
        assert_eq!(as_name("[fd00::7]"), "fd00--7");
        assert_eq!(as_name("farm.example"), "farm.example");
    }
}
