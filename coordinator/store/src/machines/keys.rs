//! Which of the farm's keys coordinators have, by the keys' ids: what one seals, all have to open.

use std::time::Duration;

use uuid::Uuid;

use crate::{Result, Store};

/// Which keys a coordinator has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysOf {
    /// Which coordinator.
    pub coordinator: Uuid,
    /// Where the others call it.
    pub address: String,
    /// The keys' ids, the one first by which it would seal.
    pub ids: Vec<String>,
}

impl Store {
    /// Notes which keys a coordinator has. It is there, or nothing is noted.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn note_keys(&self, coordinator: Uuid, ids: &[String]) -> Result<()> {
        sqlx::query!(
            "UPDATE coordinators SET key_ids = $2 WHERE id = $1 AND key_ids IS DISTINCT FROM $2",
            coordinator,
            ids
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Which keys the coordinators have that gave a sign within `silence`, as far as they say it.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn keys_of_coordinators(&self, silence: Duration) -> Result<Vec<KeysOf>> {
        let rows = sqlx::query!(
            r#"SELECT id, address, key_ids AS "key_ids!" FROM coordinators
               WHERE key_ids IS NOT NULL AND last_seen > farm_now() - make_interval(secs => $1) ORDER BY address, id"#,
            silence.as_secs_f64()
        )
        .fetch_all(&self.pool)
        .await?;
        let keys = |id, address, ids| KeysOf { coordinator: id, address, ids };
        Ok(rows.into_iter().map(|row| keys(row.id, row.address, row.key_ids)).collect())
    }
}
