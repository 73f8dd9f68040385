-- Which BuildKit an engine has, and the package that it is from, in its worker's words; empty: it doesn't say. On machines that aren't
-- trusted nothing runs on one that is too old.
ALTER TABLE engines ADD COLUMN buildkit text NOT NULL DEFAULT '';
ALTER TABLE engines ADD COLUMN package text NOT NULL DEFAULT '';
