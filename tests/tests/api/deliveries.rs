//! How deliveries come in: by TLS, through proxies, in pieces, and not as a whole.

use std::io::Write as _;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use farm_tests::farm::{Farm, FarmBuilder};
use farm_tests::forge::{Answer, Forge, answer_on, begin_post, post_on, post_raw, signed};
use farm_tests::ports::free_port;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use crate::hooks::over;

const MIB: usize = 1024 * 1024;

/// A farm that takes deliveries, and who delivers to its hook `app`.
fn hooked(builder: FarmBuilder) -> (Farm, Forge) {
    let port = free_port();
    let farm = builder.arg("--hooks-listen").arg(&format!("127.0.0.1:{port}")).start();
    let forge = Forge::of(port, &farm.cli(&["hook", "add", "github", "acme/app", "--json"]).json());
    (farm, forge)
}

/// A branch was deleted, of which nothing follows.
fn push() -> Value {
    json!({
        "ref": "refs/heads/old", "before": "1".repeat(40), "after": "0".repeat(40), "deleted": true,
        "head_commit": null, "commits": [],
        "repository": {"id": 42, "full_name": "acme/app", "clone_url": "https://github.com/acme/app.git"},
        "sender": {"id": 7, "login": "ada"}
    })
}

/// The headers of a delivery, and further ones.
fn headers<'h>(of: &'h [(&'static str, String); 4], more: &[(&'h str, &'h str)]) -> Vec<(&'h str, &'h str)> {
    of.iter().map(|(name, value)| (*name, value.as_str())).chain(more.iter().copied()).collect()
}

fn connected(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// How many deliveries are kept.
fn kept(farm: &Farm) -> usize {
    farm.cli(&["hook", "deliveries", "app", "--json"]).json()["deliveries"].as_array().unwrap().len()
}

#[test]
fn a_delivery_is_taken_by_tls_and_plain_http_is_told_what_to_write() {
    let (farm, forge) = hooked(Farm::builder().tls());
    let url = farm.cli(&["hook", "show", "app", "--json"]).json()["hook"]["url"].as_str().unwrap().to_owned();
    assert!(url.starts_with(&format!("https://127.0.0.1:{}/hooks/", forge.port)), "{url}");
    let body = push().to_string();
    let signed = signed("one", "push", body.as_bytes(), &forge.secret);

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(farm.ca_file().unwrap()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let session = ClientConnection::new(config, Ipv4Addr::LOCALHOST.into()).unwrap();
    let mut stream = StreamOwned::new(session, connected(forge.port));
    let (_, (status, said)) =
        post_on(&mut stream, &forge.path, &headers(&signed, &[]), body.as_bytes()).unwrap();
    assert!(status == 202 && said.contains("\"received\""), "{status} {said}");
    assert_eq!(over(&farm, "one")["state"], "ignored");

    let (_, (status, said)) = post_raw(forge.port, &forge.path, &headers(&signed, &[]), body.as_bytes());
    assert!(status == 400 && said.contains("write https://"), "{status} {said}");
    assert_eq!(kept(&farm), 1);
}

/// Delivers from this address of the machine.
fn deliver_from(last: u8, forge: &Forge, id: &str, secret: &str, said: &str) -> u16 {
    let from = SocketAddr::from(([127, 0, 0, last], 0));
    let outlet = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&outlet, &from).unwrap();
    connect(&outlet, &SocketAddr::from(([127, 0, 0, 1], forge.port))).unwrap();
    let body = push().to_string();
    let signed = signed(id, "push", body.as_bytes(), secret);
    let all = headers(&signed, &[("x-forwarded-for", said)]);
    let (_, (status, _)) = post_on(&mut TcpStream::from(outlet), &forge.path, &all, body.as_bytes()).unwrap();
    status
}

#[test]
fn only_a_trusted_proxy_says_where_a_delivery_comes_from() {
    let limits = "[limits]\nstrangers_per_minute_per_address = 5\ntrusted_proxies = [\"127.0.0.2\"]";
    let (mut farm, forge) = hooked(Farm::builder().config(limits));
    let (own, wrong) = (forge.secret.clone(), "another secret");
    // By itself nobody becomes somebody else by what they write, and what they have done counts for them.
    for n in 0..5 {
        assert_eq!(deliver_from(1, &forge, "x", wrong, &format!("198.51.100.{n}")), 401);
    }
    assert_eq!(deliver_from(1, &forge, "x", wrong, "198.51.100.99"), 429);
    assert_eq!(deliver_from(1, &forge, "kept-out", &own, "198.51.100.99"), 429);
    // A trusted proxy says for whom it delivers; what its client wrote before doesn't count.
    for n in 0..5 {
        assert_eq!(deliver_from(2, &forge, "x", wrong, &format!("203.0.113.{n}, 198.51.100.7")), 401);
    }
    assert_eq!(deliver_from(2, &forge, "x", wrong, "203.0.113.9, 198.51.100.7"), 429);
    assert_eq!(deliver_from(2, &forge, "one", &own, "198.51.100.7, 198.51.100.8"), 202);
    assert_eq!(over(&farm, "one")["state"], "ignored");
    assert_eq!(kept(&farm), 1);
    let log = farm.coordinator().output();
    for from in ["from=127.0.0.1", "from=198.51.100.7", "from=198.51.100.8"] {
        assert!(log.contains(from), "{from} in {log}");
    }
    assert!(!log.contains("from=203.0.113") && !log.contains("from=127.0.0.2"), "{log}");
}

/// A body in pieces of this length, as HTTP/1.1 has them (RFC 9112, section 7.1), without the end.
fn pieces(body: &[u8], length: usize) -> Vec<u8> {
    let piece = |piece: &[u8]| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
    body.chunks(length).flat_map(piece).collect()
}

/// The most memory that a process has had, MiB.
fn most_memory(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    kib.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1024
}

#[test]
fn a_body_in_pieces_is_taken_up_to_the_limit_and_what_breaks_off_is_not() {
    let (mut farm, forge) = hooked(Farm::builder());
    let body = push().to_string();
    let chunked = [("transfer-encoding", "chunked")];
    let deliver = |id: &str, sent: &[u8], more: &[(&str, &str)]| -> Answer {
        let signed = signed(id, "push", body.as_bytes(), &forge.secret);
        post_raw(forge.port, &forge.path, &headers(&signed, more), sent).1
    };
    let whole = [pieces(body.as_bytes(), 7), b"0\r\n\r\n".to_vec()].concat();
    assert_eq!(deliver("pieces", &whole, &chunked).0, 202);
    assert_eq!(over(&farm, "pieces")["state"], "ignored");

    // What is signed came, but not the end that was announced: then it may be the beginning of something else.
    let broken = |id: &str, sent: &[u8], more: &[(&str, &str)]| {
        let signed = signed(id, "push", body.as_bytes(), &forge.secret);
        let mut stream = connected(forge.port);
        begin_post(&mut stream, &forge.path, &headers(&signed, more), 0);
        stream.write_all(sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // Who has gone needs no answer.
        if let Some((_, (status, said))) = answer_on(&mut stream) {
            assert_eq!((status, said.as_str()), (400, ""), "{id}");
        }
    };
    let longer = (body.len() + 1).to_string();
    broken("no-end", &pieces(body.as_bytes(), 7), &chunked);
    broken("shorter", body.as_bytes(), &[("content-length", &longer)]);
    broken("half", &body.as_bytes()[..body.len() / 2], &[("content-length", &body.len().to_string())]);
    assert_eq!(deliver("no-length", b"zz\r\n", &chunked).0, 400);

    // Who goes on and on is stopped at the limit, whatever was announced, and costs no more than that.
    let before = most_memory(farm.coordinator().pid());
    let piece = pieces(&vec![b' '; MIB], MIB);
    let senders = 3;
    let endless = || {
        let signed = signed("endless", "push", b"", &forge.secret);
        let mut stream = connected(forge.port);
        begin_post(&mut stream, &forge.path, &headers(&signed, &chunked), 0);
        let sent = (0..200).take_while(|_| stream.write_all(&piece).is_ok()).count();
        (sent, answer_on(&mut stream))
    };
    let all: Vec<_> = std::thread::scope(|scope| {
        let sending: Vec<_> = (0..senders).map(|_| scope.spawn(endless)).collect();
        sending.into_iter().map(|one| one.join().unwrap()).collect()
    });
    for (sent, answer) in all {
        assert!((25..60).contains(&sent), "{sent} MiB were taken");
        assert_eq!(answer.unwrap().1, (413, String::new()));
    }
    let took = most_memory(farm.coordinator().pid()) - before;
    assert!(took < senders * 3 * 25, "{took} MiB");
    assert_eq!(kept(&farm), 1);
    assert_eq!(deliver("after", body.as_bytes(), &[]).0, 202);
}
