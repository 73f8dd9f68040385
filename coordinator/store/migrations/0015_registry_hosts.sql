-- One registry has one text: hosts in small letters, ports without zeros in front. Before, LOCALHOST:5002 and localhost:5002
-- were two, with tags and cleanings of their own. What would meet a row that is there gives way to it, but for claims of tags,
-- where the newer intention stays.

CREATE FUNCTION farm_registry(written text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT regexp_replace(lower(written), ':0+([1-9][0-9]*)$', ':\1')
$$;

DELETE FROM tag_heads h USING tag_heads o
WHERE o.project_id = h.project_id AND o.repository = h.repository AND o.tag = h.tag AND o.registry <> h.registry
  AND farm_registry(o.registry) = farm_registry(h.registry)
  AND (o.order_key, o.registry) > (h.order_key, h.registry);
UPDATE tag_heads SET registry = farm_registry(registry) WHERE registry <> farm_registry(registry);

DELETE FROM pushed_digests p USING pushed_digests o
WHERE o.project_id = p.project_id AND o.repository = p.repository AND o.digest = p.digest
  AND o.attempt_id = p.attempt_id AND farm_registry(o.registry) = farm_registry(p.registry) AND o.registry > p.registry;
UPDATE pushed_digests SET registry = farm_registry(registry) WHERE registry <> farm_registry(registry);

DELETE FROM put_indexes p USING put_indexes o
WHERE o.project_id = p.project_id AND o.repository = p.repository AND o.digest = p.digest
  AND farm_registry(o.registry) = farm_registry(p.registry) AND o.registry > p.registry;
UPDATE put_indexes SET registry = farm_registry(registry) WHERE registry <> farm_registry(registry);

-- A cleaning that is under way ends by its time.
DELETE FROM cleanings WHERE registry <> farm_registry(registry) AND until < farm_now();
DELETE FROM cleanings c USING cleanings o
WHERE o.repository = c.repository AND farm_registry(o.registry) = farm_registry(c.registry) AND o.registry <> c.registry
  AND (o.until, o.registry) > (c.until, c.registry);
UPDATE cleanings SET registry = farm_registry(registry) WHERE registry <> farm_registry(registry);

-- Tags hang on their destinations: first a destination of the new name, then its tags, then the old one goes.
INSERT INTO destinations (project_id, publication_id, registry, repository, state, tries, next_try_at, failure,
                          settled_at, fate)
SELECT project_id, publication_id, farm_registry(registry), repository, state, tries, next_try_at, failure, settled_at,
       fate
FROM destinations WHERE registry <> farm_registry(registry) ON CONFLICT DO NOTHING;
DELETE FROM tags t USING tags o
WHERE o.project_id = t.project_id AND o.publication_id = t.publication_id AND o.repository = t.repository
  AND o.tag = t.tag AND farm_registry(o.registry) = farm_registry(t.registry) AND o.registry > t.registry;
UPDATE tags SET registry = farm_registry(registry) WHERE registry <> farm_registry(registry);
DELETE FROM destinations WHERE registry <> farm_registry(registry);

UPDATE executions SET repositories = ARRAY(
    SELECT farm_registry(split_part(r, '/', 1)) || substr(r, strpos(r, '/')) FROM unnest(repositories) AS r)
WHERE EXISTS (SELECT FROM unnest(repositories) AS r
              WHERE split_part(r, '/', 1) <> farm_registry(split_part(r, '/', 1)));

DROP FUNCTION farm_registry(text);
