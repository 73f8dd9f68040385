use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tar::Header;

use super::super::archive::{Entry, Writer};
use super::*;

const NEW: &[u8] = br#"{"schemaVersion":2,"manifests":[]}"#;

/// Kind, name, what it links to, content.
type Made<'a> = (EntryType, &'a str, &'a str, &'a [u8]);

fn archive(entries: &[Made<'_>]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (kind, path, link, content) in entries {
        let mut header = Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_mode(0o444);
        header.set_mtime(0);
        let size = u64::try_from(content.len()).unwrap();
        header.set_size(size);
        let (path, link) = (path.as_bytes().to_vec(), link.as_bytes().to_vec());
        writer.entry(&Entry { header, records: Vec::new(), path, link, size }, &mut &content[..]).unwrap();
    }
    writer.end().unwrap()
}

fn unpack(dest: &Path, entries: &[Made<'_>]) -> io::Result<()> {
    let mut unpacking = Unpacking::open(dest)?;
    let index = unpacking.take_layout(&archive(entries)[..])?;
    unpacking.join_index(&index)?;
    unpacking.finish().map(drop)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

const FILE: EntryType = EntryType::Regular;
const MARK: Made<'static> = (FILE, "oci-layout", "", b"{}");
const INDEX: Made<'static> = (FILE, "index.json", "", NEW);

#[test]
fn a_layout_has_its_index_last_and_leaves_no_lock() {
    let all = tempfile::tempdir().unwrap();
    let dest = all.path().join("dest");
    let mut unpacking = Unpacking::open(&dest).unwrap();
    let index = unpacking.take_layout(&archive(&[INDEX, MARK])[..]).unwrap();
    assert!(!dest.join("index.json").exists() && dest.join("oci-layout").exists());
    unpacking.join_index(&index).unwrap();
    assert_eq!(unpacking.finish().unwrap().entries, 2);
    assert_eq!(fs::read(dest.join("index.json")).unwrap(), NEW);
    assert_eq!((mode(&dest.join("index.json")), mode(&dest.join("oci-layout"))), (0o644, 0o644));
    assert_eq!(fs::read_dir(&dest).unwrap().count(), 2);
}

#[test]
fn a_hostile_layout_changes_nothing_outside() {
    let all = tempfile::tempdir().unwrap();
    let (dest, precious) = (all.path().join("dest"), all.path().join("precious"));
    fs::write(&precious, NEW).unwrap();
    fs::set_permissions(&precious, fs::Permissions::from_mode(0o600)).unwrap();
    let link = precious.to_str().unwrap();
    let hostile: [&[Made<'_>]; 7] = [
        &[(EntryType::Symlink, "oci-layout", link, b""), INDEX],
        &[MARK, INDEX, (EntryType::Symlink, "./oci-layout", link, b"")],
        &[MARK, INDEX, (EntryType::Symlink, "./index.json", link, b"")],
        &[MARK, INDEX, (FILE, "./index.json", "", NEW)],
        &[MARK, INDEX, (EntryType::Link, "blobs", "oci-layout", b"")],
        &[MARK, INDEX, (FILE, "blobs//x", "", b"")],
        &[MARK],
    ];
    for (nth, entries) in hostile.iter().enumerate() {
        assert!(unpack(&dest, entries).is_err(), "{nth}");
        assert!(!dest.join("index.json").exists(), "{nth}");
    }
    // Links that were there are not followed either.
    symlink(&precious, dest.join("index.json")).unwrap();
    let error = unpack(&dest, &[MARK, INDEX]).unwrap_err().to_string();
    assert!(error.contains("is a link"), "{error}");
    fs::remove_file(dest.join("index.json")).unwrap();
    fs::remove_file(dest.join("oci-layout")).unwrap();
    symlink(&precious, dest.join("oci-layout")).unwrap();
    unpack(&dest, &[MARK, INDEX]).unwrap();
    assert_eq!((fs::read(&precious).unwrap().as_slice(), mode(&precious)), (NEW, 0o600));
}

#[test]
fn an_index_that_is_none_is_not_lost() {
    let all = tempfile::tempdir().unwrap();
    let place = all.path().join("index.json");
    fs::write(&place, "mine").unwrap();
    let error = unpack(all.path(), &[MARK, INDEX]).unwrap_err().to_string();
    assert!(error.contains("can't be understood"), "{error}");
    assert_eq!(fs::read(&place).unwrap(), b"mine");
    assert!(!all.path().join(LOCK_FILE).exists());
}
