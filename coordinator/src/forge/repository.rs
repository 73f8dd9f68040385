//! A repository at its forge, and by what the farm is known there.

use std::fmt;
use std::sync::Arc;

use farm_hooks::Provider;
use farm_types::Digest;
use secrecy::{ExposeSecret as _, SecretString};

use super::ask::At;
use super::github::app::App;
use super::{gitea, github, gitlab};

/// Which API it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Github,
    Gitlab,
    /// Forgejo's is the same.
    Gitea,
}

impl Kind {
    /// Of a hook's provider; `None`: it has none that is known.
    pub fn of(provider: Provider) -> Option<Self> {
        match provider {
            Provider::Github => Some(Self::Github),
            Provider::Gitlab => Some(Self::Gitlab),
            Provider::Gitea | Provider::Forgejo => Some(Self::Gitea),
            Provider::Generic | Provider::Dockerhub | Provider::Distribution => None,
        }
    }

    fn api(self, host: &str) -> String {
        match self {
            Self::Github => github::api(host),
            Self::Gitlab => gitlab::api(host),
            Self::Gitea => gitea::api(host),
        }
    }

    /// The header by which a token is shown.
    pub(super) fn authorization(self, token: &str) -> String {
        match self {
            // GitLab takes its tokens so as well; unlike a header of its own this one stays behind where an answer leads elsewhere.
            Self::Github | Self::Gitlab => format!("Bearer {token}"),
            Self::Gitea => format!("token {token}"),
        }
    }
}

/// By what the farm is known at a forge.
#[derive(Clone)]
pub enum Access {
    /// A token that somebody has made there.
    Token(SecretString),
    /// A GitHub App, which is lent tokens.
    App(Arc<App>),
}

/// A repository at its forge, with what the farm is known by there.
#[derive(Clone)]
pub struct Repository {
    pub kind: Kind,
    pub at: At,
    pub access: Access,
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository").field("kind", &self.kind).field("at", &self.at).finish_non_exhaustive()
    }
}

/// Which repository, as a hook names it.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    pub provider: Provider,
    pub host: &'a str,
    /// Where the API is, if somebody has said it.
    pub api: Option<&'a str>,
    pub full_name: &'a str,
    pub id: Option<&'a str>,
}

impl Named<'_> {
    /// Where it is; `None`: its provider has no API that is known.
    pub fn at(self) -> Option<(Kind, At)> {
        let kind = Kind::of(self.provider)?;
        let api = self.api.map_or_else(|| kind.api(self.host), ToOwned::to_owned);
        Some((kind, At { api, full_name: self.full_name.to_owned(), id: self.id.map(ToOwned::to_owned) }))
    }
}

impl Repository {
    /// The repository of a hook; `None`: its provider has no API that is known.
    pub fn of(named: Named<'_>, access: Access) -> Option<Self> {
        let (kind, at) = named.at()?;
        Some(Self { kind, at, access })
    }

    /// By what its forge counts how much it is asked: a token, or an App's installation. It may be of many hooks.
    pub fn counted_by(&self) -> Digest {
        let api = &self.at.api;
        match &self.access {
            Access::Token(token) => Digest::of(format!("{api}\n{}", token.expose_secret()).as_bytes()),
            Access::App(app) => app.counted_by(api),
        }
    }
}
