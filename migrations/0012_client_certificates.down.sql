SET lock_timeout = '5s';

DROP TABLE client_authorities;
DROP FUNCTION replaced_certificates;
DROP FUNCTION record_certificate_use;
REVOKE UPDATE (replaced_by, replaced_at) ON client_certificates FROM kmip_control;
DROP INDEX client_certificates_replaced_by;
ALTER TABLE client_certificates
    DROP COLUMN replaced_at, DROP COLUMN replaced_by,
    DROP COLUMN last_used_from, DROP COLUMN last_used_at, DROP COLUMN first_used_at;
