-- name: ReportNode :one
SELECT report_node(@node, @process, @revision, @revision_id, @leaving)::boolean;

-- name: ListNodes :many
-- Those that may serve: not signed off, and not silent for longer than a node serves without news.
SELECT n.name, n.revision, (n.reported_at > now() - make_interval(secs => @heard_seconds))::boolean AS heard,
    (n.revision = 0 OR EXISTS (SELECT FROM configuration_changes h WHERE h.revision = n.revision AND h.id::text = n.revision_id))::boolean AS known
FROM nodes n
WHERE NOT n.signed_off AND n.reported_at > now() - make_interval(secs => @forgotten_seconds)
ORDER BY n.name;
