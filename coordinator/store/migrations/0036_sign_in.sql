-- People who sign in at an issuer: who they are there, what its groups may do, and which groups a token was signed in with.

CREATE TABLE person_subjects (
    -- As its tokens write it, letter for letter.
    issuer       text NOT NULL CHECK (issuer ~ '^https?://'),
    -- What the issuer knows them by (sub), which is never given again.
    subject      text NOT NULL CHECK (subject <> ''),
    principal_id uuid NOT NULL REFERENCES principals ON DELETE CASCADE,
    created_at   timestamptz NOT NULL DEFAULT farm_now(),
    created_by   text NOT NULL,
    -- Since then an admin lets nobody in by it. The row stays, or its next sign-in would be a first one.
    ended_at     timestamptz,
    PRIMARY KEY (issuer, subject)
);
-- Whoever is linked to somebody is nobody else beside.
CREATE UNIQUE INDEX person_subjects_once ON person_subjects (principal_id, issuer) WHERE ended_at IS NULL;

CREATE TABLE group_members (
    project_id uuid NOT NULL REFERENCES projects,
    -- As the issuer's tokens name it.
    name       text NOT NULL CHECK (name <> ''),
    role       text NOT NULL CHECK (role IN ('viewer', 'builder', 'publisher', 'admin')),
    PRIMARY KEY (project_id, name)
);
CREATE INDEX group_members_by_name ON group_members (name);

-- What a token has from a sign-in, as long as it counts: also one that was made with such a token.
CREATE TABLE sign_ins (
    token_id   uuid PRIMARY KEY REFERENCES tokens ON DELETE CASCADE,
    issuer     text NOT NULL,
    subject    text NOT NULL,
    groups     text[] NOT NULL,
    -- The token's own.
    expires_at timestamptz NOT NULL
);
CREATE INDEX sign_ins_expired ON sign_ins (expires_at);
