-- Secrets that a project keeps for its builds. What is here is sealed, as in 0039: without the farm's key it is worth nothing.

-- Each version of each. The one that counts has its value; of those before, and of all of a secret that was removed, only is kept
-- that they were.
CREATE TABLE project_secrets (
    project_id      uuid NOT NULL REFERENCES projects,
    name            text NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    -- From 1; none is given twice, also not after the secret was removed.
    version         integer NOT NULL CHECK (version > 0),
    -- Who may use it: the least role, the refs and the events of jobs of CI systems; none: any.
    role            text NOT NULL CHECK (role IN ('builder', 'publisher', 'admin')),
    refs            text[] NOT NULL,
    events          text[] NOT NULL,
    -- A data key of its own, sealed by the farm's key of that id (coordinator/src/seal), and the value, sealed by the data key.
    key_id          text,
    sealed_key      bytea,
    sealed          bytea,
    created_by      text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT farm_now(),
    -- By the last build that was accepted with it.
    last_used_at    timestamptz,
    last_used_by    text,
    last_used_build text,
    erased_at       timestamptz,
    PRIMARY KEY (project_id, name, version),
    CHECK (num_nulls(key_id, sealed_key, sealed) = CASE WHEN erased_at IS NULL THEN 0 ELSE 3 END),
    CHECK (num_nulls(last_used_at, last_used_by, last_used_build) IN (0, 3))
);
CREATE UNIQUE INDEX project_secrets_that_counts ON project_secrets (project_id, name) WHERE erased_at IS NULL;
CREATE INDEX project_secrets_by_key ON project_secrets (key_id) WHERE key_id IS NOT NULL;

-- Which versions of the project's secrets a build was accepted with: {ID: VERSION}.
ALTER TABLE builds ADD COLUMN secret_versions jsonb;

-- What a token of a CI system's issuer said of its job, when one of the farm's was given for it. A token without such a row is of an
-- older coordinator, and uses no secrets.
CREATE TABLE token_claims (
    token_id uuid PRIMARY KEY REFERENCES tokens ON DELETE CASCADE,
    -- In full, as refs/heads/main.
    full_ref text,
    event    text
);

-- Whoever removes a project, a coordinator of before as well, erases its secrets with that.
CREATE FUNCTION farm_project_secrets_go() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE project_secrets SET erased_at = farm_now(), key_id = NULL, sealed_key = NULL, sealed = NULL
    WHERE project_id = NEW.id AND erased_at IS NULL;
    RETURN NULL;
END $$;
-- fits: older coordinators write what they did, and have no rows in project_secrets
CREATE TRIGGER projects_secrets_go_with_them AFTER UPDATE OF removed_at ON projects FOR EACH ROW
    WHEN (NEW.removed_at IS NOT NULL)
    EXECUTE FUNCTION farm_project_secrets_go();
