-- Browsers that are signed in. A session counts as long as the token does that it was begun with, and no longer than its own time.

CREATE TABLE browser_sessions (
    -- Of what the browser shows; that itself is kept nowhere.
    digest bytea PRIMARY KEY CHECK (octet_length(digest) = 32),
    -- The token that it was begun with, by its digest: a row of tokens, or the farm's own, which has none.
    token_digest bytea NOT NULL CHECK (octet_length(token_digest) = 32),
    -- The token was made for the session, by a sign-in in the browser, and ends with it.
    is_own_token boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT farm_now(),
    expires_at timestamptz NOT NULL CHECK (expires_at > created_at)
);
CREATE INDEX browser_sessions_of_token ON browser_sessions (token_digest, created_at);
CREATE INDEX browser_sessions_by_end ON browser_sessions (expires_at);
