-- Connections and requests that were turned away.
SET lock_timeout = '5s';

-- Counted by instance, minute, cause and source; the other columns are those of the latest one.
CREATE TABLE refusals (
    instance_id uuid NOT NULL, -- whose own name or port was used; the nil UUID at a shared endpoint
    minute      timestamptz NOT NULL,
    cause       text NOT NULL,
    source      inet, -- null: those of a whole day beyond its cap
    server_name text NOT NULL,
    port        integer NOT NULL,
    fingerprint bytea, -- of the client certificate, SHA-256; null without one
    node        text NOT NULL,
    times       bigint NOT NULL,
    first_at    timestamptz NOT NULL,
    last_at     timestamptz NOT NULL,
    CONSTRAINT refusals_key UNIQUE NULLS NOT DISTINCT (instance_id, minute, cause, source)
);
CREATE INDEX refusals_minute ON refusals (minute);

-- record_refusals adds what a node has counted: a list of objects with instance, cause, source, server
-- name, port, fingerprint in hexadecimal and times. Beyond 1,000 rows a day an instance's refusals are
-- counted by cause alone. Rows are kept for 30 days.
CREATE FUNCTION record_refusals(reporter text, counted jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    today timestamptz := date_trunc('day', now(), 'UTC');
    r     record;
    at    timestamptz;
    whose inet;
BEGIN
    DELETE FROM refusals WHERE minute < now() - interval '30 days';
    FOR r IN SELECT * FROM jsonb_to_recordset(counted)
        AS c(instance uuid, cause text, source inet, server_name text, port integer, fingerprint text, times bigint)
        ORDER BY instance, cause, source -- two nodes lock rows in one order
    LOOP
        at := date_trunc('minute', now(), 'UTC');
        whose := r.source;
        IF NOT EXISTS (SELECT FROM refusals f WHERE f.instance_id = r.instance AND f.minute = at AND f.cause = r.cause AND f.source = whose)
            AND (SELECT count(*) FROM refusals f WHERE f.instance_id = r.instance AND f.minute >= today AND f.source IS NOT NULL) >= 1000 THEN
            whose := NULL;
        END IF;
        IF whose IS NULL THEN
            at := today;
        END IF;
        INSERT INTO refusals VALUES (r.instance, at, r.cause, whose, r.server_name, r.port, decode(r.fingerprint, 'hex'), reporter, r.times, now(), now())
        ON CONFLICT ON CONSTRAINT refusals_key DO UPDATE SET server_name = excluded.server_name, port = excluded.port,
            fingerprint = excluded.fingerprint, node = excluded.node, times = refusals.times + excluded.times, last_at = excluded.last_at;
    END LOOP;
END
$$;

ALTER TABLE refusals ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON refusals TO CURRENT_USER USING (true);
-- The nil UUID is no instance's: those at shared endpoints are no customer's to see.
CREATE POLICY account ON refusals TO kmip_control
    USING (EXISTS (SELECT FROM instances i WHERE i.id = instance_id AND i.account = current_setting('kmip.account', true)));

REVOKE EXECUTE ON FUNCTION record_refusals FROM PUBLIC;
GRANT EXECUTE ON FUNCTION record_refusals TO kmip_node;
GRANT SELECT ON refusals TO kmip_control;
