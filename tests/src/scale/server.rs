//! A Postgres that flushes what it commits, and counts.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;

use crate::bed::Bed;
use crate::database::{self, Database, psql};
use crate::process::run;

const SETTINGS: &[&str] = &[
    "fsync=on",
    "full_page_writes=on",
    "shared_preload_libraries=pg_stat_statements",
    // What runs inside of farm's functions is no statement of farm's.
    "pg_stat_statements.track=top",
    // After a checkpoint the first change of each page writes all of it: that would come among the counts by chance.
    "checkpoint_timeout=1h",
    "max_wal_size=16GB",
];

/// Fields are dropped in order: the server ends before its files go.
pub struct Server {
    database: Database,
    server: database::Server,
    _disk: Option<Mount>,
    _folder: TempDir,
    _files: TempDir,
}

/// All that farm has done in its database since the server's start.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    pub at: Instant,
    pub statements: f64,
    pub commits: f64,
    pub wal_bytes: f64,
}

impl Server {
    pub fn start(on_disk: bool) -> Server {
        let bed = Bed::from_env();
        let (folder, files) = (bed.short_folder("pg"), bed.folder("pg"));
        // By way of the short path, since the disk's may lie in a folder that only root may enter.
        let disk = on_disk.then(|| Mount::bind(files.path(), folder.path()));
        let mut server = database::Server::init(folder.path(), &bed.test_folder().join("private"));
        server.set(SETTINGS);
        server.start();
        psql(
            &server.url("postgres"),
            "CREATE EXTENSION pg_stat_statements; CREATE ROLE watcher SUPERUSER LOGIN",
        );
        let database = Database::empty_in(&server.url("postgres"));
        Server { database, server, _disk: disk, _folder: folder, _files: files }
    }

    pub fn database_url(&self) -> &str {
        self.database.url()
    }

    /// The same as another user, whose statements are not counted; each is a commit though.
    pub fn watcher_url(&self) -> String {
        self.database_url().replacen("//farm@", "//watcher@", 1)
    }

    /// Asked in another database, so that it doesn't count itself.
    pub fn read(&self) -> Reading {
        let name = self.database_url().split('?').next().and_then(|url| url.rsplit('/').next()).unwrap();
        let row = psql(
            &self.server.url("postgres"),
            &format!(
                "SELECT s.calls, d.xact_commit, pg_current_wal_lsn() - '0/0' \
                 FROM pg_stat_database d, LATERAL (SELECT coalesce(sum(calls), 0) AS calls FROM pg_stat_statements WHERE dbid = d.datid AND userid = 'farm'::regrole) s \
                 WHERE d.datname = '{name}'"
            ),
        );
        let mut values = row.split('|').map(|value| value.parse::<f64>().unwrap());
        let mut next = || values.next().unwrap();
        Reading { at: Instant::now(), statements: next(), commits: next(), wal_bytes: next() }
    }

    /// Farm's statements, and how often each was run since the server's start.
    pub fn statements(&self) -> BTreeMap<String, f64> {
        let rows = psql(
            &self.server.url("postgres"),
            "SELECT sum(calls) || ' ' || left(regexp_replace(query, '\\s+', ' ', 'g'), 120) FROM pg_stat_statements \
             WHERE userid = 'farm'::regrole GROUP BY queryid, query",
        );
        let mut statements = BTreeMap::new();
        for (calls, text) in rows.lines().filter_map(|row| row.split_once(' ')) {
            *statements.entry(text.to_owned()).or_default() += calls.parse::<f64>().unwrap();
        }
        statements
    }
}

/// Another folder at this one.
struct Mount(std::path::PathBuf);

impl Mount {
    fn bind(from: &Path, at: &Path) -> Mount {
        run(Command::new("mount").arg("--bind").arg(from).arg(at));
        Mount(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
