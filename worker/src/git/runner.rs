//! Fetches a source: asks the host what it has, brings the commit into a mirror, writes its files into a folder.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farm_source::Known;
use farm_types::git::{Commit, GitPoint, GitUrl, RefName};
use farm_types::{Digest, FailureCode, GitPlace, ProjectId};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::account::{Account, give, own_folder, passage};
use super::error::{FetchError, disk, trouble, user};
use super::known;
use super::mirrors::{Kept, Mirrors, remove};
use super::modules::{self, Submodule};
use super::order::{GitLogin, Order};
use super::program::{Bounds, Call, Program};
use super::refs::{Chosen, unknown};
use super::remote::{Remote, kept};
use super::tree::{At, Listing, Taken, Written, settle};
use super::{guard, kept as kept_git, said};

/// A mirror that is no larger is never too large, bytes.
const SMALL: u64 = 64 << 20;

/// Fetches sources from git.
#[derive(Debug)]
pub struct Git {
    program: Program,
    mirrors: Mirrors,
    scratch: PathBuf,
}

/// A source that was fetched: its folder is there for as long as this lives.
#[derive(Debug)]
pub struct Checkout {
    /// The commit.
    pub commit: Commit,
    /// The ref that was at it.
    pub git_ref: Option<RefName>,
    /// The repository's tags that look like versions; of a commit that no ref is at, none.
    pub versions: Vec<String>,
    /// When it was committed, seconds since 1970. All files have this time.
    pub committed_at: i64,
    path: PathBuf,
    known: Known,
    /// What its mirror's repository has, where that is all of the source.
    listing: Option<(PathBuf, Listing)>,
    /// Goes with this.
    _folder: Folder,
}

impl Checkout {
    /// Files of the context that weren't written, as the farm was sent them before. It may have lost some.
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// Keeps what of it the farm has by now, by path (length in bytes and digest), so that the next fetch can spare it. Blocks.
    pub fn keep(&self, no_pointers: bool, sent: &HashMap<String, (u64, Digest)>) {
        if let Some((mirror, listing)) = &self.listing {
            known::Kept::keep(mirror, listing.listed(), no_pointers, sent);
        }
    }

    /// The folder that is the context.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What a look at a repository has found.
#[derive(Debug)]
pub struct Looked {
    /// The commit that the default branch is at, else that of the first branch or tag.
    pub head: Commit,
    /// Where they are.
    pub refs: farm_types::Refs,
    nothing: PathBuf,
    /// Goes with this.
    _folder: Folder,
}

impl Looked {
    /// An empty folder, which is there for as long as this lives.
    pub fn nothing(&self) -> &Path {
        &self.nothing
    }
}

/// A folder that goes with this.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn make(path: PathBuf) -> Result<Self, FetchError> {
        passage(&path).map_err(|error| disk("no folder for a source can be made", &error))?;
        Ok(Self(path))
    }

    /// A folder in it that is git's.
    fn own(&self, name: &str, account: Option<&Account>) -> Result<PathBuf, FetchError> {
        let path = self.0.join(name);
        own_folder(&path, account).map_err(|error| disk("no folder for a source can be made", &error))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        let remove = move || {
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::warn!(%error, folder = %path.display(), "a source's folder can't be removed");
            }
        };
        // Many files take a while.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

impl Git {
    /// Makes ready in this folder, below which mirrors take so many bytes at most. What a former life was at is cleared away; its mirrors
    /// stay.
    ///
    /// # Errors
    /// There is no git of use here, or no user for it, or the folder can't be used.
    pub async fn open(folder: &Path, mirror_bytes: u64) -> Result<Self, FetchError> {
        let unavailable = |why: String| {
            trouble(FailureCode::GitUnavailable, format!("sources can't be fetched by git: {why}"))
        };
        let account = Account::find().map_err(|error| unavailable(error.to_string()))?;
        let program = Program::find(account).await.map_err(unavailable)?;
        let unusable = |error: std::io::Error| unavailable(format!("{}: {error}", folder.display()));
        passage(folder).map_err(unusable)?;
        // Git is run from elsewhere.
        let folder = fs::canonicalize(folder).map_err(unusable)?;
        let scratch = folder.join("scratch");
        remove(scratch.clone()).await;
        let mirrors = passage(&scratch).and_then(|()| Mirrors::open(folder.join("mirrors"), mirror_bytes));
        let mirrors = mirrors.map_err(unusable)?;
        if let Some(account) = &program.account {
            account.let_through(&folder).map_err(|error| unavailable(error.to_string()))?;
        }
        Ok(Self { program, mirrors, scratch })
    }

    /// Fetches a source, telling `say` what is done.
    ///
    /// # Errors
    /// It is refused, isn't there, or is too much, each with its own code; or it was told to stop.
    pub async fn fetch(
        &self,
        order: &Order,
        stop: &CancellationToken,
        say: impl FnMut(&str) + Send,
    ) -> Result<Checkout, FetchError> {
        let brought = self.bring_all(order, stop, say).await;
        // Also of what failed something may be left in a mirror.
        self.mirrors.trim().await;
        brought
    }

    async fn bring_all(
        &self,
        order: &Order,
        stop: &CancellationToken,
        mut say: impl FnMut(&str) + Send,
    ) -> Result<Checkout, FetchError> {
        let source = &order.source;
        let is_part = |part: &str| !matches!(part, "" | "." | "..");
        if !source.subdir.is_empty() && !source.subdir.split('/').all(is_part) {
            let text = format!(
                "{}: folder {:?} isn't written as a path in a repository; write it without / at its ends, . and ..",
                source.repository, source.subdir
            );
            return Err(user(FailureCode::GitSubdirMissing, text));
        }
        let job = Job::begin(self, order, stop)?;
        let remote = job.remote(&source.repository, "login").await?;
        let chosen = job.choose(&remote).await?;
        let at = chosen.git_ref.as_ref().map_or(String::new(), |name| format!(" at {name}"));
        say(&format!("fetching {}{at}: commit {}", source.repository, chosen.commit));
        let account = self.program.account.as_ref();
        let tree = job.folder.own("tree", account)?;
        let (mut taken, mut number) = (Taken::default(), 0);
        let what = What {
            chosen: &chosen,
            subdir: &source.subdir,
            keep_git: source.keep_git && source.subdir.is_empty(),
        };
        let brought = Box::pin(job.bring(&remote, what, &tree, number, &mut taken)).await?;
        drop(remote);
        let mut waiting: Vec<(PathBuf, Submodule, usize)> =
            brought.submodules.into_iter().map(|submodule| (tree.clone(), submodule, 1)).collect();
        while let Some((parent, submodule, depth)) = waiting.pop() {
            number += 1;
            if depth > modules::DEEPEST || number > modules::MOST {
                let text = format!(
                    "{}: submodules lie more than {} deep, or are more than {}; leave submodules out",
                    source.repository,
                    modules::DEEPEST,
                    modules::MOST
                );
                return Err(user(FailureCode::GitSubmodule, text));
            }
            say(&format!(
                "fetching submodule {} from {}: commit {}",
                submodule.path, submodule.url, submodule.commit
            ));
            let place = parent.join(&submodule.path);
            job.is_within(&tree, &place)?;
            let remote = job.remote(&submodule.url, &format!("login-{number}")).await?;
            // Also of what a mirror has: whether this build may read it, its host says.
            remote.refs(&job.bounds).await?;
            // By its name: the commit above has it in its own.
            let chosen = Chosen {
                wanted: submodule.commit.clone(),
                commit: submodule.commit.clone(),
                git_ref: None,
                versions: Vec::new(),
            };
            let what = What { chosen: &chosen, subdir: "", keep_git: false };
            let brought = Box::pin(job.bring(&remote, what, &place, number, &mut taken)).await?;
            waiting.extend(
                brought.submodules.into_iter().map(|submodule| (place.clone(), submodule, depth + 1)),
            );
        }
        say(&format!("{} files, {} bytes", taken.files, taken.bytes));
        let (settled, seconds) = (tree.clone(), brought.committed_at);
        tokio::task::spawn_blocking(move || settle(&settled, seconds)).await.map_err(|error| {
            trouble(FailureCode::WorkerBug, format!("the source's files can't be settled: {error}"))
        })??;
        Ok(Checkout {
            commit: chosen.commit,
            git_ref: chosen.git_ref,
            versions: chosen.versions,
            committed_at: brought.committed_at,
            known: brought.known,
            listing: brought.listing.filter(|_| source.subdir.is_empty() && number == 0),
            path: if source.subdir.is_empty() { tree } else { tree.join(&source.subdir) },
            _folder: job.folder,
        })
    }

    /// The commit that a source means now, and the ref that is at it. Of a commit that is named, but at no branch's or tag's head,
    /// commits are fetched until it is known whether it is below one.
    ///
    /// # Errors
    /// As [`Self::fetch`].
    pub async fn resolve(
        &self,
        order: &Order,
        stop: &CancellationToken,
    ) -> Result<(Commit, Option<RefName>), FetchError> {
        let job = Job::begin(self, order, stop)?;
        let remote = job.remote(&order.source.repository, "login").await?;
        let chosen = job.choose(&remote).await?;
        Ok((chosen.commit, chosen.git_ref))
    }

    /// Where branches and tags are, and whether the commit that the source expects is below one of them; where history is too much to look
    /// through, it isn't.
    ///
    /// # Errors
    /// It can't be reached, doesn't let us in, or has no branch and no tag; or it was told to stop.
    pub async fn look(&self, order: &Order, stop: &CancellationToken) -> Result<Looked, FetchError> {
        let source = &order.source;
        let job = Job::begin(self, order, stop)?;
        let remote = job.remote(&source.repository, "login").await?;
        let refs = remote.refs(&job.bounds).await?;
        let head = refs.head().map(|chosen| chosen.commit);
        let Some(head) = head.or_else(|| refs.named().next().map(|(_, commit)| commit)) else {
            let text = format!("{} has no branch and no tag; push one", source.repository);
            return Err(user(FailureCode::GitRepositoryEmpty, text));
        };
        let has_expected = match &source.expected {
            None => false,
            Some(expected) if refs.named().any(|(_, commit)| commit == *expected) => true,
            // The list is told in any case: there is time left to send it.
            Some(expected) => match timeout(order.limits.time / 2, job.is_below(&remote, expected)).await {
                Ok(Ok(is_below)) => is_below,
                Ok(Err(FetchError::Stopped)) => return Err(FetchError::Stopped),
                Ok(Err(error)) => {
                    tracing::info!(%error, "a repository's history could not be looked through");
                    false
                }
                Err(_) => {
                    tracing::info!("a repository's history is too long to be looked through");
                    false
                }
            },
        };
        let default_branch = refs.default_branch().map(ToOwned::to_owned);
        let refs = farm_types::Refs::bounded(refs.named(), default_branch, has_expected);
        drop(remote);
        let nothing = job.folder.0.join("nothing");
        fs::create_dir(&nothing).map_err(|error| disk("no folder for a source can be made", &error))?;
        Ok(Looked { head, refs, nothing, _folder: job.folder })
    }

    /// What is kept.
    pub async fn kept(&self) -> Vec<Kept> {
        self.mirrors.kept().await
    }

    /// Removes what nobody has used for long.
    pub async fn tidy(&self) {
        self.mirrors.trim().await;
    }

    /// Removes what is kept of a project's repository, or of all of a project's: it or its login is gone. Waits for those who use it.
    pub async fn forget(&self, project: ProjectId, repository: Option<&GitUrl>) {
        self.mirrors.forget(project, repository).await;
    }
}

/// What is brought of a repository.
#[derive(Debug, Clone, Copy)]
struct What<'a> {
    chosen: &'a Chosen,
    subdir: &'a str,
    keep_git: bool,
}

/// What was.
#[derive(Debug)]
struct Brought {
    committed_at: i64,
    submodules: Vec<Submodule>,
    known: Known,
    listing: Option<(PathBuf, Listing)>,
}

/// One order under way.
#[derive(Debug)]
struct Job<'a> {
    git: &'a Git,
    order: &'a Order,
    bounds: Bounds<'a>,
    folder: Folder,
}

impl<'a> Job<'a> {
    fn begin(git: &'a Git, order: &'a Order, stop: &'a CancellationToken) -> Result<Self, FetchError> {
        let folder = Folder::make(git.scratch.join(uuid::Uuid::new_v4().simple().to_string()))?;
        Ok(Self { git, order, bounds: Bounds::begin(order.limits, stop), folder })
    }

    fn account(&self) -> Option<&'a Account> {
        self.git.program.account.as_ref()
    }

    /// The order's login, if it is for this, and its place: it is for that, and for its own host by its own scheme.
    fn login_of(&self, url: &GitUrl) -> Option<(&'a GitLogin, GitPlace)> {
        let own = &self.order.source.repository;
        let (is_for, place) = match &self.order.login_for {
            Some(place) => (place.covers(url), place.clone()),
            None => (url == own, GitPlace::of(own)),
        };
        let is_own = is_for && (url.scheme(), url.host()) == (own.scheme(), own.host());
        Some((self.order.login.as_ref().filter(|_| is_own)?, place))
    }

    /// A repository elsewhere.
    async fn remote<'u>(&'u self, url: &'u GitUrl, name: &str) -> Result<Remote<'u>, FetchError> {
        let login = self.login_of(url).map(|(login, _)| login);
        let route = self.bounds.within(guard::route(url, &self.order.reach)).await??;
        Remote::new(&self.git.program, url, &route, login, self.folder.0.join(name))
    }

    async fn choose(&self, remote: &Remote<'_>) -> Result<Chosen, FetchError> {
        let source = &self.order.source;
        let chosen = remote.refs(&self.bounds).await?.choose(source)?;
        if let Some(chosen) = chosen {
            return Ok(chosen);
        }
        match &source.point {
            GitPoint::Commit(commit) => {
                if self.is_below(remote, commit).await? {
                    Ok(Chosen {
                        wanted: commit.clone(),
                        commit: commit.clone(),
                        git_ref: None,
                        versions: Vec::new(),
                    })
                } else {
                    Err(unknown(source, commit))
                }
            }
            _ => Err(user(
                FailureCode::GitRefMissing,
                format!("{} has no such ref; name another", source.repository),
            )),
        }
    }

    /// Whether a branch or a tag has this commit in its history. That is fetched into a repository of its own and thrown away.
    async fn is_below(&self, remote: &Remote<'_>, commit: &Commit) -> Result<bool, FetchError> {
        let history = self.folder.own("history", self.account())?;
        self.init(&history, commit, remote.url).await?;
        remote.fetch_history(&history, &self.bounds).await?;
        let found = self.at(remote.url, &history).has(&format!("{commit}^{{commit}}")).await?;
        remove(history).await;
        Ok(found)
    }

    fn at<'s>(&'s self, url: &'s GitUrl, repository: &'s Path) -> At<'s> {
        At { program: &self.git.program, url, repository, bounds: &self.bounds }
    }

    async fn init(&self, repository: &Path, like: &Commit, url: &GitUrl) -> Result<(), FetchError> {
        let format =
            if like.as_str().len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
        let call = Call::at(repository).args([
            "init",
            "--quiet",
            "--bare",
            "--template=",
            "--initial-branch=main",
            format,
        ]);
        self.at(url, repository).ask(call).await.map(drop)
    }

    /// Brings a commit of a repository into the folder `tree`.
    async fn bring(
        &self,
        remote: &Remote<'_>,
        what: What<'_>,
        tree: &Path,
        number: usize,
        taken: &mut Taken,
    ) -> Result<Brought, FetchError> {
        let work = self.folder.own(&format!("work-{number}"), self.account())?;
        let (mirror, lock) = self.git.mirrors.of(self.order.project, remote.url);
        if self.order.throw_away {
            let _held = self.bounds.within(lock.read_owned()).await?;
            let own = work.join("repository");
            own_folder(&own, self.account()).map_err(|error| disk("no repository can be made", &error))?;
            self.init(&own, &what.chosen.wanted, remote.url).await?;
            self.lean_on(&own, &mirror).map_err(|error| disk("a mirror can't be leant on", &error))?;
            remote.fetch(&what.chosen.wanted, &own, &self.bounds).await?;
            let brought = self.take_out(remote.url, &own, what, (tree, None), &work, taken).await?;
            return Ok(Brought { listing: None, ..brought });
        }
        let before = *taken;
        for is_last in [false, true] {
            let held = self.bounds.within(Arc::clone(&lock).write_owned()).await?;
            let there = mirror.clone();
            let most = self.bounds.limits.bytes.saturating_mul(2).max(SMALL);
            let is_fit =
                tokio::task::spawn_blocking(move || Mirrors::is_fit(&there, most)).await.unwrap_or(false);
            let was_there = is_fit && !is_last;
            if !was_there {
                remove(mirror.clone()).await;
                let made = Mirrors::make(&mirror, self.account());
                made.map_err(|error| disk("no mirror of a repository can be made", &error))?;
                self.init(&mirror, &what.chosen.wanted, remote.url).await?;
            }
            Mirrors::used(&mirror, remote.url, self.login_of(remote.url).map(|(_, place)| place).as_ref());
            let fetched = self.fetch_once(remote, &what.chosen.wanted, &mirror).await;
            if fetched.is_err() {
                // What it left half way.
                let there = mirror.clone();
                let _ = tokio::task::spawn_blocking(move || Mirrors::is_fit(&there, most)).await;
            }
            let _held = held.downgrade();
            let done = match fetched {
                Ok(()) => {
                    let kept = self.spared(&mirror, what, number).await;
                    let taken_out =
                        self.take_out(remote.url, &mirror, what, (tree, kept.as_ref()), &work, taken).await;
                    taken_out.map(|brought| Brought {
                        listing: brought.listing.map(|(_, listing)| (mirror.clone(), listing)),
                        ..brought
                    })
                }
                Err(error) => Err(error),
            };
            match done {
                Err(error) if was_there && error.code() == Some(&FailureCode::GitRepositoryBroken) => {
                    tracing::warn!(%error, mirror = %mirror.display(), "a mirror is no good: it is made anew");
                    *taken = before;
                }
                done => return done,
            }
        }
        Err(said::broken(remote.url, "it is broken anew each time"))
    }

    /// What the farm has of a mirror's repository, if that may be spared.
    async fn spared(&self, mirror: &Path, what: What<'_>, number: usize) -> Option<known::Kept> {
        let spares = self.order.spares.as_ref()?;
        if number > 0 || what.keep_git || !what.subdir.is_empty() {
            return None;
        }
        let (mirror, no_pointers) = (mirror.to_owned(), spares.no_pointers);
        tokio::task::spawn_blocking(move || known::Kept::load(&mirror, no_pointers)).await.ok()?
    }

    async fn fetch_once(
        &self,
        remote: &Remote<'_>,
        wanted: &Commit,
        mirror: &Path,
    ) -> Result<(), FetchError> {
        if self.at(remote.url, mirror).has(&format!("{}^{{}}", kept(wanted))).await? {
            return Ok(());
        }
        remote.fetch(wanted, mirror, &self.bounds).await
    }

    /// Has a repository read what a mirror has, too: nothing of that has to come again. (Where history ends in the mirror, it ends
    /// here.)
    fn lean_on(&self, own: &Path, mirror: &Path) -> std::io::Result<()> {
        if !mirror.join("HEAD").exists() {
            return Ok(());
        }
        let alternates = own.join("objects/info/alternates");
        fs::write(&alternates, format!("{}\n", mirror.join("objects").display()))?;
        give(&alternates, self.account())?;
        let ends = mirror.join("shallow");
        if ends.exists() {
            fs::copy(ends, own.join("shallow"))?;
            give(&own.join("shallow"), self.account())?;
        }
        Ok(())
    }

    async fn take_out(
        &self,
        url: &GitUrl,
        repository: &Path,
        what: What<'_>,
        (tree, spared): (&Path, Option<&known::Kept>),
        work: &Path,
        taken: &mut Taken,
    ) -> Result<Brought, FetchError> {
        let at = self.at(url, repository);
        let Chosen { wanted, commit, git_ref, .. } = what.chosen;
        if at.commit_of(&kept(wanted)).await?.as_ref() != Some(commit) {
            let text = format!("{url}: {wanted} is no commit and no tag of one; name another ref");
            return Err(user(FailureCode::GitRefMissing, text));
        }
        let committed_at = at.time(commit).await?;
        let places = (tree, &*work.join("index"));
        let named = self.order.spares.as_ref().map_or("", |spares| spares.dockerfile.as_str());
        let spared = spared.map(|kept| (kept, named));
        let written = at.write(commit, what.subdir, places, (spared, committed_at), taken).await?;
        let Written { modules, listing, known } = written;
        let submodules = if self.order.source.submodules && !modules.is_empty() {
            let blob = format!("{commit}:.gitmodules");
            let call = Call::at(repository).args([
                "config",
                "-z",
                "--blob",
                &blob,
                "--get-regexp",
                r"^submodule\..*\.(path|url)$",
            ]);
            // No such file: none of them has an address.
            let said = self.git.program.capture(call, &self.bounds, 16 << 20).await?;
            modules::read(&said.stdout, url, &modules)?
        } else {
            Vec::new()
        };
        if what.keep_git {
            kept_git::make(at, wanted, commit, git_ref.as_ref(), tree).await?;
        }
        Ok(Brought { committed_at, submodules, known, listing: Some((repository.to_owned(), listing)) })
    }

    /// That a submodule's folder is where it seems to be: no link leads there.
    fn is_within(&self, tree: &Path, place: &Path) -> Result<(), FetchError> {
        let real =
            |path: &Path| fs::canonicalize(path).map_err(|error| disk("a submodule has no folder", &error));
        let inside = place.strip_prefix(tree).map(Path::to_owned).unwrap_or_default();
        if real(place)? == real(tree)?.join(inside) {
            return Ok(());
        }
        let text = format!("{}: a link leads to a submodule's folder", self.order.source.repository);
        Err(user(FailureCode::GitSubmodule, text))
    }
}
