-- name: ForgetIdempotencyKeys :exec
SELECT forget_idempotency_keys();

-- name: ClaimIdempotencyKey :execrows
-- Waits for another transaction that has claimed the same key.
INSERT INTO idempotency_keys (account, key, request) VALUES (@account, @key, @request) ON CONFLICT DO NOTHING;

-- name: GetIdempotencyKey :one
SELECT request, coalesce(answer, 'null')::jsonb AS answer FROM idempotency_keys WHERE account = @account AND key = @key;

-- name: KeepAnswer :exec
UPDATE idempotency_keys SET answer = @answer WHERE account = @account AND key = @key;
