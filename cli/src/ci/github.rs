//! The token of a job of GitHub Actions, from where GitHub gives it out
//! (docs.github.com, "OpenID Connect reference": the two variables, the query's `audience`, the answer's `value`).

use farm_types::escaped;
use hyper::Uri;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::http::get;

/// What GitHub answers; of what it says besides nothing is needed.
#[derive(Deserialize)]
struct Given {
    value: String,
}

/// A new token of this job for an audience.
///
/// # Errors
/// GitHub gives none, or can't be asked.
pub(crate) async fn token(url: &Uri, secret: &str, audience: &str) -> Result<String> {
    let host = url.authority().map(ToString::to_string).unwrap_or_default();
    let no_token = |why: String| Error::Farm(format!("GitHub gives this job no ID token: {why}"));
    let asked = asked(url, audience).map_err(&no_token)?;
    let answer = get(&asked, "application/json; api-version=2.0", &format!("bearer {secret}")).await;
    let answer = answer.map_err(|why| no_token(format!("{host}: {why}")))?;
    if !answer.status.is_success() {
        return Err(no_token(format!(
            "{host} answers {}; the job needs `permissions: id-token: write`, and its tokens are given as long as it runs",
            answer.status
        )));
    }
    match serde_json::from_slice::<Given>(&answer.body) {
        Ok(given) if !given.value.is_empty() => Ok(given.value),
        _ => Err(no_token(format!("what {host} answers has none in it"))),
    }
}

/// The address with the audience in its query.
fn asked(url: &Uri, audience: &str) -> Result<Uri, String> {
    let mut text = url.to_string();
    text.push(if url.query().is_some() { '&' } else { '?' });
    text += &format!("audience={}", escaped(audience));
    text.parse().map_err(|_| "the audience makes no address".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audience_is_asked_for_behind_what_is_asked_already() {
        let asked = |url: &'static str| asked(&Uri::from_static(url), "https://f:1").unwrap().to_string();
        assert_eq!(
            asked("https://h/t?api-version=2.0"),
            "https://h/t?api-version=2.0&audience=https%3A%2F%2Ff%3A1"
        );
        assert_eq!(asked("https://h/t"), "https://h/t?audience=https%3A%2F%2Ff%3A1");
    }
}
