-- What an administrator has said of a worker, which outlives its connections and its processes.

ALTER TABLE workers
    -- Since when it is to take nothing new, until it is resumed. (`draining` is the worker's own word.)
    ADD COLUMN drained_at timestamptz,
    -- Since when it is no worker of the farm. The row stays, as attempts name it.
    ADD COLUMN removed_at timestamptz,
    ADD CHECK (removed_at IS NULL OR drained_at IS NULL);
