//! An issuer's token for a while as somebody in a project.
//!
//! What a caller learns of a project is the same whether it isn't there, trusts nobody, or trusts others: [`Refused::Untrusted`]
//! with one text. More is told only to whom a rule of the project is about.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use farm_store::Store;
use farm_store::people::replay::{Taken, Use};
use farm_store::people::trust::Trust;
use farm_types::{Digest, ProjectId, Role};
use uuid::Uuid;

use super::claims::{self, Claims, LEEWAY};
use super::fetch::Fetch;
use super::issuer::{IssuerUrl, Issuers};
use super::jws::Jws;
use super::refused::{Refused, shown};
use super::trust::{Mismatch, Provider, Rule, Subject, Wants, in_short, subject};
use super::{Settings, trust};

/// For how long a caller is let in by one token.
pub const LIFE: Duration = Duration::from_secs(15 * 60);

/// So many characters of a token are shown in lists and logs.
const HINT: usize = 12;

/// Who a token has shown, and what shows them from now on.
#[derive(Clone)]
pub struct Exchanged {
    /// The farm's token.
    pub secret: String,
    /// Its first characters.
    pub hint: String,
    /// Where they are let in.
    pub project: ProjectId,
    /// What they may do there.
    pub role: Role,
    /// The trust by which they are.
    pub trust: Uuid,
    /// Whose token it was.
    pub issuer: String,
    /// Who they are, within the issuer.
    pub subject: Subject,
    /// Until when.
    pub ends: DateTime<Utc>,
}

impl std::fmt::Debug for Exchanged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { hint, project, role, trust, subject, .. } = self;
        write!(f, "Exchanged({hint}, {project}, {role}, {trust}, {subject:?})")
    }
}

/// Exchanges tokens.
#[derive(Debug)]
pub struct Exchange {
    issuers: Issuers,
    /// Whom tokens should be made for, as messages name it.
    audience: String,
}

impl Exchange {
    /// Asks issuers by `fetch`; `audience` is what messages tell people to have tokens made for.
    pub fn new(fetch: Arc<dyn Fetch>, settings: Settings, audience: String) -> Self {
        Self { issuers: Issuers::new(fetch, settings), audience }
    }

    /// A token of the farm's for whom this one shows, in the project of this name. Each is taken once. `address` is where it came
    /// from, for the audit.
    ///
    /// # Errors
    /// It shows nobody, nobody whom the project trusts, or can't be verified now.
    pub async fn exchange(
        &self,
        store: &Store,
        address: &str,
        project: &str,
        token: &str,
        now: Instant,
    ) -> Result<Exchanged, Refused> {
        let token = Jws::read(token)?;
        // Before the issuer is asked for anything: only what is trusted somewhere on this farm is.
        let issuer = token.issuer()?.to_owned();
        let known = issuer.parse::<IssuerUrl>().ok();
        let audiences = match known {
            Some(_) => store.trusted_audiences(&issuer).await?,
            None => Vec::new(),
        };
        let Some(url) = known.filter(|_| !audiences.is_empty()) else {
            return Err(Refused::Untrusted(format!(
                "this farm takes no tokens of {} (iss); an admin of your project can add a trust for it",
                shown(&issuer)
            )));
        };
        let signed = token.signed();
        let said = self.issuers.verify(&url, token, now).await?;
        let now = store.now().await?;
        let ends = claims::ends(&said, now)?;
        if !audiences.iter().any(|audience| claims::is_for(&said, audience)) {
            return Err(Refused::Token(format!(
                "the token was made for {} (aud) and not for this farm; ask its issuer for one with the audience {:?}",
                claims::audience(&said),
                self.audience
            )));
        }
        let identity = claims::identity(&said, signed)?;
        let trusts = store.trusts_of_issuer(project, &issuer).await?;
        let (trust, rule) =
            best(&trusts, &said).map_err(|(provider, why)| refusal(project, provider, &said, why))?;
        let subject = subject(rule.provider, &said)
            .ok_or_else(|| Refused::Token("the token doesn't say whom it is about (sub)".to_owned()))?;
        let random: [u8; 32] = rand::random();
        let secret = format!("farm_o_{}", Digest::from(random).hex());
        let hint = secret.get(..HINT).unwrap_or_default().to_owned();
        let taken = Taken {
            issuer: &issuer,
            identity: &identity,
            until: ends + TimeDelta::seconds(LEEWAY),
            project: trust.project,
            trust: trust.id,
            role: rule.role,
            // No issuer has a space in its URL, so nobody can be taken for another's.
            principal: &format!("{} {}", issuer.strip_prefix("https://").unwrap_or(&issuer), subject.id),
            shown_as: &subject.name,
            digest: Digest::of(secret.as_bytes()),
            hint: &hint,
            lives: LIFE,
            address,
            claims: &trust::job_claims(rule.provider, &said),
        };
        let ends = match store.exchange_token(&taken).await? {
            Use::First(ends) => ends,
            Use::Again => {
                return Err(Refused::Token(
                    "the token was used before, and each is taken once; get a new one from its issuer, or keep what the \
                     first use gave"
                        .to_owned(),
                ));
            }
            Use::Revoked => return Err(refusal(project, rule.provider, &said, Mismatch::Stranger)),
        };
        let (project, trust) = (trust.project, trust.id);
        Ok(Exchanged { secret, hint, project, role: rule.role, trust, issuer, subject, ends })
    }
}

/// The trust that fits and gives the most; else what is most worth to be told.
fn best<'t>(trusts: &'t [Trust], said: &Claims) -> Result<(&'t Trust, Rule), (Provider, Mismatch)> {
    let mut fitting: Option<(&Trust, Rule)> = None;
    let mut told = (provider_of(said), Mismatch::Stranger);
    for trust in trusts {
        let rule = match rule(trust) {
            Ok(rule) => rule,
            Err(why) => {
                tracing::error!(trust = %trust.id, why, "a trust can't be read, so it trusts nobody");
                continue;
            }
        };
        let fits = rule.fits(said).and_then(|()| match claims::is_for(said, &rule.audience) {
            true => Ok(()),
            false => Err(Mismatch::Condition {
                claim: "aud".to_owned(),
                has: Some(claims::audience(said)),
                wants: rule.audience.clone(),
            }),
        });
        match fits {
            Ok(()) if fitting.as_ref().is_none_or(|(_, before)| before.role < rule.role) => {
                fitting = Some((trust, rule));
            }
            Ok(()) => {}
            Err(why) if why > told.1 => told = (rule.provider, why),
            Err(_) => {}
        }
    }
    fitting.ok_or(told)
}

/// A trust as it is in the database.
///
/// # Errors
/// It makes no sense.
pub fn rule(trust: &Trust) -> Result<Rule, String> {
    let wants: Wants = serde_json::from_value(trust.claims.clone()).map_err(|why| why.to_string())?;
    let rule = Rule {
        id: trust.id,
        provider: trust.provider.parse().map_err(|why: farm_types::Invalid| why.to_string())?,
        issuer: trust.issuer.clone(),
        name: trust.name.clone(),
        audience: trust.audience.clone(),
        wants,
        role: trust.role,
    };
    rule.check().map_err(|why| why.to_string())?;
    Ok(rule)
}

/// By what is in it, whoever's rules there are: what a stranger is told must not hang on them.
fn provider_of(said: &Claims) -> Provider {
    let has = |claim: &str| said.contains_key(claim);
    if has("repository_id") && has("repository_owner_id") {
        Provider::Github
    } else if has("project_id") && has("namespace_id") {
        Provider::Gitlab
    } else {
        Provider::Other
    }
}

fn refusal(project: &str, provider: Provider, said: &Claims, why: Mismatch) -> Refused {
    let project = shown(project);
    let has = |claim: &str, has: Option<String>| match has {
        Some(has) => format!("its {claim} is {}", shown(&has)),
        None => format!("it has no {claim}"),
    };
    Refused::Untrusted(match why {
        Mismatch::Stranger => format!(
            "no project {project} trusts this token ({}); an admin of the project can add a trust for it",
            in_short(provider_of(said), said)
        ),
        Mismatch::Renamed { claim, has: value, name } => format!(
            "the project {project} trusts another {name}: this token's has the same name, and {}. If it is the one that is \
             meant, an admin of the project removes that trust and adds it anew",
            has(&claim, value)
        ),
        Mismatch::Condition { claim, has: value, wants } => format!(
            "the project {project} trusts this token's {} if {claim} is {}, and {}; an admin of the project can change that",
            trust::thing(provider),
            shown(&wants),
            has(&claim, value)
        ),
    })
}
