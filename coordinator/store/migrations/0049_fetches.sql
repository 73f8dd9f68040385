-- Fetches of sources: jobs of kind fetch, which take no slot of an engine. Coordinators of before take no such builds, and are shut
-- out by the first one.
-- fits: they write weights above 0, as they did
-- locks: NOT VALID looks at no row
ALTER TABLE jobs
    DROP CONSTRAINT jobs_weight_check,
    ADD CONSTRAINT jobs_weight_check CHECK (weight > 0 OR weight = 0 AND kind = 'fetch') NOT VALID;
-- fits: as above
-- locks: as above
ALTER TABLE attempts
    DROP CONSTRAINT attempts_weight_check,
    ADD CONSTRAINT attempts_weight_check CHECK (weight >= 0) NOT VALID;
