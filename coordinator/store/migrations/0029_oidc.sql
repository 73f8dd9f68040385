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
