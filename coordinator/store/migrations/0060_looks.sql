-- What looks, and what follows from images that move, have to tell apart. Each column has a value by which coordinators of before go on as
-- they did.

-- Who is asked where the refs are: SCHEME://HOST[:PORT] of clone_url, which an admin of the project names; `host` is only what deliveries
-- have to say.
-- locks: hooks are few
ALTER TABLE hooks ADD COLUMN clone_host text
    GENERATED ALWAYS AS (lower(regexp_replace(clone_url, '^([a-z]+://)([^/]*@)?([^/]*).*$', '\1\3'))) STORED;

-- At which commit a look has found the ref of the push that is made up for; null: it is none of these, or a coordinator of before has made it.
ALTER TABLE deliveries ADD COLUMN found text;

ALTER TABLE hook_roots
    -- Which of hook_bases it is built upon; empty: a coordinator of before has noted it, of whichever.
    ADD COLUMN base text NOT NULL DEFAULT '',
    -- By which delivery, and which image in it, the hook was told of it; null: a coordinator of before has noted it.
    ADD COLUMN told_by uuid;
-- fits: coordinators of before look first whether there is a row of the move, and note one only if there is none
-- locks: moves of images are kept for days only
ALTER TABLE hook_roots DROP CONSTRAINT hook_roots_pkey, ADD PRIMARY KEY (project_id, hook_id, root, base);

-- Since when its base, its repository and whether it is open are as they are, by the farm's clock.
-- locks: pull requests are kept for weeks only
ALTER TABLE pull_requests ADD COLUMN based_at timestamptz NOT NULL DEFAULT farm_now();
CREATE FUNCTION farm_pull_request_is_based() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.based_at = farm_now();
    RETURN NEW;
END $$;
-- A trigger, as coordinators of before write these rows, too, and know nothing of it.
-- fits: what they write is written
CREATE TRIGGER pull_requests_are_based BEFORE UPDATE ON pull_requests FOR EACH ROW
    WHEN ((NEW.base, NEW.head_repository, NEW.is_open) IS DISTINCT FROM (OLD.base, OLD.head_repository, OLD.is_open))
    EXECUTE FUNCTION farm_pull_request_is_based();
