-- Webhooks: where forges and registries tell the farm what happened, what they told, and where refs were then.

-- What follows from what a hook was told is done as that hook.
-- fits: it takes all that it took, and coordinators of before make no such principals
ALTER TABLE principals DROP CONSTRAINT principals_kind_check;
-- fits: as above
-- locks: persons, services and hooks are few
ALTER TABLE principals ADD CONSTRAINT principals_kind_check
    CHECK (kind IN ('person', 'service', 'subject', 'hook')) NOT VALID;

CREATE TABLE hooks (
    project_id       uuid NOT NULL REFERENCES projects,
    id               uuid NOT NULL,
    name             text NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$'),
    principal_id     uuid NOT NULL REFERENCES principals,
    provider         text NOT NULL
        CHECK (provider IN ('github', 'gitlab', 'gitea', 'forgejo', 'generic', 'dockerhub', 'distribution')),
    -- HOST[:PORT], and OWNER/REPO there.
    host             text NOT NULL,
    full_name        text NOT NULL,
    -- By which its forge knows the repository for good. Null: no delivery has said it yet.
    repository_id    text,
    -- Where it is fetched; null of a registry's.
    clone_url        text,
    -- The last part of the hook's URL: random, so that nobody guesses it, but not what shows whose a delivery is.
    address          text NOT NULL UNIQUE CHECK (address ~ '^[a-z0-9]{32}$'),
    created_by       text NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT farm_now(),
    -- About; written at most every 10 s.
    last_delivery_at timestamptz,
    -- It takes nothing any more; it stays while its deliveries are kept.
    removed_at       timestamptz,
    PRIMARY KEY (project_id, id)
);
CREATE UNIQUE INDEX hooks_by_name ON hooks (project_id, name) WHERE removed_at IS NULL;

-- By what a hook's deliveries are signed: one, and while it is replaced the one before. What is here is sealed, as in 0041.
CREATE TABLE hook_secrets (
    project_id    uuid NOT NULL,
    hook_id       uuid NOT NULL,
    id            uuid NOT NULL,
    key_id        text NOT NULL,
    sealed_key    bytea NOT NULL,
    sealed        bytea NOT NULL,
    created_by    text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT farm_now(),
    -- When the first delivery came that was signed by it.
    first_used_at timestamptz,
    -- Of the one before: until then it counts, once the next one was used.
    ends_at       timestamptz,
    PRIMARY KEY (project_id, hook_id, id),
    FOREIGN KEY (project_id, hook_id) REFERENCES hooks ON DELETE CASCADE
);
CREATE INDEX hook_secrets_by_key ON hook_secrets (key_id);

-- What was delivered. The row is the queue: whatever dies, what is received is processed.
CREATE TABLE deliveries (
    project_id  uuid NOT NULL,
    hook_id     uuid NOT NULL,
    -- The sender's, or the body's digest.
    id          text NOT NULL CHECK (length(id) <= 128),
    -- In which order they came.
    sequence    bigint GENERATED ALWAYS AS IDENTITY,
    event       text NOT NULL,
    -- Those by which it is read: {NAME: VALUE}. None that shows whose it is.
    headers     jsonb NOT NULL,
    body        bytea NOT NULL,
    body_digest bytea NOT NULL,
    received_at timestamptz NOT NULL DEFAULT farm_now(),
    state       text NOT NULL CHECK (state IN ('received', 'done', 'ignored', 'failed')),
    -- Why it is so, for people.
    reason      text NOT NULL DEFAULT '',
    -- By their short ids.
    builds      text[] NOT NULL DEFAULT '{}',
    -- How often it was tried in vain, and when it is next.
    attempts    integer NOT NULL DEFAULT 0,
    due_at      timestamptz NOT NULL DEFAULT farm_now(),
    finished_at timestamptz,
    PRIMARY KEY (project_id, hook_id, id),
    FOREIGN KEY (project_id, hook_id) REFERENCES hooks ON DELETE CASCADE,
    CHECK ((state = 'received') = (finished_at IS NULL))
);
CREATE INDEX deliveries_waiting ON deliveries (sequence) WHERE state = 'received';
CREATE INDEX deliveries_waiting_of_hook ON deliveries (project_id, hook_id) WHERE state = 'received';
CREATE INDEX deliveries_of_hook ON deliveries (project_id, hook_id, sequence);
CREATE INDEX deliveries_old ON deliveries (finished_at) WHERE state <> 'received';

-- Where refs were, by the newest delivery about each.
CREATE TABLE ref_heads (
    project_id uuid NOT NULL,
    hook_id    uuid NOT NULL,
    git_ref    text NOT NULL,
    -- The delivery's. An older one, whenever it is processed, changes nothing.
    sequence   bigint NOT NULL,
    -- Null: the ref was deleted.
    commit_id  text,
    seen_at    timestamptz NOT NULL DEFAULT farm_now(),
    PRIMARY KEY (project_id, hook_id, git_ref),
    FOREIGN KEY (project_id, hook_id) REFERENCES hooks ON DELETE CASCADE
);
