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

-- Conditional appends: the consistency boundary is a query by type and tags.

CREATE FUNCTION daybook.append_if(event_table regclass, events jsonb, query jsonb,
	after bigint DEFAULT NULL) RETURNS daybook.append_result
AS 'MODULE_PATHNAME', 'daybook_append_if'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.append_if(regclass, jsonb, jsonb, bigint) IS
'appends events, each of which names its stream_id, unless an event that matches the query came after the marker of daybook.read_matching() (else 40001); after NULL or 0: unless any matches';

CREATE FUNCTION daybook.matching_condition(query jsonb) RETURNS text
AS 'MODULE_PATHNAME', 'daybook_matching_condition'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION daybook.matching_condition(jsonb) IS
'a query by type and tags as an SQL condition over the columns of an event table';

CREATE FUNCTION daybook.matching_marker(query jsonb, matching bigint) RETURNS bigint
AS 'MODULE_PATHNAME', 'daybook_matching_marker'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION daybook.matching_marker(jsonb, bigint) IS
'the marker of a query of which so many events match';

CREATE FUNCTION daybook.read_matching(event_table regclass, query jsonb,
	OUT marker bigint, OUT events daybook.event[]) RETURNS record
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
SET gin_fuzzy_search_limit = 0
AS $$
BEGIN
	EXECUTE pg_catalog.format(
		'SELECT daybook.matching_marker($1, pg_catalog.count(*)), '
		'COALESCE(pg_catalog.array_agg(ROW(e.*)::daybook.event ORDER BY e.id), ''{}'') '
		'FROM ONLY %s e WHERE %s', daybook.event_table_name(event_table), daybook.matching_condition(query))
	INTO marker, events USING query;
END $$;
COMMENT ON FUNCTION daybook.read_matching(regclass, jsonb) IS
'the events that match a query {"types": [...], "tags": [...]} (one of the types, all of the tags) or an array of such (any of them), in order of id, and the marker for daybook.append_if()';

CREATE FUNCTION daybook.create_tag_index(event_table regclass) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
AS $$
BEGIN
	EXECUTE pg_catalog.format('CREATE INDEX ON %s USING gin (tags) WHERE tags IS NOT NULL',
		daybook.event_table_name(event_table));
END $$;
COMMENT ON FUNCTION daybook.create_tag_index(regclass) IS
'makes the index by which conditional appends find events by tag; without it they read the whole event table';
