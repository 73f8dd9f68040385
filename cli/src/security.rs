//! Where a farm is, whether it is believed to be that farm, and what is said when it isn't.

use std::path::PathBuf;

use farm_client::{
    EndpointError, LookError, Plaintext, Security, TlsFailure, Trust, TrustError, is_loopback, look,
};
use farm_proto::WINDOW_BYTES;
use farm_types::chain::in_short;
use tonic::transport::{Endpoint, Uri};

use crate::config::{Address, KEPT};
use crate::error::{Error, Result};
use crate::folders::local_files;
use crate::output::Out;

/// One address of a farm, ready to be called.
#[derive(Debug, Clone)]
pub struct Dial {
    /// As the user wrote it.
    pub url: String,
    pub uri: Uri,
    pub endpoint: Endpoint,
}

/// What connections to this farm have to be: whom its certificate has to convince, and where plain HTTP may lead to.
///
/// # Errors
/// The file with the CA can't be taken.
pub fn security(address: &Address) -> Result<Security> {
    let trust = match &address.ca_file {
        Some((file, from)) => Trust::from_file(file).map_err(|e| match e {
            TrustError::File { .. } => {
                Error::Farm(format!("{from}: {e}; name another, or `farm login` again"))
            }
            e => Error::Usage(format!("{from}: {e}")),
        })?,
        None => Trust::System,
    };
    Ok(Security { trust, plaintext: plaintext(), ..Security::default() })
}

/// That no token would be seen on its way to any of these.
///
/// # Errors
/// It would, and nobody said that it may.
pub fn covered(addresses: &[(String, Uri)], plaintext: Plaintext) -> Result<()> {
    let is_open = |uri: &Uri| uri.scheme_str() == Some("http") && !is_loopback(uri);
    match addresses.iter().find(|(_, uri)| is_open(uri)) {
        Some((url, _)) if plaintext == Plaintext::Loopback => {
            Err(Error::Usage(format!("the farm at {url}: {}", EndpointError::Plaintext)))
        }
        _ => Ok(()),
    }
}

/// The farm's address by which secrets may be sent: with TLS. The farm on this machine speaks it on the port that is called without.
///
/// # Errors
/// There is only a way on which others could read them, and nobody said that they may.
pub fn covered_for_secrets(address: &Address) -> Result<Address> {
    covered_beside(address, &local_files("ca.pem"), plaintext())
}

fn covered_beside(address: &Address, local_cas: &[PathBuf], plaintext: Plaintext) -> Result<Address> {
    let urls: Vec<&str> = address.url.split(',').map(str::trim).collect();
    let open = urls.iter().find(|url| url.starts_with("http://"));
    let Some(open) = open.filter(|_| plaintext == Plaintext::Loopback) else { return Ok(address.clone()) };
    let is_local = |url: &str| url.parse().is_ok_and(|uri| is_loopback(&uri));
    let of_this_machine = || {
        let file = local_cas.iter().find(|file| file.exists())?;
        Some((file.clone(), "this machine's farm"))
    };
    if let [url] = &urls[..]
        && is_local(url)
        && let Some(ca_file) = address.ca_file.clone().or_else(of_this_machine)
    {
        let url = url.replacen("http://", "https://", 1);
        return Ok(Address { url, ca_file: Some(ca_file), ..address.clone() });
    }
    Err(Error::Usage(format!(
        "secrets aren't sent to {open}, as others could read them on the way; call the farm by https:// (`farm login https://…`), \
         or set FARM_INSECURE_HTTP=1 if that network is nobody else's"
    )))
}

/// FARM_INSECURE_HTTP says that plain HTTP may lead to other machines.
pub fn plaintext() -> Plaintext {
    let said = std::env::var("FARM_INSECURE_HTTP").unwrap_or_default();
    match said.trim() {
        "" | "0" | "false" | "no" => Plaintext::Loopback,
        _ => Plaintext::Anywhere,
    }
}

/// The endpoints of an address, with the settings that bulk uploads and long watches need.
///
/// # Errors
/// As [`addresses`]; or the token would be seen on its way there.
pub fn dials(urls: &str, security: &Security) -> Result<Vec<Dial>> {
    let dial = |(url, uri): (String, Uri)| {
        let agent = concat!("farm/", env!("CARGO_PKG_VERSION"));
        let endpoint = farm_client::endpoint(uri.clone(), agent, security).map_err(|e| match e {
            EndpointError::Plaintext => Error::Usage(format!("the farm at {url}: {e}")),
            EndpointError::Setup(e) => Error::Farm(format!("can't set up TLS for {url}: {}", in_short(&e))),
        })?;
        if uri.scheme_str() == Some("http") && !is_loopback(&uri) {
            Out::stderr().line(&format!(
                "warning: {url} is called without TLS (FARM_INSECURE_HTTP): whoever is between sees the token"
            ));
        }
        Ok(Dial { url, uri, endpoint: farm_client::wide(endpoint, WINDOW_BYTES) })
    };
    addresses(urls)?.into_iter().map(dial).collect()
}

/// An address, which has commas between several; none twice.
///
/// # Errors
/// There is none, or one isn't `http://HOST:PORT` or `https://HOST[:PORT]`.
pub fn addresses(urls: &str) -> Result<Vec<(String, Uri)>> {
    let mut addresses: Vec<(String, Uri)> = Vec::new();
    for part in urls.split(',').map(|part| part.trim().trim_end_matches('/')) {
        // Of an address that is empty as a whole the one part says what it should be.
        let is_hole = part.is_empty() && !urls.trim_matches([',', ' ']).is_empty();
        if !is_hole && addresses.iter().all(|(url, _)| url != part) {
            addresses.push((part.to_owned(), address(part)?));
        }
    }
    Ok(addresses)
}

fn address(url: &str) -> Result<Uri> {
    let invalid =
        |why: &str| Error::Usage(format!("--url {url:?}: {why}; write http://HOST:PORT or https://HOST"));
    let uri: Uri = url.parse().map_err(|_| invalid("this is no address"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(invalid("it needs http:// or https:// in front"));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(invalid("it has no host"));
    }
    Ok(uri)
}

/// What is said of a farm that answers, and isn't believed. Nothing was sent to it.
pub(crate) async fn unbelieved(
    dial: &Dial,
    failure: &TlsFailure,
    address: &Address,
    security: &Security,
) -> Error {
    let farm = format!("the farm at {}{}", dial.url, address.named());
    if *failure != TlsFailure::Authority {
        return Error::Farm(format!("{farm}: {failure}"));
    }
    let Some((file, from)) = &address.ca_file else {
        return Error::Farm(format!(
            "{farm}: {failure}. `farm login {}` shows whose it is and asks; or name the file with its CA by --ca or FARM_CA.",
            dial.url
        ));
    };
    let known: Vec<String> = security.trust.fingerprints().iter().map(ToString::to_string).collect();
    let now = match look(&dial.uri).await.ok().and_then(|shown| shown.authority()) {
        Some((fingerprint, _)) => fingerprint.to_string(),
        None => "nothing any more".to_owned(),
    };
    if *from != KEPT {
        return Error::Farm(format!(
            "{farm}: its certificate isn't of the CA that {from} names ({}: {}), but of {now}. Nothing was sent.",
            file.display(),
            known.join(", ")
        ));
    }
    Error::Farm(format!(
        "THE FARM'S CA HAS CHANGED, or somebody is between and shows another one. Nothing was sent.\n\
         {farm} is known by {} ({from}: {})\n\
         it shows now {now}\n\
         Ask whoever runs the farm; farm-coordinator prints its CA when it starts. If it is the new one: \
         `farm login {} --fingerprint SHA256:…`",
        known.join(", "),
        file.display(),
        dial.url
    ))
}

/// Why a farm shows no certificate.
pub fn unseen(url: &str, error: &LookError) -> Error {
    Error::Farm(match error {
        LookError::Away(why) => format!("no farm at {url} ({})", farm_types::chain::io_in_short(why)),
        other => format!("the farm at {url}: {other}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    fn dials_of(urls: &str) -> Result<Vec<Dial>> {
        dials(urls, &Security::default())
    }

    #[test]
    fn an_address_that_is_none_is_answered_with_the_cure() {
        for url in ["localhost:7070", "ftp://x", "", "http://", "not a url"] {
            let error = dials_of(url).unwrap_err();
            assert_eq!(error.exit().code(), 2, "{url}");
            assert!(error.to_string().contains("http://HOST:PORT"), "{error}");
        }
        assert!(dials_of("http://127.0.0.1:7070").is_ok());
        let several = addresses("http://a:1/, http://b:2,,http://a:1").unwrap_or_else(|e| panic!("{e}"));
        assert!(several.iter().map(|(url, _)| url.as_str()).eq(["http://a:1", "http://b:2"]));
        assert!(addresses(",").is_err() && addresses("http://a:1,b").is_err());
    }

    #[test]
    fn no_token_goes_to_another_machine_in_the_clear() {
        let error = dials_of("http://127.0.0.1:7070,http://farm.example:7070").unwrap_err();
        assert_eq!(error.exit().code(), 2);
        let text = error.to_string();
        assert!(text.contains("http://farm.example:7070") && text.contains("https://"), "{text}");
    }

    #[tokio::test]
    async fn a_farm_that_isnt_believed_is_told_with_what_to_do() {
        let dial = dials_of("http://127.0.0.1:1").unwrap().remove(0);
        let told = async |failure: TlsFailure, ca_file| {
            let address = Address {
                url: dial.url.clone(),
                token_file: None,
                ca_file,
                project: None,
                source: Source::Flag,
            };
            unbelieved(&dial, &failure, &address, &Security::default()).await.to_string()
        };
        assert!(told(TlsFailure::Authority, None).await.contains("farm login http://127.0.0.1:1"));
        let other = told(TlsFailure::Authority, Some(("/ca".into(), "--ca"))).await;
        assert!(other.contains("--ca names (/ca:") && !other.contains("HAS CHANGED"), "{other}");
        let changed = told(TlsFailure::Authority, Some(("/ca".into(), KEPT))).await;
        assert!(changed.contains("HAS CHANGED") && changed.contains("/ca"), "{changed}");
        assert!(told(TlsFailure::Plain, None).await.contains("write http://"));
    }
}
