use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use tar::Header;

use super::super::archive::Writer;
use super::*;

struct Made {
    kind: EntryType,
    path: &'static str,
    link: &'static str,
    text: &'static str,
    mode: u32,
}

fn file(path: &'static str, text: &'static str) -> Made {
    Made { kind: EntryType::Regular, path, link: "", text, mode: 0o644 }
}

fn folder(path: &'static str) -> Made {
    Made { kind: EntryType::Directory, path, link: "", text: "", mode: 0o755 }
}

fn link(kind: EntryType, path: &'static str, link: &'static str) -> Made {
    Made { kind, path, link, text: "", mode: 0o777 }
}

fn archive(entries: &[Made]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for made in entries {
        let mut header = Header::new_ustar();
        header.set_entry_type(made.kind);
        header.set_mode(made.mode);
        let size = u64::try_from(made.text.len()).unwrap();
        header.set_size(size);
        let records = vec![("mtime".to_owned(), b"981173106.789000001".to_vec())];
        let entry = Entry { header, records, path: made.path.into(), link: made.link.into(), size };
        writer.entry(&entry, &mut made.text.as_bytes()).unwrap();
    }
    writer.end().unwrap()
}

fn unpack(dest: &Path, entries: &[Made]) -> io::Result<Unpacked> {
    let mut unpacking = Unpacking::open(dest)?;
    unpacking.take(&archive(entries)[..], None, "linux/amd64")?;
    unpacking.finish()
}

/// A folder `dest` to be written to, beside a file `precious` in a folder `other`.
struct Scene {
    all: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let all = tempfile::tempdir().unwrap();
        fs::create_dir_all(all.path().join("other")).unwrap();
        fs::create_dir_all(all.path().join("dest")).unwrap();
        fs::write(all.path().join("other/precious"), "old").unwrap();
        Self { all }
    }

    fn dest(&self) -> PathBuf {
        self.all.path().join("dest")
    }

    /// Nothing outside was touched.
    fn is_safe(&self) -> bool {
        let other = self.all.path().join("other");
        let names = |folder: &Path| fs::read_dir(folder).unwrap().count();
        fs::read(other.join("precious")).unwrap() == b"old"
            && fs::metadata(other.join("precious")).unwrap().mode() & 0o777 != 0o777
            && (names(&other), names(self.all.path())) == (1, 2)
    }

    fn other(&self) -> &'static str {
        Box::leak(self.all.path().join("other").display().to_string().into_boxed_str())
    }
}

#[test]
fn files_come_with_modes_times_and_links() {
    let scene = Scene::new();
    let dest = scene.dest().join("new/out");
    let done = unpack(
        &dest,
        &[
            Made { mode: 0o1777, ..folder("d/") },
            Made { mode: 0o4755, ..file("d/f", "text") },
            link(EntryType::Link, "h", "d/f"),
            link(EntryType::Symlink, "l", "/etc/passwd"),
            Made { kind: EntryType::Fifo, ..file("p", "") },
            Made { mode: 0o555, ..folder("ro/") },
            file("ro/x", "y"),
            Made { kind: EntryType::Char, ..file("null", "") },
        ],
    )
    .unwrap();
    let at = |name: &str| fs::symlink_metadata(dest.join(name)).unwrap();
    assert_eq!(at("d/f").mode() & 0o7777, 0o4755);
    assert_eq!((at("d/f").mtime(), at("d/f").mtime_nsec()), (981_173_106, 789_000_001));
    assert_eq!(at("d").mode() & 0o7777, 0o1777);
    assert_eq!(at("d").mtime(), 981_173_106);
    assert_eq!(at("h").ino(), at("d/f").ino());
    assert_eq!(
        (at("l").mtime(), fs::read_link(dest.join("l")).unwrap()),
        (981_173_106, "/etc/passwd".into())
    );
    assert_eq!(at("ro").mode() & 0o777, 0o555);
    assert!(dest.join("null").symlink_metadata().is_err());
    assert_eq!(done.warnings, ["left out null: it is a device"]);
    assert_eq!((done.entries, done.bytes), (7, 5));
    assert_eq!(fs::metadata(&dest).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_dir(&dest).unwrap().count(), 5);
    // Again over what is there.
    unpack(&dest, &[folder("ro/"), file("ro/x", "z")]).unwrap();
    assert_eq!(fs::read(dest.join("ro/x")).unwrap(), b"z");
}

#[test]
fn what_is_there_is_replaced_by_name_and_the_rest_stays() {
    let scene = Scene::new();
    let dest = scene.dest();
    fs::write(dest.join("stays"), "s").unwrap();
    fs::create_dir_all(dest.join("becomes-a-file/deep")).unwrap();
    fs::write(dest.join("becomes-a-folder"), "f").unwrap();
    symlink(scene.other(), dest.join("was-a-link")).unwrap();
    symlink(format!("{}/precious", scene.other()), dest.join("file-link")).unwrap();
    fs::hard_link(format!("{}/precious", scene.other()), dest.join("second-name")).unwrap();
    unpack(
        &dest,
        &[
            file("becomes-a-file", "x"),
            folder("becomes-a-folder/"),
            file("becomes-a-folder/x", "y"),
            folder("was-a-link/"),
            file("was-a-link/precious", "new"),
            Made { mode: 0o777, ..file("file-link", "new") },
            Made { mode: 0o777, ..file("second-name", "new") },
        ],
    )
    .unwrap();
    assert!(scene.is_safe());
    assert_eq!(fs::read(dest.join("stays")).unwrap(), b"s");
    assert_eq!(fs::read(dest.join("becomes-a-file")).unwrap(), b"x");
    assert_eq!(fs::read(dest.join("becomes-a-folder/x")).unwrap(), b"y");
    assert_eq!(fs::read(dest.join("was-a-link/precious")).unwrap(), b"new");
    assert_eq!(fs::read(dest.join("file-link")).unwrap(), b"new");
}

#[test]
fn a_hostile_archive_reaches_nothing_outside() {
    let scene = Scene::new();
    let other = scene.other();
    let precious: &'static str = Box::leak(format!("{other}/precious").into_boxed_str());
    let hostile: Vec<Vec<Made>> = vec![
        vec![file("../other/precious", "new")],
        vec![file("a/../../other/precious", "new")],
        vec![file(precious, "new")],
        vec![link(EntryType::Symlink, "out", other), file("out/precious", "new")],
        vec![link(EntryType::Symlink, "out", "../other"), file("out/new", "new")],
        vec![link(EntryType::Symlink, "out", other), folder("out/sub/")],
        vec![folder("d/"), link(EntryType::Symlink, "d", other), file("d/precious", "new")],
        vec![folder("d/"), file("d/x", ""), link(EntryType::Symlink, "d", other), file("d/precious", "new")],
        vec![
            folder("d/"),
            link(EntryType::Symlink, "d/out", other),
            link(EntryType::Link, "h", "d/out/precious"),
        ],
        vec![link(EntryType::Link, "h", "../other/precious"), Made { mode: 0o777, ..file("h", "new") }],
        vec![link(EntryType::Link, "h", precious)],
        vec![
            link(EntryType::Symlink, "out", precious),
            link(EntryType::Link, "h", "out"),
            file("h/x", "new"),
        ],
        vec![link(EntryType::Link, "h", "")],
        vec![file("d", ""), file("d/x", "new")],
    ];
    for (nth, entries) in hostile.iter().enumerate() {
        assert!(unpack(&scene.dest(), entries).is_err(), "{nth}");
        assert!(scene.is_safe(), "{nth}");
    }
    // These are taken, and change nothing outside.
    for entries in [
        vec![link(EntryType::Symlink, "out", other), Made { mode: 0o777, ..folder("out/") }],
        vec![link(EntryType::Symlink, "f", precious), Made { mode: 0o777, ..file("f", "new") }],
    ] {
        unpack(&scene.dest(), &entries).unwrap();
        assert!(scene.is_safe());
    }
}

#[test]
fn platforms_have_sub_folders_or_no_file_in_common() {
    let scene = Scene::new();
    let mut unpacking = Unpacking::open(&scene.dest()).unwrap();
    for (below, platform) in [("linux_amd64", "linux/amd64"), ("linux_arm64", "linux/arm64")] {
        let entries =
            [file("a", platform), link(EntryType::Link, "b", "a"), link(EntryType::Symlink, "l", "/a")];
        unpacking.take(&archive(&entries)[..], Some(below), platform).unwrap();
    }
    unpacking.finish().unwrap();
    assert_eq!(fs::read(scene.dest().join("linux_arm64/b")).unwrap(), b"linux/arm64");
    assert_eq!(fs::read_link(scene.dest().join("linux_arm64/l")).unwrap(), PathBuf::from("/linux_arm64/a"));
    let metadata = fs::metadata(scene.dest().join("linux_amd64")).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.mtime()), (0o755, 0));

    let mut unpacking = Unpacking::open(&scene.dest()).unwrap().shared();
    unpacking.take(&archive(&[folder("d/"), file("d/a", "1")])[..], None, "linux/amd64").unwrap();
    unpacking.take(&archive(&[folder("d/"), file("d/b", "1")])[..], None, "linux/arm64").unwrap();
    let twice = unpacking.take(&archive(&[file("d/a", "2")])[..], None, "linux/arm64");
    assert!(twice.unwrap_err().to_string().contains("linux/amd64"));
}

/// As which files in a folder of mode 0555 can't be made. Root has a thread of its own for it: capabilities are a thread's.
fn as_anybody(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let run = || {
            rustix::thread::set_capabilities(
                None,
                rustix::thread::CapabilitySets {
                    effective: rustix::thread::CapabilitySet::empty(),
                    permitted: rustix::thread::CapabilitySet::empty(),
                    inheritable: rustix::thread::CapabilitySet::empty(),
                },
            )
            .unwrap();
            test();
        };
        scope.spawn(run).join().unwrap();
    });
}

#[test]
fn folders_that_nobody_may_write_to_are_filled_again_and_are_then_as_before() {
    let scene = Scene::new();
    let dest = scene.dest();
    let mode = |name: &str| fs::metadata(dest.join(name)).unwrap().mode() & 0o7777;
    as_anybody(|| {
        let read_only = |path| Made { mode: 0o555, ..folder(path) };
        let entries = [read_only("ro/"), read_only("ro/sub/"), file("ro/sub/x", "1"), file("ro/y", "1")];
        unpack(&dest, &entries).unwrap();
        unpack(&dest, &entries).unwrap();
        assert_eq!((mode("ro"), mode("ro/sub")), (0o555, 0o555));
        // Also one that the output has no entry of, and one that can't be read.
        fs::set_permissions(dest.join("ro"), fs::Permissions::from_mode(0o050)).unwrap();
        unpack(&dest, &[file("ro/sub/x", "2")]).unwrap();
        assert_eq!(mode("ro"), 0o050);
        fs::set_permissions(dest.join("ro"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!((mode("ro/sub"), fs::read(dest.join("ro/sub/x")).unwrap()), (0o555, b"2".to_vec()));
        // Nor is anything left open when it goes wrong.
        let broken = [read_only("ro/"), file("ro/z", "3"), file("ro/../../z", "")];
        assert!(unpack(&dest, &broken).is_err());
        assert_eq!(mode("ro"), 0o555);
        fs::set_permissions(dest.join("ro"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(dest.join("ro/sub"), fs::Permissions::from_mode(0o755)).unwrap();
    });
}

#[test]
fn folders_have_their_attributes() {
    let scene = Scene::new();
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Directory);
    header.set_mode(0o555);
    header.set_mtime(5);
    header.set_size(0);
    let records = vec![("FARM.xattr.user.x".to_owned(), b"CjEgYQo=".to_vec())];
    let entry = Entry { header, records, path: b"d/".to_vec(), link: Vec::new(), size: 0 };
    let mut writer = Writer::new(Vec::new());
    writer.entry(&entry, &mut &b""[..]).unwrap();
    let mut unpacking = Unpacking::open(&scene.dest()).unwrap();
    unpacking.take(&writer.end().unwrap()[..], None, "").unwrap();
    unpacking.finish().unwrap();
    let has = |path: &Path| {
        let mut value = [0; 64];
        rustix::fs::getxattr(path, "user.x", &mut value[..]).map(|length| value[..length].to_vec())
    };
    // Where the file system takes none there are none.
    let probe = scene.dest().join("probe");
    fs::write(&probe, "").unwrap();
    let takes = rustix::fs::setxattr(&probe, "user.x", b"x", XattrFlags::empty()).is_ok();
    let found = has(&scene.dest().join("d"));
    assert_eq!(found.ok(), takes.then(|| b"\n1 a\n".to_vec()));
    let at = fs::metadata(scene.dest().join("d")).unwrap();
    assert_eq!((at.mode() & 0o777, at.mtime()), (0o555, 5));
}
