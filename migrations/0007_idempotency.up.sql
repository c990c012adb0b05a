-- Creations that a caller has named, so that repeating one is harmless.
SET lock_timeout = '5s';

CREATE TABLE idempotency_keys (
    account    text NOT NULL,
    key        text NOT NULL CHECK (key <> ''),
    request    bytea NOT NULL, -- digest of what was asked
    answer     jsonb, -- as it was given; null only while the creation's transaction runs
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

-- forget_idempotency_keys removes those older than a day, of every account. It waits for nobody.
CREATE FUNCTION forget_idempotency_keys() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    DELETE FROM idempotency_keys WHERE (account, key) IN (
        SELECT account, key FROM idempotency_keys WHERE created_at < now() - interval '24 hours' LIMIT 1000 FOR UPDATE SKIP LOCKED)
$$;

ALTER TABLE idempotency_keys ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON idempotency_keys TO CURRENT_USER USING (true);
CREATE POLICY account ON idempotency_keys TO kmip_control
    USING (account = current_setting('kmip.account', true));

-- For the pages of an account's list.
CREATE INDEX instances_page ON instances (account, created_at, id);

REVOKE EXECUTE ON FUNCTION forget_idempotency_keys FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE ON idempotency_keys TO kmip_control;
GRANT EXECUTE ON FUNCTION forget_idempotency_keys TO kmip_control;
