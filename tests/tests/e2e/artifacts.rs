//! What a registry holds besides images is shown as what it is: charts, signatures, modules, attestations, caches.

use std::fs;
use std::process::Command;

use farm_tests::bed::Bed;
use farm_tests::process::run;
use serde_json::{Value, json};

use crate::support::*;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A repository that is written to by plain HTTP, as the distribution-spec has it.
struct Repository(String);

impl Repository {
    fn new(name: &str) -> Repository {
        Repository(repository(name))
    }

    fn url(&self) -> String {
        let (registry, name) = self.0.split_once('/').unwrap();
        format!("http://{registry}/v2/{name}")
    }

    /// Puts a blob; answers its descriptor.
    fn blob(&self, media_type: &str, text: &str) -> Value {
        let digest = digest_of(text);
        let begun =
            run(Command::new("curl").args(["-sfi", "-X", "POST", &format!("{}/blobs/uploads/", self.url())]));
        let place = begun.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap().trim().to_owned();
        let mark = if place.contains('?') { '&' } else { '?' };
        self.put(&format!("{place}{mark}digest={digest}"), "application/octet-stream", text);
        json!({"mediaType": media_type, "digest": digest, "size": text.len()})
    }

    /// Puts a manifest under a tag; answers its descriptor.
    fn manifest(&self, tag: &str, media_type: &str, manifest: &Value) -> Value {
        let text = manifest.to_string();
        self.put(&format!("{}/manifests/{tag}", self.url()), media_type, &text);
        json!({"mediaType": media_type, "digest": digest_of(&text), "size": text.len()})
    }

    fn put(&self, url: &str, media_type: &str, text: &str) {
        let folder = Bed::from_env().folder("put");
        let file = folder.path().join("body");
        fs::write(&file, text).unwrap();
        let mut curl = Command::new("curl");
        curl.args(["-sf", "-X", "PUT", "-H", &format!("Content-Type: {media_type}")]);
        run(curl.args(["--data-binary", &format!("@{}", file.display()), url]));
    }

    /// Something with this config and one layer.
    fn artifact(
        &self,
        tag: &str,
        artifact_type: Option<&str>,
        config: &str,
        layer: &str,
        more: Value,
    ) -> Value {
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": self.blob(config, "{}"),
            "layers": [self.blob(layer, &format!("{tag} {}", nonce()))],
        });
        if let Some(artifact_type) = artifact_type {
            manifest["artifactType"] = artifact_type.into();
        }
        for (key, value) in more.as_object().into_iter().flatten() {
            manifest[key] = value.clone();
        }
        self.manifest(tag, MANIFEST, &manifest)
    }
}

#[test]
fn charts_signatures_and_other_things_are_called_what_they_are() {
    let farm = small_farm();
    let put = Repository::new("artifacts");
    let shown = |tag: &str| farm.cli(&["inspect", &format!("{}:{tag}", put.0)]).ok();
    let empty = "application/vnd.oci.empty.v1+json";
    let title = json!({"annotations": {"org.opencontainers.image.title": "web", "org.opencontainers.image.version": "1.2.3"}});
    let chart = "application/vnd.cncf.helm.config.v1+json";
    put.artifact("chart", None, chart, "application/vnd.cncf.helm.chart.content.v1.tar+gzip", title);
    let text = shown("chart");
    assert_eq!(text.lines().next().unwrap(), format!("{}:chart  Helm chart", put.0));
    says(&text, &[chart, "org.opencontainers.image.title=web", "org.opencontainers.image.version=1.2.3"]);
    assert!(!text.contains("OCI image") && !text.contains("platform"), "{text}");

    // As cosign has long done it: with an image's config.
    put.artifact("signature", None, CONFIG, "application/vnd.dev.cosign.simplesigning.v1+json", json!({}));
    says(&shown("signature"), &["signature  cosign signature"]);
    let subject = json!({"subject": {"mediaType": MANIFEST, "digest": digest_of("x"), "size": 1}});
    let bundle = "application/vnd.dev.sigstore.bundle.v0.3+json";
    put.artifact("bundle", Some(bundle), empty, bundle, subject);
    says(&shown("bundle"), &["bundle  Sigstore bundle", &format!("about        {}", digest_of("x"))]);
    put.artifact("module", None, "application/vnd.wasm.config.v0+json", "application/wasm", json!({}));
    says(&shown("module"), &["module  WASM module"]);
    put.artifact("own", Some("application/vnd.acme.rocket"), empty, "text/plain", json!({}));
    says(&shown("own"), &["own  artifact application/vnd.acme.rocket", "text/plain"]);

    let json = farm.cli(&["inspect", &format!("{}:chart", put.0), "--json"]);
    crate::schemas::fits("image", &json.stdout);
    let json = json.json();
    assert_eq!((&json["kind"], &json["artifact_type"]), (&"artifact".into(), &chart.into()), "{json:#}");
    assert_eq!((&json["platforms"], &json["artifacts"][0]["artifact"]), (&json!([]), &"Helm chart".into()));
    // There is nothing to run in it.
    let chart = format!("{}:chart", put.0);
    refused(&farm.cli(&["inspect", &chart, "--platform", "linux/amd64"]), 2, &["no image", "Helm chart"]);
    refused(&farm.cli(&["test", &chart]), 2, &["no image", "Helm chart"]);
    let run = farm.cli(&["run", &chart]);
    assert_eq!(run.status, 125, "{run:?}");
    says(&run.stderr, &["no image", "Helm chart"]);
    let run = farm.cli(&["run", &chart, "--platform", "linux/amd64"]);
    says(&run.stderr, &["no image", "Helm chart"]);
}

#[test]
fn in_an_index_other_things_are_no_platforms() {
    let farm = small_farm();
    let put = Repository::new("mixed");
    let context = Context::new(&format!("FROM scratch\nCOPY Dockerfile /\nLABEL n={}\n", nonce()));
    let tag = format!("{}:1", put.0);
    let args = ["-t", &tag, "--platform", "linux/amd64,linux/arm64", "--provenance"];
    submit(&farm, &context, &args).ok();
    let mut index = index(&tag);
    let chart = "application/vnd.cncf.helm.config.v1+json";
    let chart =
        put.artifact("chart", None, chart, "application/vnd.cncf.helm.chart.content.v1.tar+gzip", json!({}));
    index["manifests"].as_array_mut().unwrap().push(chart);
    put.manifest("mixed", INDEX, &index);
    let mixed = format!("{}:mixed", put.0);
    let text = farm.cli(&["inspect", &mixed]).ok();
    says(&text, &["OCI index, 2 platforms, 1 artifact", "└─ Helm chart", "provenance"]);
    let json = farm.cli(&["inspect", &mixed, "--json"]);
    crate::schemas::fits("image", &json.stdout);
    let json = json.json();
    assert_eq!(json["platforms"].as_array().unwrap().len(), 2, "{json:#}");
    assert_eq!(json["artifacts"].as_array().unwrap().len(), 1, "{json:#}");
    let tested = farm.cli(&["inspect", &mixed, "--platform", "linux/s390x"]);
    refused(&tested, 2, &["has linux/amd64, linux/arm64"]);

    // An attestation by its own digest.
    let attestation = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["platform"]["os"] == "unknown")
        .and_then(|entry| entry["digest"].as_str())
        .unwrap();
    let text = farm.cli(&["inspect", &format!("{}@{attestation}", put.0)]).ok();
    says(&text, &["  attestation\n", "attests      https://slsa.dev/provenance/"]);
    assert!(!text.contains("OCI image"), "{text}");
}

#[test]
fn a_build_cache_that_is_an_index_of_layers_is_told() {
    let farm = small_farm();
    let put = Repository::new("cache");
    let layer = put.blob("application/vnd.oci.image.layer.v1.tar+gzip", &nonce());
    let config = put.blob("application/vnd.buildkit.cacheconfig.v0", "{}");
    // A registry that looks at what an index lists takes no such thing, and then there is nothing to show.
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [layer, config]});
    let url = format!("{}/manifests/old", put.url());
    let folder = Bed::from_env().folder("cache");
    let file = folder.path().join("index");
    fs::write(&file, index.to_string()).unwrap();
    let status = run(Command::new("curl")
        .args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-X",
            "PUT",
            "-H",
            &format!("Content-Type: {INDEX}"),
        ])
        .args(["--data-binary", &format!("@{}", file.display()), &url]));
    if status.trim() == "201" {
        let text = farm.cli(&["inspect", &format!("{}:old", put.0)]).ok();
        says(&text, &["OCI index, 2 artifacts", "BuildKit cache"]);
    }
    let cache = "application/vnd.buildkit.cacheconfig.v0";
    put.artifact("new", None, cache, "application/vnd.oci.image.layer.v1.tar+gzip", json!({}));
    says(&farm.cli(&["inspect", &format!("{}:new", put.0)]).ok(), &["new  BuildKit cache"]);
}
