//! A delivery of farm's own, signed as the provider signs, by which a hook is tried. Nothing follows from it.

use ring::hmac;

use crate::outgoing::signed;
use crate::provider::Provider;
use crate::verify::sign;

/// What to send. Not to be printed: it may hold the secret.
pub struct Ping {
    /// Names in small letters.
    pub headers: Vec<(&'static str, String)>,
    /// Of the address, where the provider has it there.
    pub token: Option<String>,
    pub body: &'static [u8],
}

/// A ping of this id, signed by the hook's secret. `now`: seconds since 1970.
pub fn ping(provider: Provider, secret: &str, id: &str, now: i64) -> Ping {
    let body: &[u8] = match provider {
        Provider::Generic => br#"{"type":"ping"}"#,
        Provider::Distribution => br#"{"events":[]}"#,
        _ => b"{}",
    };
    let hex =
        |mac: hmac::Tag| mac.as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let of_body = || hex(sign(secret, false, &[], body));
    let is = |text: &str| text.to_owned();
    let mut token = None;
    let headers = match provider {
        Provider::Github => vec![
            ("x-github-event", is("ping")),
            ("x-github-delivery", is(id)),
            ("x-hub-signature-256", format!("sha256={}", of_body())),
        ],
        Provider::Gitea => {
            vec![
                ("x-gitea-event", is("ping")),
                ("x-gitea-delivery", is(id)),
                ("x-gitea-signature", of_body()),
            ]
        }
        Provider::Forgejo => vec![
            ("x-forgejo-event", is("ping")),
            ("x-forgejo-delivery", is(id)),
            ("x-forgejo-signature", of_body()),
        ],
        Provider::Gitlab => {
            vec![("x-gitlab-event", is("ping")), ("idempotency-key", is(id)), ("x-gitlab-token", is(secret))]
        }
        Provider::Generic => signed(&[secret], id, now, body).into(),
        Provider::Dockerhub => {
            token = Some(is(secret));
            Vec::new()
        }
        Provider::Distribution => vec![("authorization", format!("Bearer {secret}"))],
    };
    Ping { headers, token, body }
}
