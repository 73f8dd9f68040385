//! The coordinator, as a process.

use std::future::ready;
use std::path::PathBuf;
use std::time::Duration;

use futures::future::BoxFuture;

use super::{Part, Postgres, Started, ask, own_program, spawn, text, until_ready};
use crate::child::Recipe;
use crate::layout::{Layout, give_to_caller};
use crate::ports::speaks_http2;
use crate::settings::Settings;

/// The one coordinator.
pub struct Coordinator {
    layout: Layout,
    port: u16,
    hooks_port: Option<u16>,
    public_url: Option<String>,
    web_port: Option<u16>,
    registry_port: u16,
    config: Option<PathBuf>,
    /// The staging registry's port, if there is one.
    staging: Option<u16>,
    /// Engines that have the fixes which untrusted builds need.
    patched: Vec<String>,
}

impl Coordinator {
    /// On its port of 127.0.0.1, with the configuration file that was named.
    pub fn new(layout: &Layout, settings: &Settings) -> Self {
        let Settings { port, hooks_port, web_port, registry_port, ref config, .. } = *settings;
        let staging = settings.untrusted.then_some(settings.staging_port);
        let patched = settings.patched_engines.clone();
        Self {
            layout: layout.clone(),
            port,
            hooks_port,
            public_url: settings.public_url.clone(),
            web_port,
            registry_port,
            config: config.clone(),
            staging,
            patched,
        }
    }
}

impl Part for Coordinator {
    fn name(&self) -> &'static str {
        "coordinator"
    }

    fn start(&self) -> BoxFuture<'_, Result<Started, String>> {
        Box::pin(async {
            let registry = format!("localhost:{}", self.registry_port);
            let listen = format!("127.0.0.1:{}", self.port);
            let mut command = vec![
                text(&own_program("farm-coordinator")?),
                "--listen".to_owned(),
                listen.clone(),
                // Only this machine reaches it: its people by http://, its workers with certificates, whatever the configuration
                // says.
                "--tls".to_owned(),
                "local".to_owned(),
                "--database-url".to_owned(),
                Postgres::url(&self.layout),
                "--state-dir".to_owned(),
                text(&self.layout.join("coordinator")),
                "--token-file".to_owned(),
                text(&self.layout.token()),
                // Everybody here may use the farm's own registry, which is on loopback.
                "--shared-registry".to_owned(),
                registry.clone(),
                "--outbound-allow".to_owned(),
                registry,
            ];
            if let Some(port) = self.hooks_port {
                command.extend(["--hooks-listen".to_owned(), format!("127.0.0.1:{port}")]);
            }
            if let Some(url) = &self.public_url {
                command.extend(["--public-url".to_owned(), url.clone()]);
            }
            if let Some(port) = self.web_port {
                command.extend(["--web-listen".to_owned(), format!("127.0.0.1:{port}")]);
            }
            if let Some(port) = self.staging {
                command.extend(["--staging".to_owned(), format!("localhost:{port}")]);
            }
            for engine in &self.patched {
                command.extend(["--patched-engine".to_owned(), engine.clone()]);
            }
            if let Some(config) = &self.config {
                command.extend(["--config".to_owned(), text(config)]);
            }
            let recipe = Recipe::new("coordinator", command);
            let mut child = spawn(&self.layout, &recipe)?;
            // It may have a large database to migrate.
            let limit = Duration::from_secs(600);
            until_ready(&mut child, limit, |c| ready(c.log.line("farm-coordinator ready on "))).await?;
            give_to_caller(&self.layout.token());
            // By which commands call it where something must not be read on the way.
            let ca = self.layout.join("coordinator").join("tls").join("ca.pem");
            std::fs::copy(&ca, self.layout.join("ca.pem")).map_err(|e| format!("{}: {e}", ca.display()))?;
            let pages = self.web_port.map(|port| format!("; pages at http://127.0.0.1:{port}"));
            let detail = format!("http://{listen}{}", pages.unwrap_or_default());
            Ok(Started { child, detail, guard: None, depends_on: None })
        })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let port = self.port;
            ask(move || speaks_http2(port)).await.ok_or_else(|| format!("doesn't answer on 127.0.0.1:{port}"))
        })
    }
}
