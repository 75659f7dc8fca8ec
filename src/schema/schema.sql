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
