-- How far a worker's machine is trusted, said once. Whoever shows the farm's own token is trusted with everything.
CREATE FUNCTION farm_worker_trust(w workers) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN w.join_id IS NULL THEN 'trusted' ELSE
        coalesce((SELECT m.trust FROM joins j JOIN machines m ON m.id = j.machine_id WHERE j.id = w.join_id), 'untrusted') END
$$;
