-- Machines that work for the farm by invitation: what they were invited as, and the certificates that show their workers.

CREATE TABLE machines (
    id         uuid PRIMARY KEY,
    name       text NOT NULL UNIQUE,
    pool       text NOT NULL,
    trust      text NOT NULL CHECK (trust IN ('trusted', 'untrusted')),
    created_at timestamptz NOT NULL DEFAULT farm_now()
);

CREATE TABLE invitations (
    id         uuid PRIMARY KEY,
    -- SHA-256 of the join token, which itself is nowhere.
    digest     bytea NOT NULL UNIQUE,
    -- Its first characters, by which people tell it from others.
    hint       text NOT NULL,
    -- The name that the worker has to have; null: it says it when it joins.
    name       text,
    -- The machine that is to have it; null: another one, named like it.
    machine_id uuid REFERENCES machines,
    pool       text NOT NULL,
    trust      text NOT NULL CHECK (trust IN ('trusted', 'untrusted')),
    -- What it may offer; empty: whatever its engine runs.
    platforms  text[] NOT NULL,
    -- The most that it may run at once; null: whatever it says.
    slots      integer CHECK (slots > 0),
    created_at timestamptz NOT NULL DEFAULT farm_now(),
    created_by text NOT NULL,
    expires_at timestamptz NOT NULL,
    -- It was used, or taken back.
    ended_at   timestamptz
);

-- A worker as it joined, until it is revoked; its row in workers comes when it connects.
CREATE TABLE joins (
    id         uuid PRIMARY KEY,
    name       text NOT NULL,
    machine_id uuid NOT NULL REFERENCES machines,
    platforms  text[] NOT NULL,
    slots      integer CHECK (slots > 0),
    joined_at  timestamptz NOT NULL DEFAULT farm_now(),
    revoked_at timestamptz
);
CREATE UNIQUE INDEX joins_by_name ON joins (name) WHERE revoked_at IS NULL;
CREATE INDEX joins_by_machine ON joins (machine_id);
CREATE INDEX joins_revoked ON joins (revoked_at) WHERE revoked_at IS NOT NULL;

CREATE TABLE certificates (
    -- SHA-256 of the certificate, DER.
    digest     bytea PRIMARY KEY,
    join_id    uuid NOT NULL REFERENCES joins,
    created_at timestamptz NOT NULL DEFAULT farm_now(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX certificates_by_join ON certificates (join_id);

-- Null: it shows the farm's own token.
ALTER TABLE workers ADD COLUMN join_id uuid;
-- An engine of a machine that joined is told from those of others by the machine: its key begins with the machine's id. Which
-- one it was, and what the engine itself says.
ALTER TABLE engines ADD COLUMN machine_id uuid;
ALTER TABLE engines ADD COLUMN told_key text;

-- Whether a lease that this worker was given is for whoever calls: the worker that joined so, or (null) anybody who has it.
CREATE FUNCTION farm_is_holder(worker uuid, holder uuid) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT holder IS NULL OR EXISTS (SELECT FROM workers w WHERE w.id = worker AND w.join_id = holder AND w.removed_at IS NULL)
$$;
