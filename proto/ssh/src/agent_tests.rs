use proptest::prelude::*;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair as _, UnparsedPublicKey,
};

use super::*;
use crate::key::{Curve, Private};

fn pair() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap()
}

fn key() -> Key {
    Key::new(Private::Ed25519(pair()), "ada".to_owned())
}

fn sign(public: &[u8], data: &[u8]) -> Vec<u8> {
    Writer::default().byte(SSH_AGENTC_SIGN_REQUEST).string(public).string(data).number(0).done()
}

fn bind() -> Vec<u8> {
    let head = Writer::default().byte(SSH_AGENTC_EXTENSION).string(SESSION_BIND);
    head.string(b"host key").string(b"session").string(b"signature").byte(0).done()
}

#[test]
fn it_tells_its_keys_and_signs_by_them() {
    let agent = Keys::new(vec![key()]);
    let public = key().public().to_vec();
    let told = agent.answer(&[SSH_AGENTC_REQUEST_IDENTITIES]);
    let mut reader = Reader::new(&told);
    assert_eq!((reader.byte(), reader.number()), (Some(SSH_AGENT_IDENTITIES_ANSWER), Some(1)));
    assert_eq!((reader.string(), reader.string()), (Some(&public[..]), Some(&b"ada"[..])));
    assert!(reader.is_empty());

    let signed = agent.answer(&sign(&public, b"a session"));
    let mut reader = Reader::new(&signed);
    assert_eq!(reader.byte(), Some(SSH_AGENT_SIGN_RESPONSE));
    let mut reader = Reader::new(reader.string().unwrap());
    assert_eq!(reader.string(), Some(&b"ssh-ed25519"[..]));
    let verified = UnparsedPublicKey::new(&ED25519, pair().public_key().as_ref().to_vec());
    verified.verify(b"a session", reader.string().unwrap()).unwrap();

    assert_eq!(agent.answer(&sign(b"another key", b"a session")), FAILURE);
    assert_eq!(agent.answer(&bind()), FAILURE);
}

#[test]
fn a_signature_of_ecdsa_is_two_numbers() {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
    let verified = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key().as_ref().to_vec());
    let key = Key::new(Private::Ecdsa(Curve::P256, pair), String::new());
    // Now and then a number is short, or high and gets a zero in front.
    for round in 0..40u8 {
        let signature = key.sign(&[round], 0).unwrap();
        let mut reader = Reader::new(&signature);
        assert_eq!(reader.string(), Some(&b"ecdsa-sha2-nistp256"[..]));
        let mut numbers = Reader::new(reader.string().unwrap());
        let both =
            [numbers.big().unwrap(), numbers.big().unwrap()].map(|it| crate::wire::padded(it, 32).unwrap());
        assert!(numbers.is_empty() && reader.is_empty());
        verified.verify(&[round], &[&both[0][..], &both[1]].concat()).unwrap();
    }
    // As ssh writes it, and not as TLS does.
    let tls = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, verified.as_ref().to_vec());
    assert!(tls.verify(&[0], &key.sign(&[0], 0).unwrap()).is_err());
}

#[test]
fn what_changes_an_agent_is_no_request_of_a_build() {
    assert_eq!(Request::of(&[SSH_AGENTC_REQUEST_IDENTITIES]), Some(Request::Identities));
    assert_eq!(Request::of(&bind()), Some(Request::Bind));
    let asked = sign(b"key", b"data");
    assert_eq!(Request::of(&asked), Some(Request::Sign { public: b"key", data: b"data", flags: 0 }));
    let extension = |name: &[u8]| Writer::default().byte(SSH_AGENTC_EXTENSION).string(name).done();
    let others = [
        Vec::new(),
        vec![SSH_AGENTC_REQUEST_IDENTITIES, 0],
        [&asked[..], &[0]].concat(),
        asked[..asked.len() - 1].to_vec(),
        extension(b"restrict-destination-v00@openssh.com"),
        extension(b"query"),
    ];
    // Adding, removing, locking, smartcards (17 to 26), and what isn't known.
    let numbers = (0..=255u8).filter(|it| ![SSH_AGENTC_REQUEST_IDENTITIES].contains(it)).map(|it| vec![it]);
    for message in others.into_iter().chain(numbers) {
        assert_eq!(Request::of(&message), None, "{message:?}");
        assert_eq!(Keys::new(vec![key()]).answer(&message), FAILURE, "{message:?}");
    }
}

#[test]
fn a_message_that_is_too_long_is_not_waited_for() {
    let mut frames = Frames::default();
    frames.push(&u32::try_from(MOST_MESSAGE_BYTES + 1).unwrap().to_be_bytes());
    assert_eq!(frames.take(), Err(TooLong));
    let mut frames = Frames::default();
    frames.push(&framed(&vec![1; MOST_MESSAGE_BYTES]));
    assert_eq!(frames.take().unwrap().unwrap().len(), MOST_MESSAGE_BYTES);
    assert_eq!(frames.take(), Ok(None));
}

proptest! {
    #[test]
    fn messages_come_out_as_they_went_in_however_they_are_cut(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
        cut in 1usize..20,
    ) {
        let bytes: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
        let (mut frames, mut came) = (Frames::default(), Vec::new());
        for part in bytes.chunks(cut) {
            frames.push(part);
            while let Some(message) = frames.take().unwrap() {
                came.push(message);
            }
        }
        prop_assert_eq!(came, messages);
    }

    #[test]
    fn no_message_makes_it_panic(message in prop::collection::vec(any::<u8>(), 0..200), first in 0u8..32) {
        let agent = Keys::new(vec![key()]);
        for message in [message.clone(), [vec![first], message].concat()] {
            let answer = agent.answer(&message);
            prop_assert!(!answer.is_empty() && answer.len() < 1000);
            let mut frames = Frames::default();
            frames.push(&message);
            let _ = frames.take();
        }
    }
}
