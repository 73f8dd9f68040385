-- Engines take turns, workers that are gone aren't read in each pass, and a fresh farm's tables are analysed early.

-- When an attempt last took slots of it.
ALTER TABLE engines ADD COLUMN leased_at timestamptz;
-- locks: before the first release there is no table so large that this takes more than a moment
CREATE INDEX workers_there ON workers (name) WHERE removed_at IS NULL;

-- The defaults wait for a fifth or a tenth of a table to change. The leader analyses a young table itself; these are for later.
ALTER TABLE jobs SET (autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE attempts SET (autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE builds SET (autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE executions SET (autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_scale_factor = 0.05);
-- Few rows that change all the time.
ALTER TABLE workers SET (autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
ALTER TABLE engines SET (autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
ALTER TABLE leader SET (autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
