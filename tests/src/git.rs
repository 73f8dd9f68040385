//! A git repository behind git's own `http-backend`, on 127.0.0.1.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use bytes::Bytes;
use hyper::{Request, Response};
use tempfile::TempDir;

use crate::bed::Bed;
use crate::faults::answers::{Body, full};
use crate::web::Web;

/// When all commits are made, seconds since 1970.
pub const COMMITTED: i64 = 1_700_000_000;

/// A host with one repository, `app.git`, whose default branch is `main`.
#[derive(Debug)]
pub struct GitHost {
    folder: TempDir,
    web: Web,
    /// What whoever fetches has to show, as `Authorization` has it; empty: nothing.
    wants: Arc<Mutex<String>>,
}

impl GitHost {
    /// An empty repository.
    pub fn start() -> GitHost {
        let folder = Bed::from_env().folder("git");
        let root = folder.path().to_owned();
        let wants = Arc::new(Mutex::new(String::new()));
        let asks = Arc::clone(&wants);
        let web = Web::start(move |request| {
            let wanted = asks.lock().unwrap().clone();
            let shown = request.headers().get("authorization").and_then(|value| value.to_str().ok());
            if wanted.is_empty() || shown == Some(wanted.as_str()) {
                return answer(&root, request);
            }
            let challenge = Response::builder().status(401).header("www-authenticate", "Basic realm=\"git\"");
            challenge.body(full(Bytes::new())).unwrap()
        });
        let host = GitHost { folder, web, wants };
        std::fs::create_dir(host.folder.path().join("app.git")).unwrap();
        host.git(&["init", "-q", "--initial-branch=main", "--template="]);
        host.git(&["config", "uploadpack.allowAnySHA1InWant", "true"]);
        host
    }

    /// From now on only this user gets in, by this token.
    pub fn close(&self, user: &str, token: &str) {
        let shown = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{token}"));
        *self.wants.lock().unwrap() = format!("Basic {shown}");
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("{}/app.git", self.web.url())
    }

    /// `HOST:PORT`.
    pub fn place(&self) -> String {
        self.web.url().trim_start_matches("http://").to_owned()
    }

    /// Writes files and commits all there is; gives the commit.
    pub fn commit(&self, files: &[(&str, &str)]) -> String {
        for (name, text) in files {
            let path = self.folder.path().join("app.git").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "a change"]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// From now on it takes pushes by http; after each this shell script is run, with a line `BEFORE AFTER REF` for each ref on its
    /// standard input. What it prints is told to whoever pushes.
    pub fn take_pushes(&self, script: &str) {
        self.git(&["config", "http.receivepack", "true"]);
        self.git(&["config", "receive.denyCurrentBranch", "ignore"]);
        let hooks = self.folder.path().join("app.git/.git/hooks");
        std::fs::create_dir_all(&hooks).unwrap();
        let file = hooks.join("post-receive");
        std::fs::write(&file, script).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs git in the repository; gives what it printed.
    pub fn git(&self, args: &[&str]) -> String {
        let date = format!("{COMMITTED} +0000");
        let output = git(self.folder.path())
            .current_dir(self.folder.path().join("app.git"))
            .args(args)
            .envs([("GIT_AUTHOR_DATE", &date), ("GIT_COMMITTER_DATE", &date)])
            .envs([("GIT_AUTHOR_NAME", "a"), ("GIT_COMMITTER_NAME", "a")])
            .envs([("GIT_AUTHOR_EMAIL", "a@localhost"), ("GIT_COMMITTER_EMAIL", "a@localhost")])
            .output()
            .unwrap();
        assert!(output.status.success(), "git {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

fn git(home: &Path) -> Command {
    let mut git = Command::new("git");
    git.env("HOME", home).envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null")]);
    git
}

/// As a web server answers by CGI (RFC 3875).
fn answer(root: &Path, request: Request<Bytes>) -> Response<Body> {
    let header = |name: &str| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    // The repository is one with a working tree.
    let path = request.uri().path().replacen("/app.git/", "/app.git/.git/", 1);
    let mut child = git(root)
        .arg("http-backend")
        .envs([("GIT_HTTP_EXPORT_ALL", "1"), ("REMOTE_ADDR", "127.0.0.1"), ("PATH_INFO", path.as_str())])
        .env("GIT_PROJECT_ROOT", root)
        .env("REQUEST_METHOD", request.method().as_str())
        .env("QUERY_STRING", request.uri().query().unwrap_or_default())
        .env("CONTENT_TYPE", header("content-type"))
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let body = request.into_body();
    // It may answer before it has read all.
    let writing = std::thread::spawn(move || drop(stdin.write_all(&body)));
    let output = child.wait_with_output().unwrap().stdout;
    writing.join().unwrap();
    let end = output.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let mut response = Response::builder();
    for (name, value) in head.lines().filter_map(|line| line.split_once(": ")) {
        response = match name {
            "Status" => response.status(value.split(' ').next().unwrap()),
            name => response.header(name, value),
        };
    }
    response.body(full(Bytes::copy_from_slice(&output[end + 4..]))).unwrap()
}
