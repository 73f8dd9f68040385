//! Keys of every kind by ssh-keygen are in the tests that have it (`tests/tests/e2e/ssh.rs`); here those that ring makes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use ring::signature::KeyPair as _;

use super::*;
use crate::wire::Writer;

fn pem(label: &str, bytes: &[u8]) -> String {
    let body = STANDARD.encode(bytes);
    let lines: Vec<&str> =
        body.as_bytes().chunks(70).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A key in OpenSSH's format, with this cipher and these fields.
fn openssh_pem(cipher: &str, kind: &str, fields: impl FnOnce(Writer) -> Writer) -> String {
    let private = Writer::default().number(7).number(7).string(kind.as_bytes());
    let private = fields(private).string(b"ada@laptop").byte(1).byte(2).done();
    let head =
        [OPENSSH, &Writer::default().string(cipher.as_bytes()).string(cipher.as_bytes()).done()].concat();
    let rest = Writer::default().string(b"").number(1).string(b"public").string(&private).done();
    pem("OPENSSH PRIVATE KEY", &[head, rest].concat())
}

fn ed25519(seed: u8) -> String {
    let seed = [seed; 32];
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
    let public = pair.public_key().as_ref();
    openssh_pem("none", "ssh-ed25519", |it| it.string(public).string(&[&seed[..], public].concat()))
}

fn refusal(text: &str) -> String {
    keys(text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn each_form_of_a_key_is_read() {
    let random = SystemRandom::new();
    let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
    let p256 = EcdsaKeyPair::generate_pkcs8(algorithm(Curve::P256), &random).unwrap();
    let p384 = EcdsaKeyPair::generate_pkcs8(algorithm(Curve::P384), &random).unwrap();
    // Where SEC 1 lies in PKCS #8: after the curve, in a string of bytes.
    let within = |bytes: &[u8], curve: &[u8]| {
        let place = bytes.windows(curve.len()).position(|part| part == curve).unwrap() + curve.len();
        let head = if bytes[place + 1] < 0x80 { 2 } else { 3 };
        bytes[place + head..].to_vec()
    };
    let all = [
        "what people write before a key\n".to_owned(),
        ed25519(1),
        pem("PRIVATE KEY", ed.as_ref()),
        pem("PRIVATE KEY", p256.as_ref()),
        pem("EC PARAMETERS", P256),
        pem("EC PRIVATE KEY", &within(p256.as_ref(), P256)),
        pem("EC PRIVATE KEY", &within(p384.as_ref(), P384)).replace('\n', "\r\n"),
    ]
    .concat();
    let read = keys(all.as_bytes()).unwrap();
    let kinds: Vec<&str> = read.iter().map(Key::kind).collect();
    let expected =
        ["ssh-ed25519", "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384"];
    assert_eq!(kinds, expected);
    assert_eq!(read[0].comment(), "ada@laptop");
    assert_eq!(read[2].public(), read[3].public());
    assert!(has_private_key(all.as_bytes()));
    assert!(!format!("{read:?}").contains("seed") && format!("{read:?}").len() < 400, "{read:?}");
}

#[test]
fn what_can_not_be_used_says_why_and_what_to_do() {
    for (text, told) in [
        ("", "no private key"),
        ("TOKEN=1", "no private key"),
        ("ssh-ed25519 AAAA ada@laptop", "public key"),
        (&pem("PUBLIC KEY", b"x"), "public key"),
        (&openssh_pem("aes256-ctr", "", |it| it), "ssh-add"),
        (&pem("ENCRYPTED PRIVATE KEY", b"x"), "ssh-add"),
        (
            &pem("RSA PRIVATE KEY", b"x").replacen('\n', "\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES\n\n", 1),
            "ssh-add",
        ),
        (&openssh_pem("none", "sk-ssh-ed25519@openssh.com", |it| it), "security key"),
        (&openssh_pem("none", "ecdsa-sha2-nistp521", |it| it), "ecdsa-sha2-nistp521 keys aren't taken"),
        (&openssh_pem("none", "ssh-dss", |it| it), "ssh-dss keys aren't taken"),
        (&pem("DSA PRIVATE KEY", b"x"), "dsa keys aren't taken"),
        (&pem("RSA PRIVATE KEY", b"x"), "2048, 3072 and 4096"),
        (&openssh_pem("none", "ssh-rsa", |it| (0..6).fold(it, |it, _| it.big(&[3]))), "2048, 3072 and 4096"),
        (&openssh_pem("none", "ssh-ed25519", |it| it.string(&[1; 32]).string(&[2; 64])), "can't be read"),
        (&pem("PRIVATE KEY", b"x"), "can't be read"),
        (&ed25519(1).replace("-----END", "-----AND"), "can't be read"),
        (&[ed25519(1), pem("EC PRIVATE KEY", b"x")].concat(), "EC PRIVATE KEY can't be read"),
    ] {
        assert!(refusal(text).contains(told), "{text}: {}", refusal(text));
    }
    assert_eq!(keys(&[0xff, 0xfe]).unwrap_err(), Unusable::NoKey);
}

/// Each of these would take minutes.
#[test]
fn nothing_is_calculated_with_parts_that_no_key_has() {
    let begin = std::time::Instant::now();
    let long = vec![0x7f; 60_000];
    for place in 0..6 {
        let part = |at: usize| if at == place || at == 2 { &long[..] } else { &[0x7f; 256] };
        let text = openssh_pem("none", "ssh-rsa", |it| (0..6).fold(it, |it, at| it.big(part(at))));
        assert_eq!(keys(text.as_bytes()).unwrap_err(), Unusable::Rsa, "{place}");
    }
    assert!(begin.elapsed() < std::time::Duration::from_secs(20), "{:?}", begin.elapsed());
}

proptest! {
    #[test]
    fn no_file_makes_it_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        place in 0usize..400,
        label in prop::sample::select(vec!["PRIVATE KEY", "OPENSSH PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"]),
    ) {
        let _ = keys(&bytes);
        let _ = keys(pem(label, &bytes).as_bytes());
        let _ = keys(pem(label, &[OPENSSH, &bytes].concat()).as_bytes());
        // A key with a byte that was changed, and one that was cut off.
        let mut whole = ed25519(1).into_bytes();
        whole.truncate(whole.len().min(place));
        let _ = keys(&whole);
        let text = ed25519(1);
        let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        let mut whole = STANDARD.decode(body).unwrap();
        if let (Some(byte), Some(by)) = (whole.get_mut(place), bytes.first()) {
            *byte ^= by;
        }
        let _ = keys(pem("OPENSSH PRIVATE KEY", &whole).as_bytes());
    }
}
