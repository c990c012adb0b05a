-- When client certificates were used, which ones replace which, and instances' own authorities.
SET lock_timeout = '5s';

-- None of these is read by nodes: they take no revision.
ALTER TABLE client_certificates
    ADD COLUMN first_used_at  timestamptz, -- null: never used
    ADD COLUMN last_used_at   timestamptz,
    ADD COLUMN last_used_from inet,
    ADD COLUMN replaced_by    uuid REFERENCES client_certificates ON DELETE SET NULL, -- of the same instance
    ADD COLUMN replaced_at    timestamptz; -- means nothing without replaced_by
CREATE INDEX client_certificates_replaced_by ON client_certificates (replaced_by) WHERE replaced_by IS NOT NULL;

-- record_certificate_use notes the latest uses that a node has seen: a list of objects with the
-- certificate's id, the source and how many seconds ago. A node's clock may be wrong and its report
-- late, so that the time is the database's.
CREATE FUNCTION record_certificate_use(used jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    u  record;
    at timestamptz;
BEGIN
    FOR u IN SELECT * FROM jsonb_to_recordset(used) AS x(certificate uuid, source inet, seconds double precision)
        ORDER BY certificate -- two nodes lock rows in one order
    LOOP
        at := now() - make_interval(secs => greatest(u.seconds, 0));
        UPDATE client_certificates SET first_used_at = coalesce(first_used_at, at), last_used_at = at, last_used_from = u.source
        WHERE id = u.certificate AND (last_used_at IS NULL OR last_used_at < at); -- or another node's is later
    END LOOP;
END
$$;

-- replaced_certificates returns the instances of the whole cell with a replaced certificate that has
-- been unused for a week, while its successor was used.
CREATE FUNCTION replaced_certificates() RETURNS TABLE (account text, instance_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT DISTINCT i.account, i.id FROM client_certificates c
    JOIN client_certificates r ON r.id = c.replaced_by
    JOIN instances i ON i.id = c.instance_id AND i.deleted_at IS NULL
    WHERE r.first_used_at IS NOT NULL AND greatest(c.replaced_at, c.last_used_at) <= now() - interval '7 days'
$$;

-- The authority with which an instance signs certificates for its clients. Its key is sealed under
-- the operator's keyring.
CREATE TABLE client_authorities (
    instance_id uuid PRIMARY KEY REFERENCES instances ON DELETE CASCADE,
    certificate bytea NOT NULL CHECK (octet_length(certificate) BETWEEN 1 AND 65536),
    sealed_key  bytea NOT NULL,
    not_after   timestamptz NOT NULL, -- of certificate
    created_at  timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE client_authorities ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON client_authorities TO CURRENT_USER USING (true);
CREATE POLICY account ON client_authorities TO kmip_control
    USING (EXISTS (SELECT FROM instances i WHERE i.id = instance_id AND i.account = current_setting('kmip.account', true)));

REVOKE EXECUTE ON FUNCTION record_certificate_use, replaced_certificates FROM PUBLIC;
GRANT EXECUTE ON FUNCTION record_certificate_use TO kmip_node;
GRANT EXECUTE ON FUNCTION replaced_certificates TO kmip_control;
GRANT UPDATE (replaced_by, replaced_at) ON client_certificates TO kmip_control;
GRANT SELECT, INSERT, UPDATE ON client_authorities TO kmip_control;
