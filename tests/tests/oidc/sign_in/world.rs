//! A farm at which people sign in, its issuer, and a browser.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farm_proto::v1;
use farm_proto::v1::sign_in_request::By;
use farm_proto::v1::sign_in_response::Came;
use farm_proto::v1::sign_in_service_client::SignInServiceClient;
use farm_tests::client::Client;
use farm_tests::farm::{Farm, FarmBuilder, Output, output, program};
use farm_tests::issuer::people::{People, fields};
use farm_tests::issuer::{Issuer, Key, Kind};
use farm_tests::process::Child;
use serde_json::{Value, json};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

pub struct World {
    pub farm: Farm,
    pub issuer: Issuer,
    pub key: Arc<Key>,
    home: tempfile::TempDir,
}

/// An issuer that lets in ada, of the group devs.
pub fn issuer() -> (Issuer, Arc<Key>) {
    let key = Arc::new(Key::new("one", Kind::Es256));
    let issuer = Issuer::start(&[&key]);
    let ada = json!({"sub": "subject-of-ada", "preferred_username": "ada", "groups": ["devs"]});
    issuer.lets_in(People::new(&key, ada));
    (issuer, key)
}

/// The configuration of a farm at which people sign in there, with more lines of `[sign_in]`.
pub fn config(issuer: &Issuer, more: &str) -> String {
    let url = issuer.url();
    format!(
        "[oidc.issuers.'{url}']\nplain_http = true\n[sign_in]\nissuer = '{url}'\nclient_id = 'farm'\nadmin_groups = ['ops']\n{more}\n"
    )
}

pub fn world_with(more: &str, build: impl FnOnce(FarmBuilder) -> FarmBuilder) -> World {
    let (issuer, key) = issuer();
    let farm = build(Farm::builder().config(&config(&issuer, more))).start();
    World { farm, issuer, key, home: tempfile::tempdir().unwrap() }
}

pub fn world() -> World {
    world_with("", |farm| farm)
}

pub fn wait<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(begin.elapsed() < limit, "no {what} within {limit:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What a web server on this machine answers: the status, where it leads, and the body.
pub fn get(url: &str, host: Option<&str>) -> (u16, Option<String>, String) {
    let (authority, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(authority).unwrap();
    let host = host.unwrap_or(authority);
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let leads = head.lines().find_map(|line| line.strip_prefix("location: ")).map(str::to_owned);
    (status, leads, body.to_owned())
}

impl World {
    /// A command of somebody who has nothing but a home, which is kept between commands.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = program("farm");
        command.args(args).env("HOME", self.home.path()).env_remove("DOCKER_CONFIG");
        command
    }

    pub fn cli(&self, args: &[&str]) -> Output {
        output(&mut self.command(args))
    }

    pub fn home(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The token that a login has kept.
    pub fn kept(&self) -> String {
        std::fs::read_to_string(self.home(".config/farm/127.0.0.1.token")).unwrap().trim().to_owned()
    }

    /// `farm login`, and the page to which the browser is sent that it opens: a program that keeps the address for the test.
    pub fn login(&self, args: &[&str]) -> (Child, String) {
        self.login_at(&self.farm.url(), args)
    }

    /// The same where the farm is reached at another address.
    pub fn login_at(&self, url: &str, args: &[&str]) -> (Child, String) {
        let browser = self.home("browser");
        std::fs::write(
            &browser,
            "#!/bin/sh\nprintf %s \"$1\" >\"$HOME/page.new\"\nmv \"$HOME/page.new\" \"$HOME/page\"\n",
        )
        .unwrap();
        std::fs::set_permissions(&browser, std::fs::Permissions::from_mode(0o755)).unwrap();
        let page = self.home("page");
        let _ = std::fs::remove_file(&page);
        let mut command = self.command(&[&["login", url, "--browser"], args].concat());
        command.env("BROWSER", &browser);
        let child = Child::spawn("login", &command, self.home.path());
        let start = wait("page", Duration::from_secs(20), || std::fs::read_to_string(&page).ok());
        // All that others on the machine see in a list of processes: nothing of what ties a sign-in to this command.
        assert!(start.starts_with("http://127.0.0.1:") && !start.contains('?'), "{start}");
        let (status, page, _) = get(&start, None);
        assert_eq!(status, 302);
        (child, page.unwrap())
    }

    /// Signs in by a browser, whole.
    pub fn sign_in(&self) -> String {
        let (mut child, page) = self.login(&[]);
        let (_, back, _) = get(&page, None);
        let (status, _, said) = get(&back.unwrap(), None);
        assert!(status == 200 && said.contains("You are signed in"), "{said}");
        assert!(child.wait_exit(Duration::from_secs(20)).success(), "{}", child.output());
        child.output()
    }

    pub fn sql(&self, statement: &str) -> String {
        farm_tests::database::psql(self.farm.database_url(), statement)
    }

    pub async fn door(&self) -> Door {
        Door::of(&self.farm.url()).await
    }

    /// What whoever has this token is, and may.
    pub async fn who(&self, token: &str) -> Result<v1::WhoAmIResponse, Status> {
        let mut client = Client::with_token(&self.farm, token).await;
        Ok(client.people.who_am_i(v1::WhoAmIRequest {}).await?.into_inner())
    }

    /// The role of whoever has this token in project default.
    pub async fn role(&self, token: &str) -> Option<String> {
        let who = self.who(token).await.unwrap();
        who.memberships.into_iter().find(|member| member.project == "default").map(|member| member.role)
    }

    /// Waits for what has to be so within 5 s.
    pub async fn soon<T>(&self, what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
        let begin = Instant::now();
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            assert!(begin.elapsed() < Duration::from_secs(5), "{what}: not within 5 s");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn admin(&self) -> Client {
        Client::connect(&self.farm).await
    }
}

/// The calls of one coordinator by which people sign in, without a command.
pub struct Door {
    pub farm: SignInServiceClient<Channel>,
}

/// 32 characters that prove who has asked, and what the issuer is told of them (RFC 7636).
pub const VERIFIER: &str = "verifier-verifier-verifier-verifier-verifier";
pub const NONCE: &str = "nonce-nonce-nonce-nonce-nonce";
pub const BACK: &str = "http://127.0.0.1:9/callback";

impl Door {
    pub async fn of(url: &str) -> Door {
        let channel = Endpoint::new(url.to_owned()).unwrap().connect().await.unwrap();
        Door { farm: SignInServiceClient::new(channel) }
    }

    /// A code of the issuer's, as a browser would bring it back.
    pub async fn code(&mut self) -> String {
        let told = self.farm.get_sign_in(v1::GetSignInRequest {}).await.unwrap().into_inner();
        // The digest of the verifier above.
        let challenge = {
            use base64::Engine as _;
            let digest = farm_types::Digest::of(VERIFIER.as_bytes());
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest.as_bytes())
        };
        let query = format!(
            "response_type=code&client_id={}&redirect_uri={}&scope=openid&state=state-state-state-state&nonce={NONCE}\
             &code_challenge={challenge}&code_challenge_method=S256",
            told.client_id,
            BACK.replace(':', "%3A").replace('/', "%2F")
        );
        let page = format!("{}?{query}", told.authorization_endpoint);
        let (_, back, said) = tokio::task::spawn_blocking(move || get(&page, None)).await.unwrap();
        let back = back.unwrap_or_else(|| panic!("{said}"));
        fields(back.split_once('?').unwrap().1).remove("code").unwrap()
    }

    /// What a browser would say that has just come back.
    pub async fn returned(&mut self) -> v1::BrowserSignIn {
        v1::BrowserSignIn {
            code: self.code().await,
            code_verifier: VERIFIER.to_owned(),
            redirect_uri: BACK.to_owned(),
            nonce: NONCE.to_owned(),
        }
    }

    pub async fn enter(&mut self, browser: v1::BrowserSignIn) -> Result<v1::SignedIn, Status> {
        let request = v1::SignInRequest { by: Some(By::Browser(browser)), machine: "laptop".to_owned() };
        match self.farm.sign_in(request).await?.into_inner().came {
            Some(Came::SignedIn(signed_in)) => Ok(signed_in),
            other => panic!("{other:?}"),
        }
    }

    /// Signs in as whomever the issuer lets in.
    pub async fn sign_in(&mut self) -> Result<v1::SignedIn, Status> {
        let returned = self.returned().await;
        self.enter(returned).await
    }
}

/// Somebody else at the issuer.
pub fn person(issuer: &Issuer, subject: &str, name: &str, groups: Value) {
    let claims = json!({"sub": subject, "preferred_username": name, "groups": groups});
    issuer.people(|people| people.claims = claims);
}
