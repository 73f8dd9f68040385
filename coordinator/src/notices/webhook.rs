//! The body of a webhook, as `docs/reference/notice.schema.json` has it, signed by Standard Webhooks.

use farm_store::notices::hour::Summary;
use farm_types::NoticeOn;
use serde_json::{Value, json};
use uuid::Uuid;

use super::address::Address;
use super::said::{Said, What};

/// Of the form of bodies. Another one would mean something else by a field that there is.
const VERSION: u32 = 1;

/// What is signed and sent.
pub fn body(said: &Said<'_>) -> String {
    let (word, at, data) = match &said.what {
        What::Test => ("test", said.at, json!({})),
        What::Summary(summary) => {
            ("builds.summary", said.at, json!({ "counts": summary.counts, "builds": named(summary) }))
        }
        What::End(on, facts) => {
            let word = match (on, &facts.delivery) {
                (NoticeOn::Failure, Some(_)) => "delivery.failed",
                (NoticeOn::Failure, None) => "build.failed",
                (NoticeOn::Recovered, _) => "build.recovered",
                (NoticeOn::Success, _) => "build.succeeded",
                (NoticeOn::Cancelled, _) => "build.cancelled",
            };
            let data = serde_json::to_value(facts).unwrap_or_default();
            (word, facts.ended_at.unwrap_or(said.at), data)
        }
    };
    let mut data = data;
    if let Value::Object(data) = &mut data {
        data.insert("project".to_owned(), said.project.into());
        data.insert("url".to_owned(), said.page.clone().into());
    }
    json!({ "type": word, "version": VERSION, "timestamp": at, "data": data }).to_string()
}

fn named(summary: &Summary) -> Vec<&str> {
    summary.named.iter().map(|one| one.text.as_str()).collect()
}

/// The headers of Standard Webhooks: the same id however often it is sent.
pub fn signed(
    address: &Address,
    has_before: bool,
    id: Uuid,
    now: i64,
    body: &[u8],
) -> Vec<(&'static str, String)> {
    let most = if has_before { address.secrets.len() } else { 1 };
    let secrets: Vec<&str> = address.secrets.iter().take(most).map(String::as_str).collect();
    farm_hooks::signed(&secrets, &format!("msg_{}", id.simple()), now, body).into()
}
