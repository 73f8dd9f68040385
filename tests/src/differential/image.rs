//! An image as it lies in a registry: its configuration, and what its layers hold.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};

const TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    pub config: Value,
    pub layers: Vec<Layer>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layer {
    pub digest: String,
    /// By path; a later entry of the same path wins, as when it is unpacked.
    pub files: BTreeMap<Vec<u8>, Entry>,
}

/// What a layer says of a path. A removed one is there as `.wh.NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// tar's type flag.
    pub kind: u8,
    pub mode: u32,
    pub owner: (u64, u64),
    pub mtime: u64,
    pub digest: String,
    pub link: Vec<u8>,
    /// A further name of a file that stands elsewhere in the layer; everything else here is that file's.
    pub is_hardlink: bool,
    pub device: Option<(u32, u32)>,
    pub attributes: BTreeMap<String, Vec<u8>>,
}

/// Layers that both have at the bottom are not read: equal digests say all.
///
/// # Errors
/// One of them is not there, or something about them can't be understood.
pub fn read_both(registry: &str, one: &str, other: &str) -> Result<(Image, Image), String> {
    let (first, second) = (Manifest::read(registry, one)?, Manifest::read(registry, other)?);
    let same = first.layers.iter().zip(&second.layers).take_while(|(one, other)| one.0 == other.0).count();
    Ok((first.image(registry, same)?, second.image(registry, same)?))
}

struct Manifest {
    repository: String,
    config: String,
    /// Digest and media type.
    layers: Vec<(String, String)>,
}

impl Manifest {
    /// Of `REPOSITORY:TAG`; of an index the first image.
    fn read(registry: &str, reference: &str) -> Result<Manifest, String> {
        let (repository, tag) = reference.split_once(':').ok_or("no tag")?;
        let get = |what: &str| -> Result<Value, String> {
            let body = get(registry, &format!("/v2/{repository}/manifests/{what}"))?;
            serde_json::from_slice(&body).map_err(|error| format!("{reference}: {error}"))
        };
        let mut manifest = get(tag)?;
        if let Some(list) = manifest["manifests"].as_array() {
            let image = list.iter().find(|image| image["platform"]["os"] != "unknown");
            let digest = image.and_then(|image| image["digest"].as_str()).ok_or("an empty index")?;
            manifest = get(digest)?;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        // An image of settings only has `null` there.
        let layers = manifest["layers"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|layer| (text(&layer["digest"]), text(&layer["mediaType"])));
        Ok(Manifest {
            repository: repository.to_owned(),
            config: text(&manifest["config"]["digest"]),
            layers: layers.collect(),
        })
    }

    fn image(self, registry: &str, skip: usize) -> Result<Image, String> {
        let blob = |digest: &str| get(registry, &format!("/v2/{}/blobs/{digest}", self.repository));
        let config = serde_json::from_slice(&blob(&self.config)?).map_err(|error| error.to_string())?;
        let mut layers = Vec::new();
        for (place, (digest, kind)) in self.layers.iter().enumerate() {
            let files = if place < skip { BTreeMap::new() } else { files(&blob(digest)?, kind)? };
            layers.push(Layer { digest: digest.clone(), files });
        }
        Ok(Image { config, layers })
    }
}

fn files(blob: &[u8], kind: &str) -> Result<BTreeMap<Vec<u8>, Entry>, String> {
    let plain: Box<dyn Read> = if kind.ends_with("gzip") {
        Box::new(flate2::read::MultiGzDecoder::new(blob))
    } else if kind.ends_with("tar") {
        Box::new(blob)
    } else {
        return Err(format!("a layer of type {kind}"));
    };
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(plain);
    let wrong = |error: std::io::Error| format!("a layer: {error}");
    for entry in archive.entries().map_err(wrong)? {
        let mut entry = entry.map_err(wrong)?;
        let mut attributes = BTreeMap::new();
        for extension in entry.pax_extensions().map_err(wrong)?.into_iter().flatten().flatten() {
            if let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr.")) {
                attributes.insert(name.to_owned(), extension.value_bytes().to_vec());
            }
        }
        let mut sum = Sha256::new();
        let mut piece = vec![0; 65536];
        loop {
            match entry.read(&mut piece).map_err(wrong)? {
                0 => break,
                read => sum.update(&piece[..read]),
            }
        }
        let header = entry.header();
        let device = header.device_major().ok().flatten().zip(header.device_minor().ok().flatten());
        let found = Entry {
            kind: header.entry_type().as_byte(),
            mode: header.mode().map_err(wrong)? & 0o7777,
            owner: (header.uid().map_err(wrong)?, header.gid().map_err(wrong)?),
            mtime: header.mtime().map_err(wrong)?,
            digest: sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
            link: entry.link_name_bytes().unwrap_or_default().into_owned(),
            is_hardlink: header.entry_type().is_hard_link(),
            device: device.filter(|device| *device != (0, 0)),
            attributes,
        };
        let path = entry.path_bytes().into_owned();
        files.insert(path.strip_suffix(b"/").unwrap_or(&path).to_vec(), found);
    }
    let further: Vec<(Vec<u8>, Entry)> = files
        .iter()
        .filter(|(_, entry)| entry.is_hardlink)
        .filter_map(|(path, entry)| Some((path.clone(), files.get(&entry.link)?.clone())))
        .collect();
    files.extend(further.into_iter().map(|(path, entry)| (path, Entry { is_hardlink: true, ..entry })));
    Ok(files)
}

/// HTTP/1.0: the answer ends with the connection.
fn get(registry: &str, path: &str) -> Result<Vec<u8>, String> {
    let wrong = |error: std::io::Error| format!("{registry}{path}: {error}");
    let mut stream = TcpStream::connect(registry).map_err(wrong)?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(wrong)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {registry}\r\nAccept: {TYPES}\r\n\r\n").map_err(wrong)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(wrong)?;
    let head = answer.windows(4).position(|part| part == b"\r\n\r\n").ok_or("half an answer")?;
    let status = String::from_utf8_lossy(&answer[..head]).lines().next().unwrap_or_default().to_owned();
    if !status.contains(" 200 ") {
        return Err(format!("{registry}{path}: {status}"));
    }
    Ok(answer.split_off(head + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(archive: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, content: &str, link: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o104_640);
        header.set_uid(3);
        header.set_gid(4);
        header.set_mtime(5);
        header.set_size(u64::try_from(content.len()).unwrap());
        if link.is_empty() {
            archive.append_data(&mut header, path, content.as_bytes()).unwrap();
        } else {
            archive.append_link(&mut header, path, link).unwrap();
        }
    }

    #[test]
    fn all_that_a_layer_says_of_a_path_is_read() {
        let mut archive = tar::Builder::new(Vec::new());
        add(&mut archive, "d/", tar::EntryType::Directory, "", "");
        add(&mut archive, "d/one", tar::EntryType::Regular, "1", "");
        add(&mut archive, "d/again", tar::EntryType::Link, "", "d/one");
        add(&mut archive, "to", tar::EntryType::Symlink, "", "d/one");
        let plain = archive.into_inner().unwrap();
        let files = files(&plain, "application/vnd.oci.image.layer.v1.tar").unwrap();
        let paths: Vec<&[u8]> = files.keys().map(Vec::as_slice).collect();
        assert_eq!(paths, [b"d".as_slice(), b"d/again", b"d/one", b"to"]);
        let one = &files[b"d/one".as_slice()];
        assert_eq!((one.kind, one.mode, one.owner, one.mtime), (b'0', 0o4640, (3, 4), 5));
        assert_eq!(one.digest, "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b");
        let again = Entry { is_hardlink: true, ..one.clone() };
        assert_eq!(files[b"d/again".as_slice()], again, "a further name is the file, and known as such");
        let to = &files[b"to".as_slice()];
        assert_eq!((to.kind, to.link.as_slice(), to.is_hardlink), (b'2', b"d/one".as_slice(), false));
    }
}
