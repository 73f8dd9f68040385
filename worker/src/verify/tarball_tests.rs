//! Archives as other programs write them, and broken ones.

use super::*;

fn read(archive: &[u8]) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    heads::<4>(archive, 100, |path, head| found.push((path.to_owned(), head.to_vec())))?;
    Ok(found)
}

fn files(found: &[(&str, &[u8])]) -> Vec<(String, Vec<u8>)> {
    found.iter().map(|(path, head)| ((*path).to_owned(), head.to_vec())).collect()
}

#[test]
fn regular_files_are_found_with_their_first_bytes_and_nothing_else_is() {
    let mut builder = tar::Builder::new(Vec::new());
    let long = format!("{}/file", "folder".repeat(30));
    for (path, data) in [("./a", &b"abcdefgh"[..]), ("b", b"12"), (&long, &[7; 2000]), ("empty", b"")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(data.len()).unwrap());
        header.set_mode(0o4755);
        builder.append_data(&mut header, path, data).unwrap();
    }
    for (kind, path) in
        [(tar::EntryType::Symlink, "l"), (tar::EntryType::Link, "h"), (tar::EntryType::Directory, "d/")]
    {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        if kind == tar::EntryType::Directory {
            builder.append_data(&mut header, path, io::empty()).unwrap();
        } else {
            builder.append_link(&mut header, path, "a").unwrap();
        }
    }
    let archive = builder.into_inner().unwrap();
    let expected = files(&[("a", b"abcd"), ("b", b"12"), (&long, &[7; 4]), ("empty", b"")]);
    assert_eq!(read(&archive).unwrap(), expected);
    // What comes after the end counts as little as it does for who unpacks it.
    assert_eq!(read(&[&archive[..], &archive[..]].concat()).unwrap(), expected);
    assert_eq!(read(b"").unwrap(), []);
}

#[test]
fn the_names_and_sizes_of_extended_headers_count() {
    let record = |key: &str, value: &str| {
        let rest = format!(" {key}={value}\n");
        let length = (1..).find(|length: &usize| length.to_string().len() + rest.len() == *length).unwrap();
        format!("{length}{rest}")
    };
    let extended = [record("mtime", "1.5"), record("path", "usr/bin/ü"), record("size", "6")].concat();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::XHeader);
    header.set_size(u64::try_from(extended.len()).unwrap());
    builder.append_data(&mut header, "PaxHeaders/x", extended.as_bytes()).unwrap();
    let mut archive = builder.into_inner().unwrap();
    archive.truncate(archive.len() - 1024);
    let mut header = tar::Header::new_ustar();
    header.set_path("short").unwrap();
    header.set_size(0);
    header.set_cksum();
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(b"\x7fELF45");
    archive.resize(archive.len().next_multiple_of(512), 0);
    assert_eq!(read(&archive).unwrap(), files(&[("usr/bin/ü", b"\x7fELF")]));
}

#[test]
fn a_prefix_stands_before_the_name() {
    let mut header = tar::Header::new_ustar();
    let path = format!("{}/name", "p".repeat(120));
    header.set_path(&path).unwrap();
    header.set_size(1);
    header.set_cksum();
    let mut archive = header.as_bytes().to_vec();
    archive.push(b'x');
    archive.resize(1024, 0);
    assert_eq!(read(&archive).unwrap(), files(&[(&path, b"x")]));
}

#[test]
fn what_is_broken_is_an_error_and_takes_no_memory() {
    let mut header = tar::Header::new_gnu();
    header.set_path("a").unwrap();
    header.set_size(3);
    header.set_cksum();
    let whole = [header.as_bytes().as_slice(), b"abc"].concat();
    for length in [1, 511, 513, whole.len()] {
        assert!(read(&whole[..length]).is_err(), "{length}");
    }
    assert!(read(&[b'x'; 512]).is_err());
    // A name of 4 GiB, of which little is there.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_path("././@LongLink").unwrap();
    header.set_size(4 << 30);
    header.set_cksum();
    let cut = [header.as_bytes().as_slice(), &[b'n'; 10_000]].concat();
    assert!(read(&cut).is_err());
    // A size beyond all bounds, in binary.
    let mut header = tar::Header::new_gnu();
    header.set_path("a").unwrap();
    header.as_mut_bytes()[124..136].fill(0xff);
    header.set_cksum();
    assert!(read(header.as_bytes()).is_err());
    // Too many entries.
    let mut builder = tar::Builder::new(Vec::new());
    for _ in 0..101 {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        builder.append_data(&mut header, "a", io::empty()).unwrap();
    }
    assert!(read(&builder.into_inner().unwrap()).is_err());
}
