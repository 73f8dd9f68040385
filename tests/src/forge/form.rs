//! How each forge signs what it delivers, and which headers it sends: GitHub as in its documentation ("Validating webhook deliveries"), GitLab
//! as in its own ("Webhooks": a signing token, by Standard Webhooks, or a secret token), Gitea as in its source (`services/webhook/deliver.go`:
//! its own headers, those of Gogs, of which it comes, and GitHub's), and Forgejo as Gitea, with headers of its own name besides.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

/// Whose form it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Github,
    /// GitLab's, signed by the secret as a signing token.
    Gitlab,
    /// GitLab's, which sends the secret as it is: a secret token.
    GitlabBare,
    Gitea,
    Forgejo,
}

/// An HMAC-SHA256.
fn mac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

impl Form {
    /// That of a hook's provider.
    pub fn of(provider: &str) -> Form {
        match provider {
            "gitlab" => Form::Gitlab,
            "gitea" => Form::Gitea,
            "forgejo" => Form::Forgejo,
            _ => Form::Github,
        }
    }

    /// All that comes with a body, once: names in small letters.
    pub fn headers(self, id: &str, event: &str, body: &str, secret: &str) -> Vec<(&'static str, String)> {
        let mut all = vec![("content-type", "application/json".to_owned())];
        let mut add = |name: &'static str, value: &str| all.push((name, value.to_owned()));
        match self {
            Form::Github => {
                add("x-github-event", event);
                add("x-github-delivery", id);
                add("x-hub-signature-256", &format!("sha256={}", hex(mac(secret.as_bytes(), body).as_ref())));
            }
            Form::Gitlab | Form::GitlabBare => {
                add("x-gitlab-event", event);
                add("idempotency-key", id);
                add("x-gitlab-event-uuid", &format!("event-of-{id}"));
                add("x-gitlab-instance", "https://git.example");
                if self == Form::GitlabBare {
                    add("x-gitlab-token", secret);
                    return all;
                }
                let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().to_string();
                let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
                let signature = STANDARD.encode(mac(&key, &format!("{id}.{at}.{body}")));
                add("webhook-id", id);
                add("webhook-timestamp", &at);
                add("webhook-signature", &format!("v1,{signature}"));
            }
            Form::Gitea | Form::Forgejo => {
                let signed = hex(mac(secret.as_bytes(), body).as_ref());
                if self == Form::Forgejo {
                    add("x-forgejo-delivery", id);
                    add("x-forgejo-event", event);
                    add("x-forgejo-event-type", event);
                    add("x-forgejo-signature", &signed);
                }
                add("x-gitea-delivery", id);
                add("x-gitea-event", event);
                add("x-gitea-event-type", event);
                add("x-gitea-signature", &signed);
                add("x-gogs-delivery", id);
                add("x-gogs-event", event);
                add("x-gogs-event-type", event);
                add("x-gogs-signature", &signed);
                add("x-github-delivery", id);
                add("x-github-event", event);
                add("x-github-event-type", event);
                add("x-hub-signature-256", &format!("sha256={signed}"));
            }
        }
        all
    }
}
