-- farm's state. Rules of the schema:
--   * every row of a project bears its project's id, and the id is part of every key;
--   * workers, engines, coordinators and the leader row belong to the farm, not to a project;
--   * every state has a CHECK with the words of farm-types, `state`;
--   * time is farm_now(), never now(): tests move it;
--   * a write repeats its premise in WHERE, and the caller checks the row count.

CREATE TABLE farm_clock (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    shift    interval NOT NULL DEFAULT '0'
);
INSERT INTO farm_clock DEFAULT VALUES;

-- STABLE: one value within a statement, so that an index on a time can be used.
CREATE FUNCTION farm_now() RETURNS timestamptz LANGUAGE sql STABLE AS
$$ SELECT clock_timestamp() + shift FROM farm_clock $$;

-- Projects ----------------------------------------------------------------------------------------

CREATE TABLE projects (
    id         uuid PRIMARY KEY,
    name       text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    weight     integer NOT NULL DEFAULT 1 CHECK (weight > 0),
    created_at timestamptz NOT NULL DEFAULT farm_now()
);
INSERT INTO projects (id, name) VALUES ('00000000-0000-7000-8000-000000000001', 'default');

-- Snapshots ---------------------------------------------------------------------------------------

-- One stored object is a folder or a file's content. Small ones share a pack: (pack, pack_offset).
-- An object is inserted only after all that it names: so its presence means that all below is present.
CREATE TABLE objects (
    project_id  uuid NOT NULL REFERENCES projects,
    digest      bytea NOT NULL CHECK (length(digest) = 32),
    kind        text NOT NULL CHECK (kind IN ('file', 'folder')),
    size        bigint NOT NULL CHECK (size >= 0),
    -- What a folder unfolds to: its entries and all below them; 0 for a file.
    entries     bigint NOT NULL DEFAULT 0 CHECK (entries >= 0),
    pack        uuid,
    pack_offset bigint CHECK (pack_offset >= 0),
    created_at  timestamptz NOT NULL DEFAULT farm_now(),
    PRIMARY KEY (project_id, digest),
    CHECK ((pack IS NULL) = (pack_offset IS NULL))
);

CREATE TABLE uploads (
    project_id uuid NOT NULL REFERENCES projects,
    id         uuid NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT farm_now(),
    expires_at timestamptz NOT NULL,
    tree_id    bytea CHECK (length(tree_id) = 32),
    PRIMARY KEY (project_id, id)
);

-- What a session was told is there, or brought: it stays while the session lives.
CREATE TABLE upload_pins (
    project_id uuid NOT NULL,
    upload_id  uuid NOT NULL,
    digest     bytea NOT NULL,
    PRIMARY KEY (project_id, upload_id, digest),
    FOREIGN KEY (project_id, upload_id) REFERENCES uploads ON DELETE CASCADE
);

CREATE TABLE snapshots (
    project_id   uuid NOT NULL REFERENCES projects,
    tree_id      bytea NOT NULL CHECK (length(tree_id) = 32),
    content_key  bytea NOT NULL CHECK (length(content_key) = 32),
    created_at   timestamptz NOT NULL DEFAULT farm_now(),
    last_used_at timestamptz NOT NULL DEFAULT farm_now(),
    PRIMARY KEY (project_id, tree_id)
);

CREATE TABLE snapshot_roots (
    project_id uuid NOT NULL,
    tree_id    bytea NOT NULL,
    name       text NOT NULL CHECK (name <> ''),
    tree       bytea NOT NULL CHECK (length(tree) = 32),
    content    bytea NOT NULL CHECK (length(content) = 32),
    PRIMARY KEY (project_id, tree_id, name),
    FOREIGN KEY (project_id, tree_id) REFERENCES snapshots ON DELETE CASCADE,
    FOREIGN KEY (project_id, tree) REFERENCES objects (project_id, digest)
);

-- Work --------------------------------------------------------------------------------------------

CREATE TABLE executions (
    project_id uuid NOT NULL REFERENCES projects,
    id         uuid NOT NULL,
    state      text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'built', 'failed', 'cancelled')),
    spec       jsonb NOT NULL,
    tree_id    bytea NOT NULL,
    failure    jsonb,
    event_seq  bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT farm_now(),
    decided_at timestamptz,
    PRIMARY KEY (project_id, id),
    FOREIGN KEY (project_id, tree_id) REFERENCES snapshots (project_id, tree_id),
    CHECK ((state = 'failed') = (failure IS NOT NULL)),
    CHECK ((state = 'open') = (decided_at IS NULL))
);
CREATE INDEX executions_open ON executions (created_at) WHERE state = 'open';

-- The order of intent among all that moves tags.
CREATE SEQUENCE order_keys;

CREATE TABLE builds (
    project_id      uuid NOT NULL REFERENCES projects,
    id              uuid NOT NULL,
    short_id        text NOT NULL CHECK (short_id ~ '^[0-9a-hjkmnp-tv-z]{6,16}$'),
    idempotency_key text NOT NULL CHECK (length(idempotency_key) BETWEEN 1 AND 128),
    request_digest  bytea NOT NULL,
    execution_id    uuid NOT NULL,
    state           text NOT NULL DEFAULT 'queued' CHECK (state IN
                    ('queued', 'running', 'publishing', 'cancelling', 'succeeded', 'failed', 'cancelled')),
    spec            jsonb NOT NULL,
    order_key       bigint NOT NULL DEFAULT nextval('order_keys'),
    retry_of        uuid,
    failure         jsonb,
    created_by      text NOT NULL,
    event_seq       bigint NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT farm_now(),
    started_at      timestamptz,
    finished_at     timestamptz,
    queue_deadline  timestamptz NOT NULL,
    -- While publishing: how often the merge was tried, when it is due again, when it is given up.
    publish_tries   integer NOT NULL DEFAULT 0,
    -- Why the last try came to nothing.
    publish_trouble text NOT NULL DEFAULT '',
    publish_due     timestamptz,
    publish_deadline timestamptz,
    PRIMARY KEY (project_id, id),
    UNIQUE (project_id, short_id),
    UNIQUE (project_id, idempotency_key),
    FOREIGN KEY (project_id, execution_id) REFERENCES executions,
    FOREIGN KEY (project_id, retry_of) REFERENCES builds,
    CHECK ((state = 'failed') = (failure IS NOT NULL)),
    CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CHECK (state NOT IN ('running', 'publishing', 'succeeded') OR started_at IS NOT NULL),
    CHECK (state <> 'publishing' OR (publish_due IS NOT NULL AND publish_deadline IS NOT NULL))
);
CREATE INDEX builds_publishing ON builds (publish_due) WHERE state = 'publishing';
CREATE INDEX builds_by_execution ON builds (project_id, execution_id);
CREATE INDEX builds_live ON builds (queue_deadline) WHERE finished_at IS NULL;

CREATE TABLE jobs (
    project_id       uuid NOT NULL REFERENCES projects,
    id               uuid NOT NULL,
    execution_id     uuid NOT NULL,
    kind             text NOT NULL CHECK (kind IN ('build', 'run', 'gate', 'fetch', 'probe')),
    -- What the job is among those of its kind: for a build its platform.
    unit_key         text NOT NULL,
    platform         text NOT NULL,
    required         boolean NOT NULL DEFAULT true,
    state            text NOT NULL CHECK (state IN
                     ('blocked', 'ready', 'leased', 'running', 'succeeded', 'failed', 'cancelled')),
    -- Jobs of one class can be run by the same workers: platform, policy, selector, size, trust.
    queue_class      text NOT NULL,
    -- Place in the class and project: submission minus the priority's head start; never rewritten.
    virtual_time     timestamptz NOT NULL,
    emulation        text NOT NULL,
    weight           integer NOT NULL DEFAULT 1 CHECK (weight > 0),
    attempt_count    integer NOT NULL DEFAULT 0 CHECK (attempt_count >= 0),
    lost_count       integer NOT NULL DEFAULT 0 CHECK (lost_count BETWEEN 0 AND attempt_count),
    excluded_workers uuid[] NOT NULL DEFAULT '{}',
    not_before       timestamptz NOT NULL DEFAULT farm_now(),
    ready_at         timestamptz,
    waiting          text NOT NULL DEFAULT '',
    failure          jsonb,
    result           jsonb,
    created_at       timestamptz NOT NULL DEFAULT farm_now(),
    decided_at       timestamptz,
    PRIMARY KEY (project_id, id),
    UNIQUE (project_id, execution_id, kind, unit_key),
    FOREIGN KEY (project_id, execution_id) REFERENCES executions,
    CHECK ((state = 'succeeded') = (result IS NOT NULL)),
    CHECK ((state = 'failed') = (failure IS NOT NULL)),
    CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (decided_at IS NOT NULL)),
    CHECK (state = 'blocked' OR ready_at IS NOT NULL OR state = 'cancelled')
);
CREATE UNIQUE INDEX jobs_by_id ON jobs (id);
CREATE INDEX jobs_queue ON jobs (queue_class, project_id, virtual_time, id) WHERE state = 'ready';

CREATE TABLE job_dependencies (
    project_id uuid NOT NULL,
    job_id     uuid NOT NULL,
    depends_on uuid NOT NULL CHECK (depends_on <> job_id),
    PRIMARY KEY (project_id, job_id, depends_on),
    FOREIGN KEY (project_id, job_id) REFERENCES jobs,
    FOREIGN KEY (project_id, depends_on) REFERENCES jobs
);

-- Machines ----------------------------------------------------------------------------------------

CREATE TABLE coordinators (
    id         uuid PRIMARY KEY,
    address    text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT farm_now(),
    last_seen  timestamptz NOT NULL DEFAULT farm_now()
);

-- Who leads. The epoch rises with each change and fences every write of a leader.
CREATE TABLE leader (
    only_row       boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch          bigint NOT NULL DEFAULT 0,
    coordinator_id uuid,
    taken_at       timestamptz,
    -- After an outage of all coordinators: since when, and until when silence is held against nobody. They go on
    -- with the next leader.
    silent_since   timestamptz,
    settled_at     timestamptz,
    expires_at     timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO leader DEFAULT VALUES;

-- The slots of an engine; workers on one engine share them. A lease asks used + weight <= slots.
CREATE TABLE engines (
    id      uuid PRIMARY KEY,
    key     text NOT NULL UNIQUE,
    kind    text NOT NULL CHECK (kind IN ('docker', 'buildkitd')),
    version text NOT NULL,
    slots   integer NOT NULL CHECK (slots > 0),
    used    integer NOT NULL DEFAULT 0 CHECK (used >= 0)
);

CREATE TABLE workers (
    id               uuid PRIMARY KEY,
    name             text NOT NULL UNIQUE CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$'),
    engine_id        uuid NOT NULL REFERENCES engines,
    boot_id          uuid NOT NULL,
    -- The coordinator that holds its control stream, null when none does; and which stream it is, so that
    -- the end of an old one doesn't undo a new one.
    coordinator_id   uuid,
    connection_id    uuid NOT NULL,
    protocol         integer NOT NULL CHECK (protocol > 0),
    features         text[] NOT NULL DEFAULT '{}',
    software_version text NOT NULL,
    -- Since when it offers nothing (its engine is away, or it is about to leave); its platforms stand as they
    -- were, so that a short absence unlocks no emulation.
    withdrawn_at     timestamptz,
    draining         boolean NOT NULL DEFAULT false,
    slots            integer NOT NULL CHECK (slots > 0),
    last_seen        timestamptz NOT NULL DEFAULT farm_now(),
    -- When this life of it was first heard of.
    booted_at        timestamptz NOT NULL DEFAULT farm_now()
) WITH (fillfactor = 50);

CREATE TABLE worker_platforms (
    worker_id uuid NOT NULL REFERENCES workers ON DELETE CASCADE,
    platform  text NOT NULL,
    support   text NOT NULL CHECK (support IN ('native', 'emulated')),
    told      boolean NOT NULL,
    PRIMARY KEY (worker_id, platform)
);

-- Tries -------------------------------------------------------------------------------------------

CREATE TABLE attempts (
    project_id       uuid NOT NULL REFERENCES projects,
    id               uuid NOT NULL,
    job_id           uuid NOT NULL,
    number           integer NOT NULL CHECK (number > 0),
    worker_id        uuid NOT NULL REFERENCES workers,
    engine_id        uuid NOT NULL REFERENCES engines,
    boot_id          uuid NOT NULL,
    lease_token      uuid NOT NULL UNIQUE,
    epoch            bigint NOT NULL,
    support          text NOT NULL CHECK (support IN ('native', 'emulated')),
    -- Why it is emulated, in words.
    support_reason   text NOT NULL DEFAULT '',
    weight           integer NOT NULL CHECK (weight > 0),
    state            text NOT NULL DEFAULT 'offered' CHECK (state IN
                     ('offered', 'running', 'succeeded', 'failed', 'lost', 'released', 'cancelled')),
    -- Why its worker is to stop it; empty while it may go on.
    stop_reason      text NOT NULL DEFAULT '',
    stop_since       timestamptz,
    lease_expires_at timestamptz NOT NULL,
    offered_at       timestamptz NOT NULL DEFAULT farm_now(),
    started_at       timestamptz,
    finished_at      timestamptz,
    failure          jsonb,
    result           jsonb,
    -- The partition that its chunks go to, whatever day they come on.
    log_day          date NOT NULL DEFAULT (farm_now() AT TIME ZONE 'UTC')::date,
    acked_seq        bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (project_id, id),
    UNIQUE (project_id, job_id, number),
    FOREIGN KEY (project_id, job_id) REFERENCES jobs,
    CHECK ((state IN ('offered', 'running')) = (finished_at IS NULL)),
    CHECK ((state = 'succeeded') = (result IS NOT NULL)),
    CHECK (state NOT IN ('failed', 'lost') OR failure IS NOT NULL),
    CHECK ((support = 'emulated') = (support_reason <> '')),
    CHECK ((stop_reason = '') = (stop_since IS NULL))
) WITH (fillfactor = 50);
-- A job has at most one live lease.
CREATE UNIQUE INDEX attempts_live ON attempts (project_id, job_id) WHERE state IN ('offered', 'running');
CREATE INDEX attempts_of_worker ON attempts (worker_id) WHERE state IN ('offered', 'running');

-- What an attempt said, in chunks of an encoded farm.v1.AttemptEventList.
CREATE TABLE attempt_chunks (
    log_day    date NOT NULL,
    project_id uuid NOT NULL,
    attempt_id uuid NOT NULL,
    seq        bigint NOT NULL CHECK (seq > 0),
    payload    bytea NOT NULL CHECK (length(payload) <= 262144),
    stored_at  timestamptz NOT NULL DEFAULT farm_now(),
    PRIMARY KEY (log_day, project_id, attempt_id, seq)
) PARTITION BY RANGE (log_day);
-- Takes what comes before its day's partition was made.
CREATE TABLE attempt_chunks_rest PARTITION OF attempt_chunks DEFAULT;

-- Makes the partitions of the given day and the days after it, where they are missing and nothing for
-- them lies in the rest.
CREATE FUNCTION farm_make_log_partitions(first date, days integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    made integer := 0;
    day  date;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('farm_make_log_partitions'));
    FOR i IN 0 .. days - 1 LOOP
        day := first + i;
        IF to_regclass(format('attempt_chunks_%s', to_char(day, 'YYYYMMDD'))) IS NULL
           AND NOT EXISTS (SELECT FROM attempt_chunks_rest WHERE log_day = day) THEN
            EXECUTE format('CREATE TABLE attempt_chunks_%s PARTITION OF attempt_chunks '
                           'FOR VALUES FROM (%L) TO (%L)', to_char(day, 'YYYYMMDD'), day, day + 1);
            made := made + 1;
        END IF;
    END LOOP;
    RETURN made;
END $$;

-- What happened to an execution or a build (`stream_id` is the id of either), numbered without gaps.
CREATE TABLE events (
    project_id uuid NOT NULL REFERENCES projects,
    stream_id  uuid NOT NULL,
    seq        bigint NOT NULL CHECK (seq > 0),
    at         timestamptz NOT NULL DEFAULT farm_now(),
    kind       text NOT NULL,
    data       jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (project_id, stream_id, seq)
);

CREATE FUNCTION farm_execution_event(project uuid, execution uuid, kind text, data jsonb) RETURNS bigint
LANGUAGE sql AS $$
    WITH next AS (
        UPDATE executions SET event_seq = event_seq + 1
        WHERE project_id = project AND id = execution RETURNING event_seq
    )
    INSERT INTO events (project_id, stream_id, seq, kind, data)
    SELECT project, execution, event_seq, kind, data FROM next RETURNING seq
$$;

CREATE FUNCTION farm_build_event(project uuid, build uuid, kind text, data jsonb) RETURNS bigint
LANGUAGE sql AS $$
    WITH next AS (
        UPDATE builds SET event_seq = event_seq + 1
        WHERE project_id = project AND id = build RETURNING event_seq
    )
    INSERT INTO events (project_id, stream_id, seq, kind, data)
    SELECT project, build, event_seq, kind, data FROM next RETURNING seq
$$;

-- Per step of a finished attempt: history for estimates and cost.
CREATE TABLE step_timings (
    project_id  uuid NOT NULL,
    attempt_id  uuid NOT NULL,
    position    integer NOT NULL,
    stage       text NOT NULL,
    instruction text NOT NULL,
    cached      boolean NOT NULL,
    started_at  timestamptz,
    finished_at timestamptz,
    PRIMARY KEY (project_id, attempt_id, position),
    FOREIGN KEY (project_id, attempt_id) REFERENCES attempts
);

-- Publishing --------------------------------------------------------------------------------------

-- Every manifest that a worker pushed, so that what no tag needs can be cleaned later. (What farm itself puts
-- is in publications.)
CREATE TABLE pushed_digests (
    project_id uuid NOT NULL REFERENCES projects,
    registry   text NOT NULL,
    repository text NOT NULL,
    digest     bytea NOT NULL CHECK (length(digest) = 32),
    attempt_id uuid NOT NULL,
    media_type text NOT NULL,
    pushed_at  timestamptz NOT NULL DEFAULT farm_now(),
    PRIMARY KEY (project_id, registry, repository, digest, attempt_id),
    FOREIGN KEY (project_id, attempt_id) REFERENCES attempts
);

CREATE TABLE publications (
    project_id       uuid NOT NULL REFERENCES projects,
    id               uuid NOT NULL,
    build_id         uuid NOT NULL,
    state            text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'published', 'failed')),
    index_digest     bytea NOT NULL CHECK (length(index_digest) = 32),
    index_media_type text NOT NULL,
    index_bytes      bytea NOT NULL,
    order_key        bigint NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT farm_now(),
    deadline         timestamptz NOT NULL,
    finished_at      timestamptz,
    PRIMARY KEY (project_id, id),
    UNIQUE (project_id, build_id),
    FOREIGN KEY (project_id, build_id) REFERENCES builds,
    CHECK ((state = 'pending') = (finished_at IS NULL))
);
CREATE INDEX publications_by_order ON publications (project_id, order_key);
CREATE INDEX publications_pending ON publications (project_id, id) WHERE state = 'pending';

CREATE TABLE destinations (
    project_id     uuid NOT NULL,
    publication_id uuid NOT NULL,
    registry       text NOT NULL,
    repository     text NOT NULL,
    state          text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'pushed', 'failed')),
    tries          integer NOT NULL DEFAULT 0,
    next_try_at    timestamptz NOT NULL DEFAULT farm_now(),
    failure        jsonb,
    settled_at     timestamptz,
    PRIMARY KEY (project_id, publication_id, registry, repository),
    FOREIGN KEY (project_id, publication_id) REFERENCES publications,
    CHECK ((state = 'pending') = (settled_at IS NULL)),
    CHECK (state <> 'failed' OR failure IS NOT NULL)
);

CREATE TABLE tags (
    project_id      uuid NOT NULL,
    publication_id  uuid NOT NULL,
    registry        text NOT NULL,
    repository      text NOT NULL,
    tag             text NOT NULL,
    order_key       bigint NOT NULL,
    state           text NOT NULL DEFAULT 'wanted'
                    CHECK (state IN ('wanted', 'put', 'verified', 'superseded', 'failed')),
    -- What it pointed to when it was looked at first, before any put; null also when it wasn't there.
    previous_digest bytea CHECK (length(previous_digest) = 32),
    looked_at       boolean NOT NULL DEFAULT false,
    failure         jsonb,
    settled_at      timestamptz,
    PRIMARY KEY (project_id, publication_id, registry, repository, tag),
    FOREIGN KEY (project_id, publication_id, registry, repository) REFERENCES destinations,
    CHECK ((state IN ('wanted', 'put')) = (settled_at IS NULL)),
    CHECK (state <> 'failed' OR failure IS NOT NULL)
);

-- The newest intention that was ever put for a tag. An older one never passes it.
CREATE TABLE tag_heads (
    project_id uuid NOT NULL REFERENCES projects,
    registry   text NOT NULL,
    repository text NOT NULL,
    tag        text NOT NULL,
    order_key  bigint NOT NULL,
    digest     bytea NOT NULL CHECK (length(digest) = 32),
    epoch      bigint NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT farm_now(),
    -- When a put of an older intention, begun before this claim, must be over: then the tag is looked at once
    -- more. Null: nothing is to be feared.
    recheck_at timestamptz,
    PRIMARY KEY (project_id, registry, repository, tag)
);
CREATE INDEX tag_heads_recheck ON tag_heads (recheck_at) WHERE recheck_at IS NOT NULL;
