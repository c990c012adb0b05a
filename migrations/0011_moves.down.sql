SET lock_timeout = '5s';

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
        'withheld', (SELECT CASE WHEN count(*) <= 1000 THEN jsonb_agg(w.id ORDER BY w.id) END FROM withheld_objects w WHERE w.tenant = i.id),
        'withheld_all', (SELECT true FROM withheld_objects w WHERE w.tenant = i.id HAVING count(*) > 1000),
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
CREATE OR REPLACE FUNCTION take_due_work(check_seconds double precision)
RETURNS TABLE (kind text, account text, instance_id uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('kmip.sweep', 'on', true);
    RETURN QUERY WITH taken AS (
        UPDATE key_manager_checks k SET due_at = now() + make_interval(secs => check_seconds * (0.8 + 0.1 * random()))
        FROM (SELECT i.id, i.account FROM key_manager_checks d JOIN instances i ON i.id = d.instance_id
            WHERE i.deleted_at IS NULL AND d.due_at <= now() FOR UPDATE OF d SKIP LOCKED) i
        WHERE i.id = k.instance_id
        RETURNING i.account, i.id, NOT k.thorough AND coalesce(k.used_at > now() - make_interval(secs => check_seconds), false) AS spared
    )
    SELECT 'check_key_manager', t.account, t.id FROM taken t WHERE NOT t.spared
    UNION ALL
    SELECT DISTINCT 'settle_objects', i.account, i.id FROM objects o
    JOIN instances i ON i.id = o.tenant AND i.deleted_at IS NULL
    JOIN key_managers m ON m.instance_id = i.id
    WHERE o.phase = 'pending' AND o.pending_until < now() - interval '1 hour'
        OR o.phase = 'destroying' AND o.updated_at < now() - interval '5 minutes'
    UNION ALL
    SELECT DISTINCT 'renew_certificates', i.account, i.id FROM endpoints e
    JOIN instances i ON i.id = e.instance_id AND i.deleted_at IS NULL
    WHERE e.server_certificate IS NOT NULL
        AND (e.certificate_not_after IS NULL OR e.certificate_not_after < now() + interval '60 days');
    PERFORM set_config('kmip.sweep', '', true);
END
$$;
ALTER TABLE objects DROP COLUMN moving_since;
DROP TABLE key_moves, former_key_managers;
