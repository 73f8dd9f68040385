//! What the farm sends to others, signed as they would have to sign what they send to it: Standard Webhooks.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::verify::sign;

/// The headers of a message of this id, by these secrets (`whsec_…`), the newest first: while one takes the other's place there are two.
/// `now`: seconds since 1970.
pub fn signed(secrets: &[&str], id: &str, now: i64, body: &[u8]) -> [(&'static str, String); 3] {
    let before = format!("{id}.{now}.");
    let of = |secret: &&str| format!("v1,{}", STANDARD.encode(sign(secret, true, before.as_bytes(), body)));
    let signatures: Vec<String> = secrets.iter().map(of).collect();
    [
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", now.to_string()),
        ("webhook-signature", signatures.join(" ")),
    ]
}
