//! What tags have pointed to, and who has moved them.

use std::collections::BTreeSet;
use std::time::Duration;

use farm_core::publish::{Descriptor, Index, IndexDocument, IndexPlatform, OCI_INDEX, OCI_MANIFEST};
use farm_store::builds::submit::Submitted;
use farm_store::default_project;
use farm_store::publish::destinations::Claim;
use farm_store::publish::history::{MOST_MOVES, TagMove};
use farm_types::{BuildSpec, CopySpec, CopyVerb, Digest};

use crate::fixture::{World, success, world};
use crate::publishing::put;

const TAG: &str = "localhost:5002/app:1";

/// An index of these platforms, another one for each `what`.
fn index(what: &str, platforms: &[&str]) -> Index {
    let manifests = platforms.iter().map(|platform| Descriptor {
        media_type: OCI_MANIFEST.to_owned(),
        digest: Digest::of(format!("{what}{platform}").as_bytes()),
        size: 1,
        platform: Some(IndexPlatform::from(&platform.parse().unwrap())),
        annotations: Default::default(),
    });
    let document = IndexDocument {
        schema_version: 2,
        media_type: OCI_INDEX.to_owned(),
        manifests: manifests.collect(),
        annotations: Default::default(),
    };
    let bytes = serde_json::to_vec(&document).unwrap();
    Index {
        digest: Digest::of(&bytes),
        bytes,
        media_type: OCI_INDEX,
        manifests: Vec::new(),
        referrers: Vec::new(),
    }
}

/// Publishes what is due of a build; it finds `before` at the tag.
async fn publish(world: &World, of: Submitted, index: &Index) -> Claim {
    let all = world.store.due_merges(100).await.unwrap();
    let due = all.into_iter().find(|due| due.build == of.id).unwrap();
    world.store.keep_publication(world.epoch, &due, index, &[]).await.unwrap();
    let all = world.store.due_destinations(100).await.unwrap();
    let destination = all.into_iter().find(|one| one.index_digest == index.digest).unwrap();
    world.store.destination_pushed(world.epoch, &destination).await.unwrap();
    put(world, &destination, "1").await
}

async fn built(world: &World, key: &str, index: &Index) {
    let build = world.submit(key, "linux/amd64", &[TAG]).await;
    let (worker, _) = world.worker(&format!("w-{key}"), 1).await;
    let lease = world.lease(build, 0, worker).await;
    world.finish(lease, success(key)).await.unwrap();
    assert_eq!(publish(world, build, index).await, Claim::Granted);
}

async fn moves(world: &World) -> Vec<TagMove> {
    let repository = "localhost:5002/app".parse().unwrap();
    world.store.tag_moves(default_project(), (&repository, "1"), None, 1000).await.unwrap()
}

#[tokio::test]
async fn each_move_of_a_tag_is_kept_with_who_asked_for_it_and_outlives_its_build() {
    let world = world().await;
    assert!(moves(&world).await.is_empty());
    let (one, two) = (index("one", &["linux/amd64", "linux/arm/v7"]), index("two", &["linux/amd64"]));
    built(&world, "k1", &one).await;
    built(&world, "k2", &two).await;
    // Back by a copy, which is a new intention.
    let copy = CopySpec {
        from: format!("localhost:5002/app@{}", one.digest).parse().unwrap(),
        verb: CopyVerb::Rollback,
        platforms: Vec::new(),
    };
    let spec = BuildSpec::to_copy(copy.clone(), vec![TAG.parse().unwrap()]);
    let new = farm_store::builds::submit::NewBuild { spec, ..world.new_build("back", "linux/amd64", &[TAG]) };
    let early = world.submit("early", "linux/amd64", &[TAG]).await;
    let back = world.store.submit(&new).await.unwrap();
    assert_eq!(publish(&world, back, &one).await, Claim::Granted);
    // What was asked for before that, and is built only now, doesn't undo it.
    let (worker, _) = world.worker("w-early", 1).await;
    let lease = world.lease(early, 0, worker).await;
    world.finish(lease, success("early")).await.unwrap();
    assert_eq!(publish(&world, early, &index("early", &["linux/amd64"])).await, Claim::Superseded);

    let known = moves(&world).await;
    let numbers: Vec<u64> = known.iter().map(|one| one.number).collect();
    assert_eq!(numbers, [3, 2, 1], "the newest first");
    let digests: Vec<Digest> = known.iter().map(|one| one.digest).collect();
    assert_eq!(digests, [one.digest, two.digest, one.digest]);
    assert_eq!(known[0].verb, "rollback");
    assert_eq!(known[0].copied_from, Some(copy.from.to_string()));
    assert_eq!((known[1].verb.as_str(), known[1].created_by.as_str()), ("build", "test"));
    assert_eq!(known[2].platforms, ["linux/amd64", "linux/arm/v7"]);
    assert_eq!(known[2].previous, Some(Digest::of(b"before")));
    let repository = "localhost:5002/app".parse().unwrap();
    let older = world.store.tag_moves(default_project(), (&repository, "1"), Some(2), 10).await.unwrap();
    assert_eq!(older.iter().map(|one| one.number).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn of_one_tag_so_many_moves_are_kept() {
    let world = world().await;
    built(&world, "k0", &index("zero", &["linux/amd64"])).await;
    // As if there had been many before.
    world.database.psql(
        "INSERT INTO tag_moves SELECT project_id, registry, repository, tag, number + n, order_key, digest, media_type,
            previous_digest, platforms, build_id, short_id, created_by, verb, copied_from, origin, moved_at
         FROM tag_moves, generate_series(1, 150) n",
    );
    built(&world, "k1", &index("last", &["linux/amd64"])).await;
    let known = moves(&world).await;
    assert_eq!((i64::try_from(known.len()).unwrap(), known[0].number), (MOST_MOVES, 152));
    world
        .database
        .psql("UPDATE tag_moves SET moved_at = farm_now() - interval '500 days' WHERE number < 152");
    let year = std::time::Duration::from_secs(400 * 24 * 3600);
    assert_eq!(world.store.remove_moves(world.epoch, year, 50).await.unwrap(), 50);
    assert_eq!(world.store.remove_moves(world.epoch, year, 50).await.unwrap(), 49);
    assert_eq!(moves(&world).await.len(), 1);
}

#[tokio::test]
async fn what_another_publication_lists_is_known_for_whoever_removes() {
    let world = world().await;
    let of = |what: &str| Digest::of(what.as_bytes());
    let listing = |what: &str, all: &[&str]| Index {
        manifests: all.iter().map(|one| of(one)).collect(),
        ..index(what, &["linux/amd64"])
    };
    let (first, second) = (listing("first", &["a", "shared"]), listing("second", &["b", "shared"]));
    built(&world, "k1", &first).await;
    // The tag has moved on from the first one; it is published all the same.
    built(&world, "k2", &second).await;
    let beside = async |at: &str, of_these: &[Digest], but: &[Digest]| {
        let found = world.store.published_beside(&at.parse().unwrap(), of_these, but).await.unwrap();
        found.into_iter().collect::<BTreeSet<Digest>>()
    };
    let (app, all) = ("localhost:5002/app", [of("a"), of("b"), of("shared"), of("of nobody")]);
    assert_eq!(beside(app, &all, &[second.digest]).await, [of("a"), of("shared")].into());
    assert_eq!(beside(app, &[first.digest], &[second.digest]).await, [first.digest].into());
    assert!(beside(app, &all, &[first.digest, second.digest]).await.is_empty());
    assert!(beside("localhost:5002/other", &all, &[]).await.is_empty());
}

#[tokio::test]
async fn a_tag_that_was_put_once_more_without_a_change_is_as_young_as_that() {
    let world = world().await;
    let same = index("same", &["linux/amd64"]);
    built(&world, "k1", &same).await;
    let last = async || {
        let (at, tags) = ("localhost:5002/app".parse().unwrap(), ["1".to_owned()]);
        let mut moves = world.store.last_moves(default_project(), &at, &tags).await.unwrap();
        moves.remove("1").unwrap().moved_at
    };
    let first = last().await;
    world.pass("40 days");
    let build = world.submit("k2", "linux/amd64", &[TAG]).await;
    let (worker, _) = world.worker("w-again", 1).await;
    let lease = world.lease(build, 0, worker).await;
    world.finish(lease, success("k2")).await.unwrap();
    let due = world.store.due_merges(100).await.unwrap();
    let due = due.into_iter().find(|due| due.build == build.id).unwrap();
    world.store.keep_publication(world.epoch, &due, &same, &[]).await.unwrap();
    let destination = world.store.due_destinations(100).await.unwrap().remove(0);
    world.store.destination_pushed(world.epoch, &destination).await.unwrap();
    // It finds itself there.
    let long = Duration::from_secs(60);
    world.store.claim_tag(world.epoch, &destination, "1", Some(same.digest), long).await.unwrap();
    world.store.tag_put(world.epoch, &destination, "1").await.unwrap();
    world.store.tag_verified(world.epoch, &destination, "1").await.unwrap();
    assert_eq!(moves(&world).await.len(), 1, "it hasn't moved");
    assert!(last().await - first > chrono::TimeDelta::days(39), "{first}");
}
