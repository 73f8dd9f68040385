//! Images whose programs aren't of their platform: refused with the layer and the file, whatever the program looks like; let through
//! where that was asked for; and no layer is read twice.

use std::fs;

use farm_tests::farm::{Farm, Output, WorkerSpec};

use crate::support::*;

/// The two platforms of `BASE-amd64`, of which it has one.
const BOTH_ASKED: &[&str] = &["--platform", "linux/amd64,linux/arm64"];

/// A farm of which one job runs at once, so that nothing is read by two.
fn farm() -> Farm {
    Farm::builder().worker(WorkerSpec::new("w1").platforms(BOTH).slots(1)).start()
}

/// The head of an ELF file of a 64-bit machine, and nothing behind it.
fn program(kind: u8, machine: u8) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    bytes.extend([kind, 0, machine, 0, 1, 0, 0, 0]);
    bytes.resize(4096, 0);
    bytes
}

const X86_64: u8 = 62;
const AARCH64: u8 = 183;

/// What the worker's log says of each image that it has verified, in order: how many layers it has, and how many were read.
fn verified(farm: &mut Farm) -> Vec<(u32, u32)> {
    let log = fs::read_to_string(farm.worker("w1").log_path()).unwrap();
    let number = |line: &str, name: &str| {
        let plain = plain(line);
        let at = plain.find(&format!(" {name}=")).unwrap_or_else(|| panic!("{plain}"));
        let digits =
            plain[at + name.len() + 2..].split(|c: char| !c.is_ascii_digit()).next().unwrap().to_owned();
        digits.parse().unwrap()
    };
    let lines = log.lines().filter(|line| plain(line).contains(" verified layers="));
    lines.map(|line| (number(line, "layers"), number(line, "read"))).collect()
}

/// `farm submit` of which the result was looked at: the engine may have collected what it has just pushed before that, as the log says, and
/// not each time.
fn looked(farm: &Farm, context: &Context, args: &[&str]) -> Output {
    for _ in 0..5 {
        let output = submit(farm, context, args);
        if !output.stdout.contains("the engine hasn't got it") {
            return output;
        }
    }
    panic!("the engine never has what it has just pushed");
}

/// A line of a log without what colours it.
fn plain(line: &str) -> String {
    let mut plain = String::new();
    let mut rest = line;
    while let Some((before, escape)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        rest = escape.split_once('m').map_or("", |(_, after)| after);
    }
    plain + rest
}

#[test]
fn the_wrong_base_is_refused_with_its_layer_a_file_and_the_cure_and_goes_through_where_it_is_asked_for() {
    let farm = farm();
    let tag = format!("{}:1", repository("wrong-base"));
    let context = Context::new(&format!("FROM {BASE}-amd64\nCOPY Dockerfile /{}\n", nonce()));
    let args = [&["-t", &tag, "--verify", "elf"], BOTH_ASKED].concat();
    let refused = looked(&farm, &context, &args);
    assert_eq!(refused.status, 1, "{refused:?}");
    let record = show(&farm, &build_id(&refused.stdout));
    let failure = &record["failure"];
    assert_eq!(
        (&failure["code"], &failure["cause"]),
        (&"foreign_programs".into(), &"user".into()),
        "{failure}"
    );
    let said = failure["message"].as_str().unwrap();
    says(said, &["in layer 1 of 2 (sha256:", "is for amd64, and the image is for linux/arm64", "more files"]);
    says(said, &["--verify off", "--verify-except 'PATTERN'", "FROM final_$TARGETARCH"]);
    says(&refused.stdout, &["is for amd64, and the image is for linux/arm64"]);
    assert_eq!(raw(&tag), None, "no tag moves");
    // The platform that the base has was right.
    let platforms = record["platforms"].as_array().unwrap();
    let failed: Vec<&str> = platforms
        .iter()
        .filter(|platform| platform["state"] == "failed")
        .map(|platform| platform["platform"].as_str().unwrap())
        .collect();
    assert_eq!(failed, ["linux/arm64"], "{record}");

    // What was pushed for it is known, so that it leaves the registry in its time.
    let kept = "SELECT count(*) FROM pushed_digests p JOIN attempts a ON a.id = p.attempt_id WHERE a.state = 'failed'";
    assert_eq!(farm_tests::database::psql(farm.database_url(), kept), "1");

    for more in [&["--verify", "off"][..], &["--verify-except", "/usr/**", "--verify-except", "**"]] {
        let tag = format!("{}:1", repository("wrong-base"));
        submit(&farm, &context, &[&["-t", &tag], BOTH_ASKED, more].concat()).ok();
        assert!(raw(&tag).is_some(), "{more:?}");
    }
    let both = ["--verify", "off", "--verify-except", "a"];
    crate::support::refused(&submit(&farm, &context, &both), 2, &["--verify", "nothing is verified"]);
    crate::support::refused(&submit(&farm, &context, &["--verify", "yes"]), 2, &["elf or off"]);
    crate::support::refused(
        &submit(&farm, &context, &["--verify-except", "[a"]),
        2,
        &["--verify-except", "[a"],
    );
}

#[test]
fn it_is_looked_for_unless_the_build_or_its_project_says_no() {
    let farm = Farm::builder().verifying().worker(WorkerSpec::new("w1").platforms(BOTH).slots(1)).start();
    let context = Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY app /app\n", nonce()))
        .file("app", program(2, X86_64));
    let build = |more: &[&str]| {
        let tag = format!("{}:1", repository("unsaid"));
        looked(&farm, &context, &[&["-t", &tag, "--platform", "linux/arm64"], more].concat())
    };
    let refused = build(&[]);
    assert_eq!(refused.status, 1, "{refused:?}");
    says(&refused.stdout, &["/app in layer 1 of 1", "is for amd64"]);
    build(&["--verify", "off"]).ok();
    build(&["--verify-except", "/app"]).ok();
    says(&farm.cli(&["project", "set", "default", "--verify", "off"]).ok(), &["by default verify off"]);
    build(&[]).ok();
    assert_eq!(build(&["--verify", "elf"]).status, 1);
    farm.cli(&["project", "set", "default", "--verify", "none"]).ok();
    assert_eq!(build(&[]).status, 1);
}

#[test]
fn a_foreign_program_is_found_in_every_disguise() {
    let farm = farm();
    let foreign = program(2, X86_64);
    let mut packed = foreign.clone();
    packed[200..204].copy_from_slice(b"UPX!");
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(u64::try_from(foreign.len()).unwrap());
    header.set_mode(0o755);
    archive.append_data(&mut header, "inner/app", &foreign[..]).unwrap();
    let context = |dockerfile: &str| {
        Context::new(&format!("FROM scratch\n{dockerfile}"))
            .file("static", &foreign)
            .file("packed", &packed)
            .file("own", program(2, AARCH64))
            .file("ld-musl-x86_64.so.1", program(3, X86_64))
            .file("object.o", program(1, X86_64))
            .file("testdata/sample", &foreign)
            .file("script", "#!/bin/app\n")
            // Real ones: a program that is linked dynamically, and the library that it wants.
            .file("dynamic", fs::read("/bin/true").unwrap())
            .file("libc.so.6", fs::read("/lib/x86_64-linux-gnu/libc.so.6").unwrap())
            .file("inner.tar", archive.get_ref())
    };
    let build = |dockerfile: &str, more: &[&str]| {
        let tag = format!("{}:1", repository("disguises"));
        let args = [&["-t", &tag, "--platform", "linux/arm64", "--verify", "elf"], more].concat();
        (looked(&farm, &context(&format!("{dockerfile}LABEL test={}\n", nonce())), &args), tag)
    };
    for (dockerfile, path) in [
        ("COPY own /bin/own\nCOPY static /bin/app\n", "/bin/app in layer 2 of 2"),
        ("COPY --chmod=4755 static /bin/setuid\n", "/bin/setuid in layer 1 of 1"),
        ("COPY --chmod=644 static /srv/data.bin\n", "/srv/data.bin in"),
        ("COPY packed /bin/packed\n", "/bin/packed in"),
        ("COPY static /go/bin/tool.test\n", "/go/bin/tool.test in"),
        ("COPY ld-musl-x86_64.so.1 /lib/\n", "/lib/ld-musl-x86_64.so.1 in"),
        ("COPY dynamic /bin/true\n", "/bin/true in"),
        ("COPY libc.so.6 /opt/x86/lib/\n", "/opt/x86/lib/libc.so.6 in"),
        ("COPY script /bin/start\nCOPY static /bin/app\n", "/bin/app in"),
        ("ADD inner.tar /opt/\n", "/opt/inner/app in"),
    ] {
        let (output, tag) = build(dockerfile, &[]);
        assert_eq!(output.status, 1, "{dockerfile}: {output:?}");
        says(&output.stdout, &[path, "is for amd64, and the image is for linux/arm64"]);
        assert_eq!(raw(&tag), None, "{dockerfile}");
    }
    // What isn't run by itself, what honest images have, and what is there on purpose.
    let honest = "COPY own /bin/app\nCOPY script /bin/start\nCOPY inner.tar object.o /srv/\nCOPY testdata /srv/testdata\n";
    let (output, tag) = build(honest, &[]);
    output.ok();
    assert!(raw(&tag).is_some());
    let (output, tag) =
        build(&format!("{honest}COPY libc.so.6 /opt/x86/lib/\n"), &["--verify-except", "/opt/x86/**"]);
    output.ok();
    assert!(raw(&tag).is_some());
}

#[test]
fn a_layer_that_was_judged_is_not_read_again_whichever_image_it_is_in() {
    let mut farm = farm();
    let build = |farm: &Farm, more: &[&str]| {
        let tag = format!("{}:1", repository("read-once"));
        let context = Context::new(&format!("FROM {BASE}\nCOPY Dockerfile /{}\n", nonce()));
        let args = [&["-t", &tag, "--platform", "linux/amd64", "--verify"], more].concat();
        looked(farm, &context, &args).ok();
    };
    build(&farm, &["elf"]);
    build(&farm, &["elf", "--provenance"]);
    build(&farm, &["off"]);
    let seen = verified(&mut farm);
    assert_eq!(seen.iter().map(|(_, read)| *read).collect::<Vec<_>>(), [2, 1], "{seen:?}");
    // Also by a worker that has just started, for the farm remembers.
    farm.stop_worker("w1");
    farm.start_worker("w1");
    build(&farm, &["elf"]);
    assert_eq!(verified(&mut farm).last(), Some(&(2, 1)));
}
