-- Statements in parallel, as far as upcasters and transitions allow it
SET client_min_messages = warning;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
-- what the statement gives, and how it got there
CREATE FUNCTION par_run(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE line text; how text := 'alone'; result text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || statement LOOP
		IF line ~ 'Gather' THEN how := 'in parallel'; END IF;
	END LOOP;
	EXECUTE statement INTO result;
	RETURN format('%s, %s', result, how);
EXCEPTION WHEN OTHERS THEN
	RETURN format('%s, %s', how, SQLERRM);
END $$;
CREATE SEQUENCE par_calls;
CREATE FUNCTION par_safe(data jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$ BEGIN RETURN data || '{"m": 1}'; END $$;
-- neither a worker nor the leader can do this in parallel mode
CREATE FUNCTION par_unsafe(data jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	PERFORM nextval('par_calls');
	BEGIN
		RETURN data || jsonb_build_object('m', (data->>'n')::int);
	EXCEPTION WHEN invalid_text_representation THEN
		RETURN data;
	END;
END $$;
CREATE TYPE par_p AS (n int, m int);
CREATE FUNCTION par_count(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT to_jsonb(state::int + 1) $$;
CREATE FUNCTION par_count_unsafe(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	PERFORM nextval('par_calls');
	RETURN to_jsonb(state::int + 1);
END $$;
SELECT daybook.create_event_table(t) FROM unnest('{par_a,par_b,par_c}'::text[]) t;
SELECT daybook.create_upcaster('par_a', 'P', 1, 'par_safe(jsonb)');
SELECT daybook.create_upcaster('par_b', 'P', 1, 'par_unsafe(jsonb)');
SELECT daybook.register_event_type(t, 'P', 2, 'par_p') FROM unnest('{par_a,par_b}'::regclass[]) t;
INSERT INTO par_a (stream_id, type, data) SELECT 's-' || i % 50, 'P', jsonb_build_object('n', i) FROM generate_series(1, 400) i;
INSERT INTO par_b (stream_id, type, data) SELECT 's-' || i % 50, 'P', jsonb_build_object('n', i) FROM generate_series(1, 400) i;
INSERT INTO par_c (stream_id, type, data) SELECT 's-' || i % 50, 'P', jsonb_build_object('n', i) FROM generate_series(1, 400) i;
ANALYZE par_a, par_b, par_c;
SELECT daybook.create_event_view(t, 'P') FROM unnest('{par_a,par_b}'::regclass[]) t;
SELECT daybook.create_fold('par_a', 'par_a', 'par_count(jsonb, daybook.event)', '0', 0);
SELECT daybook.create_fold('par_b', 'par_b', 'par_count(jsonb, daybook.event)', '0', 0);
SELECT daybook.create_fold('par_c', 'par_c', 'par_count_unsafe(jsonb, daybook.event)', '0', 0);

-- upcasters that are safe
SELECT par_run($$SELECT count(*) FROM par_a p WHERE (daybook.upcast('par_a', p)).schema_version = 2$$);
SELECT par_run($$SELECT count(m) FROM par_a_p$$);
SELECT par_run($$SELECT count(*) FROM par_a p, daybook.replay('par_a', p.stream_id, p.version, p.version) r WHERE r.data ? 'm'$$);
SELECT par_run($$SELECT count(*) FROM par_a p WHERE daybook.fold('par_a', p.stream_id) = '8'$$);
-- there are none
SELECT par_run($$SELECT count(*) FROM par_c p WHERE (daybook.upcast('par_c', p)).schema_version = 1$$);
-- they are not safe
SELECT par_run($$SELECT count(*) FROM par_b p WHERE (daybook.upcast('par_b', p)).schema_version = 2$$);
SELECT par_run($$SELECT count(*) FROM par_b p WHERE (daybook.upcast(event => p, event_table => 'par_b')).schema_version = 2$$);
SELECT par_run($$SELECT count(m) FROM par_b_p$$);
SELECT par_run($$SELECT count(*) FROM par_b p, daybook.replay('par_b', p.stream_id, p.version, p.version) r WHERE r.data ? 'm'$$);
SELECT par_run($$SELECT count(*) FROM par_b p WHERE p.data ? 'm' OR EXISTS (SELECT FROM daybook.replay('par_b', p.stream_id, 1, 1))$$);
SELECT par_run($$SELECT count(*) FROM par_b p WHERE daybook.fold('par_b', p.stream_id) = '8'$$);
SELECT par_run($$WITH f AS MATERIALIZED (SELECT * FROM daybook.fold_all('par_b')) SELECT count(*) FROM par_a JOIN f USING (stream_id)$$);
SELECT par_run($$SELECT count(*) FROM par_c p, daybook.diff('par_b', p.stream_id, 1, 2) d WHERE p.version = 1$$);
-- nor is the transition
SELECT par_run($$SELECT count(*) FROM par_c p WHERE daybook.fold('par_c', p.stream_id) = '8'$$);
-- the table is not known
SELECT par_run($$SELECT count(*) FROM par_b p WHERE (daybook.upcast(p.tableoid, p)).schema_version = 2$$);
-- all of them
SELECT par_run($$SELECT count(*) >= 0 FROM par_a p, (SELECT count(*) FROM daybook.read_all(event_tables => '{par_b}')) r$$);

-- a statement that was prepared before
SET plan_cache_mode = force_generic_plan;
PREPARE par_upcast AS SELECT count(*) FROM par_c p WHERE (daybook.upcast('par_c', p)).schema_version = 1;
EXECUTE par_upcast;
SELECT daybook.create_upcaster('par_c', 'P', 1, 'par_unsafe(jsonb)');
EXECUTE par_upcast;
-- and a function that is marked otherwise
CREATE OR REPLACE FUNCTION par_safe(data jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RETURN par_unsafe(data); END $$;
SELECT par_run($$SELECT count(m) FROM par_a_p$$);

DROP VIEW par_a_p, par_b_p;
SELECT daybook.drop_fold(f) FROM unnest('{par_a,par_b,par_c}'::text[]) f;
SELECT daybook.drop_event_table(t, force => true) FROM unnest('{par_a,par_b,par_c}'::regclass[]) t;
DROP FUNCTION par_run(text), par_safe(jsonb), par_unsafe(jsonb), par_count(jsonb, daybook.event), par_count_unsafe(jsonb, daybook.event);
DROP TYPE par_p;
DROP SEQUENCE par_calls;
