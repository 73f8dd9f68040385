//! What a platform's result is made into for whoever asked for the build: `--output`.
//!
//! The client alone knows where it goes; here is only what an engine has to make. To add a form: its variant, its words
//! here and on the wire, its exporter in the worker, and what the client does with it.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Invalid;

/// In which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// The files of the root, to be put into a folder: a tar archive with times to the nanosecond.
    Files,
    /// The files of the root as a tar archive, as BuildKit writes it.
    Tar,
    /// An OCI image layout as a tar archive.
    Oci,
    /// The same with what `docker load` of older engines reads.
    Docker,
}

impl Form {
    /// The word that stands for it: `files`, `tar`, `oci` or `docker`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Tar => "tar",
            Self::Oci => "oci",
            Self::Docker => "docker",
        }
    }

    /// Whether it is an image, and not files alone.
    pub fn is_image(self) -> bool {
        matches!(self, Self::Oci | Self::Docker)
    }
}

impl FromStr for Form {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        [Self::Files, Self::Tar, Self::Oci, Self::Docker]
            .into_iter()
            .find(|form| form.as_str() == text)
            .ok_or_else(|| Invalid::new("export", text, "write files, tar, oci or docker"))
    }
}

/// A form, and what BuildKit's exporter is told besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// In which form.
    pub form: Form,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<String, String>,
}

impl Export {
    /// What an image's exporter may be told. (BuildKit: `exporter/containerimage/exptypes/keys.go`.)
    pub const IMAGE_ATTRIBUTES: [&str; 5] =
        ["compression", "compression-level", "force-compression", "oci-mediatypes", "rewrite-timestamp"];

    /// An export with these attributes.
    ///
    /// # Errors
    /// One of them isn't for this form, or has a value that it can't have.
    pub fn new(form: Form, attributes: impl IntoIterator<Item = (String, String)>) -> Result<Self, Invalid> {
        let attributes: BTreeMap<String, String> = attributes.into_iter().collect();
        for (key, value) in &attributes {
            let invalid = |cure: &str| Err(Invalid::new("output", format!("{key}={value}"), cure));
            if !form.is_image() || !Self::IMAGE_ATTRIBUTES.contains(&key.as_str()) {
                return invalid(&format!("{key:?} is nothing that {} takes", form.as_str()));
            }
            let is_fit = match key.as_str() {
                "compression" => ["uncompressed", "gzip", "estargz", "zstd"].contains(&value.as_str()),
                "compression-level" => value.parse::<u8>().is_ok_and(|level| level <= 22),
                _ => matches!(value.as_str(), "true" | "false"),
            };
            if !is_fit {
                return invalid(match key.as_str() {
                    "compression" => "write uncompressed, gzip, estargz or zstd",
                    "compression-level" => "write a number from 0 to 22",
                    _ => "write true or false",
                });
            }
        }
        Ok(Self { form, attributes })
    }

    /// What the exporter is told.
    pub fn attributes(&self) -> &BTreeMap<String, String> {
        &self.attributes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_read_back_and_attributes_belong_to_images() {
        for form in [Form::Files, Form::Tar, Form::Oci, Form::Docker] {
            assert_eq!(form.as_str().parse::<Form>().unwrap(), form);
        }
        let export = |form, key: &str, value: &str| Export::new(form, [(key.to_owned(), value.to_owned())]);
        assert!(export(Form::Oci, "compression", "zstd").is_ok());
        assert!(export(Form::Docker, "oci-mediatypes", "true").is_ok());
        for (form, key, value) in [
            (Form::Files, "compression", "zstd"),
            (Form::Oci, "compression", "lzma"),
            (Form::Oci, "compression-level", "-1"),
            (Form::Oci, "name", "x"),
            (Form::Oci, "push", "true"),
            (Form::Oci, "force-compression", "yes"),
        ] {
            let error = export(form, key, value).unwrap_err().to_string();
            assert!(error.contains(&format!("{key}={value}")), "{error}");
        }
    }
}
