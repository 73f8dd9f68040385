//! What is in the context's folder arrives in the image as it is, however it is called and however much it is.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use farm_tests::bed::Bed;

use crate::support::*;

/// Prints every entry of `/src`, one a line, as Python writes it; of a file with its mode and its content's digest.
const LIST: &str = "
import hashlib, os, sys
for folder, folders, files in os.walk('/src'):
    for name in sorted(folders + files):
        path = os.path.join(folder, name)
        if os.path.islink(path):
            what = '-> ' + os.readlink(path)
        elif os.path.isfile(path):
            with open(path, 'rb') as file:
                what = oct(os.stat(path).st_mode & 0o777) + ' ' + hashlib.sha256(file.read()).hexdigest()[:16]
        else:
            what = 'folder'
        print('entry', ascii(os.path.relpath(path, '/src')), what)
";

#[test]
fn odd_names_links_and_modes_arrive_in_the_image_as_they_are() {
    let farm = small_farm();
    let names = [
        "plain.txt",
        "with blank.txt",
        "Grüße ☕.txt",
        "line\nbreak.txt",
        "-dash",
        "a#b%20c&d;$e'\"f",
        "*star?",
    ];
    let mut context = Context::new(&format!("FROM {BASE}\nCOPY . /src\nRUN python3 /src/list.py\n"));
    context = context.file("list.py", LIST).file("run.sh", "#!/bin/sh\n").file("an empty folder/.keep", "");
    for name in names {
        context = context.file(name, format!("content of {name} {}", nonce()));
    }
    let path = context.path();
    std::fs::set_permissions(path.join("run.sh"), PermissionsExt::from_mode(0o750)).unwrap();
    std::fs::remove_file(path.join("an empty folder/.keep")).unwrap();
    // Links that lead in a circle, up and away, and nowhere: kept as they are, followed by nobody.
    symlink("loop-b", path.join("loop-a")).unwrap();
    symlink("loop-a", path.join("loop-b")).unwrap();
    symlink("..", path.join("up")).unwrap();
    symlink("/etc/passwd", path.join("away")).unwrap();
    // Its path may have 107 bytes only: by way of a link it has fewer.
    let short = Bed::from_env().short_folder("link");
    symlink(path, short.path().join("c")).unwrap();
    let _socket = UnixListener::bind(short.path().join("c/s.sock")).unwrap();

    let stdout = submit(&farm, &context, &["--platform", "linux/amd64"]).ok();
    says(&stdout, &["\"s.sock\" is a socket and is left out"]);
    let entry = |name: &str, what: &str| says(&stdout, &[&format!("linux/amd64 | entry {name} {what}")]);
    for (name, shown) in names.iter().zip([
        "'plain.txt'",
        "'with blank.txt'",
        r"'Gr\xfc\xdfe \u2615.txt'",
        r"'line\nbreak.txt'",
        "'-dash'",
        r#"'a#b%20c&d;$e\'"f'"#,
        "'*star?'",
    ]) {
        let content = std::fs::read_to_string(path.join(name)).unwrap();
        entry(shown, &format!("0o644 {}", &digest_of(&content)["sha256:".len()..][..16]));
    }
    entry("'run.sh'", "0o750");
    entry("'an empty folder'", "folder");
    entry("'loop-a'", "-> loop-b");
    entry("'up'", "-> ..");
    entry("'away'", "-> /etc/passwd");
    assert!(!stdout.contains("entry 's.sock'"), "{stdout}");

    // A name that no builder can take is refused before anything is sent.
    std::fs::write(path.join(OsStr::from_bytes(b"latin-\xe9")), "").unwrap();
    refused(
        &submit(&farm, &context, &["--platform", "linux/amd64"]),
        2,
        &["latin-", "UTF-8", ".dockerignore"],
    );
    assert_eq!(builds(&farm), 1);
}

#[test]
fn a_big_file_and_thousands_of_small_ones_arrive_whole_and_are_sent_once() {
    let farm = small_farm();
    // Not all zeros, which would hide a chunk in the wrong place.
    let big: Vec<u8> = (0..30_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let dockerfile = format!(
        "FROM {BASE}\nARG N={}\nCOPY . /src\nRUN sha256sum /src/big && find /src/small -type f | wc -l \
         && cat $(find /src/small -type f | sort) | sha256sum\n",
        nonce()
    );
    let mut context = Context::new(&dockerfile).file("big", &big);
    let mut all = String::new();
    for n in 0..3000 {
        let text = format!("file {n} {}\n", "x".repeat(n % 50));
        context = context.file(&format!("small/{:02}/{n:04}", n / 100), &text);
        all += &text;
    }
    let args = ["--platform", "linux/amd64", "--json"];
    let result = submit(&farm, &context, &args);
    let log = result.stderr.clone();
    let record = result.json();
    let mut sum = std::process::Command::new("sha256sum");
    let sum = farm_tests::process::run(sum.arg(context.path().join("big")));
    says(
        &log,
        &[
            &format!("| {}  /src/big", &sum[..64]),
            "| 3000",
            &format!("| {}  -", &digest_of(&all)["sha256:".len()..]),
        ],
    );
    assert_eq!((&record["upload"]["files"], &record["upload"]["new_files"]), (&3002.into(), &3002.into()));

    // One file changes: no other one is sent again.
    let context = context.file("small/00/0000", "other");
    let record = submit(&farm, &context, &args).json();
    assert_eq!(record["upload"]["new_files"], 1, "{record:#}");
    assert!(record["upload"]["sent_bytes"].as_u64().unwrap() < 100_000, "{record:#}");
}
