-- What the leader's passes look at follows what has changed, not all history; and busy repositories are cleaned, too.

-- What a tag was wanted to point to, the newest intention first.
-- locks: before the first release there is no table so large that this takes more than a moment
CREATE INDEX tags_by_name ON tags (project_id, registry, repository, tag, order_key);
-- locks: before the first release there is no table so large that this takes more than a moment
CREATE INDEX uploads_by_expiry ON uploads (expires_at);

-- A blob that some row needed once is looked at again when such a row goes, not in each sweep. (A coordinator from before this
-- doesn't look when objects go: what it leaves behind while it runs beside newer ones stays.)
ALTER TABLE blobs ADD COLUMN settled boolean NOT NULL DEFAULT false;
-- locks: before the first release there is no table so large that this takes more than a moment
CREATE INDEX blobs_unsettled ON blobs (created_at) WHERE NOT settled;

-- Those that are under way are few.
-- locks: before the first release there is no table so large that this takes more than a moment
CREATE INDEX cleanings_by_end ON cleanings (until);
ALTER TABLE cleanings
    -- Since when something has been built for it at each look.
    ADD COLUMN busy_since timestamptz,
    -- Until when no attempt begins there, so that those that run come to their end.
    ADD COLUMN drains_until timestamptz;
