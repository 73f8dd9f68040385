-- What was pushed for builds that came to nothing is taken out of registries again.

-- REGISTRY/NAME of where an execution's results are pushed.
ALTER TABLE executions ADD COLUMN repositories text[] NOT NULL DEFAULT '{}';
UPDATE executions SET repositories = ARRAY(
    SELECT DISTINCT regexp_replace(tag, ':[^:/]*$', '') FROM jsonb_array_elements_text(spec -> 'tags') AS tag)
WHERE jsonb_typeof(spec -> 'tags') = 'array';
CREATE INDEX executions_by_repository ON executions USING gin (repositories);

-- What has become of it; null until that is decided. What is kept was published, or something that is needs it.
ALTER TABLE pushed_digests ADD COLUMN fate text CHECK (fate IN ('kept', 'removed'));
CREATE INDEX pushed_digests_undecided ON pushed_digests (registry, repository) WHERE fate IS NULL;
-- The same of the index that farm put there.
ALTER TABLE destinations ADD COLUMN fate text CHECK (fate IN ('kept', 'removed'));
CREATE INDEX destinations_undecided ON destinations (registry, repository) WHERE fate IS NULL;

-- Repositories that are or were cleaned. They belong to no project: several may push to one.
CREATE TABLE cleanings (
    registry   text NOT NULL,
    repository text NOT NULL,
    -- Until then nothing is removed that was not decided on, and no attempt begins that would push there.
    until      timestamptz NOT NULL,
    -- It is not looked at before.
    next_at    timestamptz NOT NULL,
    -- Why it could not be cleaned the last time; empty when it could.
    trouble    text NOT NULL DEFAULT '',
    PRIMARY KEY (registry, repository)
);
