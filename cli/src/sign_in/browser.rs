//! In a browser on this machine: it is sent to the issuer, by way of a port of this command's, and comes back there with a code (RFC
//! 8252; PKCE, RFC 7636).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use farm_proto::v1::sign_in_request::By;
use farm_proto::v1::sign_in_response::Came;
use farm_proto::v1::{BrowserSignIn, GetSignInResponse, SignedIn};
use farm_types::{Digest, escaped};
use uuid::Uuid;

use super::Offer;
use super::listener::Listener;
use super::open::open;
use crate::again::{is_lost, once};
use crate::error::{Error, Result};
use crate::output::Out;
use crate::output::text::harmless;

/// Somebody has so long to sign in.
const PATIENCE: Duration = Duration::from_secs(300);

/// What is this sign-in's alone.
struct Secrets {
    state: String,
    nonce: String,
    verifier: String,
}

impl Secrets {
    fn generate() -> Self {
        Self { state: random(), nonce: random(), verifier: random() }
    }
}

/// 244 random bits, as 64 characters that stand for themselves everywhere.
fn random() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

/// Opens the issuer's page, and waits until the browser comes back.
pub(crate) async fn sign_in(offer: &Offer) -> Result<SignedIn> {
    let secrets = Secrets::generate();
    let listener = Listener::bind(&offer.told.redirect_uri).await?;
    let redirect_uri = listener.redirect_uri();
    let page = page(&offer.told, &redirect_uri, &secrets)?;
    let mut out = Out::stderr();
    let issuer = harmless(offer.issuer());
    out.line(&match open(&listener.start()) {
        Ok(()) => {
            format!("A browser opens to sign in at {issuer}. If none does, open in one on this machine")
        }
        Err(_) => format!("To sign in at {issuer}, open in a browser on this machine"),
    });
    out.line(&format!("  {}", harmless(&page)));
    let waiting = tokio::time::timeout(PATIENCE, listener.wait(&page, &secrets.state, offer.issuer()));
    let Ok(mut arrived) = waiting.await else {
        return Err(Error::Farm(format!(
            "nobody has signed in at {issuer} within {} min; begin again, or sign in with --device",
            PATIENCE.as_secs() / 60
        )));
    };
    let code = match std::mem::replace(&mut arrived.code, Ok(String::new())) {
        Ok(code) => code,
        Err(why) => {
            arrived.show("You are not signed in; the terminal says why. This window may be closed.").await;
            return Err(Error::Farm(format!("{issuer} lets nobody in ({})", harmless(&why))));
        }
    };
    let Secrets { nonce, verifier, .. } = secrets;
    let by = By::Browser(BrowserSignIn { code, code_verifier: verifier, redirect_uri, nonce });
    let request = offer.request(by);
    let answer = once(async || offer.farm.clone().sign_in(request.clone()).await).await;
    let came = answer.map_err(|status| match is_lost(&status) {
        true => offer.lost(&status),
        false => offer.refused(&status),
    });
    let came = came.map(|answer| answer.came);
    match came {
        Ok(Some(Came::SignedIn(signed_in))) => {
            arrived.show("You are signed in. This window may be closed.").await;
            Ok(signed_in)
        }
        other => {
            arrived.show("You are not signed in; the terminal says why. This window may be closed.").await;
            let nothing = || Error::Farm(format!("the farm at {} answers nothing to it", offer.url));
            Err(other.err().unwrap_or_else(nothing))
        }
    }
}

/// Where the browser is sent (OpenID Connect Core 1.0, section 3.1.2.1).
fn page(told: &GetSignInResponse, redirect_uri: &str, secrets: &Secrets) -> Result<String> {
    let at = &told.authorization_endpoint;
    // Nothing else is given to a program that opens what it is given.
    let is_page = (at.starts_with("https://") || at.starts_with("http://"))
        && at.bytes().all(|byte| byte.is_ascii_graphic())
        && !at.contains('#');
    if !is_page {
        return Err(Error::Farm(format!("the farm sends browsers to {}, which is no page", harmless(at))));
    }
    let challenge = BASE64.encode(Digest::of(secrets.verifier.as_bytes()).as_bytes());
    let scope = told.scopes.join(" ");
    let fields = [
        ("response_type", "code"),
        ("client_id", told.client_id.as_str()),
        ("redirect_uri", redirect_uri),
        ("scope", scope.as_str()),
        ("state", secrets.state.as_str()),
        ("nonce", secrets.nonce.as_str()),
        ("code_challenge", challenge.as_str()),
        ("code_challenge_method", "S256"),
    ];
    let fields = fields.map(|(name, value)| format!("{name}={}", escaped(value))).join("&");
    let between = if at.contains('?') { '&' } else { '?' };
    Ok(format!("{at}{between}{fields}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_is_sent_to_the_issuer_s_page_with_what_ties_the_answer_to_this_sign_in() {
        let mut told = GetSignInResponse {
            client_id: "farm cli".into(),
            scopes: vec!["openid".into(), "groups".into()],
            authorization_endpoint: "https://sso.example/auth".into(),
            ..Default::default()
        };
        let secrets = Secrets {
            state: "s".into(),
            nonce: "n".into(),
            // RFC 7636, appendix B.
            verifier: "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".into(),
        };
        let page = |told: &GetSignInResponse| page(told, "http://127.0.0.1:7/callback", &secrets);
        assert_eq!(
            page(&told).unwrap_or_else(|e| panic!("{e}")),
            "https://sso.example/auth?response_type=code&client_id=farm%20cli&redirect_uri=http%3A%2F%2F127.0.0.1%3A7%2Fcallback\
             &scope=openid%20groups&state=s&nonce=n&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM\
             &code_challenge_method=S256"
        );
        told.authorization_endpoint = "https://sso.example/auth?tenant=a".into();
        assert!(page(&told).is_ok_and(|page| page.contains("?tenant=a&response_type=code")));
        for wrong in
            ["file:///etc/passwd", "javascript:alert(1)", "--help", "", "https://a b/", "https://a/#b"]
        {
            told.authorization_endpoint = wrong.into();
            assert!(page(&told).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_secret_is_long_and_another_each_time() {
        let Secrets { state, nonce, verifier } = Secrets::generate();
        assert!([&state, &nonce, &verifier].iter().all(|text| text.len() == 64));
        assert!(state != nonce && nonce != verifier && state != verifier);
    }
}
