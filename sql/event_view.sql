-- Event views: what they replace, what they show and to whom
SET client_min_messages = warning;
CREATE FUNCTION evv_try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE detail text; hint text; result text;
BEGIN
	EXECUTE statement INTO result;
	RETURN result;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN SQLSTATE || ': ' || SQLERRM || coalesce(' / ' || nullif(detail, ''), '') || coalesce(' / ' || nullif(hint, ''), '');
END $$;
SELECT daybook.create_event_table('evv');
CREATE TYPE evv_placed AS (n int);
SELECT daybook.register_event_type('evv', t, 1, 'evv_placed')
FROM unnest('{OrderPlaced,order-placed,Taken,Table}'::text[] || repeat('Long', 15) || (repeat('Long', 15) || 'er')) t;
INSERT INTO evv (stream_id, type, data) VALUES ('a', 'OrderPlaced', '{"n": 1}'), ('b', 'order-placed', '{"n": 2}');

-- two types whose views would have one name
SELECT daybook.create_event_view('evv', 'OrderPlaced');
SELECT evv_try($$SELECT daybook.create_event_view('evv', 'order-placed')$$);
SELECT n FROM evv_order_placed;
ALTER VIEW evv_order_placed RENAME TO evv_placed_orders;
SELECT daybook.create_event_view('evv', 'order-placed');
SELECT n FROM evv_order_placed;
SELECT n FROM evv_placed_orders;
-- names that are alike as far as names go
SELECT length(daybook.create_event_view('evv', repeat('Long', 15))::text);
SELECT evv_try($$SELECT daybook.create_event_view('evv', repeat('Long', 15) || 'er')$$);
-- a view and a table of the user's own
CREATE VIEW evv_taken AS SELECT id, stream_id, version, recorded_at, recorded_by, event_id, metadata, tags, 1 AS n FROM evv WHERE type = 'Taken';
CREATE TABLE evv_table (n int);
SELECT evv_try($$SELECT daybook.create_event_view('evv', 'Taken')$$);
SELECT evv_try($$SELECT daybook.create_event_view('evv', 'Table')$$);
SELECT count(*) FROM evv_taken;

-- called again, also after the comment, the table's name and the options have changed
COMMENT ON VIEW evv_order_placed IS 'ours';
SELECT daybook.create_event_view('evv', 'order-placed');
SELECT obj_description('evv_order_placed'::regclass), reloptions FROM pg_class WHERE oid = 'evv_order_placed'::regclass;
ALTER VIEW evv_order_placed SET (security_barrier = false, security_invoker = true);
SELECT daybook.create_event_view('evv', 'order-placed');
SELECT reloptions FROM pg_class WHERE oid = 'evv_order_placed'::regclass;
-- with a field more, and with others
CREATE TYPE evv_placed_2 AS (n int, m int);
SELECT daybook.register_event_type('evv', 'order-placed', 2, 'evv_placed_2');
SELECT daybook.create_event_view('evv', 'order-placed');
INSERT INTO evv (stream_id, type, schema_version, data) VALUES ('b', 'order-placed', 2, '{"n": 3, "m": 4}');
SELECT n, m FROM evv_order_placed;
CREATE TYPE evv_placed_3 AS (m text, n int);
SELECT daybook.register_event_type('evv', 'order-placed', 3, 'evv_placed_3');
SELECT evv_try($$SELECT daybook.create_event_view('evv', 'order-placed')$$);
DROP VIEW evv_order_placed;
SELECT daybook.create_event_view('evv', 'order-placed');
SELECT m, n FROM evv_order_placed ORDER BY n;

-- fields with the names of columns, and of what those would be called
CREATE TYPE evv_oddity AS (id int, data_id int, data_data_id int, tags text);
SELECT daybook.register_event_type('evv', 'Odd', 1, 'evv_oddity');
SELECT daybook.create_event_view('evv', 'Odd');
INSERT INTO evv (stream_id, type, data) VALUES ('odd', 'Odd', '{"id": 1, "data_id": 2, "data_data_id": 3, "tags": "t"}');
SELECT stream_id, data_data_data_id, data_id, data_data_id, data_tags FROM evv_odd;

-- upcasters of events that can never be of the type are not run
CREATE FUNCTION evv_fail(data jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not for this type'; END $$;
CREATE FUNCTION evv_same(data jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT data $$;
SELECT daybook.create_upcaster('evv', 'Other', 1, 'evv_fail(jsonb)', 'Other');
SELECT daybook.create_upcaster('evv', 'Strange', 1, 'evv_same(jsonb)', 'Odd');
INSERT INTO evv (stream_id, type, data) VALUES ('other', 'Other', '{"id": 5}'), ('strange', 'Strange', '{"id": 6}');
SELECT stream_id, data_data_data_id FROM evv_odd ORDER BY id;

-- who may read the view sees nothing of other types
CREATE ROLE evv_analyst;
GRANT SELECT ON evv_odd TO evv_analyst;
CREATE FUNCTION evv_leak(stream_id text, metadata jsonb) RETURNS boolean COST 0.0001 LANGUAGE plpgsql AS $$
BEGIN
	RAISE WARNING 'seen: %', stream_id;
	RETURN true;
END $$;
SET ROLE evv_analyst;
SELECT stream_id FROM evv_odd WHERE evv_leak(stream_id, metadata);
RESET ROLE;
-- while conditions that give nothing away go to the index
CREATE FUNCTION evv_index_conditions(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
		IF line ~ 'Index Cond' THEN RETURN NEXT trim(line); END IF;
	END LOOP;
END $$;
SET enable_seqscan = off;
SELECT evv_index_conditions($$SELECT * FROM evv_odd WHERE stream_id = 'odd'$$);
SELECT evv_index_conditions($$SELECT * FROM evv_odd WHERE stream_id = 'odd' AND version > 1$$);
SELECT evv_index_conditions($$SELECT * FROM evv_odd WHERE id BETWEEN 5 AND 7$$);
RESET enable_seqscan;

-- a payload type that refuses null
CREATE TYPE evv_measure AS (value numeric, unit text);
CREATE DOMAIN evv_full_measure AS evv_measure NOT NULL CHECK ((VALUE).value IS NOT NULL);
SELECT daybook.register_event_type('evv', 'Measured', 1, 'evv_full_measure', mode => 'warn');
INSERT INTO evv (stream_id, type, data) VALUES ('m', 'Measured', '{"value": 1.5, "unit": "kg"}');
SELECT daybook.create_event_view('evv', 'Measured');
SELECT stream_id, version, value, unit FROM evv_measured;
INSERT INTO evv (stream_id, type, data) VALUES ('m', 'Measured', '{"unit": "kg"}');
SELECT stream_id, version, value, unit FROM evv_measured WHERE version = 1;
SELECT stream_id, version, value, unit FROM evv_measured;
DROP VIEW evv_measured;

DROP VIEW evv_odd, evv_order_placed, evv_placed_orders, evv_taken;
SELECT format('DROP VIEW %s', oid::regclass) FROM pg_class WHERE relname LIKE 'evv_long%' \gexec
SELECT daybook.drop_event_table('evv', force => true);
DROP TABLE evv_table;
DROP DOMAIN evv_full_measure;
DROP TYPE evv_measure, evv_placed, evv_placed_2, evv_placed_3, evv_oddity;
DROP FUNCTION evv_try(text), evv_leak(text, jsonb), evv_fail(jsonb), evv_same(jsonb), evv_index_conditions(text);
DROP ROLE evv_analyst;
