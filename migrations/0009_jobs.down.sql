SET lock_timeout = '5s';

DROP FUNCTION take_due_work, report_use;
DROP TRIGGER configuration_touched ON endpoints;
CREATE CONSTRAINT TRIGGER configuration_touched
    AFTER INSERT OR DELETE OR UPDATE ON endpoints
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION configuration_touched('instance_id');
REVOKE UPDATE (server_certificate, certificate_not_after) ON endpoints FROM kmip_control;
ALTER TABLE endpoints DROP COLUMN certificate_not_after;
DROP FUNCTION key_manager_changed CASCADE;
DROP TABLE key_manager_checks, instance_conditions;
DROP POLICY sweep ON objects;
DROP POLICY pending_alone ON objects;
REVOKE ALL ON objects FROM kmip_jobs;
ALTER TABLE objects DROP COLUMN unclaimed;
DROP TABLE river_notification, river_queue, river_leader, river_job;
DROP FUNCTION river_job_state_in_bitmask;
DROP TYPE river_job_state;
