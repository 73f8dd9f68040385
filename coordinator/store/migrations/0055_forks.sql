-- Pull requests of forks: what was seen of each, what waits for somebody who approves it, and what was approved. Coordinators of before
-- take no part in that, and are shut out by the first approval.

-- What a fork proposes is built by machines that aren't trusted, for nobody's tags and with nothing lent. HOOK/NUMBER: whose caches it has;
-- null: it is nobody's proposal.
ALTER TABLE executions ADD COLUMN fork text;
-- fits: coordinators of before have no such executions
-- locks: NOT VALID looks at no row
ALTER TABLE executions ADD CONSTRAINT executions_of_forks_have_nothing
    CHECK (fork IS NULL OR cardinality(repositories) = 0 AND NOT protected AND NOT spec ? 'mounts') NOT VALID;

-- It is about a fork's pull request: these have bounds of their own.
-- locks: a column with a constant default is noted in a moment
ALTER TABLE deliveries ADD COLUMN fork boolean NOT NULL DEFAULT false;

-- Pull requests as their newest delivery has them.
CREATE TABLE pull_requests (
    project_id      uuid NOT NULL,
    hook_id         uuid NOT NULL,
    number          bigint NOT NULL CHECK (number >= 0),
    -- The delivery's. One that came before it changes nothing; where the forge says when it was so (`at`), one that was so before.
    sequence        bigint NOT NULL,
    commit_id       text NOT NULL,
    base            text NOT NULL,
    -- The repository of the head by its forge's id; empty: it was deleted, or the forge doesn't say.
    head_repository text NOT NULL,
    is_fork         boolean NOT NULL,
    is_open         boolean NOT NULL,
    -- When it was so, by the forge's clock; null: the forge doesn't say.
    at              timestamptz,
    seen_at         timestamptz NOT NULL DEFAULT farm_now(),
    -- Since when its head, its base and whether it is open are as they are, by the farm's clock.
    moved_at        timestamptz NOT NULL DEFAULT farm_now(),
    PRIMARY KEY (project_id, hook_id, number),
    FOREIGN KEY (project_id, hook_id) REFERENCES hooks ON DELETE CASCADE
);
CREATE INDEX pull_requests_old ON pull_requests (seen_at);

-- What deliveries propose, as people are shown it.
CREATE TABLE fork_deliveries (
    project_id      uuid NOT NULL,
    hook_id         uuid NOT NULL,
    delivery_id     text NOT NULL,
    -- As in deliveries.runs.
    run             integer NOT NULL,
    number          bigint NOT NULL,
    commit_id       text NOT NULL,
    base            text NOT NULL,
    head            text NOT NULL,
    head_repository text NOT NULL,
    head_name       text NOT NULL,
    -- The account by which it was opened: its forge's id, and what it is called.
    opener_id       text NOT NULL,
    opener          text NOT NULL,
    -- What would be built.
    images          text[] NOT NULL DEFAULT '{}',
    -- Since when it waits for somebody who approves it.
    held_at         timestamptz,
    -- By whose approval it goes on, and since when: an image of it was submitted.
    approved_by     text,
    approved_at     timestamptz,
    PRIMARY KEY (project_id, hook_id, delivery_id),
    FOREIGN KEY (project_id, hook_id, delivery_id) REFERENCES deliveries ON DELETE CASCADE,
    CHECK ((approved_by IS NULL) = (approved_at IS NULL))
);
CREATE INDEX fork_deliveries_of_number ON fork_deliveries (project_id, hook_id, number);

-- Who has approved what: one head, for one base, from one repository.
CREATE TABLE fork_approvals (
    project_id      uuid NOT NULL,
    hook_id         uuid NOT NULL,
    number          bigint NOT NULL,
    commit_id       text NOT NULL,
    base            text NOT NULL,
    head_repository text NOT NULL,
    approved_by     text NOT NULL,
    approved_at     timestamptz NOT NULL DEFAULT farm_now(),
    -- When an image was first submitted by it, and when it ended: the pull request has moved on, or was closed.
    used_at         timestamptz,
    ended_at        timestamptz,
    PRIMARY KEY (project_id, hook_id, number, commit_id, base, head_repository),
    FOREIGN KEY (project_id, hook_id) REFERENCES hooks ON DELETE CASCADE
);
CREATE INDEX fork_approvals_old ON fork_approvals (approved_at);
