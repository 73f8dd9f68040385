//! What was shown at a commit is begun anew, because somebody at the forge wants that.

use farm_types::Commit;
use serde_json::json;

use super::deliveries::Waiting;
use crate::people::audit::{By, Deed};
use crate::{Result, Store};

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anew {
    /// These deliveries are processed once more.
    Begun(Vec<String>),
    /// All of them are processed anyway.
    Goes,
    /// Nothing is shown there of which anybody knows.
    Unknown,
}

impl Store {
    /// Has the deliveries processed once more of which this context of a commit says how they stand, or all of its contexts; and shows until
    /// then that they are. `of` is the delivery that asks for it: what was begun since it came isn't begun again.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn begin_anew(
        &self,
        by: &By,
        of: &Waiting,
        commit: &Commit,
        context: Option<&str>,
    ) -> Result<Anew> {
        let (project, hook) = (of.project.as_uuid(), of.hook.as_uuid());
        let mut tx = self.begin().await?;
        let shown = sqlx::query_scalar!(
            "SELECT delivery_id FROM statuses WHERE project_id = $1 AND hook_id = $2 AND commit_id = $3 AND ($4::text IS NULL OR context = $4)",
            project,
            hook,
            commit.as_str(),
            context
        )
        .fetch_all(&mut *tx)
        .await?;
        let begun = sqlx::query_scalar!(
            "UPDATE deliveries SET state = 'received', reason = '', attempts = 0, due_at = farm_now(), finished_at = NULL,
                builds = '{}', runs = runs + 1, order_key = NULL, looks = false, again_at = farm_now()
             WHERE project_id = $1 AND hook_id = $2 AND id = ANY($3) AND state <> 'received'
               AND coalesce(again_at, received_at) < $4
             RETURNING id",
            project,
            hook,
            &shown,
            of.asked_at
        )
        .fetch_all(&mut *tx)
        .await?;
        if begun.is_empty() {
            let known = sqlx::query_scalar!(
                r#"SELECT EXISTS (SELECT FROM deliveries WHERE project_id = $1 AND hook_id = $2 AND id = ANY($3)) AS "known!""#,
                project,
                hook,
                &shown
            );
            let is_known = known.fetch_one(&mut *tx).await?;
            return Ok(if is_known { Anew::Goes } else { Anew::Unknown });
        }
        sqlx::query!(
            "DELETE FROM fork_deliveries WHERE project_id = $1 AND hook_id = $2 AND delivery_id = ANY($3)",
            project,
            hook,
            &begun
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "UPDATE statuses SET state = 'pending', description = 'it is begun anew', build_id = NULL, build = NULL, begun_id = NULL,
                held = NULL, detail = NULL, version = nextval('status_versions'), wanted_at = farm_now(), attempts = 0, unknowns = 0,
                due_at = farm_now(), given_up = NULL
             WHERE project_id = $1 AND hook_id = $2 AND commit_id = $3 AND delivery_id = ANY($4)",
            project,
            hook,
            commit.as_str(),
            &begun
        )
        .execute(&mut *tx)
        .await?;
        for delivery in &begun {
            let detail = json!({ "delivery": delivery });
            let deed =
                Deed { project: Some(of.project), action: "hook.redeliver", subject: &of.hook_name, detail };
            by.did(&mut tx, deed).await?;
        }
        tx.commit().await?;
        Ok(Anew::Begun(begun))
    }
}
