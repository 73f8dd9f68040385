//! How an issuer's documents come here: the one place where this part of farm goes out.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use farm_types::Invalid;
use farm_types::chain::in_short;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use reqwest::{Client, Url, redirect};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);

/// Gets documents.
pub trait Fetch: fmt::Debug + Send + Sync + 'static {
    /// The document at `url`, of at most `most` bytes; else why it didn't come, in words. Follows no redirect. Whoever calls
    /// bounds the time.
    fn get(&self, url: Url, most: usize) -> BoxFuture<'static, Result<Bytes, String>>;
}

/// Gets them by HTTP.
#[derive(Debug, Clone)]
pub struct Http(Client);

impl Http {
    /// A client that trusts the system's authorities.
    ///
    /// # Errors
    /// The system has no certificates that can be read.
    pub fn new() -> Result<Self, Invalid> {
        // It takes the process's provider, and in tests nobody has chosen one before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .connect_timeout(CONNECT)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("farm/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|why| Invalid::new("client for issuers", "", in_short(&why)))?;
        Ok(Self(client))
    }
}

impl Fetch for Http {
    fn get(&self, url: Url, most: usize) -> BoxFuture<'static, Result<Bytes, String>> {
        let client = self.0.clone();
        async move {
            let sent = client.get(url.clone()).header(http::header::ACCEPT, "application/json").send().await;
            let mut response = sent.map_err(|why| format!("{url} can't be reached: {}", in_short(&why)))?;
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
