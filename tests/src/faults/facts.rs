//! What is there at the end: rows of the farm's database, and what the registry has.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::database::{psql, try_psql};

/// Times are seconds since 1970.
#[derive(Debug, Deserialize)]
pub struct Build {
    pub id: String,
    pub key: String,
    pub state: String,
    pub order_key: i64,
    pub cause: Option<String>,
    pub code: Option<String>,
    pub message: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Attempt {
    pub build: String,
    pub platform: String,
    pub job_state: String,
    pub number: u32,
    pub worker: String,
    pub engine: String,
    pub state: String,
    pub code: Option<String>,
    pub offered: f64,
    pub started: Option<f64>,
    pub finished: Option<f64>,
}

/// A tag's row, with the index that its build published.
#[derive(Debug, Deserialize)]
pub struct Tag {
    pub build: String,
    pub digest: String,
    pub order_key: i64,
    pub reference: String,
    pub state: String,
    pub settled: Option<f64>,
}

pub fn builds(url: &str) -> Vec<Build> {
    rows(
        url,
        "SELECT short_id AS id, idempotency_key AS key, state, order_key, failure->>'cause' AS cause,
                failure->>'code' AS code, failure->>'message' AS message
         FROM builds ORDER BY order_key",
    )
}

pub fn attempts(url: &str) -> Vec<Attempt> {
    rows(
        url,
        "SELECT b.short_id AS build, j.platform, j.state AS job_state, a.number, w.name AS worker,
                a.engine_id AS engine, a.state, a.failure->>'code' AS code,
                extract(epoch FROM a.offered_at) AS offered, extract(epoch FROM a.started_at) AS started,
                extract(epoch FROM a.finished_at) AS finished
         FROM attempts a JOIN jobs j ON j.id = a.job_id JOIN workers w ON w.id = a.worker_id
         JOIN builds b ON b.execution_id = j.execution_id ORDER BY a.offered_at, a.number",
    )
}

pub fn tags(url: &str) -> Vec<Tag> {
    rows(
        url,
        "SELECT b.short_id AS build, 'sha256:' || encode(p.index_digest, 'hex') AS digest, t.order_key,
                t.registry || '/' || t.repository || ':' || t.tag AS reference, t.state,
                extract(epoch FROM t.settled_at) AS settled
         FROM tags t JOIN publications p ON p.id = t.publication_id JOIN builds b ON b.id = p.build_id
         ORDER BY t.order_key",
    )
}

/// What of the machines isn't as it was before the first build, one a line.
pub fn leftovers(url: &str) -> Vec<String> {
    let rows = psql(
        url,
        "SELECT 'engine ' || key || ': ' || used || ' slots in use' FROM engines WHERE used <> 0
         UNION ALL SELECT 'attempt ' || id || ' is ' || state FROM attempts WHERE state IN ('offered', 'running')
         UNION ALL SELECT 'job ' || id || ' is ' || state FROM jobs WHERE decided_at IS NULL
         UNION ALL SELECT 'destination of publication ' || publication_id || ' is pending' FROM destinations
                   WHERE state = 'pending'
         UNION ALL SELECT 'tag ' || tag || ' of publication ' || publication_id || ' is ' || state FROM tags
                   WHERE settled_at IS NULL",
    );
    rows.lines().map(str::to_owned).collect()
}

/// What is still under way; nothing when all is over. A tag that farm will soon look at once more counts too, but not the
/// looks after that one, which come over a day.
pub fn unsettled(url: &str) -> Option<String> {
    let sql = "SELECT (SELECT count(*) FROM builds WHERE finished_at IS NULL) || ' builds are open, '
                || (SELECT count(*) FROM tag_heads
                    WHERE recheck_at <= greatest(farm_now(), claimed_at + interval '12 s')) || ' tags are to be looked at, '
                || (SELECT count(*) FROM workers WHERE coordinator_id IS NULL OR withdrawn_at IS NOT NULL
                    OR last_seen < farm_now() - interval '3 s') || ' workers are away'";
    let said = try_psql(url, sql).unwrap_or_else(|| "the database doesn't answer".to_owned());
    (said != "0 builds are open, 0 tags are to be looked at, 0 workers are away").then_some(said)
}

fn rows<T: DeserializeOwned>(url: &str, sql: &str) -> Vec<T> {
    let text = psql(url, &format!("SELECT coalesce(json_agg(t), '[]') FROM ({sql}) t"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

pub fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// A manifest or blob of the registry on this port, as it is stored; nothing when it isn't there.
pub fn fetch(address: &str, repository: &str, what: &str) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let accept = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";
    write!(
        stream,
        "GET /v2/{repository}/{what} HTTP/1.0\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n")?;
    let ok = answer.starts_with(b"HTTP/1.0 200") || answer.starts_with(b"HTTP/1.1 200");
    ok.then(|| answer.split_off(end + 4))
}

pub fn fetch_json(address: &str, repository: &str, what: &str) -> Option<Value> {
    serde_json::from_slice(&fetch(address, repository, what)?).ok()
}
