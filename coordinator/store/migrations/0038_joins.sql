-- A worker whose first certificate got lost on its way gets another one by the same key, as long as its invitation counts.

-- Who has used it; null: nobody, or by a coordinator before this schema.
ALTER TABLE invitations ADD COLUMN join_id uuid;
-- SHA-256 of the public key that it was used with.
ALTER TABLE invitations ADD COLUMN key_digest bytea;
