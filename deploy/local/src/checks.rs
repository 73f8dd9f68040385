//! What must hold before anything is started, each told with its cure.

use std::fs;

use crate::child::search_path;
use crate::layout::Layout;
use crate::parts::{own_program, postgres_bin_for};
use crate::ports::check_free;
use crate::settings::Settings;
use crate::{Error, Result};

/// Below this a start makes no sense: two base images and one build take as much.
const LEAST_FREE: u64 = 500_000_000;

/// Before the folder is made: what the user, the machine and the flags allow.
///
/// # Errors
/// The first thing that doesn't.
pub fn before(layout: &Layout, settings: &Settings) -> Result<()> {
    for program in ["farm-coordinator", "farm-worker"] {
        own_program(program).map_err(Error::Usage)?;
    }
    if (settings.engine.is_none() || settings.untrusted) && !rustix::process::geteuid().is_root() {
        return Err(Error::Usage(
            "an engine of farm's own needs root: sudo farm up; or name an engine that you may use: \
             farm up --engine unix:///var/run/docker.sock"
                .to_owned(),
        ));
    }
    if let Some(path) = settings.engine.as_deref().and_then(|engine| engine.strip_prefix("unix://")) {
        match fs::metadata(path) {
            Ok(_) => {}
            Err(e) => {
                return Err(Error::Usage(format!(
                    "--engine unix://{path}: {e}; start that engine, or leave --engine out for an own one"
                )));
            }
        }
    }
    for (program, package) in
        [("setsid", "util-linux"), ("setpriv", "util-linux"), ("docker-registry", "docker-registry")]
    {
        if !on_path(program) {
            return Err(Error::Usage(format!("{program} isn't installed: sudo apt-get install {package}")));
        }
    }
    postgres_bin_for(&layout.join("postgres/data")).map(|_| ())
}

/// Once nothing of a former start is left.
///
/// # Errors
/// A port is in use.
pub fn ports(settings: &Settings) -> Result<()> {
    check_free(settings.registry_port, "registry", "--registry-port")?;
    if settings.untrusted {
        check_free(settings.staging_port, "staging registry", "--staging-port")?;
    }
    if let Some(port) = settings.hooks_port {
        check_free(port, "webhook listener", "--hooks-port")?;
    }
    if let Some(port) = settings.web_port.filter(|port| settings.hooks_port != Some(*port)) {
        check_free(port, "listener for pages", "--web-port")?;
    }
    check_free(settings.port, "coordinator", "--port")
}

/// Is there room?
///
/// # Errors
/// Its disk is too full.
pub fn disk(layout: &Layout) -> Result<()> {
    let free = free_bytes(layout)?;
    if free < LEAST_FREE {
        return Err(Error::Usage(format!(
            "{} has {} MB left on its disk, and a farm needs {} MB to begin with; free some space, or choose another \
             --state-dir",
            layout.root().display(),
            free / 1_000_000,
            LEAST_FREE / 1_000_000
        )));
    }
    Ok(())
}

/// What the folder's disk has left, bytes; that of the folder above where it isn't there yet.
///
/// # Errors
/// The folder can't be asked.
pub fn free_bytes(layout: &Layout) -> Result<u64> {
    let there = layout.root().ancestors().find(|folder| folder.exists()).unwrap_or(layout.root());
    let stat = rustix::fs::statvfs(there).map_err(|e| crate::failed(there.display(), &e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Is there a program of this name?
pub fn on_path(program: &str) -> bool {
    std::env::split_paths(&search_path()).any(|dir| dir.join(program).is_file())
}
