-- Workers that are sick, or have to leave: quarantine, probation, what is given back; and attempts without progress.

ALTER TABLE workers
    -- Why it offers nothing, in its own words.
    ADD COLUMN withdrawn_why text NOT NULL DEFAULT '',
    -- Drained with a limit: what it still runs then is given back.
    ADD COLUMN release_at timestamptz,
    -- Since when it is set aside, since it did not stop the attempt of this lease; until it runs that no more.
    ADD COLUMN quarantined_at timestamptz,
    ADD COLUMN quarantine_token uuid,
    -- Since when it gets no ordinary jobs, since it failed several for reasons of its own; and why, in words.
    ADD COLUMN probation_at timestamptz,
    ADD COLUMN probation_why text NOT NULL DEFAULT '',
    -- When the next trial build is due; the one that it was asked for and has not answered, and since when.
    ADD COLUMN probe_at timestamptz,
    ADD COLUMN probe_id uuid,
    ADD COLUMN probe_asked_at timestamptz,
    -- Trial builds in a row that failed; probations without an ordinary success since.
    ADD COLUMN probe_failures integer NOT NULL DEFAULT 0 CHECK (probe_failures >= 0),
    ADD COLUMN probations integer NOT NULL DEFAULT 0 CHECK (probations >= 0),
    -- What it failed before this is forgiven.
    ADD COLUMN trusted_at timestamptz,
    ADD CHECK (release_at IS NULL OR drained_at IS NOT NULL),
    ADD CHECK ((quarantined_at IS NULL) = (quarantine_token IS NULL)),
    ADD CHECK ((probation_at IS NULL) = (probe_at IS NULL)),
    ADD CHECK (probe_id IS NULL OR probation_at IS NOT NULL),
    ADD CHECK ((probe_id IS NULL) = (probe_asked_at IS NULL));

-- When something was last heard of its progress.
ALTER TABLE attempts ADD COLUMN progress_at timestamptz;

CREATE INDEX attempts_failed ON attempts (finished_at) WHERE state IN ('failed', 'lost');
CREATE INDEX attempts_succeeded ON attempts (worker_id, finished_at) WHERE state = 'succeeded';
