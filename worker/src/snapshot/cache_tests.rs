//! What the cache keeps, and what it lets go.

use super::*;
use std::io::Read as _;

fn content(letter: char) -> (Digest, String) {
    let text = String::from(letter).repeat(100);
    (Digest::of(text.as_bytes()), text)
}

fn put(cache: &Arc<ContentCache>, letter: char) -> (Digest, Pins) {
    let (digest, text) = content(letter);
    let (pins, _) = cache.pin([(digest, 100)]);
    pins.put(digest, text.as_bytes()).unwrap();
    (digest, pins)
}

fn lacks(cache: &Arc<ContentCache>, letter: char) -> bool {
    let (digest, _) = content(letter);
    let there = cache.path(&digest).exists();
    let state = cache.lock();
    assert_eq!(state.files.contains_key(&digest), there, "books and disk differ on {letter}");
    !there
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Arc::new(ContentCache::open(folder.path(), 300).unwrap());
    for letter in ['a', 'b', 'c'] {
        drop(put(&cache, letter));
    }
    drop(cache.pin([(content('a').0, 100)]));
    drop(put(&cache, 'd'));
    assert!(lacks(&cache, 'b'));
    assert!(!lacks(&cache, 'a') && !lacks(&cache, 'c') && !lacks(&cache, 'd'));
    assert_eq!(cache.bytes(), 300);
}

#[test]
fn what_is_held_stays_beyond_the_bound_until_the_last_one_lets_go() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Arc::new(ContentCache::open(folder.path(), 150).unwrap());
    let (a, first) = put(&cache, 'a');
    let (second, missing) = cache.pin([(a, 100), (a, 100)]);
    assert!(missing.is_empty());
    let (_, other) = put(&cache, 'b');
    assert_eq!(cache.bytes(), 200);
    drop(first);
    assert!(!lacks(&cache, 'a'), "another attempt still holds it");
    drop(second);
    assert!(lacks(&cache, 'a'));
    let mut text = String::new();
    other.open(&content('b').0).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, content('b').1);
}

#[test]
fn a_restart_keeps_what_was_there_and_clears_what_was_half_written() {
    let folder = tempfile::tempdir().unwrap();
    {
        let cache = Arc::new(ContentCache::open(folder.path(), 1000).unwrap());
        drop(put(&cache, 'a'));
        drop(put(&cache, 'b'));
        let old = SystemTime::now() - Duration::from_secs(3600);
        File::open(cache.path(&content('b').0)).unwrap().set_modified(old).unwrap();
        fs::write(cache.parts.join("99"), "half").unwrap();
    }
    let cache = Arc::new(ContentCache::open(folder.path(), 100).unwrap());
    assert!(!cache.parts.join("99").exists());
    assert!(lacks(&cache, 'b') && !lacks(&cache, 'a'), "the older one goes when the bound shrank");
    let (pins, missing) = cache.pin([(content('a').0, 100)]);
    assert!(missing.is_empty());
    assert!(pins.open(&content('a').0).is_ok());
}

#[test]
fn a_use_is_written_down_for_the_next_life() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Arc::new(ContentCache::open(folder.path(), 1000).unwrap());
    let (a, pins) = put(&cache, 'a');
    drop(pins);
    let path = cache.path(&a);
    let old = SystemTime::now() - Duration::from_secs(3600);
    File::open(&path).unwrap().set_modified(old).unwrap();
    let again = Arc::new(ContentCache::open(folder.path(), 1000).unwrap());
    drop(again.pin([(a, 100)]));
    assert!(fs::metadata(path).unwrap().modified().unwrap() > old + Duration::from_secs(60));
}

#[test]
fn a_file_that_lost_bytes_or_is_gone_is_fetched_again() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (content('a').0, content('b').0);
    {
        let cache = Arc::new(ContentCache::open(folder.path(), 1000).unwrap());
        drop((put(&cache, 'a'), put(&cache, 'b')));
        fs::write(cache.path(&a), "short").unwrap();
    }
    let cache = Arc::new(ContentCache::open(folder.path(), 1000).unwrap());
    let (pins, missing) = cache.pin([(a, 100), (b, 100)]);
    assert_eq!(missing, BTreeSet::from([a]));
    fs::remove_file(cache.path(&b)).unwrap();
    assert!(pins.open(&b).is_err());
    drop(pins);
    assert_eq!(cache.pin([(a, 100), (b, 100)]).1, BTreeSet::from([a, b]));
    assert_eq!(cache.bytes(), 0);
}

#[test]
fn what_is_not_what_its_name_says_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Arc::new(ContentCache::open(folder.path(), 1000).unwrap());
    let (a, _) = content('a');
    let (pins, _) = cache.pin([(a, 100)]);
    assert_eq!(pins.put(a, b"other").unwrap_err().kind(), io::ErrorKind::InvalidData);
    drop(pins.write(a).unwrap());
    assert_eq!(fs::read_dir(&cache.parts).unwrap().count(), 0);
    assert!(lacks(&cache, 'a'));
    // Two attempts may bring the same content at once: it counts once.
    pins.put(a, content('a').1.as_bytes()).unwrap();
    pins.put(a, content('a').1.as_bytes()).unwrap();
    assert_eq!(cache.bytes(), 100);
}
