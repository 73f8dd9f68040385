//! Objects and blobs: what somebody was told is there stays there, whatever is swept at that moment.

use std::collections::BTreeMap;
use std::time::Duration;

use farm_store::logs::seal::BlobKind;
use farm_store::sources::snapshots::{NewObject, ObjectKind};
use farm_store::sources::sweep::{DoomedPlace, Removal};
use farm_store::{StoreError, default_project};
use farm_types::{Digest, UploadId};

use crate::fixture::{LEASE, World, world};
use crate::interleavings::stopped;
use farm_tests::session::Session;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn file(name: &str, place: Option<(uuid::Uuid, u64)>) -> NewObject {
    let digest = Digest::of(name.as_bytes());
    NewObject { digest, kind: ObjectKind::File, size: 1, place, children: Vec::new() }
}

fn folder(name: &str, children: &[&NewObject]) -> NewObject {
    let digest = Digest::of(name.as_bytes());
    let children = children.iter().map(|child| child.digest).collect();
    NewObject { digest, kind: ObjectKind::Folder, size: 1, place: None, children }
}

async fn session(world: &World) -> UploadId {
    world.store.open_upload(default_project(), "test", LEASE, &BTreeMap::new()).await.unwrap().upload
}

/// Objects that were uploaded long ago and that nobody needs.
async fn garbage(world: &World, objects: &[NewObject]) {
    let upload = session(world).await;
    world.store.add_objects(default_project(), upload, objects).await.unwrap();
    world.pass("2 days");
    world.store.forget_uploads(world.epoch, DAY, 2).await.unwrap();
    assert_eq!(world.database.psql("SELECT count(*) FROM upload_pins"), "0");
}

fn known(world: &World, object: &NewObject) -> bool {
    let sql = format!("SELECT count(*) FROM objects WHERE encode(digest, 'hex') = '{}'", object.digest.hex());
    world.database.psql(&sql) == "1"
}

async fn remove(world: &World, objects: &[&NewObject]) -> farm_store::Result<Removal> {
    let digests: Vec<Digest> = objects.iter().map(|object| object.digest).collect();
    world.store.remove_objects(world.epoch, default_project(), &digests).await
}

#[tokio::test]
async fn what_names_others_comes_before_what_it_names() {
    let world = world().await;
    let leaf = file("leaf", None);
    let inner = folder("inner", &[&leaf]);
    let outer = folder("outer", &[&inner]);
    garbage(&world, &[leaf.clone(), inner.clone(), outer.clone()]).await;
    let order: Vec<Digest> =
        world.store.all_objects(default_project()).await.unwrap().iter().map(|swept| swept.digest).collect();
    let place = |object: &NewObject| order.iter().position(|digest| *digest == object.digest).unwrap();
    assert!(place(&outer) < place(&inner) && place(&inner) < place(&leaf), "{order:?}");
    assert_eq!(remove(&world, &[&outer, &inner, &leaf]).await.unwrap(), Removal::Done);
    assert!(!known(&world, &outer) && !known(&world, &leaf));
    // The file of an older farm lies under its content's name.
    let doomed: Vec<DoomedPlace> =
        world.store.doomed(&[], 10).await.unwrap().iter().map(|doomed| doomed.place).collect();
    assert!(doomed.contains(&DoomedPlace::File(leaf.digest)), "{doomed:?}");
}

#[tokio::test]
async fn a_folder_that_a_session_was_told_of_is_seen_before_anything_below_it_goes() {
    let world = world().await;
    let leaf = file("leaf", None);
    let top = folder("top", &[&leaf]);
    garbage(&world, &[leaf.clone(), top.clone()]).await;
    let upload = session(&world).await;
    let told = world.store.pin_present(default_project(), upload, &[top.digest]).await.unwrap();
    assert!(told.contains_key(&top.digest));
    let removal = remove(&world, &[&top, &leaf]).await.unwrap();
    assert_eq!(removal, Removal::Wanted(vec![(top.digest, ObjectKind::Folder)]));
    assert!(known(&world, &top) && known(&world, &leaf), "all or none");
    // The next walk begins there.
    let roots = world.store.needed_roots(default_project()).await.unwrap();
    assert!(roots.contains(&(top.digest, ObjectKind::Folder)), "{roots:?}");
}

#[tokio::test]
async fn whoever_is_told_that_it_is_there_while_it_is_swept_finds_it() {
    let world = world().await;
    let mut sessions = [Session::open(world.database.url()), Session::open(world.database.url())];
    for told_first in [true, false] {
        let object = file(&format!("o-{told_first}"), None);
        garbage(&world, std::slice::from_ref(&object)).await;
        let upload = session(&world).await;
        let digests = [object.digest];
        let tell = async {
            let told = world.store.pin_present(default_project(), upload, &digests).await?;
            Ok::<bool, StoreError>(told.contains_key(&object.digest))
        };
        let swept = [&object];
        let sweep = async { remove(&world, &swept).await.map(|removal| removal != Removal::Done) };
        // Both are stopped in front of the object's row.
        let hold = format!(
            "SELECT 1 FROM objects WHERE encode(digest, 'hex') = '{}' FOR UPDATE",
            object.digest.hex()
        );
        let (told, stays) = match told_first {
            true => stopped(&mut sessions, &hold, tell, sweep).await,
            false => {
                let (stays, told) = stopped(&mut sessions, &hold, sweep, tell).await;
                (told, stays)
            }
        };
        let (told, stays) = (told.unwrap(), stays.unwrap());
        assert_eq!((told, stays, known(&world, &object)), (told_first, told_first, told_first));
    }
}

#[tokio::test]
async fn whoever_uploads_what_is_swept_at_that_moment_finds_it_there() {
    let world = world().await;
    let mut sessions = [Session::open(world.database.url()), Session::open(world.database.url())];
    for sweep_first in [true, false] {
        let object = file(&format!("o-{sweep_first}"), None);
        garbage(&world, std::slice::from_ref(&object)).await;
        let upload = session(&world).await;
        let blob = world.store.name_blob(default_project(), BlobKind::Pack).await.unwrap();
        let again = NewObject { place: Some((blob, 0)), ..object.clone() };
        let swept = [&object];
        let sweep = async { remove(&world, &swept).await };
        let add =
            async { world.store.add_objects(default_project(), upload, std::slice::from_ref(&again)).await };
        let hold = format!(
            "SELECT 1 FROM objects WHERE encode(digest, 'hex') = '{}' FOR UPDATE",
            object.digest.hex()
        );
        let (added, removal) = match sweep_first {
            true => {
                let (removal, added) = stopped(&mut sessions, &hold, sweep, add).await;
                (added, removal)
            }
            false => stopped(&mut sessions, &hold, add, sweep).await,
        };
        added.unwrap();
        assert_eq!(removal.unwrap() == Removal::Done, sweep_first);
        assert!(known(&world, &object), "swept first: {sweep_first}");
        // And its bytes are where the row says.
        let found = world.store.locate(default_project(), &[object.digest]).await.unwrap();
        assert_eq!(found[&object.digest].place.is_some(), sweep_first);
    }
}

#[tokio::test]
async fn a_blob_goes_when_no_row_needs_it_and_never_under_a_row() {
    let world = world().await;
    let needed = world.store.name_blob(default_project(), BlobKind::Pack).await.unwrap();
    let late = world.store.name_blob(default_project(), BlobKind::Pack).await.unwrap();
    let upload = session(&world).await;
    let object = file("o", Some((needed, 0)));
    world.store.add_objects(default_project(), upload, std::slice::from_ref(&object)).await.unwrap();
    assert_eq!(world.store.doom_unneeded(world.epoch, DAY, 10).await.unwrap(), 0, "it may be on its way");
    world.pass("25 hours");
    assert_eq!(world.store.doom_unneeded(world.epoch, DAY, 10).await.unwrap(), 1);
    assert_eq!(world.store.doomed(&[], 10).await.unwrap()[0].id, late);
    assert!(world.store.doomed(&[late], 10).await.unwrap().iter().all(|doomed| doomed.id != late));
    // An upload that was stopped for a day between its bytes and its row is refused: its bytes may be gone.
    let upload = session(&world).await;
    let lost = world.store.add_objects(default_project(), upload, &[file("lost", Some((late, 0)))]).await;
    assert!(lost.is_err(), "{lost:?}");
    // A row and the sweep at the same moment: whoever comes first has it.
    let mut sessions = [Session::open(world.database.url()), Session::open(world.database.url())];
    for row_first in [true, false] {
        let blob = world.store.name_blob(default_project(), BlobKind::Pack).await.unwrap();
        world.pass("25 hours");
        let upload = session(&world).await;
        let object = file(&format!("o-{row_first}"), Some((blob, 0)));
        let add = async {
            world.store.add_objects(default_project(), upload, std::slice::from_ref(&object)).await.is_ok()
        };
        let doom =
            async { world.store.doom_unneeded(world.epoch, DAY, 10).await.is_ok_and(|count| count == 1) };
        // The row waits in front of the project's, the sweep in front of the leader's.
        let hold = "SELECT 1 FROM leader, projects FOR UPDATE";
        let (added, doomed) = match row_first {
            true => stopped(&mut sessions, hold, add, doom).await,
            false => {
                let (doomed, added) = stopped(&mut sessions, hold, doom, add).await;
                (added, doomed)
            }
        };
        assert!(added != doomed, "row first: {row_first}, added: {added}, doomed: {doomed}");
        assert_eq!(known(&world, &object), added);
    }
}
