-- The machine that a coordinator runs on, by the boot id of its kernel; null: it doesn't say, like those of the version before.
-- An address alone may be that of several: a loopback's, or of machines with one name.
ALTER TABLE coordinators ADD COLUMN machine text;
