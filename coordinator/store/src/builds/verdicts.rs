//! What programs layers hold: looked up by whoever verifies an image, kept for the next.
//!
//! A verdict is of a layer's bytes alone, so it holds for all images and platforms. It is the project's own: what another project's
//! machines say clears nothing here.

use std::collections::HashMap;
use std::time::Duration;

use farm_types::elf::LayerVerdict;
use farm_types::{Digest, ProjectId};

use crate::machines::leader::Epoch;
use crate::{Result, Store, digest, from_json, to_json};

/// One that nobody has asked for for so long goes: its layer is read once more then.
pub const UNUSED: Duration = Duration::from_secs(90 * 24 * 3600);

impl Store {
    /// Of these layers those that are known by these rules; one that can't be read is not.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn layer_verdicts(
        &self,
        project: ProjectId,
        rules: u32,
        diff_ids: &[Digest],
    ) -> Result<HashMap<Digest, LayerVerdict>> {
        let wanted: Vec<Vec<u8>> = diff_ids.iter().map(|diff_id| diff_id.as_bytes().to_vec()).collect();
        let rows = sqlx::query!(
            r#"SELECT diff_id, verdict, used_at < farm_now() - interval '1 day' AS "long_ago!" FROM layer_verdicts
             WHERE project_id = $1 AND rules = $2 AND diff_id = ANY($3)"#,
            project.as_uuid(),
            i64::from(rules),
            &wanted
        )
        .fetch_all(&self.pool)
        .await?;
        if rows.iter().any(|row| row.long_ago) {
            let used: Vec<Vec<u8>> = rows.iter().map(|row| row.diff_id.clone()).collect();
            sqlx::query!(
                "UPDATE layer_verdicts SET used_at = farm_now()
                 WHERE project_id = $1 AND rules = $2 AND diff_id = ANY($3) AND used_at < farm_now() - interval '1 day'",
                project.as_uuid(),
                i64::from(rules),
                &used
            )
            .execute(&self.pool)
            .await?;
        }
        let mut known = HashMap::with_capacity(rows.len());
        for row in rows {
            if let Ok(verdict) = from_json(row.verdict) {
                known.insert(digest(&row.diff_id)?, verdict);
            }
        }
        Ok(known)
    }

    /// Keeps what a trusted machine has found; what is known stays as it is.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn keep_layer_verdicts(
        &self,
        project: ProjectId,
        rules: u32,
        verdicts: &[(Digest, LayerVerdict)],
    ) -> Result<()> {
        // In one order, so that two don't wait for each other.
        let mut sorted: Vec<&(Digest, LayerVerdict)> = verdicts.iter().collect();
        sorted.sort_by_key(|(diff_id, _)| diff_id);
        let diff_ids: Vec<Vec<u8>> = sorted.iter().map(|(diff_id, _)| diff_id.as_bytes().to_vec()).collect();
        let verdicts = sorted.iter().map(|(_, verdict)| to_json(verdict)).collect::<Result<Vec<_>>>()?;
        sqlx::query!(
            "INSERT INTO layer_verdicts (project_id, diff_id, rules, verdict)
             SELECT $1, diff_id, $2, verdict FROM unnest($3::bytea[], $4::jsonb[]) AS new (diff_id, verdict)
             ON CONFLICT DO NOTHING",
            project.as_uuid(),
            i64::from(rules),
            &diff_ids,
            &verdicts
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Forgets at most `limit` of which nobody has asked for long, or whose project was removed; gives how many.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn forget_layer_verdicts(&self, epoch: Epoch, limit: i64) -> Result<u64> {
        let mut tx = self.begin_leading(epoch).await?;
        let gone = sqlx::query!(
            "DELETE FROM layer_verdicts WHERE (project_id, diff_id, rules) IN (
                (SELECT project_id, diff_id, rules FROM layer_verdicts
                 WHERE used_at < farm_now() - make_interval(secs => $2) ORDER BY used_at LIMIT $1)
                UNION ALL
                (SELECT v.project_id, v.diff_id, v.rules FROM projects p JOIN layer_verdicts v ON v.project_id = p.id
                 WHERE p.removed_at IS NOT NULL LIMIT $1))",
            limit,
            UNUSED.as_secs_f64()
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(gone.rows_affected())
    }
}
