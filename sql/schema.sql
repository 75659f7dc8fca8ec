-- Event types, upcasters, and what is seen of stored versions
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS daybook;
CREATE FUNCTION sch_try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE detail text; hint text;
BEGIN
	EXECUTE statement;
	RETURN 'done';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN SQLSTATE || ': ' || SQLERRM || COALESCE(' / ' || NULLIF(detail, ''), '') || COALESCE(' / ' || NULLIF(hint, ''), '');
END $$;
SELECT daybook.create_event_table('sch_orders');

-- OrderPlaced had a total; then subtotal and tax; then also a currency
SELECT last_version FROM daybook.append('sch_orders', 'order-1', '[{"type": "OrderPlaced", "data": {"total": 119.00}}, {"type": "OrderPaid", "data": {"amount": 119}}]');
SELECT last_version FROM daybook.append('sch_orders', 'order-2', '[{"type": "OrderPlaced", "schema_version": 2, "data": {"subtotal": 200, "tax": 38}}]');
CREATE FUNCTION split_total(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
	SELECT data - 'total' || jsonb_build_object(
		'subtotal', round((data->>'total')::numeric / 1.19, 2),
		'tax', (data->>'total')::numeric - round((data->>'total')::numeric / 1.19, 2)) $$;
CREATE FUNCTION add_currency(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT data || '{"currency": "EUR"}' $$;
SELECT daybook.create_upcaster('sch_orders', 'OrderPlaced', 1, 'split_total(jsonb)');
SELECT daybook.create_upcaster('sch_orders', 'OrderPlaced', 2, 'add_currency(jsonb)');
CREATE TYPE order_placed AS (subtotal numeric(12, 2), tax numeric(12, 2), currency char(3));
SELECT daybook.register_event_type('sch_orders', 'OrderPlaced', 3, 'order_placed');
SELECT last_version FROM daybook.append('sch_orders', 'order-3', '[{"type": "OrderPlaced", "schema_version": 3, "data": {"subtotal": 10, "tax": 0.7, "currency": "USD"}}]');

-- all three are read in one shape, and stored as they were
SELECT r.stream_id, r.version, r.type, r.schema_version, r.data
FROM unnest('{order-1,order-2,order-3}'::text[]) s, daybook.replay('sch_orders', s) r ORDER BY 1, 2;
SELECT stream_id, version, schema_version, data FROM sch_orders ORDER BY id;
SELECT version, schema_version, data FROM daybook.recorded('sch_orders', 'order-1');
SELECT version, type FROM daybook.replay('sch_orders', 'order-1', backwards => true);
SELECT stream_id, (daybook.upcast('sch_orders', o)).data FROM sch_orders o WHERE type = 'OrderPlaced' ORDER BY id;
SELECT event_table, type, schema_version, events, payload_type, mode, path, mismatch FROM daybook.schema_status WHERE event_table = 'sch_orders'::regclass ORDER BY 2, 3;
SELECT type, schema_version, becomes, checked, dropped, failed, first_failure FROM daybook.check_upcasters('sch_orders') ORDER BY 1, 2;

-- the view of them all
SELECT daybook.create_event_view('sch_orders', 'OrderPlaced');
SELECT stream_id, version, subtotal, tax, currency FROM sch_orders_order_placed ORDER BY id;
SELECT sum(subtotal + tax) FROM sch_orders_order_placed WHERE currency = 'EUR';
SELECT daybook.create_event_view('sch_orders', 'OrderPlaced');
SELECT obj_description('sch_orders_order_placed'::regclass);
SELECT sch_try($$SELECT daybook.create_event_view('sch_orders', 'OrderPaid')$$);
SELECT sch_try($$SELECT daybook.create_event_view('sch_orders', NULL)$$);
-- a field that has the name of a column, and a name that is no name
CREATE TYPE sch_odd AS (version int, "Strange Field" text);
SELECT daybook.register_event_type('sch_orders', 'Stock-counted 2x', 1, 'sch_odd');
INSERT INTO sch_orders (stream_id, type, data) VALUES ('stock', 'Stock-counted 2x', '{"version": 7, "Strange Field": "x"}');
SELECT daybook.create_event_view('sch_orders', 'Stock-counted 2x');
SELECT stream_id, version, data_version, "Strange Field" FROM sch_orders_stock_counted_2x;

-- a new type that is split from an old one, events that are dropped, and a new name
CREATE FUNCTION as_shipped(data jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN RETURN CASE WHEN data->>'to' = 'customer' THEN data - 'to' END; END $$;
CREATE FUNCTION as_returned(data jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN RETURN CASE WHEN data->>'to' = 'store' THEN data - 'to' END; END $$;
CREATE FUNCTION same(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT data $$;
SELECT daybook.create_upcaster('sch_orders', 'Moved', 1, 'as_shipped(jsonb)', 'Shipped');
SELECT daybook.create_upcaster('sch_orders', 'Moved', 1, 'as_returned(jsonb)', 'Returned');
SELECT daybook.create_upcaster('sch_orders', 'Returned', 2, 'same(jsonb)', 'SentBack');
INSERT INTO sch_orders (stream_id, type, data) VALUES
	('parcel', 'Moved', '{"to": "customer", "n": 1}'), ('parcel', 'Moved', '{"to": "store", "n": 2}'), ('parcel', 'Moved', '{"to": "nowhere", "n": 3}'), ('parcel', 'Moved', '{"to": "customer", "n": 4}');
SELECT version, type, schema_version, data FROM daybook.replay('sch_orders', 'parcel');
SELECT version FROM daybook.replay('sch_orders', 'parcel', 3, 3);
SELECT version FROM daybook.replay('sch_orders', 'parcel', backwards => true) LIMIT 1;
SELECT daybook.stream_version('sch_orders', 'parcel');
SELECT type, schema_version, becomes, checked, dropped, failed FROM daybook.check_upcasters('sch_orders', true) WHERE type = 'Moved';
SELECT path, mismatch FROM daybook.upcast_path('sch_orders', 'Moved', 1);
SELECT type, from_version, to_type, function, place FROM daybook.upcaster WHERE event_table = 'sch_orders'::regclass ORDER BY 1, 2, place;
-- all that becomes of a type is shown, also where one name is part of another
CREATE FUNCTION as_big(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT data WHERE (data->>'n')::int > 9 $$;
SELECT daybook.create_upcaster('sch_orders', 'Ordered', 1, 'as_big(jsonb)', 'BigOrder');
SELECT daybook.create_upcaster('sch_orders', 'Ordered', 1, 'same(jsonb)', 'Order');
INSERT INTO sch_orders (stream_id, type, data) VALUES ('o', 'Ordered', '{"n": 10}'), ('o', 'Ordered', '{"n": 1}'), ('o', 'Ordered', '{"n": 11}');
SELECT becomes, checked FROM daybook.check_upcasters('sch_orders', true) WHERE type = 'Ordered';

-- read_all shows the same, and filters by what events have become
CREATE PROCEDURE sch_wait() LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..1500 LOOP
		EXIT WHEN (SELECT count(*) FROM daybook.log WHERE event_table = 'sch_orders'::regclass) = (SELECT count(*) FROM sch_orders);
		COMMIT;
		PERFORM pg_sleep(0.02);
	END LOOP;
END $$;
CALL sch_wait();
SELECT stream_id, version, type, schema_version FROM daybook.read_all(event_tables => '{sch_orders}') ORDER BY position;
SELECT stream_id, version, type FROM daybook.read_all(event_tables => '{sch_orders}', types => '{SentBack,OrderPaid}') ORDER BY position;
SELECT count(*) FROM daybook.read_all(event_tables => '{sch_orders}', types => '{Moved}');
SELECT stream_id, version, data FROM daybook.read_all(event_tables => '{sch_orders}', types => '{Shipped}', max_events => 1);

-- gaps
SELECT sch_try($$SELECT daybook.create_upcaster('sch_orders', 'OrderPlaced', 4, 'same(jsonb)')$$);
SELECT count(*) AS schemas FROM pg_backend_memory_contexts WHERE name = 'daybook event schema' \gset
SELECT count(sch_try($$SELECT daybook.create_upcaster('sch_orders', 'OrderPlaced', 4, 'same(jsonb)')$$)) FROM generate_series(1, 20);
SELECT count(*) - :schemas < 5 AS nothing_left FROM pg_backend_memory_contexts WHERE name = 'daybook event schema';
SELECT daybook.create_upcaster('sch_orders', 'Late', 2, 'same(jsonb)');
SELECT sch_try($$SELECT daybook.register_event_type('sch_orders', 'Late', 1)$$);
INSERT INTO sch_orders (stream_id, type, data) VALUES ('late', 'Late', '{}');
SELECT sch_try($$SELECT * FROM daybook.replay('sch_orders', 'late')$$);
SELECT path, mismatch FROM daybook.schema_status WHERE event_table = 'sch_orders'::regclass AND type = 'Late';
SELECT failed, first_failure FROM daybook.check_upcasters('sch_orders') WHERE type = 'Late';
SELECT daybook.create_upcaster('sch_orders', 'Late', 1, 'same(jsonb)');
SELECT version, type, schema_version FROM daybook.replay('sch_orders', 'late');
SELECT daybook.register_event_type('sch_orders', 'Late', 4);
INSERT INTO sch_orders (stream_id, type, schema_version) VALUES ('late', 'Late', 9);
SELECT schema_version, path, mismatch FROM daybook.schema_status WHERE event_table = 'sch_orders'::regclass AND type = 'Late' ORDER BY 1;

-- events that stay below the newest registered version
SELECT daybook.register_event_type('sch_orders', 'Stuck', 1);
INSERT INTO sch_orders (stream_id, type) VALUES ('stuck', 'Stuck');
SELECT daybook.register_event_type('sch_orders', 'Stuck', 3);
SELECT daybook.create_upcaster('sch_orders', 'Stuck', 1, 'same(jsonb)');
SELECT path, mismatch FROM daybook.schema_status WHERE event_table = 'sch_orders'::regclass AND type = 'Stuck';
SELECT becomes, checked, failed, first_failure FROM daybook.check_upcasters('sch_orders') WHERE type = 'Stuck';
SELECT daybook.create_upcaster('sch_orders', 'Stuck', 2, 'same(jsonb)');
SELECT becomes, checked, failed, first_failure FROM daybook.check_upcasters('sch_orders') WHERE type = 'Stuck';
-- a view says which event does not fit its columns
CREATE TYPE sch_counted AS (n int);
SELECT daybook.register_event_type('sch_orders', 'Counted', 1, 'sch_counted', mode => 'off');
INSERT INTO sch_orders (stream_id, type, data) VALUES ('c', 'Counted', '{"n": 1}'), ('c', 'Counted', '{"n": "many"}');
SELECT daybook.create_event_view('sch_orders', 'Counted');
SELECT n FROM sch_orders_counted WHERE version = 1;
\set SHOW_CONTEXT always
SELECT n FROM sch_orders_counted;
\set SHOW_CONTEXT errors

-- an upcaster that fails says where
CREATE FUNCTION broken(data jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN jsonb_build_object('n', (data->>'n')::int); END $$;
SELECT daybook.create_upcaster('sch_orders', 'Broken', 1, 'broken(jsonb)');
INSERT INTO sch_orders (stream_id, type, data) VALUES ('b', 'Broken', '{"n": 1}'), ('b', 'Broken', '{"n": "one"}');
SELECT version, data FROM daybook.replay('sch_orders', 'b', to_version => 1);
\set SHOW_CONTEXT always
\set VERBOSITY default
SELECT * FROM daybook.replay('sch_orders', 'b');
SELECT schema_version, checked, failed, first_failure FROM daybook.check_upcasters('sch_orders', all_events => true) WHERE type = 'Broken';
-- also of an event that somebody made up, of which little is known
SELECT daybook.upcast('sch_orders', ROW(1, 1, now(), 1, NULL, NULL, NULL, 'Broken', '{"n": "x"}', NULL, NULL)::daybook.event);
SELECT daybook.upcast('sch_orders', ROW(1, NULL, now(), 1, NULL, NULL, 'b', 'Broken', '{"n": "x"}', NULL, NULL)::daybook.event);
SELECT daybook.upcast('sch_orders', ROW(1, 1, now(), 1, NULL, NULL, 'b', NULL, '{}', NULL, NULL)::daybook.event);
SELECT daybook.upcast('sch_orders', ROW(1, 1, now(), NULL, NULL, NULL, 'b', 'Broken', '{}', NULL, NULL)::daybook.event);
SELECT daybook.upcast('sch_orders', ROW(1, 1, now(), 1, NULL, NULL, 'b', 'Broken', NULL, NULL, NULL)::daybook.event);
SELECT daybook.payload_as('sch_orders', ROW(NULL, NULL, NULL, 1, NULL, NULL, NULL, 'Broken', '{"n": "x"}', NULL, NULL)::daybook.event, 'Broken');
SELECT (daybook.upcast('sch_orders', ROW(NULL, NULL, NULL, 1, NULL, NULL, NULL, 'Broken', '{"n": 5}', NULL, NULL)::daybook.event)).data;
DROP FUNCTION broken(jsonb);
SELECT * FROM daybook.replay('sch_orders', 'b');
SELECT path, mismatch FROM daybook.upcast_path('sch_orders', 'Broken', 1);
SELECT daybook.drop_upcaster('sch_orders', 'Broken', 1);
SELECT version, data FROM daybook.replay('sch_orders', 'b');
\set SHOW_CONTEXT errors

-- a changed function takes effect at once, also in a session that has used it
CREATE OR REPLACE FUNCTION add_currency(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT data || '{"currency": "DEM"}' $$;
SELECT data FROM daybook.replay('sch_orders', 'order-2');

-- one that was created again is looked at again: it may be no upcaster any more
CREATE FUNCTION again(data jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN '{"again": 1}'; END $$;
SELECT daybook.create_upcaster('sch_orders', 'Again', 1, 'again(jsonb)');
INSERT INTO sch_orders (stream_id, type) VALUES ('again', 'Again'), ('again', 'Again');
CREATE FUNCTION sch_again() RETURNS SETOF jsonb LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY SELECT r.data FROM daybook.replay('sch_orders', 'again') r; END $$;
CREATE VIEW sch_again AS SELECT version, (daybook.upcast('sch_orders', o)).data FROM sch_orders o WHERE stream_id = 'again';
PREPARE sch_again AS SELECT * FROM sch_again;
SELECT sch_again();
EXECUTE sch_again;
DROP FUNCTION again(jsonb);
CREATE FUNCTION again(data jsonb) RETURNS bigint LANGUAGE sql AS 'SELECT 4096::bigint';
SELECT sch_again();
EXECUTE sch_again;
SELECT path, mismatch FROM daybook.upcast_path('sch_orders', 'Again', 1);
SELECT failed, first_failure FROM daybook.check_upcasters('sch_orders') WHERE type = 'Again';
DROP FUNCTION again(jsonb);
CREATE FUNCTION again(data jsonb) RETURNS text LANGUAGE sql AS $$ SELECT '{}' $$;
SELECT sch_try('SELECT sch_again()');
DROP FUNCTION again(jsonb);
CREATE FUNCTION again(data jsonb) RETURNS SETOF jsonb LANGUAGE sql AS $$ SELECT '{}'::jsonb $$;
SELECT sch_try('SELECT sch_again()');
DROP FUNCTION again(jsonb);
CREATE PROCEDURE again(data jsonb) LANGUAGE sql AS 'SELECT 1';
SELECT sch_try('SELECT sch_again()');
DROP PROCEDURE again(jsonb);
CREATE FUNCTION again(data jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{"again": 2}'::jsonb $$;
SELECT sch_again();
EXECUTE sch_again;
DEALLOCATE sch_again;
DROP VIEW sch_again;
SELECT daybook.drop_upcaster('sch_orders', 'Again', 1);

-- what is refused
SELECT sch_try($$SELECT daybook.create_upcaster('sch_orders', 'OrderPlaced', 1, 'split_total(jsonb)')$$);
SELECT sch_try($$SELECT daybook.create_upcaster('sch_orders', 'OrderPlaced', 0, 'split_total(jsonb)')$$);
SELECT sch_try($$SELECT daybook.create_upcaster('sch_orders', '', 1, 'split_total(jsonb)')$$);
SELECT sch_try($$SELECT daybook.create_upcaster('sch_orders', NULL, 1, 'split_total(jsonb)')$$);
SELECT sch_try($$SELECT daybook.create_upcaster('sch_orders', 'X', 1, 'split_total(jsonb)', '')$$);
SELECT sch_try($$SELECT daybook.create_upcaster('sch_orders', 'X', 1, 'lower(text)')$$);
SELECT sch_try($$SELECT daybook.create_upcaster('sch_orders', 'X', 1, 'jsonb_each(jsonb)')$$);
SELECT sch_try($$SELECT daybook.create_upcaster('pg_class', 'X', 1, 'split_total(jsonb)')$$);
SELECT sch_try($$SELECT daybook.drop_upcaster('sch_orders', 'OrderPlaced', 1)$$);
SELECT sch_try($$SELECT daybook.drop_upcaster('sch_orders', 'OrderPlaced', 5)$$);
SELECT sch_try($$SELECT daybook.drop_event_type('sch_orders', 'OrderPlaced', 5)$$);
SELECT sch_try($$SELECT daybook.register_event_type('sch_orders', 'X', 1, mode => 'maybe')$$);
SELECT sch_try($$SELECT daybook.register_event_type('sch_orders', 'X', 0)$$);
SELECT sch_try($$SELECT daybook.register_event_type('sch_orders', 'X', 1, 'int')$$);
SELECT sch_try($$SELECT daybook.register_event_type('sch_orders', 'X', 1, 'information_schema.cardinal_number')$$);
SELECT sch_try($$SELECT daybook.register_event_type('sch_orders', 'X', 1, "check" => 'same(jsonb)')$$);
CREATE ROLE sch_other;
GRANT SELECT ON sch_orders TO sch_other;
SET ROLE sch_other;
SELECT sch_try($$SELECT daybook.create_upcaster('sch_orders', 'X', 1, 'same(jsonb)')$$);
SELECT sch_try($$SELECT daybook.drop_upcaster('sch_orders', 'OrderPlaced', 1)$$);
SELECT sch_try($$SELECT daybook.register_event_type('sch_orders', 'X', 1)$$);
SELECT sch_try($$INSERT INTO daybook.upcaster SELECT * FROM daybook.upcaster$$);
SELECT count(*) FROM daybook.replay('sch_orders', 'order-1');
SELECT count(*) > 0 FROM daybook.schema_status WHERE event_table = 'sch_orders'::regclass;
RESET ROLE;

-- upcasters run as the owner of the event table, with names looked up beside them
CREATE SCHEMA sch_place;
CREATE ROLE sch_owner;
GRANT CREATE, USAGE ON SCHEMA sch_place TO sch_owner;
SET ROLE sch_owner;
SET search_path = sch_place;
SELECT daybook.create_event_table('events');
CREATE FUNCTION helper(data jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$ SELECT data || jsonb_build_object('user', current_user, 'path', current_setting('search_path')) $$;
CREATE FUNCTION who(data jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN helper(data); END $$;
SELECT daybook.create_upcaster('events', 'T', 1, 'who(jsonb)');
INSERT INTO events (stream_id, type) VALUES ('s', 'T');
CREATE FUNCTION grab(data jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SET ROLE ' || (data->>'role'); RETURN data; END $$;
SELECT daybook.create_upcaster('events', 'Grab', 1, 'grab(jsonb)');
INSERT INTO events (stream_id, type, data) VALUES ('g', 'Grab', '{"role": "none"}');
RESET ROLE;
SET search_path = public;
SELECT data FROM daybook.replay('sch_place.events', 's');
SELECT sch_try($$SELECT * FROM daybook.replay('sch_place.events', 'g')$$);
SELECT current_user = session_user AS back, current_setting('search_path');
-- unless others may put things there
SET search_path = sch_place;
CREATE FUNCTION reads(data jsonb) RETURNS boolean LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN helper(data) IS NOT NULL; END $$;
ALTER FUNCTION reads(jsonb) OWNER TO sch_owner;
SELECT daybook.register_event_type('events', 'Checked', 1, "check" => 'reads(jsonb)');
INSERT INTO events (stream_id, type) VALUES ('c', 'Checked');
SET search_path = public;
GRANT CREATE ON SCHEMA sch_place TO sch_other;
SELECT sch_try($$SELECT data FROM daybook.replay('sch_place.events', 's')$$);
INSERT INTO sch_place.events (stream_id, type) VALUES ('c', 'Checked');
GRANT sch_owner TO sch_other;
SELECT sch_try($$SELECT data FROM daybook.replay('sch_place.events', 's')$$);
INSERT INTO sch_place.events (stream_id, type) VALUES ('c', 'Checked');
REVOKE sch_owner FROM sch_other;
INSERT INTO sch_place.events (stream_id, type) VALUES ('c', 'Checked');
GRANT CREATE ON SCHEMA sch_place TO PUBLIC;
SELECT sch_try($$SELECT data FROM daybook.replay('sch_place.events', 's')$$);

-- what is registered goes with the event table
SELECT daybook.drop_event_table('sch_place.events', force => true);
DROP VIEW sch_orders_order_placed, sch_orders_stock_counted_2x, sch_orders_counted;
SELECT daybook.drop_event_table('sch_orders', force => true);
SELECT count(*) FROM daybook.upcaster;
SELECT count(*) FROM daybook.event_type;
DROP SCHEMA sch_place CASCADE;
DROP ROLE sch_owner, sch_other;
DROP TYPE order_placed, sch_odd, sch_counted;
DROP FUNCTION split_total(jsonb), add_currency(jsonb), as_shipped(jsonb), as_returned(jsonb), as_big(jsonb), same(jsonb);
DROP PROCEDURE sch_wait();
DROP FUNCTION again(jsonb), sch_again();
