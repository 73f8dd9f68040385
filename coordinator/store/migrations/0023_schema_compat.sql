-- breaks: 23, since older coordinators refuse every schema that is newer than their own
-- Which coordinators may run into this database. A migration that some older ones can't live with raises `oldest` in its own
-- transaction and says so in its first line; docs/development.md has the rules.

CREATE TABLE schema_compat (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    -- The oldest schema (the number of its newest migration) that a coordinator must have.
    oldest      integer NOT NULL CHECK (oldest > 0),
    -- Which farm ran the newest migrations, for messages.
    migrated_by text NOT NULL DEFAULT ''
);
INSERT INTO schema_compat (oldest) VALUES (23);

-- The schema of a coordinator that runs; null: from before this was asked.
ALTER TABLE coordinators ADD COLUMN runs_schema integer;
