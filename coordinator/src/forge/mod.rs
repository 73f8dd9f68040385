//! The forges' APIs: what the farm asks where a repository is. One file a forge says what is asked and what an answer means, and does
//! nothing ([`github`], [`gitlab`], [`gitea`]); [`judge`] says what follows from it; [`Forges`] asks. What a GitHub App is lent and shows:
//! [`checking`].
//!
//! Invariant: a hook's token goes to the hook's own forge only, and is in nothing that is told or logged. To add a forge: its file, and
//! its place in [`Kind`].

mod answers;
pub mod ask;
mod asking;
pub mod checking;
mod gitea;
pub mod github;
mod gitlab;
pub mod judge;
mod loans;
mod repository;

use std::fmt;

pub use self::answers::Unsaid;
use self::answers::{asks_of_others, managed, readable, taken};
use self::ask::{Account, At, Shown, Webhook};
use self::asking::Asking;
use self::github::app::Scope;
use self::judge::Verdict;
pub use self::repository::{Access, Kind, Named, Repository};
use crate::outbound::Client;

/// Asks forges. Cheap to clone.
#[derive(Clone)]
pub struct Forges(Asking);

impl fmt::Debug for Forges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forges").finish_non_exhaustive()
    }
}

impl Forges {
    /// By a client that judges where it is sent.
    pub fn new(client: Client) -> Self {
        Self(Asking::new(client))
    }

    /// Shows a commit so; and the pipeline that the forge has put it in. `now`: seconds since 1970, by which a forge's limits count;
    /// `strikes`: so often in a row it was too much.
    ///
    /// Cancelled, it may have been shown.
    pub async fn show(
        &self,
        repository: &Repository,
        shown: &Shown,
        now: i64,
        strikes: u32,
    ) -> (Verdict, Option<String>) {
        let at = &repository.at;
        let ask = match repository.kind {
            Kind::Github => github::status(at, shown),
            Kind::Gitlab => gitlab::status(at, shown),
            Kind::Gitea => gitea::status(at, shown),
        };
        let answer = match self.0.ask(repository, Scope::Checks, ask).await {
            Ok(answer) => answer,
            Err(unasked) => return (unasked.verdict(now, strikes), None),
        };
        let (own, pipeline) = match repository.kind {
            Kind::Gitlab => (gitlab::judge(&answer), gitlab::pipeline(&answer)),
            Kind::Github | Kind::Gitea => (None, None),
        };
        (own.unwrap_or_else(|| judge::judge(&answer, now, strikes)), pipeline)
    }

    /// Whether the repository's token is one by which statuses can be set there.
    ///
    /// # Errors
    /// It isn't, or the forge can't be asked.
    pub async fn check(&self, repository: &Repository) -> Result<(), Unsaid> {
        let at = &repository.at;
        let ask = match repository.kind {
            Kind::Github => github::look(at),
            Kind::Gitlab => gitlab::look(at),
            Kind::Gitea => gitea::look(at),
        };
        let answer = self.0.ask(repository, Scope::Checks, ask).await.map_err(Unsaid::from)?;
        readable(&answer, at)?;
        let fit = match repository.kind {
            // What an App may its installation has said.
            Kind::Github if matches!(repository.access, Access::App(_)) => Ok(()),
            Kind::Github => github::fit(&answer),
            Kind::Gitlab => {
                let token =
                    self.0.ask(repository, Scope::Checks, gitlab::scopes(at)).await.map_err(Unsaid::from)?;
                gitlab::fit(&answer, &token)
            }
            Kind::Gitea => gitea::fit(&answer),
        };
        fit.map_err(Unsaid::Unfit)
    }

    /// By which the forge knows the repository that has this name now.
    ///
    /// # Errors
    /// The token doesn't reach so far, or the forge can't be asked: then nobody knows.
    pub async fn id_by_name(&self, repository: &Repository) -> Result<String, Unsaid> {
        // Not by what it is known by: that leads to the one that had the name.
        let at = At { id: None, ..repository.at.clone() };
        let ask = match repository.kind {
            Kind::Github => github::look(&at),
            Kind::Gitlab => gitlab::look(&at),
            Kind::Gitea => gitea::look(&at),
        };
        let answer = self.0.ask(repository, Scope::Checks, ask).await.map_err(Unsaid::from)?;
        taken(&answer)?;
        answer
            .id("/id")
            .ok_or_else(|| Unsaid::Away("what answers there is no forge: it names no repository".to_owned()))
    }

    /// Whether an account of the forge's may write to the repository. One that the forge doesn't know there may not.
    ///
    /// # Errors
    /// The token doesn't reach so far, or the forge can't be asked: then nobody knows.
    pub async fn may_write(&self, repository: &Repository, account: &Account) -> Result<bool, Unsaid> {
        let at = &repository.at;
        let ask = match repository.kind {
            Kind::Github => github::role(at, account),
            Kind::Gitlab => gitlab::role(at, account),
            Kind::Gitea => gitea::role(at, account),
        };
        let answer = self.0.ask(repository, Scope::Checks, ask).await.map_err(Unsaid::from)?;
        if answer.status == 404 {
            return Ok(false);
        }
        asks_of_others(repository.kind, &answer)?;
        Ok(match repository.kind {
            Kind::Github => github::writes(&answer, account),
            Kind::Gitlab => gitlab::writes(&answer, account),
            Kind::Gitea => gitea::writes(&answer, account),
        })
    }

    /// Makes a webhook there, or changes the one that has its address.
    ///
    /// # Errors
    /// The token doesn't reach so far, or the forge can't be asked. Then it may be there all the same; doing it again does no harm.
    pub async fn install(&self, repository: &Repository, hook: Webhook<'_>) -> Result<(), Unsaid> {
        let (at, kind) = (&repository.at, repository.kind);
        let list = match kind {
            Kind::Github => github::webhooks(at),
            Kind::Gitlab => gitlab::webhooks(at),
            Kind::Gitea => gitea::webhooks(at),
        };
        let listed = self.0.ask(repository, Scope::Webhooks, list).await.map_err(Unsaid::from)?;
        managed(kind, &listed)?;
        let install = match kind {
            Kind::Github => github::install(at, &listed, hook),
            Kind::Gitlab => gitlab::install(at, &listed, hook),
            Kind::Gitea => gitea::install(at, &listed, hook),
        };
        managed(kind, &self.0.ask(repository, Scope::Webhooks, install).await.map_err(Unsaid::from)?)
    }
}

#[cfg(test)]
mod tests {
    use farm_hooks::Provider;

    use super::*;

    #[test]
    fn a_repository_is_asked_about_where_its_provider_has_its_api_or_where_somebody_says() {
        let named =
            |provider, api| Named { provider, host: "git.example", api, full_name: "acme/app", id: None };
        let of =
            |provider, api| Repository::of(named(provider, api), Access::Token("s3cret".to_owned().into()));
        assert_eq!(of(Provider::Forgejo, None).unwrap().at.api, "https://git.example");
        assert_eq!(of(Provider::Github, Some("http://localhost:1")).unwrap().at.api, "http://localhost:1");
        assert!(of(Provider::Generic, None).is_none());
        assert!(!format!("{:?}", of(Provider::Gitlab, None)).contains("s3cret"));
    }
}
