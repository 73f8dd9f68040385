-- May a worker take jobs, and if not, what keeps it from them: the first of these that holds. In the words of
-- farm_types::state::WorkerState. What hangs on time and on who looks isn't here: a silent one is "suspect" to people, and a
-- drained one is "draining" to them as long as it still runs something (farm_core::machines::state).
--
-- Written so that Postgres inlines it: one expression, not STRICT. A test looks that it does.
CREATE FUNCTION farm_worker_state(w workers) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN w.removed_at IS NOT NULL THEN 'removed'
        WHEN w.coordinator_id IS NULL THEN 'offline'
        WHEN w.quarantined_at IS NOT NULL THEN 'quarantined'
        WHEN w.draining THEN 'draining'
        WHEN w.drained_at IS NOT NULL THEN 'drained'
        WHEN w.withdrawn_at IS NOT NULL THEN 'withdrawn'
        WHEN w.probation_at IS NOT NULL THEN 'probation'
        ELSE 'online' END
$$;
