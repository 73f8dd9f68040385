-- By what the other coordinators know the one that calls them: the digest of a secret that it made when it started.
ALTER TABLE coordinators ADD COLUMN token_digest bytea CHECK (length(token_digest) = 32);
