-- Event types, and upcasters from their old versions to the newest.

-- Payload types and functions are kept in a form that outlives a dump and
-- restore, and pg_upgrade.
CREATE TABLE daybook.event_type (
	event_table regclass NOT NULL,
	type text COLLATE "C" NOT NULL,
	schema_version int NOT NULL CHECK (schema_version > 0),
	payload_type regtype,
	check_function text,
	mode text NOT NULL CHECK (mode IN ('reject', 'warn', 'off')),
	registered_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	PRIMARY KEY (event_table, type, schema_version)
);
COMMENT ON TABLE daybook.event_type IS 'registered event types: what the payload of an event must look like';
COMMENT ON COLUMN daybook.event_type.payload_type IS 'composite type or domain that the payload must fit';
COMMENT ON COLUMN daybook.event_type.check_function IS 'function that says whether a payload is right';
COMMENT ON COLUMN daybook.event_type.mode IS 'what is done with an event that does not fit: reject, warn or off';
SELECT pg_catalog.pg_extension_config_dump('daybook.event_type', '');
GRANT SELECT ON daybook.event_type TO PUBLIC;

CREATE TABLE daybook.upcaster (
	event_table regclass NOT NULL,
	type text COLLATE "C" NOT NULL,
	from_version int NOT NULL CHECK (from_version > 0),
	to_type text COLLATE "C" NOT NULL,
	function text NOT NULL,
	place int NOT NULL,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	PRIMARY KEY (event_table, type, from_version, to_type)
);
COMMENT ON TABLE daybook.upcaster IS 'upcasters: functions that bring payloads of version n to version n + 1';
COMMENT ON COLUMN daybook.upcaster.to_type IS 'the event''s type afterwards';
COMMENT ON COLUMN daybook.upcaster.place IS 'order in which upcasters of the same type and version are tried';
SELECT pg_catalog.pg_extension_config_dump('daybook.upcaster', '');
GRANT SELECT ON daybook.upcaster TO PUBLIC;

-- Sessions keep what is registered for an event table until they are told.
CREATE FUNCTION daybook.event_schema_changed() RETURNS trigger
AS 'MODULE_PATHNAME', 'daybook_event_schema_changed'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.event_schema_changed() IS
'trigger function: makes all sessions look again at what is registered for an event table';
CREATE TRIGGER event_schema_changed AFTER INSERT OR UPDATE OR DELETE ON daybook.event_type
FOR EACH ROW EXECUTE FUNCTION daybook.event_schema_changed();
ALTER TABLE daybook.event_type ENABLE ALWAYS TRIGGER event_schema_changed;
CREATE TRIGGER event_schema_changed AFTER INSERT OR UPDATE OR DELETE ON daybook.upcaster
FOR EACH ROW EXECUTE FUNCTION daybook.event_schema_changed();
ALTER TABLE daybook.upcaster ENABLE ALWAYS TRIGGER event_schema_changed;

-- What belongs to an event table goes with it.
CREATE FUNCTION daybook.forget_event_table() RETURNS trigger
AS 'MODULE_PATHNAME', 'daybook_forget_event_table'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.forget_event_table() IS
'trigger function: deletes the rows of a dropped event table from the tables that are its arguments';
CREATE TRIGGER forget_schema AFTER UPDATE OF relation ON daybook.event_table
FOR EACH ROW WHEN (NEW.relation IS NULL)
EXECUTE FUNCTION daybook.forget_event_table('event_type', 'upcaster');

CREATE FUNCTION daybook.register_event_type(
	event_table regclass,
	type text,
	schema_version int,
	payload_type regtype DEFAULT NULL,
	"check" regprocedure DEFAULT NULL,
	mode text DEFAULT 'reject')
RETURNS bigint
AS 'MODULE_PATHNAME', 'daybook_register_event_type'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.register_event_type(regclass, text, int, regtype, regprocedure, text) IS
'says what the payload of an event type must look like; returns how many stored events do not fit';

CREATE FUNCTION daybook.drop_event_type(event_table regclass, type text, schema_version int) RETURNS void
AS 'MODULE_PATHNAME', 'daybook_drop_event_type'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.drop_event_type(regclass, text, int) IS
'forgets what the payload of an event type must look like';

CREATE FUNCTION daybook.create_upcaster(
	event_table regclass,
	type text,
	from_version int,
	function regprocedure,
	to_type text DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'daybook_create_upcaster'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.create_upcaster(regclass, text, int, regprocedure, text) IS
'brings payloads of a version to the next one whenever events are read; to_type renames the event; a null result leaves it to the next upcaster of the same version, or drops it';

CREATE FUNCTION daybook.drop_upcaster(
	event_table regclass,
	type text,
	from_version int,
	to_type text DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'daybook_drop_upcaster'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.drop_upcaster(regclass, text, int, text) IS
'forgets an upcaster';

CREATE FUNCTION daybook.upcast(event_table regclass, event daybook.event) RETURNS daybook.event
AS 'MODULE_PATHNAME', 'daybook_upcast'
LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION daybook.upcast(regclass, daybook.event) IS
'an event of an event table, brought up to the newest version of its type; null if its upcasters drop it';

CREATE FUNCTION daybook.payload_as(event_table regclass, event daybook.event, type text) RETURNS jsonb
AS 'MODULE_PATHNAME', 'daybook_payload_as'
LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION daybook.payload_as(regclass, daybook.event, text) IS
'payload of an event brought up to its newest version; null if it is not of the type then';

-- As jsonb_populate_record(), which would not say where it fails.
CREATE FUNCTION daybook.payload_record(base anyelement, payload jsonb, stream_id text, version bigint) RETURNS anyelement
AS 'MODULE_PATHNAME', 'daybook_payload_record'
LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION daybook.payload_record(anyelement, jsonb, text, bigint) IS
'payload of an event as a row; an error names the stream and the version';

CREATE FUNCTION daybook.create_event_view(event_table regclass, type text) RETURNS regclass
AS 'MODULE_PATHNAME', 'daybook_create_event_view'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.create_event_view(regclass, text) IS
'creates a view of all events of a type, with the fields of its newest registered version as columns';

CREATE FUNCTION daybook.check_upcasters(
	event_table regclass,
	all_events boolean DEFAULT false,
	OUT type text,
	OUT schema_version int,
	OUT becomes text,
	OUT checked bigint,
	OUT dropped bigint,
	OUT failed bigint,
	OUT first_failure text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'daybook_check_upcasters'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 20;
COMMENT ON FUNCTION daybook.check_upcasters(regclass, boolean) IS
'upcasts one stored event of each type and version, or all, and checks what comes out';

CREATE FUNCTION daybook.stored_types(
	event_table regclass,
	OUT type text,
	OUT schema_version int,
	OUT events bigint,
	OUT first_recorded_at timestamptz,
	OUT last_recorded_at timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'daybook_stored_types'
LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 100000 ROWS 20;
COMMENT ON FUNCTION daybook.stored_types(regclass) IS
'types and versions of the events in an event table, which it reads all';

CREATE FUNCTION daybook.upcast_path(
	event_table regclass,
	type text,
	schema_version int,
	OUT path text,
	OUT mismatch text)
AS 'MODULE_PATHNAME', 'daybook_upcast_path'
LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION daybook.upcast_path(regclass, text, int) IS
'the versions that events of a type and version go through when they are read, and what is wrong with them';

CREATE VIEW daybook.schema_status AS
SELECT
	t.relation AS event_table,
	s.type,
	s.schema_version,
	s.events,
	s.first_recorded_at,
	s.last_recorded_at,
	r.payload_type,
	r.mode,
	p.path,
	p.mismatch
FROM daybook.event_table t
CROSS JOIN LATERAL daybook.stored_types(t.relation) s
CROSS JOIN LATERAL daybook.upcast_path(t.relation, s.type, s.schema_version) p
LEFT JOIN daybook.event_type r
	ON r.event_table = t.relation AND r.type = s.type COLLATE "C" AND r.schema_version = s.schema_version
WHERE t.relation IS NOT NULL AND pg_catalog.has_table_privilege(t.relation, 'SELECT')
	AND pg_catalog.has_schema_privilege((SELECT c.relnamespace FROM pg_catalog.pg_class c WHERE c.oid = t.relation), 'USAGE');
COMMENT ON VIEW daybook.schema_status IS 'stored types and versions of events, and how they get to the newest version; reads all events';
GRANT SELECT ON daybook.schema_status TO PUBLIC;
