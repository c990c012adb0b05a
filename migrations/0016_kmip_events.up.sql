-- KMIP requests in the record of events, and what is not there.
SET lock_timeout = '5s';

-- What a row stands for that is no event but says that some are left out; null for an event.
ALTER TABLE events ADD COLUMN gap text;
CREATE UNIQUE INDEX events_gap ON events (instance_id, gap) WHERE gap IS NOT NULL;

-- How many KMIP events of an instance came in on a day, changes apart from reads.
CREATE TABLE kmip_event_counts (
    instance_id uuid NOT NULL REFERENCES instances ON DELETE CASCADE,
    changes     boolean NOT NULL,
    day         date NOT NULL, -- the latest, in UTC
    events      bigint NOT NULL,
    PRIMARY KEY (instance_id, changes)
);

-- record_kmip_events keeps events of a node for 30 days: a list of objects with instance, changes, events
-- (the oldest first), how many were missed before, from when to when, and the event that stands for those.
-- Of an instance's reads, and of its changes, 100,000 a day are kept; what is beyond is missed likewise.
CREATE FUNCTION record_kmip_events(reporter text, recorded jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    most    CONSTANT bigint := 100000;
    form    CONSTANT text := 'YYYY-MM-DD"T"HH24:MI:SS.FF2"+0000"'; -- of eventTime
    today   CONSTANT date := (now() AT TIME ZONE 'UTC')::date;
    r       record;
    came    bigint;
    room    bigint;
    missed  record;
    before  jsonb;
    what    text;
BEGIN
    DELETE FROM events WHERE id IN (
        SELECT id FROM events WHERE recorded_at < now() - interval '30 days' ORDER BY recorded_at LIMIT 1000 FOR UPDATE SKIP LOCKED);
    FOR r IN SELECT b.* FROM jsonb_to_recordset(recorded)
        AS b(instance uuid, changes boolean, events jsonb, missed bigint, missed_from timestamptz, missed_to timestamptz, gap jsonb)
        JOIN instances i ON i.id = b.instance
        ORDER BY b.instance, b.changes -- two nodes lock rows in one order
    LOOP
        came := jsonb_array_length(r.events);
        INSERT INTO kmip_event_counts AS c VALUES (r.instance, r.changes, today, came)
        ON CONFLICT (instance_id, changes) DO UPDATE SET day = today, events = came + CASE WHEN c.day = today THEN c.events ELSE 0 END
        RETURNING greatest(most - c.events + came, 0) INTO room;
        INSERT INTO events (instance_id, event)
        SELECT r.instance, e.value FROM jsonb_array_elements(r.events) WITH ORDINALITY AS e(value, place) WHERE place <= room ORDER BY place;

        SELECT r.missed + count(*) AS events, least(r.missed_from, min((value ->> 'eventTime')::timestamptz)) AS first,
            greatest(r.missed_to, max((value ->> 'eventTime')::timestamptz)) AS last
        INTO missed FROM jsonb_array_elements(r.events) WITH ORDINALITY AS e(value, place) WHERE place > room;
        CONTINUE WHEN missed.events = 0;
        -- One row for each node and day: the count above is locked until the end.
        what := concat_ws(' ', reporter, today, r.changes);
        SELECT event -> 'responseData' INTO before FROM events WHERE instance_id = r.instance AND gap = what;
        INSERT INTO events (instance_id, gap, event) VALUES (r.instance, what, jsonb_set(r.gap, '{responseData}', jsonb_build_object(
            'node', reporter, 'events', missed.events + coalesce((before ->> 'events')::bigint, 0),
            'from', to_char(least(missed.first, (before ->> 'from')::timestamptz) AT TIME ZONE 'UTC', form),
            'to', to_char(greatest(missed.last, (before ->> 'to')::timestamptz) AT TIME ZONE 'UTC', form))))
        ON CONFLICT (instance_id, gap) WHERE gap IS NOT NULL DO UPDATE SET event = excluded.event;
    END LOOP;
END
$$;

ALTER TABLE kmip_event_counts ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON kmip_event_counts TO CURRENT_USER USING (true);

REVOKE EXECUTE ON FUNCTION record_kmip_events FROM PUBLIC;
GRANT EXECUTE ON FUNCTION record_kmip_events TO kmip_node;
