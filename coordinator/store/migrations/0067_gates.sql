-- Gates: what a build has pushed has to pass a command before it is published. Coordinators of before would publish it without, and are shut
-- out by the first build that has one.

-- What the job pushes has to pass a gate, for which a worker has to know of them.
ALTER TABLE jobs ADD COLUMN gated boolean NOT NULL DEFAULT false;
