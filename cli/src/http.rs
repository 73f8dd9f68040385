//! One request to a server that is no farm, such as what gives a job of GitHub Actions its token: HTTP/1.1, no redirects, bounded
//! in time and bytes. Redirects aren't followed, since what is sent is a secret.

use std::time::Duration;

use bytes::Bytes;
use farm_client::{Trust, dial};
use farm_types::chain::{in_short, io_in_short};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

/// From the first byte that is sent to the last one that comes.
const WHOLE: Duration = Duration::from_secs(15);
/// The longest answer, bytes.
const MOST: usize = 256 * 1024;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

/// Gets a document, with this in the header `authorization`.
///
/// # Errors
/// Why there is none, in words that have nothing of the secret.
pub(crate) async fn get(uri: &Uri, accept: &'static str, authorization: &str) -> Result<Answer, String> {
    let mut secret = HeaderValue::from_str(authorization)
        .map_err(|_| "what it is to be asked with is no token".to_owned())?;
    secret.set_sensitive(true);
    let request = Request::builder().method(Method::GET).header(ACCEPT, accept).header(AUTHORIZATION, secret);
    within(uri, request, Bytes::new()).await
}

async fn within(uri: &Uri, request: hyper::http::request::Builder, body: Bytes) -> Result<Answer, String> {
    let over = || format!("no answer within {} s", WHOLE.as_secs());
    timeout(WHOLE, send(uri, request, body)).await.unwrap_or_else(|_| Err(over()))
}

async fn send(uri: &Uri, request: hyper::http::request::Builder, body: Bytes) -> Result<Answer, String> {
    let host = uri.authority().ok_or_else(|| "its address has no host".to_owned())?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = request
        .uri(path)
        .header(HOST, host.as_str())
        .header(USER_AGENT, concat!("farm/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(body))
        .map_err(|e| e.to_string())?;
    let stream = dial(uri, &Trust::System).await.map_err(|e| match e {
        farm_client::DialError::Away(why) => io_in_short(&why),
        other => other.to_string(),
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| in_short(&e))?;
    let connection = tokio::spawn(connection);
    let answered = async {
        let answer = sender.send_request(request).await.map_err(|e| in_short(&e))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MOST).collect().await;
        let body = body.map_err(|e| format!("its answer can't be read: {e}"))?.to_bytes();
        Ok(Answer { status, body })
    };
    let answered = answered.await;
    connection.abort();
    answered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_goes_to_no_other_machine_in_the_clear() {
        let other = Uri::from_static("http://192.0.2.1/token");
        let why = get(&other, "application/json", "bearer secret").await.unwrap_err();
        assert!(why.contains("https://") && !why.contains("secret"), "{why}");
    }
}
