SET lock_timeout = '5s';

DROP FUNCTION record_event;
DROP TABLE events;
