//! `[sign_in]`: the issuer at which people sign in, and what its words mean here.

use std::path::PathBuf;
use std::time::Duration;

use farm_types::Invalid;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use crate::outbound::Url;
use crate::people::oidc::issuer::IssuerUrl;

/// The longest session, hours: a week.
const LONGEST: u64 = 168;

/// What is configured of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Its URL, as its tokens have it.
    pub issuer: String,
    /// What the issuer knows this farm by.
    pub client_id: String,
    /// File with the secret that goes with it, for issuers that give one.
    #[serde(default)]
    pub client_secret_file: Option<PathBuf>,
    /// How that is shown where codes are turned into tokens; `None`: as the issuer's description says, a login first.
    #[serde(default)]
    pub client_auth: Option<ClientAuth>,
    /// What is in it, once it was read.
    #[serde(skip)]
    pub client_secret: Option<SecretString>,
    /// What the issuer is asked to tell.
    #[serde(default = "scopes")]
    pub scopes: Vec<String>,
    /// Which claim says what a person is called.
    #[serde(default = "name_claim")]
    pub name_claim: String,
    /// Which claim says in which groups they are.
    #[serde(default = "groups_claim")]
    pub groups_claim: String,
    /// Only whoever is in one of these, or of `admin_groups`, may sign in; none: everybody whom the issuer lets in.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Whoever is in one of these is an admin of the farm while signed in.
    #[serde(default)]
    pub admin_groups: Vec<String>,
    /// How long a sign-in counts.
    #[serde(default = "session_hours")]
    pub session_hours: u64,
    /// Whether a code may be entered on another device, where the issuer offers that.
    #[serde(default = "device")]
    pub device: bool,
    /// Where the issuer sends browsers back to, on the machine of whoever signs in; without a port: any.
    #[serde(default = "redirect_uri")]
    pub redirect_uri: String,
}

/// How this farm shows its secret to the issuer (OpenID Connect Core 1.0, section 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// As a login in the request's header: `client_secret_basic`.
    Basic,
    /// As fields of the form: `client_secret_post`.
    Post,
}

fn scopes() -> Vec<String> {
    ["openid", "profile", "email"].map(str::to_owned).to_vec()
}

fn name_claim() -> String {
    "preferred_username".to_owned()
}

fn groups_claim() -> String {
    "groups".to_owned()
}

fn session_hours() -> u64 {
    12
}

fn device() -> bool {
    true
}

fn redirect_uri() -> String {
    "http://127.0.0.1/callback".to_owned()
}

impl ClientAuth {
    /// As the configuration has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Post => "post",
        }
    }
}

impl Settings {
    /// Checks all of it, and reads the secret.
    ///
    /// # Errors
    /// A value can't be taken, or the file can't be read.
    pub fn complete(&mut self) -> Result<(), Invalid> {
        self.issuer().map_err(|e| Invalid { thing: "sign_in.issuer".to_owned(), ..e })?;
        if self.client_id.is_empty() {
            let cure = "write what the issuer knows this farm by; whoever runs the issuer gives it when the farm is registered there";
            return Err(Invalid::new("sign_in.client_id", &self.client_id, cure));
        }
        let is_scope =
            |scope: &String| !scope.is_empty() && scope.bytes().all(|byte| byte.is_ascii_graphic());
        if !self.scopes.iter().all(is_scope) || !self.scopes.iter().any(|scope| scope == "openid") {
            let cure =
                "write words without blanks, openid among them, as in [\"openid\", \"profile\", \"groups\"]";
            return Err(Invalid::new("sign_in.scopes", self.scopes.join(" "), cure));
        }
        for (thing, claim) in
            [("sign_in.name_claim", &self.name_claim), ("sign_in.groups_claim", &self.groups_claim)]
        {
            if claim.is_empty() {
                return Err(Invalid::new(thing, claim, "name a claim of the issuer's tokens"));
            }
        }
        for (thing, groups) in
            [("sign_in.groups", &self.groups), ("sign_in.admin_groups", &self.admin_groups)]
        {
            if groups.iter().any(String::is_empty) {
                return Err(Invalid::new(thing, "", "name groups as the issuer's tokens do"));
            }
        }
        if !(1..=LONGEST).contains(&self.session_hours) {
            let cure = format!("write a number from 1 to {LONGEST}");
            return Err(Invalid::new("sign_in.session_hours", self.session_hours.to_string(), cure));
        }
        self.redirect()?;
        if let (Some(client_auth), None) = (self.client_auth, &self.client_secret_file) {
            let cure = "it says how the secret is shown, and there is none; name its file as client_secret_file, or leave this out";
            return Err(Invalid::new("sign_in.client_auth", client_auth.as_str(), cure));
        }
        if let Some(file) = &self.client_secret_file {
            let invalid =
                |why: String| Invalid::new("sign_in.client_secret_file", file.display().to_string(), why);
            let read = std::fs::read_to_string(file).map_err(|e| invalid(e.to_string()))?;
            let secret: SecretString = read.trim_end().into();
            if secret.expose_secret().is_empty() {
                return Err(invalid("it is empty; the issuer's client secret is expected there".to_owned()));
            }
            self.client_secret = Some(secret);
        }
        Ok(())
    }

    /// The issuer.
    ///
    /// # Errors
    /// It is none.
    pub fn issuer(&self) -> Result<IssuerUrl, Invalid> {
        self.issuer.parse()
    }

    /// Where browsers are sent back to.
    ///
    /// # Errors
    /// It isn't on the machine of whoever signs in.
    pub fn redirect(&self) -> Result<Url, Invalid> {
        let url = Url::parse(&self.redirect_uri).ok().filter(|url| {
            url.scheme() == "http"
                && matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"))
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        });
        let cure = "write http://127.0.0.1/PATH, http://[::1]/PATH or http://localhost/PATH, as it is registered with the issuer; \
                    with a port if the issuer takes no other";
        url.ok_or_else(|| Invalid::new("sign_in.redirect_uri", &self.redirect_uri, cure))
    }

    /// How long a sign-in counts.
    pub fn session(&self) -> Duration {
        Duration::from_secs(self.session_hours * 3600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "issuer = 'https://sso.example'\nclient_id = 'farm'\n";

    fn read(text: &str) -> Result<Settings, String> {
        let mut settings: Settings = toml::from_str(text).map_err(|e| e.to_string())?;
        settings.complete().map_err(|e| e.to_string())?;
        Ok(settings)
    }

    #[test]
    fn an_issuer_and_a_name_there_are_enough() {
        let settings = read(LEAST).unwrap();
        assert_eq!((settings.session(), settings.device), (Duration::from_secs(12 * 3600), true));
        assert_eq!(settings.redirect().unwrap().as_str(), "http://127.0.0.1/callback");
        assert!(settings.client_secret.is_none() && settings.admin_groups.is_empty());
    }

    #[test]
    fn the_secret_is_read_and_not_printed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "hush\n").unwrap();
        let settings = read(&format!("{LEAST}client_secret_file = {file:?}")).unwrap();
        assert_eq!(settings.client_secret.as_ref().unwrap().expose_secret(), "hush");
        assert!(!format!("{settings:?}").contains("hush"));
        std::fs::write(&file, "\n").unwrap();
        assert!(read(&format!("{LEAST}client_secret_file = {file:?}")).unwrap_err().contains("it is empty"));
    }

    #[test]
    fn mistakes_name_the_key_and_the_cure() {
        for (wrong, key) in [
            ("issuer = 'http://sso.example'\nclient_id = 'farm'", "sign_in.issuer"),
            ("issuer = 'https://sso.example'\nclient_id = ''", "sign_in.client_id"),
            (&*format!("{LEAST}scopes = ['profile']"), "openid among them"),
            (&*format!("{LEAST}scopes = ['openid profile']"), "openid among them"),
            (&*format!("{LEAST}name_claim = ''"), "sign_in.name_claim"),
            (&*format!("{LEAST}session_hours = 0"), "from 1 to 168"),
            (&*format!("{LEAST}session_hours = 169"), "from 1 to 168"),
            (&*format!("{LEAST}redirect_uri = 'https://farm.example/callback'"), "http://127.0.0.1/PATH"),
            (&*format!("{LEAST}redirect_uri = 'http://127.0.0.1.example/'"), "http://127.0.0.1/PATH"),
            (&*format!("{LEAST}redirect_uri = 'http://127.0.0.1/?a=b'"), "http://127.0.0.1/PATH"),
            (&*format!("{LEAST}admin_groups = ['']"), "sign_in.admin_groups"),
            (&*format!("{LEAST}client_secret = 'hush'"), "unknown field"),
            (
                &*format!("{LEAST}client_auth = 'post'"),
                "sign_in.client_auth \"post\": it says how the secret",
            ),
            (&*format!("{LEAST}client_auth = 'client_secret_post'"), "expected `basic` or `post`"),
            (&*format!("{LEAST}client_secret_file = '/nowhere/at/all'"), "sign_in.client_secret_file"),
            ("issuer = 'https://sso.example'", "client_id"),
        ] {
            let why = read(wrong).unwrap_err();
            assert!(why.contains(key), "{wrong}: {why}");
        }
    }
}
