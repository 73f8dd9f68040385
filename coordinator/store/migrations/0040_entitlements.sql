-- What builds may be given beyond a step's walls: a project's may ask for it, a job of theirs does.

-- network.host, security.insecure. What a worker may grant is among its features.
ALTER TABLE projects ADD COLUMN entitlements text[] NOT NULL DEFAULT '{}';
ALTER TABLE jobs ADD COLUMN entitlements text[] NOT NULL DEFAULT '{}';
