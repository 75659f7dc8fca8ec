-- Projections kept by the worker: SQL and function handlers, filters, several
-- sources, pausing, rebuilding, waiting.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS daybook;
CREATE SCHEMA projection_test;
SET search_path = projection_test, public;
SELECT daybook.create_event_table('account');
SELECT daybook.create_event_table('transfer');
CREATE TABLE balance (account text PRIMARY KEY, amount numeric NOT NULL, events int NOT NULL);

-- a handler over new_events; positions in this test count from where it starts
SELECT daybook.create_projection('balance', ARRAY['account', 'transfer']::regclass[], $$
	INSERT INTO balance AS b
	SELECT stream_id, sum((data->>'amount')::numeric), count(*) FROM new_events GROUP BY 1
	ON CONFLICT (account) DO UPDATE SET amount = b.amount + excluded.amount, events = b.events + excluded.events
$$, ARRAY['balance']::regclass[]);
SELECT daybook.wait_for_projection('balance', timeout => '3min') AS base \gset
INSERT INTO account (stream_id, type, data) VALUES
	('account-1', 'Opened', '{"amount": 100}'),
	('account-2', 'Opened', '{"amount": 10}'),
	('account-1', 'Deposited', '{"amount": 50}');
SELECT daybook.wait_for_projection('balance', timeout => '3min') - :base AS position;
SELECT * FROM balance ORDER BY 1;

-- new events of both sources arrive
INSERT INTO account (stream_id, type, data) VALUES ('account-2', 'Withdrawn', '{"amount": -4}');
INSERT INTO transfer (stream_id, type, data) VALUES ('account-1', 'Received', '{"amount": 7}');
SELECT daybook.wait_for_projection('balance', timeout => '3min') - :base AS position;
SELECT * FROM balance ORDER BY 1;
SELECT name, mode, state, position - :base AS position, head - :base AS head, lag_events, lag_seconds, attempts,
	error_sqlstate, error_message, worker_pid IS NOT NULL AS has_worker, batch_size, on_error, sources, tables
FROM daybook.projection_status WHERE name = 'balance';

-- wait_for_projection sees past the snapshot of its transaction
INSERT INTO account (stream_id, type, data) VALUES ('account-3', 'Opened', '{"amount": 3}');
BEGIN;
SELECT count(*) FROM balance WHERE account = 'account-4';
SELECT daybook.wait_for_projection('balance', timeout => '3min') - :base AS position;
SELECT amount FROM balance WHERE account = 'account-3';
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM balance;
SELECT daybook.wait_for_projection('balance', pg_current_wal_insert_lsn(), timeout => '3min') - :base AS position;
COMMIT;

-- a list of types and one of categories
CREATE TABLE picked (id bigint PRIMARY KEY, at bigint, stream_id text, type text, source regclass);
SELECT daybook.create_projection('picked', '{account,transfer}',
	'INSERT INTO picked SELECT id, position, stream_id, type, event_table FROM new_events',
	'{picked}', types => '{Opened,Received}', categories => '{account,ledger}', batch_size => 2);
INSERT INTO account (stream_id, type, data)
SELECT stream_id, type, '{"amount": 0}'
FROM (VALUES ('person-1', 'Opened'), ('ledger', 'Opened'), ('ledger-1-2', 'Opened'), ('account-1', 'opened'), ('accounts-1', 'Opened'))
	AS v (stream_id, type);
SELECT daybook.wait_for_projection('picked', timeout => '3min') - :base AS position;
SELECT at - :base AS at, stream_id, type, source FROM picked ORDER BY at;
SELECT id = (SELECT e.id FROM account e WHERE e.stream_id = 'ledger') AS same_id FROM picked WHERE stream_id = 'ledger';

-- several statements: each sees the work of the one before; all columns are there
CREATE TABLE seen (position bigint PRIMARY KEY, doubled bigint, whole daybook.log_event);
SELECT daybook.create_projection('seen', '{transfer}', $$
	INSERT INTO seen SELECT position, position, new_events::daybook.log_event FROM new_events;
	UPDATE seen SET doubled = 2 * s.position FROM new_events n JOIN seen s USING (position) WHERE seen.position = n.position;
	SELECT count(*) FROM seen;
$$, '{seen}');
SELECT daybook.wait_for_projection('seen', timeout => '3min') - :base AS position;
SELECT doubled = 2 * position AS doubled, (whole).position = position AS same_position, (whole).event_table,
	(whole).version, (whole).schema_version, (whole).recorded_by = session_user AS recorder, (whole).stream_id, (whole).type, (whole).data
FROM seen;

-- functions: of a log_event, of an event, in SQL and in PL/pgSQL, in order
CREATE TABLE running (id bigint PRIMARY KEY, account text, total numeric);
CREATE FUNCTION running_total(e daybook.log_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO running SELECT e.id, e.stream_id, (e.data->>'amount')::numeric
		+ coalesce((SELECT total FROM running r WHERE r.account = e.stream_id ORDER BY r.id DESC LIMIT 1), 0);
END $$;
SELECT daybook.create_projection('running', '{account}', 'running_total(daybook.log_event)'::regprocedure, '{running}', types => '{Opened,Deposited,Withdrawn}', categories => '{account}');
CREATE TABLE by_type (type text PRIMARY KEY, n int);
CREATE FUNCTION count_type(daybook.event) RETURNS int LANGUAGE sql AS $$
	INSERT INTO by_type VALUES ($1.type, 1) ON CONFLICT (type) DO UPDATE SET n = by_type.n + 1 RETURNING n
$$;
SELECT daybook.create_projection('by_type', '{account}', 'count_type(daybook.event)'::regprocedure, '{by_type}');
SELECT daybook.wait_for_projection(name, timeout => '3min') - :base AS position FROM unnest('{running,by_type}'::text[]) name;
SELECT account, total FROM running ORDER BY id;
SELECT * FROM by_type ORDER BY 1;

-- from_position: only what comes after it
CREATE TABLE late (id bigint PRIMARY KEY);
SELECT daybook.create_projection('late', '{account}', 'INSERT INTO late SELECT id FROM new_events', '{late}', from_position => daybook.head());
INSERT INTO account (stream_id, type, data) VALUES ('account-9', 'Opened', '{"amount": 9}');
SELECT daybook.wait_for_projection('late', timeout => '3min') - :base AS position;
SELECT stream_id FROM late JOIN account USING (id);
SELECT daybook.rebuild_projection('late');
SELECT daybook.wait_for_projection('late', timeout => '3min') - :base AS position;
SELECT stream_id FROM late JOIN account USING (id);

-- pause and resume
SELECT daybook.pause_projection('balance');
SELECT daybook.pause_projection('balance');
INSERT INTO account (stream_id, type, data) VALUES ('account-3', 'Deposited', '{"amount": 30}');
SELECT daybook.wait_for_projection('balance', timeout => '3min');
SELECT state, lag_events, lag_seconds > 0 AS lags FROM daybook.projection_status WHERE name = 'balance';
SELECT amount FROM balance WHERE account = 'account-3';
SELECT daybook.resume_projection('balance');
SELECT daybook.wait_for_projection('balance', timeout => '3min') - :base AS position;
SELECT amount FROM balance WHERE account = 'account-3';
-- a pause that is rolled back
BEGIN;
SELECT daybook.pause_projection('balance');
ROLLBACK;
INSERT INTO account (stream_id, type, data) VALUES ('account-3', 'Deposited', '{"amount": 1}');
SELECT daybook.wait_for_projection('balance', timeout => '3min') - :base AS position;
SELECT amount FROM balance WHERE account = 'account-3';

-- no worker goes on with what a transaction changes before its end
CREATE TABLE own (id bigint);
BEGIN;
SELECT daybook.create_projection('own', '{account}', 'INSERT INTO own SELECT id FROM new_events', '{own}');
SELECT daybook.wait_for_projection('own', timeout => '3min');
ROLLBACK;
SELECT daybook.create_projection('own', '{account}', 'INSERT INTO own SELECT id FROM new_events', '{own}');
SELECT daybook.wait_for_projection('own', timeout => '3min') - :base AS position;
BEGIN;
SELECT daybook.rebuild_projection('own', in_place => false);
SELECT daybook.wait_for_projection('own', timeout => '3min');
ROLLBACK;
SELECT daybook.drop_projection('own');
DROP TABLE own;

-- rebuild: the same rows, and numbers of identity columns, come again
CREATE TABLE numbered (n int GENERATED ALWAYS AS IDENTITY, account text, event_id uuid);
CREATE TABLE numbered_detail (account text, type text);
SELECT daybook.create_projection('numbered', '{account,transfer}', $$
	INSERT INTO numbered (account, event_id) SELECT stream_id, event_id FROM new_events ORDER BY position;
	INSERT INTO numbered_detail SELECT stream_id, type FROM new_events;
$$, '{numbered,numbered_detail}', batch_size => 3);
SELECT daybook.wait_for_projection('numbered', timeout => '3min') - :base AS position;
CREATE TABLE kept AS SELECT * FROM numbered;
DELETE FROM numbered WHERE n % 2 = 0;
SELECT daybook.rebuild_projection('numbered');
SELECT daybook.wait_for_projection('numbered', timeout => '3min') - :base AS position;
SELECT count(*) FROM (TABLE kept EXCEPT ALL TABLE numbered) x;
SELECT count(*) FROM (TABLE numbered EXCEPT ALL TABLE kept) x;
SELECT count(*) FROM numbered_detail;
-- one that is rolled back leaves everything as it was
BEGIN;
SELECT daybook.rebuild_projection('numbered');
SELECT count(*) FROM numbered;
ROLLBACK;
SELECT daybook.wait_for_projection('numbered', timeout => '3min') - :base AS position;
SELECT count(*) FROM (TABLE kept EXCEPT ALL TABLE numbered) x;
-- paused, it is only emptied
SELECT daybook.pause_projection('numbered');
SELECT daybook.rebuild_projection('numbered');
SELECT count(*) FROM numbered;
SELECT state, position FROM daybook.projection_status WHERE name = 'numbered';
SELECT daybook.resume_projection('numbered');
SELECT daybook.wait_for_projection('numbered', timeout => '3min') - :base AS position;
SELECT count(*) FROM (TABLE kept EXCEPT ALL TABLE numbered) x;

-- names are looked up where the tables and sources are, also after a move
CREATE SCHEMA elsewhere;
ALTER TABLE balance SET SCHEMA elsewhere;
INSERT INTO account (stream_id, type, data) VALUES ('account-3', 'Deposited', '{"amount": 1}');
SELECT daybook.wait_for_projection('balance', timeout => '3min') - :base AS position;
SELECT amount FROM elsewhere.balance WHERE account = 'account-3';

-- deferred constraints are looked at in the batch, as long as the owner's rights are there
CREATE TABLE parent (stream_id text PRIMARY KEY);
CREATE TABLE child (id bigint, stream_id text REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
SELECT daybook.create_projection('family', '{account}', $$
	INSERT INTO parent SELECT DISTINCT stream_id FROM new_events ON CONFLICT DO NOTHING;
	INSERT INTO child SELECT id, stream_id FROM new_events;
$$, '{child,parent}');
SELECT daybook.wait_for_projection('family', timeout => '3min') - :base AS position;
SELECT count(*) FROM child;
-- one TRUNCATE empties tables that refer to each other
SELECT daybook.rebuild_projection('family');
SELECT daybook.wait_for_projection('family', timeout => '3min') - :base AS position;
SELECT count(*) FROM child;
SELECT daybook.drop_projection('family');

-- dropping a projection leaves its tables
SELECT daybook.drop_projection(name) FROM unnest('{balance,picked,seen,running,by_type,late,numbered}'::text[]) name;
SELECT count(*) FROM elsewhere.balance;
SELECT name FROM daybook.projection_status ORDER BY 1;

-- events come as their upcasters make them: to the worker, inline, and when they are replayed
CREATE TABLE upcast_async (stream_id text, type text, schema_version int, data jsonb);
CREATE TABLE upcast_inline (LIKE upcast_async);
CREATE TABLE upcast_later (LIKE upcast_async);
CREATE FUNCTION to_cents(jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS
	$$ SELECT CASE WHEN $1->>'amount' <> '13' THEN jsonb_build_object('cents', ($1->>'amount')::int * 100) END $$;
SELECT daybook.create_upcaster('transfer', 'Sent', 1, 'to_cents(jsonb)'::regprocedure, 'Paid');
SELECT daybook.create_projection('upcast_async', '{transfer}', 'INSERT INTO upcast_async SELECT stream_id, type, schema_version, data FROM new_events', '{upcast_async}', types => '{Paid}', from_position => daybook.head());
SELECT daybook.create_projection('upcast_inline', '{transfer}', 'INSERT INTO upcast_inline SELECT stream_id, type, schema_version, data FROM new_events', '{upcast_inline}', mode => 'inline', types => '{Paid}');
INSERT INTO transfer (stream_id, type, schema_version, data) VALUES
	('account-8', 'Sent', 1, '{"amount": 12}'), ('account-8', 'Sent', 1, '{"amount": 13}'), ('account-8', 'Sent', 2, '{"amount": 14}'),
	('account-8', 'Paid', 2, '{"cents": 1500}');
SELECT daybook.create_projection('upcast_later', '{transfer}', 'INSERT INTO upcast_later SELECT stream_id, type, schema_version, data FROM new_events', '{upcast_later}', mode => 'inline', types => '{Paid}');
SELECT daybook.wait_for_projection('upcast_async', timeout => '3min') - :base AS position;
SELECT * FROM upcast_async ORDER BY data;
SELECT * FROM upcast_inline ORDER BY data;
SELECT * FROM upcast_later ORDER BY data;
SELECT daybook.drop_projection(name) FROM unnest('{upcast_async,upcast_inline,upcast_later}'::text[]) name;

SELECT daybook.drop_event_table('account', true);
SELECT daybook.drop_event_table('transfer', true);
DROP SCHEMA projection_test CASCADE;
DROP SCHEMA elsewhere CASCADE;
