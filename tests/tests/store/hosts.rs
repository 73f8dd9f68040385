//! Registries that were written in capitals before there was one text for each.

use farm_store::publish::destinations::Claim;
use farm_types::state::BuildState;

use crate::fixture::world;
use crate::publishing::{merged, put};

const MIGRATION: &str = include_str!("../../../coordinator/store/migrations/0015_registry_hosts.sql");

/// What an older farm had: every row of this repository names the registry so.
fn rename(registry: &str) -> String {
    format!(
        "INSERT INTO destinations SELECT project_id, publication_id, '{registry}', repository, state, tries, next_try_at,
                failure, settled_at, fate FROM destinations WHERE registry <> '{registry}';
         UPDATE tags SET registry = '{registry}';
         DELETE FROM destinations WHERE registry <> '{registry}';
         UPDATE pushed_digests SET registry = '{registry}';
         UPDATE executions SET repositories = ARRAY['{registry}/app'];
         INSERT INTO cleanings VALUES ('{registry}', 'app', farm_now() + interval '1 h', farm_now());"
    )
}

#[tokio::test]
async fn rows_of_a_registry_in_capitals_become_those_of_the_registry() {
    let world = world().await;
    let (old, _) = merged(&world, "old", &["localhost:5002/app:1", "localhost:5002/app:2"]).await;
    world.database.psql(&rename("LOCALHOST:05002"));
    // Of two claims of a tag the newer one stays.
    world.database.psql(
        "INSERT INTO tag_heads (project_id, registry, repository, tag, order_key, digest, epoch)
         SELECT project_id, registry, 'app', '2', order_key, sha256(registry::bytea), 1
         FROM publications, (VALUES ('LOCALHOST:5002', 0), ('localhost:5002', 1)) AS one (registry, older)
         UNION ALL SELECT project_id, 'LOCALHOST:5002', 'app', '3', 99, sha256('newer'), 1 FROM publications
         UNION ALL SELECT project_id, 'localhost:5002', 'app', '3', 98, sha256('older'), 1 FROM publications",
    );
    world.database.psql(MIGRATION);
    let rows = |sql: &str| world.database.psql(sql);
    for table in ["destinations", "tags", "tag_heads", "pushed_digests", "cleanings"] {
        assert_eq!(rows(&format!("SELECT DISTINCT registry FROM {table}")), "localhost:5002", "{table}");
    }
    assert_eq!(rows("SELECT DISTINCT repositories FROM executions"), "{localhost:5002/app}");
    assert_eq!(rows("SELECT count(*) FROM tag_heads"), "2");
    assert_eq!(rows("SELECT digest = sha256('newer') FROM tag_heads WHERE tag = '3'"), "t");
    // What was under way goes on.
    let due = world.store.due_destinations(10).await.unwrap();
    assert_eq!(due[0].tags, ["1", "2"]);
    world.store.destination_pushed(world.epoch, &due[0]).await.unwrap();
    for tag in ["1", "2"] {
        assert_eq!(put(&world, &due[0], tag).await, Claim::Granted);
    }
    assert_eq!(world.state(old).await, BuildState::Succeeded);
    // Done twice it changes nothing.
    let before = rows("SELECT count(*) FROM tags");
    world.database.psql(MIGRATION);
    assert_eq!(rows("SELECT count(*) FROM tags"), before);
}
