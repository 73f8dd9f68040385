//! What a tag has to point to for a build to move it.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::image::ImageTag;

/// `--if-unchanged`: what a tag pointed to when the build was asked for. What points elsewhere by then stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedTag {
    /// Which.
    pub tag: ImageTag,
    /// To what; `None`: it wasn't there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}
