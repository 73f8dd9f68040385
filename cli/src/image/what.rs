//! What a manifest is of: an image, or one of the other things that registries hold (charts, signatures, modules, …).
//!
//! The rules are those of the OCI image-spec v1.1, `manifest.md` ("Guidelines for Artifact Usage"): `artifactType` says it,
//! or else the config's media type. Many older ones bear an image's config and show only by their layers what they are
//! (cosign's signatures, BuildKit's attestations), so layers are looked at, too. One more word for people: [`NAMES`].
//!
//! Invariant: an image is only what has an image's config and nothing but files' layers, or none.

use super::{ManifestDocument, Variant};

/// What a manifest is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A container image.
    Image,
    /// Something else, by its type; empty when nothing says it.
    Artifact(String),
    /// It couldn't be read.
    Unknown,
}

/// The config that says nothing (`manifest.md`, "Guidance for an Empty Descriptor").
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// Types by how they begin, and what people call it.
const NAMES: &[(&str, &str)] = &[
    ("application/vnd.cncf.helm.config.", "Helm chart"),
    ("application/vnd.cncf.helm.chart.provenance.", "Helm provenance"),
    ("application/vnd.cncf.helm.chart.", "Helm chart"),
    ("application/vnd.wasm.", "WASM module"),
    ("application/vnd.bytecodealliance.wasm.", "WASM module"),
    ("application/vnd.module.wasm.", "WASM module"),
    ("application/wasm", "WASM module"),
    ("application/vnd.dev.cosign.simplesigning.", "cosign signature"),
    ("application/vnd.dev.cosign.artifact.sig.", "cosign signature"),
    ("application/vnd.dev.sigstore.bundle.", "Sigstore bundle"),
    ("application/vnd.cncf.notary.signature", "Notation signature"),
    ("application/vnd.docker.attestation.manifest.", "attestation"),
    ("application/vnd.in-toto", "attestation"),
    ("application/vnd.dsse.envelope.", "attestation"),
    ("application/vnd.dev.cosign.artifact.sbom.", "SBOM"),
    ("application/spdx", "SBOM"),
    ("text/spdx", "SBOM"),
    ("application/vnd.cyclonedx", "SBOM"),
    ("application/vnd.syft", "SBOM"),
    ("application/vnd.docker.plugin.", "Docker plugin"),
    ("application/vnd.docker.compose.", "Compose project"),
    ("application/vnd.docker.ai.", "AI model"),
    ("application/vnd.cncf.model.", "AI model"),
    ("application/vnd.ollama.image.", "AI model"),
    ("application/vnd.buildkit.cacheconfig.", "BuildKit cache"),
    ("application/vnd.cncf.openpolicyagent.", "OPA policy"),
    ("application/vnd.cncf.flux.", "Flux source"),
    ("application/vnd.devcontainers", "dev container feature"),
    ("application/vnd.amazon.soci.index.", "SOCI index"),
    ("application/vnd.cncf.falco.", "Falco rules"),
    ("application/vnd.unknown.", "artifact"),
];

fn is_image_config(media_type: &str) -> bool {
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"]
        .contains(&media_type)
}

fn is_image_layer(media_type: &str) -> bool {
    [
        "application/vnd.oci.image.layer.",
        "application/vnd.docker.image.rootfs.",
        "application/vnd.docker.container.image.rootfs.",
    ]
    .iter()
    .any(|begin| media_type.starts_with(begin))
}

fn is_manifest(media_type: &str) -> bool {
    [
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "",
    ]
    .contains(&media_type)
}

impl What {
    /// What this entry is: by its manifest, or, where an index lists something that has none, by the entry's own type.
    pub(super) fn of(media_type: &str, has_manifest: bool, manifest: &ManifestDocument) -> Self {
        if !has_manifest {
            return if is_manifest(media_type) {
                Self::Unknown
            } else {
                Self::Artifact(media_type.to_owned())
            };
        }
        let config = manifest.config.as_ref().map_or("", |config| config.media_type.as_str());
        if let Some(artifact) = manifest.artifact_type.as_deref().filter(|artifact| !artifact.is_empty()) {
            return Self::Artifact(artifact.to_owned());
        }
        let layers = manifest.layers.as_deref().unwrap_or_default();
        let other = layers.iter().map(|layer| layer.media_type.as_str()).find(|layer| !is_image_layer(layer));
        match other {
            // Of several layers one that holds files makes it an image.
            Some(other)
                if is_image_config(config) && layers.iter().all(|l| !is_image_layer(&l.media_type)) =>
            {
                Self::Artifact(other.to_owned())
            }
            _ if is_image_config(config) => Self::Image,
            Some(other) if config.is_empty() || config == EMPTY => Self::Artifact(other.to_owned()),
            _ => Self::Artifact(config.to_owned()),
        }
    }

    /// Its type, where it is no image.
    pub fn artifact_type(&self) -> Option<&str> {
        match self {
            Self::Artifact(artifact) => Some(artifact),
            Self::Image | Self::Unknown => None,
        }
    }

    /// In words: `Helm chart`, or `artifact TYPE` where there is none.
    pub fn words(&self) -> String {
        let artifact = match self {
            Self::Image => return "image".to_owned(),
            Self::Unknown => return "unknown".to_owned(),
            Self::Artifact(artifact) => artifact,
        };
        match NAMES.iter().find(|(begin, _)| artifact.starts_with(begin)) {
            Some((_, name)) => (*name).to_owned(),
            None if artifact.is_empty() => "artifact".to_owned(),
            None => format!("artifact {}", crate::output::text::harmless(artifact)),
        }
    }
}

impl Variant {
    /// True when it is something else than an image, as far as can be told.
    pub fn is_artifact(&self) -> bool {
        matches!(self.what, What::Artifact(_))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

    fn told(artifact_type: &str, config: &str, layers: &[&str]) -> String {
        let layers: Vec<_> =
            layers.iter().map(|layer| json!({"mediaType": layer, "digest": "d", "size": 1})).collect();
        let manifest =
            json!({"artifactType": artifact_type, "config": {"mediaType": config}, "layers": layers});
        let manifest: ManifestDocument = serde_json::from_value(manifest).unwrap();
        What::of("application/vnd.oci.image.manifest.v1+json", true, &manifest).words()
    }

    #[test]
    fn what_registries_hold_is_told_apart() {
        assert_eq!(told("", CONFIG, &[LAYER, LAYER]), "image");
        assert_eq!(told("", CONFIG, &[]), "image");
        let docker = "application/vnd.docker.container.image.v1+json";
        assert_eq!(told("", docker, &["application/vnd.docker.image.rootfs.diff.tar.gzip"]), "image");
        assert_eq!(told("", docker, &["application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"]), "image");
        // One layer that holds files, and another for whoever knows it.
        assert_eq!(told("", CONFIG, &[LAYER, "application/vnd.example.extra"]), "image");

        let chart = "application/vnd.cncf.helm.config.v1+json";
        assert_eq!(told("", chart, &["application/vnd.cncf.helm.chart.content.v1.tar+gzip"]), "Helm chart");
        assert_eq!(
            told("", CONFIG, &["application/vnd.dev.cosign.simplesigning.v1+json"]),
            "cosign signature"
        );
        assert_eq!(told("application/vnd.dev.sigstore.bundle.v0.3+json", EMPTY, &[EMPTY]), "Sigstore bundle");
        assert_eq!(told("", CONFIG, &["application/vnd.in-toto+json"]), "attestation");
        assert_eq!(
            told(
                "application/vnd.docker.attestation.manifest.v1+json",
                EMPTY,
                &["application/vnd.in-toto+json"]
            ),
            "attestation"
        );
        assert_eq!(told("", "application/vnd.wasm.config.v0+json", &["application/wasm"]), "WASM module");
        assert_eq!(told("", EMPTY, &["application/wasm"]), "WASM module");
        assert_eq!(told("", "application/vnd.buildkit.cacheconfig.v0", &[LAYER]), "BuildKit cache");
        assert_eq!(
            told("application/vnd.acme.rocket", CONFIG, &[LAYER]),
            "artifact application/vnd.acme.rocket"
        );
        assert_eq!(told("", "application/vnd.acme.x", &[LAYER]), "artifact application/vnd.acme.x");
        assert_eq!(told("", EMPTY, &[]), format!("artifact {EMPTY}"));
        assert_eq!(told("", "", &[]), "artifact");
    }

    #[test]
    fn an_entry_without_a_manifest_is_told_by_its_own_type() {
        let of = |media_type: &str| What::of(media_type, false, &ManifestDocument::default());
        assert_eq!(of("application/vnd.oci.image.manifest.v1+json"), What::Unknown);
        assert_eq!(of("application/vnd.buildkit.cacheconfig.v0").words(), "BuildKit cache");
    }
}
