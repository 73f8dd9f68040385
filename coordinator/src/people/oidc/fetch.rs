//! How an issuer's documents come here, and how it is asked: the one place where this part of farm goes out.

use std::fmt;

use crate::outbound::{Client, Failed, Method, RequestBuilder, Url};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use farm_types::chain::in_short;
use farm_types::escaped;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::StatusCode;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};

/// What is sent to an issuer, as a form is (application/x-www-form-urlencoded). Its fields may be secrets.
#[derive(Clone, Default)]
pub struct Form {
    /// Names and values.
    pub fields: Vec<(&'static str, String)>,
    /// Who asks, where that isn't a field.
    pub login: Option<Login>,
}

/// Who asks.
#[derive(Debug, Clone)]
pub enum Login {
    /// By name and password (RFC 6749, section 2.3.1).
    Basic(String, SecretString),
    /// By a token (RFC 6750).
    Bearer(SecretString),
}

impl Login {
    fn header(&self) -> Result<HeaderValue, String> {
        let text = match self {
            Self::Basic(name, password) => {
                let login = format!("{}:{}", escaped(name), escaped(password.expose_secret()));
                format!("Basic {}", BASE64.encode(login))
            }
            Self::Bearer(token) => format!("Bearer {}", token.expose_secret()),
        };
        let mut header = HeaderValue::from_str(&text)
            .map_err(|_| "what the farm is to be known by there fits into no header".to_owned())?;
        header.set_sensitive(true);
        Ok(header)
    }
}

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.fields.iter().map(|(name, _)| name)).finish()
    }
}

/// What an issuer answers.
#[derive(Clone)]
pub struct Answer {
    /// Whether it does what was asked.
    pub status: StatusCode,
    /// Of which kind the document is (`Content-Type`), as it says it; empty: it doesn't.
    pub kind: String,
    /// A document, in which there may be secrets.
    pub body: Bytes,
}

/// Gets documents.
pub trait Fetch: fmt::Debug + Send + Sync + 'static {
    /// The document at `url`, for anybody or for whom `login` shows, of at most `most` bytes; else why it didn't come, in words.
    /// Follows no redirect. Whoever calls bounds the time.
    fn get(&self, url: Url, login: Option<Login>, most: usize) -> BoxFuture<'static, Result<Answer, String>>;

    /// What `url` answers to a form, whether that is a yes or a no; the rest as above.
    fn post(&self, url: Url, form: Form, most: usize) -> BoxFuture<'static, Result<Answer, String>>;
}

/// Gets them by HTTP, from where the farm's requests may go.
#[derive(Debug, Clone)]
pub struct Http(Client);

impl Http {
    /// By a client that judges where it is sent.
    pub fn new(client: Client) -> Self {
        Self(client)
    }
}

impl Fetch for Http {
    fn get(&self, url: Url, login: Option<Login>, most: usize) -> BoxFuture<'static, Result<Answer, String>> {
        let client = self.0.clone();
        async move {
            let request = client.request(Method::GET, url.as_str());
            let answer = send(&client, request, login, &url, most).await?;
            match answer.status.is_success() {
                true => Ok(answer),
                false => Err(format!("{url} answers {}", answer.status)),
            }
        }
        .boxed()
    }

    fn post(&self, url: Url, form: Form, most: usize) -> BoxFuture<'static, Result<Answer, String>> {
        let client = self.0.clone();
        async move {
            let request = client.request(Method::POST, url.as_str());
            let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            let fields = form.fields.iter().map(|(name, value)| format!("{name}={}", escaped(value)));
            let body = fields.collect::<Vec<_>>().join("&");
            send(&client, request.body(body), form.login, &url, most).await
        }
        .boxed()
    }
}

async fn send(
    client: &Client,
    request: RequestBuilder,
    login: Option<Login>,
    url: &Url,
    most: usize,
) -> Result<Answer, String> {
    let mut request = request.header(ACCEPT, "application/json");
    if let Some(login) = login {
        request = request.header(AUTHORIZATION, login.header()?);
    }
    let mut response = client.send_straight(request).await.map_err(|why| match why {
        Failed::Refused { refused, .. } => format!("{url} may not be asked: {refused}"),
        Failed::Endless => format!("{url} sends elsewhere"),
        Failed::Request(why) => format!("{url} can't be reached: {}", in_short(&why)),
    })?;
    let status = response.status();
    if status.is_redirection() {
        return Err(format!("{url} sends elsewhere ({status}), which farm doesn't follow"));
    }
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let (kind, mut body) = (kind.to_owned(), Vec::new());
    while let Some(piece) =
        response.chunk().await.map_err(|why| format!("{url} broke off: {}", in_short(&why)))?
    {
        if body.len() + piece.len() > most {
            return Err(format!("{url} says more than {most} bytes"));
        }
        body.extend_from_slice(&piece);
    }
    Ok(Answer { status, kind, body: body.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_says_what_it_asks_and_shows_nothing_of_it() {
        let login = Login::Basic("a:b".into(), "s3cret".into());
        assert_eq!(login.header().unwrap(), format!("Basic {}", BASE64.encode("a%3Ab:s3cret")));
        let form = Form { fields: vec![("code", "s3cret".into())], login: Some(login.clone()) };
        let printed = format!("{form:?} {login:?} {:?}", login.header());
        assert!(printed.starts_with("[\"code\"]") && !printed.contains("s3cret"), "{printed}");
    }
}
