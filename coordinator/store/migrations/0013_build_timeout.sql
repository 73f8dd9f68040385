-- When a build that was given a timeout is failed, unless it is being published or has ended; null: it has none.
ALTER TABLE builds ADD COLUMN deadline timestamptz;
CREATE INDEX builds_deadline ON builds (deadline) WHERE deadline IS NOT NULL AND finished_at IS NULL;
