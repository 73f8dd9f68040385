//! What the leader's passes read follows what has changed, not all history: by Postgres's own plans of the very queries.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::fixture::{World, world};

/// Rows of history in each table.
const MANY: usize = 20_000;

/// The text of the one query of the store that has all of `words` in it.
fn query(words: &[&str]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../coordinator/store/.sqlx");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let query = json["query"].as_str().unwrap().to_owned();
        if words.iter().all(|word| query.contains(word)) {
            found.push(query);
        }
    }
    assert_eq!(found.len(), 1, "queries with {words:?}: {found:#?}");
    found.remove(0)
}

fn history(world: &World) {
    let project = "00000000-0000-7000-8000-000000000001";
    world.database.psql(&format!(
        "INSERT INTO executions (project_id, id, state, spec, tree_id, decided_at, repositories)
            SELECT '{project}', md5('e' || i)::uuid, 'built', '{{}}', sha256('t'), farm_now(), '{{r.example/app}}'
            FROM generate_series(1, {MANY}) i;
         INSERT INTO builds (project_id, id, short_id, idempotency_key, request_digest, execution_id, state, spec, created_by,
                             started_at, finished_at, queue_deadline)
            SELECT '{project}', md5('b' || i)::uuid, 'b' || lpad(i::text, 9, '0'), 'k' || i, sha256('r'), md5('e' || i)::uuid,
                   'succeeded', '{{}}', 'test', farm_now(), farm_now() - make_interval(secs => i), farm_now()
            FROM generate_series(1, {MANY}) i;
         INSERT INTO jobs (project_id, id, execution_id, kind, unit_key, platform, state, queue_class, virtual_time, emulation,
                           ready_at, result, decided_at)
            SELECT '{project}', md5('j' || i)::uuid, md5('e' || i)::uuid, 'build', 'linux/amd64', 'linux/amd64', 'succeeded',
                   'c', farm_now(), 'never', farm_now(), '{{}}', farm_now() FROM generate_series(1, {MANY}) i;
         INSERT INTO publications (project_id, id, build_id, state, index_digest, index_media_type, index_bytes, order_key,
                                   deadline, finished_at)
            SELECT '{project}', md5('p' || i)::uuid, md5('b' || i)::uuid, 'published', sha256(i::text::bytea), 'm', 'x', i,
                   farm_now(), farm_now() FROM generate_series(1, {MANY}) i;
         INSERT INTO destinations (project_id, publication_id, registry, repository, state, settled_at, fate)
            SELECT '{project}', md5('p' || i)::uuid, 'r.example', 'app', 'pushed', farm_now(), 'kept'
            FROM generate_series(1, {MANY}) i;
         INSERT INTO tags (project_id, publication_id, registry, repository, tag, order_key, state, settled_at)
            SELECT '{project}', md5('p' || i)::uuid, 'r.example', 'app', 't' || i % 5000, i, 'verified', farm_now()
            FROM generate_series(1, {MANY}) i;
         INSERT INTO tag_heads (project_id, registry, repository, tag, order_key, digest, epoch)
            SELECT '{project}', 'r.example', 'app', 't' || i, i, sha256('x'), 1 FROM generate_series(1, 5000) i;
         INSERT INTO cleanings (registry, repository, until, next_at)
            SELECT 'r.example', 'app' || i, farm_now() - interval '1 day', farm_now() FROM generate_series(1, {MANY}) i;
         INSERT INTO blobs (project_id, id, kind, created_at, settled)
            SELECT '{project}', md5('l' || i)::uuid, 'pack', farm_now() - make_interval(days => 3), true
            FROM generate_series(1, {MANY}) i;
         INSERT INTO engines (id, key, kind, version, slots)
            SELECT md5('n' || i)::uuid, 'key' || i, 'docker', '1', 1 FROM generate_series(1, {MANY}) i;
         INSERT INTO workers (id, name, engine_id, boot_id, connection_id, protocol, software_version, slots, removed_at)
            SELECT md5('w' || i)::uuid, 'w' || i, md5('n' || i)::uuid, md5('w')::uuid, md5('w')::uuid, 1, '1', 1, farm_now()
            FROM generate_series(1, {MANY}) i;
         INSERT INTO worker_platforms (worker_id, platform, support, told)
            SELECT id, 'linux/amd64', 'native', true FROM workers;
         INSERT INTO audit (project_id, principal, token_hint, address, action, subject, xid)
            SELECT '{project}', 'test', '', '', 'build.submit', 'b' || i, i FROM generate_series(1, {MANY}) i;
         INSERT INTO audit_seals (seal, cluster, from_xid, below_xid, first_id, last_id, row_count, previous, head)
            SELECT i, farm_cluster(), i, i + 1, i, i, 1, sha256(i::text::bytea), sha256((i + 1)::text::bytea)
            FROM generate_series(1, {MANY}) i;
         ANALYZE"
    ));
}

#[tokio::test]
async fn what_a_pass_looks_for_is_found_by_an_index() {
    let world = world().await;
    history(&world);
    for (words, arguments) in [
        (&["row_number() OVER (PARTITION BY registry ORDER BY recheck_at)"][..], "32"),
        (&["NOT farm_build_needed(", "WHERE b.finished_at <"][..], "7776000, 100"),
        (&["farm_blob_needed(project_id, id)", "FOR UPDATE SKIP LOCKED"][..], "86400, 100"),
        (&["FROM cleanings", "= ANY($1) AND until > farm_now()"][..], "'{r.example/app}'"),
        (&["AS \"name!\", until FROM cleanings"][..], ""),
        (&["a.state IN ('offered', 'running') AND $1 = ANY(e.repositories)"][..], "'r.example/app'"),
        (&["j.result ->> 'digest' AS word"][..], "'r.example/app'"),
        (&["FROM workers w JOIN engines e ON e.id = w.engine_id WHERE w.removed_at IS NULL"][..], ""),
        (&["DELETE FROM upload_pins"][..], "86400, 100"),
        (&["DELETE FROM uploads WHERE"][..], "86400, 100"),
        (&["pg_snapshot_xmin"][..], ""),
        (&["UPDATE audit_seals SET removed_at"][..], "34560000, 100"),
        (&["FROM audit a LEFT JOIN projects", "a.project_id = $1"][..], "NULL, NULL, NULL, 1, 100"),
    ] {
        let query = query(words);
        let arguments = if arguments.is_empty() { String::new() } else { format!("({arguments})") };
        let explained = world.database.psql(&format!(
            "SET plan_cache_mode = force_generic_plan; PREPARE asked AS {query}; EXPLAIN EXECUTE asked{arguments}"
        ));
        // Tables of which each farm has few rows, whatever its history.
        let scans = explained.lines().filter(|line| line.contains("Seq Scan"));
        let of_history: Vec<&str> = scans
            .filter(|line| {
                !["farm_clock", "uploads", "upload_pins", "projects", "attempts", "joins", "machines"]
                    .iter()
                    .any(|small| line.contains(small))
            })
            .collect();
        assert!(of_history.is_empty(), "{words:?}: {of_history:?}\n{explained}");
    }
}

#[tokio::test]
async fn a_blob_is_looked_at_once_and_again_when_what_it_held_goes() {
    use farm_store::logs::seal::BlobKind;
    use farm_store::sources::snapshots::{NewObject, ObjectKind};
    use farm_store::sources::sweep::Removal;
    use farm_types::Digest;
    let world = world().await;
    let (store, project) = (&world.store, farm_store::default_project());
    let day = Duration::from_secs(24 * 3600);
    let upload = store.open_upload(project, "test", day, &Default::default()).await.unwrap().upload;
    let blob = store.name_blob(project, BlobKind::Pack).await.unwrap();
    let object = |name: &str, at: u64| NewObject {
        digest: Digest::of(name.as_bytes()),
        kind: ObjectKind::File,
        size: 1,
        place: Some((blob, at)),
        children: Vec::new(),
    };
    let (first, second) = (object("first", 0), object("second", 1));
    store.add_objects(project, upload, &[first.clone(), second.clone()]).await.unwrap();
    world.pass("3 days");
    store.forget_uploads(world.epoch, day, 100).await.unwrap();
    let unsettled = || world.database.psql("SELECT count(*) FROM blobs WHERE NOT settled");
    assert_eq!((store.doom_unneeded(world.epoch, day, 1).await.unwrap(), unsettled().as_str()), (0, "0"));
    for (object, doomed) in [(first, 0), (second, 1)] {
        let removal = store.remove_objects(world.epoch, project, &[object.digest]).await.unwrap();
        assert_eq!(removal, Removal::Done);
        assert_eq!(store.doom_unneeded(world.epoch, day, 1).await.unwrap(), doomed);
    }
    assert_eq!(store.doomed(&[], 10).await.unwrap()[0].id, blob);
}

#[tokio::test]
async fn a_young_farm_is_analysed_when_it_has_grown_and_not_before() {
    let world = world().await;
    // A session's counts are in the statistics when its backend has ended, which nobody who ended it waits for.
    let grow = |from: usize, to: usize| {
        let counted = || {
            let counted = "SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'cleanings'";
            world.database.psql(counted).parse::<usize>().unwrap()
        };
        world.database.psql(&format!(
            "INSERT INTO cleanings (registry, repository, until, next_at)
             SELECT 'r.example', 'app' || i, farm_now(), farm_now() FROM generate_series({from}, {to}) i"
        ));
        let begin = Instant::now();
        while counted() < to {
            assert!(begin.elapsed() < Duration::from_secs(30), "{} of {to} are counted", counted());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    // Else it may come first.
    world.database.psql("ALTER TABLE cleanings SET (autovacuum_enabled = off)");
    grow(1, 150);
    assert!(!world.store.analyse_what_grew().await.unwrap().contains(&"cleanings".to_owned()));
    grow(151, 2_000);
    assert!(world.store.analyse_what_grew().await.unwrap().contains(&"cleanings".to_owned()));
    let seen = world.database.psql("SELECT reltuples FROM pg_class WHERE relname = 'cleanings'");
    assert_eq!(seen, "2000");
    grow(2_001, 2_300);
    assert!(
        !world.store.analyse_what_grew().await.unwrap().contains(&"cleanings".to_owned()),
        "a seventh is not much"
    );
}
