-- What follows from deliveries: where each stands among those about its ref, and what was begun by it.

-- Which ref it is about, once it was read. Its place among all intentions, once its ref was seen at its commit: builds of it have that
-- order_key. How often it was begun: builds of each time are others.
ALTER TABLE deliveries
    ADD COLUMN git_ref text,
    ADD COLUMN order_key bigint,
    -- While it looks where its ref is: others about that ref wait.
    ADD COLUMN looks boolean NOT NULL DEFAULT false,
    -- The commit at which the delivery before it had seen the ref.
    ADD COLUMN follows text,
    ADD COLUMN runs integer NOT NULL DEFAULT 0;
-- locks: deliveries are of this release, and kept for days only
CREATE INDEX deliveries_of_ref ON deliveries (project_id, hook_id, git_ref, order_key) WHERE git_ref IS NOT NULL;

-- In whose turn a delivery is looked at.
-- locks: deliveries are of this release, and kept for days only
CREATE INDEX deliveries_by_turn ON deliveries (due_at, sequence) WHERE state = 'received';

-- The commit of the last delivery that has got a place.
ALTER TABLE ref_heads ADD COLUMN placed text;

-- For which refs (as in project_secrets) a hook's builds may move what a publisher may; for all others it is a builder.
ALTER TABLE hooks ADD COLUMN publishes text[] NOT NULL DEFAULT '{}';

CREATE TABLE hook_builds (
    project_id  uuid NOT NULL,
    hook_id     uuid NOT NULL,
    delivery_id text NOT NULL,
    run         integer NOT NULL,
    -- rules: their fetch; source: the fetch of an image's source; image: its build.
    kind        text NOT NULL CHECK (kind IN ('rules', 'source', 'image')),
    -- The image's name in the file; empty of rules.
    image       text NOT NULL,
    git_ref     text NOT NULL,
    build_id    uuid NOT NULL,
    PRIMARY KEY (project_id, hook_id, delivery_id, run, kind, image),
    FOREIGN KEY (project_id, build_id) REFERENCES builds (project_id, id) ON DELETE CASCADE
);
CREATE INDEX hook_builds_of_build ON hook_builds (project_id, build_id);
CREATE INDEX hook_builds_of_ref ON hook_builds (project_id, hook_id, git_ref, image) WHERE kind = 'image';
