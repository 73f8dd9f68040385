-- Copies of some platforms only, and mirrors. Their specs are read by this schema's coordinators only; of tables nothing changes.

COMMENT ON COLUMN builds.copied_digest IS
    'Of a copy: what its source was when it was first looked at. What was published of it may be an index of some of its platforms.';
