-- Who calls and what they may do: principals, their roles in projects, the tokens that show them, and what was done by whom.

CREATE TABLE principals (
    id            uuid PRIMARY KEY,
    -- A person's own, or PROJECT/NAME of a service.
    name          text NOT NULL UNIQUE,
    kind          text NOT NULL CHECK (kind IN ('person', 'service')),
    is_farm_admin boolean NOT NULL DEFAULT false,
    created_at    timestamptz NOT NULL DEFAULT farm_now(),
    created_by    text NOT NULL
);

CREATE TABLE members (
    project_id   uuid NOT NULL REFERENCES projects,
    principal_id uuid NOT NULL REFERENCES principals ON DELETE CASCADE,
    role         text NOT NULL CHECK (role IN ('viewer', 'builder', 'publisher', 'admin')),
    PRIMARY KEY (project_id, principal_id)
);
CREATE INDEX members_by_principal ON members (principal_id);

CREATE TABLE tokens (
    id           uuid PRIMARY KEY,
    principal_id uuid NOT NULL REFERENCES principals ON DELETE CASCADE,
    -- SHA-256 of the token, which itself is nowhere.
    digest       bytea NOT NULL UNIQUE,
    -- Its first characters, by which people tell it from others.
    hint         text NOT NULL,
    label        text NOT NULL DEFAULT '',
    -- It counts in this project only; null: wherever its principal is a member.
    project_id   uuid REFERENCES projects,
    -- It gives no more than this role; null: its principal's own.
    role         text CHECK (role IN ('viewer', 'builder', 'publisher', 'admin')),
    -- The token that it was made with; it ends with that one.
    parent_id    uuid REFERENCES tokens ON DELETE CASCADE,
    created_at   timestamptz NOT NULL DEFAULT farm_now(),
    created_by   text NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
);
CREATE INDEX tokens_by_principal ON tokens (principal_id);
CREATE INDEX tokens_by_parent ON tokens (parent_id) WHERE parent_id IS NOT NULL;

-- A project that was removed: its builds stay until their time is over, and its name is free.
ALTER TABLE projects ADD COLUMN removed_at timestamptz;

-- What was done, by whom: written in the transaction of the deed, and never changed.
CREATE TABLE audit (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at           timestamptz NOT NULL DEFAULT farm_now(),
    -- Null: the farm's.
    project_id   uuid,
    principal    text NOT NULL,
    -- Of what shows the principal; empty: of the farm's own token file.
    token_hint   text NOT NULL,
    -- Where the call came from, as the listener saw it; empty: not known.
    address      text NOT NULL,
    action       text NOT NULL,
    subject      text NOT NULL,
    detail       jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_by_time ON audit (at);
