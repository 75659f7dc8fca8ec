-- Appending events to a stream.

CREATE TYPE daybook.append_result AS (
	first_version bigint,
	last_version bigint,
	first_id bigint,
	last_id bigint,
	duplicate boolean
);
COMMENT ON TYPE daybook.append_result IS
'where the events of a call stand; duplicate: they stood there before';

CREATE FUNCTION daybook.append(event_table regclass, stream_id text, events jsonb,
	expected_version bigint DEFAULT NULL) RETURNS daybook.append_result
AS 'MODULE_PATHNAME', 'daybook_append_events'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.append(regclass, text, jsonb, bigint) IS
'appends one event (an object) or several (an array of objects with keys type, data, metadata, event_id, schema_version, tags) to a stream; expected_version: NULL any, 0 the stream must not exist, n exactly n, -1 it must exist (else 40001)';

CREATE FUNCTION daybook.append(event_table regclass, stream_id text, type text, data jsonb,
	metadata jsonb DEFAULT NULL, expected_version bigint DEFAULT NULL) RETURNS daybook.append_result
AS 'MODULE_PATHNAME', 'daybook_append_event'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.append(regclass, text, text, jsonb, jsonb, bigint) IS
'appends one event to a stream; expected_version: NULL any, 0 the stream must not exist, n exactly n, -1 it must exist (else 40001)';
