//! What the test bed tells its tests.
//!
//! `farm-testbed` sets the environment, [`Bed::from_env`] reads it. One variable more: add it to [`Bed`] and to
//! [`Bed::to_env`].

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

#[derive(Clone, Debug)]
pub struct Bed {
    /// The maintenance database of the shared Postgres.
    pub database_url: String,
    /// `localhost:5002`: open to all, holds the base images.
    pub registry: String,
    /// `localhost:5003`: asks for [`Bed::auth_user`] and [`Bed::auth_password`].
    pub auth_registry: String,
    pub auth_user: String,
    pub auth_password: String,
    /// `unix:///…/docker.sock`
    pub engine: String,
    /// A folder on disk for logs and large data.
    pub state: PathBuf,
    /// A folder with a short path (for sockets) that every user may enter.
    pub run: PathBuf,
}

impl Bed {
    pub fn from_env() -> Bed {
        Bed {
            database_url: variable("FARM_TEST_DATABASE_URL"),
            registry: variable("FARM_TEST_REGISTRY"),
            auth_registry: variable("FARM_TEST_AUTH_REGISTRY"),
            auth_user: variable("FARM_TEST_AUTH_USER"),
            auth_password: variable("FARM_TEST_AUTH_PASSWORD"),
            engine: variable("FARM_TEST_ENGINE"),
            state: variable("FARM_TEST_STATE").into(),
            run: variable("FARM_TEST_RUN").into(),
        }
    }

    /// The environment that [`Bed::from_env`] reads.
    pub fn to_env(&self) -> Vec<(&'static str, String)> {
        let path = |path: &Path| path.to_str().expect("paths of the test bed are UTF-8").to_owned();
        vec![
            ("FARM_TEST_DATABASE_URL", self.database_url.clone()),
            ("FARM_TEST_REGISTRY", self.registry.clone()),
            ("FARM_TEST_AUTH_REGISTRY", self.auth_registry.clone()),
            ("FARM_TEST_AUTH_USER", self.auth_user.clone()),
            ("FARM_TEST_AUTH_PASSWORD", self.auth_password.clone()),
            ("FARM_TEST_ENGINE", self.engine.clone()),
            ("FARM_TEST_STATE", path(&self.state)),
            ("FARM_TEST_RUN", path(&self.run)),
        ]
    }

    /// The engine's socket as a path.
    pub fn engine_socket(&self) -> &Path {
        Path::new(self.engine.strip_prefix("unix://").expect("FARM_TEST_ENGINE is a unix:// URL"))
    }

    /// A folder for this test's logs, made when first asked for. It lives as long as the bed's state.
    pub fn test_folder(&self) -> PathBuf {
        let name = env::var("NEXTEST_TEST_NAME").ok();
        let name = name.or_else(|| std::thread::current().name().map(str::to_owned)).unwrap_or_default();
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let folder = self.state.join("tests").join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        folder
    }

    /// A new folder on disk, removed when dropped.
    pub fn folder(&self, prefix: &str) -> TempDir {
        temporary(&self.state, prefix)
    }

    /// A new folder with a short path, removed when dropped.
    pub fn short_folder(&self, prefix: &str) -> TempDir {
        temporary(&self.run, prefix)
    }
}

fn temporary(parent: &Path, prefix: &str) -> TempDir {
    tempfile::Builder::new()
        .prefix(&format!("{prefix}-"))
        .tempdir_in(parent)
        .unwrap_or_else(|error| panic!("{}: {error}", parent.display()))
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: this test runs in the test bed only (tests/run.sh e2e)")
    })
}
