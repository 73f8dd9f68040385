use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;

/// A context in a folder of its own.
pub(super) struct Bed {
    pub(super) dir: TempDir,
}

impl Bed {
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        let bed = Self { dir: tempfile::tempdir().unwrap() };
        for (name, text) in files {
            let path = bed.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        bed
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn locate(&self, context: &str, file: Option<&str>) -> Result<Location, ContextError> {
        let file = file.map(|file| self.path(file));
        Location::find(self.path(context).to_str().unwrap(), file.as_deref(), &BTreeMap::new())
    }

    pub(super) fn read(&self, context: &str, file: Option<&str>) -> Result<Source, ContextError> {
        read(&self.locate(context, file)?, &around(&Disk, None))
    }
}

pub(super) fn around<'a>(files: &'a dyn Files, cache: Option<&Path>) -> Surroundings<'a> {
    let in_a_minute = SystemTime::now() + Duration::from_secs(60);
    let now_ns = in_a_minute.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
    Surroundings {
        cache: cache.map(Path::to_owned),
        now_ns: i64::try_from(now_ns).unwrap(),
        files,
        meant: None,
        known: None,
        goes_on: &Always,
    }
}

/// All paths of a root, folders with a / at their end, links with their target.
pub(super) fn paths(source: &Source, root: &str) -> Vec<String> {
    fn walk(source: &Source, tree: Digest, above: &str, out: &mut Vec<String>) {
        let Some(Object::Folder { bytes, .. }) = source.objects.get(&tree) else {
            panic!("{tree} is missing")
        };
        for entry in Folder::decode(bytes).unwrap().entries {
            let path = format!("{above}{}", entry.name);
            match entry.node {
                Node::File { digest, size } => {
                    let Some(Object::File { path: at, .. }) = source.objects.get(&digest) else {
                        panic!("{path}")
                    };
                    assert_eq!(u64::try_from(fs::read(at).unwrap().len()), Ok(size));
                    out.push(path);
                }
                Node::Folder { tree, .. } => {
                    out.push(format!("{path}/"));
                    walk(source, tree, &format!("{path}/"), out);
                }
                Node::Symlink { target } => out.push(format!("{path} -> {target}")),
                Node::Fifo => out.push(format!("{path} |")),
            }
        }
    }
    let mut out = Vec::new();
    walk(source, source.roots[root].0, "", &mut out);
    out
}

fn context_paths(bed: &Bed, file: Option<&str>) -> Vec<String> {
    paths(&bed.read("", file).unwrap(), ROOT_CONTEXT)
}

#[test]
fn a_folder_is_read_in_order_and_the_dockerfile_has_a_root_of_its_own() {
    let bed = Bed::new(&[("Dockerfile", "FROM x"), ("a/z", "1"), ("a-b", "2"), ("a/y/x", "1")]);
    fs::create_dir(bed.path("empty")).unwrap();
    let source = bed.read("", None).unwrap();
    assert_eq!(paths(&source, ROOT_CONTEXT), ["Dockerfile", "a/", "a/y/", "a/y/x", "a/z", "a-b", "empty/"]);
    assert_eq!(paths(&source, ROOT_DOCKERFILE), ["Dockerfile"]);
    assert_eq!((source.files, source.files_read), (4, 4));
}

#[test]
fn the_dockerfile_may_lie_elsewhere_and_may_be_a_link() {
    let bed =
        Bed::new(&[("src/a", "1"), ("docker/real", "FROM x"), ("docker/web.Dockerfile.dockerignore", "b")]);
    fs::write(bed.path("src/b"), "2").unwrap();
    symlink("real", bed.path("docker/web.Dockerfile")).unwrap();
    let location = bed.locate("src", Some("docker/web.Dockerfile")).unwrap();
    assert_eq!(
        (location.dockerfile_name.as_str(), location.shown.ends_with("/src")),
        ("web.Dockerfile", true)
    );
    let source = read(&location, &around(&Disk, None)).unwrap();
    assert_eq!(paths(&source, ROOT_CONTEXT), ["a"]);
    assert_eq!(paths(&source, ROOT_DOCKERFILE), ["web.Dockerfile", "web.Dockerfile.dockerignore"]);
    assert_eq!(source.files, 3);
}

#[test]
fn what_dockerignore_names_is_left_out_and_what_it_takes_back_is_there_with_its_folders() {
    let bed = Bed::new(&[
        ("Dockerfile", "FROM x"),
        (".dockerignore", "# all but this\nout\n!out/deep/keep\n*.log"),
        ("out/deep/keep", "1"),
        ("out/deep/drop", "1"),
        ("out/other/drop", "1"),
        ("x.log", "1"),
        ("y.txt", "1"),
    ]);
    let found = context_paths(&bed, None);
    assert_eq!(found, [".dockerignore", "Dockerfile", "out/", "out/deep/", "out/deep/keep", "y.txt"]);
}

#[test]
fn the_ignore_file_beside_the_dockerfile_wins_and_one_that_names_itself_is_left_out() {
    let bed = Bed::new(&[
        ("Dockerfile", "FROM x"),
        ("b.Dockerfile", "FROM x"),
        (".dockerignore", "*"),
        ("b.Dockerfile.dockerignore", "one"),
        ("one", "1"),
        ("two", "1"),
    ]);
    let beside = context_paths(&bed, Some("b.Dockerfile"));
    assert_eq!(beside, [".dockerignore", "Dockerfile", "b.Dockerfile", "b.Dockerfile.dockerignore", "two"]);
    let source = bed.read("", None).unwrap();
    assert_eq!(paths(&source, ROOT_CONTEXT), Vec::<String>::new());
    assert_eq!(paths(&source, ROOT_DOCKERFILE), ["Dockerfile"]);
}

#[test]
fn a_line_that_is_no_pattern_is_named() {
    let bed = Bed::new(&[("Dockerfile", "FROM x"), (".dockerignore", "ok\na[")]);
    let text = bed.read("", None).unwrap_err().to_string();
    assert!(text.contains(".dockerignore") && text.contains("line 2"), "{text}");
    fs::write(bed.path(".dockerignore"), b"ok\n\xff\n").unwrap();
    let text = bed.read("", None).unwrap_err().to_string();
    assert!(text.contains("line 2 isn't UTF-8"), "{text}");
}

#[test]
fn links_stay_links_loops_are_harmless_and_sockets_are_left_out() {
    let bed = Bed::new(&[("Dockerfile", "FROM x"), ("d/a", "1")]);
    symlink("..", bed.path("d/up")).unwrap();
    symlink("self", bed.path("self")).unwrap();
    symlink("/etc/passwd", bed.path("abs")).unwrap();
    symlink("nowhere", bed.path("broken")).unwrap();
    let _socket = UnixListener::bind(bed.path("sock")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(bed.path("pipe")).status();
    let source = bed.read("", None).unwrap();
    let mut wanted = vec![
        "Dockerfile",
        "abs -> /etc/passwd",
        "broken -> nowhere",
        "d/",
        "d/a",
        "d/up -> ..",
        "self -> self",
    ];
    if made.is_ok_and(|status| status.success()) {
        wanted.insert(6, "pipe |");
    }
    assert_eq!(paths(&source, ROOT_CONTEXT), wanted);
    assert_eq!(source.warnings, ["\"sock\" is a socket and is left out"]);
}

#[test]
fn odd_names_are_kept_and_what_is_not_utf8_is_refused_unless_it_is_left_out() {
    let bed = Bed::new(&[
        ("Dockerfile", "FROM x"),
        ("a b", "1"),
        ("größe 木", "1"),
        ("line\nbreak", "1"),
        ("*", "1"),
    ]);
    let odd = std::ffi::OsStr::from_bytes(b"bad\xff.bin");
    fs::write(bed.dir.path().join(odd), "1").unwrap();
    let text = bed.read("", None).unwrap_err().to_string();
    assert!(text.contains("bad") && text.contains("UTF-8") && text.contains(".dockerignore"), "{text}");
    fs::write(bed.path(".dockerignore"), "*.bin").unwrap();
    let found = context_paths(&bed, None);
    assert_eq!(
        found,
        ["*", ".dockerignore", "Dockerfile", "a b", "größe 木", "line\nbreak"].map(str::to_owned)
    );
}

#[test]
fn what_can_not_be_read_is_named_with_the_cure() {
    let bed = Bed::new(&[("Dockerfile", "FROM x"), ("d/secret", "1")]);
    let close =
        |name: &str, mode| fs::set_permissions(bed.path(name), fs::Permissions::from_mode(mode)).unwrap();
    close("d/secret", 0);
    if fs::read(bed.path("d/secret")).is_ok() {
        return; // root reads everything
    }
    let text = bed.read("", None).unwrap_err().to_string();
    assert!(text.contains("d/secret (permission denied)") && text.contains("chmod"), "{text}");
    close("d", 0);
    let text = bed.read("", None).unwrap_err().to_string();
    assert!(text.contains("can't read d "), "{text}");
    fs::write(bed.path(".dockerignore"), "d\n!d/x").unwrap();
    assert!(bed.read("", None).is_ok());
    close("d", 0o755);
}

#[test]
fn modes_and_times_are_those_of_the_files() {
    let bed = Bed::new(&[("Dockerfile", "FROM x"), ("run", "1")]);
    fs::set_permissions(bed.path("run"), fs::Permissions::from_mode(0o4751)).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_600_000_000, 123_456_789);
    fs::File::options().write(true).open(bed.path("run")).unwrap().set_modified(time).unwrap();
    let source = bed.read("", None).unwrap();
    let Some(Object::Folder { bytes, .. }) = source.objects.get(&source.roots[ROOT_CONTEXT].0) else {
        panic!()
    };
    let folder = Folder::decode(bytes).unwrap();
    let run = folder.entries.iter().find(|entry| entry.name == "run").unwrap();
    assert_eq!((run.mode, run.mtime), (0o4751, 1_600_000_000_123_456_789));
}

/// Files of which one is gone when it is opened.
struct Vanishing(&'static str);

impl Files for Vanishing {
    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        if path.ends_with(self.0) {
            fs::remove_file(path)?;
        }
        Disk.open(path)
    }
}

#[test]
fn a_file_that_is_gone_before_it_is_read_is_not_in_the_tree() {
    let bed = Bed::new(&[("Dockerfile", "FROM x"), ("gone", "1"), ("stays", "2")]);
    let source = read(&bed.locate("", None).unwrap(), &around(&Vanishing("gone"), None)).unwrap();
    assert_eq!(paths(&source, ROOT_CONTEXT), ["Dockerfile", "stays"]);
    assert_eq!(source.files, 2);
}

/// Counts what is opened; a file named in `restless` looks changed after each of its first readings.
#[derive(Default)]
struct Watched {
    opened: AtomicUsize,
    restless: Option<(&'static str, usize)>,
    times: AtomicUsize,
}

struct Restless {
    file: fs::File,
    moves: bool,
    asked: AtomicUsize,
}

impl Read for Restless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl OpenFile for Restless {
    fn stat(&self) -> io::Result<Stat> {
        let mut stat = OpenFile::stat(&self.file)?;
        if self.moves {
            stat.mtime += i64::try_from(self.asked.fetch_add(1, Ordering::Relaxed)).unwrap();
        }
        Ok(stat)
    }
}

impl Files for Watched {
    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let file = open_file(path)?;
        let moves = self.restless.is_some_and(|(name, times)| {
            path.ends_with(name) && self.times.fetch_add(1, Ordering::Relaxed) < times
        });
        Ok(Box::new(Restless { file, moves, asked: AtomicUsize::new(0) }))
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_read_once_more_and_then_given_up() {
    let bed = Bed::new(&[("Dockerfile", "FROM x"), ("log", "1")]);
    let location = bed.locate("", None).unwrap();
    let once = Watched { restless: Some(("log", 1)), ..Watched::default() };
    assert!(read(&location, &around(&once, None)).is_ok());
    let always = Watched { restless: Some(("log", 2)), ..Watched::default() };
    let error = read(&location, &around(&always, None)).unwrap_err();
    assert_eq!(error, ContextError::Changed("log".to_owned()));
}

#[test]
fn what_did_not_change_is_not_read_again() {
    let bed = Bed::new(&[("c/Dockerfile", "FROM x"), ("c/a", "1"), ("c/b", "2"), ("cache/x", "")]);
    let location = bed.locate("c", None).unwrap();
    let cache = bed.path("cache");
    let read_again = || {
        let files = Watched::default();
        let source = read(&location, &around(&files, Some(&cache))).unwrap();
        // The Dockerfile's own root is always read: it is one file.
        (source.files_read, files.opened.load(Ordering::Relaxed) - 1, source.names())
    };
    let first = read_again();
    assert_eq!((first.0, first.1), (3, 3));
    let second = read_again();
    assert_eq!((second.0, second.1), (0, 0));
    assert_eq!(first.2, second.2);
    fs::write(bed.path("c/a"), "other").unwrap();
    let third = read_again();
    assert_eq!((third.0, third.1), (1, 1));
    assert_ne!(second.2.1, third.2.1);
}

#[test]
fn named_contexts_have_their_own_roots_and_ignore_files() {
    let bed = Bed::new(&[
        ("c/Dockerfile", "FROM x"),
        ("lib/.dockerignore", "no"),
        ("lib/no", "1"),
        ("lib/yes", "1"),
    ]);
    let named = BTreeMap::from([("lib".to_owned(), bed.path("lib"))]);
    let location = Location::find(bed.path("c").to_str().unwrap(), None, &named).unwrap();
    let source = read(&location, &around(&Disk, None)).unwrap();
    assert_eq!(paths(&source, "context:lib"), [".dockerignore", "yes"]);
    assert_eq!(source.roots.len(), 3);
}

#[test]
fn what_is_no_context_or_no_dockerfile_is_said_with_the_cure() {
    let bed = Bed::new(&[("c/prod.Dockerfile", "FROM x"), ("e/Dockerfile", ""), ("l/dockerfile", "FROM x")]);
    fs::create_dir(bed.path("d")).unwrap();
    let error = |context: &str, file: Option<&str>| match bed.locate(context, file) {
        Ok(location) => panic!("{location:?}"),
        Err(e) => e.to_string(),
    };
    assert!(error("nothing", None).contains("no such folder"));
    assert!(error("c/prod.Dockerfile", None).contains("a folder is needed"));
    let text = error("c", None);
    assert!(text.contains("-f FILE; there is") && text.contains("c/prod.Dockerfile"), "{text}");
    assert!(error("d", None).ends_with("name it with -f FILE"));
    assert!(error("e", None).contains("is empty"));
    assert!(error("c", Some("d")).contains("this is a folder"));
    assert_eq!(bed.locate("l", None).unwrap().dockerfile_name, "dockerfile");
    assert!(error("c", Some("-")).contains("no Dockerfile"));
}

/// The paths of the context that a build of this Dockerfile can name.
fn meant_paths(bed: &Bed, dockerfile: &str) -> Vec<String> {
    fs::write(bed.path("Dockerfile"), dockerfile).unwrap();
    let platforms = ["linux/amd64".parse().unwrap()];
    let (args, contexts) = (BTreeMap::new(), BTreeMap::new());
    let build =
        farm_dockerfile::Build { target: None, args: &args, contexts: &contexts, platform: &platforms[0] };
    let meant =
        Sources::of(&farm_dockerfile::Dockerfile::parse(dockerfile.as_bytes()), &build, &platforms).unwrap();
    let around = Surroundings { meant: Some(&meant), ..around(&Disk, None) };
    paths(&read(&bed.locate("", None).unwrap(), &around).unwrap(), ROOT_CONTEXT)
}

#[test]
fn only_what_is_named_is_read_with_the_folders_and_links_on_the_way() {
    let bed = Bed::new(&[
        (".dockerignore", "**/*.log\nlib/private\n"),
        ("src/a.c", "1"),
        ("src/deep/b.c", "2"),
        ("src/x.log", "3"),
        ("lib/v1/f", "4"),
        ("lib/private/key", "5"),
        ("other/big", "6"),
        ("a[b]", "7"),
    ]);
    symlink("lib/v1", bed.path("current")).unwrap();
    symlink("/src/deep", bed.path("absolute")).unwrap();
    symlink("../../../etc", bed.path("out")).unwrap();
    let meant = |copy: &str| meant_paths(&bed, &format!("FROM scratch\n{copy}\n"));
    assert_eq!(meant(""), [".dockerignore"]);
    assert_eq!(meant("COPY src/*.c /"), [".dockerignore", "src/", "src/a.c"]);
    assert_eq!(meant("COPY src /"), [".dockerignore", "src/", "src/a.c", "src/deep/", "src/deep/b.c"]);
    assert_eq!(
        meant("COPY current/f /"),
        [".dockerignore", "current -> lib/v1", "lib/", "lib/v1/", "lib/v1/f"]
    );
    assert_eq!(
        meant("COPY absolute /"),
        [".dockerignore", "absolute -> /src/deep", "src/", "src/deep/", "src/deep/b.c"]
    );
    assert_eq!(meant("COPY out /"), [".dockerignore", "out -> ../../../etc"]);
    assert_eq!(meant("COPY lib /"), [".dockerignore", "lib/", "lib/v1/", "lib/v1/f"]);
    assert_eq!(meant("COPY lib/private/key /"), [".dockerignore", "lib/"]);
    assert_eq!(meant("COPY a[[]b] nope /x/"), [".dockerignore", "a[b]"]);
    // A wildcard names links, too, whatever they lead to.
    assert_eq!(meant("COPY s*/deep/b.? /x/"), [".dockerignore", "src/", "src/deep/", "src/deep/b.c"]);
    assert!(meant("COPY */deep/b.? /x/").contains(&"current -> lib/v1".to_owned()));
    assert_eq!(meant("COPY . /").len(), 15);
}

#[test]
fn what_nothing_names_may_be_unreadable_oddly_called_or_growing() {
    let bed = Bed::new(&[("a", "1"), ("closed/x", "2")]);
    fs::write(bed.path("").join(std::ffi::OsStr::from_bytes(b"latin-\xe9")), "3").unwrap();
    symlink(std::ffi::OsStr::from_bytes(b"\xe9"), bed.path("odd")).unwrap();
    // For root every file is readable, and what changes all the time is not.
    struct Others;
    impl Files for Others {
        fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
            assert!(["a", "Dockerfile"].contains(&path.file_name().unwrap().to_str().unwrap()), "{path:?}");
            Disk.open(path)
        }
    }
    assert_eq!(meant_paths(&bed, "FROM scratch\nCOPY a /\n"), ["a"]);
    let meant = Sources { context: Selection::of(["a"]), named: BTreeMap::new() };
    let around = Surroundings { meant: Some(&meant), ..around(&Others, None) };
    assert_eq!(paths(&read(&bed.locate("", None).unwrap(), &around).unwrap(), ROOT_CONTEXT), ["a"]);
    // What a wildcard names, it names.
    let meant = Sources { context: Selection::of(["lat*"]), named: BTreeMap::new() };
    let around = Surroundings { meant: Some(&meant), ..around };
    assert!(matches!(read(&bed.locate("", None).unwrap(), &around), Err(ContextError::Name(_))));
}

#[test]
fn a_folder_alone_is_read_with_or_without_its_ignore_file_and_an_enclosed_one_is_left_by_no_link() {
    let bed = Bed::new(&[
        ("r/.dockerignore", "b\n"),
        ("r/a", ""),
        ("r/b", ""),
        ("r/x/Dockerfile", "FROM x"),
        ("out", ""),
    ]);
    let root = bed.path("r");
    let read = |ignores| {
        paths(
            &read_folder(&root, &Recorded::default(), ignores, &Selection::All, &around(&Disk, None))
                .unwrap(),
            ROOT_CONTEXT,
        )
    };
    assert_eq!(read(true), [".dockerignore", "a", "x/", "x/Dockerfile"]);
    assert_eq!(read(false), [".dockerignore", "a", "b", "x/", "x/Dockerfile"]);
    let enclosed = Location::enclosed(&root, "it", Some("x/Dockerfile")).unwrap();
    assert_eq!((enclosed.dockerfile_name.as_str(), enclosed.shown.as_str()), ("Dockerfile", "it"));
    symlink("../out", root.join("Dockerfile")).unwrap();
    let error = Location::enclosed(&root, "it", None).unwrap_err().to_string();
    assert!(error.contains("Dockerfile") && !error.contains(bed.dir.path().to_str().unwrap()), "{error}");
}

#[derive(Debug)]
struct Times(AtomicUsize);

impl GoesOn for Times {
    fn goes_on(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

#[test]
fn what_takes_too_long_is_broken_off_while_it_is_listed_and_while_it_is_read() {
    let bed = Bed::new(&[("Dockerfile", "FROM x"), ("a", "1"), ("b", "2")]);
    // It is asked three times while the folder is listed, and three times while its files are read.
    for (times, is_broken_off) in [(0, true), (2, true), (4, true), (6, false)] {
        let times = Times(AtomicUsize::new(times));
        let around = Surroundings { goes_on: &times, ..around(&Disk, None) };
        let read = read(&bed.locate("", None).unwrap(), &around);
        assert_eq!(matches!(read, Err(ContextError::BrokenOff)), is_broken_off, "{read:?}");
    }
}

#[test]
fn an_ignore_file_that_is_too_long_is_refused_before_it_is_read() {
    let bed = Bed::new(&[("Dockerfile", "FROM x"), (".dockerignore", "")]);
    let file = fs::OpenOptions::new().write(true).open(bed.path(".dockerignore")).unwrap();
    file.set_len((1 << 20) + 1).unwrap();
    let told = bed.read("", None).unwrap_err().to_string();
    assert!(told.contains(".dockerignore") && told.contains("1048577") && told.contains("1048576"), "{told}");
}

/// Any part of a context may be known instead of being there: the snapshot is the same.
#[test]
fn files_that_are_known_make_the_same_snapshot_as_files_that_are_there() {
    let files = [
        ("Dockerfile", "FROM scratch\n"),
        (".dockerignore", "out\nkeep/*\n!keep/this\n"),
        ("a", "a"),
        ("out/x", "x"),
        ("keep/this", "t"),
        ("keep/that", "u"),
        ("deep/er/and/deeper", "d"),
        ("deep/er/two", "2"),
        ("deep/three", "3"),
    ];
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let settled = |bed: &Bed| {
        let mut ahead = vec![bed.dir.path().to_owned()];
        while let Some(path) = ahead.pop() {
            let is_folder = path.is_dir();
            if is_folder {
                ahead.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(if is_folder { 0o755 } else { 0o644 }))
                .unwrap();
            fs::File::open(&path).unwrap().set_modified(time).unwrap();
        }
    };
    let whole = Bed::new(&files);
    settled(&whole);
    let whole = whole.read("", None).unwrap();
    // The Dockerfile and what it ignores are there in any case.
    for spared in 0..1_u32 << (files.len() - 2) {
        let is_spared = |at: usize| at >= 2 && spared & (1 << (at - 2)) != 0;
        let there: Vec<_> =
            files.iter().enumerate().filter(|(at, _)| !is_spared(*at)).map(|(_, file)| *file).collect();
        let bed = Bed::new(&there);
        settled(&bed);
        let mut known = Known::at(1_700_000_000_000_000_000);
        for (_, (name, text)) in files.iter().enumerate().filter(|(at, _)| is_spared(*at)) {
            let size = u64::try_from(text.len()).unwrap();
            known.add(name, KnownFile { mode: 0o644, size, digest: Digest::of(text.as_bytes()) });
        }
        let around = Surroundings { known: Some(&known), ..around(&Disk, None) };
        let source = read(&bed.locate("", None).unwrap(), &around).unwrap();
        assert_eq!(source.names(), whole.names(), "{spared:b}");
        assert_eq!((source.files, source.objects.len()), (whole.files, whole.objects.len()));
    }
}
