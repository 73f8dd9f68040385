-- What a ready job waits for, as a value (farm_core::work::waiting); the words in "waiting" are made of it. They stay for
-- coordinators of the version before, which write and read nothing else: what one of those writes, or has emptied, leaves no value
-- beside it that says something else.
ALTER TABLE jobs ADD COLUMN waits jsonb;

CREATE FUNCTION farm_waits_go_with_words() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.waits := NULL;
    RETURN NEW;
END
$$;

-- fits: it only empties a column that coordinators of before neither write nor read
CREATE TRIGGER jobs_waits_go_with_words BEFORE UPDATE OF waiting ON jobs FOR EACH ROW
    WHEN (OLD.waits IS NOT NULL AND NEW.waiting <> OLD.waiting AND NEW.waits IS NOT DISTINCT FROM OLD.waits)
    EXECUTE FUNCTION farm_waits_go_with_words();
