-- What workers are asked of their engines' build caches: to say how much that is, and to drop some of it.

CREATE TABLE cache_asks (
    id            uuid PRIMARY KEY,
    -- Of one wish, whose asks all have it; null: a measurement.
    key           text,
    worker_id     uuid NOT NULL REFERENCES workers ON DELETE CASCADE,
    engine_id     uuid NOT NULL REFERENCES engines ON DELETE CASCADE,
    older_than_ms bigint NOT NULL CHECK (older_than_ms >= 0),
    keep_bytes    bigint NOT NULL CHECK (keep_bytes >= 0),
    dry_run       boolean NOT NULL,
    asked_at      timestamptz NOT NULL DEFAULT farm_now(),
    -- When the worker has answered, or nobody waits any more.
    told_at       timestamptz,
    bytes         bigint CHECK (bytes >= 0),
    freed_bytes   bigint CHECK (freed_bytes >= 0),
    -- Why it could not; empty: it could.
    failure       text NOT NULL DEFAULT '',
    UNIQUE (key, worker_id)
);
CREATE INDEX cache_asks_open ON cache_asks (worker_id) WHERE told_at IS NULL;
CREATE INDEX cache_asks_of_engine ON cache_asks (engine_id, asked_at DESC) WHERE key IS NULL;
