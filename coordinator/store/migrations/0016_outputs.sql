-- What an attempt makes for whoever asked for the build: bytes in the object store, in pieces, for a while.

ALTER TABLE blobs DROP CONSTRAINT blobs_kind_check;
ALTER TABLE blobs ADD CONSTRAINT blobs_kind_check CHECK (kind IN ('pack', 'log', 'output'));
ALTER TABLE doomed_blobs DROP CONSTRAINT doomed_blobs_kind_check;
ALTER TABLE doomed_blobs ADD CONSTRAINT doomed_blobs_kind_check CHECK (kind IN ('pack', 'log', 'output', 'file'));

CREATE TABLE outputs (
    project_id   uuid NOT NULL,
    attempt_id   uuid NOT NULL,
    -- Which of the spec's exports, from 0.
    export       integer NOT NULL CHECK (export >= 0),
    -- Its pieces up to this one are stored.
    acked_seq    bigint NOT NULL DEFAULT 0 CHECK (acked_seq >= 0),
    bytes        bigint NOT NULL DEFAULT 0 CHECK (bytes >= 0),
    -- Of all of its bytes; it came with the last piece.
    digest       bytea CHECK (length(digest) = 32),
    created_at   timestamptz NOT NULL DEFAULT farm_now(),
    completed_at timestamptz,
    -- Since when the client has what it wants.
    released_at  timestamptz,
    -- Since when its pieces are gone.
    removed_at   timestamptz,
    PRIMARY KEY (project_id, attempt_id, export),
    FOREIGN KEY (project_id, attempt_id) REFERENCES attempts,
    CHECK ((digest IS NULL) = (completed_at IS NULL))
);
-- What is still there.
CREATE INDEX outputs_kept ON outputs (created_at) WHERE removed_at IS NULL;

CREATE TABLE output_pieces (
    project_id uuid NOT NULL,
    attempt_id uuid NOT NULL,
    export     integer NOT NULL,
    seq        bigint NOT NULL CHECK (seq > 0),
    -- Where in the output it begins.
    start      bigint NOT NULL CHECK (start >= 0),
    size       integer NOT NULL CHECK (size >= 0),
    blob_id    uuid NOT NULL,
    PRIMARY KEY (project_id, attempt_id, export, seq),
    UNIQUE (project_id, blob_id),
    FOREIGN KEY (project_id, attempt_id, export) REFERENCES outputs,
    FOREIGN KEY (project_id, blob_id) REFERENCES blobs
);

-- Some row says where in this blob its bytes are.
CREATE OR REPLACE FUNCTION farm_blob_needed(project uuid, blob uuid) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM objects o WHERE o.project_id = project AND o.pack = blob)
        OR EXISTS (SELECT FROM sealed_logs s WHERE s.project_id = project AND s.blob_id = blob)
        OR EXISTS (SELECT FROM output_pieces p WHERE p.project_id = project AND p.blob_id = blob)
$$;
