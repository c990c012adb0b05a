SET lock_timeout = '5s';

DROP FUNCTION report_node;
DROP TABLE nodes;
DROP FUNCTION configuration_touched CASCADE;
CREATE OR REPLACE FUNCTION configuration_changed(changed uuid) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    taken cell;
BEGIN
    UPDATE cell SET revision = revision + 1, revision_id = gen_random_uuid() RETURNING * INTO STRICT taken;
    INSERT INTO configuration_changes (revision, id, instance_id) VALUES (taken.revision, taken.revision_id, changed);
    PERFORM pg_notify('kmip_configuration', taken.revision::text);
    RETURN taken.revision;
END
$$;
ALTER TABLE client_certificates DROP COLUMN revision;
ALTER TABLE instances DROP COLUMN revision;
REVOKE SELECT ON configuration_changes FROM kmip_control;
