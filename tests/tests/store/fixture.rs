//! A store with a snapshot, a leader and workers, ready for one test.

use std::collections::BTreeMap;
use std::time::Duration;

use farm_core::publish::{Index, OCI_INDEX};
use farm_store::builds::record::{BuildRecord, JobResult};
use farm_store::builds::submit::{NewBuild, Submitted};
use farm_store::machines::leader::{Epoch, Leadership, Outage, Place};
use farm_store::machines::workers::Registration;
use farm_store::people::audit::By;
use farm_store::schema::MigrationLimits;
use farm_store::sources::snapshots::{NewObject, ObjectKind};
use farm_store::work::attempts::Lease;
use farm_store::work::decide::PublishLimit;
use farm_store::work::finish::Outcome;
use farm_store::work::lease::Assignment;
use farm_store::{Limits, Store, default_project};
use farm_tests::database::Database;
use farm_types::snapshot::Folder;
use farm_types::state::BuildState;
use farm_types::{
    BootId, BuildSpec, Digest, FEATURE_FENCED, FEATURE_MOUNTS, FEATURE_PROBES, FEATURE_PROGRESS,
    FEATURE_UNNEEDED, Offer, RunMode, SnapshotRef, Support, WorkerId,
};
use uuid::Uuid;

/// Long enough that nothing ends by itself.
pub const LEASE: Duration = Duration::from_secs(60);
pub const OUTAGE: Outage = Outage {
    longer_than: Duration::from_secs(5),
    watched: Duration::ZERO,
    settles_within: Duration::from_secs(25),
};
pub const LIMITS: Limits = Limits {
    connections: 8,
    loops: 2,
    acquire: Duration::from_secs(10),
    statement: Duration::from_secs(15),
    grace: Duration::from_secs(5),
    // As long as the lease, so that a test need not renew it.
    leader_fresh: LEASE,
    leader_statement: Duration::from_secs(10),
    suspect_after: Duration::from_secs(12),
};
pub const PUBLISH: PublishLimit = PublishLimit(Duration::from_secs(60));

/// Who does what tests do.
pub fn tester() -> By {
    By { name: "test".to_owned(), token_hint: "farm_p_test".to_owned(), address: "192.0.2.7".to_owned() }
}

pub struct World {
    pub store: Store,
    pub epoch: Epoch,
    pub coordinator: Uuid,
    pub snapshot: SnapshotRef,
    pub database: Database,
}

pub async fn world() -> World {
    world_in(Database::create()).await
}

/// The same in a database that may hold something already; nobody leads there.
pub async fn world_in(database: Database) -> World {
    let store = Store::open(database.url(), LIMITS).unwrap();
    store.migrate(MigrationLimits::default(), |_| {}).await.unwrap();
    let coordinator = Uuid::now_v7();
    let place = Place { address: "test", machine: None };
    store.register_coordinator(coordinator, &place, farm_types::Digest::of(b"secret")).await.unwrap();
    let Leadership::Taken { epoch, .. } = store.lead(coordinator, LEASE, OUTAGE).await.unwrap() else {
        panic!("nobody else leads")
    };
    let snapshot = upload(&store, Folder::default()).await;
    World { store, epoch, coordinator, snapshot, database }
}

/// Uploads a source that is this folder.
pub async fn upload(store: &Store, folder: Folder) -> SnapshotRef {
    let upload = store.open_upload(default_project(), "test", LEASE, &BTreeMap::new()).await.unwrap().upload;
    let root = NewObject {
        digest: folder.tree_digest(),
        kind: ObjectKind::Folder,
        size: folder.encode().len().try_into().unwrap(),
        place: None,
        children: Vec::new(),
    };
    store.add_objects(default_project(), upload, std::slice::from_ref(&root)).await.unwrap();
    let roots = [("dockerfile".to_owned(), root.digest, folder)];
    store.finish_upload(default_project(), upload, &roots).await.unwrap()
}

impl World {
    /// A build of these platforms (`linux/amd64,linux/arm64`) for these tags.
    pub fn new_build(&self, key: &str, platforms: &str, tags: &[&str]) -> NewBuild {
        NewBuild {
            project: default_project(),
            id: farm_types::BuildId::generate(),
            idempotency_key: key.to_owned(),
            spec: BuildSpec {
                snapshot: self.snapshot.clone(),
                platforms: farm_types::Platform::parse_list(platforms).unwrap(),
                optional: Vec::new(),
                tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
                dockerfile: "Dockerfile".to_owned(),
                target: None,
                build_args: Default::default(),
                labels: Default::default(),
                no_cache: false,
                no_cache_stages: Vec::new(),
                run: farm_types::RunOptions::default(),
                pull: Default::default(),
                provenance: Default::default(),
                sbom: None,
                single_platform: Default::default(),
                named_contexts: Default::default(),
                emulation: Default::default(),
                timeout_ms: None,
                exports: Vec::new(),
                image_names: Vec::new(),
                purpose: Default::default(),
                partial: Default::default(),
                mounts: Default::default(),
                origins: Default::default(),
                verify: Default::default(),
                packaging: Default::default(),
                expected: Vec::new(),
                gate: None,
                sign: None,
            },
            fork: None,
            mounts: None,
            signing: None,
            runs: Default::default(),
            by: tester(),
            submitter: Default::default(),
            queue_limit: LEASE,
            publish_limit: PublishLimit(LEASE),
            protected: false,
            of: None,
        }
    }

    pub async fn submit(&self, key: &str, platforms: &str, tags: &[&str]) -> Submitted {
        self.store.submit(&self.new_build(key, platforms, tags)).await.unwrap()
    }

    pub async fn build(&self, build: Submitted) -> BuildRecord {
        self.store.build_by_id(default_project(), build.id).await.unwrap()
    }

    pub async fn state(&self, build: Submitted) -> BuildState {
        self.build(build).await.state
    }

    /// A worker on an engine of its own that runs everything natively.
    pub async fn worker(&self, name: &str, slots: u32) -> (WorkerId, BootId) {
        let boot_id = BootId::generate();
        // A worker of that name that is there already is silent for longer than this.
        let id = self
            .store
            .register_worker(&self.registration(name, boot_id, slots), Duration::ZERO)
            .await
            .unwrap();
        (id, boot_id)
    }

    pub fn registration(&self, name: &str, boot_id: BootId, slots: u32) -> Registration {
        let offer = |platform: &str| Offer {
            platform: platform.parse().unwrap(),
            support: Support::Native,
            told: true,
        };
        Registration {
            draining: false,
            name: name.to_owned(),
            boot_id,
            home: String::new(),
            coordinator: self.coordinator,
            connection: Uuid::new_v4(),
            dial: 0,
            protocol: 1,
            features: [FEATURE_PROGRESS, FEATURE_PROBES, FEATURE_UNNEEDED, FEATURE_MOUNTS, FEATURE_FENCED]
                .map(str::to_owned)
                .to_vec(),
            software_version: "test".to_owned(),
            engine_key: format!("engine of {name}"),
            engine_kind: "docker".to_owned(),
            engine_version: "0".to_owned(),
            engine_buildkit: String::new(),
            engine_package: String::new(),
            offers: vec![offer("linux/amd64"), offer("linux/arm64")],
            slots,
            withdrawn_why: String::new(),
            joined: None,
            stages: false,
        }
    }

    /// The control stream by which a worker is connected.
    pub fn connection(&self, worker: WorkerId) -> Uuid {
        self.database
            .psql(&format!("SELECT connection_id FROM workers WHERE id = '{worker}'"))
            .parse()
            .unwrap()
    }

    /// The assignment of the build's job number `job` to a worker.
    pub async fn assignment(&self, build: Submitted, job: usize, worker: WorkerId) -> Assignment {
        let record = self.build(build).await;
        let workers = self.store.workers().await.unwrap();
        let engine = workers.iter().find(|w| w.id == worker).unwrap().engine_id;
        Assignment {
            job: record.jobs[job].id,
            worker,
            engine,
            support: RunMode::Native,
            reason: String::new(),
        }
    }

    /// Leases the build's job number `job` to a worker.
    pub async fn lease(&self, build: Submitted, job: usize, worker: WorkerId) -> Lease {
        self.lease_for(build, job, worker, LEASE).await
    }

    pub async fn lease_for(&self, build: Submitted, job: usize, worker: WorkerId, lease: Duration) -> Lease {
        let assignment = self.assignment(build, job, worker).await;
        let attempt = self.store.lease(self.epoch, assignment, lease).await.unwrap();
        let token = self
            .database
            .psql(&format!("SELECT lease_token FROM attempts WHERE id = '{attempt}'"))
            .parse()
            .unwrap();
        Lease { attempt, token, holder: None }
    }

    pub async fn finish(&self, lease: Lease, outcome: Outcome) -> farm_store::Result<()> {
        self.finish_checked(lease, outcome, None).await
    }

    /// The same, with what the worker found when it looked at itself.
    pub async fn finish_checked(
        &self,
        lease: Lease,
        outcome: Outcome,
        self_check: Option<&str>,
    ) -> farm_store::Result<()> {
        self.store.finish_attempt(lease, outcome, self_check, PUBLISH, 0.0).await
    }

    /// Moves the farm's clock.
    pub fn pass(&self, interval: &str) {
        // The leader's row has grown old with the rest; its epoch still leads.
        self.database.psql(&format!(
            "UPDATE farm_clock SET shift = shift + interval '{interval}'; \
             UPDATE leader SET expires_at = farm_now() + interval '1 hour', renewed_at = farm_now()"
        ));
    }

    /// Slots in use, over all engines.
    pub fn slots_used(&self) -> i64 {
        self.database.psql("SELECT coalesce(sum(used), 0) FROM engines").parse().unwrap()
    }
}

/// A result that was pushed as the digest of `what`.
pub fn success(what: &str) -> Outcome {
    let result = JobResult {
        digest: Some(Digest::of(what.as_bytes())),
        media_type: farm_core::publish::OCI_MANIFEST.to_owned(),
        size: 1,
        image_bytes: 0,
        steps: 1,
        steps_cached: 0,
        engine: "docker 0".to_owned(),
        syntax_replaced: None,
        answer: None,
        fetched: None,
    };
    let repositories = vec!["localhost:5002/app".parse().unwrap()];
    Outcome::Succeeded { result, repositories, steps: Vec::new() }
}

/// An index with the digest of `what`.
pub fn index(what: &str) -> Index {
    Index {
        bytes: what.as_bytes().to_vec(),
        digest: Digest::of(what.as_bytes()),
        media_type: OCI_INDEX,
        manifests: Vec::new(),
        referrers: Vec::new(),
    }
}
