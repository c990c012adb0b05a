-- name: SetTenant :exec
SELECT set_config('kmip.tenant', sqlc.arg(tenant)::text, true);

-- name: CreateObject :exec
-- Names are those that the row holds, hashed.
WITH made AS (
    INSERT INTO objects (tenant, id, phase, object, location, key_ref, recovered, version, pending_until)
    VALUES (@tenant, @id, @phase, @object, @location, @key_ref, @recovered, 1,
        CASE WHEN @phase::text = 'pending' THEN now() + make_interval(secs => @pending_seconds) END)
    RETURNING tenant, id
)
INSERT INTO object_names (tenant, name, object)
SELECT made.tenant, held.name, made.id FROM made, unnest(@names::bytea[]) AS held(name);

-- name: GetObject :one
SELECT phase, object, location, key_ref, recovered, version FROM objects WHERE tenant = @tenant AND id = @id;

-- name: ReplaceObject :one
-- An object gives up the names that it no longer holds before it takes new ones.
WITH replaced AS (
    UPDATE objects o
    SET phase = @phase, object = @object, location = @location, key_ref = @key_ref, recovered = @recovered,
        version = o.version + 1, updated_at = now()
    WHERE o.tenant = @tenant AND o.id = @id AND o.version = @version
    RETURNING o.tenant, o.id
), released AS (
    DELETE FROM object_names n USING replaced r
    WHERE n.tenant = r.tenant AND n.object = r.id AND n.name <> ALL (@names::bytea[])
), taken AS (
    INSERT INTO object_names (tenant, name, object)
    SELECT r.tenant, held.name, r.id FROM replaced r, unnest(@names::bytea[]) AS held(name)
    WHERE NOT EXISTS (SELECT FROM object_names n WHERE n.tenant = r.tenant AND n.name = held.name AND n.object = r.id)
)
SELECT count(*) FROM replaced;

-- name: ObjectExists :one
SELECT EXISTS (SELECT FROM objects WHERE tenant = @tenant AND id = @id);

-- name: ListObjects :many
-- A page of a tenant's objects, those made last first, before the one at a place.
SELECT place, object FROM objects
WHERE tenant = @tenant AND phase <> 'pending' AND place < @before
ORDER BY place DESC LIMIT @page;

-- name: ObjectNamed :one
SELECT o.object FROM object_names n JOIN objects o ON o.tenant = n.tenant AND o.id = n.object
WHERE n.tenant = @tenant AND n.name = @name;
