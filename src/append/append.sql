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

-- The call with four bare literals, as from psql or from a driver that leaves
-- types to the server, would fit both functions above: without this one it is
-- refused as ambiguous.
CREATE FUNCTION daybook.append(event_table regclass, stream_id text, type_or_events text,
	data_or_version text) RETURNS daybook.append_result
AS 'MODULE_PATHNAME', 'daybook_append_literals'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.append(regclass, text, text, text) IS
'takes four untyped literals: events and an expected version if the third begins with { or [, else a type and its data';
