-- name: RecordEvent :exec
SELECT record_event(@instance_id, @event);

-- name: ListEvents :many
-- A page, the newest first, of those before an id.
SELECT id, event FROM events
WHERE instance_id = @instance_id AND id < @before AND recorded_at > now() - interval '30 days'
ORDER BY id DESC LIMIT @most;

-- name: RecordKMIPEvents :exec
SELECT record_kmip_events(@node, @recorded);
