use farm_proto::v1::{Attempt, ImageAttestation, ImageVariant, InspectImageResponse, Job};
use farm_types::Digest;
use serde_json::json;

use super::*;
use crate::image::json::ImageJson;

fn variant(platform: &str, config: &Value) -> ImageVariant {
    let manifest = json!({
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "sha256:c", "size": 5},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": "sha256:1", "size": 1200},
                   {"mediaType": "application/vnd.oci.image.layer.v1.tar+zstd", "digest": "sha256:2", "size": 7}],
        "annotations": {"made": "by \u{1b}[31mhand"},
    });
    ImageVariant {
        platform: platform.into(),
        digest: Digest::of(platform.as_bytes()).to_string(),
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        manifest: manifest.to_string().into(),
        config: config.to_string().into(),
        image_bytes: 1212,
        ..Default::default()
    }
}

fn image() -> Image {
    let config = json!({
        "created": "2026-01-02T03:04:05Z",
        "config": {"Entrypoint": ["./app.py"], "Cmd": ["--all"], "User": "app", "Env": ["A=1", "B=2"],
                   "ExposedPorts": {"80/tcp": {}}, "Labels": {"team": "web"}},
        "history": [{"created_by": "FROM"}, {"created_by": "ENV", "empty_layer": true}, {"created_by": "RUN make"}],
    });
    let mut amd = variant("linux/amd64", &config);
    amd.attestations = vec![ImageAttestation {
        digest: "sha256:a".into(),
        predicate_types: vec!["https://slsa.dev/provenance/v1".into()],
        size: 4000,
    }];
    let arm = ImageVariant { config_platform: "linux/amd64".into(), ..variant("linux/arm64", &config) };
    let gone = ImageVariant {
        platform: "linux/s390x".into(),
        digest: Digest::of(b"gone").to_string(),
        problem: "the registry hasn't got this manifest".into(),
        ..Default::default()
    };
    let attempt = Attempt { worker: "w-qemu".into(), support: "emulated".into(), ..Default::default() };
    let job = Job { platform: "linux/arm64".into(), attempts: vec![attempt], ..Default::default() };
    let spec = farm_proto::v1::BuildSpec { platforms: vec!["linux/arm64".into()], ..Default::default() };
    let build = Build { id: "7f3k2m".into(), jobs: vec![job], spec: Some(spec), ..Default::default() };
    InspectImageResponse {
        reference: "r.example/app:1".into(),
        digest: Digest::of(b"index").to_string(),
        media_type: "application/vnd.oci.image.index.v1+json".into(),
        manifest: json!({"manifests": [{"digest": amd.digest, "annotations": {"k": "v"}}]})
            .to_string()
            .into(),
        variants: vec![amd, arm, gone],
        build: Some(build),
    }
    .into()
}

#[test]
fn an_index_is_a_line_per_platform_and_what_is_odd_is_said() {
    let lines = overview(&image(), 180_000);
    assert_eq!(lines[0], "r.example/app:1  OCI index, 3 platforms");
    assert!(
        lines[1].starts_with("sha256:") && lines[1].ends_with("built here 3 min ago: farm show 7f3k2m"),
        "{lines:?}"
    );
    assert!(
        lines[2].starts_with("├─ linux/amd64") && lines[2].contains("1.2 kB  2 layers  ./app.py --all"),
        "{lines:?}"
    );
    assert!(lines[2].contains("provenance"), "{lines:?}");
    assert!(lines[3].ends_with("emulated on w-qemu"), "{lines:?}");
    assert!(lines[4].starts_with("│ ") && lines[4].contains("its config says linux/amd64"), "{lines:?}");
    assert!(
        lines[5].starts_with("└─ linux/s390x") && lines[6].contains("hasn't got this manifest"),
        "{lines:?}"
    );
}

#[test]
fn one_platform_is_shown_with_all_that_is_known() {
    let image = image();
    let lines = details(&image, &[&image.variants[0]], 0);
    for line in [
        "linux/amd64",
        "  entrypoint   [\"./app.py\"]",
        "  command      [\"--all\"]",
        "  user         app",
        "  environment  A=1",
        "               B=2",
        "  port         80/tcp",
        "  label        team=web",
        "  annotation   made=by hand",
        "               k=v",
        "  layer        sha256:1  1.2 kB  gzip  FROM",
        "               sha256:2  7 B  zstd  RUN make",
        "  in all       2 layers, 1.2 kB compressed",
        "  attestation  sha256:a  4.0 kB  https://slsa.dev/provenance/v1",
    ] {
        assert!(lines.iter().any(|l| l == line), "{line:?} is not in {lines:#?}");
    }
}

#[test]
fn json_has_it_all() {
    let image = image();
    let all: Vec<&Variant> = image.variants.iter().collect();
    let object = serde_json::to_value(ImageJson::new(&image, &all)).unwrap();
    assert_eq!(object["platforms"][0]["config"]["config"]["User"], "app");
    assert_eq!(object["platforms"][0]["entry_annotations"]["k"], "v");
    assert_eq!(object["platforms"][1]["config_platform"], "linux/amd64");
    assert_eq!(object["platforms"][1]["support"], "emulated");
    assert_eq!(object["platforms"][2]["config"], Value::Null);
    assert_eq!(object["build"]["id"], "7f3k2m");
}

/// A manifest of something that is no image.
fn artifact(manifest: &Value) -> ImageVariant {
    ImageVariant {
        digest: Digest::of(manifest.to_string().as_bytes()).to_string(),
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        manifest: manifest.to_string().into(),
        image_bytes: 1212,
        ..Default::default()
    }
}

fn chart() -> Value {
    json!({
        "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": "sha256:c", "size": 12},
        "layers": [{"mediaType": "application/vnd.cncf.helm.chart.content.v1.tar+gzip", "digest": "sha256:1", "size": 1200}],
        "subject": {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:5", "size": 1},
        "annotations": {"org.opencontainers.image.title": "web"},
    })
}

#[test]
fn what_is_no_image_is_called_by_its_name_and_is_no_platform() {
    let chart = artifact(&chart());
    let lone: Image = InspectImageResponse {
        reference: "r.example/chart:1".into(),
        digest: chart.digest.clone(),
        media_type: chart.media_type.clone(),
        manifest: chart.manifest.clone(),
        variants: vec![chart.clone()],
        build: None,
    }
    .into();
    let all: Vec<&Variant> = lone.variants.iter().collect();
    let lines = details(&lone, &all, 0);
    assert_eq!(lines[0], "r.example/chart:1  Helm chart");
    for line in [
        "Helm chart",
        "  type         application/vnd.cncf.helm.config.v1+json",
        "  about        sha256:5  OCI image",
        "  layer        sha256:1  1.2 kB  gzip  application/vnd.cncf.helm.chart.content.v1.tar+gzip",
        "  annotation   org.opencontainers.image.title=web",
    ] {
        assert!(lines.iter().any(|l| l == line), "{line:?} is not in {lines:#?}");
    }
    assert!(!lines.join("\n").contains("platform"), "{lines:#?}");
    assert!(lone.require_images().unwrap_err().to_string().contains("something else (Helm chart)"));
    let object = serde_json::to_value(ImageJson::new(&lone, &all)).unwrap();
    assert_eq!((&object["kind"], &object["platforms"]), (&"artifact".into(), &json!([])));
    assert_eq!(object["artifact_type"], "application/vnd.cncf.helm.config.v1+json");
    assert_eq!(object["artifacts"][0]["artifact"], "Helm chart");
    assert_eq!(object["artifacts"][0]["subject"], "sha256:5");

    // In an index beside images.
    let mut with = image();
    let count = with.variants.len();
    with.variants.extend(lone.variants);
    let lines = overview(&with, 0);
    assert_eq!(lines[0], format!("r.example/app:1  OCI index, {count} platforms, 1 artifact"));
    assert!(lines.iter().any(|line| line.starts_with("└─ Helm chart ")), "{lines:#?}");
    assert_eq!(with.platforms(), "linux/amd64, linux/arm64, linux/s390x");
    let all: Vec<&Variant> = with.variants.iter().collect();
    let object = serde_json::to_value(ImageJson::new(&with, &all)).unwrap();
    assert_eq!((&object["kind"], &object["artifact_type"]), (&"index".into(), &Value::Null));
    assert_eq!(object["platforms"].as_array().unwrap().len(), count);
    assert_eq!(object["artifacts"].as_array().unwrap().len(), 1);
}
