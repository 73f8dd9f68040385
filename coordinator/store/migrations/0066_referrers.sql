-- Attestations that refer to their images, in the place of standing in the index; and tags that are moved only while they point somewhere.

-- What is put beside an index before any tag points to it: a list of {subject, attestation}. What an older coordinator puts of a newer
-- one's publication lacks these.
ALTER TABLE publications ADD COLUMN referrers jsonb NOT NULL DEFAULT '[]';
-- fits: older coordinators write nothing there
-- locks: no row is looked at
ALTER TABLE publications ADD CONSTRAINT publications_referrers_check CHECK (jsonb_typeof(referrers) = 'array') NOT VALID;
