-- A build that moves a protected tag is built by machines that are trusted, with a staging registry as well as without.
-- locks: a column with a constant default is noted in a moment
ALTER TABLE executions ADD COLUMN protected boolean NOT NULL DEFAULT false;
