-- What tags have pointed to, one after the other: kept when the builds are removed.

CREATE TABLE tag_moves (
    project_id      uuid NOT NULL REFERENCES projects,
    registry        text NOT NULL,
    repository      text NOT NULL,
    tag             text NOT NULL,
    -- Of this tag, from 1.
    number          bigint NOT NULL CHECK (number > 0),
    -- The place of the intention.
    order_key       bigint NOT NULL,
    digest          bytea NOT NULL CHECK (length(digest) = 32),
    media_type      text NOT NULL,
    -- To what it pointed before, as the registry said; null: it wasn't there.
    previous_digest bytea CHECK (length(previous_digest) = 32),
    -- As the index says; none of a manifest alone.
    platforms       text[] NOT NULL,
    -- By which build, and whose; it may be removed.
    build_id        uuid NOT NULL,
    short_id        text NOT NULL,
    created_by      text NOT NULL,
    -- build, or of a copy its verb.
    verb            text NOT NULL,
    -- Of a copy: what it is of.
    copied_from     text,
    -- Of a build: where its context was fetched from.
    origin          jsonb,
    moved_at        timestamptz NOT NULL DEFAULT farm_now(),
    PRIMARY KEY (project_id, registry, repository, tag, number)
);
CREATE INDEX tag_moves_old ON tag_moves (moved_at);
