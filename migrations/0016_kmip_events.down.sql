SET lock_timeout = '5s';

DROP FUNCTION record_kmip_events;
DROP TABLE kmip_event_counts;
DELETE FROM events WHERE gap IS NOT NULL;
ALTER TABLE events DROP COLUMN gap;
