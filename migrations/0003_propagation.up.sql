-- Revisions that no change of configuration can forget, and what each node has in force.
SET lock_timeout = '5s';

ALTER TABLE instances ADD COLUMN revision bigint NOT NULL DEFAULT 0; -- of its newest change
ALTER TABLE client_certificates ADD COLUMN revision bigint NOT NULL DEFAULT 0; -- that added it

-- One revision for each instance that a transaction changes, however often it is asked for. The
-- instance is locked before the cell, as everywhere.
CREATE OR REPLACE FUNCTION configuration_changed(changed uuid) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    taken cell;
    mine  bigint;
BEGIN
    PERFORM FROM instances WHERE id = changed FOR UPDATE;
    SELECT revision INTO mine FROM configuration_changes h
    WHERE h.instance_id = changed AND h.revision = (SELECT i.revision FROM instances i WHERE i.id = changed)
      AND h.xmin = pg_current_xact_id()::xid;
    IF FOUND THEN
        RETURN mine;
    END IF;
    UPDATE cell SET revision = revision + 1, revision_id = gen_random_uuid() RETURNING * INTO STRICT taken;
    INSERT INTO configuration_changes (revision, id, instance_id) VALUES (taken.revision, taken.revision_id, changed);
    UPDATE instances SET revision = taken.revision WHERE id = changed;
    PERFORM pg_notify('kmip_configuration', taken.revision::text);
    RETURN taken.revision;
END
$$;

-- configuration_touched runs at commit for each row that nodes read: whoever wrote it, a program or a
-- person with psql, every node learns of it. Its argument is the column with the instance's id.
CREATE FUNCTION configuration_touched() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    taken bigint;
BEGIN
    taken := configuration_changed((to_jsonb(coalesce(NEW, OLD)) ->> TG_ARGV[0])::uuid);
    IF TG_TABLE_NAME = 'client_certificates' AND TG_OP = 'INSERT' THEN
        UPDATE client_certificates SET revision = taken WHERE id = NEW.id;
    END IF;
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER configuration_touched
    AFTER INSERT OR DELETE OR UPDATE OF account, name, suspended, shared, deleted_at ON instances
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION configuration_touched('id');
CREATE CONSTRAINT TRIGGER configuration_touched
    AFTER INSERT OR DELETE OR UPDATE ON key_managers
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION configuration_touched('instance_id');
CREATE CONSTRAINT TRIGGER configuration_touched
    AFTER INSERT OR DELETE OR UPDATE OF name, der, not_after ON client_certificates
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION configuration_touched('instance_id');
CREATE CONSTRAINT TRIGGER configuration_touched
    AFTER INSERT OR DELETE OR UPDATE ON endpoints
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION configuration_touched('instance_id');

-- What each node has in force. Reports take no revision.
CREATE TABLE nodes (
    name        text PRIMARY KEY CHECK (name <> ''),
    process     uuid NOT NULL, -- tells two processes of one name apart
    revision    bigint NOT NULL,
    revision_id text NOT NULL, -- empty with revision 0
    reported_at timestamptz NOT NULL,
    signed_off  boolean NOT NULL
);

-- report_node notes what a node has in force, or that it ends. It returns whether another process has
-- reported under the same name within the last seconds without signing off.
CREATE FUNCTION report_node(node text, reporter uuid, number bigint, number_id text, leaving boolean) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    before nodes;
BEGIN
    SELECT * INTO before FROM nodes WHERE name = node FOR UPDATE;
    IF leaving AND before.process <> reporter THEN
        RETURN false; -- its successor is there already
    END IF;
    INSERT INTO nodes VALUES (node, reporter, number, number_id, now(), leaving)
    ON CONFLICT (name) DO UPDATE SET process = excluded.process, revision = excluded.revision,
        revision_id = excluded.revision_id, reported_at = excluded.reported_at, signed_off = excluded.signed_off;
    RETURN coalesce(before.process <> reporter AND NOT before.signed_off AND before.reported_at > now() - interval '3 seconds', false);
END
$$;

REVOKE EXECUTE ON FUNCTION configuration_touched, report_node FROM PUBLIC;
GRANT EXECUTE ON FUNCTION report_node TO kmip_node;
GRANT SELECT ON nodes, configuration_changes TO kmip_control;
