-- The ledger: metadata of managed objects. No key material, wrapped or not.
SET lock_timeout = '5s';

CREATE TABLE objects (
    tenant        uuid NOT NULL, -- no reference: rows come back from the key manager after a restore
    id            text NOT NULL CHECK (octet_length(id) BETWEEN 1 AND 78),
    phase         text NOT NULL CHECK (phase IN ('pending', 'live', 'destroying', 'destroyed')),
    object        jsonb NOT NULL,
    location      jsonb NOT NULL,
    key_ref       text NOT NULL,
    version       bigint NOT NULL,
    place         bigint NOT NULL GENERATED ALWAYS AS IDENTITY, -- the order in which rows were made
    pending_until timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, id),
    CONSTRAINT objects_deadline CHECK (phase <> 'pending' OR pending_until IS NOT NULL)
);
CREATE INDEX objects_place ON objects (tenant, place);
CREATE INDEX objects_pending ON objects (pending_until) WHERE phase = 'pending';
CREATE INDEX objects_destroying ON objects (updated_at) WHERE phase = 'destroying';

-- A node sees one tenant at a time, named by a setting of its transaction. Unset matches nothing.
ALTER TABLE objects ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON objects
    USING (tenant = nullif(current_setting('kmip.tenant', true), '')::uuid);

GRANT SELECT, INSERT, UPDATE ON objects TO kmip_node;
