//! The same program in many disguises, and layers that aren't what they are said to be.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::buildkit::probe_executable;

fn program(platform: &str) -> Vec<u8> {
    probe_executable(&platform.parse().unwrap()).unwrap()
}

fn layer(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, mode, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(data.len()).unwrap());
        header.set_mode(*mode);
        builder.append_data(&mut header, path, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

fn packed(layer: &[u8]) -> Vec<u8> {
    let mut packing = GzEncoder::new(Vec::new(), Compression::fast());
    packing.write_all(layer).unwrap();
    packing.finish().unwrap()
}

/// As an engine sends it: in pieces.
fn seen(stored: &[u8], diff_id: &Digest) -> Result<LayerVerdict, String> {
    let (sender, pieces) = mpsc::channel(1);
    let stored = stored.to_vec();
    let sending = std::thread::spawn(move || {
        for piece in stored.chunks(1000) {
            if sender.blocking_send(Bytes::copy_from_slice(piece)).is_err() {
                return;
            }
        }
    });
    let seen = look(pieces, diff_id);
    sending.join().unwrap();
    seen
}

fn told(verdict: &LayerVerdict) -> Vec<(&str, u64, Vec<&str>)> {
    let found = verdict.found.iter();
    found
        .map(|files| {
            (files.architecture.as_str(), files.count, files.paths.iter().map(String::as_str).collect())
        })
        .collect()
}

#[test]
fn a_program_is_found_in_every_disguise_in_which_it_would_be_run() {
    let (amd64, arm64) = (program("linux/amd64"), program("linux/arm64"));
    // As a packer leaves it: the head is the program's own.
    let shrunk = [&amd64[..], b"UPX!", &[0x5a; 3000]].concat();
    // A library: another type of file in the head.
    let mut library = amd64.clone();
    library[16] = 3;
    // An object file, which nobody runs.
    let mut object = amd64.clone();
    object[16] = 1;
    let inner = layer(&[("hello", 0o755, &amd64)]);
    let unpacked = layer(&[
        ("usr/bin/static", 0o755, &amd64),
        ("usr/bin/setuid", 0o4755, &amd64),
        ("usr/bin/not-executable", 0o644, &amd64),
        ("usr/bin/shrunk", 0o755, &shrunk),
        ("lib/ld-musl-x86_64.so.1", 0o755, &library),
        ("go/bin/tool.test", 0o755, &amd64),
        ("app/script", 0o755, b"#!/usr/bin/static\n"),
        ("app/inner.tar", 0o644, &inner),
        ("app/inner.tar.gz", 0o644, &packed(&inner)),
        ("app/object.o", 0o644, &object),
        ("go/src/debug/elf/testdata/amd64-exec", 0o755, &amd64),
        ("usr/bin/own", 0o755, &arm64),
    ]);
    let diff_id = Digest::of(&unpacked);
    let expected = [
        (
            "amd64",
            6,
            vec![
                "usr/bin/static",
                "usr/bin/setuid",
                "usr/bin/not-executable",
                "usr/bin/shrunk",
                "lib/ld-musl-x86_64.so.1",
                "go/bin/tool.test",
            ],
        ),
        ("arm64", 1, vec!["usr/bin/own"]),
    ];
    for stored in [unpacked.clone(), packed(&unpacked)] {
        assert_eq!(told(&seen(&stored, &diff_id).unwrap()), expected);
    }
    // Packed in two parts, as some packers do.
    let (first, second) = unpacked.split_at(700);
    assert_eq!(told(&seen(&[packed(first), packed(second)].concat(), &diff_id).unwrap()), expected);
}

#[test]
fn nothing_is_said_of_what_isnt_the_layer_that_was_named() {
    let unpacked = layer(&[("a", 0o755, &program("linux/amd64"))]);
    let (diff_id, stored) = (Digest::of(&unpacked), packed(&unpacked));
    assert!(seen(&stored, &diff_id).is_ok());
    let other = packed(&layer(&[("a", 0o755, b"")]));
    assert!(seen(&other, &diff_id).unwrap_err().contains("isn't the one"));
    for length in [0, 1, 10, stored.len() - 9, stored.len() - 1] {
        assert!(seen(&stored[..length], &diff_id).is_err(), "{length}");
    }
    // Behind the archive's end there is more.
    assert!(seen(&[&unpacked[..], b"more"].concat(), &diff_id).is_err());
    assert!(seen(b"\x28\xb5\x2f\xfd and so on", &diff_id).unwrap_err().contains("zstd"));
    // An image may have an empty layer.
    let empty = layer(&[]);
    assert_eq!(told(&seen(&packed(&empty), &Digest::of(&empty)).unwrap()), []);
}
