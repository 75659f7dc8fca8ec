-- Snapshots of folds: they change no result, whatever changes around them
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS daybook;
SELECT daybook.create_event_table('snp_events');
CREATE FUNCTION snp_helper(n numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$ SELECT n $$;
CREATE FUNCTION snp_sum(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN RETURN jsonb_build_object('n', (state->>'n')::numeric + snp_helper((e.data->>'n')::numeric)); END $$;
CREATE FUNCTION snp_count(state bigint, e daybook.event) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT state + (e.data->>'n')::bigint $$;
INSERT INTO snp_events (stream_id, type, data) SELECT 's-' || i % 3, 'T', jsonb_build_object('n', i) FROM generate_series(1, 300) i;
SELECT daybook.create_fold('snp_sum', 'snp_events', 'snp_sum(jsonb, daybook.event)', '{"n": 0}', 0);
SELECT daybook.create_fold('snp_count', 'snp_events', 'snp_count(bigint, daybook.event)', 0, 0);
-- does the fold begin with a snapshot?  It is moved, so that its state is wrong where it is used
CREATE FUNCTION snp_used(fold text, stream_id text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE was jsonb; is_used boolean;
BEGIN
	was := daybook.fold(fold, stream_id);
	BEGIN
		UPDATE daybook.fold_snapshot s SET version = version - 1 WHERE s.fold = snp_used.fold AND s.stream_id = snp_used.stream_id;
		is_used := was <> daybook.fold(fold, stream_id);
		RAISE EXCEPTION USING ERRCODE = 'ZZ000';
	EXCEPTION WHEN SQLSTATE 'ZZ000' THEN
		RETURN is_used;
	END;
END $$;
SELECT daybook.fold('snp_sum', 's-1'), daybook.fold('snp_count', 's-1'), snp_used('snp_sum', 's-1');
SELECT daybook.take_snapshot('snp_sum', 's-1'), daybook.take_snapshot('snp_count', 's-1'), daybook.take_snapshot('snp_count', 's-2'), daybook.take_snapshot('snp_sum', 'nobody');
SELECT fold, stream_id, version, octet_length(fingerprint) FROM daybook.fold_snapshot ORDER BY 1, 2;
SELECT daybook.fold('snp_sum', 's-1'), daybook.fold('snp_count', 's-1'), snp_used('snp_sum', 's-1'), snp_used('snp_count', 's-1');
SELECT daybook.fold('snp_sum', 's-1', 99), daybook.fold('snp_sum', 's-1', 100), daybook.fold('snp_sum', 's-1', until => '2000-01-01'), daybook.fold('snp_sum', 's-1', until => 'infinity');
INSERT INTO snp_events (stream_id, type, data) VALUES ('s-1', 'T', '{"n": 1000}');
SELECT daybook.fold('snp_sum', 's-1'), daybook.fold('snp_count', 's-1'), snp_used('snp_sum', 's-1');
SELECT stream_id, version, state FROM daybook.fold_all('snp_count') ORDER BY 1;
SELECT daybook.drop_snapshots('snp_count'), daybook.drop_snapshots('snp_count');
SELECT stream_id, version, state FROM daybook.fold_all('snp_count') ORDER BY 1;
SELECT name, snapshot_every, snapshots, streams, bytes > 0 AS bytes FROM daybook.fold_status WHERE name LIKE 'snp_%' ORDER BY 1;

-- what a state depends on, one after the other
SELECT snp_used('snp_sum', 's-1') AS used, daybook.fold('snp_sum', 's-1') AS state;
-- a function that the transition calls
CREATE OR REPLACE FUNCTION snp_helper(n numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$ SELECT n * 2 $$;
SELECT snp_used('snp_sum', 's-1') AS used, daybook.fold('snp_sum', 's-1') AS state;
CREATE OR REPLACE FUNCTION snp_helper(n numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$ SELECT n $$;
SELECT snp_used('snp_sum', 's-1') AS used, daybook.fold('snp_sum', 's-1') AS state;
-- one that is named with Unicode escapes
CREATE FUNCTION "snpX"(n numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$ SELECT n $$;
CREATE FUNCTION snp_escaped(state numeric, e daybook.event) RETURNS numeric LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN RETURN state + U&"snp!0058" UESCAPE '!' ((e.data->>'n')::numeric); END $$;
SELECT daybook.create_fold('snp_escaped', 'snp_events', 'snp_escaped(numeric, daybook.event)', 0, 0);
SELECT daybook.take_snapshot('snp_escaped', 's-1');
SELECT snp_used('snp_escaped', 's-1') AS used, daybook.fold('snp_escaped', 's-1') AS state;
CREATE OR REPLACE FUNCTION "snpX"(n numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$ SELECT n * 2 $$;
SELECT snp_used('snp_escaped', 's-1') AS used, daybook.fold('snp_escaped', 's-1') AS state;
SELECT daybook.drop_fold('snp_escaped');
-- the transition itself
CREATE OR REPLACE FUNCTION snp_sum(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN RETURN jsonb_build_object('n', (state->>'n')::numeric + 3 * snp_helper((e.data->>'n')::numeric)); END $$;
SELECT snp_used('snp_sum', 's-1') AS used, daybook.fold('snp_sum', 's-1') AS state;
SELECT daybook.take_snapshot('snp_sum', 's-1');
SELECT snp_used('snp_sum', 's-1') AS used, daybook.fold('snp_sum', 's-1') AS state;
-- an upcaster, and a function that it calls
CREATE FUNCTION snp_factor() RETURNS numeric LANGUAGE sql IMMUTABLE AS $$ SELECT 10.0 $$;
CREATE FUNCTION snp_up(data jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN jsonb_build_object('n', (data->>'n')::numeric * snp_factor()); END $$;
SELECT daybook.create_upcaster('snp_events', 'T', 1, 'snp_up(jsonb)');
SELECT snp_used('snp_sum', 's-1') AS used, daybook.fold('snp_sum', 's-1') AS state;
SELECT daybook.take_snapshot('snp_sum', 's-1');
SELECT snp_used('snp_sum', 's-1') AS used;
CREATE OR REPLACE FUNCTION snp_factor() RETURNS numeric LANGUAGE sql IMMUTABLE AS $$ SELECT 100.0 $$;
SELECT snp_used('snp_sum', 's-1') AS used, daybook.fold('snp_sum', 's-1') AS state;
CREATE OR REPLACE FUNCTION snp_up(data jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN data; END $$;
SELECT snp_used('snp_sum', 's-1') AS used, daybook.fold('snp_sum', 's-1') AS state;
SELECT daybook.drop_upcaster('snp_events', 'T', 1);
SELECT snp_used('snp_sum', 's-1') AS used, daybook.fold('snp_sum', 's-1') AS state;
-- an event type
SELECT daybook.take_snapshot('snp_sum', 's-1');
SELECT daybook.register_event_type('snp_events', 'T', 1, mode => 'off');
SELECT snp_used('snp_sum', 's-1') AS used, daybook.fold('snp_sum', 's-1') AS state;
SELECT daybook.drop_event_type('snp_events', 'T', 1);
SELECT snp_used('snp_sum', 's-1') AS used;
-- the initial state: a fold that is dropped takes its snapshots along
SELECT daybook.drop_fold('snp_sum');
SELECT count(*) FROM daybook.fold_snapshot WHERE fold = 'snp_sum';
SELECT daybook.create_fold('snp_sum', 'snp_events', 'snp_sum(jsonb, daybook.event)', '{"n": 1}', 0);
SELECT daybook.fold('snp_sum', 's-1');
-- an operator, and a body whose names PostgreSQL records
CREATE FUNCTION snp_plus(a jsonb, b jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT to_jsonb((a::numeric + b::numeric)) $$;
CREATE OPERATOR +& (FUNCTION = snp_plus, LEFTARG = jsonb, RIGHTARG = jsonb);
CREATE FUNCTION snp_operator(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN state+&(e.data->'n'); END $$;
CREATE FUNCTION snp_atomic(state numeric, e daybook.event) RETURNS numeric LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT state + snp_helper((e.data->>'n')::numeric); END;
SELECT daybook.create_fold('snp_operator', 'snp_events', 'snp_operator(jsonb, daybook.event)', '0', 0);
SELECT daybook.create_fold('snp_atomic', 'snp_events', 'snp_atomic(numeric, daybook.event)', 0, 0);
SELECT daybook.take_snapshot('snp_operator', 's-1'), daybook.take_snapshot('snp_atomic', 's-1');
SELECT daybook.fold(f, 's-1') AS state, snp_used(f, 's-1') AS used FROM unnest('{snp_operator,snp_atomic}'::text[]) f;
CREATE OR REPLACE FUNCTION snp_plus(a jsonb, b jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT to_jsonb((a::numeric + 2 * b::numeric)) $$;
CREATE OR REPLACE FUNCTION snp_helper(n numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$ SELECT n + 1 $$;
SELECT daybook.fold(f, 's-1') AS state, snp_used(f, 's-1') AS used FROM unnest('{snp_operator,snp_atomic}'::text[]) f;
-- the operator comes to mean another function
CREATE FUNCTION snp_minus(a jsonb, b jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT to_jsonb((a::numeric - b::numeric)) $$;
SELECT daybook.take_snapshot('snp_operator', 's-1');
SELECT daybook.fold('snp_operator', 's-1') AS state, snp_used('snp_operator', 's-1') AS used;
DROP OPERATOR +& (jsonb, jsonb);
CREATE OPERATOR +& (FUNCTION = snp_minus, LEFTARG = jsonb, RIGHTARG = jsonb);
SELECT daybook.fold('snp_operator', 's-1') AS state, snp_used('snp_operator', 's-1') AS used;
-- one over functions of pg_catalog, and an aggregate of such
CREATE OPERATOR #& (FUNCTION = numeric_add, LEFTARG = numeric, RIGHTARG = numeric);
CREATE FUNCTION snp_builtin(state numeric, e daybook.event) RETURNS numeric LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN state #& (e.data->>'n')::numeric; END $$;
CREATE AGGREGATE snp_both(int) (SFUNC = int4pl, STYPE = int, INITCOND = 0);
CREATE FUNCTION snp_aggregate(state int, e daybook.event) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN RETURN (SELECT snp_both(x) FROM (VALUES (state), (2)) v (x)); END $$;
SELECT daybook.create_fold('snp_builtin', 'snp_events', 'snp_builtin(numeric, daybook.event)', 0, 0);
SELECT daybook.create_fold('snp_aggregate', 'snp_events', 'snp_aggregate(int, daybook.event)', 0, 0);
SELECT daybook.take_snapshot('snp_builtin', 's-1'), daybook.take_snapshot('snp_aggregate', 's-1');
SELECT daybook.fold(f, 's-1') AS state, snp_used(f, 's-1') AS used FROM unnest('{snp_builtin,snp_aggregate}'::text[]) f;
DROP OPERATOR #& (numeric, numeric);
CREATE OPERATOR #& (FUNCTION = numeric_sub, LEFTARG = numeric, RIGHTARG = numeric);
CREATE OR REPLACE AGGREGATE snp_both(int) (SFUNC = int4larger, STYPE = int, INITCOND = 1);
SELECT daybook.fold(f, 's-1') AS state, snp_used(f, 's-1') AS used FROM unnest('{snp_builtin,snp_aggregate}'::text[]) f;
-- settings matter to a transition that is not immutable, and to no other
CREATE FUNCTION snp_days(state text[], e daybook.event) RETURNS text[] LANGUAGE plpgsql STABLE AS $$
BEGIN RETURN state || to_char('2026-01-01 00:30:00+00'::timestamptz, 'YYYY-MM-DD'); END $$;
INSERT INTO snp_events (stream_id, type, data) VALUES ('d', 'T', '{"n": 1}');
SELECT daybook.create_fold('snp_days', 'snp_events', 'snp_days(text[], daybook.event)', '{}', 0);
SET timezone = 'UTC';
SELECT daybook.take_snapshot('snp_days', 'd'), daybook.take_snapshot('snp_count', 'd');
SELECT daybook.fold('snp_days', 'd'), snp_used('snp_count', 'd');
SET timezone = 'America/New_York';
SELECT daybook.fold('snp_days', 'd'), snp_used('snp_count', 'd');
RESET timezone;
-- how a function runs: its settings, whether nulls stop it, and with whose rights
CREATE ROLE regress_snp_owner;
CREATE FUNCTION snp_used_after(command text, back text) RETURNS boolean[] LANGUAGE plpgsql AS $$
DECLARE before boolean := snp_used('snp_sum', 's-1'); changed boolean;
BEGIN
	EXECUTE command;
	changed := snp_used('snp_sum', 's-1');
	EXECUTE back;
	RETURN ARRAY[before, changed, snp_used('snp_sum', 's-1')];
END $$;
SELECT daybook.take_snapshot('snp_sum', 's-1');
SELECT snp_used_after('ALTER FUNCTION snp_helper SET enable_sort = off', 'ALTER FUNCTION snp_helper RESET ALL');
SELECT snp_used_after('ALTER FUNCTION snp_helper STRICT', 'ALTER FUNCTION snp_helper CALLED ON NULL INPUT');
SELECT snp_used_after('ALTER FUNCTION snp_helper VOLATILE', 'ALTER FUNCTION snp_helper IMMUTABLE');
SELECT snp_used_after('ALTER FUNCTION snp_helper SECURITY DEFINER', 'ALTER FUNCTION snp_helper SECURITY INVOKER');
ALTER FUNCTION snp_helper SECURITY DEFINER;
SELECT daybook.take_snapshot('snp_sum', 's-1');
SELECT snp_used_after('ALTER FUNCTION snp_helper OWNER TO regress_snp_owner', 'ALTER FUNCTION snp_helper OWNER TO ' || current_user);
ALTER FUNCTION snp_helper SECURITY INVOKER;
-- where a transition or an upcaster looks for names, and the type that an upcaster makes
CREATE SCHEMA snp_place;
CREATE FUNCTION snp_place.plain(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT jsonb_build_object('n', (state->>'n')::int + 1) $$;
CREATE FUNCTION snp_place.up(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT data $$;
SELECT daybook.drop_fold('snp_sum');
SELECT daybook.create_fold('snp_sum', 'snp_events', 'snp_place.plain(jsonb, daybook.event)', '{"n": 0}', 0);
SELECT daybook.take_snapshot('snp_sum', 's-1');
SELECT snp_used_after('GRANT CREATE ON SCHEMA snp_place TO regress_snp_owner', 'REVOKE CREATE ON SCHEMA snp_place FROM regress_snp_owner');
CREATE FUNCTION snp_plain(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT jsonb_build_object('n', (state->>'n')::int + 1) $$;
SELECT daybook.drop_fold('snp_sum');
SELECT daybook.create_fold('snp_sum', 'snp_events', 'snp_plain(jsonb, daybook.event)', '{"n": 0}', 0);
SELECT daybook.create_upcaster('snp_events', 'T', 1, 'snp_place.up(jsonb)');
SELECT daybook.take_snapshot('snp_sum', 's-1');
SELECT snp_used_after('GRANT CREATE ON SCHEMA snp_place TO regress_snp_owner', 'REVOKE CREATE ON SCHEMA snp_place FROM regress_snp_owner');
SELECT snp_used_after($$SELECT daybook.drop_upcaster('snp_events', 'T', 1); SELECT daybook.create_upcaster('snp_events', 'T', 1, 'snp_place.up(jsonb)', 'U')$$,
	$$SELECT daybook.drop_upcaster('snp_events', 'T', 1, 'U'); SELECT daybook.create_upcaster('snp_events', 'T', 1, 'snp_place.up(jsonb)')$$);
SELECT daybook.drop_upcaster('snp_events', 'T', 1);
SELECT daybook.drop_fold('snp_sum');
-- an operator in a body whose names PostgreSQL records
CREATE FUNCTION snp_add(a int, b int) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT a + b $$;
CREATE OPERATOR |+ (FUNCTION = snp_add, LEFTARG = int, RIGHTARG = int);
CREATE FUNCTION snp_recorded(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE sql IMMUTABLE
BEGIN ATOMIC SELECT jsonb_build_object('n', (state->>'n')::int |+ 1); END;
SELECT daybook.create_fold('snp_sum', 'snp_events', 'snp_recorded(jsonb, daybook.event)', '{"n": 0}', 0);
SELECT daybook.take_snapshot('snp_sum', 's-1');
SELECT snp_used_after('CREATE OR REPLACE FUNCTION snp_add(a int, b int) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT a - b $$',
	'CREATE OR REPLACE FUNCTION snp_add(a int, b int) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT a + b $$');
SELECT daybook.drop_fold('snp_sum');
DROP SCHEMA snp_place CASCADE;
DROP ROLE regress_snp_owner;
-- a state's type
CREATE TYPE snp_state AS (n numeric);
CREATE FUNCTION snp_composite(state snp_state, e daybook.event) RETURNS snp_state LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN state.n := coalesce(state.n, 0) + (e.data->>'n')::numeric; RETURN state; END $$;
SELECT daybook.create_fold('snp_composite', 'snp_events', 'snp_composite(snp_state, daybook.event)', NULL, 0);
SELECT daybook.take_snapshot('snp_composite', 's-1');
SELECT daybook.fold('snp_composite', 's-1'), snp_used('snp_composite', 's-1');
ALTER TYPE snp_state ADD ATTRIBUTE m numeric;
SELECT daybook.fold('snp_composite', 's-1'), snp_used('snp_composite', 's-1');
-- what cannot be seen in a function's text, such as rows of a table: dropping the snapshots helps
CREATE TABLE snp_factors (factor int);
INSERT INTO snp_factors VALUES (1);
CREATE FUNCTION snp_reading(state numeric, e daybook.event) RETURNS numeric LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN state + (SELECT factor FROM snp_factors); END $$;
SELECT daybook.create_fold('snp_reading', 'snp_events', 'snp_reading(numeric, daybook.event)', 0, 0);
SELECT daybook.take_snapshot('snp_reading', 'd');
UPDATE snp_factors SET factor = 5;
SELECT daybook.fold('snp_reading', 'd');
SELECT daybook.drop_snapshots('snp_reading');
SELECT daybook.fold('snp_reading', 'd');
SELECT daybook.drop_fold('snp_reading');

-- a type within the state's type
CREATE TYPE snp_inner AS (n numeric);
CREATE TYPE snp_outer AS (inners snp_inner[]);
CREATE FUNCTION snp_nested(state snp_outer, e daybook.event) RETURNS snp_outer LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE i snp_inner; BEGIN i := jsonb_populate_record(NULL::snp_inner, e.data || '{"m": 5}'); state.inners := ARRAY[i]; RETURN state; END $$;
SELECT daybook.create_fold('snp_nested', 'snp_events', 'snp_nested(snp_outer, daybook.event)', NULL, 0);
SELECT daybook.take_snapshot('snp_nested', 'd');
SELECT daybook.fold('snp_nested', 'd');
ALTER TYPE snp_inner ADD ATTRIBUTE m numeric;
SELECT daybook.fold('snp_nested', 'd');

-- and within a range
CREATE TYPE snp_bound AS (n int, m int);
CREATE TYPE snp_span AS RANGE (SUBTYPE = snp_bound);
CREATE FUNCTION snp_spanning(state snp_span, e daybook.event) RETURNS snp_span LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN RETURN snp_span('(0,0)', ('(' || e.version || ',1)')::snp_bound); END $$;
SELECT daybook.create_fold('snp_span', 'snp_events', 'snp_spanning(snp_span, daybook.event)', NULL, 0);
SELECT daybook.take_snapshot('snp_span', 'd');
SELECT daybook.fold('snp_span', 'd');
ALTER TYPE snp_bound ALTER ATTRIBUTE m TYPE text;
ALTER FUNCTION snp_spanning COST 2;	-- PL/pgSQL forgets what it has prepared with the old type
SELECT daybook.fold('snp_span', 'd');

-- a snapshot is part of its transaction
BEGIN;
INSERT INTO snp_events (stream_id, type, data) VALUES ('t', 'T', '{"n": 1}'), ('t', 'T', '{"n": 1}');
SELECT daybook.take_snapshot('snp_count', 't');
SAVEPOINT a;
INSERT INTO snp_events (stream_id, type, data) VALUES ('t', 'T', '{"n": 1}');
SELECT daybook.take_snapshot('snp_count', 't');
ROLLBACK TO a;
SELECT daybook.fold('snp_count', 't'), (SELECT array_agg(version) FROM daybook.fold_snapshot WHERE stream_id = 't');
ROLLBACK;
SELECT daybook.fold('snp_count', 't'), (SELECT array_agg(version) FROM daybook.fold_snapshot WHERE stream_id = 't');

-- few snapshots stay, and for every version one is not far
SELECT daybook.create_fold('snp_few', 'snp_events', 'snp_count(bigint, daybook.event)', 0, 0);
DO $$
BEGIN
	FOR i IN 1..1000 LOOP
		INSERT INTO snp_events (stream_id, type, data) VALUES ('few', 'T', '{"n": 1}');
		IF i % 10 = 0 THEN PERFORM daybook.take_snapshot('snp_few', 'few'); END IF;
	END LOOP;
END $$;
SELECT array_agg(version ORDER BY version DESC) FROM daybook.fold_snapshot WHERE fold = 'snp_few';
SELECT count(*) FROM generate_series(0, 1001) v WHERE daybook.fold('snp_few', 'few', v) <> to_jsonb(least(v, 1000));

-- 1,000 random streams, cut at random: a snapshot and what comes after it give what all events give
SELECT setseed(0.219);
CREATE TYPE snp_random_state AS (n int, types text[], last jsonb, at timestamptz);
CREATE FUNCTION snp_random_jsonb(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	CASE e.type
		WHEN 'Set' THEN RETURN jsonb_set(state, ARRAY[e.data->>'k'], e.data->'v');
		WHEN 'Unset' THEN RETURN state - (e.data->>'k');
		WHEN 'Clear' THEN RETURN '{}'::jsonb;
		ELSE RETURN state;
	END CASE;
END $$;
CREATE FUNCTION snp_random_composite(state snp_random_state, e daybook.event) RETURNS snp_random_state LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF e.type = 'Clear' THEN RETURN NULL; END IF;
	state.n := coalesce(state.n, 0) + 1;
	state.types := state.types || e.type;
	state.last := e.data;
	state.at := e.recorded_at;
	RETURN state;
END $$;
CREATE FUNCTION snp_random_numeric(state numeric, e daybook.event) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
	SELECT CASE WHEN e.type = 'Clear' THEN NULL ELSE coalesce(state, 0) * 3 % 100003 + length(e.data::text) END $$;
CREATE FUNCTION snp_random_array(state text[], e daybook.event) RETURNS text[] LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN IF e.version % 7 = 0 THEN state[array_length(state, 1)] := upper(e.type); RETURN state; END IF; RETURN state || e.type; END $$;
CREATE FUNCTION snp_random_up(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT CASE WHEN data->>'k' <> 'e' THEN data || '{"up": 1}' END $$;
SELECT daybook.create_event_table('snp_random');
SELECT daybook.create_upcaster('snp_random', 'Set', 1, 'snp_random_up(jsonb)');
CREATE TABLE snp_plan AS
SELECT 'r-' || s AS stream_id, v AS version, s.cut, (ARRAY['Set', 'Set', 'Set', 'Set', 'Unset', 'Clear', 'Other'])[1 + (random() * 6.9)::int % 7] AS type, 1 + (random() < 0.5)::int AS schema_version,
	jsonb_build_object('k', chr(97 + (random() * 5)::int), 'v', CASE WHEN random() < 0.2 THEN to_jsonb(repeat('x', (random() * 5000)::int)) ELSE to_jsonb((random() * 100)::int) END) AS data
FROM (SELECT s, len, (random() * len)::int AS cut FROM (SELECT s, 1 + (random() * random() * 60)::int AS len FROM generate_series(1, 1000) s) x) s(s, len, cut), generate_series(1, len) v
ORDER BY random();
SELECT daybook.create_fold('snp_random_jsonb', 'snp_random', 'snp_random_jsonb(jsonb, daybook.event)', '{}', 0);
SELECT daybook.create_fold('snp_random_composite', 'snp_random', 'snp_random_composite(snp_random_state, daybook.event)', NULL, 0);
SELECT daybook.create_fold('snp_random_numeric', 'snp_random', 'snp_random_numeric(numeric, daybook.event)', NULL, 0);
SELECT daybook.create_fold('snp_random_array', 'snp_random', 'snp_random_array(text[], daybook.event)', '{}', 0);
CREATE AGGREGATE snp_by_hand_jsonb(daybook.event) (SFUNC = snp_random_jsonb, STYPE = jsonb, INITCOND = '{}');
CREATE AGGREGATE snp_by_hand_composite(daybook.event) (SFUNC = snp_random_composite, STYPE = snp_random_state);
CREATE AGGREGATE snp_by_hand_numeric(daybook.event) (SFUNC = snp_random_numeric, STYPE = numeric);
CREATE AGGREGATE snp_by_hand_array(daybook.event) (SFUNC = snp_random_array, STYPE = text[], INITCOND = '{}');
INSERT INTO snp_random (stream_id, type, schema_version, data) SELECT stream_id, type, schema_version, data FROM snp_plan WHERE version <= cut ORDER BY version, stream_id;
SELECT count(daybook.take_snapshot(f, s)) > 900 FROM unnest('{jsonb,composite,numeric,array}'::text[]) t, concat('snp_random_', t) f, (SELECT DISTINCT stream_id FROM snp_random) x(s);
INSERT INTO snp_random (stream_id, type, schema_version, data) SELECT stream_id, type, schema_version, data FROM snp_plan WHERE version > cut ORDER BY version, stream_id;
CREATE VIEW snp_compared AS
SELECT p.stream_id, daybook.fold('snp_random_jsonb', p.stream_id) = h.j AS j,
	daybook.fold('snp_random_composite', p.stream_id, NULL::snp_random_state) IS NOT DISTINCT FROM h.c AS c,
	daybook.fold('snp_random_numeric', p.stream_id, NULL::numeric) IS NOT DISTINCT FROM h.n AS n,
	daybook.fold('snp_random_array', p.stream_id, NULL::text[]) = h.a AS a
FROM (SELECT DISTINCT stream_id FROM snp_plan) p, LATERAL (
	SELECT snp_by_hand_jsonb(e) AS j, snp_by_hand_composite(e) AS c, snp_by_hand_numeric(e) AS n, snp_by_hand_array(e) AS a
	FROM daybook.replay('snp_random', p.stream_id) e) h;
SELECT count(*) AS streams, bool_and(j), bool_and(c), bool_and(n), bool_and(a) FROM snp_compared;
-- the snapshots were used, at the versions where the streams were cut
SELECT count(*) FILTER (WHERE s.version <> p.cut AND s.version + 10 < p.cut) AS elsewhere, count(*) > 2000 AS many FROM daybook.fold_snapshot s JOIN (SELECT DISTINCT stream_id, cut FROM snp_plan) p USING (stream_id) WHERE fold LIKE 'snp_random%';
SELECT bool_and(snp_used('snp_random_array', stream_id)) FROM (SELECT stream_id FROM daybook.fold_snapshot WHERE fold = 'snp_random_array' AND version % 7 NOT IN (0, 1) AND version > 2 ORDER BY stream_id LIMIT 20) x;
-- any version, all streams at a time, and without any snapshot
SELECT count(*) AS different FROM (SELECT stream_id, (random() * 40)::int AS v FROM generate_series(1, 1000) i, concat('r-', i) stream_id) p
WHERE daybook.fold('snp_random_jsonb', p.stream_id, p.v) <> (SELECT snp_by_hand_jsonb(e) FROM daybook.replay('snp_random', p.stream_id, to_version => p.v) e);
-- and any time, against the stored events themselves
SELECT count(*) AS times, count(DISTINCT t.at) > 500 AS many, count(*) FILTER (WHERE h.state IS DISTINCT FROM daybook.fold('snp_random_jsonb', t.stream_id, until => t.at)
	OR h.c IS DISTINCT FROM daybook.fold('snp_random_composite', t.stream_id, NULL::snp_random_state, until => t.at)) AS different
FROM (SELECT 'r-' || i AS stream_id, (SELECT min(recorded_at) FROM snp_random) + random() * ((SELECT max(recorded_at) - min(recorded_at) FROM snp_random)) AS at FROM generate_series(1, 1000) i) t,
	LATERAL (SELECT coalesce(snp_by_hand_jsonb(u ORDER BY e.version), '{}') AS state, snp_by_hand_composite(u ORDER BY e.version) AS c
		FROM snp_random e, daybook.upcast('snp_random', e) u WHERE e.stream_id = t.stream_id AND e.recorded_at <= t.at AND NOT u IS NULL) h;
CREATE TABLE snp_before AS SELECT * FROM daybook.fold_all('snp_random_jsonb');
SELECT count(*) AS different FROM snp_before b WHERE b.state <> daybook.fold('snp_random_jsonb', b.stream_id);
SELECT sum(daybook.drop_snapshots(f)) > 2000 FROM unnest('{snp_random_jsonb,snp_random_composite,snp_random_numeric,snp_random_array}'::text[]) f;
SELECT count(*) AS streams, bool_and(j), bool_and(c), bool_and(n), bool_and(a) FROM snp_compared;
SELECT (SELECT count(*) FROM snp_before) = count(*) AS as_many, count(*) FILTER (WHERE a IS DISTINCT FROM b) AS different
FROM daybook.fold_all('snp_random_jsonb') a LEFT JOIN snp_before b USING (stream_id, version, state);

DROP VIEW snp_compared;
SELECT daybook.drop_event_table('snp_random', force => true), daybook.drop_event_table('snp_events', force => true);
SELECT count(*) FROM daybook.fold_snapshot;
