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

-- What a delivery has made of a commit as a whole, the newest of each ref and kind of event: a push's rules and those of a pull request's
-- base are others, and one mends nothing of the other.
CREATE TABLE commit_readings (
    project_id  uuid NOT NULL,
    hook_id     uuid NOT NULL,
    commit_id   text NOT NULL,
    git_ref     text NOT NULL,
    -- In the rules' words.
    kind        text NOT NULL,
    delivery_id text NOT NULL,
    asked_at    timestamptz NOT NULL,
    -- Why nothing comes of it; empty: all is well.
    trouble     text NOT NULL,
    PRIMARY KEY (project_id, hook_id, commit_id, git_ref, kind),
    FOREIGN KEY (project_id, hook_id) REFERENCES hook_tokens ON DELETE CASCADE
);
CREATE INDEX commit_readings_old ON commit_readings (asked_at);

-- No two rows ever have the same version, not even one that was there before: an answer that comes late is taken for no other row's.
CREATE SEQUENCE status_versions;

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
    -- The build that the delivery has begun, of which that one may be a retry.
    begun_id      uuid,
    -- The branch or tag by which it is shown in GitLab's pipelines, and the pipeline that has it there.
    branch        text,
    pipeline      text,
    -- Another one with each change, a higher one, and since when it is so.
    version       bigint NOT NULL DEFAULT nextval('status_versions'),
    wanted_at     timestamptz NOT NULL DEFAULT farm_now(),
    -- The one that the forge has taken last.
    sent_version  bigint NOT NULL DEFAULT 0,
    -- How often this version was tried while the forge couldn't, how often it didn't know what it is about, when it is tried next, and why
    -- not any more.
    attempts      integer NOT NULL DEFAULT 0,
    unknowns      integer NOT NULL DEFAULT 0,
    due_at        timestamptz NOT NULL DEFAULT farm_now(),
    given_up      text,
    -- Until then a request may be under way: nobody else begins one, so that they come in their order.
    claimed_until timestamptz,
    PRIMARY KEY (project_id, hook_id, commit_id, context),
    FOREIGN KEY (project_id, hook_id) REFERENCES hooks ON DELETE CASCADE,
    CHECK (sent_version <= version),
    CHECK ((build_id IS NULL) = (build IS NULL) AND (build_id IS NULL) = (begun_id IS NULL))
);
CREATE INDEX statuses_to_send ON statuses (due_at) WHERE version > sent_version AND given_up IS NULL;
CREATE INDEX statuses_of_builds ON statuses (project_id, begun_id) WHERE begun_id IS NOT NULL;
CREATE INDEX statuses_pending ON statuses (project_id, build_id) WHERE state = 'pending' AND build_id IS NOT NULL;
CREATE INDEX statuses_old ON statuses (wanted_at);
