//! What was published: what users ask about images.

use std::sync::Arc;

use farm_proto::v1;
use farm_proto::v1::image_service_server::ImageService;
use farm_types::{ImageRef, ImageTag};
use tonic::{Request, Response, Status};

use super::tags::moved;
use super::{removing, status, tags};
use crate::people::accesses::check_pull;
use crate::people::{self, Member};
use crate::registry::By;
use crate::registry::inspect::{Attestation, Variant};
use crate::shared::Shared;
use crate::shown::hidden::Hidden;
use crate::shown::present;

/// So many moves of a tag are told unless more are asked for, and so many at most.
const MOVES: u32 = 20;
const MOST_MOVES: u32 = 100;

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
        let registries =
            self.shared.registries.to_read(&allowed, &image.repository).map_err(status::registry)?;
        if let Some(login) = registries.own() {
            self.shared.accesses.used(login).await;
        }
        let Some(inspected) = registries.inspect(&image).await.map_err(status::registry)? else {
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

    async fn get_tag_history(
        &self,
        request: Request<v1::GetTagHistoryRequest>,
    ) -> Result<Response<v1::GetTagHistoryResponse>, Status> {
        let member = people::member(&request)?;
        let v1::GetTagHistoryRequest { reference, most } = request.get_ref();
        let tag: ImageTag = reference.parse().map_err(status::invalid)?;
        let most = if *most == 0 { MOVES } else { (*most).min(MOST_MOVES) };
        let at = (&tag.repository, tag.tag.as_str());
        let moves =
            self.shared.store.tag_moves(member.project, at, None, most).await.map_err(status::store)?;
        let removals =
            self.shared.store.tag_removals(member.project, at, most).await.map_err(status::store)?;
        if moves.is_empty() && removals.is_empty() {
            return Err(Status::not_found(format!(
                "farm has never moved {tag} in project {}; `farm inspect {tag}` shows what is there",
                member.project_name
            )));
        }
        let (current_digest, trouble) = match current(&self.shared, &member, &tag).await? {
            Ok(digest) => (digest, String::new()),
            Err(why) => (String::new(), why),
        };
        let moves = moves.into_iter().map(moved).collect();
        Ok(Response::new(v1::GetTagHistoryResponse {
            reference: tag.to_string(),
            moves,
            current_digest,
            trouble,
            removals: removals.into_iter().map(removing::shown).collect(),
        }))
    }

    async fn list_tags(
        &self,
        request: Request<v1::ListTagsRequest>,
    ) -> Result<Response<v1::ListTagsResponse>, Status> {
        let member = people::member(&request)?;
        tags::list(&self.shared, &member, request.get_ref()).await.map(Response::new)
    }

    async fn get_repository_usage(
        &self,
        request: Request<v1::GetRepositoryUsageRequest>,
    ) -> Result<Response<v1::GetRepositoryUsageResponse>, Status> {
        let member = people::member(&request)?;
        let usage = tags::usage(&self.shared, &member, request.get_ref()).await?;
        Ok(Response::new(usage))
    }

    async fn remove_images(
        &self,
        request: Request<v1::RemoveImagesRequest>,
    ) -> Result<Response<v1::RemoveImagesResponse>, Status> {
        let member = people::member(&request)?;
        removing::remove(&self.shared, member, request.into_inner()).await.map(Response::new)
    }
}

/// To what a tag points, or why nobody can say; neither: it isn't there.
async fn current(shared: &Shared, member: &Member, tag: &ImageTag) -> Result<Result<String, String>, Status> {
    let repository = &tag.repository;
    let allowed = shared.accesses.of(member.project).await.map_err(status::store)?;
    let is_own = allowed.own(repository.host()).is_some();
    if !is_own
        && shared.registries.is_known(repository.registry())
        && let Err(refused) = check_pull(&allowed, member, repository)
    {
        return Ok(Err(refused.message().to_owned()));
    }
    let by = match shared.registries.to_read(&allowed, repository) {
        Ok(by) => by,
        Err(error) => return Ok(Err(error.message)),
    };
    if let Some(login) = by.own() {
        shared.accesses.used(login).await;
    }
    let head = by.head(repository, &tag.tag).await;
    Ok(head.map(|digest| digest.map(|digest| digest.to_string()).unwrap_or_default()).map_err(|e| e.message))
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
