//! COPY, ADD and mounts take from the context what they take from it with Docker.

use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use farm_tests::process::run;

use crate::support::*;

#[test]
fn patterns_links_archives_mounts_and_heredocs_work_as_with_docker() {
    let farm = small_farm();
    let dockerfile = format!(
        r#"FROM {BASE}
ARG N={}
COPY *.txt sub/?.md /patterns/
COPY link.conf /link/
COPY linked/inner /linked-inner
ADD archive.tar.gz /unpacked/
COPY --chmod=711 sub/tool /tool
COPY <<EOF /here
from a heredoc
EOF
RUN --mount=type=bind,source=sub,target=/mnt cat /mnt/a.md > /bound
RUN --mount=type=cache,target=/cache echo kept > /cache/x
RUN --mount=type=secret,id=absent true
RUN <<EOF
cd /
for f in patterns/* link/link.conf linked-inner unpacked/packed here bound; do echo "$f: $(cat $f)"; done
stat -c 'mode %a' /tool
EOF
"#,
        nonce()
    );
    let context = Context::new(&dockerfile)
        .file("one.txt", "1")
        .file("two.txt", "2")
        .file("sub/a.md", "a")
        .file("sub/long.md", "no")
        .file("sub/tool", "t")
        .file("real.conf", "conf")
        .file("folder/inner", "inner")
        .file("packed", "packed");
    let path = context.path();
    symlink("real.conf", path.join("link.conf")).unwrap();
    symlink("folder", path.join("linked")).unwrap();
    run(Command::new("tar").args(["-czf", "archive.tar.gz", "packed"]).current_dir(path));
    let stdout = submit(&farm, &context, &["--platform", "linux/amd64"]).ok();
    for line in [
        "patterns/a.md: a",
        "patterns/one.txt: 1",
        "patterns/two.txt: 2",
        "link/link.conf: conf",
        "linked-inner: inner",
        "unpacked/packed: packed",
        "here: from a heredoc",
        "bound: a",
        "mode 711",
    ] {
        says(&stdout, &[&format!("linux/amd64 | {line}")]);
    }
    assert!(!stdout.contains("long.md"), "{stdout}");
}

#[test]
fn a_dockerfile_may_be_a_link_or_left_out_of_the_context_and_the_context_may_be_empty_of_all_else() {
    let farm = small_farm();
    let context = Context::empty()
        .file("real/x.Dockerfile", format!("FROM {BASE}\nRUN echo linked {}\n", nonce()))
        .file(".dockerignore", "**\n");
    symlink("real/x.Dockerfile", context.path().join("Dockerfile")).unwrap();
    says(&submit(&farm, &context, &["--platform", "linux/amd64"]).ok(), &["linux/amd64 | linked"]);
}

#[test]
fn times_within_a_second_keep_their_order_and_an_image_may_have_no_layers() {
    let farm = small_farm();
    let context = Context::new(&format!(
        "FROM {BASE}\nARG N={}\nCOPY . /c\nRUN cd /c; for i in 0 1 2 3 4 5 6 7; do [ new$i -nt old$i ] || echo stale $i; done\n",
        nonce()
    ));
    let start = std::time::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    let stamp = |name: &str, nanoseconds: u64| {
        let path = context.path().join(name);
        std::fs::write(&path, name).unwrap();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(start + Duration::from_nanos(nanoseconds)).unwrap();
    };
    for i in 0..8 {
        stamp(&format!("old{i}"), 100_000_000);
        stamp(&format!("new{i}"), 100_000_001 + i);
    }
    let stdout = submit(&farm, &context, &["--platform", "linux/amd64"]).ok();
    assert!(!stdout.contains("| stale"), "{stdout}");

    let empty = Context::new("FROM scratch\nLABEL a=b\n");
    let tag = format!("{}:1", repository("no-layers"));
    let stdout = submit(&farm, &empty, &["--platform", "linux/amd64,linux/arm64", "-t", &tag]).ok();
    says(&stdout, &["published", &tag]);
}
