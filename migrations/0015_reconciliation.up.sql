-- What ledger and key manager disagree about, and rows that are written again after a loss.
SET lock_timeout = '5s';

-- When each ledger is compared next; null: not arranged yet.
ALTER TABLE key_manager_checks ADD COLUMN reconcile_at timestamptz;
CREATE INDEX key_manager_checks_reconcile ON key_manager_checks (reconcile_at);

-- What the last comparison of each ledger has found: counts, and the first objects of each kind.
CREATE TABLE reconciliations (
    instance_id uuid PRIMARY KEY REFERENCES instances ON DELETE CASCADE,
    found       jsonb NOT NULL,
    seconds     double precision NOT NULL, -- that it took
    finished_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE reconciliations ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON reconciliations TO CURRENT_USER USING (true);
CREATE POLICY account ON reconciliations TO kmip_control
    USING (EXISTS (SELECT FROM instances i WHERE i.id = instance_id AND i.account = current_setting('kmip.account', true)));
GRANT SELECT, INSERT, UPDATE ON reconciliations TO kmip_control;

ALTER TABLE instance_conditions
    DROP CONSTRAINT instance_conditions_type_check,
    ADD CONSTRAINT instance_conditions_type_check
        CHECK (type IN ('key_manager_ready', 'destroy_permitted', 'service_authorization', 'keys_reconciled'));

-- take_due_reconciliations returns the instances of the whole cell whose ledgers are to be compared now.
-- Each is due again within so many seconds; one that is new is due at any time in them.
CREATE FUNCTION take_due_reconciliations(within_seconds double precision) RETURNS TABLE (account text, instance_id uuid)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    WITH due AS (
        SELECT d.instance_id, d.reconcile_at, i.account FROM key_manager_checks d JOIN instances i ON i.id = d.instance_id
        WHERE i.deleted_at IS NULL AND (d.reconcile_at IS NULL OR d.reconcile_at <= now()) FOR UPDATE OF d SKIP LOCKED
    ), taken AS (
        UPDATE key_manager_checks k SET reconcile_at = now()
            + make_interval(secs => within_seconds * CASE WHEN due.reconcile_at IS NULL THEN random() ELSE 0.8 + 0.2 * random() END)
        FROM due WHERE due.instance_id = k.instance_id
        RETURNING due.account, due.instance_id, due.reconcile_at
    )
    SELECT account, instance_id FROM taken WHERE reconcile_at IS NOT NULL
$$;

-- connected_instances returns the instances of the whole cell that have a key manager.
CREATE FUNCTION connected_instances() RETURNS TABLE (account text, instance_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT i.account, i.id FROM instances i JOIN key_managers m ON m.instance_id = i.id
    WHERE i.deleted_at IS NULL ORDER BY i.id
$$;

-- recorded_elsewhere returns those of some objects of which other tenants in the same key managers have
-- rows.
CREATE INDEX key_managers_instance_crn ON key_managers (instance_crn);
CREATE FUNCTION recorded_elsewhere(asking uuid, asked text[]) RETURNS TABLE (id text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('kmip.sweep', 'on', true);
    RETURN QUERY WITH places AS NOT MATERIALIZED (
        SELECT instance_id, instance_crn FROM key_managers UNION ALL SELECT instance_id, instance_crn FROM former_key_managers
    )
    SELECT DISTINCT o.id FROM objects o
    WHERE o.id = ANY (asked) AND o.tenant <> asking AND o.tenant IN (
        SELECT p.instance_id FROM places p WHERE p.instance_crn IN (SELECT q.instance_crn FROM places q WHERE q.instance_id = asking));
    PERFORM set_config('kmip.sweep', '', true);
END
$$;

-- Jobs and operators' commands write rows again that were lost, and no others.
GRANT INSERT ON objects TO kmip_jobs;
CREATE POLICY recovered_alone ON objects AS RESTRICTIVE FOR INSERT TO kmip_jobs WITH CHECK (recovered AND phase = 'live');
GRANT SELECT, INSERT, DELETE ON object_names TO kmip_jobs;
CREATE POLICY jobs ON withheld_objects TO kmip_jobs
    USING (tenant = nullif(current_setting('kmip.tenant', true), '')::uuid);
GRANT SELECT, INSERT ON withheld_objects TO kmip_jobs;

REVOKE EXECUTE ON FUNCTION take_due_reconciliations, connected_instances, recorded_elsewhere FROM PUBLIC;
GRANT EXECUTE ON FUNCTION take_due_reconciliations, connected_instances TO kmip_control;
GRANT EXECUTE ON FUNCTION recorded_elsewhere TO kmip_jobs;
