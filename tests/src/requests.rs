//! What a registry was asked for, read from its log.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The requests that a registry has answered, by its log, in the order in which it did: `GET manifests`.
pub fn requests_in(log: &Path) -> Vec<String> {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned();
    let value = |line: &str, key: &str| {
        let rest = line.split_once(key)?.1;
        Some(rest.trim_start_matches('"').split(['"', ' ']).next()?.to_owned())
    };
    let one = |line: &str| {
        let (method, uri) = (value(line, "http.request.method=")?, value(line, "http.request.uri=")?);
        let kinds = ["manifests", "blobs/uploads", "blobs", "tags"];
        let kind = kinds.into_iter().find(|kind| uri.contains(&format!("/{kind}/"))).unwrap_or("v2");
        Some(format!("{method} {kind}"))
    };
    text.lines().filter(|line| line.contains("response completed")).filter_map(one).collect()
}

/// `3 GET manifests, 1 HEAD blobs`.
pub fn counted(requests: &[String]) -> String {
    let mut kinds = BTreeMap::new();
    requests.iter().for_each(|request| *kinds.entry(request.as_str()).or_insert(0) += 1);
    kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")
}
