//! For tests: repositories of git's own making, behind git's own `http-backend`, on loopback.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What `/private/…` takes.
pub(crate) const USER: &str = "somebody";
pub(crate) const PASSWORD: &str = "s3cr:t/p@ss";

/// A repository with a work tree.
pub(crate) struct Upstream(PathBuf);

impl Upstream {
    /// An empty one.
    pub(crate) fn new(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let upstream = Self(folder.to_owned());
        upstream.git(&["init", "-q", "-b", "main"]);
        upstream.git(&["config", "uploadpack.allowFilter", "true"]);
        upstream
    }

    pub(crate) fn git(&self, args: &[&str]) -> String {
        self.git_with(args, b"")
    }

    pub(crate) fn git_with(&self, args: &[&str], stdin: &[u8]) -> String {
        use std::io::Write as _;
        let mut child = Command::new("git")
            .args(["-c", "user.name=a", "-c", "user.email=a@example.com"])
            .args(args)
            .current_dir(&self.0)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null")])
            .envs([("GIT_AUTHOR_DATE", "1700000000 +0000"), ("GIT_COMMITTER_DATE", "1700000000 +0000")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "git {args:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes files, commits all that is there, and gives the commit.
    pub(crate) fn commit(&self, files: &[(&str, &str)]) -> String {
        for (name, text) in files {
            fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
            fs::write(self.path(name), text).unwrap();
        }
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "a change"]);
        self.git(&["rev-parse", "HEAD"])
    }
}

/// Serves the repositories of a folder: `/NAME/.git`; also `/private/…` with a login, `/moved/…`, `/forbidden/…`, `/busy/…`, and
/// `/slow/…`, which never answers.
pub(crate) struct Server {
    pub(crate) address: String,
    /// Bytes of answers.
    sent: Arc<AtomicU64>,
    /// Processes in whose arguments or environment the password was.
    leaks: Arc<AtomicU64>,
}

impl Server {
    pub(crate) async fn start(root: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sent, leaks) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (counted, leaked) = (Arc::clone(&sent), Arc::clone(&leaks));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (root, counted, leaked) = (root.clone(), Arc::clone(&counted), Arc::clone(&leaked));
                tokio::spawn(async move { answer(stream, &root, &counted, &leaked).await });
            }
        });
        Self { address, sent, leaks }
    }

    /// Bytes of answers since the last call.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.swap(0, Ordering::SeqCst)
    }

    pub(crate) fn leaks(&self) -> u64 {
        self.leaks.load(Ordering::SeqCst)
    }
}

async fn answer(stream: TcpStream, root: &Path, sent: &AtomicU64, leaks: &AtomicU64) {
    let mut stream = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let header = |name: &str| {
        let found = lines[1..]
            .iter()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim().to_owned())
    };
    let mut words = lines[0].split(' ');
    let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut body = vec![0; header("content-length").map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.unwrap();
    let (first, rest) = path[1..].split_once('/').unwrap_or_default();
    let login = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let (path, refusal) = match first {
        "private" if header("authorization") != Some(format!("Basic {login}")) => {
            (path, Some("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"a\"".to_owned()))
        }
        "private" => {
            leaks.fetch_add(told_to_all(), Ordering::SeqCst);
            (&path[first.len() + 1..], None)
        }
        "moved" => (path, Some(format!("301 Moved Permanently\r\nLocation: /{rest}?{query}"))),
        "forbidden" => (path, Some("403 Forbidden".to_owned())),
        "busy" => (path, Some("503 Service Unavailable".to_owned())),
        "slow" => std::future::pending().await,
        _ => (path, None),
    };
    let (status, headers, content) = match refusal {
        Some(status) => (status, String::new(), Vec::new()),
        None => {
            let text = |name: &str| header(name).unwrap_or_default();
            let mut child = tokio::process::Command::new("git")
                .arg("http-backend")
                .env_clear()
                .env("PATH", "/usr/local/bin:/usr/bin:/bin")
                .envs([
                    ("GIT_CONFIG_NOSYSTEM", "1"),
                    ("GIT_CONFIG_GLOBAL", "/dev/null"),
                    ("GIT_HTTP_EXPORT_ALL", "1"),
                ])
                .envs([
                    ("GIT_PROJECT_ROOT", root.to_str().unwrap()),
                    ("PATH_INFO", path),
                    ("QUERY_STRING", query),
                ])
                .envs([("REQUEST_METHOD", method), ("CONTENT_TYPE", text("content-type"))])
                .envs([
                    ("GIT_PROTOCOL", text("git-protocol")),
                    ("HTTP_CONTENT_ENCODING", text("content-encoding")),
                ])
                .env("REMOTE_ADDR", "127.0.0.1")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut stdin = child.stdin.take().unwrap();
            tokio::spawn(async move { stdin.write_all(&body).await });
            let output = child.wait_with_output().await.unwrap().stdout;
            let end = output.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(0);
            let headers = String::from_utf8_lossy(&output[..end]).into_owned();
            let status =
                headers.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
            (status, headers, output[(end + 4).min(output.len())..].to_vec())
        }
    };
    sent.fetch_add(u64::try_from(content.len()).unwrap(), Ordering::SeqCst);
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n", content.len());
    let headers = if headers.is_empty() { head } else { format!("{head}{headers}\r\n") };
    let _ = stream.write_all(format!("{headers}\r\n").as_bytes()).await;
    let _ = stream.write_all(&content).await;
    let _ = stream.shutdown().await;
}

/// How many processes of this machine have the password, as it is or as a URL has it, where others can read it.
fn told_to_all() -> u64 {
    let is_in = |path: PathBuf| {
        let text = fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.contains(PASSWORD) || text.contains("s3cr%3At")
    };
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok());
    let told =
        processes.filter(|entry| is_in(entry.path().join("cmdline")) || is_in(entry.path().join("environ")));
    u64::try_from(told.count()).unwrap()
}
