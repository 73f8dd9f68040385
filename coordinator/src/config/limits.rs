//! `[limits]`: the numbers that can be turned.

use std::net::IpAddr;
use std::time::Duration;

use farm_types::Invalid;
use ipnet::IpNet;
use serde::Deserialize;

use super::{YEAR, in_range};
use crate::limits::address::ProxyHeader;

/// The numbers that can be turned.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Workers give a sign so often, milliseconds.
    pub heartbeat_milliseconds: u64,
    /// A worker that was silent for so long gets no new job, seconds.
    pub suspect_seconds: u64,
    /// A lease ends so long after the last sign, seconds; at least three heartbeats.
    pub lease_seconds: u64,
    /// A platform counts as natively served for so long after its last native worker's sign, seconds.
    pub native_grace_seconds: u64,
    /// A job may wait for a worker for so long, seconds.
    pub queue_deadline_seconds: u64,
    /// One try of a job may take so long, seconds.
    pub attempt_deadline_seconds: u64,
    /// A try of which nothing is heard for so long is tried elsewhere, seconds.
    pub progress_deadline_seconds: u64,
    /// A build's ssh agent that nobody has offered for so long is away, seconds. A command that lost its connection is back before.
    pub agent_away_seconds: u64,
    /// A publication may take so long, seconds.
    pub publish_deadline_seconds: u64,
    /// A copy may take so long, seconds.
    pub copy_deadline_seconds: u64,
    /// An upload session lives for so long after its last call, seconds.
    pub upload_session_seconds: u32,
    /// A worker's certificate is good for so long, seconds; the worker renews it after two thirds of that.
    pub worker_certificate_seconds: u64,
    /// The longest file in a snapshot, bytes.
    pub max_file_bytes: u64,
    /// The most platforms that a build may name.
    pub max_platforms: usize,
    /// The most tags that a build may name.
    pub max_tags: usize,
    /// A request to a registry may take so long, seconds.
    pub registry_timeout_seconds: u64,
    /// The blob store may take so long for one step (a write of some MiB, a read of a piece), seconds.
    pub blob_timeout_seconds: u64,
    /// What the steps of one attempt may write, bytes; the rest is cut off, and the stream says so.
    pub log_bytes: u64,
    /// The longest output of one platform that is given to a client (`--output`, `--load`), bytes.
    pub output_bytes: u64,
    /// The longest image of one platform that is copied from the staging registry, with its attestations, bytes.
    pub staged_bytes: u64,
    /// The most connections at once.
    pub max_connections: u64,
    /// The most connections at once of one address; of an IPv6 /64 network.
    pub max_connections_per_address: u64,
    /// The most calls at once on one connection.
    pub max_streams_per_connection: u32,
    /// A connection on which no call was made for so long since it was opened is closed, seconds.
    pub first_call_seconds: u64,
    /// A connection without a call is closed after so long, seconds.
    pub idle_connection_seconds: u64,
    /// A connection is closed when the client takes nothing of an answer for so long, seconds.
    pub stalled_stream_seconds: u64,
    /// What a person, a service or another identity may call within a minute; 0: without a limit, here and below.
    pub calls_per_minute_per_identity: u32,
    /// What may be called from one address within a minute.
    pub calls_per_minute_per_address: u32,
    /// The same by callers whom no token shows.
    pub strangers_per_minute_per_address: u32,
    /// What may be asked of the issuer at which people sign in, within a minute, for callers at one address.
    pub sign_ins_per_minute_per_address: u32,
    /// The same for all callers together.
    pub sign_ins_per_minute: u32,
    /// The most that is asked of it at once for callers at one address.
    pub sign_ins_at_once_per_address: u32,
    /// The same for all callers together.
    pub sign_ins_at_once: u32,
    /// What may be delivered to one hook within a minute.
    pub deliveries_per_minute_per_hook: u32,
    /// What may be delivered from one address within a minute.
    pub deliveries_per_minute_per_address: u32,
    /// Proxies that are believed where they say that a call comes from.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// In which header these say it.
    pub proxy_header: ProxyHeader,
}

/// Networks, and addresses as networks of one.
fn networks<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let network = |text: &String| {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let cure = "write an address (10.0.0.3) or a network (10.0.0.0/8)";
        network.map_err(|_| serde::de::Error::custom(Invalid::new("limits.trusted_proxies", text, cure)))
    };
    texts.iter().map(network).collect()
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            heartbeat_milliseconds: 5_000,
            suspect_seconds: 12,
            lease_seconds: 25,
            native_grace_seconds: 30,
            queue_deadline_seconds: 24 * 3600,
            attempt_deadline_seconds: 6 * 3600,
            progress_deadline_seconds: 15 * 60,
            agent_away_seconds: 30,
            publish_deadline_seconds: 3600,
            copy_deadline_seconds: 6 * 3600,
            upload_session_seconds: 3600,
            worker_certificate_seconds: 24 * 3600,
            max_file_bytes: 8 * 1024 * 1024 * 1024,
            max_platforms: 32,
            max_tags: 64,
            registry_timeout_seconds: 30,
            blob_timeout_seconds: 30,
            log_bytes: 64 * 1024 * 1024,
            output_bytes: 8 * 1024 * 1024 * 1024,
            staged_bytes: 32 * 1024 * 1024 * 1024,
            max_connections: 12_000,
            max_connections_per_address: 4096,
            max_streams_per_connection: 1024,
            first_call_seconds: 30,
            idle_connection_seconds: 300,
            stalled_stream_seconds: 600,
            calls_per_minute_per_identity: 6000,
            calls_per_minute_per_address: 60_000,
            strangers_per_minute_per_address: 600,
            sign_ins_per_minute_per_address: 120,
            sign_ins_per_minute: 600,
            sign_ins_at_once_per_address: 8,
            sign_ins_at_once: 16,
            deliveries_per_minute_per_hook: 1200,
            deliveries_per_minute_per_address: 6000,
            trusted_proxies: Vec::new(),
            proxy_header: ProxyHeader::default(),
        }
    }
}

impl Limits {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        for (name, value, most) in [
            ("heartbeat_milliseconds", self.heartbeat_milliseconds, 60_000),
            ("suspect_seconds", self.suspect_seconds, YEAR),
            ("lease_seconds", self.lease_seconds, YEAR),
            ("native_grace_seconds", self.native_grace_seconds, YEAR),
            ("queue_deadline_seconds", self.queue_deadline_seconds, YEAR),
            ("attempt_deadline_seconds", self.attempt_deadline_seconds, YEAR),
            ("progress_deadline_seconds", self.progress_deadline_seconds, YEAR),
            ("agent_away_seconds", self.agent_away_seconds, 300),
            ("publish_deadline_seconds", self.publish_deadline_seconds, YEAR),
            ("copy_deadline_seconds", self.copy_deadline_seconds, YEAR),
            ("upload_session_seconds", self.upload_session_seconds.into(), YEAR),
            ("max_file_bytes", self.max_file_bytes, 1 << 50),
            ("registry_timeout_seconds", self.registry_timeout_seconds, 3600),
            ("blob_timeout_seconds", self.blob_timeout_seconds, 3600),
            ("worker_certificate_seconds", self.worker_certificate_seconds, YEAR),
            ("max_platforms", count(self.max_platforms), 1000),
            ("max_tags", count(self.max_tags), 10_000),
            ("log_bytes", self.log_bytes, 1 << 40),
            ("output_bytes", self.output_bytes, 1 << 50),
            ("staged_bytes", self.staged_bytes, 1 << 50),
            ("max_connections", self.max_connections, 1 << 20),
            ("max_connections_per_address", self.max_connections_per_address, 1 << 20),
            ("max_streams_per_connection", self.max_streams_per_connection.into(), 1 << 16),
            ("sign_ins_at_once_per_address", self.sign_ins_at_once_per_address.into(), 1 << 16),
            ("sign_ins_at_once", self.sign_ins_at_once.into(), 1 << 16),
            ("first_call_seconds", self.first_call_seconds, YEAR),
            ("idle_connection_seconds", self.idle_connection_seconds, YEAR),
            ("stalled_stream_seconds", self.stalled_stream_seconds, YEAR),
        ] {
            in_range(name, value, 1, most)?;
        }
        if self.lease_seconds * 1000 < self.heartbeat_milliseconds * 3 {
            let cure = "it must be at least three heartbeats";
            return Err(Invalid::new("lease_seconds", self.lease_seconds.to_string(), cure));
        }
        Ok(())
    }

    /// `lease_seconds`.
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }

    /// `suspect_seconds`.
    pub fn suspect(&self) -> Duration {
        Duration::from_secs(self.suspect_seconds)
    }
}
