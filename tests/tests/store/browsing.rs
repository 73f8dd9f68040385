//! Browsers that are signed in: which token each shows, and until when.

use std::time::Duration;

use farm_store::people::browser_sessions::NewSession;
use farm_types::Digest;

use crate::fixture::{tester, world};

fn session(shown: &str, token: &str) -> NewSession {
    NewSession {
        digest: Digest::of(shown.as_bytes()),
        token: Digest::of(token.as_bytes()),
        is_own_token: false,
        lives: Duration::from_secs(3600),
    }
}

#[tokio::test]
async fn a_session_shows_its_token_until_it_is_ended_over_or_pushed_out() {
    let world = world().await;
    let (store, by) = (&world.store, tester());
    let of = |shown: &str| store.token_of_browser_session(Digest::of(shown.as_bytes()));
    let token = Some(Digest::of(b"token"));
    for shown in ["one", "two"] {
        store.begin_browser_session(&by, session(shown, "token")).await.unwrap();
    }
    assert_eq!((of("one").await.unwrap(), of("two").await.unwrap()), (token, token));
    assert_eq!(of("three").await.unwrap(), None);
    assert!(store.end_browser_session(&by, Digest::of(b"one")).await.unwrap());
    assert!(!store.end_browser_session(&by, Digest::of(b"one")).await.unwrap());
    assert_eq!((of("one").await.unwrap(), of("two").await.unwrap()), (None, token));

    // Whoever has a token can't fill the table by it, nor push out what is another's.
    store.begin_browser_session(&by, session("other", "other")).await.unwrap();
    for number in 0..60 {
        store.begin_browser_session(&by, session(&format!("n{number}"), "token")).await.unwrap();
    }
    assert_eq!(world.database.psql("SELECT count(*) FROM browser_sessions"), "51");
    assert_eq!((of("two").await.unwrap(), of("n59").await.unwrap()), (None, token));
    assert_eq!(of("other").await.unwrap(), Some(Digest::of(b"other")));

    // What is over shows nothing, and goes.
    world.database.psql(
        "UPDATE browser_sessions SET created_at = farm_now() - interval '2 hours', expires_at = farm_now()
         WHERE token_digest <> (SELECT token_digest FROM browser_sessions ORDER BY created_at LIMIT 1)",
    );
    let left = world.database.psql("SELECT count(*) FROM browser_sessions WHERE expires_at > farm_now()");
    let gone = store.remove_browser_sessions(world.epoch).await.unwrap();
    assert!(gone > 0 && world.database.psql("SELECT count(*) FROM browser_sessions") == left, "{gone}");
    let deeds =
        "SELECT string_agg(DISTINCT action, ' ' ORDER BY action) FROM audit WHERE action LIKE 'session.%'";
    assert_eq!(world.database.psql(deeds), "session.begin session.end");
}
