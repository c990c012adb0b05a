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
        'credential', CASE WHEN i.kmip_user_name IS NOT NULL THEN jsonb_build_object(
                'user_name', i.kmip_user_name,
                'digest', translate(encode(i.kmip_credential_digest, 'base64'), E'\n', '')) END,
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
            FROM key_managers m WHERE m.instance_id = i.id),
        'former_key_managers', (SELECT jsonb_agg(jsonb_build_object(
                'type', m.type,
                'instance_crn', m.instance_crn,
                'key_ring', m.key_ring,
                'root_key_id', m.root_key_id,
                'sealed_api_key', translate(encode(m.sealed_api_key, 'base64'), E'\n', '')) ORDER BY m.instance_crn, m.root_key_id)
            FROM former_key_managers m WHERE m.instance_id = i.id))) END
    FROM (SELECT DISTINCT h.instance_id FROM configuration_changes h WHERE h.revision > after) c
    LEFT JOIN instances i ON i.id = c.instance_id AND i.deleted_at IS NULL
    WHERE after > 0 OR i.id IS NOT NULL
$$;

DROP TRIGGER configuration_touched_windows ON instances;
ALTER TABLE instances DROP COLUMN cache_seconds, DROP COLUMN outage_grace_seconds;
