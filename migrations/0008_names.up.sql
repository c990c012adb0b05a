-- Names are unique among a tenant's live objects (KMIP 1.4, 3.2).
SET lock_timeout = '5s';

CREATE TABLE object_names (
    tenant uuid NOT NULL,
    name   bytea NOT NULL CHECK (octet_length(name) = 32), -- SHA-256 of the Name Value: an index can't hold long ones
    object text NOT NULL,
    CONSTRAINT object_names_pkey PRIMARY KEY (tenant, name),
    FOREIGN KEY (tenant, object) REFERENCES objects ON DELETE CASCADE
);
CREATE INDEX object_names_object ON object_names (tenant, object);

-- Objects that are there hold their names, the one made first if several have the same.
-- 4325461 is the tag of Name Value; states from 5 on are destroyed ones.
ALTER TABLE objects NO FORCE ROW LEVEL SECURITY;
INSERT INTO object_names (tenant, name, object)
SELECT DISTINCT ON (1, 2) o.tenant, sha256(convert_to(field #>> '{value,text}', 'UTF8')), o.id
FROM objects o,
    jsonb_array_elements(CASE WHEN jsonb_typeof(o.object -> 'client_attributes') = 'array' THEN o.object -> 'client_attributes' ELSE '[]' END) attribute,
    jsonb_array_elements(CASE WHEN jsonb_typeof(attribute #> '{value,fields}') = 'array' THEN attribute #> '{value,fields}' ELSE '[]' END) field
WHERE o.phase = 'live' AND (o.object ->> 'state')::int < 5
    AND attribute ->> 'name' = 'Name' AND field ->> 'tag' = '4325461' AND field #>> '{value,text}' IS NOT NULL
ORDER BY 1, 2, o.place;
ALTER TABLE objects FORCE ROW LEVEL SECURITY;

ALTER TABLE object_names ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON object_names
    USING (tenant = nullif(current_setting('kmip.tenant', true), '')::uuid);

GRANT SELECT, INSERT, DELETE ON object_names TO kmip_node;
