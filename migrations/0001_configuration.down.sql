-- The roles stay: other databases of the server may use them.
SET lock_timeout = '5s';

DROP FUNCTION configuration_since, claim_fingerprint, configuration_changed;
DROP TABLE configuration_changes, cell, endpoints, client_certificates, key_managers, instances;
