-- Secrets and ssh keys that builds mount. What is here is sealed: without the farm's key, which is in no database, it is worth
-- nothing.

-- A build's data key, sealed by the farm's key of that id (coordinator/src/seal). It is there until all is built.
CREATE TABLE build_keys (
    project_id uuid NOT NULL,
    build_id uuid NOT NULL,
    key_id text NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (project_id, build_id),
    FOREIGN KEY (project_id, build_id) REFERENCES builds (project_id, id) ON DELETE CASCADE
);
CREATE INDEX build_keys_by_key ON build_keys (key_id);

-- Values, sealed by the build's data key.
CREATE TABLE build_values (
    project_id uuid NOT NULL,
    build_id uuid NOT NULL,
    mount text NOT NULL CHECK (mount IN ('secret', 'ssh')),
    id text NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (project_id, build_id, mount, id),
    FOREIGN KEY (project_id, build_id) REFERENCES build_keys (project_id, build_id) ON DELETE CASCADE
);

-- Whoever ends a build, or finds all of it built, a coordinator of before as well, erases its key with that.
CREATE FUNCTION farm_build_key_goes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM build_keys WHERE project_id = NEW.project_id AND build_id = NEW.id;
    RETURN NULL;
END $$;
-- fits: older coordinators write what they did, and have no rows in build_keys
-- locks: a trigger is noted in a moment, and reads none of the rows
CREATE TRIGGER builds_key_goes_at_the_end AFTER UPDATE OF state ON builds FOR EACH ROW
    WHEN (NEW.state IN ('publishing', 'succeeded', 'failed', 'cancelled'))
    EXECUTE FUNCTION farm_build_key_goes();
