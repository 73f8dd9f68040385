//! Heads of many machines, and what layers say about an image.

use super::*;

/// The first bytes of a file: bits, byte order, `e_type`, `e_machine`.
fn head(wide: bool, big_endian: bool, kind: u16, machine: u16) -> Vec<u8> {
    let (class, order) = (if wide { 2 } else { 1 }, if big_endian { 2 } else { 1 });
    let mut bytes = vec![0x7f, b'E', b'L', b'F', class, order, 1, 0];
    bytes.extend([0; 8]);
    for half in [kind, machine] {
        bytes.extend(if big_endian { half.to_be_bytes() } else { half.to_le_bytes() });
    }
    bytes
}

fn set(patterns: &[&str]) -> PatternSet {
    let except = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    Verify::Elf { except }.excepted().unwrap().unwrap()
}

fn platform(text: &str) -> Platform {
    text.parse().unwrap()
}

#[test]
fn each_machines_programs_and_libraries_are_known_by_their_heads() {
    for (name, wide, big_endian, machine) in [
        ("amd64", true, false, 62),
        ("amd64", false, false, 62),
        ("386", false, false, 3),
        ("arm64", true, false, 183),
        ("arm", false, false, 40),
        ("riscv64", true, false, 243),
        ("ppc64le", true, false, 21),
        ("ppc64", true, true, 21),
        ("s390x", true, true, 22),
        ("loong64", true, false, 258),
        ("mips", false, true, 8),
        ("mips64le", true, false, 8),
    ] {
        for kind in [2, 3] {
            assert_eq!(architecture(&head(wide, big_endian, kind, machine)), Some(name), "{name} {kind}");
        }
        // Object files, and memory of a program that died.
        for kind in [0, 1, 4, 0xfe00] {
            assert_eq!(architecture(&head(wide, big_endian, kind, machine)), None, "{name} {kind}");
        }
    }
    // 32-bit RISC-V, BPF, AVR, CUDA, AMD's graphics cards: no platforms.
    for machine in [0, 83, 190, 224, 247] {
        assert_eq!(architecture(&head(true, false, 2, machine)), None, "{machine}");
    }
    assert_eq!(architecture(&head(false, false, 2, 243)), None);
}

#[test]
fn what_is_no_elf_file_says_nothing() {
    let good = head(true, false, 2, 62);
    for length in 0..good.len() {
        assert_eq!(architecture(&good[..length]), None, "{length}");
    }
    assert_eq!(architecture(&[&good[..], b"rest"].concat()), Some("amd64"));
    for (at, byte) in [(0, 0x7e), (1, b'F'), (4, 0), (4, 3), (5, 0), (5, 9)] {
        let mut bad = good.clone();
        bad[at] = byte;
        assert_eq!(architecture(&bad), None, "{at}");
    }
    assert_eq!(architecture(b"#!/bin/sh\nexec /usr/bin/true\n"), None);
    assert_eq!(architecture(b"MZ\x90\0\x03\0\0\0\x04\0\0\0\xff\xff\0\0\xb8\0\0\0"), None);
}

#[test]
fn a_machine_runs_its_own_programs_and_64_bit_x86_also_the_32_bit_ones() {
    for (on, of, runs_it) in [
        ("linux/amd64", "amd64", true),
        ("linux/amd64/v3", "amd64", true),
        ("linux/amd64", "386", true),
        ("linux/386", "amd64", false),
        ("linux/arm64", "amd64", false),
        ("linux/arm64", "arm", false),
        ("linux/arm/v7", "arm", true),
        ("linux/arm/v7", "arm64", false),
        ("linux/ppc64le", "ppc64", false),
        ("linux/s390x", "s390x", true),
    ] {
        assert_eq!(runs(&platform(on), of), runs_it, "{of} on {on}");
    }
    // Of one that isn't in the table nobody can tell.
    assert!(runs(&Platform::none(), "amd64"));
}

#[test]
fn what_honest_images_hold_of_other_machines_is_excepted() {
    for path in [
        "usr/local/go/src/debug/elf/testdata/gcc-amd64-linux-exec",
        "app/node_modules/bcrypt/prebuilds/linux-x64/bcrypt.node",
        "usr/aarch64-linux-gnu/lib/libc.so.6",
        "usr/lib/gcc-cross/aarch64-linux-gnu/14/libgcc_s.so",
        "opt/arm/arm-none-eabi/lib/crt0.so",
        "usr/local/rustup/toolchains/stable/lib/rustlib/x86_64-unknown-linux-gnu/lib/libstd.so",
        "lib/firmware/x.elf",
        "usr/bin/qemu-aarch64-static",
        "usr/lib/python3/dist-packages/pydevd_attach_to_process/attach_linux_amd64.so",
    ] {
        assert!(is_excepted(path, "mips"), "{path}");
    }
    for path in [
        "usr/bin/python3",
        "lib/x86_64-linux-gnu/libc.so.6",
        "usr/lib/x86_64-linux-gnu/libssl.so.3",
        "app/node_modules/@esbuild/linux-x64/bin/esbuild",
        "usr/bin/qemu-system-arm",
        "usr/lib64/ld-linux-x86-64.so.2",
    ] {
        assert!(!is_excepted(path, "mips"), "{path}");
    }
    // A pattern that isn't one would turn all of them off.
    assert_eq!(PatternSet::from_lines(EXCEPTED).map(|set| set.is_empty()), Ok(false));
}

#[test]
fn what_lies_in_a_folder_of_its_own_architectures_name_is_excepted_but_for_the_systems_libraries() {
    for (of, path) in [
        ("arm64", "app/runtimes/linux-arm64/native/libSkiaSharp.so"),
        ("amd64", "app/runtimes/linux-x64/native/libsqlite3.so"),
        ("386", "app/runtimes/win-x86/native/x.so"),
        ("arm", "opt/ndk/lib/armeabi-v7a/libc++_shared.so"),
        ("arm64", "opt/ndk/lib/arm64-v8a/libc++_shared.so"),
        ("amd64", "app/node_modules/@esbuild/linux-x64/bin/esbuild"),
        ("amd64", "app/node_modules/sharp/sharp-linux-x64.node"),
        ("s390x", "usr/lib/jni/libjansi-s390x.so"),
        ("ppc64le", "usr/lib/x86_64-linux-gnu/plugins/ppc64le/libx.so"),
        ("arm64", "opt/AArch64/libtool.so.3"),
        ("amd64", "app/runtimes/linux-x64/native/createdump"),
    ] {
        assert!(is_excepted(path, of), "{of} {path}");
    }
    for (of, path) in [
        ("amd64", "lib/x86_64-linux-gnu/libc.so.6"),
        ("amd64", "usr/lib/x86_64-linux-gnu/libssl.so.3"),
        ("amd64", "usr/lib64/ld-linux-x86-64.so.2"),
        ("amd64", "lib/ld-musl-x86_64.so.1"),
        ("amd64", "app/runtimes/linux-arm64/native/libSkiaSharp.so"),
        ("arm64", "app/armada/tool"),
        ("386", "opt/x86_64/libtool.so"),
        ("amd64", "opt/node-v22-linux-x64/bin/node"),
        ("amd64", "usr/lib/jvm/java-17-openjdk-amd64/bin/java"),
        ("amd64", "app/x86_64-unknown-linux-gnu/release/app"),
        ("amd64", "usr/local/bin/app-amd64"),
        ("amd64", "app"),
        ("amd64", "usr/bin/python3"),
    ] {
        assert!(!is_excepted(path, of), "{of} {path}");
    }
}

fn verdict(files: &[(&str, &str)]) -> LayerVerdict {
    let mut verdict = LayerVerdict::default();
    files.iter().for_each(|(architecture, path)| verdict.note(architecture, path));
    verdict
}

#[test]
fn the_lowest_layer_with_a_foreign_file_is_named_and_what_is_excepted_isnt() {
    let (base, mixed) = (
        verdict(&[("amd64", "usr/bin/python3"), ("amd64", "usr/lib/libc.so.6")]),
        verdict(&[("arm64", "app/hello"), ("amd64", "opt/tools/probe")]),
    );
    let digests = [Digest::of(b"base"), Digest::of(b"mixed"), Digest::of(b"unread")];
    let layers = || {
        [Some(&base), Some(&mixed), None]
            .into_iter()
            .zip(&digests)
            .map(|(verdict, diff_id)| Layer { diff_id, verdict })
    };
    let on = |text: &str, patterns: &[&str]| judge(layers(), &platform(text), &set(patterns));

    let Judgement::Foreign(foreign) = on("linux/arm64", &[]) else { panic!() };
    assert_eq!((foreign.layer, foreign.layers, foreign.diff_id, foreign.more), (1, 3, digests[0], 1));
    assert_eq!((foreign.path.as_str(), foreign.architecture.as_str()), ("usr/bin/python3", "amd64"));
    let failure = foreign.failure(&platform("linux/arm64"));
    assert_eq!((failure.cause, &failure.code), (Cause::User, &FailureCode::ForeignPrograms));
    for part in
        ["/usr/bin/python3", "layer 1 of 3", "is for amd64", "linux/arm64", "one more", "--verify off"]
    {
        assert!(failure.message.contains(part), "{part}: {failure}");
    }

    let Judgement::Foreign(foreign) = on("linux/arm64", &["/usr"]) else { panic!() };
    assert_eq!((foreign.layer, foreign.path.as_str(), foreign.more), (2, "opt/tools/probe", 0));
    assert_eq!(on("linux/arm64", &["usr/bin/*", "**/*.so*", "opt/tools"]), Judgement::Right);
    let Judgement::Foreign(foreign) = on("linux/amd64", &[]) else { panic!() };
    assert_eq!((foreign.layer, foreign.path.as_str()), (2, "app/hello"));
}

#[test]
fn where_not_all_paths_are_kept_exceptions_leave_it_open() {
    let paths: Vec<String> = (0..MOST_PATHS + 7).map(|i| format!("opt/{i}")).collect();
    let whole = verdict(&paths.iter().map(|path| ("amd64", path.as_str())).collect::<Vec<_>>());
    let kept = whole.clone().shortened();
    assert_eq!(
        (kept.found[0].paths.len(), kept.found[0].count),
        (MOST_PATHS, u64::try_from(MOST_PATHS).unwrap() + 7)
    );
    let diff_id = Digest::of(b"");
    let on = |verdict: &LayerVerdict, patterns: &[&str]| {
        judge([Layer { diff_id: &diff_id, verdict: Some(verdict) }], &platform("linux/arm64"), &set(patterns))
    };
    assert_eq!(on(&kept, &["opt"]), Judgement::Unsure(vec![diff_id]));
    assert_eq!(on(&whole, &["opt"]), Judgement::Right);
    let Judgement::Foreign(foreign) = on(&kept, &[]) else { panic!() };
    assert_eq!(foreign.more, u64::try_from(MOST_PATHS).unwrap() + 6);
    // It goes through JSON as it is.
    let text = serde_json::to_string(&kept).unwrap();
    assert_eq!(serde_json::from_str::<LayerVerdict>(&text).unwrap(), kept);
}

#[test]
fn exceptions_are_patterns_and_not_too_many() {
    let of = |except: &[&str]| {
        Verify::Elf { except: except.iter().map(|text| (*text).to_owned()).collect() }.excepted()
    };
    assert!(of(&["[a"]).unwrap_err().to_string().contains("[a"));
    assert!(of(&vec!["a"; 51]).unwrap_err().to_string().contains("50"));
    assert!(of(&[&"a".repeat(129)]).unwrap_err().to_string().contains("128 bytes"));
    assert!(of(&[]).unwrap().unwrap().is_empty());
    assert!(Verify::Off.excepted().unwrap().is_none());
}
