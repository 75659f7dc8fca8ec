-- A handler runs with its owner's rights: nobody else can slip objects under
-- the names that it uses.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS daybook;
CREATE ROLE trust_carol;
CREATE ROLE trust_dave;
CREATE SCHEMA trust_carol AUTHORIZATION trust_carol;
CREATE SCHEMA trust_dave AUTHORIZATION trust_dave;
GRANT USAGE ON SCHEMA trust_carol TO trust_dave;
GRANT USAGE ON SCHEMA trust_dave TO trust_carol;
CREATE SCHEMA trust_test;
GRANT USAGE ON SCHEMA trust_test TO PUBLIC;

CREATE FUNCTION trust_test.try(name text, handler text, tables regclass[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE detail text; hint text;
BEGIN
	PERFORM daybook.create_projection(name, '{trust_carol.orders}', handler, tables);
	RETURN 'created';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n', SQLSTATE || ': ' || SQLERRM, nullif(detail, ''), nullif(hint, ''));
END $$;
CREATE FUNCTION trust_test.reach(projection text, wanted text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE found text; since timestamptz := clock_timestamp();
BEGIN
	LOOP
		SELECT state INTO found FROM daybook.projection_status WHERE name = projection;
		EXIT WHEN found = wanted OR clock_timestamp() > since + interval '30 s';
		PERFORM pg_sleep(0.01);
	END LOOP;
	RETURN found;
END $$;

CREATE FUNCTION trust_test.kept_memory() RETURNS bigint SECURITY DEFINER LANGUAGE sql AS $$ SELECT used_bytes FROM pg_backend_memory_contexts WHERE name = 'TopMemoryContext' $$;

-- carol has the events, and what would be found in the place of format()
SET ROLE trust_carol;
SELECT daybook.create_event_table('trust_carol.orders');
GRANT SELECT ON trust_carol.orders TO trust_dave;
CREATE FUNCTION trust_carol.format(text, text, bigint) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN 'run as ' || current_user; END $$;
INSERT INTO trust_carol.orders (stream_id, type, data) SELECT 'order-' || i % 3, 'Placed', '{}' FROM generate_series(1, 9) i;
-- dave has the projection: the schema of the events is not looked into
SET ROLE trust_dave;
CREATE TABLE trust_dave.t (label text);
SELECT daybook.create_projection('trusting', '{trust_carol.orders}', $$INSERT INTO trust_dave.t SELECT format('%s/%s', stream_id, version) FROM new_events$$, '{trust_dave.t}');
SELECT daybook.wait_for_projection('trusting', timeout => '3min') > 0 AS done;
SELECT label FROM trust_dave.t ORDER BY 1 LIMIT 2;
SELECT daybook.drop_projection('trusting');
SELECT trust_test.try('trusting', 'INSERT INTO t SELECT stream_id FROM orders', '{trust_dave.t}');

-- that of a table has to be, and what carol puts there stops the projection
SET ROLE trust_carol;
DROP FUNCTION trust_carol.format(text, text, bigint);
GRANT CREATE ON SCHEMA trust_carol TO trust_dave;
SET ROLE trust_dave;
CREATE TABLE trust_carol.t (label text);
SELECT daybook.create_projection('trusting', '{trust_carol.orders}', $$INSERT INTO t SELECT format('%s/%s', stream_id, version) FROM new_events$$, '{trust_carol.t}');
SELECT daybook.wait_for_projection('trusting', timeout => '3min') > 0 AS done;
SELECT count(*) FROM trust_carol.t;
SELECT daybook.pause_projection('trusting');
SET ROLE trust_carol;
CREATE FUNCTION trust_carol.format(text, text, bigint) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN 'run as ' || current_user; END $$;
INSERT INTO trust_carol.orders (stream_id, type, data) SELECT 'order-' || i % 3, 'Placed', '{}' FROM generate_series(1, 9) i;
SET ROLE trust_dave;
SELECT daybook.resume_projection('trusting');
SELECT trust_test.reach('trusting', 'failed');
SELECT error_sqlstate, error_message, error_detail, parked_events FROM daybook.projection_status WHERE name = 'trusting';
SELECT count(*), count(*) FILTER (WHERE label LIKE 'run as%') AS as_carol_says FROM trust_carol.t;
-- it goes on when that is gone
SET ROLE trust_carol;
DROP FUNCTION trust_carol.format(text, text, bigint);
SET ROLE trust_dave;
SELECT daybook.resume_projection('trusting');
SELECT daybook.wait_for_projection('trusting', timeout => '3min') > 0 AS done;
SELECT count(*) FROM trust_carol.t;
SELECT daybook.drop_projection('trusting');

-- all that could run code of hers
SET ROLE trust_carol;
CREATE FUNCTION trust_carol.format(text, text, bigint) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN 'run as ' || current_user; END $$;
CREATE FUNCTION trust_carol.beside(text, bigint) RETURNS text LANGUAGE sql AS $$ SELECT 'run as ' || current_user $$;
CREATE OPERATOR trust_carol.|| (FUNCTION = trust_carol.beside, LEFTARG = text, RIGHTARG = bigint);
CREATE OPERATOR trust_carol.<<< (FUNCTION = int8lt, LEFTARG = bigint, RIGHTARG = bigint);
CREATE VIEW trust_carol.seen AS SELECT trust_carol.beside('a', 1) AS label;
CREATE TABLE trust_carol.plain (label text);
INSERT INTO trust_carol.plain VALUES ('plain');
CREATE TABLE trust_carol.secured (label text);
ALTER TABLE trust_carol.secured ENABLE ROW LEVEL SECURITY;
CREATE TABLE trust_carol.entries (label text);
GRANT ALL ON trust_carol.seen, trust_carol.plain, trust_carol.secured, trust_carol.entries TO trust_dave;
CREATE DOMAIN trust_carol.label AS text CHECK (trust_carol.beside(VALUE, 1) IS NOT NULL);
CREATE TYPE trust_carol.labelled AS (label trust_carol.label);
CREATE PROCEDURE trust_carol.work() LANGUAGE sql AS '';
CREATE AGGREGATE trust_carol.gathered(text) (SFUNC = textcat, STYPE = text);
CREATE FUNCTION trust_carol.handle(daybook.event) RETURNS void LANGUAGE sql AS '';
SET ROLE trust_dave;
CREATE FUNCTION trust_dave.by_sql(text, bigint) RETURNS text LANGUAGE sql AS $$ SELECT format('%s/%s', $1, $2) $$;
CREATE FUNCTION trust_dave.by_plpgsql(text, bigint) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN format('%s/%s', $1, $2); END $$;
\pset tuples_only
SELECT trust_test.try('p', $$INSERT INTO t SELECT format('%s/%s', stream_id, version) FROM new_events$$, '{trust_carol.t}');
SELECT split_part(trust_test.try('p', $$INSERT INTO t SELECT gathered(stream_id) FROM new_events$$, '{trust_carol.t}'), E'\n', 1);
SELECT split_part(trust_test.try('p', $$INSERT INTO t SELECT stream_id || version FROM new_events$$, '{trust_carol.t}'), E'\n', 1);
SELECT split_part(trust_test.try('p', $$INSERT INTO t SELECT stream_id FROM new_events WHERE id < 1 AND version <<< ANY (ARRAY[1, 2]::bigint[])$$, '{trust_carol.t}'), E'\n', 1);
SELECT split_part(trust_test.try('p', $$INSERT INTO t SELECT label FROM new_events, seen$$, '{trust_carol.t}'), E'\n', 1);
SELECT split_part(trust_test.try('p', $$INSERT INTO t SELECT label FROM new_events, secured$$, '{trust_carol.t}'), E'\n', 1);
SELECT split_part(trust_test.try('p', $$INSERT INTO t SELECT stream_id::label FROM new_events$$, '{trust_carol.t}'), E'\n', 1);
SELECT split_part(trust_test.try('p', $$INSERT INTO t SELECT r.a FROM new_events, jsonb_to_record(data) AS r(a label)$$, '{trust_carol.t}'), E'\n', 1);
SELECT split_part(trust_test.try('p', $$INSERT INTO t SELECT r.label FROM new_events, jsonb_populate_record(NULL::labelled, data) r$$, '{trust_carol.t}'), E'\n', 1);
SELECT split_part(trust_test.try('p', $$INSERT INTO t SELECT (ROW(stream_id)::labelled).label FROM new_events$$, '{trust_carol.t}'), E'\n', 1);
SELECT split_part(trust_test.try('p', $$INSERT INTO t SELECT (('(' || stream_id || ')')::labelled).label FROM new_events$$, '{trust_carol.t}'), E'\n', 1);
SELECT split_part(trust_test.try('p', $$INSERT INTO t SELECT (('{' || stream_id || '}')::label[])[1] FROM new_events$$, '{trust_carol.t}'), E'\n', 1);
SELECT split_part(trust_test.try('p', $$INSERT INTO t SELECT x.a FROM new_events, XMLTABLE('/r' PASSING xml '<r><a>1</a></r>' COLUMNS a label) x$$, '{trust_carol.t}'), E'\n', 1);
SELECT split_part(trust_test.try('p', $$INSERT INTO entries SELECT stream_id FROM new_events$$, '{trust_carol.t}'), E'\n', 1);
SELECT split_part(trust_test.try('p', $$WITH gone AS (DELETE FROM entries RETURNING label) INSERT INTO t SELECT label FROM gone$$, '{trust_carol.t}'), E'\n', 1);
SELECT split_part(trust_test.try('p', $$TRUNCATE entries$$, '{trust_carol.t}'), E'\n', 1);
SELECT split_part(trust_test.try('p', $$CALL work()$$, '{trust_carol.t}'), E'\n', 1);
SELECT split_part(trust_test.try('p', $$EXPLAIN SELECT * FROM seen$$, '{trust_carol.t}'), E'\n', 1);
SELECT daybook.create_projection('p', '{trust_carol.orders}', 'trust_carol.handle(daybook.event)'::regprocedure, '{trust_carol.t}');
\pset tuples_only
-- other people's plain tables are read, and what is named is taken as it is named
TRUNCATE trust_carol.t;
SELECT trust_test.try('plain', $$INSERT INTO t SELECT DISTINCT pg_catalog.format('%s/%s', stream_id, label) FROM new_events, plain$$, '{trust_carol.t}');
SELECT daybook.wait_for_projection('plain', timeout => '3min') > 0 AS done;
SELECT label FROM trust_carol.t ORDER BY 1;
SELECT daybook.drop_projection('plain');
-- functions that the handler calls are looked into as well, whether the planner inlines them or not
SELECT trust_test.try('sql', $$INSERT INTO t SELECT trust_dave.by_sql(stream_id, version) FROM new_events$$, '{trust_carol.t}');
SELECT trust_test.reach('sql', 'failed');
SELECT trust_test.try('plpgsql', $$INSERT INTO t SELECT trust_dave.by_plpgsql(stream_id, version) FROM new_events$$, '{trust_carol.t}');
SELECT trust_test.reach('plpgsql', 'failed');
SELECT name, error_sqlstate, error_message, parked_events FROM daybook.projection_status WHERE name IN ('sql', 'plpgsql') ORDER BY name;
SELECT daybook.drop_projection('sql'), daybook.drop_projection('plpgsql');
SELECT count(*) FROM trust_carol.t WHERE label LIKE 'run as%';
-- inline, too
\set SHOW_CONTEXT never
RESET ROLE;
GRANT TRIGGER ON trust_carol.orders TO trust_dave;
SET ROLE trust_dave;
SELECT daybook.create_projection('inline', '{trust_carol.orders}', $$INSERT INTO t SELECT pg_catalog.format('%s/%s', stream_id, trust_dave.by_plpgsql(stream_id, version)) FROM new_events$$, '{trust_carol.t}', mode => 'inline', types => '{Shipped}');
RESET ROLE;
INSERT INTO trust_carol.orders (stream_id, type, data) VALUES ('order-1', 'Shipped', '{}');
-- also where the function has a plan from before, made with the same search path
SET ROLE trust_carol;
SET search_path = pg_catalog, trust_carol, pg_temp;
SELECT count(trust_dave.by_plpgsql('a', 1)) FROM generate_series(1, 10);
INSERT INTO trust_carol.orders (stream_id, type, data) VALUES ('order-1', 'Shipped', '{}');
RESET search_path;
SET ROLE trust_dave;
SELECT daybook.drop_projection('inline');

-- a handler function whose name another role has taken over is not run
RESET ROLE;
CREATE SCHEMA trust_dave_lib AUTHORIZATION trust_dave;
SET ROLE trust_dave;
GRANT CREATE, USAGE ON SCHEMA trust_dave_lib TO trust_carol;
CREATE TABLE trust_dave.calls (label text);
CREATE FUNCTION trust_dave_lib.handle(daybook.event) RETURNS void LANGUAGE sql AS $$ INSERT INTO trust_dave.calls VALUES ('dave''s') $$;
SELECT daybook.create_projection('calls', '{trust_carol.orders}', 'trust_dave_lib.handle(daybook.event)'::regprocedure, '{trust_dave.calls}', types => '{Called}');
SELECT daybook.create_projection('inline', '{trust_carol.orders}', 'trust_dave_lib.handle(daybook.event)'::regprocedure, '{trust_dave.calls}', mode => 'inline', types => '{Sent}');
DROP FUNCTION trust_dave_lib.handle(daybook.event);
SET ROLE trust_carol;
CREATE FUNCTION trust_dave_lib.handle(daybook.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO trust_dave.calls VALUES ('run as ' || current_user); END $$;
INSERT INTO trust_carol.orders (stream_id, type) VALUES ('order-1', 'Sent');
INSERT INTO trust_carol.orders (stream_id, type) VALUES ('order-1', 'Called');
SET ROLE trust_dave;
SELECT trust_test.reach('calls', 'failed');
SELECT error_sqlstate, error_message, error_detail FROM daybook.projection_status WHERE name = 'calls';
SELECT daybook.create_projection('theirs', '{trust_carol.orders}', 'trust_dave_lib.handle(daybook.event)'::regprocedure, '{trust_dave.calls}');
SELECT * FROM trust_dave.calls;
-- until it is the owner's again, or a superuser's
DROP FUNCTION trust_dave_lib.handle(daybook.event);
RESET ROLE;
CREATE FUNCTION trust_dave_lib.handle(daybook.event) RETURNS void LANGUAGE sql AS $$ INSERT INTO trust_dave.calls VALUES ('a superuser''s') $$;
INSERT INTO trust_carol.orders (stream_id, type) VALUES ('order-1', 'Sent');
SET ROLE trust_dave;
SELECT daybook.resume_projection('calls');
SELECT daybook.wait_for_projection('calls', timeout => '3min') > 0 AS done;
SELECT label, count(*) FROM trust_dave.calls GROUP BY label;
SELECT daybook.drop_projection('inline'), daybook.drop_projection('calls');
CREATE FUNCTION pg_temp.handle(daybook.event) RETURNS void LANGUAGE sql AS '';
\set VERBOSITY sqlstate
SELECT daybook.create_projection('temporary', '{trust_carol.orders}', 'pg_temp.handle(daybook.event)'::regprocedure, '{trust_dave.calls}');
\set VERBOSITY default

-- where only the owner of the database may create, here a superuser, others' objects are what that one has made of them
RESET ROLE;
CREATE TABLE public.trust_t (label text);
ALTER TABLE public.trust_t OWNER TO trust_dave;
CREATE FUNCTION public.trust_label(text, bigint) RETURNS text LANGUAGE sql AS $$ SELECT $1 || '/' || $2 $$;
ALTER FUNCTION public.trust_label(text, bigint) OWNER TO trust_carol;
SET ROLE trust_dave;
SELECT trust_test.try('public', 'INSERT INTO trust_t SELECT trust_label(stream_id, version) FROM new_events', '{public.trust_t}');
SELECT daybook.drop_projection('public');
RESET ROLE;
DROP FUNCTION public.trust_label(text, bigint);
DROP TABLE public.trust_t;

-- in a schema where everybody may create, the owner's own objects are found
RESET ROLE;
GRANT CREATE ON SCHEMA public TO PUBLIC;
SET ROLE trust_dave;
CREATE TABLE public.trust_t (label text);
CREATE FUNCTION public.trust_label(text, bigint) RETURNS text LANGUAGE sql AS $$ SELECT $1 || '/' || $2 $$;
SELECT daybook.create_projection('public', '{trust_carol.orders}', $$INSERT INTO trust_t SELECT trust_label(stream_id, version) FROM new_events$$, '{trust_t}');
SELECT daybook.wait_for_projection('public', timeout => '3min') > 0 AS done;
SELECT label FROM trust_t ORDER BY 1 LIMIT 2;
-- of the search paths that handlers have had, those of verifications, which have schemas of their own, are not kept
SELECT count(*) FROM daybook.verify_projection('public');
SELECT trust_test.kept_memory() AS memory \gset
DO $$ BEGIN FOR i IN 1..60 LOOP PERFORM daybook.verify_projection('public'); END LOOP; END $$;
SELECT trust_test.kept_memory() - :memory < 6000 AS keeps_little;
SELECT daybook.drop_projection('public');
-- plans of others that it cannot meet, since they were made for another search path, are kept
SELECT daybook.create_projection('public', '{trust_carol.orders}', $$INSERT INTO trust_t SELECT trust_label(stream_id, version) FROM new_events$$, '{trust_t}', mode => 'inline', types => '{Kept}');
SET ROLE trust_carol;
SET search_path = public;
CREATE FUNCTION trust_carol.planned() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'planned'; RETURN 1; END $$;
PREPARE planned AS SELECT trust_carol.planned();
SET plan_cache_mode = force_generic_plan;
INSERT INTO trust_carol.orders (stream_id, type) VALUES ('order-1', 'Kept');
EXECUTE planned;
INSERT INTO trust_carol.orders (stream_id, type) VALUES ('order-1', 'Kept');
EXECUTE planned;
RESET plan_cache_mode;
RESET search_path;
SET ROLE trust_dave;
SELECT daybook.drop_projection('public');
RESET ROLE;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

SELECT daybook.drop_event_table('trust_carol.orders', force => true);
DROP OWNED BY trust_carol, trust_dave CASCADE;
DROP ROLE trust_carol, trust_dave;
DROP SCHEMA trust_test CASCADE;
