-- Replay: one stream in order of version, all streams in order of the log.

CREATE FUNCTION daybook.replay(
	event_table regclass,
	stream_id text,
	from_version bigint DEFAULT 1,
	to_version bigint DEFAULT NULL,
	until timestamptz DEFAULT NULL,
	backwards boolean DEFAULT false)
RETURNS SETOF daybook.event
AS 'MODULE_PATHNAME', 'daybook_replay'
LANGUAGE C STABLE PARALLEL SAFE COST 100 ROWS 100;
COMMENT ON FUNCTION daybook.replay(regclass, text, bigint, bigint, timestamptz, boolean) IS
'the events of a stream in order of version';

CREATE FUNCTION daybook.recorded(event_table regclass, stream_id text) RETURNS SETOF daybook.event
AS 'MODULE_PATHNAME', 'daybook_recorded'
LANGUAGE C STABLE PARALLEL SAFE COST 100 ROWS 100;
COMMENT ON FUNCTION daybook.recorded(regclass, text) IS
'the events of a stream as they were recorded, without their upcasters';

CREATE FUNCTION daybook.stream_version(event_table regclass, stream_id text) RETURNS bigint
AS 'MODULE_PATHNAME', 'daybook_stream_version'
LANGUAGE C STABLE STRICT PARALLEL SAFE COST 100;
COMMENT ON FUNCTION daybook.stream_version(regclass, text) IS
'version of the last event of a stream, 0 when the stream does not exist';

CREATE TYPE daybook.log_event AS (
	position bigint,
	event_table regclass,
	id bigint,
	version bigint,
	recorded_at timestamptz,
	schema_version int,
	event_id uuid,
	recorded_by text,
	stream_id text,
	type text,
	data jsonb,
	metadata jsonb,
	tags text[]
);
COMMENT ON TYPE daybook.log_event IS 'an event and its place in the log: position, event_table, then the columns of daybook.event';

-- It reads any event table, whose upcasters may not be safe in parallel mode.
CREATE FUNCTION daybook.read_all(
	after bigint DEFAULT 0,
	max_events int DEFAULT 1000,
	event_tables regclass[] DEFAULT NULL,
	categories text[] DEFAULT NULL,
	types text[] DEFAULT NULL)
RETURNS SETOF daybook.log_event
AS 'MODULE_PATHNAME', 'daybook_read_all'
LANGUAGE C STABLE PARALLEL UNSAFE COST 1000 ROWS 1000;
COMMENT ON FUNCTION daybook.read_all(bigint, int, regclass[], text[], text[]) IS
'the events after a position in order of the log, as far as they pass the filters that are given';
