-- name: RecordRefusals :exec
SELECT record_refusals(@node, @counted);

-- name: ListRefusals :many
SELECT cause, coalesce(host(source), '')::text AS source, server_name, port, fingerprint, node, times, first_at, last_at
FROM refusals WHERE instance_id = @instance_id ORDER BY last_at DESC, cause, source LIMIT @most;
