-- A worker that comes back in its own folder is known by it; an image is asked for by its digest.

-- The folder that a worker's life has claimed on its machine, which only one process at a time can; or empty.
ALTER TABLE workers ADD COLUMN home text NOT NULL DEFAULT '';

CREATE INDEX pushed_digests_by_digest ON pushed_digests (digest, project_id);
-- The digests of what the index lists.
ALTER TABLE publications ADD COLUMN manifests bytea[] NOT NULL DEFAULT '{}';
CREATE INDEX publications_by_manifest ON publications USING gin (manifests);
CREATE INDEX publications_by_index ON publications (index_digest, project_id);
