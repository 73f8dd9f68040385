//! A folder's entries as entries of a tar archive (POSIX.1-2017, pax, "pax Interchange Format").
//!
//! Names, link targets, times and whatever has no place in the old header stand in pax records. Extended attributes are
//! records of farm's own, in base64, as readers of records stumble over bytes that look like the end of one.

use base64::Engine as _;
use bollard_buildkit_proto::fsutil::types::Stat;
use bytes::Bytes;
use tar::{EntryType, Header};

/// Go's bits for kinds of files (`io/fs.FileMode`).
const GO_FOLDER: u32 = 1 << 31;
const GO_SYMLINK: u32 = 1 << 27;
const GO_DEVICE: u32 = 1 << 26;
const GO_FIFO: u32 = 1 << 25;
const GO_SOCKET: u32 = 1 << 24;
const GO_SETUID: u32 = 1 << 23;
const GO_SETGID: u32 = 1 << 22;
const GO_CHAR_DEVICE: u32 = 1 << 21;
const GO_STICKY: u32 = 1 << 20;

const BLOCK: u64 = 512;
const NANOS: i64 = 1_000_000_000;

/// What stands before an entry's content: its pax records, if it needs any, and its header.
///
/// # Errors
/// In words: it can't stand in an archive.
pub(crate) fn header(stat: &Stat) -> Result<Vec<u8>, String> {
    let kind = match stat.mode {
        mode if mode & GO_FOLDER != 0 => EntryType::Directory,
        mode if mode & GO_SYMLINK != 0 => EntryType::Symlink,
        mode if mode & GO_CHAR_DEVICE != 0 => EntryType::Char,
        mode if mode & GO_DEVICE != 0 => EntryType::Block,
        mode if mode & GO_FIFO != 0 => EntryType::Fifo,
        mode if mode & GO_SOCKET != 0 => return Err(format!("{:?} is a socket", stat.path)),
        _ if !stat.linkname.is_empty() => EntryType::Link,
        _ => EntryType::Regular,
    };
    let special = [(GO_SETUID, 0o4000), (GO_SETGID, 0o2000), (GO_STICKY, 0o1000)];
    let special = special.into_iter().filter(|(bit, _)| stat.mode & bit != 0).map(|(_, mode)| mode);
    let size = match kind {
        EntryType::Regular => {
            u64::try_from(stat.size).map_err(|_| format!("{:?} has no length", stat.path))?
        }
        _ => 0,
    };
    let mut records = Vec::new();
    record(&mut records, "path", stat.path.as_bytes());
    if !stat.linkname.is_empty() {
        record(&mut records, "linkpath", stat.linkname.as_bytes());
    }
    record(&mut records, "mtime", time(stat.mod_time).as_bytes());
    let mut attributes: Vec<_> = stat.xattrs.iter().collect();
    attributes.sort_unstable();
    for (name, value) in attributes {
        let value = base64::engine::general_purpose::STANDARD.encode(value);
        record(&mut records, &format!("FARM.xattr.{name}"), value.as_bytes());
    }
    let mut extended = Header::new_ustar();
    extended.set_entry_type(EntryType::XHeader);
    extended.set_size(u64::try_from(records.len()).unwrap_or(u64::MAX));
    extended.set_mode(0o644);
    extended.set_cksum();
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode((stat.mode & 0o777) | special.sum::<u32>());
    header.set_uid(stat.uid.into());
    header.set_gid(stat.gid.into());
    header.set_size(size);
    header.set_mtime(u64::try_from(stat.mod_time.div_euclid(NANOS)).unwrap_or(0));
    if matches!(kind, EntryType::Char | EntryType::Block) {
        let number = |number: i64| u32::try_from(number).map_err(|_| format!("{:?} is no device", stat.path));
        header.set_device_major(number(stat.devmajor)?).map_err(|error| error.to_string())?;
        header.set_device_minor(number(stat.devminor)?).map_err(|error| error.to_string())?;
    }
    header.set_cksum();
    let mut out = extended.as_bytes().to_vec();
    let pad = padding(u64::try_from(records.len()).unwrap_or(0));
    out.extend_from_slice(&records);
    out.extend_from_slice(&pad);
    out.extend_from_slice(header.as_bytes());
    Ok(out)
}

/// What follows a content of this length, up to the end of its last block.
pub(super) fn padding(content: u64) -> Bytes {
    static ZEROS: [u8; 512] = [0; 512];
    let missing = (BLOCK - content % BLOCK) % BLOCK;
    Bytes::from_static(&ZEROS).slice(..usize::try_from(missing).unwrap_or(0))
}

/// The end of an archive.
pub(crate) fn end() -> Bytes {
    static ZEROS: [u8; 1024] = [0; 1024];
    Bytes::from_static(&ZEROS)
}

/// Seconds since 1970, with nanoseconds.
fn time(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let second = NANOS.unsigned_abs();
    format!("{sign}{}.{:09}", nanos / second, nanos % second)
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(to: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    to.extend_from_slice(format!("{length} {key}=").as_bytes());
    to.extend_from_slice(value);
    to.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn an_entry_reads_back_with_all_that_it_has() {
        let long = "d/".repeat(120) + "ä file";
        let stats = [
            Stat { path: "d".into(), mode: GO_FOLDER | GO_STICKY | 0o777, mod_time: -1, ..Stat::default() },
            Stat {
                path: long.clone(),
                mode: GO_SETUID | 0o755,
                uid: 3_000_000,
                size: 3,
                mod_time: 981_173_106_789_000_001,
                xattrs: [("user.x".to_owned(), b"\n1 a\n".to_vec())].into(),
                ..Stat::default()
            },
            Stat {
                path: "l".into(),
                mode: GO_SYMLINK | 0o777,
                linkname: "../".repeat(60),
                size: 180,
                ..Stat::default()
            },
            Stat { path: "h".into(), mode: 0o644, linkname: long.clone(), ..Stat::default() },
        ];
        let mut bytes = Vec::new();
        for stat in &stats {
            bytes.extend(header(stat).unwrap());
            if stat.size == 3 {
                bytes.extend_from_slice(b"abc");
                bytes.extend_from_slice(&padding(3));
            }
        }
        bytes.extend_from_slice(&end());
        assert_eq!(bytes.len() % 512, 0);
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let records: Vec<(String, String)> = entry
                .pax_extensions()
                .unwrap()
                .unwrap()
                .map(|record| record.unwrap())
                .map(|record| (record.key().unwrap().to_owned(), record.value().unwrap().to_owned()))
                .filter(|(key, _)| !key.ends_with("path"))
                .collect();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            seen.push((
                entry.path().unwrap().to_string_lossy().into_owned(),
                entry.header().entry_type(),
                entry.header().mode().unwrap(),
                records,
                content,
                entry.link_name().unwrap().map(|link| link.to_string_lossy().into_owned()),
            ));
        }
        let mtime = |text: &str| vec![("mtime".to_owned(), text.to_owned())];
        let mut with_attribute = mtime("981173106.789000001");
        with_attribute.push(("FARM.xattr.user.x".to_owned(), "CjEgYQo=".to_owned()));
        let (none, link) = (String::new(), stats[2].linkname.clone());
        assert_eq!(
            seen,
            [
                ("d".into(), EntryType::Directory, 0o1777, mtime("-0.000000001"), none.clone(), None),
                (long.clone(), EntryType::Regular, 0o4755, with_attribute, "abc".into(), None),
                ("l".into(), EntryType::Symlink, 0o777, mtime("0.000000000"), none.clone(), Some(link)),
                ("h".into(), EntryType::Link, 0o644, mtime("0.000000000"), none, Some(long)),
            ]
        );
    }
}
