-- name: SetAccount :exec
SELECT set_config('kmip.account', sqlc.arg(account)::text, true);

-- name: CreateInstance :exec
INSERT INTO instances (id, account, name, region, status, suspended, shared, created_by)
VALUES (@id, @account, @name, @region, @status, @suspended, @shared, @created_by);

-- name: ListInstances :many
-- A page of an account's instances behind the one with an id, the oldest first. Deleted ones are among
-- them if they are asked for and can be restored.
SELECT i.id, i.account, i.name, i.region, i.status, i.suspended, i.shared, i.created_by, i.created_at, i.updated_at, i.deleted_at, i.revision, i.kmip_user_name, i.cache_seconds, i.outage_grace_seconds,
    k.type, k.instance_crn, k.key_ring, k.root_key_id, k.sealed_api_key
FROM instances i
LEFT JOIN key_managers k ON k.instance_id = i.id
WHERE i.account = @account AND (i.deleted_at IS NULL OR @deleted::boolean AND i.deleted_at > now() - interval '30 days')
    AND (sqlc.narg(id)::uuid IS NULL OR i.id = sqlc.narg(id)::uuid)
    AND (@name::text = '' OR i.name = @name)
    AND (@status::text = '' OR i.status = @status)
    AND (sqlc.narg(after)::uuid IS NULL OR (i.created_at, i.id) > (SELECT s.created_at, s.id FROM instances s WHERE s.id = sqlc.narg(after)::uuid))
ORDER BY i.created_at, i.id
LIMIT @most;

-- name: CountInstances :one
SELECT count(*)::integer FROM instances i
WHERE i.account = @account AND (i.deleted_at IS NULL OR @deleted::boolean AND i.deleted_at > now() - interval '30 days')
    AND (@name::text = '' OR i.name = @name)
    AND (@status::text = '' OR i.status = @status);

-- name: LockInstance :many
SELECT id FROM instances
WHERE account = @account AND id = @id AND (deleted_at IS NULL OR deleted_at > now() - interval '30 days') FOR UPDATE;

-- name: UpdateInstance :exec
UPDATE instances SET updated_at = now(), name = coalesce(sqlc.narg(name), name),
    cache_seconds = coalesce(sqlc.narg(cache_seconds), cache_seconds),
    outage_grace_seconds = coalesce(sqlc.narg(outage_grace_seconds), outage_grace_seconds)
WHERE account = @account AND id = @id;

-- name: SetCredential :exec
UPDATE instances SET kmip_user_name = sqlc.narg(user_name), kmip_credential_digest = sqlc.narg(digest), updated_at = now()
WHERE account = @account AND id = @id;

-- name: DeleteInstance :exec
UPDATE instances SET status = 'removing', deleted_at = now(), updated_at = now() WHERE account = @account AND id = @id;

-- name: RestoreInstance :exec
UPDATE instances SET deleted_at = NULL, updated_at = now(),
    status = CASE WHEN EXISTS (SELECT FROM key_moves v WHERE v.instance_id = instances.id) THEN 'configuring'
        WHEN EXISTS (SELECT FROM key_managers k WHERE k.instance_id = instances.id) THEN 'installed' ELSE 'inactive' END
WHERE account = @account AND id = @id;

-- name: PutKeyManager :exec
INSERT INTO key_managers (instance_id, type, instance_crn, key_ring, root_key_id, sealed_api_key)
VALUES (@instance_id, @type, @instance_crn, @key_ring, @root_key_id, @sealed_api_key)
ON CONFLICT (instance_id) DO UPDATE SET type = excluded.type, instance_crn = excluded.instance_crn,
    key_ring = excluded.key_ring, root_key_id = excluded.root_key_id, sealed_api_key = excluded.sealed_api_key,
    updated_at = now();

-- name: SetInstalled :exec
-- Or configuring, as long as keys are being moved.
UPDATE instances SET updated_at = now(),
    status = CASE WHEN EXISTS (SELECT FROM key_moves v WHERE v.instance_id = instances.id) THEN 'configuring' ELSE 'installed' END
WHERE account = @account AND id = @id;

-- name: AssignEndpoint :one
SELECT coalesce(assign_endpoint(@instance_id, @host_name, @server_certificate, @first_port, @last_port), 0)::integer;

-- name: ListEndpoints :many
SELECT host_name, port, server_certificate FROM endpoints WHERE instance_id = @instance_id ORDER BY host_name;

-- name: TakeRevision :exec
-- The revision is taken at commit, or now.
SET CONSTRAINTS ALL IMMEDIATE;
