SET lock_timeout = '5s';

DROP FUNCTION record_refusals;
DROP TABLE refusals;
