-- Jobs of the control planes, what they find out about instances, and what they may do to the ledger.
SET lock_timeout = '5s';

-- The queue's own tables, as river 0.51 (main line, version 8) wants them.
CREATE TYPE river_job_state AS ENUM
    ('available', 'cancelled', 'completed', 'discarded', 'pending', 'retryable', 'running', 'scheduled');

CREATE FUNCTION river_job_state_in_bitmask(bitmask bit(8), state river_job_state) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE state
        WHEN 'available' THEN get_bit(bitmask, 7)
        WHEN 'cancelled' THEN get_bit(bitmask, 6)
        WHEN 'completed' THEN get_bit(bitmask, 5)
        WHEN 'discarded' THEN get_bit(bitmask, 4)
        WHEN 'pending' THEN get_bit(bitmask, 3)
        WHEN 'retryable' THEN get_bit(bitmask, 2)
        WHEN 'running' THEN get_bit(bitmask, 1)
        WHEN 'scheduled' THEN get_bit(bitmask, 0)
        ELSE 0
    END = 1
$$;

CREATE TABLE river_job (
    id            bigserial PRIMARY KEY,
    state         river_job_state NOT NULL DEFAULT 'available',
    attempt       smallint NOT NULL DEFAULT 0,
    max_attempts  smallint NOT NULL DEFAULT 25 CONSTRAINT max_attempts_is_positive CHECK (max_attempts > 0),
    attempted_at  timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    finalized_at  timestamptz,
    scheduled_at  timestamptz NOT NULL DEFAULT now(),
    priority      smallint NOT NULL DEFAULT 1 CONSTRAINT priority_in_range CHECK (priority BETWEEN 1 AND 4),
    args          jsonb NOT NULL,
    attempted_by  text[],
    errors        jsonb[],
    kind          text NOT NULL CONSTRAINT kind_length CHECK (char_length(kind) BETWEEN 1 AND 127),
    metadata      jsonb NOT NULL DEFAULT '{}',
    queue         text NOT NULL DEFAULT 'default' CONSTRAINT queue_length CHECK (char_length(queue) BETWEEN 1 AND 127),
    tags          varchar(255)[] NOT NULL DEFAULT '{}',
    unique_key    bytea,
    unique_states bit(8),
    CONSTRAINT finalized_or_finalized_at_null
        CHECK ((finalized_at IS NOT NULL) = (state IN ('cancelled', 'completed', 'discarded')))
);
CREATE INDEX river_job_kind ON river_job (kind);
CREATE INDEX river_job_state_and_finalized_at_index ON river_job (state, finalized_at) WHERE finalized_at IS NOT NULL;
CREATE INDEX river_job_prioritized_fetching_index ON river_job (state, queue, priority, scheduled_at, id);
CREATE INDEX river_job_args_index ON river_job USING gin (args);
CREATE INDEX river_job_metadata_index ON river_job USING gin (metadata);
CREATE UNIQUE INDEX river_job_unique_idx ON river_job (unique_key)
    WHERE unique_key IS NOT NULL AND unique_states IS NOT NULL AND river_job_state_in_bitmask(unique_states, state);

CREATE UNLOGGED TABLE river_leader (
    elected_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    leader_id  text NOT NULL CONSTRAINT leader_id_length CHECK (char_length(leader_id) BETWEEN 1 AND 127),
    name       text PRIMARY KEY DEFAULT 'default' CONSTRAINT name_length CHECK (name = 'default')
);

CREATE TABLE river_queue (
    name       text PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    metadata   jsonb NOT NULL DEFAULT '{}',
    paused_at  timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE river_notification (
    id         bigserial PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    payload    text NOT NULL,
    topic      text NOT NULL CONSTRAINT topic_length CHECK (length(topic) BETWEEN 1 AND 127)
);
CREATE INDEX river_notification_created_at_idx ON river_notification (created_at);
CREATE INDEX river_notification_topic_id_idx ON river_notification (topic, id);

GRANT SELECT, INSERT, UPDATE, DELETE ON river_job, river_leader, river_queue, river_notification TO kmip_control;
GRANT USAGE ON river_job_id_seq, river_notification_id_seq TO kmip_control;

-- A job that changes the ledger does it as kmip_jobs, a role that nobody logs in as: the control plane
-- takes it for one transaction and has no right to the ledger otherwise.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'kmip_jobs') THEN
        BEGIN
            CREATE ROLE kmip_jobs;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- another database's migration was faster
        END;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'kmip_control' AND rolinherit) THEN
        ALTER ROLE kmip_control NOINHERIT;
    END IF;
    IF NOT pg_has_role('kmip_control', 'kmip_jobs', 'MEMBER') THEN
        GRANT kmip_jobs TO kmip_control;
    END IF;
END
$$;

-- Made live by a job: the client that asked for it was never told.
ALTER TABLE objects ADD COLUMN unclaimed boolean NOT NULL DEFAULT false;

GRANT SELECT, UPDATE, DELETE ON objects TO kmip_jobs;
CREATE POLICY pending_alone ON objects AS RESTRICTIVE FOR DELETE TO kmip_jobs USING (phase = 'pending');
CREATE POLICY sweep ON objects FOR SELECT TO CURRENT_USER USING (current_setting('kmip.sweep', true) = 'on'); -- in take_due_work

-- What is known of an instance beside its settings. It takes no revision.
CREATE TABLE instance_conditions (
    instance_id uuid NOT NULL REFERENCES instances ON DELETE CASCADE,
    type        text NOT NULL CHECK (type IN ('key_manager_ready', 'destroy_permitted', 'service_authorization')),
    status      text NOT NULL CHECK (status IN ('true', 'false', 'unknown')),
    reason      text NOT NULL CHECK (reason ~ '^[a-z_]{1,64}$'),
    message     text NOT NULL CHECK (char_length(message) BETWEEN 1 AND 1024),
    since       timestamptz NOT NULL DEFAULT now(), -- of this status and reason
    PRIMARY KEY (instance_id, type)
);

-- When each key manager is asked next whether it still does what is needed. A use that went well
-- stands for a check; one that the key manager denied asks for one at once.
CREATE TABLE key_manager_checks (
    instance_id uuid PRIMARY KEY REFERENCES instances ON DELETE CASCADE,
    due_at      timestamptz NOT NULL DEFAULT now(),
    used_at     timestamptz, -- by a node, with success
    thorough    boolean NOT NULL DEFAULT true -- something was wrong, or nothing is known: try all
);
CREATE INDEX key_manager_checks_due ON key_manager_checks (due_at);
INSERT INTO key_manager_checks (instance_id) SELECT instance_id FROM key_managers;

-- Whoever changes a key manager's settings, they are checked soon.
CREATE FUNCTION key_manager_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO key_manager_checks (instance_id) VALUES (NEW.instance_id)
    ON CONFLICT (instance_id) DO UPDATE SET due_at = now(), used_at = NULL, thorough = true;
    RETURN NULL;
END
$$;
CREATE TRIGGER key_manager_changed AFTER INSERT OR UPDATE ON key_managers
    FOR EACH ROW EXECUTE FUNCTION key_manager_changed();

-- report_use notes whose key managers served a node and whose denied it something.
CREATE FUNCTION report_use(served uuid[], denied uuid[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    UPDATE key_manager_checks k SET
        used_at = CASE WHEN k.instance_id = ANY (denied) THEN NULL ELSE now() END,
        thorough = k.thorough OR k.instance_id = ANY (denied),
        -- News: it fails, or it works again.
        due_at = CASE WHEN (k.instance_id = ANY (denied)) = coalesce((SELECT c.status = 'true' FROM instance_conditions c
                WHERE c.instance_id = k.instance_id AND c.type = 'key_manager_ready'), true)
            THEN least(k.due_at, now()) ELSE k.due_at END
    FROM (SELECT instance_id FROM key_manager_checks WHERE instance_id = ANY (served || denied)
        ORDER BY instance_id FOR UPDATE) locked -- two nodes lock rows in one order
    WHERE k.instance_id = locked.instance_id
$$;

-- When the server certificate of an endpoint ends; null until a job has read it.
ALTER TABLE endpoints ADD COLUMN certificate_not_after timestamptz;
GRANT UPDATE (server_certificate, certificate_not_after) ON endpoints TO kmip_control;

DROP TRIGGER configuration_touched ON endpoints;
CREATE CONSTRAINT TRIGGER configuration_touched
    AFTER INSERT OR DELETE OR UPDATE OF host_name, instance_id, port, server_certificate ON endpoints
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION configuration_touched('instance_id');

-- take_due_work returns what is to be done now, in the whole cell: kind of job, account, instance. The
-- checks that it returns, and those that a use has spared, are due again within check_seconds.
CREATE FUNCTION take_due_work(check_seconds double precision)
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

ALTER TABLE instance_conditions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE key_manager_checks ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON instance_conditions TO CURRENT_USER USING (true);
CREATE POLICY owner ON key_manager_checks TO CURRENT_USER USING (true);
CREATE POLICY account ON instance_conditions TO kmip_control
    USING (EXISTS (SELECT FROM instances i WHERE i.id = instance_id AND i.account = current_setting('kmip.account', true)));
CREATE POLICY account ON key_manager_checks TO kmip_control
    USING (EXISTS (SELECT FROM instances i WHERE i.id = instance_id AND i.account = current_setting('kmip.account', true)));

REVOKE EXECUTE ON FUNCTION key_manager_changed, report_use, take_due_work FROM PUBLIC;
GRANT EXECUTE ON FUNCTION report_use TO kmip_node;
GRANT EXECUTE ON FUNCTION take_due_work TO kmip_control;
GRANT SELECT, INSERT, UPDATE, DELETE ON instance_conditions TO kmip_control;
GRANT SELECT, UPDATE ON key_manager_checks TO kmip_control;
