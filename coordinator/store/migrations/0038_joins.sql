-- Workers that join, and come again: by a join token whose answer got lost, after their certificate has ended, by a later stream.

-- A worker whose first certificate got lost on its way gets another one by the same key, as long as its invitation counts.
-- Who has used it; null: nobody, or by a coordinator before this schema.
ALTER TABLE invitations ADD COLUMN join_id uuid;
-- SHA-256 of the public key that it was used with.
ALTER TABLE invitations ADD COLUMN key_digest bytea;

-- A join counts no more since revoked_at: an administrator revoked it, or its last certificate could not be renewed any more.
-- fits: coordinators before this schema say of both that they were revoked
-- locks: few rows, looked through in a moment
ALTER TABLE joins ADD COLUMN expired boolean NOT NULL DEFAULT false
    CONSTRAINT joins_expired CHECK (NOT expired OR revoked_at IS NOT NULL);
-- What an administrator revoked as late, of a worker that could not be renewed any more, reads as expired, too: a farm that was
-- down for days had not freed its name yet.
-- locks: few rows, and of these those that housekeeping has freed in the last 30 days
UPDATE joins SET expired = true WHERE revoked_at >= (
    SELECT max(c.expires_at) + interval '25 hours' FROM certificates c WHERE c.join_id = joins.id);

-- Which of its process' control streams a worker has registered by last; 0: it doesn't say, as farm-worker didn't before.
ALTER TABLE workers ADD COLUMN dial bigint NOT NULL DEFAULT 0;
-- Of which process that is.
ALTER TABLE workers ADD COLUMN dial_boot uuid;
