//! What layers hold: a project's own, kept as it was said first, and gone when nobody has asked for it for long.

use farm_store::default_project;
use farm_types::elf::LayerVerdict;
use farm_types::{Digest, ProjectId};

use crate::fixture::{World, tester, world};

fn verdict(path: &str) -> LayerVerdict {
    let mut verdict = LayerVerdict::default();
    verdict.note("amd64", path);
    verdict
}

async fn known(world: &World, project: ProjectId, rules: u32, names: &[&str]) -> Vec<(String, LayerVerdict)> {
    let diff_ids: Vec<Digest> = names.iter().map(|name| Digest::of(name.as_bytes())).collect();
    let found = world.store.layer_verdicts(project, rules, &diff_ids).await.unwrap();
    let all = names.iter().zip(&diff_ids);
    all.filter_map(|(name, diff_id)| Some(((*name).to_owned(), found.get(diff_id)?.clone()))).collect()
}

#[tokio::test]
async fn a_verdict_is_of_one_project_and_one_set_of_rules_and_the_first_one_stays() {
    let world = world().await;
    let (own, store) = (default_project(), &world.store);
    let of = |name: &str, path: &str| (Digest::of(name.as_bytes()), verdict(path));
    store.keep_layer_verdicts(own, 1, &[of("b", "bin/b"), of("a", "bin/a")]).await.unwrap();
    store.keep_layer_verdicts(own, 1, &[of("a", "bin/other"), of("c", "bin/c")]).await.unwrap();
    store.keep_layer_verdicts(own, 1, &[]).await.unwrap();
    let all: Vec<_> = ["a", "b", "c"].map(|name| (name.to_owned(), verdict(&format!("bin/{name}")))).into();
    assert_eq!(known(&world, own, 1, &["a", "b", "c", "d"]).await, all);
    assert_eq!(known(&world, own, 2, &["a"]).await, []);
    let other = store.create_project(&tester(), &"other".parse().unwrap(), None).await.unwrap();
    assert_eq!(known(&world, other, 1, &["a"]).await, []);
    // One that can't be read isn't known, and spoils no other.
    world.database.psql(&format!(
        "UPDATE layer_verdicts SET verdict = '7' WHERE diff_id = '\\x{}'",
        Digest::of(b"a").hex()
    ));
    assert_eq!(known(&world, own, 1, &["a", "b"]).await, all[1..2]);
}

#[tokio::test]
async fn what_nobody_asks_for_goes_and_so_does_what_a_removed_project_had() {
    let world = world().await;
    let (own, store) = (default_project(), &world.store);
    let other = store.create_project(&tester(), &"other".parse().unwrap(), None).await.unwrap();
    let all: Vec<_> = ["a", "b", "c"].map(|name| (Digest::of(name.as_bytes()), verdict(name))).into();
    store.keep_layer_verdicts(own, 1, &all).await.unwrap();
    store.keep_layer_verdicts(other, 1, &all[..1]).await.unwrap();
    assert_eq!(store.forget_layer_verdicts(world.epoch, 100).await.unwrap(), 0);
    world.pass("60 days");
    assert_eq!(known(&world, own, 1, &["b"]).await.len(), 1);
    world.pass("60 days");
    // Of what is old as much as may go at once.
    assert_eq!(store.forget_layer_verdicts(world.epoch, 2).await.unwrap(), 2);
    assert_eq!(store.forget_layer_verdicts(world.epoch, 100).await.unwrap(), 1);
    assert_eq!(known(&world, own, 1, &["a", "b", "c"]).await, [("b".to_owned(), verdict("b"))]);

    store.keep_layer_verdicts(other, 1, &all).await.unwrap();
    store.remove_project(&tester(), other).await.unwrap();
    assert_eq!(store.forget_layer_verdicts(world.epoch, 100).await.unwrap(), 3);
    assert_eq!(store.forget_layer_verdicts(world.epoch, 100).await.unwrap(), 0);
}
