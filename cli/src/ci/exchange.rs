//! What a job's tokens are exchanged for: a token of the farm's, which is in memory only, and another one before its time is over.
//!
//! Invariant: at any moment one exchange is under way at most, and whoever needs a token waits for it. A token of FARM_ID_TOKEN is
//! shown once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use farm_client::{Bearer, Returns, come_back};
use farm_proto::v1::trust_service_client::TrustServiceClient;
use farm_proto::v1::{ExchangeTokenRequest, ExchangeTokenResponse, GetAudienceRequest};
use farm_types::{Backoff, ProjectName, Waits};
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use hyper::HeaderMap;
use hyper::Uri;
use serde_json::{Map, Value};
use tonic::{Code, Status};

use super::{Job, no_project};
use crate::again::{come_again, through};
use crate::error::{Error, Result, is_connection};
use crate::limits::Limited;

/// A call that begins so shortly before a token's end gets the next one.
const MARGIN: Duration = Duration::from_secs(60);
/// How often an exchange is tried while the connection breaks, and the pauses.
const TRIES: u32 = 4;
const WAITS: Waits = Waits::new(Duration::from_millis(250), Duration::from_secs(2));

/// How long a token counts if the farm doesn't say it: one of an earlier version, whose tokens have 15 minutes.
const UNSAID: Duration = Duration::from_secs(600);

/// A token of the farm's.
#[derive(Debug, Clone)]
pub struct Given {
    bearer: Bearer,
    /// From then on calls get another.
    until: Instant,
    /// Somebody was let in by it.
    works: Arc<AtomicBool>,
}

impl Given {
    /// Puts it into the headers of a call.
    pub fn sign(&self, headers: &mut HeaderMap) {
        self.bearer.sign(headers);
    }
}

type Asking = Shared<BoxFuture<'static, Result<Given, Status>>>;

#[derive(Default)]
struct State {
    given: Option<Given>,
    asking: Option<Asking>,
}

/// Exchanges a job's tokens at one farm.
pub struct Exchange {
    job: Job,
    farm: TrustServiceClient<Limited>,
    url: String,
    project: ProjectName,
    audience: String,
    state: Mutex<State>,
}

impl Exchange {
    /// The first exchange. `hosts` are those that the farm is called by.
    ///
    /// # Errors
    /// Nobody said in which project, the farm refuses, or the job gets no token.
    pub async fn begin(
        job: Job,
        endpoints: Limited,
        url: &str,
        hosts: &[String],
        project: Option<ProjectName>,
    ) -> Result<Arc<Self>> {
        let project = project.ok_or_else(no_project)?;
        let farm = TrustServiceClient::new(endpoints);
        let audience = match &job {
            Job::Github { .. } => audience(&farm, url, hosts).await?,
            // It is made already.
            Job::Given(_) => String::new(),
        };
        let exchange = Self { job, farm, url: url.to_owned(), project, audience, state: Mutex::default() };
        let mut backoff = Backoff::new(WAITS);
        let (mut tried, mut returns) = (1, Returns::default());
        let given = loop {
            let token = exchange.job.token(&exchange.audience).await?;
            match exchange.show(&token).await {
                Ok(given) => break given,
                // Nothing was taken of the token.
                Err(status) if come_back(&status).is_some() => {
                    let waited = come_again(&mut returns, &status).await;
                    waited.map_err(|status| exchange.refused(&status, &token))?;
                }
                Err(status) if is_connection(&status) && tried < TRIES => {
                    tokio::time::sleep(backoff.next_wait()).await;
                    tried += 1;
                }
                Err(status) => return Err(exchange.refused(&status, &token)),
            }
        };
        exchange.state.lock().unwrap_or_else(PoisonError::into_inner).given = Some(given);
        Ok(Arc::new(exchange))
    }

    /// What the next call is made with.
    ///
    /// # Errors
    /// The time of the one before is over, and there is no other.
    pub async fn given(self: &Arc<Self>) -> Result<Given, Status> {
        let asking = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match &state.given {
                Some(given) if !self.job.renews() || Instant::now() < given.until => return Ok(given.clone()),
                _ => state.asking.get_or_insert_with(|| Arc::clone(self).renew().boxed().shared()).clone(),
            }
        };
        asking.await
    }

    async fn renew(self: Arc<Self>) -> Result<Given, Status> {
        let renewed = async {
            let token = self.job.token(&self.audience).await;
            // The farm isn't asked then; whoever calls tries again for a while, as GitHub may be away for a moment.
            let token = token.map_err(|error| Status::unavailable(error.to_string()))?;
            let why = |status: Status| match status.code() {
                Code::Unauthenticated => Status::permission_denied(format!(
                    "it took the token {} before and does no more: {}",
                    self.job.source(),
                    status.message()
                )),
                _ => status,
            };
            self.show(&token).await.map_err(why)
        };
        let renewed = renewed.await;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.asking = None;
        state.given = renewed.as_ref().ok().cloned();
        renewed
    }

    async fn show(&self, token: &str) -> Result<Given, Status> {
        let asked = Instant::now();
        let request = ExchangeTokenRequest { token: token.to_owned(), project: self.project.to_string() };
        let answer = self.farm.clone().exchange_token(request).await?.into_inner();
        let ExchangeTokenResponse { secret, lives_seconds, .. } = answer;
        let unfit = |_| Status::internal("the farm gave what is no token");
        let bearer: Bearer = secret.parse().map_err(unfit)?;
        let bearer = bearer.in_project(self.project.as_str()).map_err(unfit)?;
        Ok(Given { bearer, until: asked + counts(lives_seconds), works: Arc::default() })
    }

    /// Looks at what the farm says to a call that was made with this, in headers or behind the body; changes what only means
    /// that its time was over: whoever calls makes such a call again, as when a connection breaks.
    pub fn heard(&self, given: &Given, headers: &mut HeaderMap) {
        let status = match Status::from_header_map(headers) {
            Some(status) if status.code() == Code::Unauthenticated => status,
            _ => return given.works.store(true, Ordering::Relaxed),
        };
        if !given.works.load(Ordering::Relaxed) {
            return;
        }
        let over = if self.job.renews() {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let is_this = |now: &Given| Arc::ptr_eq(&now.works, &given.works);
            if state.given.as_ref().is_some_and(is_this) {
                state.given = None;
            }
            Status::unavailable(format!("another token is needed: {}", status.message()))
        } else {
            Status::permission_denied(
                "the time is over for which it let this command in by FARM_ID_TOKEN, and such a token is taken once. What was \
                 submitted goes on; another command with a new token can follow it (`farm attach`)",
            )
        };
        for name in ["grpc-status", "grpc-message", "grpc-status-details-bin"] {
            headers.remove(name);
        }
        // It is of ASCII, or escaped.
        let _ = over.add_header(headers);
    }

    /// What the farm's refusal means for whoever has written the job.
    fn refused(&self, status: &Status, token: &str) -> Error {
        let (farm, text) = (format!("the farm at {}", self.url), status.message());
        match status.code() {
            Code::Unauthenticated => {
                let once = if text.contains("used before") && !self.job.renews() {
                    ". One that is in FARM_ID_TOKEN serves one command: give the job another for each (in GitLab one more \
                     entry in id_tokens)"
                } else {
                    ""
                };
                Error::Farm(format!("{farm} doesn't take the token {}: {text}{once}", self.job.source()))
            }
            Code::PermissionDenied => {
                let add = text
                    .contains("can add a trust for it")
                    .then(|| line(token, self.project.as_str()))
                    .flatten();
                let add = add.map(|line| format!("\nThe line for that, if it is what you mean:\n  {line}"));
                Error::Farm(format!("{farm} refuses: {text}{}", add.unwrap_or_default()))
            }
            _ => Error::from_status(status, &self.url),
        }
    }
}

/// Whom tokens for this farm are made for: what FARM_AUDIENCE says, else what the farm says if that is its own address. Of another
/// one's it could make use elsewhere.
async fn audience(farm: &TrustServiceClient<Limited>, url: &str, hosts: &[String]) -> Result<String> {
    if let Some(said) = std::env::var("FARM_AUDIENCE").ok().filter(|said| !said.is_empty()) {
        return Ok(said);
    }
    let asked = through(async || farm.clone().get_audience(GetAudienceRequest {}).await).await;
    let audience = asked.map_err(|status| Error::from_status(&status, url))?.audience;
    if is_own(&audience, hosts) {
        return Ok(audience);
    }
    Err(Error::Farm(format!(
        "the farm at {url} wants a token that is made for {audience:?}, which isn't the address that it is called by, and might \
         show it there. If that is this farm's name, set FARM_AUDIENCE={audience}"
    )))
}

/// For how long calls are made with a token that lives so long.
fn counts(lives_seconds: u64) -> Duration {
    let lives = if lives_seconds == 0 { UNSAID } else { Duration::from_secs(lives_seconds) };
    lives.saturating_sub(MARGIN.min(lives / 2))
}

fn is_own(audience: &str, hosts: &[String]) -> bool {
    let host = audience.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    host.is_some_and(|host| hosts.iter().any(|own| own.eq_ignore_ascii_case(&host)))
}

/// The command by which an admin would trust what this token is about, if it says so in words that a shell leaves alone.
fn line(token: &str, project: &str) -> Option<String> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Map<String, Value> = serde_json::from_slice(&claims).ok()?;
    let says = |claim: &str| {
        let text = match claims.get(claim)? {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => return None,
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@=".contains(c);
        (!text.is_empty() && !text.starts_with('-') && text.chars().all(is_plain)).then_some(text)
    };
    let issuer = says("iss")?;
    let of = |own: &str| if issuer == own { String::new() } else { format!(" --issuer {issuer}") };
    let what = if let (Some(name), Some(id), Some(owner)) =
        (says("repository"), says("repository_id"), says("repository_owner_id"))
    {
        let issuer = of("https://token.actions.githubusercontent.com");
        format!("github {name} --repository-id {id} --owner-id {owner}{issuer}")
    } else if let (Some(name), Some(id), Some(group)) =
        (says("project_path"), says("project_id"), says("namespace_id"))
    {
        format!("gitlab {name} --project-id {id} --namespace-id {group}{}", of("https://gitlab.com"))
    } else {
        format!("other --issuer {issuer} --claim sub={}", says("sub")?)
    };
    Some(format!("farm trust add {what} --role builder --project {project}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_farm_gets_no_token_that_is_made_for_others() {
        let hosts = ["farm.example".to_owned(), "10.0.0.9".to_owned()];
        for own in ["https://farm.example", "https://FARM.example:7070/", "http://10.0.0.9:1"] {
            assert!(is_own(own, &hosts), "{own}");
        }
        for other in
            ["sts.amazonaws.com", "https://github.com/acme", "https://farm.example.evil", "", "farm example"]
        {
            assert!(!is_own(other, &hosts), "{other}");
        }
    }

    #[test]
    fn a_token_whose_life_isn_t_told_isn_t_over_at_once() {
        assert_eq!([900, 60, 0].map(counts), [840, 30, 540].map(Duration::from_secs));
    }

    #[test]
    fn an_admin_gets_the_line_for_what_a_token_is_about() {
        let token = |claims: Value| format!("x.{}.y", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let github = json!({"iss": "https://token.actions.githubusercontent.com", "repository": "acme/app",
            "repository_id": "74", "repository_owner_id": 65, "sub": "repo:acme/app"});
        assert_eq!(
            line(&token(github), "web").unwrap(),
            "farm trust add github acme/app --repository-id 74 --owner-id 65 --role builder --project web"
        );
        let gitlab = json!({"iss": "https://git.example", "project_path": "a/b/c", "project_id": "1", "namespace_id": "2"});
        assert_eq!(
            line(&token(gitlab), "web").unwrap(),
            "farm trust add gitlab a/b/c --project-id 1 --namespace-id 2 --issuer https://git.example --role builder --project web"
        );
        let other = json!({"iss": "https://i.example", "sub": "robot-7"});
        assert!(
            line(&token(other), "web")
                .unwrap()
                .contains("other --issuer https://i.example --claim sub=robot-7")
        );
        for odd in [
            json!({"iss": "https://i", "sub": "$(x)"}),
            json!({"iss": "https://i", "sub": "--yes"}),
            json!({"sub": "x"}),
        ] {
            assert_eq!(line(&token(odd), "web"), None);
        }
        assert_eq!(line("nothing", "web"), None);
    }
}
