-- What registries say of how much may be read there, and how much of that is left. Coordinators of before note nothing.

-- By a project's own login: {"remaining", "of", "window_seconds"}, and when that was said. Null: nothing was.
ALTER TABLE registry_logins ADD COLUMN read_limit jsonb, ADD COLUMN read_limit_at timestamptz;

-- By the farm's login there, or by none.
CREATE TABLE read_limits (
    host          text PRIMARY KEY,
    read_limit    jsonb NOT NULL,
    read_limit_at timestamptz NOT NULL DEFAULT farm_now()
);
