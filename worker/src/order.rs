//! An offer as the engine is asked for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use farm_dockerfile::Selection;
use farm_proto::v1;
use farm_types::packaging::Level;
use farm_types::pattern::PatternSet;
use farm_types::spec::Purpose;
use farm_types::{BuildSpec, Digest, Invalid, MediaTypes, Platform, ProjectId, RegistryHost, Repository};

use crate::buildkit::{
    Bound, Bounds, Export, Fetches, Grant, ImageForm, Images, Lending, Login, Public, Solve, Tokens,
};
use crate::mask::Mask;
use crate::snapshot::fetch::Roots;

/// What a coordinator without such a limit stands for: longer than any attempt.
const NEVER: Duration = Duration::from_secs(30 * 24 * 3600);

/// An offer in farm's own words.
pub(crate) struct Order {
    pub(crate) project: String,
    /// Its id, if the coordinator says it.
    pub(crate) project_id: Option<ProjectId>,
    /// Whose caches it uses.
    pub(crate) caches: String,
    pub(crate) platform: Platform,
    pub(crate) spec: BuildSpec,
    pub(crate) repositories: Vec<Repository>,
    pub(crate) registries: Vec<v1::Registry>,
    /// Of these, those from which not every image is taken, and what is taken of others.
    within: BTreeMap<RegistryHost, Bound>,
    open: BTreeMap<RegistryHost, Vec<String>>,
    /// Where the engine may fetch what the build names.
    fetches: Fetches,
    /// By which logins images are looked up.
    readers: BTreeSet<String>,
    pub(crate) roots: Vec<String>,
    /// After so long without a word it is given up.
    pub(crate) progress_within: Duration,
    /// The longest output; 0: no limit.
    pub(crate) output_bytes: u64,
    /// What is pushed is verified, but for these files; none: it isn't.
    pub(crate) excepted: Option<PatternSet>,
}

impl TryFrom<v1::Offered> for Order {
    type Error = Invalid;

    fn try_from(offered: v1::Offered) -> Result<Self, Invalid> {
        let spec = offered.spec.ok_or_else(|| Invalid::new("spec", "", "it is not there"))?;
        let (mut within, mut open) = (BTreeMap::new(), BTreeMap::new());
        for registry in &offered.registries {
            let host = RegistryHost::of_login(&registry.host)?;
            // A coordinator of before bounds logins only, and can't tell what everybody may read.
            if registry.bounded || has_login(registry) && !registry.pull.is_empty() {
                let bound = Bound { pull: registry.pull.clone(), or_public: registry.bounded };
                within.insert(host, bound);
            } else if has_login(registry) || !registry.grant.is_empty() {
                open.insert(host.clone(), vec![host.to_string()]);
            } else if !registry.pull.is_empty() {
                open.insert(host, registry.pull.clone());
            }
        }
        let fetches = fetches(offered.fetches, &offered.repositories, &offered.project);
        let readers = offered.registries.iter().map(|registry| registry.reader.clone());
        let spec = BuildSpec::try_from(spec)?;
        Ok(Self {
            excepted: if offered.verify_elf { spec.verify.excepted()? } else { None },
            readers: readers.filter(|reader| !reader.is_empty()).collect(),
            within,
            open,
            fetches,
            caches: match offered.caches {
                // A coordinator of before knew the project's name only.
                caches if caches.is_empty() => format!("{}:trusted", offered.project),
                caches => caches,
            },
            project: offered.project,
            project_id: offered.project_id.parse().ok(),
            platform: offered.platform.parse()?,
            spec,
            repositories: offered.repositories.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            registries: offered.registries,
            roots: offered.roots,
            output_bytes: offered.output_bytes,
            progress_within: match offered.progress_ms {
                0 => NEVER,
                ms => Duration::from_millis(ms),
            },
        })
    }
}

impl Order {
    /// Where it is pushed to, for people.
    pub(crate) fn registry_hosts(&self) -> String {
        let hosts: BTreeSet<String> = self.repositories.iter().map(|to| to.host().to_string()).collect();
        hosts.into_iter().collect::<Vec<_>>().join(", ")
    }

    /// Where it may fetch sources: as an engine may.
    pub(crate) fn into_reach(self) -> Fetches {
        self.fetches
    }

    /// What the engine is asked for, with the source at these roots. `farm` has the registries' tokens, and can tell which images
    /// everybody may read; `public` is what is known of that.
    pub(crate) fn into_solve<F: Tokens + Images + 'static>(
        self,
        roots: Roots,
        farm: &Arc<F>,
        public: Arc<Public>,
    ) -> Solve {
        let tokens: Arc<dyn Tokens> = Arc::<F>::clone(farm);
        let images: Arc<dyn Images> = Arc::<F>::clone(farm);
        let export = (!self.repositories.is_empty()).then(|| Export {
            plain_http: self.repositories.iter().any(|repository| self.is_plain(repository)),
            repositories: self.repositories.clone(),
            told_only: false,
        });
        let granted = self.registries.iter().filter(|registry| !registry.grant.is_empty());
        let lending = Lending {
            project: self.project.clone(),
            grants: granted
                .map(|registry| {
                    let grant = Grant { name: registry.grant.clone(), pull: registry.pull.clone() };
                    (registry.host.clone(), grant)
                })
                .collect(),
            tokens,
        };
        let bounds = Bounds {
            project: self.project.clone(),
            within: self.within,
            open: self.open,
            readers: self.readers,
            images,
            public,
            pushed: None,
        };
        let logins = self
            .registries
            .into_iter()
            .filter(has_login)
            .map(|registry| Login {
                host: registry.host,
                username: registry.username,
                password: registry.password,
            })
            .collect();
        let key = format!("{}\n{}", self.caches, self.spec.dockerfile);
        let packaging = &self.spec.packaging;
        let form = ImageForm {
            docker: packaging.media_types == MediaTypes::Docker,
            annotations: packaging.annotations_of(Level::Manifest, Some(&self.platform)),
            rewrite_timestamp: packaging.rewrite_timestamp,
        };
        Solve {
            platform: self.platform,
            target: self.spec.target,
            build_args: self.spec.build_args,
            labels: self.spec.labels,
            no_cache: self.spec.no_cache,
            no_cache_stages: self.spec.no_cache_stages,
            run: self.spec.run,
            pull: self.spec.pull,
            provenance: self.spec.provenance,
            sbom: self.spec.sbom,
            form,
            named_contexts: self.spec.named_contexts,
            partial: self.spec.partial.iter().map(|(root, all)| (root.clone(), Selection::of(all))).collect(),
            roots,
            shared_key: Digest::of(key.as_bytes()).hex(),
            caches: self.caches,
            dockerfile: self.spec.dockerfile,
            export,
            outputs: Vec::new(),
            image_names: self.spec.image_names.iter().map(ToString::to_string).collect(),
            logins,
            lending: Some(lending),
            bounds: Some(bounds),
            fetches: self.fetches,
            mounted: Arc::default(),
            mask: Mask::default(),
            internal: false,
            call: match self.spec.purpose {
                Purpose::Call(call) => Some(call),
                _ => None,
            },
        }
    }

    fn is_plain(&self, repository: &Repository) -> bool {
        let host = repository.host();
        let lent =
            |registry: &v1::Registry| registry.host.parse().is_ok_and(|named: RegistryHost| named == *host);
        host.is_loopback() || self.registries.iter().any(|registry| registry.plain_http && lent(registry))
    }
}

/// What a coordinator says of it. Images are taken from where the build pushes.
fn fetches(said: Option<v1::Fetches>, repositories: &[String], project: &str) -> Fetches {
    let mut fetches = Fetches::default();
    match said {
        Some(said) => {
            fetches.close(&said.closed);
            fetches.take_images_from(said.registries.iter().map(String::as_str));
            fetches.private = said.private;
            fetches.list(project, &said.only);
        }
        // One of before knows nothing of it.
        None => (fetches.images_anywhere, fetches.private) = (true, true),
    }
    let hosts = repositories.iter().filter_map(|repository| repository.split_once('/'));
    fetches.take_images_from(hosts.map(|(host, _)| host));
    fetches
}

fn has_login(registry: &v1::Registry) -> bool {
    !registry.username.is_empty() || !registry.password.is_empty()
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
