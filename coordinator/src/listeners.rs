//! The listeners beside the one for gRPC, by purpose: webhooks and pages. Two purposes at one address share a listener.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use http::Request;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::hooks::deliver::Hooks;
use crate::http::serve::serve;
use crate::shared::Shared;
use crate::tls::Peer;
use crate::web::Web;

/// A listener, bound.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    /// All of its connections are encrypted.
    speaks_tls: bool,
    hooks: bool,
    web: bool,
}

/// Those that the configuration names.
///
/// # Errors
/// An address can't be listened on.
pub(crate) async fn bind(shared: &Shared) -> anyhow::Result<Vec<Bound>> {
    let config = &shared.config;
    let (hooks, web) = (config.hooks.listen, config.web.listen);
    // Port 0 is another one each time.
    let is_one = hooks == web && hooks.is_some_and(|listen| listen.port() != 0);
    let mut bound = Vec::new();
    if let Some(listen) = hooks {
        let listener = listen_on(listen, "webhooks", "--hooks-listen").await?;
        bound.push(Bound { listener, speaks_tls: config.hooks_speak_tls(), hooks: true, web: is_one });
    }
    if let Some(listen) = web.filter(|_| !is_one) {
        let listener = listen_on(listen, "pages", "--web-listen").await?;
        bound.push(Bound { listener, speaks_tls: config.web_speaks_tls(), hooks: false, web: true });
    }
    for Bound { listener, speaks_tls, hooks, web } in &bound {
        let scheme = if *speaks_tls { "https" } else { "http" };
        let address = listener.local_addr()?;
        let listen = format!("{scheme}://{address}");
        if *hooks {
            tracing::info!(listen, "webhooks are taken");
        }
        if *web {
            tracing::info!(listen, "pages are shown");
        }
        if !speaks_tls && !address.ip().is_loopback() {
            tracing::warn!(%address, "webhooks or pages go without TLS (--insecure-plaintext): whoever is between reads them");
        }
    }
    Ok(bound)
}

async fn listen_on(listen: SocketAddr, what: &str, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(listen)
        .await
        .with_context(|| format!("{listen} can't be listened on for {what}; choose another with {flag}"))
}

/// Serves on all of them until `shutdown`.
pub(crate) async fn run(shared: Arc<Shared>, bound: Vec<Bound>, shutdown: CancellationToken) {
    let (hooks, web) = (Hooks::new(Arc::clone(&shared)), Web::new(Arc::clone(&shared)));
    let mut serving = JoinSet::new();
    for Bound { listener, speaks_tls, hooks: has_hooks, web: has_web } in bound {
        let side = match shared.tls.as_ref().map(|tls| tls.http1(!speaks_tls)).transpose() {
            Ok(side) => side,
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "nothing can be served by HTTP: a bug");
                return;
            }
        };
        let (hooks, web) = (hooks.clone(), web.clone());
        let handler = move |peer: Peer, request: Request<Incoming>| {
            let (hooks, web) = (hooks.clone(), web.clone());
            async move {
                let is_delivery = has_hooks && (!has_web || Hooks::is_delivery(request.uri().path()));
                match is_delivery {
                    true => hooks.answer(&peer, request).await,
                    false => Box::pin(web.answer(&peer, request)).await,
                }
            }
        };
        let doors = Arc::clone(&shared.doors);
        serving.spawn(serve(listener, side, doors, handler, shutdown.clone()).in_current_span());
    }
    // Where there is no listener it lasts as long as the others.
    shutdown.cancelled().await;
    while serving.join_next().await.is_some() {}
}
