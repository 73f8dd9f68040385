-- A source may hold only what its Dockerfile names. When a build needs more (a base image's ONBUILD, say), whoever submitted
-- it sends the whole, and its jobs wait for that.
ALTER TABLE executions
    -- Since when the whole source is waited for.
    ADD COLUMN source_wanted_at timestamptz;
