//! What was done, by whom.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use farm_proto::v1;
use farm_proto::v1::audit_service_server::AuditService;
use farm_store::people::trail::{Asked, Entry, Verified};
use farm_types::{Digest, Invalid, ProjectId};
use tonic::{Request, Response, Status};

use super::{millis, millis_of};
use crate::grpc::status;
use crate::people;
use crate::shared::Shared;

/// Entries in a page, if nobody says how many, and at most.
const PAGE: u32 = 100;
const LONGEST_PAGE: u32 = 1_000;
/// So many heads are looked for at once.
const HEADS: usize = 10_000;
/// So many seals that are broken are told.
const TOLD: usize = 100;

/// Serves [`AuditService`].
#[derive(Debug)]
pub struct Audit {
    shared: Arc<Shared>,
}

impl Audit {
    /// What it is kept with.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn list(
        &self,
        project: Option<ProjectId>,
        request: v1::ListAuditRequest,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        let v1::ListAuditRequest { since_ms, page_size, page_token } = request;
        let size = if page_size == 0 { PAGE } else { page_size.min(LONGEST_PAGE) };
        let since = DateTime::from_timestamp_millis(since_ms).filter(|_| since_ms >= 0).ok_or_else(|| {
            let cure = "write milliseconds since 1970, or 0 for all that is kept";
            status::invalid(Invalid::new("since_ms", since_ms.to_string(), cure))
        })?;
        let before = read(&page_token).map_err(status::invalid)?;
        let asked = Asked { project, since, before, most: i64::from(size) + 1 };
        let mut entries = self.shared.store.audit(&asked).await.map_err(status::store)?;
        let page = usize::try_from(size).unwrap_or(usize::MAX);
        let is_more = entries.len() > page;
        entries.truncate(page);
        let next = entries.last().filter(|_| is_more).map(|last| token(last.at, last.id));
        Ok(Response::new(v1::ListAuditResponse {
            entries: entries.into_iter().map(present).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }
}

/// The token of the page that begins after this entry. It is no secret, and gives nobody any right.
fn token(at: DateTime<Utc>, id: i64) -> String {
    format!("{}-{id}", at.timestamp_micros())
}

/// The entry after which the page of this token begins.
fn read(token: &str) -> Result<Option<(DateTime<Utc>, i64)>, Invalid> {
    if token.is_empty() {
        return Ok(None);
    }
    let parts = token.split_once('-').and_then(|(at, id)| Some((at.parse().ok()?, id.parse().ok()?)));
    let entry = parts.and_then(|(at, id)| Some((DateTime::from_timestamp_micros(at)?, id)));
    entry.map(Some).ok_or_else(|| {
        let cure = "take next_page_token of the page before, or none for the first page";
        Invalid::new("page token", token.chars().take(60).collect::<String>(), cure)
    })
}

fn present(entry: Entry) -> v1::AuditEntry {
    v1::AuditEntry {
        id: entry.id,
        at_ms: millis(entry.at),
        project: entry.project.unwrap_or_default(),
        principal: entry.principal,
        token_hint: entry.token_hint,
        address: entry.address,
        action: entry.action,
        subject: entry.subject,
        detail_json: entry.detail,
    }
}

fn count(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_default()
}

fn found(found: Verified) -> v1::VerifyAuditResponse {
    let broken = found.broken.into_iter().take(TOLD).map(|broken| v1::BrokenSeal {
        first_id: broken.rows.0,
        last_id: broken.rows.1,
        sealed_ms: millis(broken.sealed_at),
        link: broken.is_link,
    });
    let outside = found.outside.into_iter().map(|outside| {
        let head = outside.head.hex();
        match outside.found {
            None => v1::OutsideHead { head, ..Default::default() },
            Some(found) => v1::OutsideHead {
                head,
                found: true,
                last_id: found.last_id,
                sealed_ms: millis(found.sealed_at),
                whole: found.is_whole,
                rows_after: count(found.rows_after),
            },
        }
    });
    v1::VerifyAuditResponse {
        rows: count(found.rows),
        seals: count(found.seals),
        first_id: found.first_id.unwrap_or_default(),
        last_id: found.last_id.unwrap_or_default(),
        head: found.head.map(|head| head.hex()).unwrap_or_default(),
        unsealed: count(found.unsealed),
        removed: found.removed.map_or(0, |(rows, _)| count(rows)),
        removed_until_ms: millis_of(found.removed.map(|(_, until)| until)),
        broken: broken.collect(),
        outside: outside.collect(),
    }
}

#[farm_calls::service]
impl AuditService for Audit {
    async fn list_audit(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        let member = people::member(&request)?;
        self.list(Some(member.project), request.into_inner()).await
    }

    async fn list_farm_audit(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        people::caller(&request)?;
        self.list(None, request.into_inner()).await
    }

    async fn verify_audit(
        &self,
        request: Request<v1::VerifyAuditRequest>,
    ) -> Result<Response<v1::VerifyAuditResponse>, Status> {
        people::caller(&request)?;
        let heads = request.into_inner().heads;
        if heads.len() > HEADS {
            let cure = format!("bring at most {HEADS} at once; the newest is the one that proves most");
            return Err(status::invalid(Invalid::new("heads", heads.len().to_string(), cure)));
        }
        let heads: Result<Vec<Digest>, Invalid> =
            heads.iter().map(|head| format!("sha256:{head}").parse()).collect();
        let heads = heads.map_err(status::invalid)?;
        let verified = self.shared.store.verify_audit(&heads).await.map_err(status::store)?;
        if !verified.broken.is_empty() {
            tracing::error!(seals = verified.broken.len(), "the audit is not what was sealed");
        }
        Ok(Response::new(found(verified)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_begins_after_the_last_entry_of_the_page_before() {
        let at = DateTime::from_timestamp_micros(1_234_567).unwrap();
        assert_eq!(read(&token(at, 7)), Ok(Some((at, 7))));
        assert_eq!(read(""), Ok(None));
        for wrong in ["7", "x-7", "7-", "-", "7-x", "99999999999999999999-1", &i64::MAX.to_string()] {
            assert!(read(wrong).unwrap_err().to_string().contains("next_page_token"), "{wrong}");
        }
    }
}
