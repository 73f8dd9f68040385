-- A burst of pushes to one ref needs no fetch for each: of what came before the look that has found the ref elsewhere, that look says all.

ALTER TABLE ref_heads
    -- By which delivery it was placed, and when that one's look was begun: the ref was there at some time after. Null: nobody knows, so
    -- that nothing follows. Of what a coordinator of before has placed these are those of an earlier place, from which the same follows.
    ADD COLUMN placed_by bigint,
    ADD COLUMN placed_after timestamptz;

ALTER TABLE deliveries
    -- Where it says that its ref was before, and where it is; null: it doesn't say it, or a coordinator of before has read it.
    ADD COLUMN moved_from text,
    ADD COLUMN moved_to text;
-- locks: deliveries are kept for days only
CREATE INDEX deliveries_moved_from ON deliveries (project_id, hook_id, pushes, moved_from) WHERE moved_from IS NOT NULL;
-- locks: as above
CREATE INDEX deliveries_moved_to ON deliveries (project_id, hook_id, pushes, moved_to) WHERE moved_from IS NOT NULL;

-- Those that wait for their place, by their refs.
-- locks: deliveries are kept for days only
CREATE INDEX deliveries_in_line ON deliveries (project_id, hook_id, git_ref, sequence)
    WHERE state = 'received' AND order_key IS NULL AND git_ref IS NOT NULL;
