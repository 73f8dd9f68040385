//! Invitations: what lets a worker join, once, and as what. Only a digest of the join token is kept.

use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_types::{Digest, InvitationId, Platform, TrustClass};
use serde_json::json;
use uuid::Uuid;

use crate::people::audit::{By, Deed};
use crate::{Result, Store, StoreError, fit};

/// An invitation that is to be.
#[derive(Debug, Clone)]
pub struct NewInvitation<'a> {
    /// Of its token.
    pub digest: Digest,
    /// The token's first characters.
    pub hint: &'a str,
    /// The name that the worker has to have.
    pub name: Option<&'a str>,
    /// The machine that is to have it, which is there.
    pub machine: Option<&'a str>,
    /// Of the machine, if that one is new.
    pub pool: &'a str,
    pub trust: TrustClass,
    /// What it may offer; empty: whatever its engine runs.
    pub platforms: &'a [Platform],
    /// The most that it may run at once.
    pub slots: Option<u32>,
    /// How long it can be used.
    pub lives: Duration,
}

/// An invitation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    pub id: InvitationId,
    pub hint: String,
    pub name: Option<String>,
    /// The machine that is to have it; `None`: another one.
    pub machine: Option<String>,
    pub pool: String,
    pub trust: TrustClass,
    pub platforms: Vec<Platform>,
    pub slots: Option<u32>,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
    pub expires_at: DateTime<Utc>,
    /// When it was used or taken back.
    pub ended_at: Option<DateTime<Utc>>,
    /// Of the public key that it was used with.
    pub key: Option<Digest>,
    /// The farm's time when this was read.
    pub now: DateTime<Utc>,
}

struct Row {
    id: Uuid,
    hint: String,
    name: Option<String>,
    machine: Option<String>,
    pool: String,
    trust: String,
    platforms: Vec<String>,
    slots: Option<i32>,
    created_at: DateTime<Utc>,
    created_by: String,
    expires_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
    key_digest: Option<Vec<u8>>,
    now: DateTime<Utc>,
}

impl TryFrom<Row> for Invitation {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: row.id.into(),
            hint: row.hint,
            name: row.name,
            machine: row.machine,
            pool: row.pool,
            trust: row.trust.parse().map_err(StoreError::corrupt)?,
            platforms: platforms(&row.platforms)?,
            slots: row.slots.map(fit).transpose()?,
            created_at: row.created_at,
            created_by: row.created_by,
            expires_at: row.expires_at,
            ended_at: row.ended_at,
            key: row.key_digest.map(|bytes| crate::digest(&bytes)).transpose()?,
            now: row.now,
        })
    }
}

/// Platforms as rows have them.
pub(super) fn platforms(texts: &[String]) -> Result<Vec<Platform>> {
    texts.iter().map(|text| text.parse().map_err(StoreError::corrupt)).collect()
}

impl Store {
    /// Makes an invitation. What a machine that is there has, pool and trust, stays.
    ///
    /// # Errors
    /// `NotFound`: there is no such machine; or the database can't be reached.
    pub async fn invite(&self, by: &By, new: &NewInvitation<'_>) -> Result<Invitation> {
        let mut tx = self.begin().await?;
        let machine = match new.machine {
            None => None,
            Some(name) => {
                let there = sqlx::query!("SELECT id, pool, trust FROM machines WHERE name = $1", name);
                Some(there.fetch_optional(&mut *tx).await?.ok_or(StoreError::NotFound("machine"))?)
            }
        };
        let (pool, trust) = match &machine {
            Some(machine) => (machine.pool.as_str(), machine.trust.as_str()),
            None => (new.pool, new.trust.as_str()),
        };
        let platforms: Vec<String> = new.platforms.iter().map(ToString::to_string).collect();
        let id = sqlx::query_scalar!(
            "INSERT INTO invitations (id, digest, hint, name, machine_id, pool, trust, platforms, slots, created_by, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, farm_now() + make_interval(secs => $11)) RETURNING id",
            Uuid::now_v7(),
            new.digest.as_bytes().as_slice(),
            new.hint,
            new.name,
            machine.as_ref().map(|machine| machine.id),
            pool,
            trust,
            &platforms,
            new.slots.map(fit::<_, i32>).transpose()?,
            by.name,
            new.lives.as_secs_f64()
        )
        .fetch_one(&mut *tx)
        .await?;
        let detail = json!({ "name": new.name, "machine": new.machine, "pool": pool, "trust": trust,
                             "platforms": platforms, "slots": new.slots });
        by.did(&mut tx, Deed { project: None, action: "worker.invite", subject: new.hint, detail }).await?;
        tx.commit().await?;
        let all = self.read_invitations(Some(id), None).await?;
        all.into_iter().next().ok_or(StoreError::NotFound("invitation"))
    }

    /// Those that nobody has used and that can still be used, the newest first.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn invitations(&self) -> Result<Vec<Invitation>> {
        self.read_invitations(None, None).await
    }

    /// The one that this join token is of, also one that counts no more.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn invitation_of(&self, digest: Digest) -> Result<Option<Invitation>> {
        Ok(self.read_invitations(None, Some(digest)).await?.pop())
    }

    async fn read_invitations(&self, id: Option<Uuid>, digest: Option<Digest>) -> Result<Vec<Invitation>> {
        let digest = digest.map(|digest| digest.as_bytes().to_vec());
        let rows = sqlx::query_as!(
            Row,
            r#"SELECT i.id, i.hint, i.name, (SELECT m.name FROM machines m WHERE m.id = i.machine_id) AS "machine?",
                      i.pool, i.trust, i.platforms, i.slots, i.created_at, i.created_by, i.expires_at, i.ended_at,
                      i.key_digest, farm_now() AS "now!"
               FROM invitations i
               WHERE i.id = $1 OR i.digest = $2
                  OR ($1 IS NULL AND $2 IS NULL AND i.ended_at IS NULL AND i.expires_at > farm_now())
               ORDER BY i.id DESC LIMIT 1000"#,
            id,
            digest
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(Invitation::try_from).collect()
    }

    /// Takes back the one that is named, by id or by its token's first characters.
    ///
    /// # Errors
    /// `NotFound`: none that still counts is so named; `Conflict`: several are; or the database can't be reached.
    pub async fn withdraw_invitation(&self, by: &By, name: &str) -> Result<()> {
        let mut tx = self.begin().await?;
        let ended = sqlx::query_scalar!(
            "UPDATE invitations SET ended_at = farm_now()
             WHERE (id::text = $1 OR hint = $1) AND ended_at IS NULL AND expires_at > farm_now() RETURNING hint",
            name
        )
        .fetch_all(&mut *tx)
        .await?;
        let hint = match ended.as_slice() {
            [] => return Err(StoreError::NotFound("invitation")),
            [hint] => hint,
            several => {
                return Err(StoreError::Conflict(format!(
                    "{} invitations begin with {name}; name one by its id, which `farm workers invitations --json` shows",
                    several.len()
                )));
            }
        };
        by.did(&mut tx, Deed { project: None, action: "worker.withdraw", subject: hint, detail: json!({}) })
            .await?;
        tx.commit().await?;
        Ok(())
    }
}
