use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use rustix::fs::{CWD, FileType as NodeType, Mode as Bits, mknodat};

use super::*;

fn written(path: &Path) {
    let place = Place::find(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    place.clear().unwrap();
    place.write(b"new").unwrap();
}

fn why(path: &Path) -> String {
    Place::find(path).map(drop).unwrap_err()
}

fn fifo(path: &Path) {
    mknodat(CWD, path, NodeType::Fifo, Bits::from_raw_mode(0o600), 0).unwrap();
}

#[test]
fn a_file_is_written_into_and_stays_what_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    written(&at("fresh"));
    assert_eq!(fs::read(at("fresh")).unwrap(), b"new");

    fs::write(at("old"), "what an earlier one has left").unwrap();
    fs::set_permissions(at("old"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::hard_link(at("old"), at("other name")).unwrap();
    symlink("old", at("link")).unwrap();
    let number = fs::metadata(at("old")).unwrap().ino();
    written(&at("link"));
    let metadata = fs::metadata(at("old")).unwrap();
    assert_eq!((metadata.ino(), metadata.mode() & 0o777), (number, 0o640));
    assert_eq!(fs::read(at("other name")).unwrap(), b"new");
    assert!(at("link").is_symlink());

    // Through several links, to what isn't there yet.
    symlink("second", at("first")).unwrap();
    symlink(at("target"), at("second")).unwrap();
    written(&at("first"));
    assert_eq!(fs::read(at("target")).unwrap(), b"new");
    assert!(at("first").is_symlink() && at("second").is_symlink());
}

#[test]
fn pipes_and_devices_are_written_into() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    fifo(&pipe);
    let place = Place::find(&pipe).unwrap();
    // Nobody reads yet, and nobody waits.
    place.clear().unwrap();
    place.give_up();
    let reading = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read(pipe).unwrap()
    });
    place.write(b"new").unwrap();
    assert_eq!(reading.join().unwrap(), b"new");
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());

    let null = Path::new("/dev/null");
    written(null);
    assert!(fs::metadata(null).unwrap().file_type().is_char_device());
    Place::find(null).unwrap().give_up();
    assert!(fs::metadata(null).unwrap().file_type().is_char_device());
}

#[test]
fn a_reader_who_waits_at_a_pipe_is_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    fifo(&pipe);
    let place = Place::find(&pipe).unwrap();
    let reading = std::thread::spawn(move || fs::read(pipe).unwrap());
    while !reading.is_finished() {
        place.give_up();
        std::thread::yield_now();
    }
    assert_eq!(reading.join().unwrap(), b"");
}

#[test]
fn what_is_open_already_is_written_to_as_it_is() {
    use std::os::fd::AsRawFd as _;
    let mut log = tempfile::tempfile().unwrap();
    log.write_all(b"before ").unwrap();
    let number = log.as_raw_fd();
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    symlink(format!("/dev/fd/{number}"), &link).unwrap();
    for (path, expected) in [
        (link, "before new"),
        (format!("/dev/fd/{number}").into(), "before newnew"),
        (format!("/proc/self/fd/{number}").into(), "before newnewnew"),
    ] {
        written(&path);
        let mut text = String::new();
        io::Seek::rewind(&mut log).unwrap();
        log.read_to_string(&mut text).unwrap();
        assert_eq!(text, expected);
    }
    assert_eq!(Place::find(Path::new("/dev/stdout")).unwrap().kind, Kind::Open(1));
    assert!(why(Path::new("/dev/fd/987")).contains("nothing is open as 987"));
}

#[test]
fn what_must_not_be_written_is_refused_beforehand() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("folder")).unwrap();
    symlink("folder", at("to folder")).unwrap();
    symlink("round", at("round")).unwrap();
    symlink("none/file", at("nowhere")).unwrap();
    fs::write(at("file"), "").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    for (name, expected) in [
        ("folder", "this is a folder"),
        ("to folder", "this is a folder"),
        ("new/", "this is a folder"),
        ("none/file", "its folder isn't there"),
        ("nowhere", "its folder isn't there"),
        ("file/below", "its folder is a file"),
        ("round", "in a circle"),
        ("socket", "this is a socket"),
    ] {
        let path = format!("{}/{name}", folder.path().display());
        assert!(why(Path::new(&path)).contains(expected), "{name}: {}", why(Path::new(&path)));
    }
    if !rustix::process::geteuid().is_root() {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
        assert!(why(&at("new")).contains("its folder can't be written"));
        fs::set_permissions(at("file"), fs::Permissions::from_mode(0o444)).unwrap();
        assert!(why(&at("file")).contains("it can't be written"));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for name in ["", ".", "..", "/"] {
        assert!(why(Path::new(name)).contains("this is a folder"), "{name}");
    }
}

#[test]
fn two_names_of_one_place_are_known_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let same = |one: &Path, other: &Path| Place::find(one).unwrap().is_same(&Place::find(other).unwrap());
    symlink("new", at("link")).unwrap();
    assert!(same(&at("new"), &at("link")) && same(&at("new"), &folder.path().join("./new")));
    assert!(!same(&at("new"), &at("newer")));
    fs::write(at("old"), "").unwrap();
    fs::hard_link(at("old"), at("twin")).unwrap();
    assert!(same(&at("old"), &at("twin")) && !same(&at("old"), &at("new")));
    assert!(Place::find(&at("twin")).unwrap().is_file(&at("old")));
    assert!(!same(Path::new("/dev/null"), Path::new("/dev/null")));
    assert!(same(Path::new("/dev/stdout"), Path::new("/proc/self/fd/1")));
}

#[test]
fn what_is_left_empty_is_removed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (name, text) in [("left", ""), ("full", "x"), ("twin", "")] {
        fs::write(at(name), text).unwrap();
        if name == "twin" {
            fs::hard_link(at(name), at("other twin")).unwrap();
        }
        Place::find(&at(name)).unwrap().give_up();
    }
    assert!(!at("left").exists() && at("full").exists() && at("twin").exists());
}

#[test]
fn a_file_is_replaced_as_a_whole_and_keeps_its_mode_and_links() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mode = |name: &str| fs::metadata(at(name)).unwrap().mode() & 0o777;
    replace(&at("deep/new"), b"1", Mode::Kept(0o644)).unwrap();
    assert_eq!((fs::read(at("deep/new")).unwrap(), mode("deep/new")), (b"1".to_vec(), 0o644));
    fs::set_permissions(at("deep/new"), fs::Permissions::from_mode(0o664)).unwrap();
    symlink("deep/new", at("link")).unwrap();
    replace(&at("link"), b"2", Mode::Kept(0o644)).unwrap();
    assert!(at("link").is_symlink());
    assert_eq!((fs::read(at("deep/new")).unwrap(), mode("deep/new")), (b"2".to_vec(), 0o664));
    replace(&at("link"), b"3", Mode::Always(0o600)).unwrap();
    assert_eq!(mode("deep/new"), 0o600);
    symlink("nowhere/at all", at("broken")).unwrap();
    assert!(replace(&at("broken"), b"4", Mode::Kept(0o644)).is_err() && at("broken").is_symlink());
    let pipe = at("pipe");
    fifo(&pipe);
    assert!(replace(&pipe, b"5", Mode::Kept(0o644)).unwrap_err().contains("no regular file"));
    assert!(replace(Path::new("/dev/null"), b"6", Mode::Kept(0o644)).is_err());
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
}
