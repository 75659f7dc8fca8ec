-- Whose events upcasters run on: they run as the owner of the event table, who
-- may see more than those who call upcast() or read a view
SET client_min_messages = warning;
CREATE SCHEMA upr;
CREATE ROLE upr_alice;
CREATE ROLE upr_mallory;
CREATE ROLE upr_reader;
CREATE ROLE upr_analyst;
GRANT CREATE, USAGE ON SCHEMA upr TO upr_alice;
GRANT USAGE ON SCHEMA upr TO upr_mallory, upr_reader;
CREATE FUNCTION upr.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE detail text; result text;
BEGIN
	EXECUTE statement INTO result;
	RETURN result;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN SQLSTATE || ': ' || SQLERRM || coalesce(' / ' || nullif(detail, ''), '');
END $$;
SET ROLE upr_alice;
CREATE TABLE upr.secret (key text, value text);
INSERT INTO upr.secret VALUES ('1', 'one'), ('2', 'two');
CREATE FUNCTION upr.enrich(data jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT data || jsonb_build_object('value', (SELECT value FROM upr.secret WHERE key = data->>'key')) $$;
REVOKE EXECUTE ON FUNCTION upr.enrich(jsonb) FROM PUBLIC;
SELECT daybook.create_event_table('upr.orders');
SELECT daybook.create_upcaster('upr.orders', 'P', 1, 'upr.enrich(jsonb)');
CREATE TYPE upr.p AS (key text, value text);
SELECT daybook.register_event_type('upr.orders', 'P', 2, 'upr.p');
INSERT INTO upr.orders (stream_id, type, data, metadata, tags) VALUES ('a', 'P', '{"key": "1"}', '{"by": "x"}', '{t}'), ('b', 'Q', '{}', NULL, NULL);
INSERT INTO upr.orders (stream_id, type, schema_version, data) VALUES ('a', 'P', 2, '{"key": "3", "value": "three"}');
INSERT INTO upr.orders (stream_id, type, data) SELECT 'long', 'P', jsonb_build_object('key', string_agg(md5(i::text), '')) FROM generate_series(1, 500) i;
SELECT daybook.create_event_view('upr.orders', 'P');
GRANT SELECT ON upr.orders TO upr_reader;
GRANT SELECT ON upr.orders_p TO upr_analyst;
CREATE VIEW upr.report AS SELECT value, count(*) FROM upr.orders_p GROUP BY 1;
GRANT SELECT ON upr.report TO upr_analyst;
RESET ROLE;
\set made_up 'ROW(1, 1, now(), 1, NULL, NULL, ''x'', ''P'', ''{"key": "2"}'', NULL, NULL)::daybook.event'

-- nobody without a right to the table sees what upcasters say
SET ROLE upr_mallory;
SELECT upr.try($$SELECT daybook.upcast('upr.orders', $$ || :'made_up' || $$)$$);
SELECT upr.try($$SELECT daybook.payload_as('upr.orders', $$ || :'made_up' || $$, 'P')$$);
SELECT upr.try($$SELECT daybook.upcast('upr.orders', ROW(1, 1, now(), 1, NULL, NULL, 'x', 'Q', '{}', NULL, NULL)::daybook.event)$$);
RESET ROLE;

-- who may read the table may try
SET ROLE upr_reader;
SELECT (daybook.upcast('upr.orders', :made_up)).data;
SELECT daybook.payload_as('upr.orders', :made_up, 'P');
SELECT (daybook.upcast('upr.orders', o)).data FROM upr.orders o WHERE version = 1 AND stream_id <> 'long' ORDER BY id;
RESET ROLE;

-- who may read a view sees what it shows, through other views, too, and can feed it nothing
SET ROLE upr_analyst;
SELECT stream_id, version, left(key, 10) AS key, value FROM upr.orders_p ORDER BY id;
SELECT * FROM upr.report ORDER BY 1;
SELECT upr.try($$SELECT daybook.upcast('upr.orders', $$ || :'made_up' || $$)$$);
SELECT upr.try($$SELECT daybook.payload_as('upr.orders', $$ || :'made_up' || $$, 'P')$$);
SELECT upr.try($$SELECT daybook.payload_as('upr.orders', ROW(NULL, 1, now(), 1, NULL, NULL, 'x', 'P', '{"key": "2"}', NULL, NULL)::daybook.event, 'P')$$);
RESET ROLE;
-- whatever column it is in which an event differs
CREATE TABLE upr.stored AS SELECT o AS event FROM upr.orders o WHERE type = 'P' AND version = 1 AND stream_id = 'a';
GRANT SELECT ON upr.stored TO upr_analyst;
SET ROLE upr_analyst;
SELECT daybook.payload_as('upr.orders', event, 'P') FROM upr.stored;
SELECT c, upr.try(format($$SELECT daybook.payload_as('upr.orders', jsonb_populate_record(event, '{"%s": %s}'), 'P') FROM upr.stored$$, c, n))
FROM (VALUES ('id', '999'), ('version', '2'), ('recorded_at', '"2020-01-01"'), ('event_id', '"00000000-0000-0000-0000-000000000001"'), ('recorded_by', '"x"'),
	('stream_id', '"b"'), ('data', '{"key": "2"}'), ('metadata', 'null'), ('tags', '["u"]')) v(c, n);
RESET ROLE;

-- rights are looked at again when the role changes, or its rights do
CREATE FUNCTION upr.value_of(e daybook.event) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN daybook.payload_as('upr.orders', e, 'P')->>'value'; END $$;
BEGIN;
SELECT upr.value_of(:made_up);
SET LOCAL ROLE upr_mallory;
SELECT upr.value_of(:made_up);
ROLLBACK;
SET ROLE upr_reader;
BEGIN;
SELECT upr.value_of(:made_up);
RESET ROLE;
REVOKE SELECT ON upr.orders FROM upr_reader;
SET ROLE upr_reader;
SELECT upr.value_of(:made_up);
ROLLBACK;
RESET ROLE;

-- what an owner has lost the right to is a mismatch of that type, and nobody else's trouble
CREATE SCHEMA upr_lib;
GRANT USAGE ON SCHEMA upr_lib TO upr_alice;
CREATE FUNCTION upr_lib.same(jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT $1';
SET ROLE upr_alice;
SELECT daybook.create_upcaster('upr.orders', 'Q', 1, 'upr_lib.same(jsonb)');
RESET ROLE;
REVOKE USAGE ON SCHEMA upr_lib FROM upr_alice;
SELECT type, path, mismatch FROM daybook.schema_status WHERE event_table = 'upr.orders'::regclass ORDER BY 1, schema_version;
SELECT * FROM daybook.upcast_path('upr.orders', 'Q', 1);
GRANT USAGE ON SCHEMA upr_lib TO upr_alice;
REVOKE EXECUTE ON FUNCTION upr_lib.same(jsonb) FROM PUBLIC;
SELECT * FROM daybook.upcast_path('upr.orders', 'Q', 1);
GRANT EXECUTE ON FUNCTION upr_lib.same(jsonb) TO upr_alice;
SELECT * FROM daybook.upcast_path('upr.orders', 'Q', 1);
DROP SCHEMA upr_lib CASCADE;
SELECT * FROM daybook.upcast_path('upr.orders', 'Q', 1);

-- who reads several event tables has each one's upcasters run as the owner of theirs
GRANT CREATE ON SCHEMA upr TO upr_mallory;
SET ROLE upr_alice;
SELECT daybook.create_event_table('upr.one');
CREATE FUNCTION upr.as_alice(jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN jsonb_build_object('as', current_user); END $$;
SELECT daybook.create_upcaster('upr.one', 'T', 1, 'upr.as_alice(jsonb)');
SET ROLE upr_mallory;
SELECT daybook.create_event_table('upr.two');
CREATE FUNCTION upr.as_mallory(jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN jsonb_build_object('as', current_user); END $$;
SELECT daybook.create_upcaster('upr.two', 'T', 1, 'upr.as_mallory(jsonb)');
RESET ROLE;
INSERT INTO upr.one (stream_id, type) VALUES ('s', 'T');
INSERT INTO upr.two (stream_id, type) VALUES ('s', 'T');
INSERT INTO upr.one (stream_id, type) VALUES ('s', 'T');
INSERT INTO upr.two (stream_id, type) VALUES ('s', 'T');
DO $$
BEGIN
	FOR i IN 1..3000 LOOP
		EXIT WHEN (SELECT count(*) = 4 FROM daybook.log WHERE event_table IN ('upr.one'::regclass, 'upr.two'::regclass));
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
SELECT event_table, version, data FROM daybook.read_all(max_events => 10, event_tables => '{upr.one,upr.two}');
SELECT current_user = session_user AS unchanged;
SELECT daybook.drop_event_table('upr.one', force => true), daybook.drop_event_table('upr.two', force => true);

DROP TABLE upr.stored;
DROP VIEW upr.report, upr.orders_p;
SELECT daybook.drop_event_table('upr.orders', force => true);
DROP SCHEMA upr CASCADE;
DROP ROLE upr_alice, upr_mallory, upr_reader, upr_analyst;
