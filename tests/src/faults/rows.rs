//! What the driver does in the database: locks that a session of its own holds, so that statements hang, and rows that it
//! makes unreadable and puts back.

use crate::database::{psql, try_psql};
use crate::session::Session;

/// What a session of the driver's holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// The row that says who leads.
    Leader,
    /// The rows of all engines, whose slots a lease takes.
    Engines,
    /// The rows of all workers.
    Workers,
    /// A whole table, from which nobody can read then.
    Builds,
    Jobs,
    Attempts,
    Chunks,
    Objects,
}

impl Held {
    pub const ALL: [Held; 8] = [
        Held::Leader,
        Held::Engines,
        Held::Workers,
        Held::Builds,
        Held::Jobs,
        Held::Attempts,
        Held::Chunks,
        Held::Objects,
    ];

    fn sql(self) -> &'static str {
        match self {
            Held::Leader => "SELECT FROM leader FOR UPDATE",
            Held::Engines => "SELECT FROM engines ORDER BY id FOR UPDATE",
            Held::Workers => "SELECT FROM workers ORDER BY id FOR UPDATE",
            Held::Builds => "LOCK TABLE builds",
            Held::Jobs => "LOCK TABLE jobs",
            Held::Attempts => "LOCK TABLE attempts",
            Held::Chunks => "LOCK TABLE attempt_chunks",
            Held::Objects => "LOCK TABLE objects",
        }
    }

    /// The session that holds it; nothing when it couldn't be had.
    pub fn hold(self, url: &str) -> Option<Session> {
        let mut session = Session::open(url);
        let sql = format!(
            "BEGIN; SET LOCAL lock_timeout = '3 s'; DO $$ BEGIN {}; END $$; SELECT 'held'",
            self.sql().replace("SELECT FROM", "PERFORM FROM")
        );
        session.try_ask(&sql).map(|_| session)
    }
}

/// A row that is made unreadable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// What a worker is told to build: comes to nothing when a lease is made.
    ExecutionSpec,
    /// What a build was asked for: read by whoever looks at it, and when it is published.
    BuildSpec,
    /// The platform of jobs that wait, by which the scheduler looks for a worker.
    JobPlatform,
    /// How jobs that wait may be emulated.
    JobEmulation,
}

impl Row {
    pub const ALL: [Row; 4] = [Row::ExecutionSpec, Row::BuildSpec, Row::JobPlatform, Row::JobEmulation];

    fn table_and_column(self) -> (&'static str, &'static str) {
        match self {
            Row::ExecutionSpec => ("executions", "spec"),
            Row::BuildSpec => ("builds", "spec"),
            Row::JobPlatform => ("jobs", "platform"),
            Row::JobEmulation => ("jobs", "emulation"),
        }
    }

    /// Spoils it for the build with this key, keeps what was there, and answers how many rows it were. None but those of
    /// a build whose jobs all wait.
    pub fn spoil(self, key: &str) -> String {
        let (table, column) = self.table_and_column();
        let jobs = "SELECT j.id FROM jobs j JOIN build b ON j.project_id = b.project_id AND j.execution_id = b.execution_id";
        let (rows, value) = match self {
            Row::ExecutionSpec => ("SELECT execution_id FROM build", r#"'{"spoiled": true}'::jsonb"#),
            Row::BuildSpec => ("SELECT id FROM build", r#"'{"spoiled": true}'::jsonb"#),
            Row::JobPlatform => (jobs, "'spoiled'"),
            Row::JobEmulation => (jobs, "'spoiled'"),
        };
        format!(
            "WITH build AS (SELECT b.* FROM builds b WHERE b.idempotency_key = '{key}' AND NOT EXISTS (
                 SELECT FROM jobs j WHERE j.project_id = b.project_id AND j.execution_id = b.execution_id
                 AND j.state <> 'ready')),
             kept AS (INSERT INTO faults_kept (place, was) SELECT id, to_jsonb({column}) FROM {table} WHERE id IN ({rows})
                      RETURNING place),
             spoiled AS (UPDATE {table} SET {column} = {value} FROM kept WHERE id = place RETURNING 1)
             SELECT count(*) FROM spoiled"
        )
    }

    /// Whether it was put back.
    pub fn put_back(self, url: &str) -> bool {
        let (table, column) = self.table_and_column();
        let was = if column == "spec" { "was" } else { "was #>> '{}'" };
        let sql = format!(
            "WITH kept AS (DELETE FROM faults_kept RETURNING *)
             UPDATE {table} SET {column} = {was} FROM kept WHERE id = place"
        );
        try_psql(url, &sql).is_some()
    }
}

/// What the driver needs in the database: a place for what it spoils, and jobs of spoiled builds that wait for a moment
/// before they may be leased, so that they are spoiled in the queue. Spoiled builds have tags from `first_tag` on.
pub fn prepare(url: &str, first_tag: usize) {
    psql(
        url,
        &format!(
            "CREATE TABLE faults_kept (place uuid PRIMARY KEY, was jsonb NOT NULL);
             CREATE FUNCTION faults_wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF EXISTS (SELECT FROM executions e WHERE e.id = NEW.execution_id
                            AND substring(e.spec->'tags'->>0 FROM ':t([0-9]+)$')::integer >= {first_tag}) THEN
                     NEW.not_before := farm_now() + interval '2 s';
                 END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER faults_wait BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION faults_wait()"
        ),
    );
}
