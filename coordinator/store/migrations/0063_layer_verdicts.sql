-- What programs layers hold, so that each layer is looked through once in a project. Coordinators of before keep none.

CREATE TABLE layer_verdicts (
    project_id uuid NOT NULL REFERENCES projects,
    -- Of the layer's bytes, unpacked.
    diff_id    bytea NOT NULL CHECK (length(diff_id) = 32),
    -- By which rules it was looked at; of others none counts.
    rules      bigint NOT NULL,
    -- As a worker has said it that is trusted.
    verdict    jsonb NOT NULL,
    -- When somebody wanted to know it last, to a day.
    used_at    timestamptz NOT NULL DEFAULT farm_now(),
    PRIMARY KEY (project_id, diff_id, rules)
);
CREATE INDEX layer_verdicts_unused ON layer_verdicts (used_at);
