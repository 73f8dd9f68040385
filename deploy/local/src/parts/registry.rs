//! The distribution's `docker-registry` on localhost: OCI indexes and Docker manifest lists, deletion allowed.

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
    port: u16,
}

impl Registry {
    /// Writes its configuration.
    ///
    /// # Errors
    /// It can't be written.
    pub fn prepare(layout: &Layout, port: u16) -> Result<Self> {
        let config = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http: {{addr: '127.0.0.1:{port}', secret: {}}}\n",
            layout.join("registry/data").display(),
            layout.group()
        );
        layout.write(&layout.join("registry/config.yml"), &config)?;
        Ok(Self { layout: layout.clone(), port })
    }
}

impl Part for Registry {
    fn name(&self) -> &'static str {
        "registry"
    }

    fn start(&self) -> BoxFuture<'_, Result<Started, String>> {
        Box::pin(async {
            let config = text(&self.layout.join("registry/config.yml"));
            let mut recipe = Recipe::new("registry", ["docker-registry", "serve", &config]);
            // The client library inside it would send traces to a default address.
            recipe.env.push(("OTEL_TRACES_EXPORTER".to_owned(), "none".to_owned()));
            let mut child = spawn(&self.layout, &recipe)?;
            let port = self.port;
            until_ready(&mut child, Duration::from_secs(20), |_| {
                ask(move || http_status(port, "/v2/").filter(|status| *status == 200))
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
