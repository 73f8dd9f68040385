//! What is known of a request before it is asked who makes it.

use std::net::IpAddr;

use http::HeaderMap;

use crate::limits::line::Turn;

/// A request, without its address and its form.
#[derive(Debug)]
pub struct Asked {
    pub headers: HeaderMap,
    /// From where.
    pub from: Option<IpAddr>,
    /// Nobody between can read it.
    pub is_encrypted: bool,
    /// Its cookies are for encrypted connections only.
    pub is_secure: bool,
    pub turn: Turn,
}
