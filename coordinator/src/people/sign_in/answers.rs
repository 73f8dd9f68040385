//! What an issuer answers where codes are turned into tokens (RFC 6749, section 5) and where codes for devices come from (RFC 8628,
//! section 3.2).

use serde::Deserialize;

use crate::people::oidc::fetch::Answer;
use crate::people::oidc::refused::{Refused, shown};

/// Between two questions, seconds, where the issuer doesn't say it.
const INTERVAL: u32 = 5;
/// The longest pause and the longest life of a code that are believed, seconds.
const LONGEST_INTERVAL: u32 = 60;
const LONGEST_LIFE: u32 = 3600;

/// The tokens that it grants. All are secrets.
#[derive(Deserialize)]
pub struct Tokens {
    pub id_token: Option<String>,
    pub access_token: Option<String>,
}

/// A code for another device.
#[derive(Deserialize)]
pub struct DeviceAnswer {
    pub device_code: String,
    pub user_code: String,
    /// Some issuers have the name that it had in drafts.
    #[serde(alias = "verification_url")]
    pub verification_uri: String,
    #[serde(alias = "verification_url_complete")]
    pub verification_uri_complete: Option<String>,
    pub expires_in: u32,
    pub interval: Option<u32>,
}

impl DeviceAnswer {
    /// The pause between two questions, and how long the code lives.
    pub fn times(&self) -> (u32, u32) {
        let interval = self.interval.unwrap_or(INTERVAL).clamp(1, LONGEST_INTERVAL);
        (interval, self.expires_in.clamp(1, LONGEST_LIFE))
    }
}

/// Why it grants nothing.
#[derive(Deserialize)]
pub struct Refusal {
    pub error: String,
    pub error_description: Option<String>,
}

/// Whether the issuer doesn't understand what it was sent: by whoever signs in, or since what the configuration says isn't so there.
pub fn is_misunderstood(answer: &Answer) -> bool {
    serde_json::from_slice(&answer.body).is_ok_and(|refusal: Refusal| refusal.error == "invalid_request")
}

/// What a refusal means for whoever signs in.
pub fn refusal(issuer: &str, answer: &Answer) -> Refused {
    let Ok(Refusal { error, error_description }) = serde_json::from_slice(&answer.body) else {
        return Refused::Unavailable(format!("{issuer} answers {}; try again in a minute", answer.status));
    };
    let said = match error_description.as_deref() {
        Some(why) if !why.is_empty() => format!("{}: {}", shown(&error), shown(why)),
        _ => shown(&error),
    };
    match error.as_str() {
        "access_denied" => Refused::Untrusted(format!("the sign-in at {issuer} was refused there ({said})")),
        "expired_token" => Refused::Token("the code wasn't entered in time; begin again".to_owned()),
        "invalid_grant" => {
            Refused::Token(format!("{issuer} doesn't take the code, or not any more ({said}); begin again"))
        }
        // What is wrong with a secret is nothing to be repeated.
        "invalid_client" | "unauthorized_client" => Refused::Setup(format!(
            "{issuer} doesn't let this farm have people sign in ({error}); whoever runs the farm looks at client_id, \
             client_secret_file and client_auth in [sign_in], and at what the issuer has of this farm"
        )),
        "invalid_request" => Refused::Token(format!(
            "{issuer} doesn't understand what it was sent ({said}); begin again. If it stays so, whoever runs the farm looks at what the \
             issuer logs of it"
        )),
        "invalid_scope" | "unsupported_grant_type" => Refused::Setup(format!(
            "{issuer} doesn't do what this farm asks of it ({said}); whoever runs the farm looks at [sign_in], and at what the \
             issuer has of this farm"
        )),
        "server_error" | "temporarily_unavailable" => {
            Refused::Unavailable(format!("{issuer} can't answer now ({said}); try again in a minute"))
        }
        _ => Refused::Token(format!("{issuer} refuses ({said})")),
    }
}
