//! Registries for tests: Debian's `docker-registry` on 127.0.0.1, deletion enabled.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::bed::Bed;
use crate::engine::SELDOM_COLLECTED;
use crate::ports::{free_port, http_status};
use crate::process::{Child, run};
use crate::requests::requests_in;
use crate::token_service::TokenService;

const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(10);

/// A registry that can be stopped and started; what was pushed stays in its folder.
#[derive(Debug)]
pub struct Registry {
    name: String,
    folder: PathBuf,
    logs: PathBuf,
    port: u16,
    child: Option<Child>,
}

/// Who may use a registry that asks.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    pub user: &'a str,
    pub password: &'a str,
}

impl Registry {
    /// Starts it without waiting; [`Registry::wait`] does.
    pub fn spawn(name: &str, folder: &Path, logs: &Path, port: u16, login: Option<Login>) -> Registry {
        fs::create_dir_all(folder).unwrap();
        let auth = login.map_or_else(String::new, |login| {
            let path = folder.join("htpasswd");
            fs::write(&path, format!("{}:{}\n", login.user, bcrypt(login.password))).unwrap();
            format!("auth: {{htpasswd: {{realm: farm-tests, path: {}}}}}\n", path.display())
        });
        Registry::spawn_asking(name, folder, logs, port, &auth)
    }

    /// The same with what its configuration says of whom it lets in; its folder is there.
    fn spawn_asking(name: &str, folder: &Path, logs: &Path, port: u16, auth: &str) -> Registry {
        let config = format!(
            "version: 0.1\nlog: {{fields: {{service: {name}}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http: {{addr: '127.0.0.1:{port}', secret: {name}}}\n{auth}",
            folder.join("data").display()
        );
        fs::write(folder.join("config.yml"), config).unwrap();
        let mut registry = Registry {
            name: name.to_owned(),
            folder: folder.to_owned(),
            logs: logs.to_owned(),
            port,
            child: None,
        };
        registry.launch();
        registry
    }

    fn launch(&mut self) {
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(self.folder.join("config.yml"));
        // The client library inside it would send traces to a default address.
        command.env("OTEL_TRACES_EXPORTER", "none").env(SELDOM_COLLECTED.0, SELDOM_COLLECTED.1);
        self.child = Some(Child::spawn(&self.name, &command, &self.logs));
    }

    /// Returns when it answers (200, or 401 where a login is asked for).
    pub fn wait(&mut self) {
        let port = self.port;
        let child = self.child.as_mut().expect("the registry is stopped");
        child.wait_until("answer", START, |_| http_status(port, "/v2/").filter(|s| matches!(s, 200 | 401)));
    }

    /// Starts it again after [`Registry::stop`] or [`Registry::kill9`], on the same port with the same content.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "the registry runs already");
        self.launch();
        self.wait();
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.stop_term(STOP);
        }
    }

    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill9();
        }
    }

    /// The process, for pausing it.
    pub fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("the registry is stopped")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The requests that it has answered, in the order in which it did: `GET manifests`.
    pub fn requests(&self) -> Vec<String> {
        requests_in(&self.logs.join(format!("{}.log", self.name)))
    }

    /// `localhost:PORT`, as image references want it.
    pub fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }
}

/// A registry of one test, empty at first, on a port of its own.
#[derive(Debug)]
pub struct PrivateRegistry {
    registry: Registry,
    _folder: TempDir,
}

impl PrivateRegistry {
    pub fn start() -> PrivateRegistry {
        PrivateRegistry::start_with(None)
    }

    pub fn start_with(login: Option<Login>) -> PrivateRegistry {
        PrivateRegistry::start_as(|name, folder, logs, port| Registry::spawn(name, folder, logs, port, login))
    }

    /// One that deletes nothing.
    pub fn start_keeping() -> PrivateRegistry {
        let mut registry = PrivateRegistry::start();
        registry.stop();
        let config = registry.folder.join("config.yml");
        let text = fs::read_to_string(&config)
            .unwrap()
            .replace("delete: {enabled: true}", "delete: {enabled: false}");
        fs::write(&config, text).unwrap();
        registry.start_again();
        registry
    }

    /// One that lets in whoever has a token of this service.
    pub fn start_with_tokens(service: &TokenService) -> PrivateRegistry {
        PrivateRegistry::start_as(|name, folder, logs, port| {
            Registry::spawn_asking(name, folder, logs, port, &service.auth(folder))
        })
    }

    /// A staging registry on this port: it lets in whoever has a token of a farm's, whose certificate is in this file.
    pub fn start_staging(port: u16, certificate: &Path) -> PrivateRegistry {
        let auth = format!(
            "auth: {{token: {{realm: 'http://farm.invalid/token', service: farm-staging, issuer: farm, rootcertbundle: '{}'}}}}\n",
            certificate.display()
        );
        PrivateRegistry::start_at(port, |name, folder, logs, port| {
            Registry::spawn_asking(name, folder, logs, port, &auth)
        })
    }

    fn start_as(spawn: impl FnOnce(&str, &Path, &Path, u16) -> Registry) -> PrivateRegistry {
        PrivateRegistry::start_at(free_port(), spawn)
    }

    fn start_at(port: u16, spawn: impl FnOnce(&str, &Path, &Path, u16) -> Registry) -> PrivateRegistry {
        let bed = Bed::from_env();
        let folder = bed.folder("registry");
        let logs = bed.test_folder().join("private");
        let mut registry = spawn(&format!("registry-{port}"), folder.path(), &logs, port);
        registry.wait();
        PrivateRegistry { registry, _folder: folder }
    }
}

impl std::ops::Deref for PrivateRegistry {
    type Target = Registry;
    fn deref(&self) -> &Registry {
        &self.registry
    }
}

impl std::ops::DerefMut for PrivateRegistry {
    fn deref_mut(&mut self) -> &mut Registry {
        &mut self.registry
    }
}

/// The only hash the registry takes. Perl is part of every Debian, and its `crypt` is the C library's.
fn bcrypt(password: &str) -> String {
    let mut perl = Command::new("perl");
    perl.args(["-e", r#"print crypt($ENV{PASSWORD}, '$2y$05$FarmTestsFarmTestsFarmT')"#]);
    let hash = run(perl.env("PASSWORD", password));
    assert!(hash.starts_with("$2"), "this system's crypt knows no bcrypt: {hash:?}");
    hash
}
