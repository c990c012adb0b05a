-- name: GetMove :many
-- A node's request takes at most half a minute.
SELECT failed, message, (started_at < now() - interval '1 minute')::boolean AS settled FROM key_moves WHERE instance_id = @instance_id;

-- name: ListFormer :many
SELECT type, instance_crn, key_ring, root_key_id, sealed_api_key FROM former_key_managers
WHERE instance_id = @instance_id ORDER BY instance_crn, root_key_id;

-- name: AddFormer :exec
INSERT INTO former_key_managers (instance_id, type, instance_crn, key_ring, root_key_id, sealed_api_key)
VALUES (@instance_id, @type, @instance_crn, @key_ring, @root_key_id, @sealed_api_key)
ON CONFLICT (instance_id, instance_crn, root_key_id) DO UPDATE SET key_ring = excluded.key_ring, sealed_api_key = excluded.sealed_api_key;

-- name: RenewFormer :exec
UPDATE former_key_managers SET sealed_api_key = @sealed_api_key
WHERE instance_id = @instance_id AND instance_crn = @instance_crn AND sealed_api_key <> @sealed_api_key;

-- name: DeleteFormer :exec
DELETE FROM former_key_managers WHERE instance_id = @instance_id AND instance_crn = @instance_crn AND root_key_id = @root_key_id;

-- name: DeleteAllFormer :exec
DELETE FROM former_key_managers WHERE instance_id = @instance_id;

-- name: StartMove :exec
INSERT INTO key_moves (instance_id) VALUES (@instance_id)
ON CONFLICT (instance_id) DO UPDATE SET started_at = now(), failed = 0, message = '';

-- name: NoteMove :exec
UPDATE key_moves SET failed = @failed, message = @message WHERE instance_id = @instance_id;

-- name: EndMove :exec
DELETE FROM key_moves WHERE instance_id = @instance_id;

-- name: ListElsewhere :many
SELECT place, id, phase, object, location, key_ref, version, moving_since FROM objects
WHERE tenant = @tenant AND phase = 'live' AND place > @after
    AND (location ->> 'key_manager' <> @key_manager::text OR location ->> 'root_key_id' <> @root_key::text)
ORDER BY place LIMIT @most;

-- name: BeginMoving :execrows
UPDATE objects SET moving_since = coalesce(moving_since, now())
WHERE tenant = @tenant AND id = @id AND key_ref = @key_ref AND phase = 'live';

-- name: EndMoving :execrows
UPDATE objects SET key_ref = @key_ref, location = @location, moving_since = NULL, version = version + 1, updated_at = now()
WHERE tenant = @tenant AND id = @id AND key_ref = @before AND phase = 'live';

-- name: GetKeyRef :many
SELECT key_ref FROM objects WHERE tenant = @tenant AND id = @id;

-- name: CountKeys :many
SELECT (location ->> 'key_manager')::text AS key_manager, (location ->> 'root_key_id')::text AS root_key_id,
    (location ->> 'root_key_version')::text AS root_key_version,
    count(*) FILTER (WHERE phase = 'live') AS live, count(*) FILTER (WHERE phase IN ('pending', 'destroying')) AS unfinished
FROM objects WHERE tenant = @tenant AND phase <> 'destroyed'
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
