-- When the leader was last there: its place is kept for it for longer than it may decide without having been there. NULL
-- until a coordinator that knows of it has led.
ALTER TABLE leader ADD COLUMN renewed_at timestamptz;
