-- Host names and ports of one tenant's own, and the server certificates for these names.
SET lock_timeout = '5s';

-- In DER, over the key that all nodes of the cell share. Null: the shared certificate is shown.
ALTER TABLE endpoints ADD COLUMN server_certificate bytea
    CHECK (octet_length(server_certificate) BETWEEN 1 AND 65536);

-- assign_endpoint gives an instance of the account that is set its own host name, at the lowest free
-- port of a range, and returns the port, or null if all are taken. An endpoint is free again 30 days
-- after its instance was deleted.
CREATE FUNCTION assign_endpoint(receiver uuid, host text, certificate bytea, first_port integer, last_port integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    free integer;
BEGIN
    IF NOT EXISTS (SELECT FROM instances WHERE id = receiver AND account = current_setting('kmip.account', true)) THEN
        RAISE insufficient_privilege USING MESSAGE = 'the instance is not of the account that is set';
    END IF;
    LOCK TABLE endpoints IN SHARE ROW EXCLUSIVE MODE; -- one after the other
    DELETE FROM endpoints e USING instances i WHERE i.id = e.instance_id AND i.deleted_at < now() - interval '30 days';
    SELECT p INTO free FROM generate_series(first_port, last_port) p
    WHERE NOT EXISTS (SELECT FROM endpoints e WHERE e.port = p) ORDER BY p LIMIT 1;
    IF free IS NOT NULL THEN
        INSERT INTO endpoints (host_name, instance_id, port, server_certificate) VALUES (host, receiver, free, certificate);
        UPDATE instances SET shared = false WHERE id = receiver;
    END IF;
    RETURN free;
END
$$;

CREATE OR REPLACE FUNCTION configuration_since(after bigint)
RETURNS TABLE (instance_id uuid, deleted boolean, document jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT c.instance_id, i.id IS NULL, CASE WHEN i.id IS NOT NULL THEN jsonb_strip_nulls(jsonb_build_object(
        'format', 1,
        'account', i.account,
        'name', i.name,
        'suspended', i.suspended,
        'shared', i.shared,
        'names', (SELECT jsonb_agg(e.host_name ORDER BY e.host_name) FROM endpoints e WHERE e.instance_id = i.id),
        'ports', (SELECT jsonb_agg(e.port ORDER BY e.port) FROM endpoints e WHERE e.instance_id = i.id AND e.port IS NOT NULL),
        'server_certificates', (SELECT jsonb_object_agg(e.host_name, translate(encode(e.server_certificate, 'base64'), E'\n', ''))
            FROM endpoints e WHERE e.instance_id = i.id AND e.server_certificate IS NOT NULL),
        'clients', (SELECT jsonb_agg(jsonb_build_object(
                'id', k.id,
                'name', k.name,
                'fingerprint', encode(k.fingerprint, 'base64'),
                'not_after', k.not_after) ORDER BY k.created_at, k.id)
            FROM client_certificates k WHERE k.instance_id = i.id),
        'key_manager', (SELECT jsonb_build_object(
                'type', m.type,
                'instance_crn', m.instance_crn,
                'key_ring', m.key_ring,
                'root_key_id', m.root_key_id,
                'sealed_api_key', translate(encode(m.sealed_api_key, 'base64'), E'\n', ''))
            FROM key_managers m WHERE m.instance_id = i.id))) END
    FROM (SELECT DISTINCT h.instance_id FROM configuration_changes h WHERE h.revision > after) c
    LEFT JOIN instances i ON i.id = c.instance_id AND i.deleted_at IS NULL
    WHERE after > 0 OR i.id IS NOT NULL
$$;

REVOKE EXECUTE ON FUNCTION assign_endpoint FROM PUBLIC;
GRANT EXECUTE ON FUNCTION assign_endpoint TO kmip_control;
REVOKE INSERT, UPDATE, DELETE ON endpoints FROM kmip_control; -- by the function alone
