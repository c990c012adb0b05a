-- name: ClaimFingerprint :exec
SELECT claim_fingerprint(sha256(@der::bytea));

-- name: AddCertificate :one
INSERT INTO client_certificates (instance_id, name, der, not_before, not_after)
VALUES (@instance_id, @name, @der, @not_before, @not_after)
RETURNING id;

-- name: ListCertificates :many
-- All client certificates of an instance, or the one with an id.
SELECT c.id, c.name, c.der, c.fingerprint, c.not_before, c.not_after, c.created_at, c.revision,
    c.first_used_at, c.last_used_at, coalesce(host(c.last_used_from), '')::text AS last_used_from,
    c.replaced_by, c.replaced_at, r.first_used_at AS successor_used_at, now()::timestamptz AS now
FROM client_certificates c
LEFT JOIN client_certificates r ON r.id = c.replaced_by
WHERE c.instance_id = @instance_id AND (sqlc.narg(id)::uuid IS NULL OR c.id = sqlc.narg(id)::uuid)
ORDER BY c.created_at, c.id;

-- name: ReplaceCertificate :exec
-- What the one with an id was to replace waits for its successor now.
UPDATE client_certificates
SET replaced_by = @successor, replaced_at = CASE WHEN id = @id THEN now() ELSE replaced_at END
WHERE instance_id = @instance_id AND (id = @id OR replaced_by = @id);

-- name: DeleteCertificate :execrows
DELETE FROM client_certificates WHERE instance_id = @instance_id AND id = @id;

-- name: RecordCertificateUse :exec
SELECT record_certificate_use(@used);

-- name: GetAuthority :many
-- The one of an instance, if it lasts until a time.
SELECT certificate, sealed_key, not_after FROM client_authorities WHERE instance_id = @instance_id AND not_after >= @until;

-- name: PutAuthority :exec
-- One that lasts until a time stays.
INSERT INTO client_authorities (instance_id, certificate, sealed_key, not_after)
VALUES (@instance_id, @certificate, @sealed_key, @not_after)
ON CONFLICT (instance_id) DO UPDATE SET certificate = excluded.certificate, sealed_key = excluded.sealed_key,
    not_after = excluded.not_after, created_at = now()
WHERE client_authorities.not_after < @until;
