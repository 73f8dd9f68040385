-- Callers without a stored secret: whose tokens of an outside issuer stand for which role in a project.
CREATE TABLE trusts (
    project_id   uuid NOT NULL REFERENCES projects,
    id           uuid NOT NULL,
    -- As tokens write it, letter for letter.
    issuer       text NOT NULL CHECK (issuer ~ '^https?://'),
    -- Whom the tokens have to be made for.
    audience     text NOT NULL CHECK (audience <> ''),
    -- What the claims mean.
    provider     text NOT NULL CHECK (provider IN ('github', 'gitlab', 'other')),
    -- For people; decides nothing.
    name         text NOT NULL CHECK (name <> ''),
    -- Of each claim the values that it may have.
    claims       jsonb NOT NULL CHECK (jsonb_typeof(claims) = 'object' AND claims <> '{}'),
    role         text NOT NULL CHECK (role IN ('viewer', 'builder', 'publisher', 'admin')),
    created_by   text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT farm_now(),
    last_used_at timestamptz,
    revoked_at   timestamptz,
    PRIMARY KEY (project_id, id)
);
CREATE INDEX trusts_live ON trusts (issuer) WHERE revoked_at IS NULL;

-- Each token is taken once, whatever project it is for; so these rows are the farm's.
CREATE TABLE seen_tokens (
    issuer     text NOT NULL,
    -- What tells it from all other tokens of its issuer.
    jti        text NOT NULL,
    -- From then on it is refused for its age.
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (issuer, jti)
);
CREATE INDEX seen_tokens_expired ON seen_tokens (expires_at);

-- Whom an issuer's token has shown is a principal, too: known by the issuer and an id that is never given again.
-- fits: it takes all that it took, and coordinators of before make no such principals
ALTER TABLE principals DROP CONSTRAINT principals_kind_check;
-- fits: as above
-- locks: persons and services are few
ALTER TABLE principals ADD CONSTRAINT principals_kind_check CHECK (kind IN ('person', 'service', 'subject'));

ALTER TABLE tokens
    -- By which it was given for an issuer's token; with it, project_id and role are what it gives, whoever is a member.
    ADD COLUMN trust_id uuid,
    -- What records and logs show instead of the principal's name.
    ADD COLUMN shown_as text;
-- locks: there are as few as persons and services have
CREATE INDEX tokens_by_trust ON tokens (trust_id, expires_at) WHERE trust_id IS NOT NULL;
