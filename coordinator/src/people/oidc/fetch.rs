//! How an issuer's documents come here: the one place where this part of farm goes out.

use std::fmt;

use crate::outbound::{Client, Failed, Method, Url};
use bytes::Bytes;
use farm_types::chain::in_short;
use futures::FutureExt as _;
use futures::future::BoxFuture;

/// Gets documents.
pub trait Fetch: fmt::Debug + Send + Sync + 'static {
    /// The document at `url`, of at most `most` bytes; else why it didn't come, in words. Follows no redirect. Whoever calls
    /// bounds the time.
    fn get(&self, url: Url, most: usize) -> BoxFuture<'static, Result<Bytes, String>>;
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
    fn get(&self, url: Url, most: usize) -> BoxFuture<'static, Result<Bytes, String>> {
        let client = self.0.clone();
        async move {
            let request = client.request(Method::GET, url.as_str());
            let request = request.header(http::header::ACCEPT, "application/json");
            let mut response = client.send_straight(request).await.map_err(|why| match why {
                Failed::Refused { refused, .. } => format!("{url} may not be asked: {refused}"),
                Failed::Endless => format!("{url} sends elsewhere"),
                Failed::Request(why) => format!("{url} can't be reached: {}", in_short(&why)),
            })?;
            let status = response.status();
            if status.is_redirection() {
                return Err(format!("{url} sends elsewhere ({status}), which farm doesn't follow"));
            }
            if !status.is_success() {
                return Err(format!("{url} answers {status}"));
            }
            let mut body = Vec::new();
            while let Some(piece) =
                response.chunk().await.map_err(|why| format!("{url} broke off: {}", in_short(&why)))?
            {
                if body.len() + piece.len() > most {
                    return Err(format!("{url} says more than {most} bytes"));
                }
                body.extend_from_slice(&piece);
            }
            Ok(body.into())
        }
        .boxed()
    }
}
