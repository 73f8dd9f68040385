//! Fetching from a FAKE coordinator: only what lacks, checked, and on with the rest after a break.

use super::*;
use std::io::Read as _;

use crate::testing::{Fake, Source, lease};

struct Place {
    fetcher: Fetcher,
    events: mpsc::Receiver<AttemptEvent>,
    sender: mpsc::Sender<AttemptEvent>,
    _folder: tempfile::TempDir,
}

fn place(fake: &Fake) -> Place {
    let folder = tempfile::tempdir().unwrap();
    let cache = Arc::new(ContentCache::open(folder.path(), 1 << 20).unwrap());
    let (sender, events) = mpsc::channel(16);
    Place { fetcher: Fetcher::new(fake.client(), cache), events, sender, _folder: folder }
}

impl Place {
    async fn fetch(&self, tree_id: Digest) -> Result<Roots, SnapshotError> {
        let stop = CancellationToken::new();
        self.fetcher.fetch(lease(), tree_id, &["context".to_owned()], &self.sender, &stop).await
    }

    fn told(&mut self) -> Option<String> {
        use farm_proto::v1::attempt_event::Event;
        match self.events.try_recv().ok()?.event {
            Some(Event::Notice(notice)) => Some(notice.text),
            other => panic!("{other:?}"),
        }
    }
}

fn read(roots: &Roots, path: &str) -> String {
    let mut text = String::new();
    roots["context"].open(path).unwrap().read_to_string(&mut text).unwrap();
    text
}

#[tokio::test]
async fn only_what_is_lacking_is_fetched_and_each_content_once() {
    let fake = Fake::start().await;
    let source =
        Source::new(&[("Dockerfile", "FROM x"), ("a/one", "same"), ("a/two", "same"), ("empty", "")]);
    fake.with(|script| script.source = Some(source.clone()));
    let mut place = place(&fake);
    let roots = place.fetch(source.tree_id()).await.unwrap();
    assert_eq!(place.told().as_deref(), Some("fetching 3 files, 10 B"));
    for (path, content) in source.files() {
        assert_eq!(read(&roots, path), *content);
    }
    drop(roots);
    let changed = Source::new(&[("Dockerfile", "FROM y"), ("a/one", "same"), ("empty", "")]);
    fake.with(|script| {
        script.fetched.clear();
        script.source = Some(changed.clone());
    });
    place.fetch(changed.tree_id()).await.unwrap();
    assert_eq!(fake.with(|script| script.fetched.clone()), ["Dockerfile"]);
    assert_eq!(place.told().as_deref(), Some("fetching 1 file, 6 B"));
    place.fetch(changed.tree_id()).await.unwrap();
    assert_eq!(place.told(), None, "nothing was fetched, and nothing is said");
}

#[tokio::test]
async fn a_break_loses_nothing_that_came() {
    let fake = Fake::start().await;
    let source = Source::new(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")]);
    fake.with(|script| {
        script.source = Some(source.clone());
        script.files_per_call = Some(2);
    });
    let place = place(&fake);
    let roots = place.fetch(source.tree_id()).await.unwrap();
    assert_eq!(read(&roots, "e"), "5");
    assert_eq!(fake.with(|script| script.fetched.clone()), ["a", "b", "c", "d", "e"]);
}

#[tokio::test]
async fn two_attempts_of_one_snapshot_share_what_one_of_them_fetches() {
    let fake = Fake::start().await;
    let source = Source::new(&[("a", "1"), ("b", "2")]);
    fake.with(|script| script.source = Some(source.clone()));
    let place = place(&fake);
    let (one, two) = tokio::join!(place.fetch(source.tree_id()), place.fetch(source.tree_id()));
    assert_eq!((read(&one.unwrap(), "a"), read(&two.unwrap(), "b")), ("1".into(), "2".into()));
    assert_eq!(fake.with(|script| script.fetched.len()), 2);
}

#[tokio::test]
async fn what_is_not_what_was_promised_is_refused() {
    let fake = Fake::start().await;
    let source = Source::new(&[("a", "1")]);
    fake.with(|script| script.source = Some(source.clone()));
    let place = place(&fake);
    let error = place.fetch(Digest::of(b"another")).await.err().unwrap();
    assert!(matches!(error, SnapshotError::Damaged(_)), "{error}");
    let failure = error.into_failure().unwrap();
    assert_eq!((failure.cause, failure.code.as_str()), (farm_types::Cause::Infrastructure, "source_damaged"));
    fake.with(|script| script.source = None);
    let error = place.fetch(source.tree_id()).await.err().unwrap();
    assert!(matches!(error, SnapshotError::Missing(_)), "{error}");
}

#[tokio::test]
async fn a_stop_ends_the_wait_for_a_coordinator_that_is_away() {
    let fake = Fake::start().await;
    let place = place(&fake);
    let stop = CancellationToken::new();
    stop.cancel();
    let fetching = place.fetcher.fetch(lease(), Digest::of(b"x"), &[], &place.sender, &stop);
    assert!(matches!(fetching.await, Err(SnapshotError::Stopped | SnapshotError::Damaged(_))));
}

#[test]
fn pieces_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Arc::new(ContentCache::open(folder.path(), 1 << 20).unwrap());
    let digest = Digest::of(b"1234");
    let (pins, _) = cache.pin([(digest, 4)]);
    let files = [FileAt { path: "a".into(), digest, size: 4 }];
    let store = |pieces: &[(u32, &'static [u8], bool)]| {
        let (sender, queue) = mpsc::channel(16);
        for (index, data, last) in pieces {
            let piece = FetchFilesResponse { index: *index, data: (*data).into(), last: *last };
            sender.try_send(piece).unwrap();
        }
        drop(sender);
        store(&pins, &files, queue).map_err(|error| error.to_string())
    };
    assert_eq!(store(&[(0, b"12", false)]), Ok(0), "half a file is none");
    assert!(store(&[(1, b"1234", true)]).unwrap_err().contains("order"));
    assert!(store(&[(0, b"12345", false)]).unwrap_err().contains("length"));
    assert!(store(&[(0, b"123", true)]).unwrap_err().contains("length"));
    assert!(store(&[(0, b"4321", true)]).unwrap_err().contains("damaged"));
    assert_eq!(cache.bytes(), 0);
    assert_eq!(store(&[(0, b"12", false), (0, b"34", true)]), Ok(1));
    assert_eq!(cache.bytes(), 4);
}

#[test]
fn bytes_are_told_as_people_say_them() {
    assert_eq!([0, 999, 4_100, 5_000_000].map(human), ["0 B", "999 B", "4.1 kB", "5.0 MB"]);
}
