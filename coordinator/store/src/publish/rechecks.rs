//! Tags that are looked at once more, since a put of an older intention may have come after the newest one's.

use std::time::Duration;

use farm_types::{Digest, ProjectId, Repository};

use crate::machines::leader::Epoch;
use crate::unreadable::readable;
use crate::{Result, Store, StoreError, digest, state};

/// For how long a tag is looked at again whose former claim may still have its effect.
pub(crate) const RECHECK_FOR: Duration = Duration::from_secs(24 * 3600);

/// A tag to be looked at once more: a put of an older intention may have come after the newest one's.
#[derive(Debug, Clone)]
pub struct Recheck {
    /// Whose.
    pub project: ProjectId,
    /// Where.
    pub repository: Repository,
    /// Which.
    pub tag: String,
    /// The intention that has it.
    pub order_key: i64,
    /// And its index.
    pub digest: Digest,
    /// What it ought to point to: that index, or if its build has failed, the newest one that was verified before.
    pub wanted: Option<Wanted>,
    /// What other intentions of farm wanted, none of them newer: if it points to one of these, it was overtaken.
    pub older: Vec<Digest>,
}

/// An index that a tag ought to point to.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Which.
    pub digest: Digest,
    /// Of which type.
    pub media_type: String,
    /// Exactly these bytes.
    pub bytes: Vec<u8>,
}

impl Store {
    /// Tags that have to be looked at once more, with what they ought to point to; at most `limit` of each registry.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn due_rechecks(&self, limit: i64) -> Result<Vec<Recheck>> {
        let rows = sqlx::query!(
            r#"SELECT h.project_id, h.registry, h.repository, h.tag, h.order_key, h.digest,
                      p.index_digest AS "index_digest?", p.index_bytes AS "index_bytes?",
                      p.index_media_type AS "index_media_type?",
                      ARRAY(SELECT older.index_digest FROM tags t
                            JOIN publications older ON older.project_id = t.project_id AND older.id = t.publication_id
                            WHERE t.project_id = h.project_id AND t.registry = h.registry
                              AND t.repository = h.repository AND t.tag = h.tag AND t.order_key <= h.order_key
                              AND older.index_digest <> p.index_digest
                            ORDER BY t.order_key DESC LIMIT 100) AS "older!"
               FROM (
                    SELECT *, row_number() OVER (PARTITION BY registry ORDER BY recheck_at) AS place
                    FROM tag_heads WHERE recheck_at <= farm_now()
               ) h
               LEFT JOIN LATERAL (
                    SELECT p.index_digest, p.index_bytes, p.index_media_type
                    FROM tags t JOIN publications p ON p.project_id = t.project_id AND p.id = t.publication_id
                    WHERE t.project_id = h.project_id AND t.registry = h.registry AND t.repository = h.repository
                      AND t.tag = h.tag AND t.order_key <= h.order_key
                      AND (t.state = 'verified' OR t.state IN ('wanted', 'put')
                           AND t.order_key = h.order_key AND p.index_digest = h.digest)
                    ORDER BY t.order_key DESC, p.index_digest = h.digest DESC, p.created_at DESC LIMIT 1
               ) p ON true
               WHERE h.place <= $1 ORDER BY h.recheck_at"#,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        let due = rows.into_iter().filter_map(|row| {
            let name = format!("{}/{}:{}", row.registry, row.repository, row.tag);
            let read = || {
                Ok(Recheck {
                    project: row.project_id.into(),
                    repository: state(&format!("{}/{}", row.registry, row.repository))?,
                    tag: row.tag,
                    order_key: row.order_key,
                    digest: digest(&row.digest)?,
                    wanted: match (row.index_digest, row.index_media_type, row.index_bytes) {
                        (Some(index), Some(media_type), Some(bytes)) => {
                            Some(Wanted { digest: digest(&index)?, media_type, bytes })
                        }
                        _ => None,
                    },
                    older: row.older.iter().map(|bytes| digest(bytes)).collect::<Result<_>>()?,
                })
            };
            readable("a tag that is to be looked at again", name, read())
        });
        Ok(due.collect())
    }

    /// Has those of these tags looked at soon that another intention has by now which is no older than `order_key`: somebody
    /// who doesn't lead any more has put `put` there, maybe too late. Says no epoch, since whoever finds out has none.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn ask_recheck(
        &self,
        project: ProjectId,
        repository: &Repository,
        tags: &[String],
        order_key: i64,
        put: Digest,
    ) -> Result<()> {
        sqlx::query!(
            "UPDATE tag_heads SET recheck_at = farm_now()
             WHERE project_id = $1 AND registry = $2 AND repository = $3 AND tag = ANY($4) AND order_key >= $5
               AND digest <> $6",
            project.as_uuid(),
            repository.registry(),
            repository.name(),
            tags,
            order_key,
            &put.as_bytes()[..]
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Claims a tag anew for the one that has it, before it is put back: whoever takes it over from here on knows that such a
    /// put may be on its way.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when the tag is another's by now; [`StoreError::NotLeading`].
    pub async fn claim_back(&self, epoch: Epoch, recheck: &Recheck, longest_put: Duration) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        let claimed = sqlx::query!(
            "UPDATE tag_heads SET epoch = $7, claimed_at = farm_now(), closed = false,
                    recheck_at = farm_now() + make_interval(secs => $8),
                    recheck_until = CASE WHEN NOT closed AND epoch <> $7
                        THEN farm_now() + make_interval(secs => $9) ELSE recheck_until END
             WHERE project_id = $1 AND registry = $2 AND repository = $3 AND tag = $4 AND order_key = $5
               AND digest = $6",
            recheck.project.as_uuid(),
            recheck.repository.registry(),
            recheck.repository.name(),
            recheck.tag,
            recheck.order_key,
            &recheck.digest.as_bytes()[..],
            epoch.0,
            longest_put.as_secs_f64(),
            RECHECK_FOR.as_secs_f64()
        )
        .execute(&mut *tx)
        .await?;
        if claimed.rows_affected() != 1 {
            return Err(StoreError::Stale("the tag is another's by now"));
        }
        tx.commit().await?;
        Ok(())
    }

    /// A tag was looked at, and `is_put` says whether it was put back. It is looked at again after `again`; without it only
    /// as long as a former claim may still have its effect, and after twice the time each time, at least `longest_put`.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when the tag is another's by now; [`StoreError::NotLeading`].
    pub async fn rechecked(
        &self,
        epoch: Epoch,
        recheck: &Recheck,
        is_put: bool,
        again: Option<Duration>,
        longest_put: Duration,
    ) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        let noted = sqlx::query!(
            "UPDATE tag_heads SET closed = closed OR $9, recheck_at = CASE
                WHEN $7::float8 IS NOT NULL THEN farm_now() + make_interval(secs => $7)
                WHEN recheck_until > farm_now()
                THEN farm_now() + greatest(farm_now() - claimed_at, make_interval(secs => $8)) END
             WHERE project_id = $1 AND registry = $2 AND repository = $3 AND tag = $4 AND order_key = $5
               AND digest = $6",
            recheck.project.as_uuid(),
            recheck.repository.registry(),
            recheck.repository.name(),
            recheck.tag,
            recheck.order_key,
            &recheck.digest.as_bytes()[..],
            again.map(|after| after.as_secs_f64()),
            longest_put.as_secs_f64(),
            is_put
        )
        .execute(&mut *tx)
        .await?;
        if noted.rows_affected() != 1 {
            return Err(StoreError::Stale("the tag is another's by now"));
        }
        tx.commit().await?;
        Ok(())
    }
}
