-- name: ListConnected :many
SELECT account::text AS account, instance_id::text AS instance_id FROM connected_instances();

-- name: ListRows :many
SELECT place, phase, object, location, key_ref, recovered, version,
    (phase = 'pending' AND pending_until < now() - interval '1 hour'
        OR phase = 'destroying' AND updated_at < now() - interval '5 minutes')::boolean AS overdue
FROM objects WHERE tenant = @tenant AND place > @after ORDER BY place LIMIT @most;

-- name: RecordedElsewhere :many
SELECT id::text AS id FROM recorded_elsewhere(@asking, @asked::text[]);

-- name: ListWithheld :many
SELECT id FROM withheld_objects WHERE tenant = @tenant ORDER BY id COLLATE "C";

-- name: PutReconciliation :exec
INSERT INTO reconciliations (instance_id, found, seconds) VALUES (@instance_id, @found, @seconds)
ON CONFLICT (instance_id) DO UPDATE SET found = excluded.found, seconds = excluded.seconds, finished_at = now();

-- name: GetReconciliation :one
SELECT found, seconds, finished_at FROM reconciliations WHERE instance_id = @instance_id;

-- name: ReconcileSoon :exec
UPDATE key_manager_checks SET reconcile_at = now() WHERE instance_id = @instance_id;
