-- Keys by which projects sign what their builds publish: for the coordinator that leads, and never lent to a worker. What is here is sealed,
-- as in 0042. Coordinators of before would publish unsigned what was to be signed, and are shut out by the first key.

CREATE TABLE signing_keys (
    project_id      uuid NOT NULL REFERENCES projects,
    name            text NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    -- Another one each time that the key is another: what was accepted with one is signed by no other.
    version         uuid NOT NULL,
    -- Who may have things signed by it, as in 0041.
    role            text NOT NULL CHECK (role IN ('builder', 'publisher', 'admin')),
    refs            text[] NOT NULL,
    events          text[] NOT NULL,
    -- The public key: a point of P-256, uncompressed.
    public_key      bytea NOT NULL CHECK (length(public_key) = 65),
    -- A data key of its own, sealed by the farm's key of that id, and the private key, sealed by the data key.
    key_id          text NOT NULL,
    sealed_key      bytea NOT NULL,
    sealed          bytea NOT NULL,
    created_by      text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT farm_now(),
    -- By the last build that was accepted with it.
    last_used_at    timestamptz,
    last_used_by    text,
    last_used_build text,
    PRIMARY KEY (project_id, name),
    CHECK (num_nulls(last_used_at, last_used_by, last_used_build) IN (0, 3))
);
CREATE INDEX signing_keys_by_key ON signing_keys (key_id);

-- Which version of the key that its spec names a build was accepted with.
ALTER TABLE builds ADD COLUMN signing_version uuid;

-- Whoever removes a project, a coordinator of before as well, erases its keys with that.
CREATE FUNCTION farm_signing_keys_go() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM signing_keys WHERE project_id = NEW.id;
    RETURN NULL;
END $$;
-- fits: older coordinators write what they did, and have no rows in signing_keys
CREATE TRIGGER projects_signing_keys_go_with_them AFTER UPDATE OF removed_at ON projects FOR EACH ROW
    WHEN (NEW.removed_at IS NOT NULL)
    EXECUTE FUNCTION farm_signing_keys_go();
