-- name: WithholdObject :exec
INSERT INTO withheld_objects (tenant, id) VALUES (@tenant, @id) ON CONFLICT DO NOTHING;
