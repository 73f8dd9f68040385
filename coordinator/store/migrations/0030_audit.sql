-- What was done, in a chain: rows that nobody changes, and the seals over them (store/src/people/seals.rs says how).

-- The number that this cluster of databases was made with. One into which a dump is read has another, and counts its
-- transactions from the start.
CREATE FUNCTION farm_cluster() RETURNS bigint LANGUAGE sql STABLE AS
$$ SELECT system_identifier FROM pg_control_system() $$;

-- Where a row's transaction stands among all: rows are sealed in this order, since ids are drawn before they are committed.
-- locks: each default is one value for all rows that are there, and they stay as they are
ALTER TABLE audit ADD COLUMN cluster bigint NOT NULL DEFAULT farm_cluster(),
                  ADD COLUMN xid bigint NOT NULL DEFAULT (pg_current_xact_id()::text::bigint);
-- locks: the table is as young as this version
CREATE INDEX audit_in_order ON audit (cluster, xid, id);
-- locks: as above
CREATE INDEX audit_by_project ON audit (project_id, at, id);

CREATE TABLE audit_seals (
    seal       bigint PRIMARY KEY,
    -- It holds all rows of this cluster from the first of these transactions on and below the second.
    cluster    bigint NOT NULL,
    from_xid   bigint NOT NULL,
    below_xid  bigint NOT NULL CHECK (below_xid > from_xid),
    -- In the chain's order.
    first_id   bigint NOT NULL,
    last_id    bigint NOT NULL,
    row_count  bigint NOT NULL CHECK (row_count > 0),
    -- The head before, and the one after these rows.
    previous   bytea NOT NULL CHECK (octet_length(previous) = 32),
    head       bytea NOT NULL UNIQUE CHECK (octet_length(head) = 32),
    sealed_at  timestamptz NOT NULL DEFAULT farm_now(),
    -- Its rows were old, and are no more kept; it itself stays, as that from which the chain goes on.
    removed_at timestamptz
);
CREATE INDEX audit_seals_by_cluster ON audit_seals (cluster, seal);
CREATE INDEX audit_seals_kept ON audit_seals (seal) WHERE removed_at IS NULL;

CREATE FUNCTION farm_audit_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND TG_LEVEL = 'ROW' AND TG_TABLE_NAME = 'audit' THEN
        IF EXISTS (SELECT FROM audit_seals s WHERE s.cluster = OLD.cluster AND s.from_xid <= OLD.xid
                   AND s.below_xid > OLD.xid AND s.removed_at IS NOT NULL) THEN
            RETURN OLD;
        END IF;
    ELSIF TG_OP = 'UPDATE' AND TG_TABLE_NAME = 'audit_seals' THEN
        IF OLD.removed_at IS NULL AND to_jsonb(NEW) - 'removed_at' = to_jsonb(OLD) - 'removed_at' THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION '% of % is refused: what was done stays as it was written', TG_OP, TG_TABLE_NAME;
END
$$;
-- fits: older coordinators only add rows
CREATE TRIGGER audit_stays BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION farm_audit_stays();
-- fits: as above
CREATE TRIGGER audit_is_not_emptied BEFORE TRUNCATE ON audit EXECUTE FUNCTION farm_audit_stays();
-- fits: older coordinators don't know it
CREATE TRIGGER seals_stay BEFORE UPDATE OR DELETE ON audit_seals FOR EACH ROW EXECUTE FUNCTION farm_audit_stays();
-- fits: as above
CREATE TRIGGER seals_are_not_emptied BEFORE TRUNCATE ON audit_seals EXECUTE FUNCTION farm_audit_stays();
