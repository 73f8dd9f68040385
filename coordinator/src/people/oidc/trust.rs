//! Which tokens a project trusts: rules over what tokens say. Pure.
//!
//! What a rule is about is told by ids that a provider gives once and never again (a repository's, a project's), since names are
//! given up and taken by others. The rest are conditions: of each claim, one of several values, in which `*` stands for any
//! characters. A name is there for people only.
//!
//! Invariant: what a rule wants is told only to whoever shows a token of the thing that it is about.

use std::collections::BTreeMap;
use std::str::FromStr;

use farm_store::people::principals::JobClaims;
use farm_types::suggest::nearest;
use farm_types::{Invalid, Role};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::claims::Claims;
use super::refused::shown;

/// The issuer of GitHub's own Actions.
pub const GITHUB: &str = "https://token.actions.githubusercontent.com";
/// The issuer of gitlab.com.
pub const GITLAB: &str = "https://gitlab.com";

/// A rule has no more values than this, and they are no longer; bytes.
const MOST_VALUES: usize = 64;
const LONGEST: usize = 255;

/// Whose tokens they are, and so what their claims mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// GitHub Actions.
    Github,
    /// GitLab's CI.
    Gitlab,
    /// Any issuer.
    Other,
}

impl Provider {
    /// All.
    pub const ALL: [Self; 3] = [Self::Github, Self::Gitlab, Self::Other];

    /// The word for it, everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Gitlab => "gitlab",
            Self::Other => "other",
        }
    }

    /// The claims that tell what a token is about: what a rule says of them has to hold before it tells anything. The first
    /// one is what a caller is known by.
    fn ids(self) -> &'static [&'static str] {
        match self {
            Self::Github => &["repository_id", "repository_owner_id"],
            Self::Gitlab => &["project_id", "namespace_id"],
            Self::Other => &["sub"],
        }
    }

    /// The claims that a rule may have conditions on; of others any.
    fn conditions(self) -> &'static [&'static str] {
        match self {
            Self::Github => &[
                "ref",
                "ref_type",
                "ref_protected",
                "environment",
                "event_name",
                "job_workflow_ref",
                "workflow_ref",
                "runner_environment",
                "repository_visibility",
                "actor_id",
            ],
            Self::Gitlab => &[
                "ref",
                "ref_type",
                "ref_protected",
                "environment",
                "environment_protected",
                "deployment_tier",
                "pipeline_source",
                "ci_config_ref_uri",
                "runner_environment",
                "project_visibility",
                "user_id",
            ],
            Self::Other => &[],
        }
    }

    /// How a ref has to be written that no token of this provider would have so.
    fn misread(self, written: &str) -> Option<&'static str> {
        let is_full = written.starts_with("refs/");
        match self {
            Self::Github if !is_full && !written.starts_with('*') => {
                Some("GitHub writes refs in full: refs/heads/main, refs/tags/v*")
            }
            Self::Gitlab if is_full => Some(
                "GitLab writes a ref by its name alone: main; whether it is a branch or a tag is said by ref_type",
            ),
            _ => None,
        }
    }

    /// The name of what the token is about, of its group, and its ref.
    fn names(self) -> [&'static str; 3] {
        match self {
            Self::Github => ["repository", "repository_owner", "ref"],
            Self::Gitlab => ["project_path", "namespace_path", "ref"],
            Self::Other => ["sub", "sub", ""],
        }
    }
}

impl FromStr for Provider {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|provider| provider.as_str() == text).ok_or_else(|| {
            let words = Self::ALL.map(Self::as_str);
            let meant = nearest(text, words).map(|near| format!("did you mean {near}? ")).unwrap_or_default();
            Invalid::new("provider", text, format!("{meant}there are {}", words.join(", ")))
        })
    }
}

/// Of each claim that counts, the values that it may have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Wants(pub BTreeMap<String, Vec<String>>);

/// What a project trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Which one.
    pub id: Uuid,
    /// What the claims mean.
    pub provider: Provider,
    /// Whose tokens they are.
    pub issuer: String,
    /// What it is about, for people: `acme/app`; of a whole group `acme/*`.
    pub name: String,
    /// Whom the tokens have to be made for.
    pub audience: String,
    /// What they have to say.
    pub wants: Wants,
    /// What its tokens may do in the project.
    pub role: Role,
}

/// Why a token doesn't fit a rule; what is worth more to tell comes later.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mismatch {
    /// The rule is about something else.
    Stranger,
    /// The rule is about something that had this name when it was made.
    Renamed {
        /// The id that doesn't fit.
        claim: String,
        /// What the token says of it.
        has: Option<String>,
        /// What the rule is called.
        name: String,
    },
    /// The rule is about this, and wants something else of it.
    Condition {
        /// The claim that doesn't fit.
        claim: String,
        /// What the token says of it.
        has: Option<String>,
        /// What the rule wants.
        wants: String,
    },
}

impl Rule {
    /// Whether tokens that say this are trusted.
    ///
    /// # Errors
    /// What doesn't fit.
    pub fn fits(&self, claims: &Claims) -> Result<(), Mismatch> {
        for claim in self.provider.ids() {
            let Some(wanted) = self.wants.0.get(*claim) else { continue };
            // Compared as it is: an id has no pattern.
            if says(claims, claim).iter().any(|value| wanted.contains(value)) {
                continue;
            }
            let [name, group, _] = self.provider.names();
            let is_named = |claim: &str, name: &str| says(claims, claim).iter().any(|value| value == name);
            let is_same_name = match self.name.strip_suffix("/*") {
                Some(of) => is_named(group, of),
                None => is_named(name, &self.name),
            };
            // Of other issuers the name is what is compared, so the one whom it is about would fit.
            if !is_same_name || self.provider == Provider::Other {
                return Err(Mismatch::Stranger);
            }
            let (claim, has) = ((*claim).to_owned(), says(claims, claim).into_iter().next());
            return Err(Mismatch::Renamed { claim, has, name: self.name.clone() });
        }
        let has_ids = self.provider.ids().iter().any(|claim| self.wants.0.contains_key(*claim));
        for (claim, wanted) in &self.wants.0 {
            let has = says(claims, claim);
            if has.iter().any(|value| wanted.iter().any(|pattern| matches(pattern, value))) {
                continue;
            }
            if !has_ids {
                return Err(Mismatch::Stranger);
            }
            let (has, wants) = (has.into_iter().next(), wanted.join(" or "));
            return Err(Mismatch::Condition { claim: claim.clone(), has, wants });
        }
        if self.provider == Provider::Github && !self.wants.0.contains_key("event_name") {
            let has = says(claims, "event_name").into_iter().next();
            if has.as_deref() == Some(STRANGERS) {
                let (claim, wants) = ("event_name".to_owned(), format!("anything but {STRANGERS}"));
                return Err(Mismatch::Condition { claim, has, wants });
            }
        }
        Ok(())
    }

    /// Refuses a rule that would trust more than anybody means, or never fit.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), Invalid> {
        let wants = &self.wants.0;
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let [thing, group] = match self.provider {
            Provider::Other => {
                // There names would be compared.
                let own = [(GITHUB, Provider::Github), (GITLAB, Provider::Gitlab)];
                if let Some((_, provider)) = own.iter().find(|(issuer, _)| *issuer == self.issuer) {
                    let cure = format!("trust it as {}, so that it is told by its ids", provider.as_str());
                    return Err(Invalid::new("issuer", &self.issuer, cure));
                }
                if wants.is_empty() {
                    let cure = "a trust without a claim trusts all whom the issuer knows; add one, such as sub=VALUE";
                    return Err(Invalid::new("trust", &self.name, cure));
                }
                ["sub", ""]
            }
            Provider::Github => ["repository_id", "repository_owner_id"],
            Provider::Gitlab => ["project_id", "namespace_id"],
        };
        if self.provider != Provider::Other {
            let is_group = self.name.ends_with("/*");
            for claim in [thing, group].into_iter().filter(|claim| *claim == group || !is_group) {
                let values = wants.get(claim).map(Vec::as_slice).unwrap_or_default();
                if values.is_empty() || !values.iter().all(|value| is_number(value)) {
                    let cure = format!(
                        "{} are told apart by {claim}, a number, since names change hands; say it",
                        self.provider.as_str()
                    );
                    return Err(Invalid::new("trust", &self.name, cure));
                }
            }
        }
        for (claim, values) in wants {
            let known = || self.provider.ids().iter().chain(self.provider.conditions()).copied();
            let is_free = self.provider == Provider::Other
                || self.provider == Provider::Github && claim.starts_with("repo_property_");
            if !is_free && !known().any(|known| known == claim) {
                let meant =
                    nearest(claim, known()).map(|near| format!("did you mean {near}? ")).unwrap_or_default();
                let cure = format!(
                    "{meant}{} has {}",
                    self.provider.as_str(),
                    known().collect::<Vec<_>>().join(", ")
                );
                return Err(Invalid::new("claim", claim, cure));
            }
            if ["iss", "aud", "azp", "exp", "nbf", "iat", "jti"].contains(&claim.as_str()) {
                return Err(Invalid::new("claim", claim, "farm looks at this one itself; leave it out"));
            }
            let is_long = |text: &String| text.is_empty() || text.len() > LONGEST;
            if is_long(claim) || values.is_empty() || values.len() > MOST_VALUES || values.iter().any(is_long)
            {
                let cure = format!("write 1 to {MOST_VALUES} values of 1 to {LONGEST} bytes");
                return Err(Invalid::new("claim", claim, cure));
            }
        }
        Ok(())
    }

    /// The same of a rule that is new. One that is kept already and was taken by an earlier version still fits what it did.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_new(&self) -> Result<(), Invalid> {
        self.check()?;
        let refs = self.wants.0.get("ref").map(Vec::as_slice).unwrap_or_default();
        match refs.iter().find_map(|one| Some((one, self.provider.misread(one)?))) {
            Some((wrong, cure)) => Err(Invalid::new("ref", wrong, cure)),
            None => Ok(()),
        }
    }
}

/// Runs with the repository's rights on what strangers send.
const STRANGERS: &str = "pull_request_target";

/// The values that a token says of a claim: one, those of a list, or none. Numbers and truth values are words here, as some issuers
/// write them as such and some don't.
fn says(claims: &Claims, claim: &str) -> Vec<String> {
    let word = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    };
    match claims.get(claim) {
        Some(Value::Array(list)) => list.iter().filter_map(word).collect(),
        Some(value) => word(value).into_iter().collect(),
        None => Vec::new(),
    }
}

/// Whether a text is what a pattern stands for, in which `*` is any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    // Each in its first place leaves the most for those after it.
    let behind = parts.into_iter().try_fold(rest, |rest, part| Some(&rest[rest.find(part)? + part.len()..]));
    behind.is_some_and(|rest| rest.ends_with(last))
}

/// What a token of this provider is about, in a word.
pub fn thing(provider: Provider) -> &'static str {
    match provider {
        Provider::Github => "repository",
        Provider::Gitlab => "project",
        Provider::Other => "subject",
    }
}

/// Who shows a token, as farm knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// What never changes and is never given again, within the issuer: `repository_id=74`.
    pub id: String,
    /// For people: `github:acme/app@refs/heads/main`.
    pub name: String,
}

/// The longest name of a subject, characters.
const LONGEST_NAME: usize = 200;

/// Whom a token shows.
pub fn subject(provider: Provider, claims: &Claims) -> Option<Subject> {
    let first = |claim: &str| says(claims, claim).into_iter().next();
    let [id, ..] = provider.ids() else { return None };
    let [name, _, at] = provider.names();
    let at = first(at).map(|at| format!("@{at}")).unwrap_or_default();
    let name = format!("{}:{}{at}", provider.as_str(), first(name).unwrap_or_default());
    let is_plain =
        |c: char| !c.is_control() && !c.is_whitespace() && (c.is_alphanumeric() || c.is_ascii_punctuation());
    let name = name.chars().map(|c| if is_plain(c) { c } else { '?' }).take(LONGEST_NAME).collect();
    // What can't be kept or shown is nobody.
    let value = first(id).filter(|value| value.len() <= LONGEST && !value.chars().any(char::is_control))?;
    Some(Subject { id: format!("{id}={value}"), name })
}

/// What a token says of its job, as far as rules over secrets ask for it. Of other issuers nothing is known: whose word a claim is
/// there, nobody has said.
pub fn job_claims(provider: Provider, claims: &Claims) -> JobClaims {
    let first = |claim: &str| {
        let value = says(claims, claim).into_iter().next();
        value.filter(|value| value.len() <= LONGEST && !value.chars().any(char::is_control))
    };
    match provider {
        Provider::Github => JobClaims { full_ref: first("ref"), event: first("event_name") },
        Provider::Gitlab => {
            // A merge request's job has its branch's name in `ref`.
            let by_kind = || match first("ref_type")?.as_str() {
                "branch" => Some(format!("refs/heads/{}", first("ref")?)),
                "tag" => Some(format!("refs/tags/{}", first("ref")?)),
                _ => None,
            };
            JobClaims { full_ref: first("ref_path").or_else(by_kind), event: first("pipeline_source") }
        }
        Provider::Other => JobClaims::default(),
    }
}

/// What a token says that a rule could be about, for whoever sent it.
pub fn in_short(provider: Provider, claims: &Claims) -> String {
    let [name, _, at] = provider.names();
    let mut all: Vec<&str> = [name].iter().chain(provider.ids()).chain([&at]).copied().collect();
    all.dedup();
    let said = |claim: &&str| Some(format!("{claim} {}", shown(says(claims, claim).first()?)));
    all.iter().filter_map(said).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
