//! Archives of whoever: what is more than it may be, and what leads where it may not.

use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

use super::*;
use crate::unpack::GoesOn;

#[derive(Debug)]
struct For(bool);

impl GoesOn for For {
    fn goes_on(&self) -> bool {
        self.0
    }
}

const SMALL: Limits<'static> = Limits { bytes: 10_000, entries: 5, goes_on: &For(true) };

fn header(kind: EntryType, name: &str, size: u64) -> Header {
    let mut header = Header::new_gnu();
    // The crate itself refuses names that lead out.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_mtime(1_700_000_000);
    header.set_size(size);
    header.set_cksum();
    header
}

fn link(kind: EntryType, name: &str, target: &str) -> Header {
    let mut header = header(kind, name, 0);
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_cksum();
    header
}

/// An archive of these entries, each with so many zeros.
fn archive(entries: &[Header]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for header in entries {
        let zeros = vec![0; usize::try_from(header.size().unwrap()).unwrap()];
        builder.append(header, &zeros[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn unpacked(bytes: &[u8], limits: Limits<'_>) -> Result<Unpacked, NotUnpacked> {
    let place = tempfile::tempdir().unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    io::Seek::rewind(&mut file).unwrap();
    let outside = place.path().join("outside");
    std::fs::write(&outside, "mine").unwrap();
    let inside = place.path().join("in");
    std::fs::create_dir(&inside).unwrap();
    let done = unpack_file(file, &inside, limits);
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "mine");
    let beside: Vec<_> =
        std::fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(beside.len(), 2, "{beside:?}");
    // Nothing of what failed is left.
    assert!(done.is_ok() || std::fs::read_dir(&inside).unwrap().next().is_none());
    // The folder goes with the place.
    if done.is_ok() {
        std::mem::forget(place);
    }
    done
}

fn unusable(bytes: &[u8]) -> String {
    match unpacked(bytes, SMALL) {
        Err(NotUnpacked::Unusable(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_archive_is_unpacked_whether_it_is_compressed_or_not() {
    let plain = archive(&[header(EntryType::Regular, "a/b", 7), link(EntryType::Symlink, "l", "b")]);
    for bytes in [plain.clone(), gzip(&plain)] {
        let done = unpacked(&bytes, SMALL).unwrap();
        assert_eq!(std::fs::read(done.folder.path().join("a/b")).unwrap(), [0; 7]);
        let stamp = done.recorded.of(Path::new("a/b")).unwrap();
        assert_eq!((stamp.mode, stamp.mtime), (0o644, 1_700_000_000_000_000_000));
    }
}

#[test]
fn what_is_more_than_it_may_be_is_broken_off() {
    let large = archive(&[header(EntryType::Regular, "a", 20_000)]);
    assert!(matches!(unpacked(&large, SMALL), Err(NotUnpacked::TooLarge)));
    assert!(matches!(unpacked(&gzip(&large), SMALL), Err(NotUnpacked::TooLarge)));
    // A megabyte of zeros behind the end, and one in an entry of which nothing is kept, are a few bytes of gzip's.
    let mut tail = archive(&[header(EntryType::Regular, "a", 1)]);
    tail.extend(vec![0; 1 << 20]);
    assert!(matches!(unpacked(&gzip(&tail), SMALL), Err(NotUnpacked::TooLarge)));
    let label = archive(&[header(EntryType::new(b'V'), "label", 1 << 20)]);
    assert!(matches!(unpacked(&gzip(&label), SMALL), Err(NotUnpacked::TooLarge)));
    // A second name costs no room, but is read.
    let twice = archive(&[header(EntryType::Regular, "a", 9_000), link(EntryType::Link, "b", "a")]);
    assert!(matches!(unpacked(&twice, SMALL), Err(NotUnpacked::TooLarge)));
    // Folders of which only a name tells count, too.
    let deep = archive(&[header(EntryType::Regular, "1/2/3/4/5/6", 0)]);
    assert!(matches!(unpacked(&deep, SMALL), Err(NotUnpacked::TooMany)));
    let many: Vec<Header> = (0..6).map(|n| header(EntryType::Regular, &n.to_string(), 0)).collect();
    assert!(matches!(unpacked(&archive(&many), SMALL), Err(NotUnpacked::TooMany)));
    assert!(unpacked(&archive(&many[..5]), SMALL).is_ok());
    let stopped = Limits { goes_on: &For(false), ..SMALL };
    assert!(matches!(unpacked(&archive(&many[..5]), stopped), Err(NotUnpacked::BrokenOff)));
}

#[test]
fn nothing_leads_out_of_the_archive() {
    let out = unusable(&archive(&[header(EntryType::Regular, "../outside", 1)]));
    assert!(out.contains("leads out of the archive"), "{out}");
    let out = unusable(&archive(&[header(EntryType::Regular, "a/../../../outside", 1)]));
    assert!(out.contains("leads out of the archive"), "{out}");
    for target in ["../../outside", "/etc/passwd", "nothing"] {
        let out = unusable(&archive(&[link(EntryType::Link, "a", target)]));
        assert!(out.contains("hard link") || out.contains("leads out"), "{out}");
    }
    // A link out of it is a link, and nothing is written through it.
    let through =
        archive(&[link(EntryType::Symlink, "l", "../.."), header(EntryType::Regular, "l/outside", 1)]);
    let done = unpacked(&through, SMALL).unwrap();
    assert_eq!(std::fs::metadata(done.folder.path().join("outside")).unwrap().len(), 1);
    let absolute = archive(&[header(EntryType::Regular, "/etc/x", 1)]);
    let done = unpacked(&absolute, SMALL).unwrap();
    assert_eq!(std::fs::metadata(done.folder.path().join("etc/x")).unwrap().len(), 1);
    let device = archive(&[header(EntryType::Block, "sda", 0)]);
    let done = unpacked(&device, SMALL).unwrap();
    assert!(done.left_out[0].contains("is a device") && done.recorded.of(Path::new("sda")).is_none());
}

#[test]
fn what_is_no_archive_is_told_from_one_that_is_damaged() {
    assert!(matches!(unpacked(b"FROM scratch\n", SMALL), Err(NotUnpacked::Text)));
    let whole = gzip(&archive(&[header(EntryType::Regular, "a", 5_000)]));
    for (bytes, why) in [
        (&b""[..], "is no archive"),
        (&b"\0\x01\x02"[..], "is no archive"),
        (&b"PK\x03\x04rest"[..], "a zip archive"),
        (&b"\x28\xb5\x2f\xfdrest"[..], "compressed by zstd"),
        (&whole[..whole.len() / 2], "can't be unpacked"),
        (&gzip(b"FROM scratch\n")[..], "holds no archive"),
        (&archive(&[header(EntryType::Regular, "a", 5_000)])[..3_000], "cut off"),
        (&archive(&[header(EntryType::Regular, &format!("{}/a", "x".repeat(90)), 1)])[..600], "cut off"),
    ] {
        let said = unusable(bytes);
        assert!(said.contains(why) && said.contains(';'), "{why}: {said}");
    }
}

/// As much as nothing here has.
const LARGE: Limits<'static> = Limits { bytes: 100 << 20, entries: 10_000, goes_on: &For(true) };

/// What an archive says of its next entry, or of all.
fn said(kind: EntryType, bytes: &[u8]) -> Vec<u8> {
    let header = header(kind, "././@said", u64::try_from(bytes.len()).unwrap());
    let mut all = [header.as_bytes().as_slice(), bytes].concat();
    all.resize(all.len().next_multiple_of(512), 0);
    all
}

#[test]
fn what_is_said_of_an_archive_is_short_however_long_its_names_are() {
    let entry = archive(&[header(EntryType::Regular, "a", 1)]);
    let linked = archive(&[link(EntryType::Link, "a", "x")]);
    for length in [900 << 10, 9 << 20] {
        let name = format!("../{}", "n".repeat(length));
        let value = |key: &str| {
            let record = format!(" {key}={name}\n").into_bytes();
            let total = (record.len()..).find(|all| record.len() + all.to_string().len() == *all).unwrap();
            [total.to_string().into_bytes(), record].concat()
        };
        for bytes in [
            [said(EntryType::GNULongName, name.as_bytes()), entry.clone()].concat(),
            [said(EntryType::GNULongLink, name.as_bytes()), linked.clone()].concat(),
            [said(EntryType::XHeader, &value("path")), entry.clone()].concat(),
            [said(EntryType::XHeader, &value("size")), entry.clone()].concat(),
            [said(EntryType::GNULongName, name.as_bytes()), entry[..700].to_vec()].concat(),
        ] {
            match unpacked(&bytes, LARGE) {
                Err(NotUnpacked::Unusable(why)) => {
                    assert!(why.len() < 1000 && why.contains(';'), "{why:.1000}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn what_is_kept_in_memory_of_an_archive_is_bounded() {
    let entry = archive(&[header(EntryType::Regular, "a", 1)]);
    let reason = |bytes: &[u8], limits| match unpacked(bytes, limits) {
        Err(NotUnpacked::Unusable(why)) => why,
        other => panic!("{other:?}"),
    };
    let empty = |number: usize| b"4 =\n".repeat(number);
    for (kind, number, why) in [
        (EntryType::XGlobalHeader, 1 << 20, "longer than 1 MiB"),
        (EntryType::XGlobalHeader, 100_000, "more than 65536 records"),
        (EntryType::XHeader, 100_000, "more than 65536 records"),
        (EntryType::XGlobalHeader, 60_000, "of all entries is longer than 1 MiB"),
    ] {
        let why_not = reason(&[said(kind, &empty(number)), entry.clone()].concat(), LARGE);
        assert!(why_not.contains(why), "{why}: {why_not}");
    }
    assert!(unpacked(&[said(EntryType::XGlobalHeader, &empty(1000)), entry].concat(), LARGE).is_ok());
    // The same link again and again: its target is counted each time.
    let target = "t/".repeat(2000);
    let one = [
        said(EntryType::GNULongLink, target.as_bytes()),
        archive(&[link(EntryType::Symlink, "l", "x")])[..512].to_vec(),
    ];
    let all = [one.concat().repeat(64 * 1024 / 4 + 1000), vec![0; 1024]].concat();
    let limits = Limits { bytes: 1 << 30, entries: 20_000, ..LARGE };
    let why = reason(&all, limits);
    assert!(why.contains("64 MiB of names"), "{why}");
}

#[test]
fn folders_lie_only_so_deep_that_they_can_be_removed() {
    let named = |name: &str| {
        let entry = archive(&[header(EntryType::Regular, "a", 1)]);
        [said(EntryType::GNULongName, name.as_bytes()), entry].concat()
    };
    let deepest = format!("{}a", "d/".repeat(127));
    let done = unpacked(&named(&deepest), LARGE).unwrap();
    assert_eq!(std::fs::metadata(done.folder.path().join(&deepest)).unwrap().len(), 1);
    // A link that leads down makes a path no shorter.
    let link = [
        said(EntryType::GNULongLink, "d/".repeat(100).as_bytes()),
        archive(&[link(EntryType::Symlink, "l", "x")])[..512].to_vec(),
    ]
    .concat();
    let through = [
        &named(&format!("{}a", "d/".repeat(100)))[..2048],
        &link,
        &named(&format!("l/{}a", "e/".repeat(28))),
    ]
    .concat();
    for (bytes, why) in [
        (named(&format!("{}a", "d/".repeat(128))), "more than 128 names"),
        (named(&format!("{}a", "d/".repeat(900))), "more than 128 names"),
        (named(&format!("{}a", "d/".repeat(2_000))), "longer than 2048 bytes"),
        (through, "more than 128 names"),
    ] {
        match unpacked(&bytes, LARGE) {
            Err(NotUnpacked::Unusable(said)) => assert!(said.contains(why), "{why}: {said}"),
            other => panic!("{why}: {other:?}"),
        }
    }
}

/// Goes on for so many questions.
#[derive(Debug)]
struct Asked(AtomicU32);

impl GoesOn for Asked {
    fn goes_on(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

#[test]
fn it_is_broken_off_though_nothing_comes_out() {
    let empty = gzip(b"");
    let bytes = empty.repeat((2 << 20) / empty.len());
    for (times, why) in [(4, "told to stop"), (1000, "holds no archive")] {
        let asked = Asked(times.into());
        let limits = Limits { goes_on: &asked, ..LARGE };
        let said = unpacked(&bytes, limits).unwrap_err().to_string();
        assert!(said.contains(why), "{times}: {said}");
    }
}
