-- Tags that people have removed: what their history says of it, beside what they have pointed to.

CREATE TABLE tag_removals (
    project_id  uuid NOT NULL REFERENCES projects,
    registry    text NOT NULL,
    repository  text NOT NULL,
    tag         text NOT NULL,
    id          bigint GENERATED ALWAYS AS IDENTITY,
    -- To what it pointed then.
    digest      bytea NOT NULL CHECK (length(digest) = 32),
    -- Who has asked for it.
    removed_by  text NOT NULL,
    removed_at  timestamptz NOT NULL DEFAULT farm_now(),
    PRIMARY KEY (project_id, registry, repository, tag, id)
);
CREATE INDEX tag_removals_old ON tag_removals (removed_at);
