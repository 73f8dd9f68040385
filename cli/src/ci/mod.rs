//! A job of a CI system that has no stored secret: the token that its own system gives it is shown to the farm, and the farm gives
//! one of its own for a while ([`exchange`]).
//!
//! To add a system whose tokens have to be fetched: a variant of [`Job`], and how it is asked. All others put a token into FARM_ID_TOKEN.

pub mod exchange;
mod github;

use farm_types::Invalid;
use hyper::Uri;

use crate::error::{Error, Result};

/// What the environment says of itself.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Where a job's tokens come from. None of them is ever printed.
pub enum Job {
    /// GitHub Actions gives a new one whenever it is asked.
    Github {
        /// Who is asked.
        url: Uri,
        /// What shows the job there.
        secret: String,
    },
    /// FARM_ID_TOKEN: the one that there is.
    Given(String),
}

impl Job {
    /// What is in FARM_ID_TOKEN.
    pub fn given(environment: Environment<'_>) -> Option<Self> {
        let token = environment("FARM_ID_TOKEN")?.trim().to_owned();
        (!token.is_empty()).then_some(Self::Given(token))
    }

    /// A job of GitHub Actions that may have tokens.
    ///
    /// # Errors
    /// Who is to be asked isn't said by an address.
    pub fn of_github(environment: Environment<'_>) -> Result<Option<Self>> {
        let (Some(url), Some(secret)) =
            (environment("ACTIONS_ID_TOKEN_REQUEST_URL"), environment("ACTIONS_ID_TOKEN_REQUEST_TOKEN"))
        else {
            return Ok(None);
        };
        let wrong = |_| Invalid::new("ACTIONS_ID_TOKEN_REQUEST_URL", &url, "GitHub sets it to an address");
        Ok(Some(Self::Github { url: url.parse().map_err(wrong)?, secret }))
    }

    /// Where its token is from, for messages.
    fn source(&self) -> &'static str {
        match self {
            Self::Github { .. } => "of this job of GitHub Actions",
            Self::Given(_) => "in FARM_ID_TOKEN",
        }
    }

    /// Whether there will be another token after this one.
    fn renews(&self) -> bool {
        matches!(self, Self::Github { .. })
    }

    /// A token for this audience. What is in FARM_ID_TOKEN was made for whom it was.
    async fn token(&self, audience: &str) -> Result<String> {
        match self {
            Self::Github { url, secret } => github::token(url, secret, audience).await,
            Self::Given(token) => Ok(token.clone()),
        }
    }
}

/// What a job that has no token at all is told besides; `audience` is whom tokens have to be made for.
pub fn advice(environment: Environment<'_>, audience: Option<&str>) -> Option<String> {
    let is = |name: &str| environment(name).is_some_and(|value| value == "true");
    if is("GITHUB_ACTIONS") {
        return Some(
            "This is a job of GitHub Actions that may have no ID token: with `permissions: id-token: write` it needs no \
             stored one, if a project trusts its repository (`farm trust add github --help`). Jobs of pull requests from \
             forks get none."
                .to_owned(),
        );
    }
    is("GITLAB_CI").then(|| {
        let audience = audience.map_or_else(|| "the farm's audience".to_owned(), |audience| format!("{audience:?}"));
        format!(
            "This is a job of GitLab: with `id_tokens: {{ FARM_ID_TOKEN: {{ aud: {audience} }} }}` it needs no stored one, \
             if a project trusts its project (`farm trust add gitlab --help`)."
        )
    })
}

/// That nobody said in which project a job wants to be let in.
fn no_project() -> Error {
    Error::Usage(
        "a job that shows the token of its own system says in which project it builds: --project or FARM_PROJECT".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> {
        move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn a_job_is_known_by_what_its_system_sets() {
        let none = set(&[("FARM_ID_TOKEN", " \n"), ("ACTIONS_ID_TOKEN_REQUEST_URL", "https://x")]);
        assert!(Job::given(&none).is_none() && Job::of_github(&none).unwrap().is_none());
        let given = set(&[("FARM_ID_TOKEN", "a.b.c\n")]);
        assert!(matches!(Job::given(&given), Some(Job::Given(token)) if token == "a.b.c"));
        let github = set(&[
            ("ACTIONS_ID_TOKEN_REQUEST_URL", "https://github.example/x?y=1"),
            ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "s"),
        ]);
        assert!(Job::of_github(&github).unwrap().is_some_and(|job| job.renews()));
        let wrong = set(&[("ACTIONS_ID_TOKEN_REQUEST_URL", "a b"), ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "s")]);
        assert!(Job::of_github(&wrong).is_err());
    }

    #[test]
    fn a_job_without_any_token_is_told_how_it_gets_one() {
        assert_eq!(advice(&set(&[]), None), None);
        let github = advice(&set(&[("GITHUB_ACTIONS", "true")]), None).unwrap();
        assert!(github.contains("permissions: id-token: write"), "{github}");
        let gitlab = advice(&set(&[("GITLAB_CI", "true")]), Some("https://f")).unwrap();
        assert!(gitlab.contains("id_tokens: { FARM_ID_TOKEN: { aud: \"https://f\" } }"), "{gitlab}");
    }
}
