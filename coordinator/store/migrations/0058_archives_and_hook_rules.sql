-- Fetches of archives: jobs of kind fetch that need no git. Coordinators of before can't read such a build, and are shut out by the first
-- one.
ALTER TABLE jobs ADD COLUMN archive boolean NOT NULL DEFAULT false;

-- Rules that a project keeps at a hook, in the place of its repository's file; the newest count, null: the repository's do. Coordinators of
-- before would build by the repository's, and are shut out by the first ones.
CREATE TABLE hook_rules (
    project_id uuid NOT NULL,
    hook_id    uuid NOT NULL,
    -- From 1 on.
    version    bigint NOT NULL,
    rules      text,
    set_by     text NOT NULL,
    set_at     timestamptz NOT NULL DEFAULT farm_now(),
    PRIMARY KEY (project_id, hook_id, version),
    FOREIGN KEY (project_id, hook_id) REFERENCES hooks ON DELETE CASCADE
);
