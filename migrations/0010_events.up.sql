-- Management calls on instances, as Activity Tracker records them.
SET lock_timeout = '5s';

CREATE TABLE events (
    id          bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    instance_id uuid NOT NULL REFERENCES instances ON DELETE CASCADE,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    event       jsonb NOT NULL
);
CREATE INDEX events_instance ON events (instance_id, id);
CREATE INDEX events_recorded ON events (recorded_at);

-- record_event keeps an event for 30 days if the instance is of the account that is set.
CREATE FUNCTION record_event(subject uuid, recorded jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    DELETE FROM events WHERE recorded_at < now() - interval '30 days';
    INSERT INTO events (instance_id, event)
    SELECT i.id, recorded FROM instances i WHERE i.id = subject AND i.account = current_setting('kmip.account', true)
$$;

ALTER TABLE events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON events TO CURRENT_USER USING (true);
CREATE POLICY account ON events TO kmip_control
    USING (EXISTS (SELECT FROM instances i WHERE i.id = instance_id AND i.account = current_setting('kmip.account', true)));

REVOKE EXECUTE ON FUNCTION record_event FROM PUBLIC;
GRANT EXECUTE ON FUNCTION record_event TO kmip_control;
GRANT SELECT ON events TO kmip_control;
