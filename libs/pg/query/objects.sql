-- name: SetTenant :exec
SELECT set_config('kmip.tenant', sqlc.arg(tenant)::text, true);

-- name: CreateObject :exec
INSERT INTO objects (tenant, id, phase, object, location, key_ref, recovered, version, pending_until)
VALUES (@tenant, @id, @phase, @object, @location, @key_ref, @recovered, 1,
    CASE WHEN @phase::text = 'pending' THEN now() + make_interval(secs => @pending_seconds) END);

-- name: GetObject :one
SELECT phase, object, location, key_ref, recovered, version FROM objects WHERE tenant = @tenant AND id = @id;

-- name: ReplaceObject :execrows
UPDATE objects
SET phase = @phase, object = @object, location = @location, key_ref = @key_ref, recovered = @recovered,
    version = version + 1, updated_at = now()
WHERE tenant = @tenant AND id = @id AND version = @version;

-- name: ObjectExists :one
SELECT EXISTS (SELECT FROM objects WHERE tenant = @tenant AND id = @id);

-- name: ListObjects :many
-- A page of a tenant's objects, those made last first, before the one at a place.
SELECT place, id, object FROM objects
WHERE tenant = @tenant AND phase <> 'pending' AND place < @before
ORDER BY place DESC LIMIT @page;
