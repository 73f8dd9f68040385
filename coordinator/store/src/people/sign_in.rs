//! Persons who sign in at an issuer: which person an issuer's subject is, and the tokens that sign-ins give.
//!
//! Invariant: a subject becomes a person's by its first sign-in under a name that nobody has, or by an admin's word, and by nothing
//! else; one that an admin has ended comes back by an admin's word only, whatever the issuer calls it by then. A token of a sign-in has its groups beside it (`sign_ins`); a token without such a row has none.

use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_types::{Digest, PrincipalId, PrincipalName};
use serde_json::json;
use uuid::Uuid;

use super::audit::{By, Deed};
use super::principals::person;
use super::tokens::has_room;
use crate::machines::leader::Epoch;
use crate::{Result, Store, StoreError, Tx};

/// Somebody whom an issuer has let in.
#[derive(Debug, Clone)]
pub struct Arrival<'a> {
    /// Which issuer.
    pub issuer: &'a str,
    /// What it knows them by.
    pub subject: &'a str,
    /// What a person is called who is new here; `None`: the issuer says nothing that could be a name.
    pub name: Option<&'a PrincipalName>,
    /// As the issuer names them.
    pub groups: &'a [String],
    /// Of the farm's token.
    pub digest: Digest,
    /// Its first characters.
    pub hint: &'a str,
    /// What lists show it as.
    pub label: &'a str,
    /// How long it counts.
    pub lives: Duration,
    /// Where the call came from; empty: that isn't known.
    pub address: &'a str,
}

/// What became of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// They are this person, and the token counts until then.
    In { name: String, ends: DateTime<Utc> },
    /// There is a person of this name, who is somebody else or hasn't signed in so far.
    Taken,
    /// They are new, and have no name.
    Nameless,
    /// An admin has ended what they were here, this person.
    Ended(String),
}

/// What became of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// It is made.
    Made,
    /// It was there.
    Was,
    /// The subject is this other person's.
    OfAnother(String),
    /// The person is linked to this other subject of the issuer.
    ToAnother(String),
}

impl Store {
    /// Lets somebody in whom an issuer has let in, and keeps the token that is given for it. A person who is new is made.
    ///
    /// # Errors
    /// `Conflict`: they have too many tokens, or were linked at this moment; or the database can't be reached.
    pub async fn sign_in(&self, arrival: &Arrival<'_>) -> Result<Entry> {
        let mut tx = self.begin().await?;
        let by = |name: &str| By {
            name: name.to_owned(),
            token_hint: arrival.hint.to_owned(),
            address: arrival.address.to_owned(),
        };
        let known = match (linked(&mut tx, arrival.issuer, arrival.subject).await?, arrival.name) {
            (Some(known), _) => Some(known),
            (None, None) => return Ok(Entry::Nameless),
            (None, Some(name)) => first(&mut tx, &by(name.as_str()), arrival, name.as_str()).await?,
        };
        let (id, name) = match known {
            Some(Linked { person, name, has_ended: false }) => (person, name),
            Some(Linked { name, .. }) => return Ok(Entry::Ended(name)),
            None => return Ok(Entry::Taken),
        };
        has_room(&mut tx, id).await?;
        sqlx::query!(
            "UPDATE person_subjects SET signed_in_at = farm_now() WHERE issuer = $1 AND subject = $2 AND ended_at IS NULL",
            arrival.issuer,
            arrival.subject
        )
        .execute(&mut *tx)
        .await?;
        let token = Uuid::now_v7();
        let ends = sqlx::query_scalar!(
            r#"INSERT INTO tokens (id, principal_id, digest, hint, label, created_by, expires_at)
               VALUES ($1, $2, $3, $4, $5, $6, farm_now() + make_interval(secs => $7)) RETURNING expires_at AS "ends!""#,
            token,
            id.as_uuid(),
            arrival.digest.as_bytes().as_slice(),
            arrival.hint,
            arrival.label,
            name,
            arrival.lives.as_secs_f64()
        )
        .fetch_one(&mut *tx)
        .await?;
        sqlx::query!(
            "INSERT INTO sign_ins (token_id, issuer, subject, groups, expires_at) VALUES ($1, $2, $3, $4, $5)",
            token,
            arrival.issuer,
            arrival.subject,
            arrival.groups,
            ends
        )
        .execute(&mut *tx)
        .await?;
        let detail = json!({
            "issuer": arrival.issuer, "subject": arrival.subject, "groups": arrival.groups, "expires_at": ends
        });
        let deed = Deed { project: None, action: "person.sign_in", subject: &name, detail };
        by(&name).did(&mut tx, deed).await?;
        tx.commit().await?;
        Ok(Entry::In { name, ends })
    }

    /// Ends the sign-ins whose token nobody has shown for so long since it was made: whoever was to have it hasn't got it, or it would
    /// have been used at once. Answers how many.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn end_unused_sign_ins(&self, epoch: Epoch, after: Duration) -> Result<u64> {
        let mut tx = self.begin_leading(epoch).await?;
        let ended = sqlx::query!(
            "UPDATE tokens t SET revoked_at = farm_now() FROM sign_ins s
             WHERE s.token_id = t.id AND s.expires_at > farm_now() AND t.parent_id IS NULL AND t.revoked_at IS NULL
               AND t.last_used_at IS NULL AND t.created_at < farm_now() - make_interval(secs => $1)",
            after.as_secs_f64()
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(ended.rows_affected())
    }

    /// Says that a person, who is made if there is none of the name, is this subject of an issuer's.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn link_person(&self, by: &By, name: &str, issuer: &str, subject: &str) -> Result<Link> {
        let mut tx = self.begin().await?;
        let id = person(&mut tx, by, name).await?;
        if link_again(&mut tx, by, id, issuer, subject).await?
            || link(&mut tx, by, id, issuer, subject).await?
        {
            let detail = json!({ "issuer": issuer, "subject": subject });
            let deed = Deed { project: None, action: "person.link", subject: name, detail };
            by.did(&mut tx, deed).await?;
            tx.commit().await?;
            return Ok(Link::Made);
        }
        match linked(&mut tx, issuer, subject).await? {
            Some(Linked { person: other, has_ended: false, .. }) if other == id => Ok(Link::Was),
            Some(Linked { name: other, has_ended: false, .. }) => Ok(Link::OfAnother(other)),
            _ => {
                let other = sqlx::query_scalar!(
                    "SELECT subject FROM person_subjects WHERE principal_id = $1 AND issuer = $2 AND ended_at IS NULL",
                    id.as_uuid(),
                    issuer
                );
                let other = other.fetch_optional(&mut *tx).await?;
                other.map(Link::ToAnother).ok_or(StoreError::Stale("somebody was unlinked at this moment"))
            }
        }
    }

    /// Takes from a person all that they are at issuers, and ends what they have signed in with, and what was made with that.
    /// Answers how many tokens counted until now; `None`: they were linked to nobody.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn unlink_person(&self, by: &By, name: &str) -> Result<Option<u64>> {
        let mut tx = self.begin().await?;
        // Whoever signs in at this moment holds the row, so their token is found below.
        let gone = sqlx::query!(
            "UPDATE person_subjects s SET ended_at = farm_now() FROM principals p
             WHERE p.id = s.principal_id AND p.name = $1 AND s.ended_at IS NULL
             RETURNING s.principal_id, s.issuer, s.subject",
            name
        )
        .fetch_all(&mut *tx)
        .await?;
        let Some(principal) = gone.first().map(|row| row.principal_id) else { return Ok(None) };
        let mut ended = 0;
        loop {
            let more = sqlx::query!(
                "WITH RECURSIVE made(id) AS (
                     SELECT t.id FROM tokens t JOIN sign_ins s ON s.token_id = t.id WHERE t.principal_id = $1
                     UNION SELECT t.id FROM tokens t JOIN made ON t.parent_id = made.id)
                 UPDATE tokens SET revoked_at = farm_now() WHERE id IN (SELECT id FROM made)
                   AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > farm_now())",
                principal
            )
            .execute(&mut *tx)
            .await?;
            // While it waited for one with which another was being made, that other one came.
            if more.rows_affected() == 0 {
                break;
            }
            ended += more.rows_affected();
        }
        for row in gone {
            let detail = json!({ "issuer": row.issuer, "subject": row.subject });
            let deed = Deed { project: None, action: "person.unlink", subject: name, detail };
            by.did(&mut tx, deed).await?;
        }
        tx.commit().await?;
        Ok(Some(ended))
    }
}

/// Whose a subject is.
struct Linked {
    person: PrincipalId,
    name: String,
    /// An admin has ended that.
    has_ended: bool,
}

/// Whose a subject is. Held until the end: whoever unlinks it afterwards finds the token that comes of it. By one at a time, as it is
/// written afterwards: two who share it would wait for each other.
async fn linked(tx: &mut Tx, issuer: &str, subject: &str) -> Result<Option<Linked>> {
    let row = sqlx::query!(
        r#"SELECT p.id, p.name, s.ended_at IS NOT NULL AS "has_ended!" FROM person_subjects s JOIN principals p ON p.id = s.principal_id
         WHERE s.issuer = $1 AND s.subject = $2 FOR NO KEY UPDATE OF s"#,
        issuer,
        subject
    );
    let row = row.fetch_optional(&mut **tx).await?;
    Ok(row.map(|row| Linked { person: row.id.into(), name: row.name, has_ended: row.has_ended }))
}

/// The person that somebody becomes who comes for the first time; `None`: that name is another's.
async fn first(tx: &mut Tx, by: &By, arrival: &Arrival<'_>, name: &str) -> Result<Option<Linked>> {
    let new = sqlx::query_scalar!(
        "INSERT INTO principals (id, name, kind, created_by) VALUES ($1, $2, 'person', $2)
         ON CONFLICT (name) DO NOTHING RETURNING id",
        Uuid::now_v7(),
        name
    )
    .fetch_optional(&mut **tx)
    .await?;
    let Some(id) = new.map(PrincipalId::from) else {
        // Unless they have come twice at once, and the other one was first.
        return linked(tx, arrival.issuer, arrival.subject).await;
    };
    let detail = json!({ "kind": "person" });
    by.did(tx, Deed { project: None, action: "principal.create", subject: name, detail }).await?;
    if !link(tx, by, id, arrival.issuer, arrival.subject).await? {
        let why = "an admin has linked you to a person at this moment; sign in once more";
        return Err(StoreError::Conflict(why.to_owned()));
    }
    Ok(Some(Linked { person: id, name: name.to_owned(), has_ended: false }))
}

/// Links a subject that is nobody's to a person who is nobody there. Answers whether it is so.
async fn link(tx: &mut Tx, by: &By, person: PrincipalId, issuer: &str, subject: &str) -> Result<bool> {
    let made = sqlx::query!(
        "INSERT INTO person_subjects (issuer, subject, principal_id, created_by) VALUES ($1, $2, $3, $4)
         ON CONFLICT DO NOTHING",
        issuer,
        subject,
        person.as_uuid(),
        by.name
    );
    Ok(made.execute(&mut **tx).await?.rows_affected() == 1)
}

/// Links a subject that an admin has ended to a person who is nobody there, and as whom nobody has signed in so far. Answers whether it is so.
async fn link_again(tx: &mut Tx, by: &By, person: PrincipalId, issuer: &str, subject: &str) -> Result<bool> {
    let made = sqlx::query!(
        "UPDATE person_subjects SET principal_id = $3, created_at = farm_now(), created_by = $4, ended_at = NULL, signed_in_at = NULL
         WHERE issuer = $1 AND subject = $2 AND ended_at IS NOT NULL AND NOT EXISTS (
             SELECT FROM person_subjects o WHERE o.principal_id = $3 AND o.issuer = $1 AND o.ended_at IS NULL)",
        issuer,
        subject,
        person.as_uuid(),
        by.name
    );
    Ok(made.execute(&mut **tx).await?.rows_affected() == 1)
}
