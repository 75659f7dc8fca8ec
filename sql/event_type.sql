-- Registered event types: what is let in, and what is said about the rest
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS daybook;
CREATE FUNCTION ety_try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE detail text; hint text;
BEGIN
	EXECUTE statement;
	RETURN 'done';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN SQLSTATE || ': ' || SQLERRM || COALESCE(' / ' || NULLIF(detail, ''), '');
END $$;
SELECT daybook.create_event_table('ety_events');
CREATE DOMAIN ety_positive AS numeric NOT NULL CHECK (VALUE > 0);
CREATE TYPE ety_item AS (sku text, qty int, price ety_positive);
CREATE TYPE ety_address AS (street text, zip varchar(5));
CREATE TYPE ety_order AS (placed_on date, express boolean, address ety_address, items ety_item[], matrix int[], anything jsonb, ratio numeric(4, 2));
SELECT daybook.register_event_type('ety_events', 'Placed', 1, 'ety_order');
CREATE FUNCTION ety_put(payload jsonb, type text DEFAULT 'Placed', version int DEFAULT 1) RETURNS text LANGUAGE plpgsql AS $$
DECLARE detail text; state text;
BEGIN
	INSERT INTO ety_events (stream_id, type, schema_version, data) VALUES ('s', type, version, payload);
	RETURN 'stored';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN SQLSTATE || ': ' || SQLERRM || COALESCE(' / ' || NULLIF(detail, ''), '');
END $$;

-- what fits
SELECT ety_put('{}');
SELECT ety_put('{"placed_on": "2026-02-28", "express": true, "address": {"street": "A", "zip": "12345"}, "items": [{"sku": "x", "qty": 1, "price": 2.5}], "matrix": [[1, 2], [3, 4]], "anything": {"a": [1]}, "ratio": 12.344}');
SELECT ety_put('{"placed_on": null, "express": "yes", "items": [], "matrix": [], "address": null, "anything": "text"}');
-- what does not
SELECT ety_put('{"placed_on": "2026-02-30"}');
SELECT ety_put('{"express": 7.5}');
SELECT ety_put('{"ratio": 1000}');
SELECT ety_put('{"address": {"street": "A", "zip": "123456"}}');
SELECT ety_put('{"address": {"street": "A", "city": "B"}}');
SELECT ety_put('{"address": "A"}');
SELECT ety_put('{"address": [1]}');
SELECT ety_put('{"items": [{"sku": "x", "qty": 1, "price": 1}, {"sku": "y", "qty": "two", "price": 1}]}');
SELECT ety_put('{"items": [{"sku": "x", "qty": 1, "price": -1}]}');
SELECT ety_put('{"items": [{"sku": "x", "qty": 1}]}');
SELECT ety_put('{"items": {"sku": "x"}}');
SELECT ety_put('{"matrix": [[1, 2], [3, "x"]]}');
-- arrays in arrays are dimensions, which have to be the same all over
SELECT ety_put('{"matrix": [[1, 2], [3]]}');
SELECT ety_put('{"matrix": [1, [2]]}');
SELECT ety_put('{"matrix": [[1], 2]}');
SELECT ety_put('{"matrix": [[1], null]}');
SELECT ety_put('{"matrix": [[1], []]}');
SELECT ety_put('{"matrix": [[[1], [2]], [[3], [4, 5]]]}');
SELECT ety_put('{"matrix": [[[[[[[1]]]]]]]}');
SELECT ety_put('{"total": 1}');
SELECT ety_put('[1]');
SELECT ety_put('"text"');
SELECT ety_put('null');
-- other types, and other versions of it, are not registered
SELECT ety_put('{"total": 1}', 'Other');
SELECT ety_put('{"total": 1}', 'Placed', 2);

-- every way in
SELECT ety_try($$SELECT daybook.append('ety_events', 'a', '[{"type": "Placed"}, {"type": "Placed", "data": {"total": 1}}]')$$);
SELECT count(*) FROM ety_events WHERE stream_id = 'a';
COPY ety_events (stream_id, type, data) FROM stdin;
c	Placed	{"express": false}
c	Placed	{"total": 1}
\.
SELECT ety_try($$INSERT INTO ety_events (stream_id, type, data) SELECT 'i', 'Placed', jsonb_build_object('express', CASE i WHEN 50 THEN 'perhaps' ELSE 'no' END) FROM generate_series(1, 100) i$$);
SELECT stream_id, count(*) FROM ety_events GROUP BY 1;
-- the row is judged as it is stored, whatever triggers make of it
CREATE FUNCTION ety_spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.data := NEW.data || '{"spoilt": true}'; RETURN NEW; END $$;
CREATE TRIGGER zz_spoil BEFORE INSERT ON ety_events FOR EACH ROW WHEN (NEW.stream_id = 'spoilt') EXECUTE FUNCTION ety_spoil();
SELECT ety_try($$INSERT INTO ety_events (stream_id, type) VALUES ('spoilt', 'Placed')$$);
-- a restore keeps what was recorded
SET daybook.restore = on;
INSERT INTO ety_events (stream_id, version, type, data) VALUES ('r', 1, 'Placed', '{"total": 1}');
RESET daybook.restore;

-- arrays are taken and refused as jsonb_populate_record() does
CREATE TYPE ety_arrays AS (n int[], t text[], j jsonb[]);
SELECT daybook.register_event_type('ety_events', 'Arrays', 1, 'ety_arrays');
CREATE FUNCTION ety_populates(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM jsonb_populate_record(NULL::ety_arrays, payload);
	RETURN 'stored';
EXCEPTION WHEN OTHERS THEN
	RETURN 'refused';
END $$;
SELECT field, value, populates FROM unnest('{n,t,j}'::text[]) field, (VALUES
	('[]'), ('[null]'), ('[[]]'), ('[[], []]'), ('[[], [1]]'), ('[[1], []]'), ('[1, 2]'), ('[1, [2]]'), ('[[1], 2]'), ('[[1], null]'), ('[null, [1]]'),
	('[[1, 2], [3]]'), ('[[1, 2], [3, 4]]'), ('[[1, [2]], [3, 4]]'), ('[[[1]], [[2]]]'), ('[[[1]], [2]]'), ('[[[1, 2]], [[3], [4]]]'),
	('[[[[[[1]]]]]]'), ('[[[[[[[1]]]]]]]'), ('[[[[[[[]]]]]]]'), ('{}'), ('1'), ('null')) v(value),
	LATERAL (SELECT jsonb_build_object(field, value::jsonb)) p(payload), ety_populates(payload) populates
WHERE (populates = 'stored') <> (ety_put(payload, 'Arrays') = 'stored');

-- domains over the payload, and over a composite type
CREATE DOMAIN ety_payload AS jsonb CHECK (VALUE ? 'id') CHECK (jsonb_typeof(VALUE->'id') = 'number');
CREATE DOMAIN ety_range AS ety_address CHECK ((VALUE).zip > '1');
SELECT daybook.register_event_type('ety_events', 'Domain', 1, 'ety_payload');
SELECT daybook.register_event_type('ety_events', 'Domain', 2, 'ety_range');
SELECT ety_put('{"id": 1}', 'Domain');
SELECT ety_put('{}', 'Domain');
SELECT ety_put('{"id": "1"}', 'Domain');
SELECT ety_put('{"zip": "2"}', 'Domain', 2);
SELECT ety_put('{"zip": "0"}', 'Domain', 2);
SELECT ety_put('{"zap": "0"}', 'Domain', 2);

-- check functions, of the payload or of the event
CREATE FUNCTION ety_even(data jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT (data->>'n')::int % 2 = 0 $$;
CREATE FUNCTION ety_named(e daybook.event) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	IF e.metadata IS NULL THEN RAISE EXCEPTION 'who did it?'; END IF;
	RETURN e.version < 1000;
END $$;
SELECT daybook.register_event_type('ety_events', 'Even', 1, NULL, 'ety_even(jsonb)');
SELECT daybook.register_event_type('ety_events', 'Named', 1, NULL, 'ety_named(daybook.event)');
SELECT ety_put('{"n": 2}', 'Even');
SELECT ety_put('{"n": 3}', 'Even');
SELECT ety_put('{"n": "x"}', 'Even');
SELECT ety_put('{}', 'Even');
SELECT ety_put('{}', 'Named');
SELECT ety_try($$INSERT INTO ety_events (stream_id, type, metadata) VALUES ('s', 'Named', '{"actor": "ann"}')$$);
-- such a function cannot append, and its own rollbacks harm nothing
CREATE FUNCTION ety_meddle(e daybook.event) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		PERFORM 1 / (e.data->>'by')::int;
	EXCEPTION WHEN division_by_zero THEN
		IF e.data ? 'append' THEN INSERT INTO ety_events (stream_id, type) VALUES ('meddled', 'T'); END IF;
	END;
	RETURN true;
END $$;
SELECT daybook.register_event_type('ety_events', 'Meddled', 1, NULL, 'ety_meddle(daybook.event)');
INSERT INTO ety_events (stream_id, type, data) SELECT 'm-' || i % 3, 'Meddled', jsonb_build_object('by', i % 2) FROM generate_series(1, 9) i;
SELECT stream_id, array_agg(version ORDER BY id) FROM ety_events WHERE type = 'Meddled' GROUP BY 1 ORDER BY 1;
SELECT ety_put('{"by": 0, "append": true}', 'Meddled');

-- warn: the event is stored, and so are those after it
SELECT daybook.register_event_type('ety_events', 'Placed', 1, 'ety_order', mode => 'warn');
INSERT INTO ety_events (stream_id, type, data) SELECT 'w-' || i % 2, 'Placed', CASE i WHEN 3 THEN '{"total": 1}' ELSE '{}' END::jsonb FROM generate_series(1, 6) i;
SELECT stream_id, array_agg(version ORDER BY id) FROM ety_events WHERE stream_id LIKE 'w-%' GROUP BY 1 ORDER BY 1;
SELECT last_version FROM daybook.append('ety_events', 'w-1', '[{"type": "Placed", "data": {"total": 1}}, {"type": "Placed", "data": {"items": 2}}, {"type": "Placed"}]'::jsonb);
SELECT daybook.register_event_type('ety_events', 'Meddled', 1, NULL, 'ety_even(jsonb)', 'warn');
INSERT INTO ety_events (stream_id, type, data) VALUES ('w-2', 'Meddled', '{"n": 1}'), ('w-2', 'Meddled', '{"n": 2}'), ('w-2', 'Meddled', '{"n": "x"}');
SELECT count(*) FROM ety_events WHERE stream_id = 'w-2';
-- whatever the check raises, and names that stand for nothing
CREATE FUNCTION ety_raise(data jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'raised' USING ERRCODE = data->>'code'; END $$;
CREATE TYPE ety_names AS (relation regclass, function regprocedure, schema regnamespace);
SELECT daybook.register_event_type('ety_events', 'Raises', 1, NULL, 'ety_raise(jsonb)');
SELECT daybook.register_event_type('ety_events', 'Raises', 2, NULL, 'ety_raise(jsonb)', 'warn');
SELECT daybook.register_event_type('ety_events', 'Names', 1, 'ety_names');
SELECT daybook.register_event_type('ety_events', 'Names', 2, 'ety_names', NULL, 'warn');
SELECT ety_put(jsonb_build_object('code', code), 'Raises', version)
FROM unnest('{45000,22000,P0002,54000,40001,53200,55000,XX000}'::text[]) code, generate_series(1, 2) version;
SELECT ety_put(names, 'Names', version)
FROM unnest('{"{\"relation\": \"public.nothing\"}", "{\"relation\": \"a.b.c.d\"}", "{\"function\": \"nothing()\"}", "{\"function\": \"(\"}", "{\"schema\": \"nowhere\"}"}'::jsonb[]) names, generate_series(1, 2) version;
INSERT INTO ety_events (stream_id, type, schema_version, data) VALUES ('s', 'Raises', 2, '{"code": "57014"}');
-- but not a check function that is broken
CREATE FUNCTION ety_broken(data jsonb) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN public.ety_nothing(data); END $$;
SELECT daybook.register_event_type('ety_events', 'Raises', 3, NULL, 'ety_broken(jsonb)', 'warn');
SELECT ety_put('{}', 'Raises', 3);
-- off: not looked at
SELECT daybook.register_event_type('ety_events', 'Placed', 1, 'ety_order', mode => 'off');
SELECT ety_put('{"total": 1}');

-- registration looks at what is there
SELECT daybook.register_event_type('ety_events', 'Other', 1, 'ety_order');
SELECT ety_put('{"total": 2}', 'Other');
SELECT type, schema_version, payload_type, check_function, mode FROM daybook.event_type ORDER BY 1, 2;
-- other sessions and later changes: a type that has changed is seen at once
ALTER TYPE ety_address ADD ATTRIBUTE city text;
SELECT daybook.register_event_type('ety_events', 'Address', 1, 'ety_address');
SELECT ety_put('{"city": "C"}', 'Address');
ALTER TYPE ety_address DROP ATTRIBUTE city;
SELECT ety_put('{"city": "C"}', 'Address');
ALTER DOMAIN ety_payload ADD CONSTRAINT small CHECK ((VALUE->>'id')::numeric < 100);
SELECT ety_put('{"id": 100}', 'Domain');
CREATE OR REPLACE FUNCTION ety_even(data jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT (data->>'n')::int % 2 <> 0 $$;
SELECT ety_put('{"n": 3}', 'Even');
DROP FUNCTION ety_even(jsonb);
SELECT ety_put('{"n": 3}', 'Even');
SELECT daybook.drop_event_type('ety_events', 'Even', 1);
SELECT ety_put('{"n": 3}', 'Even');

-- one that was created again is looked at again: it may be no check function any more
CREATE FUNCTION ety_again(data jsonb) RETURNS boolean LANGUAGE sql AS $$ SELECT data ? 'n' $$;
SELECT daybook.register_event_type('ety_events', 'Again', 1, NULL, 'ety_again(jsonb)');
SELECT ety_put('{"n": 1}', 'Again');
SELECT ety_put('{}', 'Again');
DROP FUNCTION ety_again(jsonb);
CREATE FUNCTION ety_again(data jsonb) RETURNS text LANGUAGE sql AS $$ SELECT 'no' $$;
SELECT ety_put('{}', 'Again');
DROP FUNCTION ety_again(jsonb);
CREATE FUNCTION ety_again(data jsonb) RETURNS SETOF boolean LANGUAGE sql AS $$ SELECT false $$;
SELECT ety_put('{}', 'Again');
DROP FUNCTION ety_again(jsonb);
CREATE PROCEDURE ety_again(data jsonb) LANGUAGE sql AS $$ SELECT false $$;
SELECT ety_put('{}', 'Again');
DROP PROCEDURE ety_again(jsonb);
CREATE FUNCTION ety_again(data jsonb) RETURNS boolean LANGUAGE sql AS $$ SELECT data ? 'm' $$;
SELECT ety_put('{"m": 1}', 'Again');
SELECT ety_put('{"n": 1}', 'Again');

-- a check that has failed is none the worse for it
CREATE FUNCTION ety_above(data jsonb) RETURNS boolean LANGUAGE sql AS $$ SELECT (data->>'n')::int > 0 $$;
CREATE FUNCTION ety_number(t text) RETURNS boolean LANGUAGE sql AS $$ SELECT t::int > 0 $$;
CREATE DOMAIN ety_code AS text CHECK (public.ety_number(VALUE));
CREATE DOMAIN ety_object AS jsonb CHECK (public.ety_above(VALUE));
CREATE TYPE ety_coded AS (n public.ety_code);
SELECT daybook.register_event_type('ety_events', 'Above', 1, NULL, 'ety_above(jsonb)');
SELECT daybook.register_event_type('ety_events', 'Above', 2, 'ety_coded');
SELECT daybook.register_event_type('ety_events', 'Above', 3, 'ety_object');
SELECT daybook.register_event_type('ety_events', 'Above', 4, NULL, 'ety_above(jsonb)', 'warn');
CREATE FUNCTION ety_put_all(version int) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..3 LOOP
		INSERT INTO ety_events (stream_id, type, schema_version, data) VALUES ('above', 'Above', version, jsonb_build_object('n', i::text));
		RETURN NEXT ety_put('{"n": "x"}', 'Above', version);
	END LOOP;
END $$;
SELECT ety_put_all(1);
SELECT ety_put_all(2);
SELECT ety_put_all(3);
SELECT ety_put_all(4);
BEGIN;
INSERT INTO ety_events (stream_id, type, data) VALUES ('above', 'Above', '{"n": 1}');
SAVEPOINT a;
INSERT INTO ety_events (stream_id, type, data) VALUES ('above', 'Above', '{"n": "x"}');
ROLLBACK TO a;
SELECT last_version FROM daybook.append('ety_events', 'above', 'Above', '{"n": 2}');
SELECT daybook.append('ety_events', 'above', 'Above', '{"n": "y"}');
ROLLBACK TO a;
INSERT INTO ety_events (stream_id, type, data) VALUES ('above', 'Above', '{"n": 3}');
COMMIT;

-- what an event takes is given back with each event
CREATE TYPE ety_large AS (n int, filling text);
CREATE FUNCTION ety_lean(e daybook.event) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	RETURN CASE WHEN e.data->'n' = '400' THEN (SELECT sum(total_bytes) FROM pg_backend_memory_contexts) < 30000000 ELSE true END;
END $$;
SELECT daybook.register_event_type('ety_events', 'Large', 1, 'ety_large', 'ety_lean(daybook.event)');
INSERT INTO ety_events (stream_id, type, data) SELECT 'large', 'Large', jsonb_build_object('n', n, 'filling', repeat('x', 100000)) FROM generate_series(1, 400) n;

-- check functions run as the owner of the event table
CREATE ROLE ety_writer;
GRANT INSERT, SELECT ON ety_events TO ety_writer;
CREATE TABLE ety_allowed (stream_id text);
INSERT INTO ety_allowed VALUES ('yes');
CREATE FUNCTION ety_is_allowed(e daybook.event) RETURNS boolean LANGUAGE sql STABLE AS $$ SELECT EXISTS (SELECT FROM ety_allowed a WHERE a.stream_id = e.stream_id) $$;
REVOKE EXECUTE ON FUNCTION ety_is_allowed(daybook.event) FROM PUBLIC;
SELECT daybook.register_event_type('ety_events', 'Guarded', 1, NULL, 'ety_is_allowed(daybook.event)');
SET ROLE ety_writer;
INSERT INTO ety_events (stream_id, type) VALUES ('yes', 'Guarded');
INSERT INTO ety_events (stream_id, type) VALUES ('no', 'Guarded');
RESET ROLE;

SELECT daybook.drop_event_table('ety_events', force => true);
DROP ROLE ety_writer;
