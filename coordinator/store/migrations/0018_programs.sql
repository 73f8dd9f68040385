-- Whose programs a job runs, as far as its Dockerfile tells: target (or that isn't known), none, or engine and platforms.
ALTER TABLE jobs ADD COLUMN runs text NOT NULL DEFAULT 'target' CHECK (runs <> '');

-- unneeded: on a worker that doesn't offer the platform natively, since no program of it runs.
ALTER TABLE attempts
    DROP CONSTRAINT attempts_support_check,
    ADD CONSTRAINT attempts_support_check CHECK (support IN ('native', 'emulated', 'unneeded')),
    DROP CONSTRAINT attempts_check3,
    ADD CONSTRAINT attempts_support_reason_check CHECK ((support = 'native') = (support_reason = ''));
