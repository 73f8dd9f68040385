//! Attestations and the form of what is published, as the command line has them.

use super::{plan, spec};

#[test]
fn attestations_and_the_form_are_taken_as_buildx_takes_them() {
    let sbom = |line: &[&str]| spec(line).sbom.map(|image| image.to_string());
    let scanner = Some("docker.io/docker/buildkit-syft-scanner:stable-1".to_owned());
    assert_eq!(sbom(&["--sbom"]), scanner);
    assert_eq!(sbom(&["--sbom=true"]), scanner);
    assert_eq!(sbom(&["--attest", "type=sbom"]), scanner);
    assert_eq!(sbom(&["--sbom", "--attest", "type=sbom,disabled=true"]), None);
    assert_eq!(sbom(&["--sbom=false"]), None);
    let own = Some("r.example/scan:1".to_owned());
    assert_eq!(sbom(&["--sbom=generator=r.example/scan:1"]), own);
    assert_eq!(sbom(&["--attest", "type=sbom,generator=r.example/scan:1"]), own);

    let form = spec(&[
        "-tr.example/a",
        "--platform=amd64,arm64",
        "--annotation",
        "index,manifest:a=1",
        "--annotation=a=2",
        "--annotation",
        "manifest-descriptor[linux/arm64]:b=3",
        "--rewrite-timestamp",
        "--source-date-epoch=7",
        "--attestations=none",
    ])
    .packaging;
    let annotations: Vec<String> = form.annotations.iter().map(ToString::to_string).collect();
    assert_eq!(annotations, ["index:a=1", "manifest:a=2", "manifest-descriptor[linux/arm64]:b=3"]);
    assert!(form.rewrite_timestamp && form.attestations == farm_types::Placement::None);
    let types = |line: &[&str]| spec(line).packaging.media_types.as_str();
    assert_eq!(types(&["-ta", "-o", "type=registry,oci-mediatypes=false"]), "docker");
    assert_eq!(types(&["-ta", "-o", "type=registry,oci-mediatypes=false", "--media-type=oci"]), "oci");
    assert_eq!(types(&["-ta"]), "auto");
    assert!(plan(&["--single-platform=manifest", "--provenance", "--attestations=referrers"]).is_ok());
}
