-- The configuration of a cell's tenants, and the revisions that its changes take.
--
-- Whoever runs this owns everything. The services log in as the roles below and own nothing. Roles
-- belong to the whole server, so other cells may have made them already; the deployment sets their
-- passwords.
SET lock_timeout = '5s';

DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['kmip_node', 'kmip_control'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I LOGIN', wanted);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- another database's migration was faster
            END;
        END IF;
    END LOOP;
END
$$;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;

CREATE TABLE instances (
    id         uuid PRIMARY KEY,
    account    text NOT NULL CHECK (account <> ''),
    name       text NOT NULL CHECK (name <> ''),
    region     text NOT NULL,
    status     text NOT NULL CHECK (status IN ('installing', 'inactive', 'configuring', 'installed', 'removing')),
    suspended  boolean NOT NULL DEFAULT false,
    shared     boolean NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE UNIQUE INDEX instances_name ON instances (account, name) WHERE deleted_at IS NULL;

CREATE TABLE key_managers (
    instance_id    uuid PRIMARY KEY REFERENCES instances ON DELETE CASCADE,
    type           text NOT NULL CHECK (type IN ('key_protect', 'hpcs')),
    instance_crn   text NOT NULL,
    key_ring       text NOT NULL,
    root_key_id    text NOT NULL,
    sealed_api_key bytea NOT NULL,
    updated_at     timestamptz NOT NULL DEFAULT now()
);

-- A row outlives its instance's deletion: it keeps the fingerprint from other accounts until
-- claim_fingerprint lets it go.
CREATE TABLE client_certificates (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    instance_id uuid NOT NULL REFERENCES instances ON DELETE CASCADE,
    name        text NOT NULL CHECK (name <> ''),
    der         bytea NOT NULL CHECK (octet_length(der) BETWEEN 1 AND 65536),
    fingerprint bytea NOT NULL GENERATED ALWAYS AS (sha256(der)) STORED,
    not_before  timestamptz NOT NULL,
    not_after   timestamptz NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT client_certificates_name UNIQUE (instance_id, name),
    CONSTRAINT client_certificates_fingerprint UNIQUE (fingerprint)
);

-- Host names and ports of one tenant's own; the cell's shared ones are not here.
CREATE TABLE endpoints (
    host_name   text PRIMARY KEY CHECK (host_name <> '' AND host_name = lower(host_name)),
    instance_id uuid NOT NULL REFERENCES instances ON DELETE CASCADE,
    port        integer UNIQUE CHECK (port BETWEEN 1 AND 65535)
);
CREATE INDEX endpoints_instance ON endpoints (instance_id);

-- One row: the newest revision.
CREATE TABLE cell (
    single      boolean PRIMARY KEY DEFAULT true CHECK (single),
    revision    bigint NOT NULL DEFAULT 0,
    revision_id uuid,
    CHECK ((revision = 0) = (revision_id IS NULL))
);
INSERT INTO cell DEFAULT VALUES;

-- Numbers, ids and times alone: nodes may read it whole.
CREATE TABLE configuration_changes (
    revision    bigint PRIMARY KEY,
    id          uuid NOT NULL,
    instance_id uuid NOT NULL, -- no reference: the change outlives the instance
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- configuration_changed takes the next revision for a change of an instance. Call it after every
-- other row is written and locked: from here to commit, all changes of the cell wait for this one,
-- which makes the order of the numbers the order of the commits.
CREATE FUNCTION configuration_changed(changed uuid) RETURNS bigint
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

-- claim_fingerprint lets go of a fingerprint that only a deleted instance holds: at once for the
-- account that is set, after 30 days for everybody.
CREATE FUNCTION claim_fingerprint(claimed bytea) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    DELETE FROM client_certificates c USING instances i
    WHERE c.fingerprint = claimed AND i.id = c.instance_id
      AND (i.deleted_at < now() - interval '30 days'
        OR i.deleted_at IS NOT NULL AND i.account = current_setting('kmip.account', true))
$$;

-- configuration_since returns every instance that changed after a revision (0: every instance there
-- is), as it is now: deleted, or with the document that nodes read. Nodes decode the document
-- strictly and stop serving a tenant whose document holds a field they do not know. So a later field
-- must be left out (null) for tenants that do not use it, as long as older nodes may run.
CREATE FUNCTION configuration_since(after bigint)
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

-- Row-level security: the control plane sees one account at a time, named by a setting of its
-- transaction. Unset matches nothing. The owner keeps its sight for the functions above.
ALTER TABLE instances ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE key_managers ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE client_certificates ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE endpoints ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;

CREATE POLICY owner ON instances TO CURRENT_USER USING (true);
CREATE POLICY owner ON key_managers TO CURRENT_USER USING (true);
CREATE POLICY owner ON client_certificates TO CURRENT_USER USING (true);
CREATE POLICY owner ON endpoints TO CURRENT_USER USING (true);

CREATE POLICY account ON instances TO kmip_control
    USING (account = current_setting('kmip.account', true));
CREATE POLICY account ON key_managers TO kmip_control
    USING (EXISTS (SELECT FROM instances i WHERE i.id = instance_id AND i.account = current_setting('kmip.account', true)));
CREATE POLICY account ON client_certificates TO kmip_control
    USING (EXISTS (SELECT FROM instances i WHERE i.id = instance_id AND i.account = current_setting('kmip.account', true)));
CREATE POLICY account ON endpoints TO kmip_control
    USING (EXISTS (SELECT FROM instances i WHERE i.id = instance_id AND i.account = current_setting('kmip.account', true)));

REVOKE EXECUTE ON FUNCTION configuration_changed, claim_fingerprint, configuration_since FROM PUBLIC;

GRANT SELECT ON cell, configuration_changes TO kmip_node;
GRANT EXECUTE ON FUNCTION configuration_since TO kmip_node;

GRANT SELECT, INSERT, UPDATE ON instances, key_managers TO kmip_control;
GRANT SELECT, INSERT, DELETE ON client_certificates TO kmip_control;
GRANT SELECT, INSERT, UPDATE, DELETE ON endpoints TO kmip_control;
GRANT EXECUTE ON FUNCTION configuration_changed, claim_fingerprint TO kmip_control;
