-- What the farm delivers to itself: pushes whose delivery was lost, schedules, and base images that have moved.

ALTER TABLE deliveries
    -- What it was made for, if the farm has made it itself; null: it was sent.
    ADD COLUMN own text,
    -- The hooks whose builds have led to it, one to the other.
    ADD COLUMN lineage uuid[] NOT NULL DEFAULT '{}',
    -- What the first of these began by; null: it is none of such a chain.
    ADD COLUMN root uuid,
    -- The ref of which it says that it was moved; empty: it says of none; null: nobody has read it yet.
    ADD COLUMN pushes text;
-- An image that moves often, before it was begun to build what is built upon it, is built upon once.
-- fits: older coordinators write no such rows
-- locks: deliveries are kept for days only
CREATE UNIQUE INDEX deliveries_coalesced ON deliveries (project_id, hook_id, own)
    WHERE state = 'received' AND git_ref IS NULL AND own LIKE 'base_image %';

ALTER TABLE hook_builds
    -- Its delivery's.
    ADD COLUMN own text,
    -- Its delivery's.
    ADD COLUMN lineage uuid[] NOT NULL DEFAULT '{}',
    -- Its delivery's.
    ADD COLUMN root uuid;

ALTER TABLE ref_heads
    -- Where the last look has seen it; null: a delivery about it was placed since.
    ADD COLUMN listed text,
    -- Since when looks don't find it.
    ADD COLUMN gone_at timestamptz,
    -- The commit of a push that was made up and failed before it got its place, and how often in a row.
    ADD COLUMN failed text,
    ADD COLUMN failures integer NOT NULL DEFAULT 0;
-- locks: refs of hooks' repositories are few
CREATE INDEX ref_heads_gone ON ref_heads (gone_at) WHERE gone_at IS NOT NULL;
-- locks: as above
CREATE INDEX ref_heads_deleted ON ref_heads (seen_at) WHERE commit_id IS NULL;

ALTER TABLE hooks
    -- By the last delivery or look that has said it.
    ADD COLUMN default_branch text,
    -- That one's place among deliveries; of a look the newest delivery when it began.
    ADD COLUMN default_branch_at bigint NOT NULL DEFAULT 0,
    -- It is looked for what its forge didn't deliver.
    ADD COLUMN sweeps boolean NOT NULL DEFAULT true,
    -- Why the farm does nothing for it of its own accord; empty: it does.
    ADD COLUMN strayed text NOT NULL DEFAULT '',
    -- The place of the delivery whose rules said the schedules and base images.
    ADD COLUMN planned bigint NOT NULL DEFAULT 0;

-- Looks at where refs are: the hook's last one, the one that goes on, and when the next one is due.
CREATE TABLE hook_looks (
    project_id uuid NOT NULL,
    hook_id    uuid NOT NULL,
    due_at     timestamptz NOT NULL,
    -- How many were begun: each is another build.
    looks      bigint NOT NULL DEFAULT 0,
    -- Of the one that goes on: when it was begun, after which delivery, and its build, once that is submitted.
    begun_at   timestamptz,
    after      bigint NOT NULL DEFAULT 0,
    build_id   uuid,
    -- When one has last said where refs are; null: none has, and the next one only notes that.
    looked_at  timestamptz,
    -- When one has last found that the repository is the hook's.
    fine_at    timestamptz,
    -- The last name of its list, if there were more; null: it was whole.
    listed_to  text,
    -- The last one knew nothing of what it found: the next one looks through the history.
    is_doubted boolean NOT NULL DEFAULT false,
    -- What came of the last one, and when; what went wrong is trouble, in a row so often.
    ended_at   timestamptz,
    result     text NOT NULL DEFAULT '',
    is_trouble boolean NOT NULL DEFAULT false,
    tries      integer NOT NULL DEFAULT 0,
    PRIMARY KEY (project_id, hook_id),
    FOREIGN KEY (project_id, hook_id) REFERENCES hooks ON DELETE CASCADE,
    CHECK (build_id IS NULL OR begun_at IS NOT NULL)
);
CREATE INDEX hook_looks_due ON hook_looks (due_at) WHERE begun_at IS NULL;
CREATE INDEX hook_looks_begun ON hook_looks (begun_at) WHERE begun_at IS NOT NULL;

-- The times at which something is to be built, by the rules of the default branch.
CREATE TABLE hook_schedules (
    project_id uuid NOT NULL,
    hook_id    uuid NOT NULL,
    name       text NOT NULL,
    -- As in crontab(5).
    line       text NOT NULL,
    next_at    timestamptz NOT NULL,
    -- When that was said: if it is later than now, the clock was set back.
    set_at     timestamptz NOT NULL DEFAULT farm_now(),
    PRIMARY KEY (project_id, hook_id, name, line),
    FOREIGN KEY (project_id, hook_id) REFERENCES hooks ON DELETE CASCADE
);
CREATE INDEX hook_schedules_due ON hook_schedules (next_at);
CREATE INDEX hook_schedules_set ON hook_schedules (set_at);

-- The images upon whose moving something is to be built; * is all that the farm is told of.
CREATE TABLE hook_bases (
    project_id uuid NOT NULL,
    hook_id    uuid NOT NULL,
    image      text NOT NULL,
    PRIMARY KEY (project_id, hook_id, image),
    FOREIGN KEY (project_id, hook_id) REFERENCES hooks ON DELETE CASCADE
);
CREATE INDEX hook_bases_of ON hook_bases (project_id, image);

-- The moves of images upon which a hook has built: upon each one once, by whichever way it comes.
CREATE TABLE hook_roots (
    project_id uuid NOT NULL,
    hook_id    uuid NOT NULL,
    root       uuid NOT NULL,
    made_at    timestamptz NOT NULL DEFAULT farm_now(),
    -- It has a delivery of its own.
    is_own     boolean NOT NULL,
    PRIMARY KEY (project_id, hook_id, root),
    FOREIGN KEY (project_id, hook_id) REFERENCES hooks ON DELETE CASCADE
);
CREATE INDEX hook_roots_old ON hook_roots (made_at);

-- A look at where refs are is none of the builds that a project's limits count.
ALTER TABLE builds ADD COLUMN look boolean NOT NULL DEFAULT false;
-- locks: a partial index with nothing in it: the table is read through once, and before the first release there is none so large that this
-- takes more than a moment
CREATE INDEX builds_looks ON builds (finished_at) WHERE look;
