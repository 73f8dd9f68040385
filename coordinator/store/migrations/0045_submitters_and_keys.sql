-- Who has submitted a build, exactly: many jobs of a CI system have one name. {"principal": …, "job": {"token": …, "full_ref": …,
-- "event": …}}; a principal is left out for whoever has the farm's token file, a job for whoever is none. Null: an older coordinator
-- has accepted the build.
ALTER TABLE builds ADD COLUMN submitter jsonb;

-- Which of the farm's keys a coordinator has, by their ids, the one first by which it would seal. Null: an older one, which doesn't say.
ALTER TABLE coordinators ADD COLUMN key_ids text[];
