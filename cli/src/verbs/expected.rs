//! `--if-unchanged`: what tags point to before something that moves them is asked for.

use farm_proto::v1::InspectImageRequest;
use farm_types::{ExpectedTag, ImageTag};

use crate::connect::Client;
use crate::error::Result;

/// What each tag points to now, as the farm sees it.
///
/// # Errors
/// The farm or a registry can't be asked.
pub(crate) async fn expected(client: &Client, tags: &[ImageTag]) -> Result<Vec<ExpectedTag>> {
    let mut all = Vec::with_capacity(tags.len());
    for tag in tags {
        let request = InspectImageRequest { reference: tag.to_string() };
        let digest = match client.images().inspect_image(request).await {
            Ok(answer) => Some(answer.into_inner().digest.parse()?),
            Err(status) if status.code() == tonic::Code::NotFound => None,
            Err(status) => return Err(client.error(&status)),
        };
        all.push(ExpectedTag { tag: tag.clone(), digest });
    }
    Ok(all)
}
