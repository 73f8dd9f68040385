//! What a project trusts, and tokens of issuers for tokens of the farm's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use farm_proto::v1;
use farm_proto::v1::trust_service_server::TrustService;
use farm_store::StoreError;
use farm_store::people::trust::{NewTrust, Trust};
use farm_types::{Invalid, ProjectName};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{millis, millis_of};
use crate::grpc::status;
use crate::limits::address::Origin;
use crate::people;
use crate::people::oidc::exchange;
use crate::people::oidc::issuer::IssuerUrl;
use crate::people::oidc::trust::{GITHUB, GITLAB, Provider, Rule, Wants};
use crate::shared::Shared;

/// The longest audience, bytes; and the longest name of what is trusted.
const LONGEST: usize = 255;

/// Serves [`TrustService`].
#[derive(Debug)]
pub struct Trusts {
    shared: Arc<Shared>,
}

impl Trusts {
    /// What they are kept with.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// What is asked for, if it trusts what somebody may mean.
    fn rule(&self, asked: v1::AddTrustRequest) -> Result<Rule, Invalid> {
        let provider: Provider = asked.provider.parse()?;
        let own = match provider {
            Provider::Github => GITHUB,
            Provider::Gitlab => GITLAB,
            Provider::Other => "",
        };
        let issuer = if asked.issuer.is_empty() { own } else { &asked.issuer };
        let issuer: IssuerUrl = issuer.parse()?;
        let audience = if asked.audience.is_empty() { self.shared.config.audience() } else { asked.audience };
        let name = if asked.name.is_empty() { issuer.to_string() } else { asked.name };
        for (thing, text) in [("audience", &audience), ("name", &name)] {
            if text.len() > LONGEST || text.chars().any(char::is_control) {
                return Err(Invalid::new(thing, text, format!("write at most {LONGEST} bytes in one line")));
            }
        }
        let wants = asked.claims.into_iter().map(|(claim, values)| (claim, values.values));
        let rule = Rule {
            id: Uuid::nil(),
            provider,
            issuer: issuer.as_str().to_owned(),
            name,
            audience,
            wants: Wants(wants.collect()),
            role: asked.role.parse()?,
        };
        rule.check_new()?;
        Ok(rule)
    }
}

fn present(trust: Trust) -> v1::Trust {
    // Those that farm has written are all of this form.
    let claims: BTreeMap<String, Vec<String>> = serde_json::from_value(trust.claims).unwrap_or_default();
    v1::Trust {
        id: trust.id.to_string(),
        provider: trust.provider,
        issuer: trust.issuer,
        audience: trust.audience,
        name: trust.name,
        claims: claims.into_iter().map(|(claim, values)| (claim, v1::ClaimValues { values })).collect(),
        role: trust.role.to_string(),
        created_by: trust.created_by,
        created_ms: millis(trust.created_at),
        last_used_ms: millis_of(trust.last_used_at),
    }
}

#[farm_calls::service]
impl TrustService for Trusts {
    async fn get_audience(
        &self,
        _: Request<v1::GetAudienceRequest>,
    ) -> Result<Response<v1::GetAudienceResponse>, Status> {
        Ok(Response::new(v1::GetAudienceResponse { audience: self.shared.config.audience() }))
    }

    async fn exchange_token(
        &self,
        request: Request<v1::ExchangeTokenRequest>,
    ) -> Result<Response<v1::ExchangeTokenResponse>, Status> {
        let origin = request.extensions().get::<Origin>();
        let address = origin.map(|Origin(address)| address.to_string()).unwrap_or_default();
        let v1::ExchangeTokenRequest { token, project } = request.into_inner();
        let project: ProjectName = project.parse().map_err(status::invalid)?;
        let (exchanges, now) = (&self.shared.exchange, Instant::now());
        let exchanged = exchanges.exchange(&self.shared.store, &address, project.as_str(), &token, now).await;
        let exchanged = exchanged.map_err(status::refused)?;
        let name = exchanged.subject.name;
        tracing::info!(who = name, %project, role = %exchanged.role, token = exchanged.hint, "token of an issuer exchanged");
        Ok(Response::new(v1::ExchangeTokenResponse {
            secret: exchanged.secret,
            name,
            role: exchanged.role.to_string(),
            expires_ms: millis(exchanged.ends),
            lives_seconds: exchange::LIFE.as_secs(),
        }))
    }

    async fn add_trust(
        &self,
        request: Request<v1::AddTrustRequest>,
    ) -> Result<Response<v1::AddTrustResponse>, Status> {
        let member = people::member(&request)?;
        let rule = self.rule(request.into_inner()).map_err(status::invalid)?;
        let Rule { provider, issuer, name, audience, wants, role, .. } = rule;
        let claims =
            serde_json::to_value(wants).map_err(|error| status::store(StoreError::corrupt(error)))?;
        let provider = provider.as_str().to_owned();
        let new = NewTrust { project: member.project, issuer, audience, provider, name, claims, role };
        let trust = self.shared.store.add_trust(&member.caller.by(), &new).await.map_err(status::store)?;
        let project = member.project_name;
        tracing::info!(%project, trust = trust.name, role = %trust.role, by = member.name, "trust added");
        let project = project.to_string();
        Ok(Response::new(v1::AddTrustResponse { trust: Some(present(trust)), project }))
    }

    async fn list_trusts(
        &self,
        request: Request<v1::ListTrustsRequest>,
    ) -> Result<Response<v1::ListTrustsResponse>, Status> {
        let member = people::member(&request)?;
        let trusts = self.shared.store.trusts(member.project).await.map_err(status::store)?;
        let (trusts, project) = (trusts.into_iter().map(present).collect(), member.project_name.to_string());
        Ok(Response::new(v1::ListTrustsResponse { trusts, project }))
    }

    async fn remove_trust(
        &self,
        request: Request<v1::RemoveTrustRequest>,
    ) -> Result<Response<v1::RemoveTrustResponse>, Status> {
        let member = people::member(&request)?;
        let id = request.into_inner().id;
        let none = || {
            let cure = "the project has no such trust; `farm trust ls` says which there are";
            status::invalid(Invalid::new("trust", &id, cure))
        };
        let trust = Uuid::try_parse(&id).map_err(|_| none())?;
        match self.shared.store.revoke_trust(&member.caller.by(), member.project, trust).await {
            Ok(()) => {}
            Err(StoreError::NotFound(_)) => return Err(none()),
            Err(error) => return Err(status::store(error)),
        }
        tracing::info!(project = %member.project_name, %trust, by = member.name, "trust removed");
        Ok(Response::new(v1::RemoveTrustResponse { project: member.project_name.to_string() }))
    }
}
