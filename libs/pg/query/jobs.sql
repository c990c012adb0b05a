-- name: TakeDueWork :many
SELECT kind::text AS kind, account::text AS account, instance_id::text AS instance_id FROM take_due_work(@check_seconds)
UNION ALL
SELECT 'remove_replaced', account::text, instance_id::text FROM replaced_certificates()
UNION ALL
SELECT 'reconcile', account::text, instance_id::text FROM take_due_reconciliations(@reconcile_seconds);

-- name: ReportUse :exec
SELECT report_use(@served::uuid[], @denied::uuid[]);

-- name: ListConditions :many
SELECT instance_id, type, status, reason, message, since FROM instance_conditions
WHERE instance_id = ANY (@instance_ids::uuid[]) ORDER BY instance_id, type;

-- name: ListFirstToEnd :many
-- Of each instance's client certificates the one that ends first. A replaced one whose successor is in
-- use needs nobody's care.
SELECT DISTINCT ON (c.instance_id) c.instance_id, c.name, c.not_after, c.created_at FROM client_certificates c
WHERE c.instance_id = ANY (@instance_ids::uuid[])
    AND NOT EXISTS (SELECT FROM client_certificates r WHERE r.id = c.replaced_by AND r.first_used_at IS NOT NULL)
ORDER BY c.instance_id, c.not_after, c.id;

-- name: ListServerCertificates :many
SELECT instance_id, server_certificate FROM endpoints
WHERE instance_id = ANY (@instance_ids::uuid[]) AND server_certificate IS NOT NULL ORDER BY instance_id, host_name;

-- name: PutCondition :exec
INSERT INTO instance_conditions AS c (instance_id, type, status, reason, message)
VALUES (@instance_id, @type, @status, @reason, @message)
ON CONFLICT (instance_id, type) DO UPDATE SET status = excluded.status, reason = excluded.reason, message = excluded.message,
    since = CASE WHEN c.status = excluded.status AND c.reason = excluded.reason THEN c.since ELSE now() END;

-- name: DeleteOtherConditions :exec
-- Of those that checks find out.
DELETE FROM instance_conditions WHERE instance_id = @instance_id AND type <> ALL (@types::text[]) AND type <> 'keys_reconciled';

-- name: GetCheck :one
SELECT thorough FROM key_manager_checks WHERE instance_id = @instance_id;

-- name: SetThorough :exec
UPDATE key_manager_checks SET thorough = @thorough WHERE instance_id = @instance_id;

-- name: BecomeJobs :exec
SET LOCAL ROLE kmip_jobs;

-- name: ListUnsettled :many
-- A tenant's rows whose Create or Destroy was not finished, the oldest first.
SELECT id, phase, object, location, key_ref, version FROM objects
WHERE tenant = @tenant AND (phase = 'pending' AND pending_until < now() - interval '1 hour'
    OR phase = 'destroying' AND updated_at < now() - interval '5 minutes')
ORDER BY place LIMIT @most;

-- name: ClaimNobody :execrows
UPDATE objects SET phase = 'live', key_ref = @key_ref, unclaimed = true, version = version + 1, updated_at = now()
WHERE tenant = @tenant AND id = @id AND version = @version AND phase = 'pending';

-- name: DropPending :execrows
DELETE FROM objects WHERE tenant = @tenant AND id = @id AND version = @version AND phase = 'pending';

-- name: FinishDestroy :execrows
UPDATE objects SET phase = 'destroyed', version = version + 1, updated_at = now()
WHERE tenant = @tenant AND id = @id AND version = @version AND phase = 'destroying';

-- name: RenewCertificate :exec
UPDATE endpoints SET server_certificate = @server_certificate, certificate_not_after = @not_after
WHERE instance_id = @instance_id AND host_name = @host_name AND server_certificate = @before;

-- name: NoteCertificate :exec
UPDATE endpoints SET certificate_not_after = @not_after
WHERE instance_id = @instance_id AND host_name = @host_name AND server_certificate = @server_certificate;
