-- Where projects may push to and pull from, and which of their tags are protected.

CREATE TABLE allowed_repositories (
    project_id uuid NOT NULL REFERENCES projects,
    access     text NOT NULL CHECK (access IN ('push', 'pull')),
    -- REGISTRY, REGISTRY/REPO (and all below it), or * for every registry.
    prefix     text NOT NULL,
    PRIMARY KEY (project_id, access, prefix)
);
-- What was there goes on: until now every registry was allowed.
INSERT INTO allowed_repositories (project_id, access, prefix)
    VALUES ('00000000-0000-7000-8000-000000000001', 'push', '*');

CREATE TABLE protected_tags (
    project_id uuid NOT NULL REFERENCES projects,
    -- A tag; * stands for any characters.
    pattern    text NOT NULL,
    -- The least role that moves it.
    role       text NOT NULL CHECK (role IN ('viewer', 'builder', 'publisher', 'admin')),
    PRIMARY KEY (project_id, pattern)
);
