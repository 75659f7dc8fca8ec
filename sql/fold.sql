-- Folds: state types, languages, versions and times, errors
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS daybook;
CREATE FUNCTION fld_try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE detail text; hint text;
BEGIN
	EXECUTE statement;
	RETURN 'done';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN SQLSTATE || ': ' || SQLERRM || COALESCE(' / ' || NULLIF(detail, ''), '') || COALESCE(' / ' || NULLIF(hint, ''), '');
END $$;
SELECT daybook.create_event_table('account');
SELECT last_version FROM daybook.append('account', 'account-1', '[{"type": "Opened", "data": {"amount": 100}}, {"type": "Deposited", "data": {"amount": 50}}, {"type": "Withdrawn", "data": {"amount": 20}}]');
SELECT last_version FROM daybook.append('account', 'account-2', '[{"type": "Opened", "data": {"amount": 7}}]');

-- jsonb, in SQL and in PL/pgSQL
CREATE FUNCTION fld_amount(e daybook.event) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
	SELECT CASE e.type WHEN 'Withdrawn' THEN -1 ELSE 1 END * (e.data->>'amount')::numeric $$;
CREATE FUNCTION fld_balance(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT jsonb_build_object('balance', (state->>'balance')::numeric + fld_amount(e)) $$;
CREATE FUNCTION fld_balance_pl(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	CASE e.type
		WHEN 'Withdrawn' THEN RETURN jsonb_build_object('balance', (state->>'balance')::numeric - (e.data->>'amount')::numeric);
		ELSE RETURN jsonb_build_object('balance', (state->>'balance')::numeric + (e.data->>'amount')::numeric);
	END CASE;
END $$;
SELECT daybook.create_fold('balance', 'account', 'fld_balance(jsonb, daybook.event)', '{"balance": 0}', snapshot_every => 0);
SELECT daybook.create_fold('balance_pl', 'account', 'fld_balance_pl(jsonb, daybook.event)', '{"balance": 0}'::jsonb, 0);
SELECT daybook.fold('balance', 'account-1'), daybook.fold('balance_pl', 'account-1'), daybook.fold('balance', 'account-2');
-- a stream that does not exist has the initial state
SELECT daybook.fold('balance', 'account-3'), daybook.fold('balance', NULL);
-- as it was at a version
SELECT v, daybook.fold('balance', 'account-1', v), daybook.fold('balance_pl', 'account-1', to_version => v) FROM generate_series(0, 4) v;
SELECT daybook.fold('balance', 'account-1', 2), daybook.fold('balance', 'account-1', 2::bigint), daybook.fold('balance', 'account-1', to_version => 2), daybook.fold('balance', 'account-1', NULL, 'infinity'::timestamptz);
-- and at a time
SELECT pg_sleep(0.01);
SELECT clock_timestamp() AS then \gset
SELECT pg_sleep(0.01);
SELECT last_version FROM daybook.append('account', 'account-1', 'Deposited', '{"amount": 1}'::jsonb);
SELECT daybook.fold('balance', 'account-1', until => :'then'), daybook.fold('balance', 'account-1', until => 'infinity'), daybook.fold('balance', 'account-1', until => '2000-01-01');
SELECT daybook.fold('balance', 'account-1', to_version => 2, until => :'then');
-- a version that has a name can be of any type, and of none
PREPARE at_version AS SELECT daybook.fold($1, $2, to_version => $3);
EXECUTE at_version('balance', 'account-1', 2);
SELECT daybook.fold('balance', 'account-1', to_version => NULL), daybook.fold('balance', 'account-1', to_version => 2::smallint), daybook.fold('balance', 'account-1', 2::smallint);
SELECT daybook.fold('balance', 'account-1', to_version => 2, until => NULL), daybook.fold('balance', 'account-1', to_version => NULL, until => '2000-01-01');

-- composable with SQL, and the same as by hand
SELECT stream_id, daybook.fold('balance', stream_id)->'balance' AS balance FROM (SELECT DISTINCT stream_id FROM account) s ORDER BY 1;
CREATE AGGREGATE fld_balance_of(daybook.event) (SFUNC = fld_balance_pl, STYPE = jsonb, INITCOND = '{"balance": 0}');
SELECT fld_balance_of(e) FROM daybook.replay('account', 'account-1') e;
SELECT fld_balance_of(e ORDER BY version) FROM account e WHERE stream_id = 'account-1';

-- other types: numbers, composite types, arrays, text, domains, enums, events
CREATE FUNCTION fld_sum(state numeric, e daybook.event) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$ SELECT state + fld_amount(e) $$;
CREATE FUNCTION fld_count(state bigint, e daybook.event) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN coalesce(state, 0) + 1; END $$;
CREATE TYPE fld_state AS (events int, last text, amounts numeric[]);
CREATE FUNCTION fld_composite(state fld_state, e daybook.event) RETURNS fld_state LANGUAGE plpgsql AS $$
BEGIN
	state.events := coalesce(state.events, 0) + 1;
	state.last := e.type;
	state.amounts := state.amounts || (e.data->>'amount')::numeric;
	RETURN state;
END $$;
CREATE FUNCTION fld_array(state text[], e daybook.event) RETURNS text[] LANGUAGE plpgsql AS $$ BEGIN RETURN state || e.type; END $$;
CREATE FUNCTION fld_text(state text, e daybook.event) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT state || left(e.type, 1) $$;
CREATE DOMAIN fld_short AS text CHECK (length(VALUE) < 4);
CREATE FUNCTION fld_domain(state fld_short, e daybook.event) RETURNS fld_short LANGUAGE plpgsql AS $$ BEGIN RETURN state || left(e.type, 1); END $$;
CREATE TYPE fld_status AS ENUM ('new', 'used');
CREATE FUNCTION fld_enum(state fld_status, e daybook.event) RETURNS fld_status LANGUAGE sql IMMUTABLE AS $$ SELECT 'used'::public.fld_status $$;
CREATE FUNCTION fld_last_event(state daybook.event, e daybook.event) RETURNS daybook.event LANGUAGE sql AS $$ SELECT e $$;
CREATE FUNCTION fld_last_event_pl(state daybook.event, e daybook.event) RETURNS daybook.event LANGUAGE plpgsql AS $$ BEGIN RETURN e; END $$;
CREATE FUNCTION fld_last_data(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE sql AS $$ SELECT e.data $$;
CREATE FUNCTION fld_first_data(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE sql AS $$ SELECT coalesce(state, e.data) $$;
CREATE FUNCTION fld_first_data_pl(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN IF state IS NULL THEN RETURN e.data; END IF; RETURN state; END $$;
CREATE FUNCTION fld_times(state timestamptz[], e daybook.event) RETURNS timestamptz[] LANGUAGE plpgsql AS $$ BEGIN state[e.version] := e.recorded_at; RETURN state; END $$;
SELECT daybook.create_fold('sum', 'account', 'fld_sum(numeric, daybook.event)', 0, 0);
SELECT daybook.create_fold('count', 'account', 'fld_count(bigint, daybook.event)', NULL, 0);
SELECT daybook.create_fold('composite', 'account', 'fld_composite(fld_state, daybook.event)', NULL, 0);
SELECT daybook.create_fold('composite_full', 'account', 'fld_composite(fld_state, daybook.event)', ROW(10, 'none', '{1,2}')::fld_state, 0);
SELECT daybook.create_fold('array', 'account', 'fld_array(text[], daybook.event)', '{}', 0);
SELECT daybook.create_fold('text', 'account', 'fld_text(text, daybook.event)', ''::text, 0);
SELECT daybook.create_fold('domain', 'account', 'fld_domain(fld_short, daybook.event)', '', 0);
SELECT daybook.create_fold('enum', 'account', 'fld_enum(fld_status, daybook.event)', 'new', 0);
SELECT daybook.create_fold('last_event', 'account', 'fld_last_event(daybook.event, daybook.event)', NULL, 0);
SELECT daybook.create_fold('last_event_pl', 'account', 'fld_last_event_pl(daybook.event, daybook.event)', NULL, 0);
SELECT daybook.create_fold('last_data', 'account', 'fld_last_data(jsonb, daybook.event)', NULL, 0);
SELECT daybook.create_fold('first_data', 'account', 'fld_first_data(jsonb, daybook.event)', NULL, 0);
SELECT daybook.create_fold('first_data_pl', 'account', 'fld_first_data_pl(jsonb, daybook.event)', NULL, 0);
SELECT daybook.create_fold('times', 'account', 'fld_times(timestamptz[], daybook.event)', '{}', 0);
SELECT name, daybook.fold(name, 'account-1', 3) FROM unnest('{sum,count,composite,composite_full,array,text,domain,enum,last_data,first_data,first_data_pl}'::text[]) name;
SELECT daybook.fold('sum', 'account-1', NULL::numeric), daybook.fold('count', 'account-1', NULL::bigint, 2),
	daybook.fold('composite', 'account-1', NULL::fld_state), (daybook.fold('composite_full', 'account-1', NULL::fld_state)).amounts,
	daybook.fold('array', 'account-1', NULL::text[], to_version => 2), daybook.fold('enum', 'account-1', NULL::fld_status, until => '2000-01-01');
-- a bare bigint would be a version
SELECT pg_typeof(daybook.fold('count', 'account-1', state_type => NULL::bigint)), daybook.fold('count', 'account-1', state_type => NULL::bigint, until => 'infinity');
SELECT (daybook.fold(name, 'account-1', NULL::daybook.event)).version FROM unnest('{last_event,last_event_pl}'::text[]) name;
SELECT daybook.fold('last_event', 'account-1')->'data';
SELECT daybook.fold('times', 'account-1', NULL::timestamptz[]) = array_agg(recorded_at ORDER BY version) FROM account WHERE stream_id = 'account-1';
SELECT name, transition, initial FROM daybook.fold_definition ORDER BY name;

-- a null state, and strict transitions
CREATE FUNCTION fld_strict(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE plpgsql STRICT AS $$
BEGIN RETURN CASE WHEN e.type = 'Deposited' THEN NULL ELSE state || jsonb_build_object(e.version::text, e.type) END; END $$;
CREATE FUNCTION fld_lax(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN RETURN CASE WHEN e.type = 'Deposited' THEN NULL ELSE coalesce(state, '{"was": "null"}') || jsonb_build_object(e.version::text, e.type) END; END $$;
SELECT daybook.create_fold('strict', 'account', 'fld_strict(jsonb, daybook.event)', '{}', 0);
SELECT daybook.create_fold('lax', 'account', 'fld_lax(jsonb, daybook.event)', '{}', 0);
SELECT v, daybook.fold('strict', 'account-1', v), daybook.fold('lax', 'account-1', v) FROM generate_series(0, 4) v;
SELECT fld_try($$SELECT daybook.create_fold('never', 'account', 'fld_strict(jsonb, daybook.event)', NULL)$$);

-- all streams
SELECT * FROM daybook.fold_all('balance') ORDER BY stream_id;
SELECT * FROM daybook.fold_all('composite', NULL::fld_state) ORDER BY stream_id;
SELECT f FROM daybook.fold_all('sum') f ORDER BY stream_id;
SELECT row_to_json(f) FROM daybook.fold_all('sum') f (stream, events) ORDER BY stream;
SELECT row_to_json(f) FROM ROWS FROM (daybook.fold_all('sum'), daybook.fold_all('sum')) f (stream, events) ORDER BY stream LIMIT 1;
SELECT daybook.fold_all('sum', NULL::numeric);
SELECT stream_id, state FROM daybook.fold_all('sum', NULL::numeric) WHERE state > 100;
SELECT count(*) FROM daybook.fold_all('sum') a, daybook.fold_all('count') b WHERE a.stream_id = b.stream_id;
SELECT stream_id FROM daybook.fold_all('sum') LIMIT 1;
SELECT fld_try($$SELECT * FROM daybook.fold_all('sum', NULL::text)$$);
SELECT fld_try($$SELECT * FROM daybook.fold_all('nothing')$$);
SELECT fld_try($$SELECT * FROM daybook.fold_all(NULL)$$);
EXPLAIN (COSTS OFF) SELECT stream_id, state FROM daybook.fold_all('sum', NULL::numeric) WHERE state > 100;

-- in parallel, if the transition is parallel safe
SELECT daybook.create_event_table('fld_many');
INSERT INTO fld_many (stream_id, type, data) SELECT 's-' || i % 70, 'T', jsonb_build_object('amount', i) FROM generate_series(1, 7000) i;
INSERT INTO fld_many (stream_id, type, data) SELECT repeat('x', 5000), 'T', '{"amount": 1}' FROM generate_series(1, 2100) i;
ANALYZE fld_many;
CREATE FUNCTION fld_safe(state numeric, e daybook.event) RETURNS numeric LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$ BEGIN RETURN state * 3 % 1000003 + (e.data->>'amount')::numeric; END $$;
CREATE FUNCTION fld_unsafe(state numeric, e daybook.event) RETURNS numeric LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN state * 3 % 1000003 + (e.data->>'amount')::numeric; END $$;
SELECT daybook.create_fold('safe', 'fld_many', 'fld_safe(numeric, daybook.event)', 0, 0), daybook.create_fold('unsafe', 'fld_many', 'fld_unsafe(numeric, daybook.event)', 0, 0);
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 1;
EXPLAIN (COSTS OFF) SELECT count(*), sum(state) FROM daybook.fold_all('safe', NULL::numeric);
EXPLAIN (COSTS OFF) SELECT count(*), sum(state) FROM daybook.fold_all('unsafe', NULL::numeric);
SELECT a.count, a = b AS same FROM (SELECT count(*), sum(state), sum(version) FROM daybook.fold_all('safe', NULL::numeric)) a, (SELECT count(*), sum(state), sum(version) FROM daybook.fold_all('unsafe', NULL::numeric)) b;
SELECT count(daybook.take_snapshot('safe', stream_id)) FROM (SELECT DISTINCT stream_id FROM fld_many WHERE length(stream_id) = 4) s;
SELECT a.count, a = b AS same FROM (SELECT count(*), sum(state), sum(version) FROM daybook.fold_all('safe', NULL::numeric)) a, (SELECT count(*), sum(state), sum(version) FROM daybook.fold_all('unsafe', NULL::numeric)) b;
-- again for each row
SELECT * FROM (VALUES (1), (2)) v(i), LATERAL (SELECT count(*) FROM daybook.fold_all('safe') OFFSET i * 0) x;
-- upcasters too must be parallel safe
CREATE FUNCTION fld_up(data jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN data; END $$;
SELECT daybook.create_upcaster('fld_many', 'T', 1, 'fld_up(jsonb)');
EXPLAIN (COSTS OFF) SELECT count(*) FROM daybook.fold_all('safe');
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
RESET max_parallel_workers_per_gather;
SELECT daybook.drop_event_table('fld_many', force => true);

-- differences and history
SELECT * FROM daybook.diff('composite', 'account-1', 1, 3);
SELECT * FROM daybook.diff('balance', 'account-1', 3);
SELECT * FROM daybook.diff('balance', 'account-1', 0, 1);
SELECT * FROM daybook.diff('balance', 'account-1', 2, 2);
SELECT * FROM daybook.jsonb_diff('{"a": 1, "b": [1, {"c": null}], "d": {}, "e": 5}', '{"a": 1, "b": [1, {"c": 2}, 3], "d": [], "f": null}');
SELECT daybook.append('account', 'account-2', '{"type": "Closed", "data": {"note": "a note that is so long that it cannot be shown as a whole in one line of a history, as others are, and so it is cut"}, "metadata": {"actor": "ann", "reason": "moved away"}}'::jsonb) IS NOT NULL;
SELECT table_name, version, who = current_user AS me, type, summary, why FROM daybook.history('account-1');
SELECT version, who, summary, why FROM daybook.history('account-2', 'account') WHERE version = 2;
SELECT fld_try($$SELECT * FROM daybook.history('account-2', 'pg_class')$$);
SELECT fld_try($$SELECT * FROM daybook.history(NULL)$$);
SELECT count(*) FROM daybook.history('nobody');
SELECT fld_try($$SELECT daybook.fold('sum', 'account-1', now())$$);

-- errors name fold, stream, version and type
CREATE FUNCTION fld_raise(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN IF e.version = 3 THEN RAISE EXCEPTION 'three is too many'; END IF; RETURN state; END $$;
CREATE FUNCTION fld_divide(state numeric, e daybook.event) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$ SELECT 1 / (e.version - 2) $$;
CREATE FUNCTION fld_lost(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RETURN no_such_function(state); END $$;
SELECT daybook.create_fold('raise', 'account', 'fld_raise(jsonb, daybook.event)', '{}', 0);
SELECT daybook.create_fold('divide', 'account', 'fld_divide(numeric, daybook.event)', 0, 0);
SELECT daybook.create_fold('lost', 'account', 'fld_lost(jsonb, daybook.event)', '{}', 0);
\set SHOW_CONTEXT always
SELECT daybook.fold('raise', 'account-1', 2);
SELECT daybook.fold('raise', 'account-1');
SELECT daybook.fold('divide', 'account-1');
SELECT count(*) FROM daybook.fold_all('divide');
SELECT daybook.fold('lost', 'account-1');
\set SHOW_CONTEXT errors
SELECT fld_try($$SELECT daybook.fold('nothing', 'account-1')$$);
SELECT fld_try($$SELECT daybook.fold(NULL, 'account-1')$$);
SELECT fld_try($$SELECT daybook.fold('balance', 'account-1', -1)$$);
SELECT fld_try($$SELECT daybook.fold('sum', 'account-1', NULL::text)$$);
SELECT fld_try($$SELECT daybook.create_fold('x', 'account', 'fld_amount(daybook.event)', 0)$$);
SELECT fld_try($$SELECT daybook.create_fold('x', 'account', 'lower(text)', '')$$);
SELECT fld_try($$SELECT daybook.create_fold('x', 'account', 'jsonb_set(jsonb, text[], jsonb, boolean)', '{}')$$);
SELECT fld_try($$SELECT daybook.create_fold('x', 'account', 'no_such(jsonb, daybook.event)', '{}')$$);
SELECT fld_try($$SELECT daybook.create_fold('x', 'account', 'fld_balance(jsonb, daybook.event)', 1)$$);
SELECT fld_try($$SELECT daybook.create_fold('x', 'account', 'fld_balance(jsonb, daybook.event)', '{"a"')$$);
SELECT fld_try($$SELECT daybook.create_fold('x', 'account', 'fld_domain(fld_short, daybook.event)', 'too long')$$);
SELECT fld_try($$SELECT daybook.create_fold('x', 'pg_class', 'fld_balance(jsonb, daybook.event)', '{}')$$);
SELECT fld_try($$SELECT daybook.create_fold('', 'account', 'fld_balance(jsonb, daybook.event)', '{}')$$);
SELECT fld_try(format($$SELECT daybook.create_fold('%s', 'account', 'fld_balance(jsonb, daybook.event)', '{}')$$, repeat('x', 64)));
SELECT fld_try($$SELECT daybook.create_fold(NULL, 'account', 'fld_balance(jsonb, daybook.event)', '{}')$$);
SELECT fld_try($$SELECT daybook.create_fold('x', 'account', 'fld_balance(jsonb, daybook.event)', '{}', -1)$$);
SELECT fld_try($$SELECT daybook.create_fold('balance', 'account', 'fld_balance(jsonb, daybook.event)', '{}')$$);
SELECT fld_try($$SELECT daybook.drop_fold('nothing')$$);

-- a transition that is replaced, dropped and made again
CREATE OR REPLACE FUNCTION fld_sum(state numeric, e daybook.event) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$ SELECT state + 2 * fld_amount(e) $$;
SELECT daybook.fold('sum', 'account-1');
ALTER TYPE fld_state ADD ATTRIBUTE extra text;
SELECT daybook.fold('composite', 'account-1');
DROP FUNCTION fld_sum(numeric, daybook.event);
SELECT fld_try($$SELECT daybook.fold('sum', 'account-1')$$);
CREATE FUNCTION fld_sum(state numeric, e daybook.event) RETURNS numeric LANGUAGE plpgsql AS $$ BEGIN RETURN state + 1; END $$;
SELECT daybook.fold('sum', 'account-1');
-- inside a transaction, and a rollback
BEGIN;
SELECT daybook.create_fold('passing', 'account', 'fld_count(bigint, daybook.event)', 0, 0);
INSERT INTO account (stream_id, type, data) VALUES ('account-1', 'Deposited', '{"amount": 1000}');
SELECT daybook.fold('passing', 'account-1'), daybook.fold('balance', 'account-1');
ROLLBACK;
SELECT fld_try($$SELECT daybook.fold('passing', 'account-1')$$);
SELECT daybook.fold('balance', 'account-1');
DO $$
DECLARE v jsonb;
BEGIN
	FOR i IN 1..3 LOOP
		BEGIN
			v := daybook.fold(CASE i WHEN 2 THEN 'raise' ELSE 'balance' END, 'account-1');
			RAISE WARNING '%', v;
		EXCEPTION WHEN raise_exception THEN RAISE WARNING 'failed, as it should';
		END;
	END LOOP;
END $$;

-- one fold inside another
CREATE FUNCTION fld_nested(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RETURN daybook.fold('balance', e.stream_id, e.version); END $$;
SELECT daybook.create_fold('nested', 'account', 'fld_nested(jsonb, daybook.event)', '{}', 0);
SELECT daybook.fold('nested', 'account-1', 3);

-- rights: the transition runs as the owner of the fold, its caller must be able to read the events
CREATE ROLE fld_owner;
CREATE ROLE fld_reader;
CREATE SCHEMA fld_place AUTHORIZATION fld_owner;
GRANT USAGE ON SCHEMA fld_place TO fld_reader;
GRANT SELECT ON account TO fld_owner, fld_reader;
SET ROLE fld_owner;
CREATE TABLE fld_place.secret (factor int);
INSERT INTO fld_place.secret VALUES (3);
CREATE FUNCTION fld_place.who(state text, e daybook.event) RETURNS text LANGUAGE plpgsql AS $$
BEGIN RETURN current_user || ' ' || (SELECT factor FROM secret) || ' ' || current_setting('search_path'); END $$;
SELECT daybook.create_fold('who', 'account', 'fld_place.who(text, daybook.event)', ''::text, 0);
REVOKE EXECUTE ON FUNCTION fld_place.who(text, daybook.event) FROM PUBLIC;
CREATE FUNCTION fld_place.escape(state text, e daybook.event) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RESET ROLE; RETURN current_user; END $$;
SELECT daybook.create_fold('escape', 'account', 'fld_place.escape(text, daybook.event)', ''::text, 0);
SELECT fld_try($$SELECT daybook.drop_fold('balance')$$);
-- so does a cast by which its state becomes jsonb
CREATE TYPE fld_place.mood AS ENUM ('fine');
CREATE FUNCTION fld_place.mood_json(fld_place.mood) RETURNS json LANGUAGE sql AS $$ SELECT to_json(current_user::text) $$;
CREATE CAST (fld_place.mood AS json) WITH FUNCTION fld_place.mood_json(fld_place.mood);
CREATE FUNCTION fld_place.mood(state fld_place.mood, e daybook.event) RETURNS fld_place.mood LANGUAGE sql IMMUTABLE AS $$ SELECT state $$;
SELECT daybook.create_fold('mood', 'account', 'fld_place.mood(fld_place.mood, daybook.event)', 'fine', 0);
RESET ROLE;
SELECT daybook.fold('mood', 'account-1'), (SELECT state FROM daybook.fold_all('mood') LIMIT 1) AS of_all;
SELECT daybook.drop_fold('mood');
DROP CAST (fld_place.mood AS json);
SET ROLE fld_reader;
SELECT daybook.fold('who', 'account-1');
SELECT state FROM daybook.fold_all('who') LIMIT 1;
SELECT fld_try($$SELECT daybook.create_fold('mine', 'account', 'fld_place.who(text, daybook.event)', '')$$);
SELECT fld_try($$SELECT daybook.drop_fold('who')$$);
SELECT fld_try($$SELECT daybook.take_snapshot('who', 'account-1')$$);
SELECT fld_try($$SELECT daybook.drop_snapshots('who')$$);
SELECT current_user;
RESET ROLE;
SELECT fld_try($$SELECT daybook.fold('escape', 'account-1')$$);
-- others who may create in its schema keep that out of the search path, unless they have its owner's rights: as long as they do
GRANT CREATE ON SCHEMA fld_place TO fld_reader;
GRANT fld_owner TO fld_reader;
SELECT daybook.fold('who', 'account-1');
REVOKE fld_owner FROM fld_reader;
SELECT fld_try($$SELECT daybook.fold('who', 'account-1')$$);
REVOKE CREATE ON SCHEMA fld_place FROM fld_reader;
REVOKE SELECT ON account FROM fld_reader;
SET ROLE fld_reader;
SELECT fld_try($$SELECT daybook.fold('who', 'account-1')$$);
SELECT fld_try($$SELECT * FROM daybook.fold_all('who')$$);
SELECT fld_try($$SELECT * FROM daybook.history('account-1', 'account')$$);
SELECT count(*) FROM daybook.history('account-1');
RESET ROLE;
-- one that was created again is looked at again: it may be no transition any more
SELECT daybook.create_event_table('fld_again');
INSERT INTO fld_again (stream_id, type, data) VALUES ('a', 'T', '{"n": 1}'), ('a', 'T', '{"n": 2}');
CREATE FUNCTION fld_again(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN e.data; END $$;
SELECT daybook.create_fold('again', 'fld_again', 'fld_again(jsonb, daybook.event)', NULL::jsonb);
SELECT daybook.fold('again', 'a');
DROP FUNCTION fld_again(jsonb, daybook.event);
CREATE FUNCTION fld_again(state jsonb, e daybook.event) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN coalesce(state->'n', e.data->'n'); END $$;
SELECT fld_try($$SELECT daybook.fold('again', 'a')$$);
DROP FUNCTION fld_again(jsonb, daybook.event);
CREATE FUNCTION fld_again(state jsonb, e daybook.event) RETURNS SETOF jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT e.data $$;
SELECT fld_try($$SELECT daybook.fold('again', 'a')$$);
DROP FUNCTION fld_again(jsonb, daybook.event);
CREATE FUNCTION fld_again(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN e.data || '{"m": 1}'; END $$;
SELECT daybook.fold('again', 'a');
SELECT daybook.drop_event_table('fld_again', force => true);
DROP OWNED BY fld_owner;
SELECT fld_try($$SELECT daybook.fold('who', 'account-1')$$);
SELECT fld_try($$SELECT daybook.fold('escape', 'account-1')$$);
DROP ROLE fld_owner;
SELECT daybook.drop_fold('who'), daybook.drop_fold('escape');
DROP OWNED BY fld_reader;
DROP ROLE fld_reader;

-- a state's type may grow beyond the initial state
CREATE TYPE fld_growing AS (n int);
CREATE FUNCTION fld_grow(state fld_growing, e daybook.event) RETURNS fld_growing LANGUAGE sql IMMUTABLE AS $$ SELECT state $$;
SELECT daybook.create_fold('growing', 'account', 'fld_grow(fld_growing, daybook.event)', '(0)', 0);
SELECT daybook.fold('growing', 'account-1');
ALTER TYPE fld_growing ADD ATTRIBUTE m int;
SELECT daybook.fold('growing', 'account-1');
SELECT daybook.drop_fold('growing');
SELECT daybook.create_fold('growing', 'account', 'fld_grow(fld_growing, daybook.event)', '(0,1)', 0);
SELECT daybook.fold('growing', 'account-1');
SELECT daybook.drop_fold('growing');

-- an initial state of another type is converted as PostgreSQL converts it, when the fold is created
SET TimeZone = 'UTC';
CREATE FUNCTION fld_latest(state timestamptz, e daybook.event) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$ SELECT state $$;
SELECT daybook.create_fold('latest', 'account', 'fld_latest(timestamptz, daybook.event)', '2026-01-01'::date, 0);
SELECT fld_try($$SELECT daybook.create_fold('other', 'account', 'fld_latest(timestamptz, daybook.event)', 1, 0)$$);
SELECT name, initial FROM daybook.fold_definition WHERE name = 'latest';
SET TimeZone = 'Asia/Tokyo';
ALTER FUNCTION fld_latest COST 2;	-- sessions forget what they have prepared
SELECT daybook.fold('latest', 'account-1', NULL::timestamptz) = '2026-01-01 00:00:00+00';
RESET TimeZone;
SELECT daybook.drop_fold('latest');

-- and is read under settings of its own
SELECT daybook.create_fold('nulls', 'account', 'fld_array(text[], daybook.event)', '{NULL,a}', 0);
SET array_nulls = off;
ALTER FUNCTION fld_latest COST 3;
SELECT daybook.fold('nulls', 'nobody');
RESET array_nulls;
SELECT daybook.drop_fold('nulls');

-- a state in expanded form is not changed where it is looked at again
CREATE FUNCTION fld_appended(state int[], e daybook.event) RETURNS int[] LANGUAGE sql IMMUTABLE AS $$ SELECT state || e.version::int $$;
CREATE FUNCTION fld_looked_at(state int[], e daybook.event) RETURNS int[] LANGUAGE sql IMMUTABLE AS $$
SELECT CASE WHEN cardinality(array_append(state, 0)) < 4 THEN array_append(state, e.version::int) ELSE state END $$;
CREATE AGGREGATE fld_looked_at(daybook.event) (SFUNC = fld_looked_at, STYPE = int[], INITCOND = '{}');
SELECT daybook.create_event_table('fld_expanded');
INSERT INTO fld_expanded (stream_id, type, data) SELECT 'a', 'T', '{}' FROM generate_series(1, 4);
SELECT daybook.create_fold('appended', 'fld_expanded', 'fld_appended(int[], daybook.event)', '{}', 0);
SELECT daybook.create_fold('looked_at', 'fld_expanded', 'fld_looked_at(int[], daybook.event)', '{}', 0);
SELECT daybook.fold('appended', 'a', NULL::int[]), daybook.fold('looked_at', 'a', NULL::int[]), fld_looked_at(e) FROM daybook.replay('fld_expanded', 'a') e;
SELECT daybook.drop_event_table('fld_expanded', force => true);

-- a fold goes with its event table
SELECT daybook.drop_fold('balance');
SELECT fld_try($$SELECT daybook.fold('balance', 'account-1')$$);
SELECT daybook.drop_event_table('account', force => true);
SELECT count(*) FROM daybook.fold_definition;
