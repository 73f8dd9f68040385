-- Logins of projects for git: lent to jobs that fetch sources, and to nobody else. What is here is sealed, as in 0042.

CREATE TABLE git_logins (
    project_id uuid NOT NULL REFERENCES projects,
    -- HOST[:PORT][/PATH]: for all repositories at the path and below it.
    place text NOT NULL,
    -- What is kept: a user's name with a token, for https; or a key, for ssh.
    kind text NOT NULL CHECK (kind IN ('token', 'key')),
    username text NOT NULL,
    -- By which the host is known, for ssh: TYPE BASE64, as in known_hosts.
    host_keys text[] NOT NULL,
    -- Another one each time that it is set.
    version uuid NOT NULL,
    -- The login's data key, sealed by the farm's key of that id, and the token or the key, sealed by the data key.
    key_id text NOT NULL,
    sealed_key bytea NOT NULL,
    sealed bytea NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT farm_now(),
    -- To the minute.
    last_used_at timestamptz,
    PRIMARY KEY (project_id, place, kind),
    CHECK ((kind = 'key') = (cardinality(host_keys) > 0))
);
CREATE INDEX git_logins_by_key ON git_logins (key_id);

-- Whoever removes a project, a coordinator of before as well, erases its logins with that.
CREATE FUNCTION farm_git_logins_go() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM git_logins WHERE project_id = NEW.id;
    RETURN NULL;
END $$;
-- fits: older coordinators write what they did, and have no rows in git_logins
CREATE TRIGGER projects_git_logins_go_with_them AFTER UPDATE OF removed_at ON projects FOR EACH ROW
    WHEN (NEW.removed_at IS NOT NULL)
    EXECUTE FUNCTION farm_git_logins_go();
