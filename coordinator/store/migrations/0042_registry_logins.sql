-- Logins of projects at registries, in place of the farm's own there. What is here is sealed: without the farm's key, which is in
-- no database, it is worth nothing.

CREATE TABLE registry_logins (
    project_id uuid NOT NULL REFERENCES projects,
    -- The registry, as references name it.
    host text NOT NULL,
    -- Another one each time that a login is set: what was got by one is nothing to the next.
    version uuid NOT NULL,
    -- The user's name there, or the credential helper that the coordinator asks for name and password.
    username text NOT NULL,
    helper text,
    -- The login's data key, sealed by the farm's key of that id, and the password, sealed by the data key.
    key_id text,
    sealed_key bytea,
    sealed bytea,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT farm_now(),
    -- To the minute.
    last_used_at timestamptz,
    -- One that was removed is erased. That there was one is kept: what was accepted by it is pushed, and what was pushed by it
    -- cleaned, with the farm's login only where the project may; and engines still have what was pulled by it.
    removed_at timestamptz,
    PRIMARY KEY (project_id, host),
    CONSTRAINT registry_logins_sealed CHECK (CASE WHEN removed_at IS NULL AND helper IS NULL
        THEN key_id IS NOT NULL AND sealed_key IS NOT NULL AND sealed IS NOT NULL
        ELSE key_id IS NULL AND sealed_key IS NULL AND sealed IS NULL END)
);
CREATE INDEX registry_logins_by_key ON registry_logins (key_id);
