//! Sources as they are fetched from git's own server.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use farm_types::git::{GitSource, Lfs};
use farm_types::{Digest, GitPlace, ProjectId};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::server::{PASSWORD, Server, USER, Upstream};
use super::{Checkout, FetchError, Git, GitLimits, GitLogin, Kept, Order, Spares};
use crate::buildkit::Fetches;

struct Bench {
    folder: tempfile::TempDir,
    server: Server,
    git: Git,
    project: ProjectId,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Whoever git runs as has to pass.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(folder.path().join("state")).unwrap();
        let server = Server::start(folder.path().join("upstream")).await;
        let git = Git::open(&folder.path().join("state/git"), 1 << 30).await.unwrap();
        Self { folder, server, git, project: "00000000-0000-0000-0000-000000000001".parse().unwrap() }
    }

    fn upstream(&self, name: &str) -> Upstream {
        Upstream::new(&self.folder.path().join("upstream").join(name))
    }

    /// Of `NAME#POINT:SUBDIR`.
    fn order(&self, source: &str) -> Order {
        let (name, rest) = source.split_once('#').unwrap_or((source, ""));
        let (point, subdir) = rest.split_once(':').unwrap_or((rest, ""));
        let mut reach = Fetches::default();
        reach.open(&[self.server.address.parse().unwrap()]);
        Order {
            source: GitSource {
                repository: format!("http://{}/{name}/.git", self.server.address).parse().unwrap(),
                point: point.parse().unwrap(),
                expected: None,
                subdir: subdir.to_owned(),
                keep_git: false,
                submodules: false,
                lfs: Lfs::default(),
            },
            project: self.project,
            login: None,
            login_for: None,
            throw_away: false,
            reach,
            limits: GitLimits::default(),
            spares: None,
        }
    }

    async fn fetch(&self, order: &Order) -> Result<Checkout, FetchError> {
        self.git.fetch(order, &CancellationToken::new(), |_| {}).await
    }

    async fn get(&self, source: &str) -> Checkout {
        self.fetch(&self.order(source)).await.unwrap()
    }

    async fn code(&self, order: &Order) -> String {
        let failure = self.fetch(order).await.unwrap_err().into_failure().unwrap();
        assert!(
            failure.message.contains(';') || failure.code.as_str() == "git_unreachable",
            "no cure: {failure}"
        );
        assert!(!failure.message.contains(PASSWORD), "{failure}");
        failure.code.to_string()
    }

    fn mirrors(&self) -> Vec<String> {
        let folder = self.folder.path().join("state/git/mirrors").join(self.project.to_string());
        let packs = |path: std::path::PathBuf| fs::read_dir(path.join("objects/pack")).into_iter().flatten();
        let mirrors = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
        let mut all: Vec<String> =
            mirrors.flat_map(packs).map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn read(checkout: &Checkout, name: &str) -> String {
    fs::read_to_string(checkout.path().join(name)).unwrap()
}

#[tokio::test]
async fn a_commit_becomes_files_and_the_next_one_brings_differences_only() {
    let bench = Bench::new().await;
    let upstream = bench.upstream("app");
    std::os::unix::fs::symlink("/etc/passwd", upstream.path("link")).unwrap();
    let noise: String = (0..200_000_u32).map(|i| format!("{:x}", i.wrapping_mul(2_654_435_761))).collect();
    fs::write(upstream.path("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(upstream.path("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let first = upstream.commit(&[
        ("a.txt", "one\n"),
        ("dos.bat", "a\n"),
        ("sub/deep/b", "b"),
        (".gitattributes", "*.bat text eol=crlf\n*.bin filter=lfs\na.txt export-ignore\n"),
        ("noise.bin", &noise),
    ]);
    upstream.git(&["tag", "-a", "-m", "first", "v1"]);

    let checkout = bench.get("app").await;
    assert_eq!(checkout.commit.as_str(), first);
    assert_eq!(checkout.git_ref.as_ref().unwrap().as_str(), "refs/heads/main");
    assert_eq!(checkout.committed_at, 1_700_000_000);
    assert_eq!(
        names(checkout.path()),
        [".gitattributes", "a.txt", "dos.bat", "link", "noise.bin", "run.sh", "sub"]
    );
    assert_eq!((read(&checkout, "a.txt"), read(&checkout, "dos.bat")), ("one\n".into(), "a\r\n".into()));
    assert_eq!(fs::read_link(checkout.path().join("link")).unwrap(), Path::new("/etc/passwd"));
    for (name, mode) in [("a.txt", 0o644), ("run.sh", 0o755), ("sub", 0o755), ("sub/deep/b", 0o644)] {
        let metadata = fs::symlink_metadata(checkout.path().join(name)).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (mode, 1_700_000_000), "{name}");
    }
    let whole = bench.server.sent();

    let second = upstream.commit(&[("a.txt", "two\n")]);
    let checkout = bench.get("app#main").await;
    assert_eq!((checkout.commit.as_str(), read(&checkout, "a.txt")), (second.as_str(), "two\n".into()));
    assert_eq!(read(&checkout, "noise.bin"), noise);
    let less = bench.server.sent();
    assert!(less * 10 < whole, "{less} of {whole}");

    // Of a fork nothing stays, and it gets no more than it lacks either.
    let before = bench.mirrors();
    let third = upstream.commit(&[("a.txt", "three\n")]);
    let mut order = bench.order("app");
    (order.throw_away, order.source.expected) = (true, Some(third.parse().unwrap()));
    assert_eq!(read(&bench.fetch(&order).await.unwrap(), "a.txt"), "three\n");
    assert!(bench.server.sent() * 10 < whole);
    assert_eq!(bench.mirrors(), before);

    // A commit that a branch has, by its name alone; a tag; a folder.
    assert_eq!(bench.get(&format!("app#{first}")).await.commit.as_str(), first);
    assert_eq!(bench.get(&format!("app#{second}")).await.commit.as_str(), second);
    let tagged = bench.get("app#v1:sub/deep").await;
    assert_eq!((tagged.commit.as_str(), names(tagged.path())), (first.as_str(), vec!["b".to_owned()]));

    // What is broken is made anew.
    let mirrors = bench.folder.path().join("state/git/mirrors").join(bench.project.to_string());
    let mut mirror = fs::read_dir(&mirrors).unwrap().map(|entry| entry.unwrap().path());
    let mirror = mirror.find(|path| path.join("HEAD").exists()).unwrap();
    for pack in fs::read_dir(mirror.join("objects/pack")).unwrap().map(|entry| entry.unwrap().path()) {
        fs::remove_file(&pack).unwrap();
        fs::write(&pack, "no pack").unwrap();
    }
    assert_eq!(read(&bench.get("app").await, "a.txt"), "three\n");

    // Two at once.
    let fourth = upstream.commit(&[("a.txt", "four\n")]);
    let (one, two) = tokio::join!(bench.get("app"), bench.get("app#main:sub"));
    assert_eq!((one.commit.as_str(), two.commit.as_str()), (fourth.as_str(), fourth.as_str()));

    let order = bench.order("app");
    let kept = Kept { project: bench.project, repository: order.source.repository.clone(), place: None };
    assert_eq!(bench.git.kept().await, [kept]);
    bench.git.forget(bench.project, Some(&order.source.repository)).await;
    assert!(bench.mirrors().is_empty() && !mirrors.exists());
    let (commit, git_ref) = bench.git.resolve(&order, &CancellationToken::new()).await.unwrap();
    assert_eq!((commit.as_str(), git_ref.unwrap().as_str()), (fourth.as_str(), "refs/heads/main"));
}

#[tokio::test]
async fn each_thing_that_is_wrong_has_its_own_code() {
    let bench = Bench::new().await;
    let upstream = bench.upstream("app");
    upstream.commit(&[("a", "1"), ("sub/b", "1")]);
    std::os::unix::fs::symlink("sub", upstream.path("link")).unwrap();
    let main = upstream.commit(&[]);
    // As a forge has a pull request's commits: to be had by name, and below no branch.
    upstream.git(&["checkout", "-q", "-b", "other"]);
    let pulled = upstream.commit(&[("evil", "1")]);
    upstream.git(&["update-ref", "refs/pull/7/head", &pulled]);
    upstream.git(&["checkout", "-q", "main"]);
    upstream.git(&["branch", "-q", "-D", "other"]);
    let blob = upstream.git(&["rev-parse", "HEAD:a"]);
    upstream.git(&["tag", "file", &blob]);
    bench.upstream("empty");
    let none = "1".repeat(40);
    for (source, code) in [
        ("nothing", "git_repository_missing"),
        ("empty", "git_repository_empty"),
        ("app#no", "git_ref_missing"),
        ("app#refs/pull/8/head", "git_ref_missing"),
        ("app#file", "git_ref_missing"),
        ("app#main:no", "git_subdir_missing"),
        ("app#main:a", "git_subdir_missing"),
        ("app#main:link", "git_subdir_missing"),
        ("app#main:link/b", "git_subdir_missing"),
        ("app#main:sub/..", "git_subdir_missing"),
        (&format!("app#{none}"), "git_commit_missing"),
        (&format!("app#{pulled}"), "git_commit_missing"),
        ("moved/app", "git_redirected"),
        ("forbidden/app", "git_login_missing"),
        ("private/app", "git_login_missing"),
        ("busy/app", "git_unreachable"),
    ] {
        assert_eq!(bench.code(&bench.order(source)).await, code, "{source}");
    }
    assert_eq!(bench.get("app#refs/pull/7/head").await.commit.as_str(), pulled);

    let mut order = bench.order("app#main");
    order.source.expected = Some(pulled.parse().unwrap());
    assert_eq!(bench.code(&order).await, "git_ref_moved");
    order.source.expected = Some(main.parse().unwrap());
    assert_eq!(bench.fetch(&order).await.unwrap().commit.as_str(), main);
    let mut order = bench.order("app");
    order.reach = Fetches::default();
    assert_eq!(bench.code(&order).await, "git_host_closed");
    let mut order = bench.order("app");
    order.limits.files = 2;
    assert_eq!(bench.code(&order).await, "git_too_many_files");
    order.source.subdir = "sub".to_owned();
    assert!(bench.fetch(&order).await.is_ok());
    let mut order = bench.order("app");
    order.limits.bytes = 1;
    assert_eq!(bench.code(&order).await, "git_too_large");
    let mut order = bench.order("slow/app");
    order.limits.time = Duration::from_millis(200);
    assert_eq!(bench.code(&order).await, "git_too_slow");
    let (order, stop) = (bench.order("slow/app"), CancellationToken::new());
    let stopping = async {
        tokio::task::yield_now().await;
        stop.cancel();
    };
    let (stopped, ()) = tokio::join!(bench.git.fetch(&order, &stop, |_| {}), stopping);
    assert!(matches!(stopped, Err(FetchError::Stopped)));
}

#[tokio::test]
async fn a_login_opens_its_host_and_is_seen_nowhere_else() {
    let bench = Bench::new().await;
    let commit = bench.upstream("app").commit(&[("a", "1")]);
    let mut order = bench.order("private/app");
    let login = |password: &str| {
        Some(GitLogin::Token { username: USER.to_owned(), password: Zeroizing::new(password.to_owned()) })
    };
    order.login = login("another");
    assert_eq!(bench.code(&order).await, "git_login_refused");
    // Nor is one that is known, and may not read this.
    let mut forbidden = bench.order("forbidden/app");
    forbidden.login = login(PASSWORD);
    assert_eq!(bench.code(&forbidden).await, "git_login_refused");
    (order.login, order.source.keep_git) = (login(PASSWORD), true);
    let checkout = bench.fetch(&order).await.unwrap();
    assert_eq!((checkout.commit.as_str(), bench.server.leaks()), (commit.as_str(), 0));
    let place = GitPlace::of(&order.source.repository).as_str().parse().ok();
    let kept = Kept { project: bench.project, repository: order.source.repository.clone(), place };
    assert_eq!(bench.git.kept().await, [kept]);
    let found = std::process::Command::new("grep")
        .args(["-rlE", "s3cr", "."])
        .current_dir(bench.folder.path())
        .output();
    assert_eq!(String::from_utf8(found.unwrap().stdout).unwrap(), "");
    // Another host's login is never shown: the address is this machine's by another name.
    let port = bench.server.address.rsplit_once(':').unwrap().1;
    order.source.repository = format!("ssh://git@127.0.0.1:{port}/app").parse().unwrap();
    assert_eq!(bench.code(&order).await, "git_login_missing");
}

#[tokio::test]
async fn a_git_folder_is_left_as_a_shallow_clone_leaves_it() {
    let bench = Bench::new().await;
    let upstream = bench.upstream("app");
    upstream.commit(&[("a", "1")]);
    let commit = upstream.commit(&[("a", "2"), ("sub/b", "1")]);
    upstream.git(&["tag", "-a", "-m", "of it", "v1"]);
    let mut order = bench.order("app#v1");
    order.source.keep_git = true;
    let (one, two) = (bench.fetch(&order).await.unwrap(), bench.fetch(&order).await.unwrap());
    let here = |checkout: &Checkout, args: &[&str]| {
        let output = std::process::Command::new("git")
            .args(["-c", "safe.directory=*", "-C", checkout.path().to_str().unwrap()])
            .args(args)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(here(&one, &["rev-parse", "HEAD"]), commit);
    assert_eq!(here(&one, &["status", "--porcelain"]), "");
    assert_eq!(here(&one, &["describe", "--tags"]), "v1");
    assert_eq!(here(&one, &["log", "--format=%H"]), commit);
    assert_eq!(here(&one, &["remote", "get-url", "origin"]), order.source.repository.as_str());
    assert_eq!(names(&one.path().join(".git")), names(&two.path().join(".git")));
    let index = |checkout: &Checkout| fs::read(checkout.path().join(".git/index")).unwrap();
    // `status` writes it.
    let three = bench.fetch(&order).await.unwrap();
    assert_eq!(index(&two), index(&three));
    assert_eq!(names(&one.path().join("sub")), ["b"]);
}

#[tokio::test]
async fn submodules_come_when_asked_for_and_through_the_same_guard() {
    let bench = Bench::new().await;
    let lib = bench.upstream("lib");
    let old = lib.commit(&[("lib.txt", "old")]);
    lib.commit(&[("lib.txt", "new")]);
    let app = bench.upstream("app");
    let with = |url: &str| {
        let file = format!("[submodule \"l\"]\n\tpath = vendor/lib\n\turl = {url}\n");
        fs::write(app.path(".gitmodules"), file).unwrap();
        app.git(&["add", ".gitmodules"]);
        app.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{old},vendor/lib")]);
        app.git(&["commit", "-q", "-m", "a change"]);
    };
    with("../../lib/.git");
    let mut order = bench.order("app");
    let without = bench.fetch(&order).await.unwrap();
    assert_eq!(names(&without.path().join("vendor/lib")), Vec::<String>::new());
    order.source.submodules = true;
    let whole = bench.fetch(&order).await.unwrap();
    assert_eq!(read(&whole, "vendor/lib/lib.txt"), "old");
    assert_eq!(names(&whole.path().join("vendor/lib")), ["lib.txt"]);
    // `update = !id` git itself refuses to take.
    for (url, code) in [
        ("ext::sh -c id", "git_submodule"),
        ("/etc", "git_submodule"),
        ("https://169.254.169.254/lib", "git_host_closed"),
        ("../../lib/.git\n\tupdate = !id", "git_repository_broken"),
    ] {
        with(url);
        assert_eq!(bench.code(&order).await, code, "{url}");
    }
}

#[tokio::test]
async fn names_that_lead_out_of_a_folder_are_refused() {
    let bench = Bench::new().await;
    let upstream = bench.upstream("app");
    upstream.commit(&[("a", "1")]);
    let blob = upstream.git(&["rev-parse", "HEAD:a"]);
    let object: Vec<u8> =
        (0..blob.len()).step_by(2).map(|i| u8::from_str_radix(&blob[i..i + 2], 16).unwrap()).collect();
    for name in [".git", "..", ".GIT", "git~1", "a/b"] {
        let tree = [format!("100644 {name}\0").as_bytes(), &object].concat();
        let tree = upstream.git_with(&["hash-object", "-t", "tree", "--literally", "-w", "--stdin"], &tree);
        let commit = upstream.git(&["commit-tree", "-m", "evil", &tree]);
        upstream.git(&["update-ref", "refs/heads/evil", &commit]);
        assert_eq!(bench.code(&bench.order("app#evil")).await, "git_repository_broken", "{name}");
    }
}

/// A tree of `wide` names for the same object.
fn tree_of(upstream: &Upstream, wide: u32, (mode, kind, object): (&str, &str, &str)) -> String {
    let entries: String = (0..wide).map(|n| format!("{mode} {kind} {object}\t{n:04}\n")).collect();
    upstream.git_with(&["mktree"], entries.as_bytes())
}

#[tokio::test]
async fn a_few_objects_that_stand_for_any_number_of_files_are_counted_before_anything_is_written() {
    let bench = Bench::new().await;
    let upstream = bench.upstream("app");
    upstream.commit(&[("a", "1\n"), ("sub/deep/b.bat", "1\n"), (".gitattributes", "*.bat text eol=crlf\n")]);
    let blob = upstream.git(&["rev-parse", "HEAD:a"]);
    let (sub, attributes) =
        (upstream.git(&["rev-parse", "HEAD:sub"]), upstream.git(&["rev-parse", "HEAD:.gitattributes"]));
    let thousand = tree_of(&upstream, 1000, ("100644", "blob", &blob));
    let million = tree_of(&upstream, 1000, ("040000", "tree", &thousand));
    // More than there are atoms in the universe.
    let mut bomb = million.clone();
    for _ in 0..30 {
        bomb = tree_of(&upstream, 1000, ("040000", "tree", &bomb));
    }
    for (name, tree) in [("million", million), ("bomb", bomb)] {
        let entries = format!(
            "040000 tree {tree}\tmany\n040000 tree {sub}\tsub\n100644 blob {attributes}\t.gitattributes\n"
        );
        let tree = upstream.git_with(&["mktree"], entries.as_bytes());
        let commit = upstream.git(&["commit-tree", "-m", name, &tree]);
        upstream.git(&["update-ref", &format!("refs/heads/{name}"), &commit]);
        assert_eq!(bench.code(&bench.order(&format!("app#{name}"))).await, "git_too_many_files");
        assert_eq!(bench.code(&bench.order(&format!("app#{name}:many"))).await, "git_too_many_files");
        // A folder beside it can be had, with what the folders above say of its files.
        let beside = bench.get(&format!("app#{name}:sub/deep")).await;
        assert_eq!(
            (names(beside.path()), read(&beside, "b.bat")),
            (vec!["b.bat".to_owned()], "1\r\n".to_owned())
        );
    }
}

/// What a fetch writes that may spare what the farm has got, and what it spares.
async fn sparing(bench: &Bench, source: &str, no_pointers: bool) -> (Checkout, Vec<String>, usize) {
    let checkout = bench
        .fetch(&Order {
            spares: Some(Spares { no_pointers, dockerfile: String::new() }),
            ..bench.order(source)
        })
        .await
        .unwrap();
    let (written, spared) = (names(checkout.path()), checkout.known().digests().len());
    (checkout, written, spared)
}

#[tokio::test]
async fn what_the_farm_has_got_is_not_written_again_unless_git_makes_something_else_of_it() {
    let bench = Bench::new().await;
    let upstream = bench.upstream("app");
    let files =
        [("Dockerfile", "FROM scratch\n"), ("a", "a"), ("b", "b"), ("c.bat", "c"), (".dockerignore", "x\n")];
    upstream.commit(&files);
    let (first, written, spared) = sparing(&bench, "app", true).await;
    assert_eq!((written, spared), (names(first.path()), 0));
    let of = |text: &str| (u64::try_from(text.len()).unwrap(), Digest::of(text.as_bytes()));
    let sent: HashMap<String, _> = files.map(|(name, text)| (name.to_owned(), of(text))).into();
    first.keep(true, &sent);

    upstream.commit(&[("b", "other"), ("new/d", "d")]);
    let all = ["Dockerfile", ".dockerignore"];
    let (_, written, spared) = sparing(&bench, "app", true).await;
    assert_eq!(
        (written, spared),
        (vec![".dockerignore".into(), "Dockerfile".into(), "b".into(), "new".into()], 2)
    );
    // All of it: for whoever doesn't ask, for a folder of it, with .git, and of what comes from forks.
    assert!(bench.get("app").await.known().is_empty());
    for order in [bench.order("app#:new"), Order { throw_away: true, ..bench.order("app") }] {
        let order = Order { spares: Some(Spares { no_pointers: true, dockerfile: String::new() }), ..order };
        assert!(bench.fetch(&order).await.unwrap().known().is_empty());
    }
    // What was sent without pointers may be taken by those who take them; not the other way round.
    assert_eq!(sparing(&bench, "app", false).await.2, 2);
    first.keep(false, &sent);
    assert_eq!(sparing(&bench, "app", true).await.2, 0);
    assert_eq!(sparing(&bench, "app", false).await.2, 2);

    // A mode is part of what a file is, and attributes say what is made of all of them.
    fs::set_permissions(upstream.path("a"), fs::Permissions::from_mode(0o755)).unwrap();
    upstream.commit(&[]);
    assert_eq!(sparing(&bench, "app", false).await.2, 1);
    upstream.commit(&[(".gitattributes", "*.bat text eol=crlf\n")]);
    assert_eq!(sparing(&bench, "app", false).await.2, 0);
    assert!(all.iter().all(|name| first.path().join(name).exists()));

    // What a link of that kind leads to is there, and so is a Dockerfile of any name.
    first.keep(false, &sent);
    upstream.git(&["rm", "-q", ".gitattributes"]);
    upstream.commit(&[]);
    assert_eq!(sparing(&bench, "app", false).await.2, 1);
    let named = Spares { no_pointers: false, dockerfile: "c.bat".to_owned() };
    assert!(
        bench.fetch(&Order { spares: Some(named), ..bench.order("app") }).await.unwrap().known().is_empty()
    );
    fs::remove_file(upstream.path(".dockerignore")).unwrap();
    std::os::unix::fs::symlink("c.bat", upstream.path(".dockerignore")).unwrap();
    upstream.commit(&[]);
    assert_eq!(sparing(&bench, "app", false).await.2, 0);

    // It goes with the mirror; what is damaged is as good as none.
    let notes = || {
        let folder = bench.folder.path().join("state/git/mirrors").join(bench.project.to_string());
        let paths = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|end| end == "known")).collect::<Vec<_>>()
    };
    assert_eq!(notes().len(), 1);
    fs::write(&notes()[0], "{").unwrap();
    assert_eq!(sparing(&bench, "app", false).await.2, 0);
    bench.git.forget(bench.project, None).await;
    assert_eq!(notes().len(), 0);
}
