-- Whether the put that belongs to a tag's claim is known to be over. A coordinator that was stopped in between may still send
-- it, however much later; so a tag that was taken over from an open claim is looked at again until recheck_until.
ALTER TABLE tag_heads
    ADD COLUMN closed boolean NOT NULL DEFAULT true,
    ADD COLUMN recheck_until timestamptz;
