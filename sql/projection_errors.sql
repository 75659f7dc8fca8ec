-- What create_projection refuses, what a projection does about errors of its
-- handler, and who may do what.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS daybook;
CREATE SCHEMA errors_test;
SET search_path = errors_test, public;
SELECT daybook.create_event_table('account');
CREATE TABLE kept (id bigint PRIMARY KEY, n int);

-- sqlstate, detail and hint of what create_projection says
CREATE FUNCTION try(arguments text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE detail text; hint text;
BEGIN
	EXECUTE 'SELECT daybook.create_projection(' || arguments || ')';
	RETURN 'created';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n', SQLSTATE || ': ' || SQLERRM, nullif(detail, ''), nullif(hint, ''));
END $$;
\pset tuples_only
SELECT try($$NULL, '{account}', 'SELECT 1', '{kept}'$$);
SELECT try($$'p', '{account}', 'SELECT 1', NULL$$);
SELECT try($$'', '{account}', 'SELECT 1', '{kept}'$$);
SELECT try(format('%L, ''{account}'', ''SELECT 1'', ''{kept}''', repeat('x', 64)));
SELECT try($$E'two\nlines', '{account}', 'SELECT 1', '{kept}'$$);
SELECT try($$E'bell\x07', '{account}', 'SELECT 1', '{kept}'$$);
-- sources
SELECT try($$'p', '{}', 'SELECT 1', '{kept}'$$);
SELECT try($$'p', '{account,NULL}', 'SELECT 1', '{kept}'$$);
SELECT try($$'p', '{{account}}', 'SELECT 1', '{kept}'$$);
SELECT try($$'p', '{account,account}', 'SELECT 1', '{kept}'$$);
SELECT try($$'p', '{kept}', 'SELECT 1', '{kept}'$$);
SELECT try($$'p', '{nowhere}', 'SELECT 1', '{kept}'$$);
-- tables
CREATE VIEW kept_view AS SELECT * FROM kept;
CREATE UNLOGGED TABLE fleeting (id bigint);
SELECT try($$'p', '{account}', 'SELECT 1', '{}'$$);
SELECT try($$'p', '{account}', 'SELECT 1', '{kept,kept}'$$);
SELECT try($$'p', '{account}', 'SELECT 1', '{account}'$$);
SELECT try($$'p', '{account}', 'SELECT 1', '{kept_view}'$$);
SELECT try($$'p', '{account}', 'SELECT 1', '{fleeting}'$$);
SELECT try($$'p', '{account}', 'SELECT 1', '{pg_cast}'$$);
SELECT try($$'p', '{account}', 'SELECT 1', '{information_schema.sql_features}'$$);
SELECT try($$'p', '{account}', 'SELECT 1', '{daybook.projection}'$$);
-- the handler's text
SELECT try($$'p', '{account}', '', '{kept}'$$);
SELECT try($$'p', '{account}', 'INSERT INTO kept SELEC id FROM new_events', '{kept}'$$);
SELECT try($$'p', '{account}', 'apply(daybook.event)', '{kept}'$$);
SELECT try($$'p', '{account}', 'INSERT INTO kept SELECT amount FROM new_events', '{kept}'$$);
SELECT try($$'p', '{account}', 'INSERT INTO kept SELECT $1 FROM new_events', '{kept}'$$);
SELECT try($$'p', '{account}', 'INSERT INTO missing SELECT id FROM new_events', '{kept}'$$);
SELECT try($$'p', '{account}', 'SELECT 1; COMMIT', '{kept}'$$);
SELECT try($$'p', '{account}', 'COPY kept FROM stdin', '{kept}'$$);
SELECT try($$'p', '{account}', 'DECLARE c CURSOR FOR SELECT id FROM new_events', '{kept}'$$);
-- handler functions
CREATE FUNCTION takes_int(int) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION takes_two(daybook.event, int) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION returns_set(daybook.event) RETURNS SETOF int LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE procedure(daybook.event) LANGUAGE sql AS '';
SELECT try($$'p', '{account}', 'takes_int(int)'::regprocedure, '{kept}'$$);
SELECT try($$'p', '{account}', 'takes_two(daybook.event, int)'::regprocedure, '{kept}'$$);
SELECT try($$'p', '{account}', 'returns_set(daybook.event)'::regprocedure, '{kept}'$$);
SELECT try($$'p', '{account}', 'procedure(daybook.event)'::regprocedure, '{kept}'$$);
-- settings
SELECT try($$'p', '{account}', 'SELECT 1', '{kept}', mode => 'sync'$$);
SELECT try($$'p', '{account}', 'SELECT 1', '{kept}', on_error => 'skip'$$);
SELECT try($$'p', '{account}', 'SELECT 1', '{kept}', batch_size => 0$$);
SELECT try($$'p', '{account}', 'SELECT 1', '{kept}', batch_size => 1000001$$);
SELECT try($$'p', '{account}', 'SELECT 1', '{kept}', types => '{}'$$);
SELECT try($$'p', '{account}', 'SELECT 1', '{kept}', categories => '{a,NULL}'$$);
SELECT split_part(try($$'p', '{account}', 'SELECT 1', '{kept}', from_position => -1$$), E'\n', 1);
SELECT split_part(try($$'p', '{account}', 'SELECT 1', '{kept}', from_position => 9223372036854775807$$), E'\n', 1);
SELECT try($$'p', '{account}', 'SELECT 1', '{kept}', mode => 'inline', from_position => 1$$);
-- nothing was written; a name is taken once
SELECT count(*) FROM daybook.projection_status WHERE name IN ('p', '');
SELECT try($$'p', '{account}', 'INSERT INTO kept SELECT id, (data->>''n'')::int FROM new_events', '{kept}', batch_size => 100, on_error => 'stop'$$);
SELECT try($$'p', '{account}', 'SELECT 1', '{kept}'$$);
\pset tuples_only
SELECT daybook.pause_projection('nobody');
SELECT daybook.resume_projection('nobody');
SELECT daybook.rebuild_projection('nobody');
SELECT daybook.drop_projection('nobody');
SELECT daybook.wait_for_projection('nobody');
SELECT daybook.wait_for_projection(NULL);
\set VERBOSITY sqlstate
SELECT daybook.wait_for_projection('p', 'FFFFFFFF/FFFFFFFF');
\set VERBOSITY default

-- waits until a projection is in a state
CREATE FUNCTION reach(projection text, wanted text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE found text; since timestamptz := clock_timestamp();
BEGIN
	LOOP
		SELECT state INTO found FROM daybook.projection_status WHERE name = projection;
		EXIT WHEN found = wanted OR clock_timestamp() > since + interval '30 s';
		PERFORM pg_sleep(0.01);
	END LOOP;
	RETURN found;
END $$;

-- the event that fails is found, and those before it are applied
ALTER TABLE kept ADD CONSTRAINT not_77 CHECK (n <> 77);
SELECT daybook.wait_for_projection('p', timeout => '3min') AS base \gset
INSERT INTO account (stream_id, type, data) SELECT 'account-' || n % 7, 'Counted', jsonb_build_object('n', n) FROM generate_series(1, 250) n;
SELECT reach('p', 'failed');
SELECT count(*), max(n) FROM kept;
SELECT state, position - :base AS position, lag_events, error_sqlstate, error_message, error_context,
	error_position - :base AS error_position, error_event_table,
	error_event_id = (SELECT id FROM account WHERE data->>'n' = '77') AS same_event,
	attempts > 0 AS tried, retry_at > failed_at AS to_be_retried
FROM daybook.projection_status WHERE name = 'p';
SELECT regexp_replace(error_detail, '\(\d+', '(id') FROM daybook.projection_status WHERE name = 'p';
-- it is waited for in vain
DO $$ BEGIN PERFORM daybook.wait_for_projection('p', timeout => '3min'); EXCEPTION WHEN OTHERS THEN RAISE WARNING '%', regexp_replace(SQLERRM, '\d+$', 'N'); END $$;
-- it stays failed when tried again
SELECT daybook.resume_projection('p');
SELECT reach('p', 'failed');
-- and goes on by itself when the cause is gone
ALTER TABLE kept DROP CONSTRAINT not_77;
SELECT reach('p', 'running');
SELECT daybook.wait_for_projection('p', timeout => '3min') - :base AS position;
SELECT count(*), max(n) FROM kept;
SELECT state, error_sqlstate, error_message, error_position, failed_at, attempts, retry_at FROM daybook.projection_status WHERE name = 'p';

-- a function handler names the event at once
CREATE TABLE called (id bigint PRIMARY KEY, n int);
CREATE FUNCTION call(e daybook.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.data->>'n' = '123' THEN RAISE EXCEPTION 'event of % is refused', e.stream_id USING ERRCODE = 'DB001', DETAIL = 'a detail'; END IF;
	INSERT INTO called VALUES (e.id, (e.data->>'n')::int);
END $$;
SELECT daybook.create_projection('call', '{account}', 'call(daybook.event)'::regprocedure, '{called}', on_error => 'stop');
SELECT reach('call', 'failed');
SELECT count(*), max(n) FROM called;
SELECT error_sqlstate, error_message, error_detail, error_context, error_position - :base AS error_position FROM daybook.projection_status WHERE name = 'call';
CREATE OR REPLACE FUNCTION call(e daybook.event) RETURNS void LANGUAGE sql AS 'INSERT INTO called VALUES ($1.id, ($1.data->>''n'')::int)';
SELECT daybook.resume_projection('call');
SELECT daybook.wait_for_projection('call', timeout => '3min') - :base AS position;
SELECT count(*), count(DISTINCT n), max(n) FROM called;
SELECT daybook.drop_projection('call');

-- an upcaster that fails holds back its event, and none before it
CREATE TABLE upcast (id bigint PRIMARY KEY, n int);
CREATE FUNCTION refuse_99(jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT jsonb_build_object('n', 1 / (($1->>'n')::int - 99)) $$;
SELECT daybook.create_upcaster('account', 'Counted', 1, 'refuse_99(jsonb)'::regprocedure);
SELECT daybook.create_projection('upcast', '{account}', 'INSERT INTO upcast SELECT id, (data->>''n'')::int FROM new_events', '{upcast}', on_error => 'stop');
SELECT reach('upcast', 'failed');
SELECT count(*) FROM upcast;
SELECT position - :base AS position, error_sqlstate, error_message, error_context ~ 'stream "account-1", version 15' AS tells_event
FROM daybook.projection_status WHERE name = 'upcast';
SELECT daybook.drop_upcaster('account', 'Counted', 1);
SELECT daybook.resume_projection('upcast');
SELECT daybook.wait_for_projection('upcast', timeout => '3min') - :base AS position;
SELECT count(*) FROM upcast;
SELECT daybook.drop_projection('upcast');

-- errors that no event is to blame for: only tried again
CREATE TABLE tries (id bigint);
CREATE SEQUENCE attempt;
CREATE FUNCTION unlucky() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE passing text[] := '{40001,40P01,55P03,57014}';
BEGIN
	IF nextval('errors_test.attempt') <= cardinality(passing) THEN
		RAISE EXCEPTION 'bad luck' USING ERRCODE = passing[currval('errors_test.attempt')];
	END IF;
	RETURN true;
END $$;
SELECT daybook.create_projection('unlucky', '{account}', 'INSERT INTO tries SELECT id FROM new_events WHERE (SELECT errors_test.unlucky())', '{tries}');
SELECT daybook.wait_for_projection('unlucky', timeout => '1min') - :base AS position;
SELECT count(*), count(DISTINCT id) FROM tries;
SELECT last_value > 4 AS tried_again FROM attempt;
SELECT state, parked_events, attempts FROM daybook.projection_status WHERE name = 'unlucky';
SELECT daybook.drop_projection('unlucky');

-- a handler that changes its own projection
CREATE FUNCTION change_own(e daybook.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.data->>'n' = '100' THEN PERFORM daybook.pause_projection('own');
	ELSIF e.data->>'n' = '200' THEN PERFORM daybook.drop_projection('own');
	END IF;
END $$;
SELECT daybook.create_projection('own', '{account}', 'change_own(daybook.event)'::regprocedure, '{tries}', on_error => 'stop');
SELECT reach('own', 'failed');
SELECT error_sqlstate, error_message, attempts > 0 AS tried, retry_at > failed_at AS to_be_retried FROM daybook.projection_status WHERE name = 'own';
SELECT daybook.alter_projection('own', on_error => 'park'), daybook.resume_projection('own');
SELECT daybook.wait_for_projection('own', timeout => '1min') - :base AS position;
SELECT data->>'n' AS n, p.sqlstate, p.message FROM daybook.parked_events p JOIN account a ON a.id = p.event_id WHERE projection = 'own' AND is_cause ORDER BY position;
SELECT daybook.drop_projection('own');
SELECT daybook.create_projection('own', '{account}', 'change_own(daybook.event)'::regprocedure, '{tries}', mode => 'inline', types => '{Changed}');
INSERT INTO account (stream_id, type, data) VALUES ('account-1', 'Changed', '{"n": 100}');
SELECT daybook.drop_projection('own');

-- a COMMIT is no event's fault: the projection stops, and parks nothing
CREATE FUNCTION committing(daybook.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$;
SELECT daybook.create_projection('committing', '{account}', 'committing(daybook.event)'::regprocedure, '{tries}');
SELECT reach('committing', 'failed');
SELECT error_sqlstate, error_message, parked_events FROM daybook.projection_status WHERE name = 'committing';
SELECT daybook.drop_projection('committing');

-- an error that is stored apart from its row, and a worker that is started again
CREATE FUNCTION wordy(daybook.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION USING MESSAGE = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1000) i);
END $$;
SELECT daybook.create_projection('wordy', '{account}', 'wordy(daybook.event)'::regprocedure, '{tries}', on_error => 'stop');
SELECT reach('wordy', 'failed');
DO $$
DECLARE before daybook.projection_status;
BEGIN
	SELECT * INTO before FROM daybook.projection_status WHERE name = 'wordy';
	PERFORM pg_terminate_backend(before.worker_pid);
	FOR i IN 1..6000 LOOP
		EXIT WHEN (SELECT worker_pid <> before.worker_pid AND attempts > before.attempts
			FROM daybook.projection_status WHERE name = 'wordy');
		PERFORM pg_sleep(0.01);
		IF i = 6000 THEN RAISE WARNING 'it was not tried again'; END IF;
	END LOOP;
END $$;
SELECT length(error_message) FROM daybook.projection_status WHERE name = 'wordy';
SELECT daybook.drop_projection('wordy');

-- a table that is gone, and one that comes back
CREATE TABLE brief (id bigint);
SELECT daybook.create_projection('brief', '{account}', 'INSERT INTO brief SELECT id FROM new_events', '{brief}');
SELECT daybook.wait_for_projection('brief', timeout => '3min') - :base AS position;
DROP TABLE brief;
INSERT INTO account (stream_id, type, data) VALUES ('account-1', 'Counted', '{"n": 1000}');
SELECT reach('brief', 'failed');
SELECT error_sqlstate, error_message, error_position - :base AS error_position FROM daybook.projection_status WHERE name = 'brief';
SELECT regexp_replace(try, 'OID \d+', 'OID N') FROM try($$'x', '{account}', 'SELECT 1', '{kept}'); SELECT daybook.rebuild_projection('brief'$$);
CREATE TABLE brief (id bigint);
SELECT daybook.resume_projection('brief');
SELECT daybook.drop_projection('brief');

-- tables of two projections are not rebuilt for one of them
SELECT daybook.create_projection('second', '{account}', 'INSERT INTO kept SELECT -id, 0 FROM new_events', '{kept}');
SELECT daybook.wait_for_projection('second', timeout => '3min') - :base AS position;
SELECT daybook.rebuild_projection('second');
SELECT daybook.drop_projection('second');
-- nor are tables that others refer to
CREATE TABLE referring (id bigint REFERENCES kept);
SELECT daybook.rebuild_projection('p');
DROP TABLE referring;

-- a position that the log does not have is from another backup: nothing is passed over
SELECT daybook.pause_projection('p');
UPDATE daybook.projection_position SET position = position + 1000000 WHERE name = 'p';
SELECT daybook.resume_projection('p');
SELECT reach('p', 'failed');
SELECT error_sqlstate, error_message, error_position, parked_events FROM daybook.projection_status WHERE name = 'p';
SELECT daybook.pause_projection('p');
UPDATE daybook.projection_position SET position = position - 1000000 WHERE name = 'p';
SELECT daybook.resume_projection('p');
SELECT daybook.wait_for_projection('p', timeout => '3min') - :base AS position;

-- waiting ends with the time
SELECT daybook.create_projection('slow', '{account}', 'INSERT INTO tries SELECT id FROM new_events, pg_sleep(3600)', '{tries}');
\set VERBOSITY sqlstate
SELECT daybook.wait_for_projection('slow', timeout => '20ms');
\set VERBOSITY default
-- and an endless handler can be paused, resumed and dropped
SELECT daybook.pause_projection('slow');
SELECT daybook.resume_projection('slow');
SELECT daybook.drop_projection('slow');

-- a cancelled handler is tried again
SELECT daybook.create_projection('cancelled', '{account}', 'INSERT INTO tries SELECT id FROM new_events WHERE nextval(''errors_test.attempt'') > 1000 OR pg_sleep(3600) IS NULL', '{tries}');
DO $$ BEGIN
	-- its worker is in the handler when it sleeps
	FOR i IN 1..3000 LOOP
		EXIT WHEN EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'daybook projector' AND datname = current_database() AND query LIKE 'projection cancelled:%' AND wait_event = 'PgSleep');
		PERFORM pg_sleep(0.01), pg_stat_clear_snapshot();
	END LOOP;
	PERFORM setval('errors_test.attempt', 1000);
	PERFORM pg_cancel_backend(worker_pid) FROM daybook.projection_status WHERE name = 'cancelled';
END $$;
SELECT daybook.wait_for_projection('cancelled', timeout => '3min') - :base AS position;
SELECT daybook.drop_projection('cancelled');

-- privileges
CREATE ROLE projection_ann;
CREATE ROLE projection_bob;
GRANT USAGE, CREATE ON SCHEMA errors_test TO projection_ann, projection_bob;
SET ROLE projection_ann;
CREATE TABLE ann (id bigint PRIMARY KEY, who text, recorded_by text);
CREATE TABLE ann_inline (id bigint PRIMARY KEY);
\pset tuples_only
SELECT try($$'ann', '{account}', 'SELECT 1', '{ann}'$$);
RESET ROLE;
GRANT SELECT ON account TO projection_ann;
SET ROLE projection_ann;
SELECT try($$'ann', '{account}', 'SELECT 1', '{kept}'$$);
SELECT try($$'ann', '{account}', 'INSERT INTO kept SELECT id FROM new_events', '{ann}'$$);
SELECT try($$'ann', '{account}', 'INSERT INTO ann SELECT id, current_user FROM new_events', '{ann}', mode => 'inline'$$);
RESET ROLE;
REVOKE EXECUTE ON FUNCTION call FROM PUBLIC;
SET ROLE projection_ann;
SELECT try($$'ann', '{account}', 'call(daybook.event)'::regprocedure, '{ann}'$$);
\pset tuples_only
-- handlers run as the owner, who cannot become anyone else
SELECT daybook.create_projection('ann', '{account}', 'INSERT INTO ann SELECT id, current_user, recorded_by FROM new_events WHERE data->>''n'' = ''1''', '{ann}');
SELECT daybook.wait_for_projection('ann', timeout => '3min') - :base AS position;
SELECT who FROM ann;
CREATE FUNCTION become() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RESET ROLE; RETURN current_user; END $$;
SELECT daybook.create_projection('climb', '{account}', 'INSERT INTO ann SELECT -id, errors_test.become() FROM new_events', '{ann}');
SELECT reach('climb', 'failed');
SELECT error_sqlstate, error_message FROM daybook.projection_status WHERE name = 'climb';
SELECT daybook.drop_projection('climb');
-- nor leave anything in the session, which may be that of who appends
CREATE FUNCTION leave() RETURNS text LANGUAGE plpgsql AS $$ BEGIN CREATE TEMP TABLE left_behind (n int); RETURN ''; END $$;
SELECT daybook.create_projection('leave', '{account}', 'INSERT INTO ann SELECT -id, errors_test.leave() FROM new_events', '{ann}');
SELECT reach('leave', 'failed');
SELECT error_sqlstate, error_message FROM daybook.projection_status WHERE name = 'leave';
SELECT daybook.drop_projection('leave');
-- others see how it fares, and not its rows in errors
SET ROLE projection_bob;
SELECT daybook.pause_projection('ann');
SELECT daybook.resume_projection('ann');
SELECT daybook.rebuild_projection('ann');
SELECT daybook.drop_projection('ann');
SELECT daybook.wait_for_projection('ann', timeout => '3min') - :base AS position;
SELECT name, owner, state FROM daybook.projection_status WHERE name = 'ann';
SELECT * FROM daybook.projection;
RESET ROLE;
-- a right that is taken away later
REVOKE SELECT ON account FROM projection_ann;
INSERT INTO account (stream_id, type, data) VALUES ('account-1', 'Counted', '{"n": 1}');
SELECT reach('ann', 'failed');
SET ROLE projection_ann;
SELECT error_sqlstate, error_message, error_position FROM daybook.projection_status WHERE name = 'ann';
SET ROLE projection_bob;
SELECT error_sqlstate, error_message, error_detail, error_context FROM daybook.projection_status WHERE name = 'ann';
RESET ROLE;
GRANT SELECT ON account TO projection_ann;
SELECT daybook.resume_projection('ann');
SELECT daybook.wait_for_projection('ann', timeout => '3min') - :base AS position;
SELECT count(*) FROM ann;
-- an error that shows a row, to the owner alone
SELECT daybook.alter_projection('ann', on_error => 'stop');
ALTER TABLE ann ADD CONSTRAINT nobody CHECK (who IS NULL) NOT VALID;
INSERT INTO account (stream_id, type, data) VALUES ('account-1', 'Counted', '{"n": 1}');
SELECT reach('ann', 'failed');
SET ROLE projection_bob;
SELECT error_sqlstate, error_message, error_detail, error_context FROM daybook.projection_status WHERE name = 'ann';
SET ROLE projection_ann;
SELECT error_sqlstate, error_message, regexp_replace(error_detail, '\d+', 'id') AS error_detail, error_context IS NOT NULL AS has_context FROM daybook.projection_status WHERE name = 'ann';
RESET ROLE;
ALTER TABLE ann DROP CONSTRAINT nobody;
SELECT daybook.resume_projection('ann');
SELECT daybook.wait_for_projection('ann', timeout => '3min') - :base AS position;
SELECT count(*) FROM ann;
-- inline takes the right to make triggers
GRANT TRIGGER ON account TO projection_ann;
SET ROLE projection_ann;
SELECT daybook.create_projection('ann_inline', '{account}', 'INSERT INTO ann_inline SELECT id FROM new_events', '{ann_inline}', mode => 'inline');
RESET ROLE;
GRANT INSERT ON account TO projection_bob;
SET ROLE projection_bob;
INSERT INTO account (stream_id, type, data) VALUES ('account-1', 'Counted', '{"n": 2}');
RESET ROLE;
SELECT count(*) = (SELECT count(*) FROM account) AS all_there FROM ann_inline;
SET ROLE projection_ann;
SELECT daybook.pause_projection('ann_inline');
SELECT daybook.resume_projection('ann_inline');
SELECT daybook.drop_projection('ann_inline');
SELECT daybook.drop_projection('ann');
RESET ROLE;

-- a transaction that is to read changes nothing
SET default_transaction_read_only = on;
SELECT daybook.create_projection('q', '{account}', 'INSERT INTO kept SELECT id FROM new_events', '{kept}');
SELECT daybook.pause_projection('p');
SELECT daybook.resume_projection('p');
SELECT daybook.alter_projection('p', batch_size => 7);
SELECT daybook.rebuild_projection('p');
SELECT daybook.cancel_rebuild('p');
SELECT daybook.retry_parked('p');
SELECT daybook.discard_parked('p', 1, 'read only');
SELECT daybook.discard_parked('p', 'account-1', 'read only');
SELECT daybook.verify_projection('p');
SELECT daybook.drop_projection('p');
RESET default_transaction_read_only;
-- the trigger function of the definitions is not for tables of one's own
CREATE TABLE restored (restored_pid text, restored_session_start text);
CREATE TRIGGER restored BEFORE INSERT ON restored FOR EACH ROW EXECUTE FUNCTION daybook.projection_restored();
INSERT INTO restored VALUES ('a', 'b');
-- nor for another event of theirs
BEGIN;
CREATE TRIGGER restored BEFORE UPDATE ON daybook.projection EXECUTE FUNCTION daybook.projection_restored();
UPDATE daybook.projection SET name = name;
ROLLBACK;

SELECT daybook.drop_projection('p');
SELECT daybook.drop_event_table('account', true);
DROP SCHEMA errors_test CASCADE;
DROP ROLE projection_ann, projection_bob;
