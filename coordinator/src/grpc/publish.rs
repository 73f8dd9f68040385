//! What was published: what users ask about images.

use std::sync::Arc;

use farm_proto::v1;
use farm_proto::v1::image_service_server::ImageService;
use farm_types::ImageRef;
use tonic::{Request, Response, Status};

use super::status;
use crate::people;
use crate::people::accesses::check_pull;
use crate::registry::inspect::{Attestation, Variant};
use crate::registry::{By, RegistryError};
use crate::shared::Shared;
use crate::shown::hidden::Hidden;
use crate::shown::present;

/// Serves [`ImageService`].
#[derive(Debug)]
pub struct Images {
    shared: Arc<Shared>,
}

impl Images {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

async fn absent(registries: &By<'_>, image: &ImageRef) -> Status {
    let repository = &image.repository;
    let (None, Some(tag)) = (image.digest, image.tag.as_deref()) else {
        return Status::not_found(format!("there is no {image}"));
    };
    let instead = registries.instead_of(repository, tag).await;
    Status::not_found(format!("there is no {image}{instead}"))
}

#[farm_calls::service]
impl ImageService for Images {
    async fn inspect_image(
        &self,
        request: Request<v1::InspectImageRequest>,
    ) -> Result<Response<v1::InspectImageResponse>, Status> {
        let member = people::member(&request)?;
        let image: ImageRef = request.get_ref().reference.parse().map_err(status::invalid)?;
        let allowed = self.shared.accesses.of(member.project).await.map_err(status::store)?;
        let is_own = allowed.own(image.repository.host()).is_some();
        if !is_own && self.shared.registries.is_known(image.repository.registry()) {
            check_pull(&allowed, &member, &image.repository)?;
        }
        let registries = self.shared.registries.to_read(&allowed, &image.repository).map_err(registry)?;
        if let Some(login) = registries.own() {
            self.shared.accesses.used(login).await;
        }
        let Some(inspected) = registries.inspect(&image).await.map_err(registry)? else {
            return Err(absent(&registries, &image).await);
        };
        let store = &self.shared.store;
        let published =
            store.build_that_made(member.project, inspected.digest).await.map_err(status::store)?;
        let build = match &published {
            Some(record) => Some(present::build(record, &Hidden::of(&self.shared, &member, record).await?)),
            None => None,
        };
        Ok(Response::new(v1::InspectImageResponse {
            reference: image.to_string(),
            digest: inspected.digest.to_string(),
            media_type: inspected.manifest.media_type,
            manifest: inspected.manifest.bytes.into(),
            variants: inspected.variants.into_iter().map(variant).collect(),
            build,
        }))
    }
}

/// The status of a registry's error: what may pass by itself is told apart from what won't.
fn registry(error: RegistryError) -> Status {
    if error.is_transient() {
        Status::unavailable(error.message)
    } else {
        Status::failed_precondition(error.message)
    }
}

fn variant(variant: Variant) -> v1::ImageVariant {
    v1::ImageVariant {
        platform: variant.platform,
        digest: variant.digest,
        media_type: variant.media_type,
        manifest: variant.manifest.into(),
        config: variant.config.into(),
        config_platform: variant.config_platform,
        image_bytes: variant.image_bytes,
        attestations: variant.attestations.into_iter().map(attestation).collect(),
        problem: variant.problem,
    }
}

fn attestation(attestation: Attestation) -> v1::ImageAttestation {
    v1::ImageAttestation {
        digest: attestation.digest.to_string(),
        predicate_types: attestation.predicate_types,
        size: attestation.size,
    }
}
