//! An issuer, a database, and what exchanges the one's tokens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use farm_coordinator::outbound::{Client, Outbound, Rules};
use farm_coordinator::people::oidc::fetch::Http;
use farm_coordinator::people::oidc::{Exchange, Exchanged, IssuerSettings, Refused, Settings};
use farm_store::people::audit::By;
use farm_store::people::trust::NewTrust;
use farm_store::schema::MigrationLimits;
use farm_store::{Limits, Store, default_project};
use farm_tests::database::Database;
use farm_tests::issuer::{Issuer, Key, Kind};
use farm_types::Role;
use serde_json::{Value, json};
use uuid::Uuid;

pub const AUDIENCE: &str = "https://farm.example";
const LIMITS: Limits = Limits {
    connections: 8,
    loops: 1,
    acquire: Duration::from_secs(10),
    statement: Duration::from_secs(15),
    grace: Duration::from_secs(5),
    leader_fresh: Duration::from_secs(60),
    leader_statement: Duration::from_secs(10),
    suspect_after: Duration::from_secs(12),
};

/// An admin of the project.
pub fn ada() -> By {
    By { name: "ada".to_owned(), token_hint: String::new(), address: String::new() }
}

pub struct World {
    pub key: Key,
    pub issuer: Issuer,
    pub store: Store,
    pub exchange: Exchange,
    pub database: Database,
    begin: Instant,
}

/// A client for issuers on this machine, as a configuration that names them makes it.
pub fn loopback() -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let allowed = ["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    Outbound::new(Rules::new(allowed, Vec::new())).client(Vec::new()).unwrap()
}

pub async fn world(kind: Kind) -> World {
    let database = Database::create();
    let store = Store::open(database.url(), LIMITS).unwrap();
    store.migrate(MigrationLimits::default(), |_| {}).await.unwrap();
    let key = Key::new("one", kind);
    let issuer = Issuer::start(&[&key]);
    let settings = IssuerSettings { plain_http: true, ..IssuerSettings::default() };
    let settings = Settings { issuers: [(issuer.url(), settings)].into(), ..Settings::default() };
    let exchange = Exchange::new(Arc::new(Http::new(loopback())), settings, AUDIENCE.to_owned());
    World { key, issuer, store, exchange, database, begin: Instant::now() }
}

/// The same, in which the project `default` trusts the repository acme/app.
pub async fn trusting(kind: Kind) -> World {
    let world = world(kind).await;
    world.trust(Role::Builder, json!({})).await;
    world
}

impl World {
    /// The project `default` trusts the repository acme/app from now on, on these conditions.
    pub async fn trust(&self, role: Role, conditions: Value) -> Uuid {
        let mut claims = json!({"repository_id": ["74"], "repository_owner_id": ["65"]});
        claims.as_object_mut().unwrap().extend(conditions.as_object().unwrap().clone());
        let new = NewTrust {
            project: default_project(),
            issuer: self.issuer.url(),
            audience: AUDIENCE.to_owned(),
            provider: "github".to_owned(),
            name: "acme/app".to_owned(),
            claims,
            role,
        };
        self.store.add_trust(&ada(), &new).await.unwrap().id
    }

    /// A job's token, which its issuer has signed.
    pub fn token(&self, changes: Value) -> String {
        self.key.sign(&self.issuer.job(changes))
    }

    /// What becomes of a token in the project `default`, so many seconds after the beginning.
    pub async fn exchange_at(&self, token: &str, seconds: u64) -> Result<Exchanged, Refused> {
        let now = self.begin + Duration::from_secs(seconds);
        self.exchange.exchange(&self.store, "192.0.2.7", "default", token, now).await
    }

    pub async fn exchange(&self, token: &str) -> Result<Exchanged, Refused> {
        self.exchange_at(token, 0).await
    }

    /// Why a token isn't taken.
    pub async fn refused(&self, token: &str) -> Refused {
        self.exchange(token).await.unwrap_err()
    }

    /// The words of one that shows nobody.
    pub async fn no_token(&self, token: &str) -> String {
        match self.refused(token).await {
            Refused::Token(why) => why,
            other => panic!("{other:?}"),
        }
    }

    /// The words of one that nothing trusts.
    pub async fn untrusted(&self, token: &str) -> String {
        match self.refused(token).await {
            Refused::Untrusted(why) => why,
            other => panic!("{other:?}"),
        }
    }

    /// The words of one whose issuer can't be asked.
    pub async fn unavailable(&self, token: &str, seconds: u64) -> String {
        match self.exchange_at(token, seconds).await.unwrap_err() {
            Refused::Unavailable(why) => why,
            other => panic!("{other:?}"),
        }
    }

    /// How many tokens were taken.
    pub fn seen(&self) -> u32 {
        self.database.psql("SELECT count(*) FROM seen_tokens").parse().unwrap()
    }
}
