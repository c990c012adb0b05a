SET lock_timeout = '5s';

DROP INDEX instances_page;
DROP FUNCTION forget_idempotency_keys;
DROP TABLE idempotency_keys;
