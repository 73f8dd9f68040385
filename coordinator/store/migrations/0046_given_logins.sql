-- Logins at registries that come with a build, for as long as that lasts.

-- fits: older coordinators write secret and ssh, which the next one lets through as well
-- locks: the table is small: it has rows of builds that run only
ALTER TABLE build_values DROP CONSTRAINT build_values_mount_check;
-- fits: as before
-- locks: as before
ALTER TABLE build_values ADD CONSTRAINT build_values_mount_check
    CHECK (mount IN ('secret', 'ssh', 'registry-login')) NOT VALID;

-- Registries at which a build has had such a login: what engines have of these isn't everybody's.
CREATE TABLE given_logins (
    host text PRIMARY KEY,
    -- To the hour.
    given_at timestamptz NOT NULL DEFAULT farm_now()
);
