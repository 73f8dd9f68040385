//! The image as people read it: a line per platform, or one platform in full.

use farm_proto::v1::Build;
use serde_json::Value;

use super::{Blob, Image, Variant, What, attested};
use crate::output::summary::{attempt_ms, made_on};
use crate::output::text::{ago, bytes, columns, count, first_line, harmless, short_digest, span};

/// The most that is shown of a command in a line of its own image.
const COMMAND_WIDTH: usize = 40;
/// The annotation of an attestation's layer that says what it attests (in-toto).
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// The most that is shown of how a layer was made.
const MADE_BY_WIDTH: usize = 60;

/// What it is, and a line per variant.
pub fn overview(image: &Image, now: i64) -> Vec<String> {
    let mut lines = head(image, now);
    let rows: Vec<Vec<String>> = image.variants.iter().map(|variant| row(image, variant)).collect();
    let last = rows.len().saturating_sub(1);
    for (i, (line, variant)) in columns(&rows).into_iter().zip(&image.variants).enumerate() {
        let (branch, below) = if i == last { ("└─", "  ") } else { ("├─", "│ ") };
        lines.push(format!("{branch} {line}"));
        lines.extend(doubts(variant).into_iter().map(|doubt| format!("{below}   {doubt}")));
    }
    lines
}

/// What it is, and these variants in full.
pub fn details(image: &Image, variants: &[&Variant], now: i64) -> Vec<String> {
    let mut lines = head(image, now);
    lines.extend(pairs("annotation", image.annotations.iter().filter(|_| image.is_index())));
    for variant in variants {
        lines.push(String::new());
        lines.extend(full(image, variant, now));
    }
    lines
}

fn head(image: &Image, now: i64) -> Vec<String> {
    let (kind, of) = match image.variants.first() {
        Some(only) if !image.is_index() && only.is_artifact() => (only.what.words(), String::new()),
        _ if !image.is_index() => (kind(&image.media_type), String::new()),
        _ => (kind(&image.media_type), held(image)),
    };
    let built = image.build.as_ref().map(|build| built(build, now)).unwrap_or_default();
    vec![format!("{}  {kind}{of}", harmless(&image.reference)), format!("{}{built}", harmless(&image.digest))]
}

/// `, 2 platforms, 1 artifact`.
fn held(image: &Image) -> String {
    let (images, others) = (image.images().count(), image.artifacts().count());
    let own = image.index_type.as_ref().map(|own| What::Artifact(own.clone()).words());
    let images = (images > 0 || others == 0).then(|| count(images, "platform"));
    let others = (others > 0).then(|| count(others, "artifact"));
    own.into_iter().chain(images).chain(others).map(|part| format!(", {part}")).collect()
}

fn built(build: &Build, now: i64) -> String {
    let id = harmless(&build.id);
    format!("  built here {}: farm show {id}", ago(build.finished_ms, now))
}

/// A media type in words.
fn kind(media_type: &str) -> String {
    match media_type {
        "application/vnd.oci.image.index.v1+json" => "OCI index".to_owned(),
        "application/vnd.docker.distribution.manifest.list.v2+json" => "Docker manifest list".to_owned(),
        "application/vnd.oci.image.manifest.v1+json" => "OCI image".to_owned(),
        "application/vnd.docker.distribution.manifest.v2+json" => "Docker image".to_owned(),
        other => harmless(other),
    }
}

fn row(image: &Image, variant: &Variant) -> Vec<String> {
    let raw = &variant.raw;
    let attested: Vec<&str> = raw.attestations.iter().flat_map(attested).collect();
    let command = first_line(&variant.command().join(" "), COMMAND_WIDTH);
    let made = image.made_by(variant);
    vec![
        title(variant),
        short_digest(&raw.digest),
        if raw.manifest.is_empty() { String::new() } else { bytes(raw.image_bytes) },
        match variant.layers().len() {
            0 => String::new(),
            layers => count(layers, "layer"),
        },
        command,
        attested.join(", "),
        made.map(|attempt| made_on(attempt, &variant.raw.platform)).unwrap_or_default(),
    ]
}

/// What it is called in a list: its platform, or what it is in place of an image.
fn title(variant: &Variant) -> String {
    let platform = match variant.raw.platform.as_str() {
        "" | "unknown/unknown" => None,
        platform => Some(harmless(platform)),
    };
    if variant.is_artifact() {
        return variant.what.words() + &platform.map(|platform| format!(" {platform}")).unwrap_or_default();
    }
    platform.unwrap_or_else(|| "no platform".to_owned())
}

/// What makes the variant something else than it should be.
fn doubts(variant: &Variant) -> Vec<String> {
    let raw = &variant.raw;
    let wrong = (!raw.config_platform.is_empty() && !variant.is_artifact()).then(|| {
        format!(
            "it is not what the index says: its config says {}, so it runs there or nowhere",
            harmless(&raw.config_platform)
        )
    });
    let missing = (!raw.problem.is_empty()).then(|| harmless(&raw.problem));
    wrong.into_iter().chain(missing).collect()
}

fn full(image: &Image, variant: &Variant, now: i64) -> Vec<String> {
    let raw = &variant.raw;
    let mut rows: Vec<(&str, String)> = Vec::new();
    let mut row = |name, text: String| rows.push((name, text));
    // Which has the form of an image's, whatever it is of.
    let form = if variant.is_artifact() { harmless(&raw.media_type) } else { kind(&raw.media_type) };
    row("manifest", format!("{}  {form}", harmless(&raw.digest)));
    if let Some(config) = &variant.manifest.config {
        row("config", blob(config));
    }
    if let Some(artifact) = variant.what.artifact_type().filter(|artifact| !artifact.is_empty()) {
        row("type", harmless(artifact));
    }
    if let Some(subject) = &variant.manifest.subject {
        row("about", format!("{}  {}", harmless(&subject.digest), kind(&subject.media_type)));
    }
    for predicate in variant.layers().iter().filter_map(|layer| layer.annotations.get(PREDICATE_TYPE)) {
        row("attests", harmless(predicate));
    }
    if let Some(attempt) = image.made_by(variant) {
        let text =
            format!("{} in {}", made_on(attempt, &variant.raw.platform), span(attempt_ms(attempt, now)));
        row("built", text);
    }
    if let Some(created) = variant.config["created"].as_str() {
        row("created", harmless(created));
    }
    for (name, key) in [("entrypoint", "Entrypoint"), ("command", "Cmd")] {
        let words = variant.words(key);
        if !words.is_empty() {
            row(name, harmless(&Value::from(words).to_string()));
        }
    }
    for (name, key) in [("user", "User"), ("directory", "WorkingDir"), ("stop signal", "StopSignal")] {
        if !variant.word(key).is_empty() {
            row(name, harmless(variant.word(key)));
        }
    }
    variant.words("Env").iter().for_each(|env| row("environment", harmless(env)));
    for (name, key) in [("port", "ExposedPorts"), ("volume", "Volumes")] {
        let names = variant.config["config"][key].as_object().into_iter().flat_map(serde_json::Map::keys);
        names.for_each(|key| row(name, harmless(key)));
    }
    for (key, value) in variant.config["config"]["Labels"].as_object().into_iter().flatten() {
        row("label", format!("{}={}", harmless(key), harmless(value.as_str().unwrap_or_default())));
    }
    for (key, value) in variant.manifest.annotations.iter().chain(&variant.entry_annotations) {
        row("annotation", format!("{}={}", harmless(key), harmless(value)));
    }
    let made: Vec<&str> = layer_history(&variant.config);
    for (i, layer) in variant.layers().iter().enumerate() {
        let by = match made.get(i) {
            Some(by) => first_line(by, MADE_BY_WIDTH),
            None if variant.is_artifact() => harmless(&layer.media_type),
            None => String::new(),
        };
        row("layer", [blob(layer), by].join("  ").trim_end().to_owned());
    }
    if !variant.layers().is_empty() {
        row(
            "in all",
            format!("{}, {} compressed", count(variant.layers().len(), "layer"), bytes(raw.image_bytes)),
        );
    }
    for attestation in &raw.attestations {
        let types = attestation.predicate_types.join(", ");
        row(
            "attestation",
            format!("{}  {}  {}", harmless(&attestation.digest), bytes(attestation.size), harmless(&types)),
        );
    }
    let mut lines = vec![title(variant)];
    lines.extend(doubts(variant).into_iter().map(|doubt| format!("  {doubt}")));
    // Of several rows with one name the name stands in the first.
    let mut before = "";
    for (name, text) in rows {
        let shown = if name == before { "" } else { name };
        before = name;
        lines.push(format!("  {shown:<11}  {text}"));
    }
    lines
}

fn pairs<'a>(name: &str, pairs: impl Iterator<Item = (&'a String, &'a String)>) -> Vec<String> {
    pairs.map(|(key, value)| format!("{name}  {}={}", harmless(key), harmless(value))).collect()
}

/// `sha256:…  1.2 MB  gzip`.
fn blob(blob: &Blob) -> String {
    let form = match blob.media_type.as_str() {
        t if t.ends_with("tar+gzip") || t.ends_with("tar.gzip") => "  gzip",
        t if t.ends_with("tar+zstd") => "  zstd",
        t if t.ends_with(".tar") => "  uncompressed",
        _ => "",
    };
    format!("{}  {}{form}", harmless(&blob.digest), bytes(blob.size))
}

/// How each layer was made, from the config's history (`config.md`: entries without a layer are marked).
fn layer_history(config: &Value) -> Vec<&str> {
    let history = config["history"].as_array();
    let with_layer = history.into_iter().flatten().filter(|entry| entry["empty_layer"] != true);
    with_layer.map(|entry| entry["created_by"].as_str().unwrap_or_default()).collect()
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
