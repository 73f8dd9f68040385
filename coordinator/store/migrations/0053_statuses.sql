-- Statuses: what the forge shows at a commit of what the farm makes of it.

-- Where the forge's API is, if not where its provider has it at the hook's host.
ALTER TABLE hooks ADD COLUMN api_url text;

-- By which the farm is known at a hook's forge. What is here is sealed, as in 0041.
CREATE TABLE hook_tokens (
    project_id uuid NOT NULL,
    hook_id    uuid NOT NULL,
    -- Another one each time that it is set.
    version    uuid NOT NULL,
    key_id     text NOT NULL,
    sealed_key bytea NOT NULL,
    sealed     bytea NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT farm_now(),
    -- When the forge has taken the last status, and what it has said to the last one that it hasn't; empty: it has taken the last one.
    told_at    timestamptz,
    trouble    text NOT NULL DEFAULT '',
    trouble_at timestamptz,
    PRIMARY KEY (project_id, hook_id),
    FOREIGN KEY (project_id, hook_id) REFERENCES hooks ON DELETE CASCADE
);
CREATE INDEX hook_tokens_by_key ON hook_tokens (key_id);

-- When somebody has last asked that it be processed once more. Of two deliveries about one commit the later one says how that stands.
ALTER TABLE deliveries ADD COLUMN again_at timestamptz;

-- The outbox: how a commit is to be shown, once for each context there (farm, farm/IMAGE).
CREATE TABLE statuses (
    project_id    uuid NOT NULL,
    hook_id       uuid NOT NULL,
    commit_id     text NOT NULL,
    context       text NOT NULL,
    -- Who says it: a delivery, and since when that is asked for.
    delivery_id   text NOT NULL,
    asked_at      timestamptz NOT NULL,
    state         text NOT NULL CHECK (state IN ('pending', 'success', 'failure', 'cancelled')),
    description   text NOT NULL,
    -- Whose end says what becomes of what is pending, and its short id. Null: there is no build (yet).
    build_id      uuid,
    build         text,
    -- One more with each change, and since when it is so.
    version       bigint NOT NULL DEFAULT 1,
    wanted_at     timestamptz NOT NULL DEFAULT farm_now(),
    -- The one that the forge has taken last.
    sent_version  bigint NOT NULL DEFAULT 0,
    -- How often this version was tried in vain, when it is tried next, and why not any more.
    attempts      integer NOT NULL DEFAULT 0,
    due_at        timestamptz NOT NULL DEFAULT farm_now(),
    given_up      text,
    -- Until then a request may be under way: nobody else begins one, so that they come in their order.
    claimed_until timestamptz,
    PRIMARY KEY (project_id, hook_id, commit_id, context),
    FOREIGN KEY (project_id, hook_id) REFERENCES hooks ON DELETE CASCADE,
    CHECK (sent_version <= version),
    CHECK ((build_id IS NULL) = (build IS NULL))
);
CREATE INDEX statuses_to_send ON statuses (due_at) WHERE version > sent_version AND given_up IS NULL;
CREATE INDEX statuses_of_builds ON statuses (project_id, build_id) WHERE build_id IS NOT NULL;
CREATE INDEX statuses_pending ON statuses (project_id, build_id) WHERE state = 'pending' AND build_id IS NOT NULL;
CREATE INDEX statuses_old ON statuses (wanted_at);
