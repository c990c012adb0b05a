SET lock_timeout = '5s';

DROP FUNCTION take_due_reconciliations, connected_instances, recorded_elsewhere;
DROP INDEX key_managers_instance_crn;
REVOKE ALL ON withheld_objects, object_names FROM kmip_jobs;
DROP POLICY jobs ON withheld_objects;
DROP POLICY recovered_alone ON objects;
REVOKE INSERT ON objects FROM kmip_jobs;
DELETE FROM instance_conditions WHERE type = 'keys_reconciled';
ALTER TABLE instance_conditions
    DROP CONSTRAINT instance_conditions_type_check,
    ADD CONSTRAINT instance_conditions_type_check CHECK (type IN ('key_manager_ready', 'destroy_permitted', 'service_authorization'));
DROP TABLE reconciliations;
ALTER TABLE key_manager_checks DROP COLUMN reconcile_at;
