//! From where engines may fetch what a build names, as far as the farm knows more of it than a worker does.

use std::collections::BTreeSet;

use farm_core::people::Access;
use farm_proto::v1;
use farm_types::{RepositoryPrefix, TrustClass};
use http::Uri;
use secrecy::ExposeSecret as _;

use crate::config::Config;
use crate::outbound::Allowed;

/// What is the same for all attempts.
#[derive(Debug, Clone)]
pub struct Places {
    /// The farm's own hosts.
    closed: Vec<String>,
    /// Where registries are that whoever runs the farm has named.
    registries: BTreeSet<String>,
}

impl Places {
    /// By the configuration: this coordinator's names, and its database's.
    pub fn new(config: &Config) -> Self {
        let allowed = config.outbound.allow.iter().map(|allowed| match allowed {
            Allowed::Net(net) => net.to_string(),
            Allowed::Place(place) => place.to_string(),
        });
        Self {
            closed: config
                .names()
                .into_iter()
                .chain(database_hosts(config.database_url.expose_secret()))
                .collect(),
            registries: config.registries.keys().cloned().chain(allowed).collect(),
        }
    }

    /// For an attempt of a project that may push and pull there. What the farm's machines reach is nothing to one that isn't trusted.
    pub fn of(&self, access: &Access, trust: TrustClass) -> v1::Fetches {
        let is_trusted = trust == TrustClass::Trusted;
        let of_project = access.push.iter().chain(&access.pull).filter_map(|prefix| match prefix {
            RepositoryPrefix::Below { host, .. } => Some(host.clone()),
            RepositoryPrefix::All => None,
        });
        let registries: BTreeSet<String> =
            self.registries.iter().cloned().chain(of_project).filter(|_| is_trusted).collect();
        v1::Fetches {
            closed: self.closed.clone(),
            registries: registries.into_iter().collect(),
            private: is_trusted,
            only: access.fetch.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Where Postgres is; none of a socket on this machine.
fn database_hosts(url: &str) -> Vec<String> {
    let Ok(url) = url.parse::<Uri>() else { return Vec::new() };
    let pairs = url.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let asked = pairs.filter(|(key, _)| *key == "host" || *key == "hostaddr").map(|(_, host)| host);
    let hosts = url.host().into_iter().chain(asked);
    hosts.filter(|host| !host.is_empty() && !host.contains(['/', '%'])).map(ToOwned::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Registry;

    #[test]
    fn the_farms_hosts_are_told_to_all_and_its_registries_to_those_that_are_trusted() {
        let mut config =
            Config { database_url: "postgres://farm@db.internal/farm".into(), ..Config::default() };
        config.advertise = Some("https://farm.example:7070".to_owned());
        config.registries.insert("localhost:5000".to_owned(), Registry::default());
        config.outbound.allow =
            vec!["10.0.0.0/8".parse().unwrap(), "registry.internal:5000".parse().unwrap()];
        let prefixes = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let access = Access {
            push: prefixes(&["127.0.0.1:5001/team", "*"]),
            fetch: vec!["*.example.com".parse().unwrap()],
            ..Access::default()
        };
        let places = Places::new(&config);
        let told = places.of(&access, TrustClass::Trusted);
        for host in ["farm.example", "db.internal", "localhost"] {
            assert!(told.closed.iter().any(|closed| closed == host), "{told:?}");
        }
        assert_eq!(
            told.registries,
            ["10.0.0.0/8", "127.0.0.1:5001", "localhost:5000", "registry.internal:5000"]
        );
        assert!(told.private);
        let untrusted = places.of(&access, TrustClass::Untrusted);
        assert!(untrusted.registries.is_empty() && !untrusted.private && untrusted.closed == told.closed);
        assert_eq!((&told.only, &untrusted.only), (&vec!["*.example.com".to_owned()], &told.only));
    }

    #[test]
    fn a_database_on_a_socket_has_no_host() {
        assert_eq!(database_hosts("postgres://farm@localhost/farm?host=/run/postgresql"), ["localhost"]);
        assert_eq!(database_hosts("postgres://farm@%2Frun%2Fpg/farm"), Vec::<String>::new());
        assert_eq!(
            database_hosts("postgres://u:p@[fd00::5]:5433/farm?host=db.internal&sslmode=require"),
            ["[fd00::5]", "db.internal"]
        );
    }
}
