-- name: Listen :exec
LISTEN kmip_configuration;

-- name: NewestRevision :one
SELECT revision, coalesce(revision_id::text, '')::text AS id FROM cell;

-- name: RevisionHappened :one
SELECT EXISTS (SELECT FROM configuration_changes WHERE revision = @revision AND id = @id);

-- name: ConfigurationSince :many
SELECT instance_id::text AS instance_id, deleted::boolean AS deleted, document::jsonb AS document
FROM configuration_since(@after);
