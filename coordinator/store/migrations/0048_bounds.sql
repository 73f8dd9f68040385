-- What keeps untrusted work and what engines fetch within bounds.

-- From where engines fetch what a project's builds name by ADD; without a row: from everywhere that the farm leaves open.
CREATE TABLE allowed_hosts (
    project_id uuid NOT NULL REFERENCES projects,
    -- A host's name or address, or *.NAME for all names below one.
    host       text NOT NULL,
    PRIMARY KEY (project_id, host)
);

-- Registries at which a project's builds were given logins: how many a project may name so is bounded, as each closes its registry to
-- all for 30 days (given_logins).
CREATE TABLE login_hosts (
    project_id uuid NOT NULL REFERENCES projects,
    host       text NOT NULL,
    -- To the hour.
    given_at   timestamptz NOT NULL DEFAULT farm_now(),
    PRIMARY KEY (project_id, host)
);
