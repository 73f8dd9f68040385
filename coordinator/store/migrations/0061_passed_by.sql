-- A burst of pushes to one ref needs no fetch for each: of what came before the look that has found the ref elsewhere, that look says all.

ALTER TABLE ref_heads
    -- By which delivery it was placed, and when that one's look was begun: the ref was there at some time after. Null: nobody knows, so
    -- that nothing follows. Of what a coordinator of before has placed these are those of an earlier place, from which the same follows.
    ADD COLUMN placed_by bigint,
    ADD COLUMN placed_after timestamptz;

-- Those that wait for their place, by their refs.
-- locks: deliveries are kept for days only
CREATE INDEX deliveries_in_line ON deliveries (project_id, hook_id, git_ref, sequence)
    WHERE state = 'received' AND order_key IS NULL AND git_ref IS NOT NULL;
