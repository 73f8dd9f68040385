-- What a project may take of the farm, and what its builds are where they don't say it themselves.

-- Null: without a limit.
ALTER TABLE projects ADD COLUMN max_running_slots integer;
ALTER TABLE projects ADD COLUMN max_queued_builds integer;
ALTER TABLE projects ADD COLUMN builds_per_minute integer;
ALTER TABLE projects ADD COLUMN max_stored_bytes bigint;
-- None: those that the farm has native workers for.
ALTER TABLE projects ADD COLUMN default_platforms text[] NOT NULL DEFAULT '{}';
-- Empty: as the farm has it.
ALTER TABLE projects ADD COLUMN default_emulation text NOT NULL DEFAULT '';
-- fits: no coordinator from before writes these columns
ALTER TABLE projects ADD CONSTRAINT projects_quotas CHECK (
    max_running_slots > 0 AND max_queued_builds > 0 AND builds_per_minute > 0 AND max_stored_bytes > 0);
-- A project's builds that wait, which are counted where it has a limit for them.
-- locks: before the first release there is no table so large that this takes more than a moment
CREATE INDEX builds_queued ON builds (project_id) WHERE state = 'queued';
