-- What untrusted machines build goes to a staging registry of the farm's own, and from there, by a coordinator, to its destinations.

-- The coordinator by which the worker is connected, if that one has a staging registry and the worker asks for tokens. Only a
-- coordinator that knows of staging writes it, and offers by it; so it counts while it is the one in coordinator_id.
ALTER TABLE workers ADD COLUMN staged_via uuid;
-- It pushes to PROJECT_ID/ATTEMPT_ID of the staging registry, and nowhere else. What has a row in pushed_digests of a destination
-- was copied there.
ALTER TABLE attempts ADD COLUMN staged boolean NOT NULL DEFAULT false;
