-- daybook.append_if() and read_matching(): consistency across streams, by tags
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS daybook;
SELECT daybook.create_event_table('dcb');
CREATE FUNCTION dcb_append(events jsonb, query jsonb, after bigint DEFAULT NULL) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	r daybook.append_result;
BEGIN
	r := daybook.append_if('dcb', events, query, after);
	RETURN format('versions %s-%s, ids %s, duplicate %s', r.first_version, r.last_version,
		r.last_id - r.first_id + 1, r.duplicate);
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN SQLSTATE || ': ' || SQLERRM || COALESCE(' / ' || NULLIF(detail, ''), '');
END $$;

-- a username is taken once
SELECT dcb_append('{"stream_id": "user-1", "type": "Registered", "tags": ["name:ann"]}', '{"tags": ["name:ann"]}');
SELECT dcb_append('{"stream_id": "user-2", "type": "Registered", "tags": ["name:ann"]}', '{"tags": ["name:ann"]}');
SELECT dcb_append('{"stream_id": "user-2", "type": "Registered", "tags": ["name:bob"]}', '{"tags": ["name:bob"]}', 0);

-- a course is not overbooked: read, decide, append with the marker
SELECT dcb_append('[{"stream_id": "course-1", "type": "Opened", "data": {"seats": 2}, "tags": ["course:1"]},
	{"stream_id": "student-1", "type": "Greeted"}]', '{"types": ["Opened"], "tags": ["course:1"]}');
SELECT cardinality(events), marker > 0 AS has_marker, (events[1]).type, marker
FROM daybook.read_matching('dcb', '{"tags": ["course:1"]}') \gset first_
SELECT dcb_append('{"stream_id": "student-1", "type": "Enrolled", "tags": ["course:1", "student:1"]}',
	'{"tags": ["course:1"]}', :first_marker);
SELECT dcb_append('{"stream_id": "student-2", "type": "Enrolled", "tags": ["course:1", "student:2"]}',
	'{"tags": ["course:1"]}', :first_marker) AS too_late;
SELECT dcb_append('{"stream_id": "student-2", "type": "Enrolled", "tags": ["course:2", "student:2"]}',
	'{"tags": ["course:2"]}') AS other_course;
SELECT marker, (SELECT array_agg(e.type ORDER BY e.id) FROM unnest(events) e) AS types
FROM daybook.read_matching('dcb', '{"tags": ["course:1"]}') \gset second_
SELECT :'second_types' AS types;
SELECT dcb_append('{"stream_id": "student-2", "type": "Enrolled", "tags": ["course:1", "student:2"]}',
	'{"tags": ["course:1"]}', :second_marker);

-- a marker belongs to its query
SELECT dcb_append('{"stream_id": "student-3", "type": "Enrolled", "tags": ["course:1"]}',
	'{"tags": ["course:2"]}', :second_marker) ~ '^22023: marker [0-9]+ is not one of this query$' AS refused;

-- objects of a query are alternatives, tags of an object go together
SELECT (SELECT array_agg(e.stream_id || ' ' || e.type ORDER BY e.id) FROM unnest(events) e) AS matching
FROM (VALUES ('{"tags": ["course:1", "student:1"]}'), ('{"types": ["Enrolled"], "tags": ["course:1"]}'),
	('[{"tags": ["student:2"]}, {"types": ["Registered"]}]'), ('{"types": ["Enrolled", "Opened"]}'),
	('{"tags": ["course:9"]}'), ('{"types": [], "tags": ["name:ann"]}')) AS q (query),
	LATERAL daybook.read_matching('dcb', query::jsonb);
SELECT dcb_append('{"stream_id": "x-1", "type": "Enrolled"}', '{"types": ["Registered"]}');
SELECT dcb_append('{"stream_id": "x-1", "type": "Noted"}', '{"types": ["Never"]}');

-- nothing changes with the index, which finds the same
SELECT daybook.create_tag_index('dcb');
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT * FROM dcb WHERE tags @> ARRAY['course:1'];
SELECT marker = :second_marker + 1 AS one_more FROM daybook.read_matching('dcb', '{"tags": ["course:1"]}');
RESET enable_seqscan;

-- idempotency comes before the condition
SELECT dcb_append('{"stream_id": "i-1", "type": "T", "tags": ["i"], "event_id": "5d9c3f0a-7b9e-4b53-9d3c-5a7b4ad40001"}', '{"tags": ["i"]}');
SELECT dcb_append('{"stream_id": "i-1", "type": "T", "tags": ["i"], "event_id": "5d9c3f0a-7b9e-4b53-9d3c-5a7b4ad40001"}', '{"tags": ["i"]}');
-- an event_id counts within its stream, so one call may give it to events of two
SELECT dcb_append('[{"stream_id": "i-2", "type": "T", "event_id": "5d9c3f0a-7b9e-4b53-9d3c-5a7b4ad40002"}, {"stream_id": "i-3", "type": "T", "event_id": "5d9c3f0a-7b9e-4b53-9d3c-5a7b4ad40002"}]', '{"tags": ["i2"]}')
FROM generate_series(1, 2);
SELECT dcb_append('[{"stream_id": "i-4", "type": "T", "event_id": "5d9c3f0a-7b9e-4b53-9d3c-5a7b4ad40002"}, {"stream_id": "i-5", "type": "T"}, {"stream_id": "i-4", "type": "T", "event_id": "5d9c3f0a-7b9e-4b53-9d3c-5a7b4ad40002"}]', '{"tags": ["i2"]}');

-- what this transaction has appended counts
BEGIN;
SELECT daybook.append('dcb', 'own-1', '{"type": "T", "tags": ["own"]}'::jsonb) IS NOT NULL AS appended;
SELECT dcb_append('{"stream_id": "own-2", "type": "T", "tags": ["own"]}', '{"tags": ["own"]}');
ROLLBACK;
SELECT dcb_append('{"stream_id": "own-2", "type": "T", "tags": ["own"]}', '{"tags": ["own"]}');

-- several streams in one call, versions of each in order
SELECT dcb_append('[{"stream_id": "s-2", "type": "A"}, {"stream_id": "s-1", "type": "B"}, {"stream_id": "s-2", "type": "C"}, {"stream_id": "s-1", "type": "D"}]',
	'{"tags": ["none"]}');
SELECT stream_id, version, type FROM dcb WHERE stream_id IN ('s-1', 's-2') ORDER BY id;
SELECT dcb_append((SELECT jsonb_agg(jsonb_build_object('stream_id', 'many-' || i, 'type', 'T')) FROM generate_series(1, 33) i),
	'{"tags": ["none"]}');

-- what is not a query, or not an event
SELECT dcb_append('{"stream_id": "e-1", "type": "T"}', '{}');
SELECT dcb_append('{"stream_id": "e-1", "type": "T"}', '[]');
SELECT dcb_append('{"stream_id": "e-1", "type": "T"}', '7');
SELECT dcb_append('{"stream_id": "e-1", "type": "T"}', '["t"]');
SELECT dcb_append('{"stream_id": "e-1", "type": "T"}', '{"tag": ["t"]}');
SELECT dcb_append('{"stream_id": "e-1", "type": "T"}', '{"tags": "t"}');
SELECT dcb_append('{"stream_id": "e-1", "type": "T"}', '{"tags": ["t", 1]}');
SELECT dcb_append('{"stream_id": "e-1", "type": "T"}', '{"tags": []}');
SELECT dcb_append('{"type": "T"}', '{"tags": ["t"]}');
SELECT dcb_append('{"stream_id": "e-1", "type": "T"}', NULL);
SELECT dcb_append('{"stream_id": "e-1", "type": "T", "tags": ["it''s"]}', '{"tags": ["it''s"], "types": ["a\\b"]}');
SELECT dcb_append('{"stream_id": "e-1", "type": "a\\b", "tags": ["it''s"]}', '{"tags": ["it''s"], "types": ["a\\b"]}');
SELECT dcb_append('{"stream_id": "e-1", "type": "a\\b", "tags": ["it''s"]}', '{"tags": ["it''s"], "types": ["a\\b"]}');
INSERT INTO dcb (stream_id, type, tags) VALUES ('e-2', 'T', ARRAY['a', NULL]);

-- many tags in one transaction do not fill the lock table
BEGIN;
INSERT INTO dcb (stream_id, type, tags)
SELECT 'bulk-' || i % 10, 'T', ARRAY['bulk:' || i] FROM generate_series(1, 20000) i;
SELECT count(*) < 1000 AS few_locks FROM pg_locks WHERE pid = pg_backend_pid();
COMMIT;

-- all matching events count, whatever a session wants of its searches for words
INSERT INTO dcb (stream_id, type, tags) SELECT 'many-' || i, 'Many', ARRAY['many'] FROM generate_series(1, 3000) i;
SELECT daybook.create_tag_index('dcb');
SET gin_fuzzy_search_limit = 5;
SET enable_seqscan = off;
SET enable_indexscan = off;
SELECT marker AS many, cardinality(events) FROM daybook.read_matching('dcb', '{"tags": ["many"]}') \gset
SELECT :cardinality AS matching;
SELECT (daybook.append_if('dcb', '{"stream_id": "many-1", "type": "Many"}', '{"tags": ["many"]}', :many)).last_version;
RESET enable_indexscan;
RESET enable_seqscan;
RESET gin_fuzzy_search_limit;

-- whoever asks whether there are such events must be allowed to read them
CREATE ROLE regress_daybook_dcb;
GRANT INSERT ON dcb TO regress_daybook_dcb;
SET ROLE regress_daybook_dcb;
SELECT daybook.append('dcb', 'r-1', '{"type": "T"}'::jsonb) IS NOT NULL AS appended;
SELECT dcb_append('{"stream_id": "r-1", "type": "T", "tags": ["r"]}', '{"tags": ["r"]}');
RESET ROLE;
GRANT SELECT ON dcb TO regress_daybook_dcb;
SET ROLE regress_daybook_dcb;
SELECT dcb_append('{"stream_id": "r-1", "type": "T", "tags": ["r"]}', '{"tags": ["r"]}');
RESET ROLE;

-- and what is no event table is none
CREATE VIEW dcb_view AS SELECT * FROM dcb;
CREATE TABLE dcb_plain (id bigint, type text, tags text[]);
SELECT daybook.read_matching('dcb_view', '{"tags": ["r"]}');
SELECT daybook.read_matching('dcb_plain', '{"tags": ["r"]}');
SELECT daybook.create_tag_index('dcb_plain');
SELECT daybook.create_tag_index(0);
DROP VIEW dcb_view;
DROP TABLE dcb_plain;

SELECT daybook.drop_event_table('dcb', force => true);
DROP OWNED BY regress_daybook_dcb;
DROP ROLE regress_daybook_dcb;
DROP FUNCTION dcb_append;
