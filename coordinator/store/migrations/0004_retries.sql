-- Retries: where a result was taken over from, and which builds retry one.

ALTER TABLE jobs
    -- The job of another build that made the result; never one that took it over itself.
    ADD COLUMN taken_from uuid,
    ADD FOREIGN KEY (project_id, taken_from) REFERENCES jobs (project_id, id),
    ADD CHECK (taken_from IS NULL OR state = 'succeeded');

CREATE INDEX builds_by_retry_of ON builds (project_id, retry_of) WHERE retry_of IS NOT NULL;
