//! The client: judges, sends, and follows redirects itself, since whoever follows them must judge them.

use std::sync::Arc;
use std::time::Duration;

use farm_types::chain::chain;
use reqwest::dns::{Name, Resolve};
use reqwest::header::{AUTHORIZATION, LOCATION};
use reqwest::{Certificate, Method, Request, RequestBuilder, Response, StatusCode, Url};

use super::dial::Judge;
use super::rules::{Dial, Place, Refused, Rules, Why, place};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a name is looked up before anything is to be sent there.
const LOOK: Duration = Duration::from_secs(2);
/// As many redirects are followed.
const MOST_HOPS: usize = 5;

/// Sends requests to where they may go. Cheap to clone; connections are kept and shared.
#[derive(Clone)]
pub struct Client {
    rules: Arc<Rules>,
    resolver: Arc<dyn Resolve>,
    named: reqwest::Client,
    judged: reqwest::Client,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failed {
    /// It may not be asked there. `is_led`: the request itself might have been sent, a redirect led there.
    Refused { refused: Refused, is_led: bool },
    /// Each answer led elsewhere.
    Endless,
    /// It can't be reached, or is no HTTP.
    Request(reqwest::Error),
}

impl Client {
    pub(super) fn new(
        rules: Arc<Rules>,
        resolver: Arc<dyn Resolve>,
        roots: Vec<Certificate>,
    ) -> Result<Self, reqwest::Error> {
        let build = |resolver: Arc<dyn Resolve>| {
            #[expect(clippy::disallowed_methods, reason = "this is the client that is guarded")]
            let builder = reqwest::Client::builder();
            builder
                .connect_timeout(CONNECT)
                .redirect(reqwest::redirect::Policy::none())
                .user_agent(concat!("farm/", env!("CARGO_PKG_VERSION")))
                .tls_certs_merge(roots.clone())
                .dns_resolver(resolver)
                .build()
        };
        let named = build(Arc::clone(&resolver))?;
        let judge = Judge { rules: Arc::clone(&rules), inner: Arc::clone(&resolver) };
        let judged = build(Arc::new(judge))?;
        Ok(Self { rules, resolver, named, judged })
    }

    /// A request to be sent by [`Client::send`].
    pub fn request(&self, method: Method, url: &str) -> RequestBuilder {
        self.named.request(method, url)
    }

    /// Sends a request, and follows what leads elsewhere. A login stays behind when the place changes. What isn't a read is
    /// followed only to the same host, and only where the method stays.
    ///
    /// # Errors
    /// It may not go there or where it is led; or there is no answer.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Failed> {
        self.go(request, &[]).await
    }

    /// The same to a place that this request may go to whatever its address is.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn send_to(&self, place: &Place, request: RequestBuilder) -> Result<Response, Failed> {
        self.go(request, std::slice::from_ref(place)).await
    }

    async fn go(&self, request: RequestBuilder, also: &[Place]) -> Result<Response, Failed> {
        let mut request = request.build().map_err(Failed::Request)?;
        for hop in 0..=MOST_HOPS {
            let is_led = hop > 0;
            let refused = |refused: Refused| Failed::Refused { refused, is_led };
            let mut dial = self.rules.of_url(request.url());
            if also.iter().any(|place| place.is_of(request.url()))
                && !matches!(dial, Err(Refused { why: Why::Form(_), .. }))
            {
                dial = Ok(Dial::Named);
            }
            let client = match dial.map_err(refused)? {
                Dial::Named => &self.named,
                Dial::Judged => &self.judged,
            };
            let next = request.try_clone();
            let at = place(request.url());
            let response = client.execute(request).await.map_err(|error| {
                let found = chain(&error).find_map(|cause| cause.downcast_ref::<Refused>()).cloned();
                // The resolver knows no port.
                found.map_or(Failed::Request(error), |found| refused(Refused { place: at, ..found }))
            })?;
            let Some(mut next) = next else { return Ok(response) };
            let Some(url) = led_to(&response, next.method()) else { return Ok(response) };
            if next.url().scheme() == "https" && url.scheme() == "http" && !self.rules.names(&url) {
                let refused = Refused { place: place(&url), why: Why::Downgrade };
                return Err(Failed::Refused { refused, is_led: true });
            }
            lead(&mut next, url);
            request = next;
        }
        Err(Failed::Endless)
    }

    /// Whether a request could go there, as far as that can be told beforehand: names are looked up, and judged again
    /// when they are dialled. What can't be looked up is left to that.
    ///
    /// # Errors
    /// It would be refused.
    pub async fn look(&self, url: &Url) -> Result<(), Refused> {
        // Behind a proxy names are the proxy's to look up.
        if self.rules.of_url(url)? == Dial::Named || !self.rules.proxies.is_empty() {
            return Ok(());
        }
        let host = url.host_str().unwrap_or_default();
        let Ok(name) = host.parse::<Name>() else { return Ok(()) };
        if host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok() {
            return Ok(());
        }
        let Ok(Ok(found)) = tokio::time::timeout(LOOK, self.resolver.resolve(name)).await else {
            return Ok(());
        };
        for address in found {
            self.rules.of_address(address.ip()).map_err(|why| Refused { place: place(url), why })?;
        }
        Ok(())
    }
}

/// Where an answer leads a request of this method, if it is to be followed.
fn led_to(response: &Response, method: &Method) -> Option<Url> {
    let keeps_method = [StatusCode::TEMPORARY_REDIRECT, StatusCode::PERMANENT_REDIRECT];
    let is_read = [Method::GET, Method::HEAD].contains(method);
    let moved = [StatusCode::MOVED_PERMANENTLY, StatusCode::FOUND, StatusCode::SEE_OTHER];
    let status = response.status();
    let is_followed = keeps_method.contains(&status) || is_read && moved.contains(&status);
    if !is_followed {
        return None;
    }
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    let url = response.url().join(location).ok()?;
    (is_read || url.host_str() == response.url().host_str()).then_some(url)
}

/// Turns a request to where it was led.
fn lead(request: &mut Request, url: Url) {
    let from = request.url();
    let is_same = from.scheme() == url.scheme()
        && from.host_str() == url.host_str()
        && from.port_or_known_default() == url.port_or_known_default();
    if !is_same {
        request.headers_mut().remove(AUTHORIZATION);
    }
    *request.url_mut() = url;
}
