-- Mirrors that the farm repeats by itself. Coordinators of before begin no runs; what a newer one has begun they carry out, as it is a copy
-- like others.

CREATE TABLE mirrors (
    project_id    uuid NOT NULL REFERENCES projects,
    id            uuid NOT NULL,
    -- The image, and the tag that it gets.
    source        text NOT NULL,
    destination   text NOT NULL,
    -- Of an index these only; none: all of it.
    platforms     text[] NOT NULL DEFAULT '{}',
    -- Each platform's image gets a tag of its own, too.
    per_arch      boolean NOT NULL,
    every_seconds bigint NOT NULL CHECK (every_seconds > 0),
    -- In whose name it is copied, and the most that one may do by that; null: whoever has the farm's token file.
    owner_id      uuid REFERENCES principals,
    most          text NOT NULL CHECK (most IN ('viewer', 'builder', 'publisher', 'admin')),
    created_by    text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT farm_now(),
    -- All runs but the first one are whole intervals after this.
    anchor        timestamptz NOT NULL,
    -- When the next run is due; of one that goes on, when that was.
    next_at       timestamptz NOT NULL DEFAULT farm_now(),
    -- The last run: its number, by which its builds are known, and whether it goes on. 0: there was none.
    run           bigint NOT NULL DEFAULT 0,
    is_running    boolean NOT NULL DEFAULT false,
    began_at      timestamptz,
    -- While it goes on: when it is looked at again, and how often its builds could not be made for now.
    look_at       timestamptz NOT NULL DEFAULT farm_now(),
    tries         integer NOT NULL DEFAULT 0,
    -- What came of the last one that has ended: what it has copied, or why it failed; and how many have failed in a row.
    ended_at      timestamptz,
    digest        bytea CHECK (length(digest) = 32),
    trouble       text NOT NULL DEFAULT '',
    failures      integer NOT NULL DEFAULT 0,
    PRIMARY KEY (project_id, id),
    UNIQUE (project_id, destination),
    CHECK (NOT is_running OR began_at IS NOT NULL),
    CHECK ((failures > 0) = (trouble <> ''))
);
CREATE INDEX mirrors_due ON mirrors (next_at) WHERE NOT is_running;
CREATE INDEX mirrors_running ON mirrors (look_at) WHERE is_running;

-- The builds of each mirror's last run.
CREATE TABLE mirror_builds (
    project_id uuid NOT NULL,
    mirror_id  uuid NOT NULL,
    run        bigint NOT NULL,
    -- What stands behind the destination's tag: the platform, as in TAG-arm64; empty: nothing.
    part       text NOT NULL,
    build_id   uuid NOT NULL,
    PRIMARY KEY (project_id, mirror_id, run, part),
    FOREIGN KEY (project_id, mirror_id) REFERENCES mirrors ON DELETE CASCADE,
    FOREIGN KEY (project_id, build_id) REFERENCES builds ON DELETE CASCADE
);
CREATE INDEX mirror_builds_of_build ON mirror_builds (project_id, build_id);
