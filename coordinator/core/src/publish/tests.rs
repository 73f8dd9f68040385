use super::*;
use proptest::prelude::*;

fn usual() -> Packaging {
    Packaging::default()
}

fn child(platform: &str, media_type: &str) -> Child {
    Child {
        platform: platform.parse().unwrap(),
        manifest: Descriptor {
            media_type: media_type.to_owned(),
            digest: Digest::of(platform.as_bytes()),
            size: 480,
            platform: None,
            annotations: BTreeMap::new(),
        },
        annotations: BTreeMap::new(),
        system: System::default(),
        attestations: Vec::new(),
    }
}

fn attested(platform: &str) -> Child {
    let mut child = child(platform, OCI_MANIFEST);
    let annotations = [
        (REFERENCE_TYPE.to_owned(), "attestation-manifest".to_owned()),
        (REFERENCE_DIGEST.to_owned(), child.manifest.digest.to_string()),
    ];
    child.attestations.push(Descriptor {
        media_type: OCI_MANIFEST.to_owned(),
        digest: Digest::of(format!("att {platform}").as_bytes()),
        size: 566,
        platform: Some(IndexPlatform {
            architecture: "unknown".into(),
            os: "unknown".into(),
            os_version: None,
            os_features: Vec::new(),
            variant: None,
        }),
        annotations: annotations.into(),
    });
    child
}

#[test]
fn platforms_are_spelled_in_their_normal_form_or_as_they_are() {
    assert_eq!(spelled("linux", "arm64", "v8"), "linux/arm64");
    assert_eq!(spelled("windows", "amd64", ""), "windows/amd64");
    assert_eq!(spelled("", "", ""), "");
}

#[test]
fn the_bytes_are_these() {
    let index =
        merge(&[child("linux/arm/v7", OCI_MANIFEST), child("linux/amd64", OCI_MANIFEST)], &[], &usual())
            .unwrap();
    let expected = format!(
        concat!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":["#,
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":480,"#,
            r#""platform":{{"architecture":"amd64","os":"linux"}}}},"#,
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":480,"#,
            r#""platform":{{"architecture":"arm","os":"linux","variant":"v7"}}}}]}}"#
        ),
        Digest::of(b"linux/amd64"),
        Digest::of(b"linux/arm/v7"),
    );
    assert_eq!(String::from_utf8(index.bytes.clone()).unwrap(), expected);
    assert_eq!(index.digest, Digest::of(&index.bytes));
}

#[test]
fn it_is_dockers_list_only_when_every_child_is_dockers() {
    let docker = [child("linux/amd64", DOCKER_MANIFEST), child("linux/arm64", DOCKER_MANIFEST)];
    assert_eq!(merge(&docker, &[], &usual()).unwrap().media_type, DOCKER_LIST);
    let mixed = [child("linux/amd64", DOCKER_MANIFEST), child("linux/arm64", OCI_MANIFEST)];
    assert_eq!(merge(&mixed, &[], &usual()).unwrap().media_type, OCI_INDEX);
    // What was optional and is missing is said, always in one way; so it is no list of Docker's.
    let lacks = |names: &str| merge(&docker, &Platform::parse_list(names).unwrap(), &usual()).unwrap();
    let index = lacks("linux/s390x,linux/riscv64");
    assert_eq!((index.media_type, &index), (OCI_INDEX, &lacks("linux/riscv64,linux/s390x")));
    let text = String::from_utf8(index.bytes).unwrap();
    assert!(
        text.ends_with(r#""annotations":{"farm.platforms.missing":"linux/riscv64,linux/s390x"}}"#),
        "{text}"
    );
}

#[test]
fn attestations_stay_flat_after_the_images_in_the_same_order() {
    let index = merge(&[attested("linux/arm64"), attested("linux/amd64")], &[], &usual()).unwrap();
    let document: IndexDocument = serde_json::from_slice(&index.bytes).unwrap();
    let digests: Vec<Digest> = document.manifests.iter().map(|d| d.digest).collect();
    let expected = ["linux/amd64", "linux/arm64", "att linux/amd64", "att linux/arm64"];
    assert_eq!(digests, expected.map(|text| Digest::of(text.as_bytes())));
}

#[test]
fn what_buildkit_pushed_with_attestations_is_taken_apart() {
    let whole = attested("linux/amd64");
    let document = |manifests| IndexDocument {
        schema_version: 2,
        media_type: OCI_INDEX.into(),
        manifests,
        annotations: BTreeMap::new(),
    };
    let both = vec![whole.manifest.clone(), whole.attestations[0].clone()];
    assert_eq!(split(whole.platform.clone(), document(both)).unwrap(), whole);
    assert!(split(whole.platform.clone(), document(whole.attestations.clone())).is_err());
    let two = vec![whole.manifest.clone(), child("linux/arm64", OCI_MANIFEST).manifest];
    assert!(split(whole.platform.clone(), document(two)).is_err());
    let foreign = vec![child("linux/arm64", OCI_MANIFEST).manifest, whole.attestations[0].clone()];
    assert!(split(whole.platform.clone(), document(foreign)).is_err());
}

#[test]
fn a_manifest_alone_is_exactly_what_was_pushed() {
    let bytes = br#"{"schemaVersion":2,  "config":{}}"#.to_vec();
    let mut only = child("linux/amd64", DOCKER_MANIFEST);
    only.manifest.digest = Digest::of(&bytes);
    let kept = alone(std::slice::from_ref(&only), bytes.clone(), &usual()).unwrap();
    assert_eq!((kept.bytes.as_slice(), kept.digest), (bytes.as_slice(), Digest::of(&bytes)));
    assert_eq!((kept.media_type, kept.manifests.len()), (DOCKER_MANIFEST, 0));
    assert!(!is_index(kept.media_type) && is_index(OCI_INDEX) && is_index(DOCKER_LIST));
    assert!(alone(std::slice::from_ref(&only), b"other".to_vec(), &usual()).is_err());
    assert!(alone(&[only.clone(), child("linux/arm64", OCI_MANIFEST)], bytes.clone(), &usual()).is_err());
    assert!(alone(&[], bytes.clone(), &usual()).is_err());
    let mut attested = attested("linux/amd64");
    attested.manifest.digest = Digest::of(&bytes);
    assert!(alone(&[attested], bytes.clone(), &usual()).unwrap_err().to_string().contains("attestations"));
    only.manifest.media_type = "application/json".to_owned();
    assert!(alone(&[only], bytes, &usual()).is_err());
}

#[test]
fn two_of_a_platform_and_one_manifest_for_two_are_refused() {
    let twice = [child("linux/amd64", OCI_MANIFEST), child("linux/amd64", OCI_MANIFEST)];
    assert!(merge(&twice, &[], &usual()).unwrap_err().to_string().contains("twice"));
    let wrong = Child { platform: "linux/arm64".parse().unwrap(), ..child("linux/amd64", OCI_MANIFEST) };
    let same = [child("linux/amd64", OCI_MANIFEST), wrong];
    assert!(merge(&same, &[], &usual()).unwrap_err().to_string().contains("same one"));
    assert!(merge(&[], &[], &usual()).is_err());
}

proptest! {
    #[test]
    fn the_order_of_the_children_does_not_matter(seed in any::<u64>()) {
        let mut children: Vec<Child> =
            ["linux/amd64", "linux/arm64", "linux/arm/v7", "linux/s390x"].iter().map(|p| attested(p)).collect();
        let sorted = merge(&children, &[], &usual()).unwrap();
        let len = children.len();
        let turn = usize::try_from(seed % 4).unwrap();
        children.rotate_left(turn);
        children.swap(0, (turn + 1) % len);
        prop_assert_eq!(merge(&children, &[], &usual()).unwrap(), sorted);
    }
}

fn annotated(texts: &[&str]) -> Packaging {
    let annotations = texts.iter().flat_map(|text| farm_types::Annotation::parse(text).unwrap()).collect();
    Packaging { annotations, ..usual() }
}

#[test]
fn annotations_stand_where_they_were_asked_for_and_always_in_one_order() {
    let form = annotated(&[
        "index:z=1",
        "index:a=\"2\"",
        "manifest-descriptor[linux/arm64]:d=arm",
        "manifest-descriptor:d=all",
        "m=3",
    ]);
    let mut children = [child("linux/arm64", OCI_MANIFEST), child("linux/amd64", OCI_MANIFEST)];
    let error = merge(&children, &[], &form).unwrap_err().to_string();
    assert!(error.contains("without its annotation m") && error.contains("update"), "{error}");
    children.iter_mut().for_each(|child| drop(child.annotations.insert("m".to_owned(), "3".to_owned())));
    let index = merge(&children, &[], &form).unwrap();
    let text = String::from_utf8(index.bytes.clone()).unwrap();
    for part in [
        r#""platform":{"architecture":"amd64","os":"linux"},"annotations":{"d":"all"}"#,
        r#""platform":{"architecture":"arm64","os":"linux"},"annotations":{"d":"arm"}"#,
        r#"],"annotations":{"a":"\"2\"","z":"1"}}"#,
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let turned = Packaging { annotations: form.annotations.iter().rev().cloned().collect(), ..usual() };
    children.reverse();
    assert_eq!(merge(&children, &[], &turned).unwrap(), index);
}

#[test]
fn the_media_types_are_those_that_were_asked_for_or_it_is_refused() {
    let of = |media_types| Packaging { media_types, ..usual() };
    let docker = [child("linux/amd64", DOCKER_MANIFEST), child("linux/arm64", DOCKER_MANIFEST)];
    let oci = [child("linux/amd64", OCI_MANIFEST), child("linux/arm64", OCI_MANIFEST)];
    assert_eq!(merge(&docker, &[], &of(MediaTypes::Docker)).unwrap().media_type, DOCKER_LIST);
    assert_eq!(merge(&oci, &[], &of(MediaTypes::Oci)).unwrap().media_type, OCI_INDEX);
    for (children, types) in [(&docker, MediaTypes::Oci), (&oci, MediaTypes::Docker)] {
        let error = merge(children, &[], &of(types)).unwrap_err().to_string();
        assert!(error.contains("older version"), "{error}");
    }
    let missing = ["linux/s390x".parse().unwrap()];
    let error = merge(&docker, &missing, &of(MediaTypes::Docker)).unwrap_err().to_string();
    assert!(error.contains("--media-type oci"), "{error}");
}

#[test]
fn the_operating_systems_version_and_features_come_from_the_config() {
    let mut windows = child("linux/amd64", OCI_MANIFEST);
    windows.system = System { version: Some("10.0.1".to_owned()), features: vec!["win32k".to_owned()] };
    let text = String::from_utf8(merge(&[windows], &[], &usual()).unwrap().bytes).unwrap();
    let platform = r#"{"architecture":"amd64","os":"linux","os.version":"10.0.1","os.features":["win32k"]}"#;
    assert!(text.contains(platform), "{text}");
}

#[test]
fn attestations_stand_in_the_index_or_refer_to_their_image_or_are_left_out() {
    let children = [attested("linux/arm64"), attested("linux/amd64")];
    let of = |attestations| merge(&children, &[], &Packaging { attestations, ..usual() }).unwrap();
    let (inline, referring, none) = (of(Placement::Inline), of(Placement::Referrers), of(Placement::None));
    assert_eq!((inline.manifests.len(), inline.referrers.len()), (4, 0));
    assert_eq!((&referring.bytes, referring.manifests.len()), (&none.bytes, 2));
    assert!(none.referrers.is_empty());
    let pairs: Vec<(Digest, Digest)> =
        referring.referrers.iter().map(|one| (one.subject.digest, one.attestation)).collect();
    let of =
        |platform: &str| (Digest::of(platform.as_bytes()), Digest::of(format!("att {platform}").as_bytes()));
    assert_eq!(pairs, [of("linux/amd64"), of("linux/arm64")]);
    let bytes = b"{}".to_vec();
    let mut only = attested("linux/amd64");
    only.manifest.digest = Digest::of(&bytes);
    let form = Packaging { attestations: Placement::Referrers, ..usual() };
    assert_eq!(alone(&[only], bytes, &form).unwrap().referrers.len(), 1);
}
