-- Notices: whom a project tells how its builds end.

CREATE TABLE notices (
    project_id     uuid NOT NULL REFERENCES projects,
    id             uuid NOT NULL,
    name           text NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$'),
    kind           text NOT NULL CHECK (kind IN ('webhook', 'slack', 'mail')),
    -- HOST[:PORT] of what is called, which people are shown; empty of mail.
    host           text NOT NULL,
    -- Of mail: to whom.
    addresses      text[] NOT NULL DEFAULT '{}',
    -- Which ends are told: those words, of builds of these hooks and refs (as in project_secrets); none: of all.
    events         text[] NOT NULL CHECK (events <> '{}' AND events <@ '{failure,recovered,success,cancelled}'),
    hooks          text[] NOT NULL DEFAULT '{}',
    refs           text[] NOT NULL DEFAULT '{}',
    -- Another one each time that what is sealed changes.
    version        uuid NOT NULL,
    -- The URL, and by what is signed, sealed as in 0041; null of mail.
    key_id         text,
    sealed_key     bytea,
    sealed         bytea,
    -- Until then it is also signed by the secret before.
    before_ends_at timestamptz,
    created_by     text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT farm_now(),
    -- When something was taken last, how much was and how much was given up, and what was said to the last one that wasn't taken; empty:
    -- the last one was.
    told_at        timestamptz,
    sent           bigint NOT NULL DEFAULT 0,
    given_up       bigint NOT NULL DEFAULT 0,
    trouble        text NOT NULL DEFAULT '',
    trouble_at     timestamptz,
    -- How often in a row nothing was taken, and nothing is sent before then: what waits is told in its order.
    attempts       integer NOT NULL DEFAULT 0,
    next_at        timestamptz,
    -- Until then a request, or a mail, may be under way.
    claimed_until  timestamptz,
    -- When somebody has had a sample sent.
    tested_at      timestamptz,
    -- How much was told one by one in the hour that has begun then, and how much of that of which hook's ref.
    hour_at        timestamptz NOT NULL DEFAULT farm_now(),
    hour_count     integer NOT NULL DEFAULT 0,
    hour_lines     jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (project_id, id),
    UNIQUE (project_id, name),
    CHECK ((kind = 'mail') = (sealed IS NULL) AND (sealed IS NULL) = (key_id IS NULL) AND (sealed IS NULL) = (sealed_key IS NULL)),
    CHECK ((kind = 'mail') = (addresses <> '{}'))
);
CREATE INDEX notices_by_key ON notices (key_id) WHERE key_id IS NOT NULL;

-- What has ended and wasn't looked at: a build, or a delivery that has failed. Written with the end itself, so that none is lost.
CREATE TABLE notice_events (
    project_id  uuid NOT NULL REFERENCES projects,
    id          bigint GENERATED ALWAYS AS IDENTITY,
    build_id    uuid,
    hook_id     uuid,
    delivery_id text,
    -- Of a delivery: why it has failed.
    reason      text NOT NULL DEFAULT '',
    ended_at    timestamptz NOT NULL DEFAULT farm_now(),
    PRIMARY KEY (project_id, id),
    CHECK ((build_id IS NULL) = (delivery_id IS NOT NULL) AND (hook_id IS NULL) = (delivery_id IS NULL))
);

-- How the last build of a hook's image and ref, or of a tag, has ended: by that the next one has recovered.
CREATE TABLE notice_lines (
    project_id uuid NOT NULL REFERENCES projects,
    -- The digest of what it is.
    line       bytea NOT NULL CHECK (length(line) = 32),
    order_key  bigint NOT NULL,
    failed     boolean NOT NULL,
    ended_at   timestamptz NOT NULL,
    PRIMARY KEY (project_id, line)
);
CREATE INDEX notice_lines_old ON notice_lines (ended_at);

-- The outbox: a row for each notice and each end that it is told of. It goes when it was taken, or is given up.
CREATE TABLE notice_messages (
    project_id    uuid NOT NULL,
    -- By which the receiver knows it again.
    id            uuid NOT NULL,
    notice_id     uuid NOT NULL,
    event         text NOT NULL CHECK (event IN ('failure', 'recovered', 'success', 'cancelled', 'summary')),
    facts         jsonb NOT NULL,
    -- Of a summary: of which hour.
    hour_at       timestamptz,
    created_at    timestamptz NOT NULL DEFAULT farm_now(),
    -- How often it was answered so that only a few more tries are worth it.
    doubts        integer NOT NULL DEFAULT 0,
    due_at        timestamptz NOT NULL DEFAULT farm_now(),
    PRIMARY KEY (project_id, id),
    FOREIGN KEY (project_id, notice_id) REFERENCES notices ON DELETE CASCADE,
    CHECK ((event = 'summary') = (hour_at IS NOT NULL))
);
CREATE INDEX notice_messages_due ON notice_messages (due_at);
CREATE INDEX notice_messages_in_order ON notice_messages (project_id, notice_id, due_at, id);
CREATE UNIQUE INDEX notice_messages_of_notice ON notice_messages (project_id, notice_id, hour_at);

-- How many mails a project has had sent in the hour that has begun then.
CREATE TABLE notice_mails (
    project_id uuid PRIMARY KEY REFERENCES projects,
    hour_at    timestamptz NOT NULL DEFAULT farm_now(),
    mails      integer NOT NULL
);

CREATE FUNCTION farm_build_is_told() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO notice_events (project_id, build_id) SELECT NEW.project_id, NEW.id
    WHERE EXISTS (SELECT FROM notices n WHERE n.project_id = NEW.project_id);
    RETURN NULL;
END $$;
-- fits: older coordinators write what they did; there are no notices while one runs
-- locks: a trigger is noted in a moment, and reads none of the rows
CREATE TRIGGER builds_are_told_at_the_end AFTER UPDATE OF state ON builds FOR EACH ROW
    WHEN (NEW.finished_at IS NOT NULL AND OLD.finished_at IS NULL)
    EXECUTE FUNCTION farm_build_is_told();

CREATE FUNCTION farm_delivery_is_told() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO notice_events (project_id, hook_id, delivery_id, reason)
    SELECT NEW.project_id, NEW.hook_id, NEW.id, NEW.reason
    WHERE EXISTS (SELECT FROM notices n WHERE n.project_id = NEW.project_id);
    RETURN NULL;
END $$;
-- fits: as above
-- locks: as above
CREATE TRIGGER deliveries_are_told_when_they_fail AFTER INSERT OR UPDATE OF state ON deliveries FOR EACH ROW
    WHEN (NEW.state = 'failed')
    EXECUTE FUNCTION farm_delivery_is_told();
