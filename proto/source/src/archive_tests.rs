//! Archives on standard input, made by GNU tar: each gives what its folder gives, or an error.

use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};

use farm_types::Digest;
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, mknodat, utimensat};

use super::stdin::{self, Came};
use super::tests::{Bed, around, paths};
use super::*;

/// Every way in which GNU tar writes a sparse file.
const SPARSE: [&[&str]; 5] = [
    &["--format=oldgnu", "-S"],
    &["--format=gnu", "-S"],
    &["--format=posix", "-S", "--sparse-version=0.0"],
    &["--format=posix", "-S", "--sparse-version=0.1"],
    &["--format=posix", "-S", "--sparse-version=1.0"],
];

/// What tar makes of the folder.
fn tar(folder: &Path, flags: &[&str]) -> Vec<u8> {
    let out = Command::new("tar").arg("-C").arg(folder).args(flags).args(["-c", "."]).output().unwrap();
    assert!(out.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// An archive's source, and the folder that holds its files.
#[derive(Debug)]
struct Held {
    source: Source,
    folder: tempfile::TempDir,
}

impl std::ops::Deref for Held {
    type Target = Source;

    fn deref(&self) -> &Source {
        &self.source
    }
}

fn read_archive(bytes: &[u8]) -> Result<Held, ContextError> {
    in_archive(bytes, None)
}

fn in_archive(bytes: &[u8], file: Option<&str>) -> Result<Held, ContextError> {
    let Came::Context(unpacked) = stdin::read(bytes)? else { panic!("this is a Dockerfile") };
    let named = BTreeMap::new();
    let file = file.map(Path::new);
    let wanted = Wanted { file, is_own_file: false, named: &named, links: Links::default() };
    let (location, folder) = Location::in_archive(unpacked, &wanted)?;
    Ok(Held { source: read(&location, &around(&Disk, None))?, folder })
}

fn error(bytes: &[u8]) -> String {
    read_archive(bytes).unwrap_err().to_string()
}

/// All entries with mode and time.
fn told(source: &Source) -> Vec<(String, u32, i64)> {
    fn walk(source: &Source, tree: Digest, above: &str, out: &mut Vec<(String, u32, i64)>) {
        let Some(Object::Folder { bytes, .. }) = source.objects.get(&tree) else { panic!("{tree}") };
        for entry in Folder::decode(bytes).unwrap().entries {
            let path = format!("{above}{}", entry.name);
            let kind = match &entry.node {
                Node::File { digest, size } => format!(" {size} {}", &digest.hex()[..8]),
                Node::Folder { .. } => "/".to_owned(),
                Node::Symlink { target } => format!(" -> {target}"),
                Node::Fifo => " |".to_owned(),
            };
            out.push((format!("{path}{kind}"), entry.mode, entry.mtime));
            if let Node::Folder { tree, .. } = entry.node {
                walk(source, tree, &format!("{path}/"), out);
            }
        }
    }
    let mut out = Vec::new();
    walk(source, source.roots[ROOT_CONTEXT].0, "", &mut out);
    out
}

/// The archive says what its folder says.
fn same(bed: &Bed, flags: &[&str]) {
    let (of_folder, of_archive) =
        (bed.read("", None).unwrap(), read_archive(&tar(bed.dir.path(), flags)).unwrap());
    assert_eq!(told(&of_archive), told(&of_folder), "{flags:?}");
    assert_eq!(of_archive.names(), of_folder.names(), "{flags:?}");
    assert_eq!(of_archive.warnings, of_folder.warnings, "{flags:?}");
}

fn set_time(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Sets all times, the deepest first.
fn set_times(folder: &Path, seconds: i64) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.symlink_metadata().unwrap().is_dir() {
            set_times(&path, seconds);
        }
        set_time(&path, seconds, 0);
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o620), 0).unwrap();
}

/// A tree with one of each.
fn bed() -> Bed {
    let bed = Bed::new(&[("Dockerfile", "FROM x\n"), ("d/e/f", "1"), ("sticky/x", "2"), ("closed/y", "3")]);
    fs::create_dir(bed.path("empty")).unwrap();
    fs::write(bed.path("setuid"), "#!/bin/sh\n").unwrap();
    set_mode(&bed.path("setuid"), 0o6755);
    set_mode(&bed.path("sticky"), 0o1777);
    symlink("d/e/f", bed.path("link")).unwrap();
    symlink("../../../etc/passwd", bed.path("d/out")).unwrap();
    fs::hard_link(bed.path("d/e/f"), bed.path("hard")).unwrap();
    set_times(bed.dir.path(), 1_000_000_000);
    set_time(&bed.path("d"), 1_100_000_000, 0);
    bed
}

#[test]
fn each_format_keeps_what_a_folder_keeps() {
    let bed = bed();
    for format in ["v7", "oldgnu", "gnu", "ustar", "posix"] {
        same(&bed, &[&format!("--format={format}")]);
    }
    fifo(&bed.path("pipe"));
    set_time(&bed.path("pipe"), 5, 0);
    let long = format!("{}/{}", "l".repeat(150), "größe\n木".repeat(12));
    fs::create_dir(bed.path(long.split('/').next().unwrap())).unwrap();
    fs::write(bed.path(&long), "long").unwrap();
    symlink(&long, bed.path("to-long")).unwrap();
    fs::hard_link(bed.path(&long), bed.path("long-hard")).unwrap();
    set_times(bed.dir.path(), 0x7fff_ffff + 5);
    set_time(&bed.path("d/e/f"), -100_000, 0);
    for format in ["oldgnu", "gnu", "posix"] {
        same(&bed, &[&format!("--format={format}")]);
    }
    set_time(&bed.path("d/e"), 1_600_000_000, 123_456_789);
    set_time(&bed.path("link"), -7, 250_000_000);
    same(&bed, &["--format=posix"]);
    same(&bed, &["--format=posix", "-V", "a label"]);
    same(&bed, &["--format=posix", "-z"]);
    // What an incremental archive is made of: folders with lists of what is in them.
    let state = tempfile::tempdir().unwrap();
    for format in ["oldgnu", "gnu", "posix"] {
        let list = format!("--listed-incremental={}", state.path().join(format).display());
        same(&self::bed(), &[&format!("--format={format}"), &list]);
    }
}

#[test]
fn what_is_compressed_as_docker_takes_it_is_read() {
    let bed = bed();
    let plain = tar(bed.dir.path(), &[]);
    for (program, more) in [("gzip", &b""[..]), ("bzip2", b""), ("xz", b"")] {
        let mut child =
            Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut stdin, bytes) = (child.stdin.take().unwrap(), plain.clone());
        let writing = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
        let out = child.wait_with_output().unwrap().stdout;
        writing.join().unwrap();
        assert_eq!(
            read_archive(&[&out[..], more].concat()).unwrap().names(),
            bed.read("", None).unwrap().names()
        );
        assert!(error(&out[..out.len() - 9]).contains("archive on standard input"), "{program}");
        let mut text = Command::new("sh");
        let text = text.args(["-c", &format!("echo FROM scratch | {program} -c")]).output().unwrap().stdout;
        assert!(error(&text).contains("is no archive"), "{program}");
    }
}

#[test]
fn files_with_holes_are_whole_in_every_form() {
    let bed = Bed::new(&[("Dockerfile", "FROM x\n")]);
    let make = |name: &str, islands: &[u64], length: u64| {
        let file = fs::File::create(bed.path(name)).unwrap();
        for island in islands {
            file.write_all_at(&[b'x'; 5000], *island).unwrap();
        }
        file.set_len(length).unwrap();
    };
    make("one", &[1 << 20], (1 << 20) + 777_777);
    make("all-hole", &[], 3 << 20);
    // More than one block of extents holds.
    let many: Vec<u64> = (0..60).map(|n| n * 65536 + 4096).collect();
    make("many", &many, 60 * 65536);
    make("full", &[0], 5000);
    make(&"long".repeat(40), &[8 << 20], 9 << 20);
    set_times(bed.dir.path(), 1_000_000_000);
    for flags in SPARSE {
        let plain = tar(bed.dir.path(), &flags[..1]);
        assert!(tar(bed.dir.path(), flags).len() < plain.len() / 4, "{flags:?} has no holes");
        same(&bed, flags);
        same(&bed, &[flags, &["-z"]].concat());
    }
}

#[test]
fn closed_modes_are_kept_and_in_nobody_s_way() {
    let bed = bed();
    let closed = tar(bed.dir.path(), &["--mode=0"]);
    let source = read_archive(&closed).unwrap();
    let modes: Vec<_> =
        told(&source).into_iter().filter(|(name, ..)| !name.contains("->")).map(|e| e.1).collect();
    assert!(modes.len() > 8 && modes.iter().all(|mode| *mode == 0), "{modes:?}");
    assert_eq!(paths(&source, ROOT_DOCKERFILE), ["Dockerfile"]);
}

#[test]
fn the_last_of_one_name_counts_and_kinds_replace_each_other() {
    let bed = Bed::new(&[("Dockerfile", "FROM x\n"), ("a/b", "1"), ("b", "2")]);
    let archive = bed.path("x.tar");
    let add = |names: &[&str]| {
        let mut command = Command::new("tar");
        let done =
            command.arg("-C").arg(bed.dir.path()).arg("-rf").arg(&archive).args(names).status().unwrap();
        assert!(done.success());
    };
    let remove = |name: &str| fs::remove_file(bed.path(name)).unwrap();
    add(&["Dockerfile", "a", "b"]);
    // A folder becomes a file, a file a folder, a link a file.
    fs::remove_dir_all(bed.path("a")).unwrap();
    fs::write(bed.path("a"), "now a file").unwrap();
    remove("b");
    fs::create_dir(bed.path("b")).unwrap();
    symlink("/etc/passwd", bed.path("c")).unwrap();
    add(&["a", "b", "c"]);
    remove("c");
    fs::write(bed.path("c"), "no link").unwrap();
    fs::write(bed.path("Dockerfile"), "FROM y\n").unwrap();
    add(&["c", "Dockerfile"]);
    let source = read_archive(&fs::read(&archive).unwrap()).unwrap();
    assert_eq!(paths(&source, ROOT_CONTEXT), ["Dockerfile", "a", "b/", "c"]);
    let text = |name: &str| fs::read_to_string(source.folder.path().join(name)).unwrap();
    assert_eq!((text("c").as_str(), text("Dockerfile").as_str()), ("no link", "FROM y\n"));
}

#[test]
fn names_that_lead_out_are_refused_and_others_stay_inside() {
    let bed = Bed::new(&[("Dockerfile", "FROM x\n"), ("x", "1")]);
    let renamed = |to: &str| tar(bed.dir.path(), &["-P", &format!("--transform=s,^./x$,{to},")]);
    for out in ["../evil", "a/../../evil", "./../evil"] {
        let text = error(&renamed(out));
        assert!(text.contains(out) && text.contains("leads out of the archive"), "{text}");
    }
    for (name, stays) in [("/abs/evil", "abs/evil"), ("/../evil", "evil"), ("a/../b/./c", "b/c")] {
        let found = paths(&read_archive(&renamed(name)).unwrap(), ROOT_CONTEXT);
        assert!(found.contains(&stays.to_owned()), "{name}: {found:?}");
    }
}

#[test]
fn entries_go_through_links_but_never_out() {
    let bed = Bed::new(&[("Dockerfile", "FROM x\n"), ("x", "1")]);
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(bed.path("d")).unwrap();
    symlink("/d", bed.path("in")).unwrap();
    symlink(outside.path(), bed.path("out")).unwrap();
    let through = |link: &str, flags: &[&str]| {
        let mut command = Command::new("tar");
        let transform = format!("--transform=s,^x$,{link}/x,");
        command.arg("-C").arg(bed.dir.path()).args(flags).args([
            "-c",
            &transform,
            "Dockerfile",
            "d",
            link,
            "x",
        ]);
        command.output().unwrap().stdout
    };
    let found = paths(&read_archive(&through("in", &[])).unwrap(), ROOT_CONTEXT);
    assert_eq!(found, ["Dockerfile", "d/", "d/x", "in -> /d"]);
    let text = error(&through("out", &[]));
    assert!(text.contains("out/x") && text.contains("leads to none in the archive"), "{text}");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn hard_links_lead_to_what_came_before() {
    let bed = Bed::new(&[("Dockerfile", "FROM x\n"), ("x", "1")]);
    fs::hard_link(bed.path("x"), bed.path("y")).unwrap();
    let archive = |names: &[&str], transform: &str| {
        let mut command = Command::new("tar");
        command.arg("-C").arg(bed.dir.path()).args(["-P", "-c", transform, "Dockerfile"]).args(names);
        command.output().unwrap().stdout
    };
    let good = read_archive(&archive(&["x", "y"], "--transform=s,^z,z,")).unwrap();
    assert_eq!(paths(&good, ROOT_CONTEXT), ["Dockerfile", "x", "y"]);
    // The `h` flag leaves the names of entries alone.
    for target in ["../../etc/passwd", "/etc/passwd", "nothing"] {
        let text = error(&archive(&["x", "y"], &format!("--transform=flags=h;s,^x$,{target},")));
        assert!(text.contains("\"y\"") || text.contains("leads out"), "{text}");
        assert!(!text.contains("root:"), "{text}");
    }
}

#[test]
fn a_dockerfile_or_an_ignore_file_that_leads_out_is_no_such_file() {
    let secret = Bed::new(&[("Dockerfile", "FROM secret\n"), ("ignore", "a\n")]);
    let outside = |name: &str| secret.path(name).to_str().unwrap().to_owned();
    let deep = format!("{}{}", "../".repeat(20), outside("Dockerfile"));
    for target in [outside("Dockerfile"), deep, "/etc/passwd".to_owned(), "Dockerfile".to_owned()] {
        let bed = Bed::new(&[("a", "1")]);
        symlink(&target, bed.path("Dockerfile")).unwrap();
        let text = error(&tar(bed.dir.path(), &[]));
        assert!(text.contains("no such file in the archive") && !text.contains("FROM secret"), "{text}");
    }
    let bed = Bed::new(&[("Dockerfile", "FROM x\n"), ("a", "1")]);
    symlink(outside("ignore"), bed.path(".dockerignore")).unwrap();
    let source = read_archive(&tar(bed.dir.path(), &[])).unwrap();
    assert!(paths(&source, ROOT_CONTEXT).contains(&"a".to_owned()));
    assert!(source.warnings[0].contains(".dockerignore is a link to"), "{:?}", source.warnings);
    // Within the archive all are followed, also from its root.
    let bed = Bed::new(&[("docker/real", "FROM x\n"), ("docker/ignore", "a\n"), ("a", "1"), ("b", "1")]);
    symlink("/docker/real", bed.path("Dockerfile")).unwrap();
    symlink("docker/../docker/ignore", bed.path(".dockerignore")).unwrap();
    let archive = tar(bed.dir.path(), &[]);
    for file in [None, Some("/Dockerfile"), Some("docker/real"), Some("../../docker/real")] {
        let source = in_archive(&archive, file).unwrap();
        assert!(!paths(&source, ROOT_CONTEXT).contains(&"a".to_owned()));
        assert!(source.warnings.is_empty());
    }
    let text = in_archive(&archive, Some("/etc/passwd")).unwrap_err().to_string();
    assert!(text.contains("there is no Dockerfile at etc/passwd in the archive"), "{text}");
}

#[test]
fn what_is_cut_off_damaged_or_not_alone_is_an_error() {
    let bed = bed();
    let whole = tar(bed.dir.path(), &["-b1"]);
    // Wherever it ends, but for the last of the zeros.
    for length in (513..whole.len() - 512).step_by(97).chain([1024, 2048, whole.len() - 1024]) {
        let text = error(&whole[..length]);
        assert!(text.contains("cut off"), "{length}: {text}");
    }
    assert!(error(&[&whole[..], b"garbage"].concat()).contains("behind its end"));
    assert!(error(&[&whole[..], &whole].concat()).contains("behind its end"));
    assert!(read_archive(&[&whole[..], &[0; 9000]].concat()).is_ok());
    assert!(error(&[0; 1024]).contains("there is no Dockerfile"));
    let mut broken = whole.clone();
    let second = broken.chunks(512).position(|block| block.starts_with(b"./Dockerfile")).unwrap() * 512;
    broken[second] ^= 1;
    assert!(error(&broken).contains("is damaged"));
}

#[test]
fn what_no_folder_keeps_is_told() {
    let bed = Bed::new(&[("Dockerfile", "FROM x\n")]);
    let (archive, null) = (bed.path("x.tar"), "/dev/null");
    let mut command = Command::new("tar");
    let made =
        command.arg("-cf").arg(&archive).arg("-C").arg(bed.dir.path()).args(["Dockerfile", "-P", null]);
    assert!(made.status().unwrap().success());
    let source = read_archive(&fs::read(&archive).unwrap()).unwrap();
    assert_eq!(source.warnings, ["\"dev/null\" is a device and is left out"]);
    let mut command = Command::new("tar");
    let records = "--pax-option=SCHILY.xattr.user.a:=b";
    let made = command.arg("-cf").arg(&archive).arg("-C").arg(bed.dir.path()).args([
        "--format=posix",
        records,
        "Dockerfile",
    ]);
    assert!(made.status().unwrap().success());
    let source = read_archive(&fs::read(&archive).unwrap()).unwrap();
    assert!(source.warnings[0].starts_with("extended attributes"), "{:?}", source.warnings);
}

#[test]
fn names_that_are_not_utf8_matter_only_where_they_are_read() {
    let bed = Bed::new(&[("Dockerfile", "FROM x\n"), (".dockerignore", "odd\n"), ("odd/a", "1")]);
    let odd = bed.path("odd").join(std::ffi::OsStr::from_bytes(b"\xff"));
    fs::write(odd, "1").unwrap();
    let archive = tar(bed.dir.path(), &["--exclude=.dockerignore"]);
    assert!(error(&archive).contains("isn't valid UTF-8"));
    set_times(bed.dir.path(), 1);
    same(&bed, &[]);
}

#[test]
fn other_text_is_a_dockerfile_and_other_things_are_told_apart() {
    let Came::Dockerfile(folder) = stdin::read(&b"FROM scratch # caf\xe9\n"[..]).unwrap() else { panic!() };
    assert_eq!(fs::read(folder.path().join("Dockerfile")).unwrap(), b"FROM scratch # caf\xe9\n");
    for (bytes, said) in [
        (&b""[..], "is empty"),
        (b"\x28\xb5\x2f\xfd1234", "zstd -d"),
        (b"PK\x03\x04", "zip archive"),
        (b"FROM x\0", "NUL bytes"),
    ] {
        assert!(error(bytes).contains(said), "{said}");
    }
    assert!(error(&vec![b'x'; (16 << 20) + 1]).contains("neither an archive nor a Dockerfile"));
}

/// What a random tree is made of.
#[derive(Debug, Clone)]
enum Made {
    File(Vec<u8>),
    /// Islands in a file of holes, by their place in units of 4096 bytes.
    Sparse(Vec<u64>),
    Folder,
    Link(String),
    Hard(usize),
    Fifo,
}

fn made() -> impl Strategy<Value = Made> {
    prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..1600).prop_map(Made::File),
        1 => prop::collection::vec(0_u64..200, 0..30).prop_map(Made::Sparse),
        3 => Just(Made::Folder),
        1 => "[a-z./]{1,9}|[a-zé]{110,120}".prop_map(Made::Link),
        1 => (0_usize..20).prop_map(Made::Hard),
        1 => Just(Made::Fifo),
    ]
}

/// Kind, the folder that it lies in, name, mode, seconds and nanoseconds.
type Piece = (Made, usize, String, u32, i64, i64);

fn piece() -> impl Strategy<Value = Piece> {
    let name = prop_oneof![3 => "[a-zA-Z0-9]{1,3}", 1 => "[a-z é\\n\\\\*]{1,40}", 1 => "[xé]{60,120}"];
    (made(), 0_usize..20, name, 0_u32..0o10000, -2_000_000_000_i64..8_000_000_000, 0_i64..1_000_000_000)
}

/// A header for all entries that says so many bytes of a key.
fn global(key: &str, length: usize) -> Vec<u8> {
    let value = "v".repeat(length);
    let rest = key.len() + length + 3;
    let total = (rest..).find(|total| rest + total.to_string().len() == *total).unwrap();
    let record = format!("{total} {key}={value}\n");
    let mut header = ::tar::Header::new_ustar();
    header.set_entry_type(::tar::EntryType::XGlobalHeader);
    header.set_size(u64::try_from(record.len()).unwrap());
    header.set_cksum();
    let mut bytes = [header.as_bytes().as_slice(), record.as_bytes()].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[test]
fn what_is_said_of_all_entries_has_an_end() {
    let bed = Bed::new(&[("Dockerfile", "FROM x\n")]);
    let rest = tar(bed.dir.path(), &["--format=posix"]);
    let half = 600 << 10;
    let same = [global("comment", half), global("comment", half), rest.clone()].concat();
    assert_eq!(told(&read_archive(&same).unwrap()).len(), 1);
    let other = [global("comment", half), global("other", half), rest].concat();
    assert!(error(&other).contains("longer than 1 MiB"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_tree_is_the_same_as_an_archive_in_any_format_and_as_a_folder(pieces in prop::collection::vec(piece(), 1..14)) {
        let formats: [(&[&str], bool); 4] = [
            (&["--format=v7"], true), (&["--format=ustar"], true), (&["--format=gnu"], false), (&["--format=posix"], false)
        ];
        for (flags, is_old) in formats.into_iter().chain(SPARSE.map(|flags| (flags, false))) {
            let bed = Bed::new(&[("Dockerfile", "FROM x\n")]);
            let nanos = flags[0] == "--format=posix";
            let mut folders = vec![bed.dir.path().to_owned()];
            let mut files: Vec<PathBuf> = Vec::new();
            let mut all = vec![(bed.path("Dockerfile"), 0o644, 1, 0)];
            for (made, folder, name, mode, seconds, ns) in &pieces {
                // The old formats have short names, no fifos, no time before 1970, and 33 bits of it.
                if is_old && (name.len() > 30 || matches!(made, Made::Fifo)) {
                    continue;
                }
                let path = folders[folder % folders.len()].join(name.trim());
                if name.trim().is_empty() || path.symlink_metadata().is_ok() || (is_old && path.as_os_str().len() > 90) {
                    continue;
                }
                match made {
                    Made::File(bytes) => fs::write(&path, bytes).unwrap(),
                    Made::Sparse(islands) => {
                        let file = fs::File::create(&path).unwrap();
                        for island in islands {
                            file.write_all_at(&vec![b'x'; 4096 * usize::try_from(island % 3).unwrap() + 100], island * 4096).unwrap();
                        }
                        file.set_len(file.metadata().unwrap().len() + 12345).unwrap();
                    }
                    Made::Folder => {
                        fs::create_dir(&path).unwrap();
                        folders.push(path.clone());
                    }
                    Made::Link(target) => symlink(if is_old { "short" } else { target }, &path).unwrap(),
                    Made::Hard(of) => match files.is_empty() {
                        true => continue,
                        false => fs::hard_link(&files[of % files.len()], &path).unwrap(),
                    },
                    Made::Fifo => fifo(&path),
                }
                if matches!(made, Made::File(_) | Made::Sparse(_)) {
                    files.push(path.clone());
                }
                // Else an ordinary user could read neither.
                let readable = if matches!(made, Made::Folder) { 0o700 } else { 0o600 };
                let seconds = if is_old { seconds.abs() } else { *seconds };
                all.push((path, mode | readable, seconds, if nanos { *ns } else { 0 }));
            }
            for (path, mode, seconds, ns) in all.iter().rev() {
                if !path.is_symlink() {
                    set_mode(path, *mode);
                }
                set_time(path, *seconds, *ns);
            }
            same(&bed, flags);
        }
    }
}
