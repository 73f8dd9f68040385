-- Copies: builds that publish at once what is somewhere already.

-- Of a copy: what its source was when it was first looked at. A tag that moves meanwhile, a crash and a retry change nothing of that.
ALTER TABLE builds ADD COLUMN copied_digest bytea;
-- fits: older coordinators write nothing there
-- locks: no row is looked at
ALTER TABLE builds ADD CONSTRAINT builds_copied_digest_check CHECK (length(copied_digest) = 32) NOT VALID;
