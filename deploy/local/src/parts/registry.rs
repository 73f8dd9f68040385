//! The distribution's `docker-registry` on localhost: OCI indexes and Docker manifest lists, deletion allowed. One is for everybody here;
//! the staging registry lets in whoever has a token of the coordinator's.

use std::time::Duration;

use futures::future::BoxFuture;

use super::{Part, Started, ask, spawn, text, until_ready};
use crate::Result;
use crate::child::Recipe;
use crate::layout::Layout;
use crate::ports::http_status;

/// The registry.
pub struct Registry {
    layout: Layout,
    name: &'static str,
    port: u16,
}

impl Registry {
    /// Writes its configuration.
    ///
    /// # Errors
    /// It can't be written.
    pub fn prepare(layout: &Layout, port: u16) -> Result<Self> {
        Self::with(layout, "registry", port, "")
    }

    /// Writes that of the staging registry. It needs the coordinator's certificate, which is there once that has been started.
    ///
    /// # Errors
    /// It can't be written.
    pub fn staging(layout: &Layout, port: u16) -> Result<Self> {
        // Nobody asks its realm: whoever gets a token gets it from the coordinator.
        let auth = format!(
            "auth: {{token: {{realm: 'http://farm.invalid/token', service: farm-staging, issuer: farm, rootcertbundle: '{}'}}}}\n",
            layout.join("coordinator/staging/ca.pem").display()
        );
        Self::with(layout, "staging", port, &auth)
    }

    fn with(layout: &Layout, name: &'static str, port: u16, auth: &str) -> Result<Self> {
        let folder = layout.join(name);
        let config = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http: {{addr: '127.0.0.1:{port}', secret: {}}}\n{auth}",
            folder.join("data").display(),
            layout.group()
        );
        layout.write(&folder.join("config.yml"), &config)?;
        Ok(Self { layout: layout.clone(), name, port })
    }
}

impl Part for Registry {
    fn name(&self) -> &'static str {
        self.name
    }

    fn start(&self) -> BoxFuture<'_, Result<Started, String>> {
        Box::pin(async {
            let config = text(&self.layout.join(self.name).join("config.yml"));
            let mut recipe = Recipe::new(self.name, ["docker-registry", "serve", &config]);
            // The client library inside it would send traces to a default address.
            recipe.env.push(("OTEL_TRACES_EXPORTER".to_owned(), "none".to_owned()));
            let mut child = spawn(&self.layout, &recipe)?;
            let port = self.port;
            until_ready(&mut child, Duration::from_secs(20), |_| {
                ask(move || http_status(port, "/v2/").filter(|status| matches!(status, 200 | 401)))
            })
            .await?;
            let detail = format!("localhost:{port}");
            Ok(Started { child, detail, guard: None, depends_on: None })
        })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let port = self.port;
            let status = ask(move || http_status(port, "/v2/")).await;
            status.map(|_| ()).ok_or_else(|| format!("doesn't answer on localhost:{port}"))
        })
    }
}
