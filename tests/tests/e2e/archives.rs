//! An archive on standard input builds what its folder builds; links lead out of neither; named contexts replace what they
//! replace with buildx.

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use farm_tests::environment;
use farm_tests::farm::{Farm, Output, client, output};

use crate::support::*;

const AMD64: [&str; 2] = ["--platform", "linux/amd64"];

/// Prints all of `/src` with kind, mode, time, size and what begins it.
const LIST: &str = "
import os, stat
for folder, folders, files in os.walk('/src'):
    for name in sorted(folders + files):
        path = os.path.join(folder, name)
        s = os.lstat(path)
        print('entry', os.path.relpath(path, '/src'), stat.filemode(s.st_mode), int(s.st_mtime), s.st_size if stat.S_ISREG(s.st_mode) else '')
";

/// `farm ARGS` with this archive on standard input, by way of `before`.
fn with_input(farm: &Farm, archive: &Path, before: &str, args: &[&str]) -> Output {
    let farm = client(&farm.url(), &farm.token_file(), farm.folder(), args);
    let mut command = environment::command("sh");
    command.arg("-c").arg(format!("{before}\nexec \"$0\" \"$@\" <'{}'", archive.display()));
    command.arg(farm.get_program()).args(farm.get_args());
    for (key, value) in farm.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    output(&mut command)
}

fn tar(folder: &Path, archive: &Path, flags: &[&str]) {
    output(Command::new("tar").arg("-C").arg(folder).args(flags).arg("-cf").arg(archive).arg(".")).ok();
}

#[test]
fn an_archive_builds_what_its_folder_builds() {
    let farm = small_farm();
    let context = Context::new(&format!("FROM {BASE}\nCOPY . /src\nRUN python3 /src/list.py\n"))
        .file("list.py", LIST)
        .file("nonce", nonce())
        .file("sticky/x", "1")
        .file("setuid", "1");
    let path = context.path();
    let holes = File::create(path.join("holes")).unwrap();
    holes.write_all_at(b"end", 3 << 20).unwrap();
    for (name, mode) in [("setuid", 0o4755), ("sticky", 0o1777)] {
        std::fs::set_permissions(path.join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    output(Command::new("mkfifo").arg(path.join("pipe"))).ok();
    output(Command::new("find").arg(path).args([
        "-mindepth",
        "1",
        "-exec",
        "touch",
        "-hd",
        "@1000000000",
        "{}",
        "+",
    ]))
    .ok();
    let place = Context::empty();
    let archive = place.path().join("context.tar");
    let dry = ["--dry-run", "--json", "--platform", "linux/amd64"];
    let of_folder = submit(&farm, &context, &dry).json()["tree_id"].clone();
    for flags in [
        &["--format=posix", "-S"][..],
        &["--format=gnu", "-S"],
        &["--format=ustar"],
        &["-j"],
        &["-J"],
        &["-z"],
    ] {
        tar(path, &archive, flags);
        for before in ["umask 000", "umask 777"] {
            let of_archive = with_input(&farm, &archive, before, &[&["submit", "-"], &dry[..]].concat());
            assert_eq!(of_archive.json()["tree_id"], of_folder, "{flags:?} {before}");
        }
    }
    tar(path, &archive, &["--format=posix", "-S"]);
    let stdout = with_input(&farm, &archive, "umask 077", &[&["submit", "-"], &AMD64[..]].concat()).ok();
    for entry in [
        "holes -rw-r--r-- 1000000000 3145731",
        "pipe prw-r--r-- 1000000000",
        "setuid -rwsr-xr-x 1000000000 1",
        "sticky drwxrwxrwt 1000000000",
    ] {
        says(&stdout, &[&format!("linux/amd64 | entry {entry}")]);
    }
    // What begins a context of stdin cut off builds nothing.
    let whole = std::fs::read(&archive).unwrap();
    std::fs::write(&archive, &whole[..whole.len() / 3]).unwrap();
    let before = builds(&farm);
    refused(&with_input(&farm, &archive, "", &["submit", "-"]), 2, &["cut off"]);
    assert_eq!(builds(&farm), before);
}

#[test]
fn no_link_brings_a_file_of_this_machine_into_a_build() {
    let farm = small_farm();
    let secret = Context::new(&format!("FROM {BASE}\nRUN echo the secret of the machine\n"));
    let outside = secret.path().join("Dockerfile");
    let context = Context::empty().file("a", "1");
    symlink(&outside, context.path().join("Dockerfile")).unwrap();
    let place = Context::empty();
    let archive = place.path().join("context.tar");
    tar(context.path(), &archive, &[]);
    for verb in ["submit", "check"] {
        let said = with_input(&farm, &archive, "", &[&[verb, "-"], &AMD64[..]].concat());
        refused(&said, 2, &["Dockerfile", "no such file in the archive"]);
        // As buildx, which is asked next.
        let said = farm.cli(&[&[verb, context.text()], &AMD64[..]].concat());
        refused(&said, 2, &["Dockerfile", "no such file in its folder", "-f FILE"]);
    }
    let buildx = output(Command::new("docker").args(["buildx", "build"]).arg(context.path()));
    assert_ne!(buildx.status, 0);
    says(&buildx.stderr, &["open Dockerfile: no such file or directory"]);
    // A folder that is a link is followed by both, unless it is said that nothing may lead out.
    symlink(secret.path(), context.path().join("out")).unwrap();
    let through = context.path().join("out/Dockerfile");
    let through = through.to_str().unwrap();
    output(Command::new("docker").args(["buildx", "build", "-f", through]).arg(context.path())).ok();
    submit(&farm, &context, &[&["-f", through], &AMD64[..]].concat()).ok();
    let inside = ["-f", through, "--context-links", "inside"];
    refused(
        &submit(&farm, &context, &[&inside, &AMD64[..]].concat()),
        2,
        &[through, "outside of the context", "inside"],
    );
    let said = with_input(
        &farm,
        Path::new("/dev/null"),
        "export FARM_CONTEXT_LINKS=inside",
        &["check", context.text(), "-f", through],
    );
    refused(&said, 2, &[through, "outside of the context"]);
}

#[test]
fn named_contexts_replace_what_they_replace_with_buildx() {
    let farm = small_farm();
    let base = format!("{}:1", repository("golden"));
    let made =
        Context::new("FROM scratch\nCOPY made.txt /\n").file("made.txt", format!("golden {}", nonce()));
    submit(&farm, &made, &[&["-t", &base], &AMD64[..]].concat()).ok();
    let other = repository("other");
    let original = Context::new("FROM scratch\nCOPY made.txt /\n").file("made.txt", "the original");
    submit(&farm, &original, &[&["-t", &format!("{other}:latest")], &AMD64[..]].concat()).ok();
    for (key, from) in [
        ("golden:latest", "golden".to_owned()),
        ("library/golden", "golden".to_owned()),
        ("docker.io/library/golden", "golden".to_owned()),
        ("golden", "docker.io/library/golden:latest".to_owned()),
        ("golden:V1", "golden:V1".to_owned()),
        (&format!("{other}:latest"), other.clone()),
        (&other, format!("{other}:latest")),
    ] {
        let context =
            Context::new(&format!("FROM {from} AS named\nFROM scratch\nCOPY --from=named made.txt /\n"));
        let replaced = format!("{key}=docker-image://{base}");
        let folder = Context::empty();
        let (ours, theirs) = (format!("{}/ours", folder.text()), format!("{}/theirs", folder.text()));
        let args = ["--build-context", &replaced, "-o", &ours];
        submit(&farm, &context, &[&args[..], &AMD64].concat()).ok();
        let mut buildx = Command::new("docker");
        buildx.args(["buildx", "build", "--no-cache", "--build-context", &replaced, "-o", &theirs]);
        output(buildx.arg(context.path())).ok();
        for made in [ours, theirs] {
            let text = std::fs::read_to_string(format!("{made}/made.txt")).unwrap();
            assert!(text.starts_with("golden "), "{key}, {from}: {made} has {text}");
        }
    }
    let folder = Context::empty().file("lib.txt", format!("library {}", nonce()));
    for (key, from) in [("lib:latest", "lib"), ("docker.io/library/lib", "lib"), ("context", "context")] {
        let context = Context::new(&format!("FROM scratch\nCOPY --from={from} lib.txt /\n"));
        let replaced = format!("{key}={}", folder.text());
        let place = Context::empty();
        let ours = format!("{}/ours", place.text());
        let args = ["--build-context", &replaced, "-o", &ours];
        submit(&farm, &context, &[&args[..], &AMD64].concat()).ok();
        let text = std::fs::read_to_string(format!("{ours}/lib.txt")).unwrap();
        assert!(text.starts_with("library "), "{key}: {text}");
    }
    let context = Context::new("FROM scratch\nCOPY --from=lib lib.txt /\n");
    let twice = ["--build-context", "golden=.", "--build-context", "library/golden=."];
    refused(&submit(&farm, &context, &twice), 2, &["golden and library/golden", "keep one"]);
}
