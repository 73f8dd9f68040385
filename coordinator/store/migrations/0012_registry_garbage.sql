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

-- Something that farm published in the repository is this manifest, or lists it. Of builds that were removed for their age
-- it isn't known any more whether their tags came too late: they count as published.
CREATE INDEX put_indexes_by_repository ON put_indexes (registry, repository);
CREATE FUNCTION farm_published(at_registry text, at_repository text, wanted bytea) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM publications p JOIN destinations d ON d.project_id = p.project_id AND d.publication_id = p.id
        WHERE d.registry = at_registry AND d.repository = at_repository AND d.fate = 'kept'
          AND (p.index_digest = wanted OR p.manifests @> ARRAY[wanted]))
    OR EXISTS (
        SELECT FROM put_indexes i WHERE i.registry = at_registry AND i.repository = at_repository
          AND (i.digest = wanted OR i.manifests @> ARRAY[wanted]))
$$;
