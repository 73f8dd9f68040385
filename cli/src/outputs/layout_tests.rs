use super::*;

fn blob(text: &str) -> (Digest, String) {
    (Digest::of(text.as_bytes()), text.to_owned())
}

/// A layout of one image, as BuildKit makes it.
fn layout(architecture: &str, layers: &[&str], names: &[&str], attested: bool) -> Vec<u8> {
    let mut blobs: Vec<(Digest, String)> = layers.iter().map(|layer| blob(layer)).collect();
    let config = blob(&format!("{{\"architecture\":{architecture:?}}}"));
    let manifest = blob(&format!("{{\"config\":{{\"digest\":\"{}\"}}}}", config.0));
    let descriptor = |digest: &Digest, kind: &str, more: &str| {
        format!("{{\"mediaType\":\"{kind}\",\"digest\":\"{digest}\",\"size\":1{more}}}")
    };
    let image = "application/vnd.oci.image.manifest.v1+json";
    let platform = format!(",\"platform\":{{\"architecture\":{architecture:?},\"os\":\"linux\"}}");
    blobs.extend([config, manifest.clone()]);
    let mut top = (manifest.0, image);
    if attested {
        let about = format!(
            ",\"annotations\":{{\"vnd.docker.reference.digest\":\"{}\",\"vnd.docker.reference.type\":\"attestation-manifest\"}}",
            manifest.0
        );
        let attestation = blob(&format!("{{\"attests\":\"{}\"}}", manifest.0));
        let index = blob(&format!(
            "{{\"schemaVersion\":2,\"manifests\":[{},{}]}}",
            descriptor(&manifest.0, image, &platform),
            descriptor(&attestation.0, image, &about)
        ));
        top = (index.0, OCI_INDEX);
        blobs.extend([attestation, index]);
    }
    let mut writer = Writer::new(Vec::new());
    writer.own(EntryType::Directory, "blobs/", 0o755, b"").unwrap();
    for (digest, text) in blobs {
        writer
            .own(EntryType::Regular, &format!("blobs/sha256/{}", digest.hex()), 0o444, text.as_bytes())
            .unwrap();
    }
    let entries: Vec<String> = names
        .iter()
        .map(|name| format!(",\"annotations\":{{\"io.containerd.image.name\":{name:?}}}"))
        .chain(names.is_empty().then(String::new))
        .map(|annotations| descriptor(&top.0, top.1, &annotations))
        .collect();
    let index = format!("{{\"schemaVersion\":2,\"manifests\":[{}]}}", entries.join(","));
    writer.own(EntryType::Regular, "index.json", 0o644, index.as_bytes()).unwrap();
    writer.end().unwrap()
}

fn entries(archive: &[u8]) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    each(archive, |entry, content| {
        let mut text = String::new();
        content.read_to_string(&mut text)?;
        assert!(all.insert(entry.shown(), text).is_none(), "{} is there twice", entry.shown());
        Ok(())
    })
    .unwrap();
    all
}

fn merged(of: &[(&str, Vec<u8>)]) -> (Image, Vec<u8>) {
    let inputs = of.iter().map(|(platform, bytes)| (platform.parse().unwrap(), move || &bytes[..])).collect();
    let mut out = Vec::new();
    let image = merge(inputs, &mut out).unwrap();
    (image, out)
}

#[test]
fn an_image_is_passed_on_unchanged_and_known() {
    let archive = layout("amd64", &["layer"], &["docker.io/library/a:1", "r/b:2"], false);
    let mut out = Vec::new();
    let image = copy(&archive[..], &mut out).unwrap();
    assert_eq!(out, archive);
    assert_eq!(image.names, ["docker.io/library/a:1", "r/b:2"]);
    assert_eq!(image.id(), Digest::of(b"{\"architecture\":\"amd64\"}"));
    let attested = copy(&layout("amd64", &[], &[], true)[..], io::sink()).unwrap();
    assert_eq!((attested.id(), attested.config), (attested.descriptor.digest, None));
}

#[test]
fn several_platforms_become_one_index_whatever_their_order() {
    let amd64 = ("linux/amd64", layout("amd64", &["shared", "a"], &["r/b:2"], false));
    let arm64 = ("linux/arm64", layout("arm64", &["shared", "b"], &["r/b:2"], true));
    let (image, archive) = merged(&[amd64.clone(), arm64.clone()]);
    let all = entries(&archive);
    let index: Index =
        serde_json::from_str(&all[&format!("blobs/sha256/{}", image.descriptor.digest.hex())]).unwrap();
    let platforms: Vec<_> =
        index.manifests.iter().map(|m| m.platform.as_ref().map(|p| p.architecture.as_str())).collect();
    assert_eq!(platforms, [Some("amd64"), Some("arm64"), None]);
    assert!(index.manifests[0].annotations.is_empty());
    assert_eq!(index.manifests[2].annotations.len(), 2);
    assert_eq!(image.names, ["r/b:2"]);
    let layout: Index = serde_json::from_str(&all["index.json"]).unwrap();
    assert_eq!(layout.manifests[0].digest, image.descriptor.digest);
    assert_eq!(all.keys().filter(|name| name.contains(&Digest::of(b"shared").hex())).count(), 1);
    for manifest in &index.manifests {
        assert!(all.contains_key(&format!("blobs/sha256/{}", manifest.digest.hex())));
    }
    let (other, _) = merged(&[arm64, amd64]);
    assert_eq!(other.descriptor, image.descriptor);
}

#[test]
fn an_image_that_is_not_what_it_says_is_refused() {
    let mut writer = Writer::new(Vec::new());
    let path = format!("blobs/sha256/{}", Digest::of(b"x").hex());
    writer.own(EntryType::Regular, &path, 0o444, b"{\"other\":1}").unwrap();
    let archive = writer.end().unwrap();
    assert!(copy(&archive[..], io::sink()).unwrap_err().to_string().contains("another content"));
    let empty = Writer::new(Vec::new()).end().unwrap();
    assert!(copy(&empty[..], io::sink()).unwrap_err().to_string().contains("index.json"));
}

#[test]
fn a_layout_that_is_there_keeps_its_other_images() {
    let index = |archive: &[u8]| entries(archive)["index.json"].clone();
    let old = index(&layout("amd64", &[], &["r/a:1", "r/b:1"], false));
    let new = index(&layout("arm64", &[], &["r/b:1"], false));
    let joined = joined_index(old.as_bytes(), new.as_bytes()).unwrap();
    let joined: Index = serde_json::from_slice(&joined).unwrap();
    let names: Vec<_> = joined.manifests.iter().map(|m| m.annotations[IMAGE_NAME].as_str()).collect();
    assert_eq!(names, ["r/a:1", "r/b:1"]);
    assert_ne!(joined.manifests[0].digest, joined.manifests[1].digest);
    assert!(joined_index(b"junk", new.as_bytes()).is_err());
}

#[test]
fn the_same_image_may_be_there_by_several_names() {
    let index = |names: &[&str]| entries(&layout("amd64", &[], names, false))["index.json"].clone();
    for (old, new, joined) in [
        (&["r/a:1"][..], &["r/a:2"][..], 2),
        (&["r/a:1"], &["r/a:1"], 1),
        (&["r/a:1"], &[], 2),
        (&[], &["r/a:1"], 2),
        (&[], &[], 1),
    ] {
        let both = joined_index(index(old).as_bytes(), index(new).as_bytes()).unwrap();
        let both: Index = serde_json::from_slice(&both).unwrap();
        assert_eq!(both.manifests.len(), joined, "{old:?} {new:?}");
    }
}
