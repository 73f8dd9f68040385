//! Who calls, and what they may do.
//!
//! Identity comes from the channel (a bearer token, or a worker's certificate), never from a message. One layer, the [`gate`], asks before a
//! call's body is read: the [`identities`] say who it is, the table in [`rights`] what they need. Handlers take what it found
//! from the request ([`caller`], [`member`]); they ask nothing themselves. To add a right: an [`rights::Action`], what it needs,
//! and the methods' rows.

pub mod accesses;
pub mod gate;
pub mod identities;
pub mod local;
pub mod oidc;
pub mod owner;
pub mod principal;
mod revocations;
pub mod rights;
pub mod sign_in;

use std::sync::Arc;

use farm_store::people::audit::By;
use farm_types::{ProjectId, ProjectName};
use tonic::{Request, Status};

use principal::Principal;

/// Who makes a call, and where: what the gate has found, in the request's extensions.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who.
    pub principal: Arc<Principal>,
    /// In which project, where the method is of one.
    pub project: Option<(ProjectId, ProjectName)>,
    /// From where: the connection's other end, or what a trusted proxy says.
    pub address: Option<std::net::IpAddr>,
    /// Nobody between can read what is said.
    pub is_encrypted: bool,
}

/// A caller in a project.
#[derive(Debug, Clone)]
pub struct Member {
    /// The caller's name, as records and logs show it.
    pub name: String,
    /// The project of the call.
    pub project: ProjectId,
    /// Its name.
    pub project_name: ProjectName,
    /// All that is known of the call.
    pub caller: Caller,
}

impl Caller {
    /// Who does what the call asks for, for the audit.
    pub fn by(&self) -> By {
        By {
            name: self.principal.name.clone(),
            token_hint: self.principal.hint.clone(),
            address: self.address.map(|address| address.to_string()).unwrap_or_default(),
        }
    }
}

/// Who makes this call.
///
/// # Errors
/// `INTERNAL`: the call came past the gate, a bug.
pub fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().cloned().ok_or_else(|| {
        tracing::error!("a call came past the gate");
        Status::internal("a bug: nobody has asked who makes this call")
    })
}

/// What is told to a worker that has joined and counts no more since its call was let in.
pub fn counts_no_more(worker: &str, why: &str) -> Status {
    Status::unauthenticated(format!(
        "worker {worker} counts no more, as {why}; an admin can invite it again: farm workers invite --name {worker}"
    ))
}

/// Who makes this call, and in which project.
///
/// # Errors
/// `INTERNAL`: the method's row asks for no project, or the call came past the gate: a bug.
pub fn member<T>(request: &Request<T>) -> Result<Member, Status> {
    let caller = caller(request)?;
    let Some((project, project_name)) = caller.project.clone() else {
        tracing::error!("a method that needs a project has a row without one");
        return Err(Status::internal("a bug: nobody has asked in which project this call is made"));
    };
    Ok(Member { name: caller.principal.name.clone(), project, project_name, caller })
}
