-- GitHub Apps, and the check runs that these make in the place of statuses. Coordinators of before would take an App's key for a token,
-- and are shut out by the first one.

ALTER TABLE hook_tokens
    -- A GitHub App, whose private key is what is sealed: by what it calls itself (its client id, or its App id), its App id, and its
    -- installation at the repository. Null: it is a token.
    ADD COLUMN app text,
    ADD COLUMN app_id bigint,
    ADD COLUMN installation bigint,
    -- It was lent a token for clones when GitHub was asked last.
    ADD COLUMN lends_clones boolean NOT NULL DEFAULT false;
-- fits: older coordinators write no Apps
-- locks: NOT VALID looks at no row
ALTER TABLE hook_tokens ADD CONSTRAINT hook_tokens_of_apps_are_whole
    CHECK ((app IS NULL) = (app_id IS NULL) AND (app IS NULL) = (installation IS NULL)) NOT VALID;

-- All that is wrong, and on which lines of the rules; null: nobody has said more than trouble does.
ALTER TABLE commit_readings ADD COLUMN detail jsonb;

ALTER TABLE statuses
    -- What a fork proposes: the build by which it is approved, as long as nobody has; empty: nothing comes of it any more. Null: it isn't held.
    -- It says nothing of what has a build, or isn't pending: coordinators of before leave it as it is.
    ADD COLUMN held text,
    -- As in commit_readings.
    ADD COLUMN detail jsonb,
    -- The check run under way: the version with which it began, by which the forge is asked for it, and the forge's id of it, once that is
    -- known. What is over is left as it is, and what comes after begins another. Null: there is none.
    ADD COLUMN check_of bigint,
    ADD COLUMN check_id bigint,
    -- The version that the forge was asked to show last, as long as nobody knows that it does.
    ADD COLUMN check_tried bigint;
-- fits: older coordinators know of none of them
-- locks: NOT VALID looks at no row
ALTER TABLE statuses ADD CONSTRAINT statuses_checks_have_begun CHECK (check_id IS NULL OR check_of IS NOT NULL) NOT VALID;
