//! How a browser signs in at the company's issuer: it is sent there, and comes back with a code (OpenID Connect Core 1.0, section
//! 3.1; PKCE, RFC 7636). What is this sign-in's alone the browser keeps meanwhile, in a cookie; each coordinator can go on with it.

use std::time::{Duration, Instant};

use farm_store::people::audit::By;
use farm_types::{Digest, escaped};
use http::{Response, StatusCode};

use super::asked::Asked;
use super::cookies::Cookie;
use super::forms::Secret;
use super::problem::Problem;
use super::reply;
use super::route::{Next, Returned};
use super::sign_in::{self, New, begin};
use crate::http::answer::Body;
use crate::people::oidc::Refused;
use crate::people::sign_in::{Asks, Brought, Polled, Returned as Code, SignIns};
use crate::shared::Shared;
use crate::unstored;

/// Somebody has so long to sign in.
const PATIENCE: Duration = Duration::from_secs(600);
/// What lists of tokens call a browser.
const MACHINE: &str = "browser";

/// What is this sign-in's alone, and where it leads to.
struct Leaving {
    state: Secret,
    nonce: Secret,
    verifier: Secret,
    next: Next,
}

impl Leaving {
    fn begin(next: &Next) -> Self {
        let next = next.clone();
        Self { state: Secret::generate(), nonce: Secret::generate(), verifier: Secret::generate(), next }
    }

    /// As a cookie holds it.
    fn text(&self) -> String {
        let Self { state, nonce, verifier, next } = self;
        format!("{}.{}.{}.{}", state.text(), nonce.text(), verifier.text(), escaped(&next.path()))
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, '.');
        let mut secret = || parts.next().map(ToOwned::to_owned).and_then(Secret::read);
        let (state, nonce, verifier) = (secret()?, secret()?, secret()?);
        // As a form's field is written.
        let next = form_urlencoded::parse(parts.next()?.as_bytes()).next()?.0;
        Some(Self { state, nonce, verifier, next: Next::read(&next) })
    }
}

fn sign_ins(shared: &Shared) -> Result<&SignIns, Problem> {
    let sign_ins = shared.sign_in.as_ref().filter(|sign_ins| sign_ins.has_pages());
    sign_ins.ok_or_else(Problem::nowhere)
}

/// Sends a browser to the issuer.
///
/// # Errors
/// Nobody signs in so here, or the issuer can't be asked where.
pub(crate) async fn leave(shared: &Shared, asked: &Asked, next: &Next) -> Result<Response<Body>, Problem> {
    let sign_ins = sign_ins(shared)?;
    let _visit = asked.from.map(|from| shared.doors.open_call(from)).transpose()?;
    let leaving = Leaving::begin(next);
    let asks =
        Asks { state: leaving.state.text(), nonce: leaving.nonce.text(), verifier: leaving.verifier.text() };
    let page = sign_ins.page(&asks, Instant::now()).await.map_err(refused)?;
    let mut response = reply::see(page.as_str()).map_err(|_| Problem::bug())?;
    let set = Cookie::Leave.set(response.headers_mut(), &leaving.text(), Some(PATIENCE), asked.is_secure);
    set.map_err(|_| Problem::bug())?;
    Ok(response)
}

/// Takes a browser back that the issuer has sent.
///
/// # Errors
/// It isn't the answer to this browser's sign-in, or shows nobody whom the farm lets in.
pub(crate) async fn arrive(
    shared: &Shared,
    asked: &Asked,
    returned: Returned,
) -> Result<Response<Body>, Problem> {
    let sign_ins = sign_ins(shared)?;
    let kept = Cookie::Leave.read(&asked.headers, asked.is_secure);
    let leaving = kept.as_deref().and_then(Leaving::read);
    // Digests are compared, so the time tells nothing.
    let state = Digest::of(returned.state.as_bytes());
    let Some(leaving) = leaving.filter(|leaving| leaving.state.digest() == state) else {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "This isn't the answer to a sign-in of this browser",
            "It took too long, or was begun elsewhere. Go back to the build's page and sign in anew.",
        ));
    };
    let again = |trouble: &str| -> Result<Response<Body>, Problem> {
        let mut response = sign_in::ask(shared, asked, &leaving.next, trouble)?;
        Cookie::Leave.forget(response.headers_mut(), asked.is_secure);
        Ok(response)
    };
    if returned.issuer.as_ref().is_some_and(|issuer| *issuer != sign_ins.settings().issuer) {
        return again("Another issuer has answered than the one that was asked; sign in anew.");
    }
    if returned.error.is_some() || returned.code.is_empty() {
        return again("The issuer has let nobody in.");
    }
    let code = Code {
        code: returned.code,
        verifier: leaving.verifier.text().to_owned(),
        redirect_uri: sign_ins.pages().unwrap_or_default().to_owned(),
        nonce: leaving.nonce.text().to_owned(),
    };
    let brought = sign_ins.check(Brought::Browser(code)).map_err(refused)?;
    let _turn = shared.doors.sign_in(asked.from)?;
    let person = match sign_ins.ask(&shared.store, brought, Instant::now()).await.map_err(refused)? {
        Polled::In(person) => person,
        Polled::Pending(_) => return again("The issuer has let nobody in."),
    };
    let address = asked.from.map(|from| from.to_string()).unwrap_or_default();
    let entered = sign_ins.enter(&shared.store, person, MACHINE, &address).await.map_err(refused)?;
    let by = By { name: entered.name, token_hint: entered.hint, address };
    let new = New {
        token: Digest::of(entered.secret.as_bytes()),
        is_own_token: true,
        lives: sign_ins.settings().session(),
    };
    let mut response = reply::see(&leaving.next.path()).map_err(|_| Problem::bug())?;
    begin(shared, asked, &by, new, response.headers_mut()).await?;
    Cookie::Leave.forget(response.headers_mut(), asked.is_secure);
    Ok(response)
}

/// Why nobody is let in: the issuer's part of it is told as it is.
fn refused(why: Refused) -> Problem {
    let thing = "You are not signed in";
    let (status, cure) = match why {
        Refused::Store(error) => return unstored::store(error).into(),
        Refused::Untrusted(why) => (StatusCode::FORBIDDEN, why),
        Refused::Unavailable(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
        Refused::Setup(why) => (StatusCode::INTERNAL_SERVER_ERROR, why),
        Refused::Token(why) => (StatusCode::UNAUTHORIZED, why),
        Refused::Invalid(why) => (StatusCode::BAD_REQUEST, why.to_string()),
    };
    Problem::new(status, thing, cure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_browser_keeps_meanwhile_is_read_back_and_nothing_else_is() {
        let leaving = Leaving::begin(&Next::read("/b/7f3k2m?project=web"));
        let text = leaving.text();
        // As a cookie can have it.
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\",;\\".contains(&byte)), "{text}");
        let read = Leaving::read(&text).unwrap();
        assert_eq!((read.state, read.verifier), (leaving.state.clone(), leaving.verifier));
        assert_eq!(read.next.path(), "/b/7f3k2m?project=web");
        for wrong in ["", "a.b.c.d", &format!("{}.{}", leaving.state.text(), leaving.state.text())] {
            assert!(Leaving::read(wrong).is_none(), "{wrong}");
        }
        let elsewhere = text.split('.').take(3).collect::<Vec<_>>().join(".") + ".https%3A%2F%2Fevil.example";
        assert_eq!(Leaving::read(&elsewhere).unwrap().next.path(), "/");
    }
}
