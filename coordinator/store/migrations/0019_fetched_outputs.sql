-- When a client was last seen to fetch what the build has made for it: while it does, that stays.
ALTER TABLE builds ADD COLUMN fetched_at timestamptz;
