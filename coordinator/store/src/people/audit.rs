//! What was done, by whom: a row in the transaction of the deed. So there is none of what was not done, and none lacks of
//! what was. Rows are never changed; the leader seals them ([`super::seals`]).
//!
//! To audit one more deed: `by: &By` from the handler, and `by.did` before the commit, where it is certain that something is done
//! (not where a call is repeated). Leases, signs of life and what ends by itself are nobody's deeds.

use farm_types::ProjectId;
use serde_json::Value;

use crate::{Result, Tx};

/// Who does something, as the audit keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct By {
    /// The principal's name.
    pub name: String,
    /// The first characters of the token that was shown; empty: the farm's own.
    pub token_hint: String,
    /// Where the call came from; empty: that isn't known.
    pub address: String,
}

/// What is done.
#[derive(Debug)]
pub(crate) struct Deed<'a> {
    /// In which project; `None`: the farm's.
    pub project: Option<ProjectId>,
    /// A word of its own for each kind of deed, like `token.create`.
    pub action: &'static str,
    /// To what, by the name that people know.
    pub subject: &'a str,
    /// What else is worth knowing; no secrets.
    pub detail: Value,
}

impl By {
    /// Writes the row.
    pub(crate) async fn did(&self, tx: &mut Tx, deed: Deed<'_>) -> Result<()> {
        sqlx::query!(
            "INSERT INTO audit (project_id, principal, token_hint, address, action, subject, detail)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            deed.project.map(ProjectId::as_uuid),
            self.name,
            self.token_hint,
            self.address,
            deed.action,
            deed.subject,
            deed.detail
        )
        .execute(&mut **tx)
        .await?;
        Ok(())
    }
}
