-- What is kept, and for how long: sealed streams, removed logs and builds, blobs that nobody needs.

-- Blobs ---------------------------------------------------------------------------------------------

-- The names that bytes in the object store have. A name is noted before its bytes are written and is never used again, so
-- bytes without a row don't occur, and removing one blob never meets the upload of another one with the same content.
CREATE TABLE blobs (
    project_id uuid NOT NULL REFERENCES projects,
    id         uuid NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('pack', 'log')),
    created_at timestamptz NOT NULL DEFAULT farm_now(),
    PRIMARY KEY (project_id, id)
);
CREATE INDEX blobs_by_age ON blobs (created_at);
INSERT INTO blobs (project_id, id, kind) SELECT DISTINCT project_id, pack, 'pack' FROM objects WHERE pack IS NOT NULL;

-- Blobs whose rows are gone and whose bytes are to go. What names one (objects.pack, sealed_logs.blob_id) refers to
-- `blobs`, so nobody can come to need it again.
CREATE TABLE doomed_blobs (
    project_id uuid NOT NULL REFERENCES projects,
    id         uuid NOT NULL,
    -- file: a blob from before every blob had a name of its own; it lies under its content's digest.
    kind       text NOT NULL CHECK (kind IN ('pack', 'log', 'file')),
    digest     bytea CHECK (length(digest) = 32),
    doomed_at  timestamptz NOT NULL DEFAULT farm_now(),
    PRIMARY KEY (project_id, id),
    CHECK ((kind = 'file') = (digest IS NOT NULL))
);

-- Snapshots -----------------------------------------------------------------------------------------

ALTER TABLE objects ADD FOREIGN KEY (project_id, pack) REFERENCES blobs (project_id, id);
CREATE INDEX objects_by_pack ON objects (project_id, pack) WHERE pack IS NOT NULL;
CREATE INDEX upload_pins_by_digest ON upload_pins (project_id, digest);
CREATE INDEX snapshots_by_use ON snapshots (last_used_at);
CREATE INDEX snapshot_roots_by_tree ON snapshot_roots (project_id, tree);
-- A build that has ended outlives its source. One that hasn't keeps it: the sweep asks.
ALTER TABLE executions DROP CONSTRAINT executions_project_id_tree_id_fkey;

-- Logs ----------------------------------------------------------------------------------------------

ALTER TABLE attempts
    -- Bytes of its chunks, sealed or not.
    ADD COLUMN log_bytes      bigint NOT NULL DEFAULT 0,
    -- Its chunks up to this one lie in the object store.
    ADD COLUMN sealed_seq     bigint NOT NULL DEFAULT 0,
    -- There may be chunks that are not sealed yet.
    ADD COLUMN log_open       boolean NOT NULL DEFAULT true,
    -- Since when its chunks are gone.
    ADD COLUMN log_removed_at timestamptz,
    ADD CHECK (sealed_seq BETWEEN 0 AND acked_seq),
    ADD CHECK (log_removed_at IS NULL OR NOT log_open);
-- Over none of what changes with each chunk, which would make each of these changes a change of the index.
CREATE INDEX attempts_log_open ON attempts (finished_at) WHERE log_open;
CREATE INDEX attempts_log_kept ON attempts (finished_at) WHERE log_removed_at IS NULL AND finished_at IS NOT NULL;

-- A piece of an attempt's stream in the object store: its chunks first_seq to last_seq, in compressed frames that can be read
-- one by one.
CREATE TABLE sealed_logs (
    project_id   uuid NOT NULL,
    attempt_id   uuid NOT NULL,
    first_seq    bigint NOT NULL CHECK (first_seq > 0),
    last_seq     bigint NOT NULL CHECK (last_seq >= first_seq),
    blob_id      uuid NOT NULL,
    -- Of each frame the number of its first chunk, and where it begins.
    frame_seqs   bigint[] NOT NULL CHECK (frame_seqs[1] = first_seq),
    frame_starts bigint[] NOT NULL CHECK (frame_starts[1] = 0),
    -- Of all frames, as they lie there, and of the chunks in them.
    bytes        bigint NOT NULL CHECK (bytes > 0),
    raw_bytes    bigint NOT NULL CHECK (raw_bytes >= 0),
    sealed_at    timestamptz NOT NULL DEFAULT farm_now(),
    PRIMARY KEY (project_id, attempt_id, first_seq),
    UNIQUE (project_id, blob_id),
    FOREIGN KEY (project_id, attempt_id) REFERENCES attempts,
    FOREIGN KEY (project_id, blob_id) REFERENCES blobs,
    CHECK (cardinality(frame_seqs) = cardinality(frame_starts))
);

-- Drops the partition of one day if nothing lies in it. Whoever writes chunks waits for it no longer than `patience`.
CREATE FUNCTION farm_drop_log_partition(day date, patience interval) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    partition text := 'attempt_chunks_' || to_char(day, 'YYYYMMDD');
    used      boolean;
BEGIN
    IF to_regclass(partition) IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('SELECT EXISTS (SELECT FROM %I)', partition) INTO used;
    IF used THEN
        RETURN false;
    END IF;
    -- While this waits, everybody else waits behind it.
    PERFORM set_config('lock_timeout', (extract(epoch FROM patience) * 1000)::integer || 'ms', true);
    -- Dropping would take this lock too, but only after the look below, and a chunk may come in between.
    LOCK TABLE attempt_chunks IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('SELECT EXISTS (SELECT FROM %I)', partition) INTO used;
    IF used THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE %I', partition);
    RETURN true;
END $$;

-- Builds --------------------------------------------------------------------------------------------

-- What finds the builds that may be removed.
CREATE INDEX builds_finished ON builds (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX jobs_by_taken_from ON jobs (project_id, taken_from) WHERE taken_from IS NOT NULL;
-- What a worker pushed stays known when its build is removed: it is still in the registry.
ALTER TABLE pushed_digests DROP CONSTRAINT pushed_digests_project_id_attempt_id_fkey;

-- The same for what farm itself put, or may have put: of builds that were removed. Of others it is in publications.
CREATE TABLE put_indexes (
    project_id uuid NOT NULL REFERENCES projects,
    registry   text NOT NULL,
    repository text NOT NULL,
    digest     bytea NOT NULL CHECK (length(digest) = 32),
    media_type text NOT NULL,
    -- The digests of what it lists.
    manifests  bytea[] NOT NULL,
    put_at     timestamptz NOT NULL,
    PRIMARY KEY (project_id, registry, repository, digest)
);

-- What keeps rows ------------------------------------------------------------------------------------

-- Something needs the builds of this execution, or they are final only since `kept_since` or later.
CREATE FUNCTION farm_build_needed(project uuid, execution uuid, kept_since timestamptz) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM builds b WHERE b.project_id = project AND b.execution_id = execution
                   AND (b.finished_at IS NULL OR b.finished_at >= kept_since))
        OR EXISTS (SELECT FROM builds b JOIN builds r ON r.project_id = b.project_id AND r.retry_of = b.id
                   WHERE b.project_id = project AND b.execution_id = execution)
        OR EXISTS (SELECT FROM jobs j JOIN jobs t ON t.project_id = j.project_id AND t.taken_from = j.id
                   WHERE j.project_id = project AND j.execution_id = execution)
        OR EXISTS (SELECT FROM jobs j JOIN attempts a ON a.project_id = j.project_id AND a.job_id = j.id
                   WHERE j.project_id = project AND j.execution_id = execution AND a.finished_at IS NULL)
        -- A tag that is to be looked at again: at the bytes that it ought to point to, and at those it must not.
        OR EXISTS (SELECT FROM builds b
                   JOIN publications p ON p.project_id = b.project_id AND p.build_id = b.id
                   JOIN tags t ON t.project_id = p.project_id AND t.publication_id = p.id
                   JOIN tag_heads h ON h.project_id = t.project_id AND h.registry = t.registry
                                   AND h.repository = t.repository AND h.tag = t.tag
                   WHERE b.project_id = project AND b.execution_id = execution AND h.recheck_at IS NOT NULL)
$$;

-- A build that isn't final wants this source, or an upload session that lives was told that it is there.
CREATE FUNCTION farm_snapshot_needed(project uuid, tree bytea) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM builds b JOIN executions e ON e.project_id = b.project_id AND e.id = b.execution_id
                   WHERE b.finished_at IS NULL AND e.project_id = project AND e.tree_id = tree)
        OR EXISTS (SELECT FROM uploads u WHERE u.project_id = project AND u.tree_id = tree
                   AND u.expires_at > farm_now())
$$;

-- Some row says where in this blob its bytes are.
CREATE FUNCTION farm_blob_needed(project uuid, blob uuid) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM objects o WHERE o.project_id = project AND o.pack = blob)
        OR EXISTS (SELECT FROM sealed_logs s WHERE s.project_id = project AND s.blob_id = blob)
$$;
