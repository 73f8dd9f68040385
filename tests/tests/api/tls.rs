//! What TLS promises: who isn't believed is told so and gets nothing, and nobody who only begins holds up another.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use farm_client::{Fingerprint, look};
use farm_proto::v1;
use farm_tests::bed::Bed;
use farm_tests::farm::{Farm, Output, output, program};
use farm_tests::pki::Authority;
use farm_tests::ports::free_port;
use farm_tests::process::Child;
use farm_tests::session::Session;
use rcgen::ExtendedKeyUsagePurpose::ServerAuth;
use tempfile::TempDir;

use crate::client::{Client, Sim, hello, success};

const LONG: Duration = Duration::from_secs(60);

/// What the coordinator at this address shows: its own certificate, and the CA.
async fn shown(url: &str) -> (Fingerprint, Fingerprint) {
    let shown = look(&url.parse().unwrap()).await.unwrap();
    (shown.first().unwrap(), shown.authority().unwrap().0)
}

/// `farm ARGS` of a user who has set nothing but a home.
fn farm_of(home: &Path, args: &[&str]) -> Output {
    output(&mut command_of(home, args))
}

fn command_of(home: &Path, args: &[&str]) -> Command {
    let mut command = program("farm");
    command.args(args).env("HOME", home);
    command
}

#[track_caller]
fn refused(output: &Output, status: i32, parts: &[&str]) {
    assert_eq!((output.status, output.stdout.as_str()), (status, ""), "{output:?}");
    for part in parts {
        assert!(output.stderr.contains(part), "`{part}` is missing in:\n{}", output.stderr);
    }
}

/// A coordinator on an address of its own choice, beside a farm and in that one's database.
fn coordinator(farm: &Farm, name: &str, args: &[&str]) -> (Child, String) {
    let mut command = program("farm-coordinator");
    command.args(["--database-url", farm.database_url(), "--advertise", "http://127.0.0.1:1"]).args(args);
    command.arg("--state-dir").arg(farm.folder().join(name)).arg("--token-file").arg(farm.token_file());
    let mut child = Child::spawn(name, &command, farm.folder());
    let line = child.wait_for_line("farm-coordinator ready on ", LONG);
    (child, line)
}

#[tokio::test]
async fn who_connects_and_says_nothing_stops_nobody() {
    let farm = Farm::builder().tls().start();
    let silent: Vec<TcpStream> =
        (0..1000).map(|_| TcpStream::connect(("127.0.0.1", farm.port())).unwrap()).collect();
    // Well below the time that a handshake may take.
    let begun = Instant::now();
    let mut client = Client::connect(&farm).await;
    client.farm.get_farm(v1::GetFarmRequest {}).await.unwrap();
    farm.cli(&["workers"]).ok();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // In the end they go: the oldest is closed from the other side.
    silent[0].set_read_timeout(Some(LONG)).unwrap();
    assert_eq!((&silent[0]).read(&mut [0]).unwrap(), 0);
    client.farm.get_farm(v1::GetFarmRequest {}).await.unwrap();
}

#[test]
fn who_speaks_http_where_tls_is_spoken_is_told_so() {
    let farm = Farm::builder().tls().start();
    let plain = format!("http://127.0.0.1:{}", farm.port());
    let told = output(&mut farm.command_by(&plain, &["workers"]));
    refused(&told, 3, &["speaks TLS here", "write https://"]);
    let mut browser = TcpStream::connect(("127.0.0.1", farm.port())).unwrap();
    browser.write_all(b"GET / HTTP/1.1\r\nHost: farm\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    browser.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("write https://"), "{answer}");
    // And the other way round.
    let farm = Farm::builder().arg("--tls").arg("off").start();
    let url = format!("https://127.0.0.1:{}", farm.port());
    refused(&output(&mut farm.command_by(&url, &["workers"])), 3, &["speaks no TLS", "http://"]);
}

#[test]
fn no_token_goes_over_http_to_another_machine() {
    // This address leads here, but nothing says so; whoever listens would see a connection.
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let farm = Farm::builder().start();
    let other = format!("http://0.0.0.0:{}", listener.local_addr().unwrap().port());
    for urls in [other.clone(), format!("{},{other}", farm.url())] {
        let told = output(&mut farm.command_by(&urls, &["workers"]));
        refused(&told, 2, &[&other, "sees the token", "https://", "FARM_INSECURE_HTTP=1"]);
    }
    let token = farm.token_file();
    let login = ["login", &other, "--token-file", token.to_str().unwrap()];
    refused(&farm_of(farm.folder(), &login), 2, &[&other, "sees the token"]);
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nobody has connected");
    // Whoever says so is warned each time.
    let open = format!("http://0.0.0.0:{}", farm.port());
    let mut insecure = farm.command_by(&open, &["workers"]);
    let said = output(insecure.env("FARM_INSECURE_HTTP", "1"));
    assert!(said.status == 0 && said.stderr.contains("warning: ") && said.stderr.contains(&open), "{said:?}");
    let worker = |args: &[&str]| {
        let mut command = program("farm-worker");
        output(command.args(["--coordinator", &open]).arg("--token-file").arg(&token).args(args))
    };
    refused(&worker(&[]), 2, &["--coordinator", &open, "https://", "--insecure-http"]);
}

#[test]
fn other_machines_are_served_without_tls_only_where_it_is_said_twice() {
    let farm = Farm::builder().start();
    let port = free_port();
    let listen = format!("0.0.0.0:{port}");
    let mut off = program("farm-coordinator");
    off.args(["--listen", &listen, "--database-url", farm.database_url(), "--tls", "off"]);
    refused(&output(&mut off), 2, &["--tls", &listen, "--insecure-plaintext"]);

    let args = ["--listen", &listen, "--tls", "off", "--insecure-plaintext"];
    let (mut plain, line) = coordinator(&farm, "plain", &args);
    assert_eq!(line, format!("farm-coordinator ready on http://{listen}"));
    assert!(plain.output().contains("whoever is between sees tokens"), "{}", plain.output());
    plain.stop_term(LONG);

    // Without a word there is TLS, by a CA that the farm makes for itself.
    let (tls, line) = coordinator(&farm, "tls", &["--listen", &listen]);
    assert_eq!(line, format!("farm-coordinator ready on https://{listen}"));
    let ca = farm.folder().join("tls/tls/ca.pem");
    let said = tls.output();
    let fingerprint = said.lines().find_map(|line| line.strip_prefix("CA ")?.split(' ').next()).unwrap();
    assert!(said.contains(&format!("CA {fingerprint} in {}", ca.display())), "{said}");
    assert!(said.contains("the farm has made its own CA"), "{said}");
    assert!(said.contains("--advertise says http://"), "{said}");
    // It bears whatever address of its machine it is called by.
    for host in ["127.0.0.1", "localhost", "127.0.0.2"] {
        let mut command = farm.command_by(&format!("https://{host}:{port}"), &["workers"]);
        output(command.env("FARM_CA", &ca)).ok();
    }
    let wrong =
        output(farm.command_by(&format!("https://localhost.:{port}"), &["workers"]).env("FARM_CA", &ca));
    assert_ne!(wrong.status, 2, "{wrong:?}");
}

/// Files of one's own PKI, in a folder of their own.
struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(Bed::from_env().folder("pki"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn config(&self) -> String {
        let (certificate, key) = (self.path("server.pem"), self.path("server.key"));
        format!("[tls]\ncertificate = '{}'\nkey = '{}'\n", certificate.display(), key.display())
    }

    /// The certificate first, so that for a moment the two don't belong together.
    fn put(&self, (certificate, key): &(String, String)) {
        std::fs::write(self.path("server.pem"), certificate).unwrap();
        std::fs::write(self.path("server.key"), key).unwrap();
    }

    fn ca(&self, ca: &Authority) -> PathBuf {
        std::fs::write(self.path("ca.pem"), &ca.certificate).unwrap();
        self.path("ca.pem")
    }
}

#[tokio::test]
async fn other_certificates_are_shown_to_new_connections_and_what_is_open_goes_on() {
    let (ca, files) = (Authority::new("own"), Files::new());
    files.put(&ca.issue("127.0.0.1", ServerAuth));
    let farm = Farm::builder().config(&files.config()).trusting(&files.ca(&ca)).start();
    let mut client = Client::connect(&farm).await;
    let mut worker = Sim::connect(&client, hello("w1", 1)).await.unwrap();
    let snapshot = client.upload("FROM scratch").await;
    let build = client.submit(&snapshot, "k", &["linux/amd64"]).await;
    let lease = worker.offer().await.lease.unwrap();
    worker.start(&lease).await;
    let (before, _) = shown(&farm.url()).await;
    let follower = {
        let (mut client, id) = (client.clone(), build.id.clone());
        tokio::spawn(async move { client.follow(&id).await })
    };

    files.put(&ca.issue("127.0.0.1", ServerAuth));
    let begun = Instant::now();
    while shown(&farm.url()).await.0 == before {
        assert!(begun.elapsed() < LONG, "the other certificate isn't shown");
    }
    assert_eq!(worker.beat(std::slice::from_ref(&lease)).await, []);
    assert!(worker.finish(&lease, success()).await);
    assert_eq!(follower.await.unwrap().0.state, "succeeded");
    Client::connect(&farm).await.farm.get_farm(v1::GetFarmRequest {}).await.unwrap();
}

#[test]
fn a_clock_that_is_off_and_a_name_that_isnt_there_are_told_as_such() {
    let (ca, files) = (Authority::new("own"), Files::new());
    let issue = |names: &[&str], from: i32, until: i32| ca.issue_for(names, ServerAuth, Some((from, until)));
    files.put(&issue(&["127.0.0.1"], 2001, 2002));
    let farm = Farm::builder().config(&files.config()).trusting(&files.ca(&ca)).start();
    let until_told = |words: &[&str]| {
        let begun = Instant::now();
        loop {
            let told = farm.cli(&["workers"]);
            if words.iter().all(|word| told.stderr.contains(word)) {
                return refused(&told, 3, words);
            }
            assert!(begun.elapsed() < LONG, "{words:?} isn't told: {told:?}");
        }
    };
    until_told(&["valid until 2002-01-01T00:00:00Z", "this machine's clock says 20", "timedatectl"]);
    files.put(&issue(&["127.0.0.1"], 2999, 3000));
    until_told(&["valid from 2999-01-01T00:00:00Z on", "this machine's clock says 20"]);
    files.put(&issue(&["farm.example"], 2001, 3000));
    until_told(&["is for farm.example, not for 127.0.0.1", "[tls] names"]);
}

#[test]
fn a_login_keeps_what_the_farm_is_known_by_and_another_ca_is_never_taken_silently() {
    let mut farm = Farm::builder().tls().start();
    let home = Bed::from_env().folder("home");
    let (home, url) = (home.path(), farm.url());
    let ca = |farm: &Farm| {
        let pem = std::fs::read_to_string(farm.ca_file().unwrap()).unwrap();
        farm_client::Trust::from_pem(&pem, "").unwrap().fingerprints()[0].to_string()
    };
    let first = ca(&farm);
    let token = farm.token_file();
    let token = token.to_str().unwrap();
    let login = |args: &[&str]| farm_of(home, &[&["login", url.as_str(), "--name", "team"], args].concat());

    // Nobody can be asked here, so the fingerprint has to be given.
    refused(&login(&["--token-file", token]), 3, &[&first, "--fingerprint", "isn't known here"]);
    let other = Fingerprint::of(b"another").to_string();
    refused(
        &login(&["--token-file", token, "--fingerprint", &other]),
        3,
        &[&first, &other, "nothing was sent"],
    );
    refused(&login(&["--fingerprint", "SHA256:00"]), 2, &["SHA256:00", "64 hexadecimal digits"]);
    refused(&login(&["--fingerprint", &first]), 2, &["--token-stdin"]);
    let wrong = home.join("wrong");
    std::fs::write(&wrong, "farm_wrong").unwrap();
    let wrong = ["--fingerprint", &first, "--token-file", wrong.to_str().unwrap()];
    refused(&login(&wrong), 3, &["doesn't know this token", "nothing was kept"]);
    assert!(!home.join(".config").exists(), "nothing was kept");
    refused(&farm_of(home, &["workers", "--url", &url]), 3, &[&format!("farm login {url}"), "--ca"]);

    let mut stdin =
        command_of(home, &["login", &url, "--name", "team", "--fingerprint", &first, "--token-stdin"]);
    let mut child =
        stdin.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(farm.token().as_bytes()).unwrap();
    let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert!(said.contains(&first) && said.contains("you are admin, admin of the farm there"), "{said}");
    let kept = home.join(".config/farm/team.token");
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    farm_of(home, &["workers"]).ok();

    // The farm is set up anew: another CA.
    farm.stop_coordinator();
    std::fs::remove_dir_all(farm.ca_file().unwrap().parent().unwrap()).unwrap();
    farm.start_coordinator();
    let second = ca(&farm);
    assert_ne!(first, second);
    refused(
        &farm_of(home, &["workers"]),
        3,
        &["CA HAS CHANGED", "(team)", &first, &second, "Nothing was sent"],
    );
    refused(&login(&["--token-file", token]), 3, &["CA HAS CHANGED", &first, &second]);
    farm_of(home, &["workers", "--ca", farm.ca_file().unwrap().to_str().unwrap()]).ok();
    assert!(
        login(&["--token-file", token, "--fingerprint", &second])
            .ok()
            .contains("you are admin, admin of the farm there")
    );
    farm_of(home, &["workers"]).ok();
    // It is known now, so nothing has to be said.
    login(&["--token-file", token]).ok();
    refused(&farm_of(home, &["logout"]), 2, &["is yours", token]);

    let ca_file = farm.ca_file().unwrap().to_str().unwrap();
    farm_of(home, &["config", "add", "byhand", &url, "--ca", ca_file, "--token-file", token]).ok();
    farm_of(home, &["workers", "--context", "byhand"]).ok();
    assert!(farm_of(home, &["logout", "local"]).stderr.contains("farm on this machine"));
}

#[test]
fn a_logout_takes_the_token_and_leaves_the_rest() {
    let farm = Farm::builder().start();
    let home = Bed::from_env().folder("home");
    let (home, url) = (home.path(), farm.url());
    let token = home.join("token");
    std::fs::write(&token, farm.token()).unwrap();
    let stdin = std::fs::File::open(&token).unwrap();
    let said = command_of(home, &["login", &url]).stdin(stdin).arg("--token-stdin").output().unwrap();
    assert!(said.status.success(), "{said:?}");
    let kept = home.join(".config/farm/127.0.0.1.token");
    assert!(kept.exists());
    farm_of(home, &["workers"]).ok();
    assert!(farm_of(home, &["logout"]).ok().contains("is gone"));
    assert!(!kept.exists());
    refused(&farm_of(home, &["workers"]), 3, &["no such file", "farm login"]);
    assert!(farm_of(home, &["logout"]).ok().contains("there is no token"));
}

#[tokio::test]
async fn from_where_something_was_done_is_known_with_tls_and_without() {
    for builder in [Farm::builder(), Farm::builder().tls()] {
        let farm = builder.start();
        let mut client = Client::connect(&farm).await;
        let request = v1::CreateProjectRequest { name: "web".to_owned(), ..Default::default() };
        client.projects.create_project(request).await.unwrap();
        let addresses =
            Session::open(farm.database_url()).ask("SELECT string_agg(DISTINCT address, ' ') FROM audit");
        assert!(addresses.starts_with("127.0.0.1"), "{addresses:?}");
    }
}

#[tokio::test]
async fn coordinators_of_one_farm_have_one_ca_and_believe_each_other() {
    let mut farm = Farm::builder().tls().coordinators(2).start();
    let (at, ca) = (shown(&farm.url_of(0)).await, shown(&farm.url_of(1)).await);
    assert_eq!(at.1, ca.1);
    assert_ne!(at.0, ca.0, "each has a certificate of its own");
    // What is submitted to one gets to a worker of the other.
    let mut client = Client::connect(&farm).await;
    let mut worker = Sim::connect(&client, hello("w1", 1)).await.unwrap();
    let snapshot = client.upload("FROM scratch").await;
    let build = client.submit(&snapshot, "k", &["linux/amd64"]).await;
    let lease = worker.offer().await.lease.unwrap();
    worker.start(&lease).await;
    assert!(worker.finish(&lease, success()).await);
    assert_eq!(client.follow(&build.id).await.0.state, "succeeded");
    let told = |farm: &mut Farm, place: usize, words: &str| {
        let child = farm.coordinator_at(place);
        child.wait_until(words, LONG, |child| child.output().contains(words).then_some(()));
        child.output()
    };
    for place in [0, 1] {
        let log = told(&mut farm, place, "another coordinator coordinator=");
        assert!(!log.contains("no CA that is trusted here"), "{log}");
    }
    // One that believes another CA only says so.
    let files = Files::new();
    let other = files.ca(&Authority::new("other"));
    let args = ["--ca", other.to_str().unwrap()];
    let mut stranger = Farm::builder().tls().coordinators(2).arg(args[0]).arg(args[1]).start();
    let log = told(&mut stranger, 1, "no CA that is trusted here");
    assert!(log.contains("can't be told what happens here"), "{log}");
}
