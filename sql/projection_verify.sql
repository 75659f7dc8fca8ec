-- Verifying a projection, and altering one.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS daybook;
CREATE SCHEMA verify_test;
SET search_path = verify_test, public;
SELECT daybook.create_event_table('account');
CREATE TABLE balance (account text PRIMARY KEY, amount numeric NOT NULL, seen timestamptz DEFAULT clock_timestamp());
CREATE TABLE entry (id bigint PRIMARY KEY, account text, body json);
INSERT INTO account (stream_id, type, data) SELECT 'account-' || n % 10, 'Paid', jsonb_build_object('amount', n) FROM generate_series(1, 200) n;
SELECT daybook.create_projection('balance', '{account}', $$
	INSERT INTO balance AS b (account, amount) SELECT stream_id, sum((data->>'amount')::numeric) FROM new_events GROUP BY 1
	ON CONFLICT (account) DO UPDATE SET amount = b.amount + excluded.amount;
	INSERT INTO verify_test.entry SELECT id, stream_id, data FROM new_events;
$$, '{balance,entry}', batch_size => 50);
SELECT daybook.wait_for_projection('balance', timeout => '3min') AS base \gset

SELECT * FROM daybook.verify_projection('balance', ignore_columns => '{seen}');
SELECT "table", difference, count(*) FROM daybook.verify_projection('balance') GROUP BY 1, 2 ORDER BY 1, 2;
-- rows that are wrong, missing, too many
UPDATE balance SET amount = amount + 1 WHERE account = 'account-3';
DELETE FROM balance WHERE account = 'account-4';
INSERT INTO balance VALUES ('intruder', 0);
INSERT INTO entry SELECT -id, account, body FROM entry WHERE account = 'account-5' ORDER BY id LIMIT 1;
SELECT "table", row - 'id' AS row, difference FROM daybook.verify_projection('balance', '{seen}') ORDER BY 1, 2, 3;
-- a sample of streams
SELECT "table", row - 'id' AS row, difference FROM daybook.verify_projection('balance', '{seen}', '{account-1,account-3}', 'account') ORDER BY 1, 2, 3;
SELECT "table", row, difference FROM daybook.verify_projection('balance', '{seen}', '{account-1,account-2}', 'account');
SELECT * FROM daybook.verify_projection('balance', '{seen}', '{account-1}');
SELECT * FROM daybook.verify_projection('balance', '{seen}', '{account-1,NULL}', 'account');
SELECT * FROM daybook.verify_projection('nobody');
SELECT * FROM daybook.verify_projection('balance', '{{seen},{id}}');
SELECT * FROM daybook.verify_projection('balance', '{seen,NULL}');
SELECT * FROM daybook.verify_projection('balance', '{seen,sean}');
SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'daybook\_verify%';
-- a rebuild puts it right
SELECT daybook.rebuild_projection('balance');
SELECT daybook.wait_for_projection('balance', timeout => '60s') - :base AS position;
SELECT * FROM daybook.verify_projection('balance', ignore_columns => '{seen}');
SELECT rebuilt_at > created_at AS rebuilt FROM daybook.projection_status;

-- what is parked or discarded does not count
INSERT INTO account (stream_id, type, data) VALUES
	('account-1', 'Paid', '{"amount": "x"}'), ('account-1', 'Paid', '{"amount": 1}'), ('account-2', 'Paid', '{"amount": "y"}'), ('account-2', 'Paid', '{"amount": 2}');
SELECT daybook.wait_for_projection('balance', timeout => '3min') - :base AS position;
SELECT * FROM daybook.verify_projection('balance', ignore_columns => '{seen}');
SELECT daybook.discard_parked('balance', 3 + :base, 'no amount');
SELECT daybook.retry_parked('balance');
SELECT * FROM daybook.verify_projection('balance', ignore_columns => '{seen}');
-- it sees what its snapshot sees, while the projection goes on
SELECT amount FROM balance WHERE account = 'account-2';

-- a function handler whose plans the session knows already
CREATE TABLE called (id bigint PRIMARY KEY, n int);
CREATE FUNCTION call(e daybook.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO called VALUES (e.id, e.version) ON CONFLICT DO NOTHING;
END $$;
SELECT daybook.create_projection('call', '{account}', 'call(daybook.event)'::regprocedure, '{called}');
SELECT daybook.wait_for_projection('call', timeout => '3min') - :base AS position;
SELECT call(a::daybook.event) FROM account a LIMIT 1;
DELETE FROM called WHERE n = 7;
SELECT row->>'n' AS n, difference, count(*) FROM daybook.verify_projection('call') GROUP BY 1, 2;
SELECT count(*) FROM called;
SELECT call(a::daybook.event) FROM account a WHERE version = 7;
SELECT * FROM daybook.verify_projection('call');

-- a new handler: the old rows are served until its own are there
SELECT daybook.alter_projection('call', $$INSERT INTO called SELECT id, -version FROM new_events$$);
SELECT daybook.wait_for_projection('call', timeout => '60s') - :base AS position;
SELECT count(*), max(n) FROM called;
SELECT handler_kind, handler, batch_size, on_error FROM daybook.projection_status WHERE name = 'call';
SELECT * FROM daybook.verify_projection('call');
INSERT INTO account (stream_id, type) VALUES ('b', 'Other');
SELECT daybook.wait_for_projection('call', timeout => '3min') - :base AS position;
SELECT count(*), max(n) FROM called;
-- settings alone need no rebuild
SELECT daybook.alter_projection('call', batch_size => 5, on_error => 'stop');
SELECT count(*) FROM daybook.rebuild_progress;
SELECT batch_size, on_error FROM daybook.projection_status WHERE name = 'call';
-- mistakes
SELECT daybook.alter_projection('call', 'INSERT INTO called SELECT nothing FROM new_events');
SELECT daybook.alter_projection('call', batch_size => 0);
SELECT daybook.alter_projection('call', on_error => 'skip');
SELECT daybook.alter_projection('nobody', 'SELECT 1');
SELECT handler FROM daybook.projection_status WHERE name = 'call';
-- back to the function
SELECT daybook.alter_projection('call', 'call(daybook.event)'::regprocedure);
SELECT daybook.wait_for_projection('call', timeout => '60s') - :base AS position;
SELECT count(*), max(n) FROM called;
-- a paused one is emptied, an inline one filled at once
SELECT daybook.pause_projection('call');
SELECT daybook.alter_projection('call', $$INSERT INTO called SELECT id, 1 FROM new_events$$);
SELECT count(*) FROM called;
SELECT daybook.resume_projection('call');
SELECT daybook.wait_for_projection('call', timeout => '60s') - :base AS position;
SELECT count(*), max(n) FROM called;
CREATE TABLE inlined (id bigint PRIMARY KEY, n int);
SELECT daybook.create_projection('inlined', '{account}', 'INSERT INTO inlined SELECT id, 1 FROM new_events', '{inlined}', mode => 'inline');
SELECT daybook.alter_projection('inlined', 'INSERT INTO inlined SELECT id, 2 FROM new_events');
INSERT INTO account (stream_id, type) VALUES ('b', 'Other');
SELECT count(*), min(n) FROM inlined;
SELECT * FROM daybook.verify_projection('inlined');

-- an inline projection has applied what the snapshot sees: also of this transaction, and of COPY
CREATE TABLE tally (stream text PRIMARY KEY, n int NOT NULL, versions text NOT NULL);
SELECT daybook.create_projection('tally', '{account}', $$
	INSERT INTO tally AS t SELECT stream_id, count(*), string_agg(version::text, ' ' ORDER BY id) FROM new_events GROUP BY 1
	ON CONFLICT (stream) DO UPDATE SET n = t.n + excluded.n, versions = t.versions || ' ' || excluded.versions
$$, '{tally}', mode => 'inline');
BEGIN;
INSERT INTO account (stream_id, type) SELECT 'new-' || i % 3, 'Other' FROM generate_series(1, 10) i;
COPY account (stream_id, type) FROM stdin;
new-0	Other
new-1	Other
new-0	Other
\.
SELECT * FROM daybook.verify_projection('tally');
SAVEPOINT s;
INSERT INTO account (stream_id, type) VALUES ('new-0', 'Other'), ('new-7', 'Other');
ROLLBACK TO s;
SELECT * FROM daybook.verify_projection('tally');
COMMIT;
SELECT * FROM tally WHERE stream LIKE 'new%' ORDER BY 1;
SELECT * FROM daybook.verify_projection('tally');
UPDATE tally SET n = n + 1 WHERE stream IN ('new-0', 'new-1');
DELETE FROM tally WHERE stream = 'new-2';
INSERT INTO tally VALUES ('stray', 0, '');
SELECT * FROM daybook.verify_projection('tally');
SELECT * FROM daybook.verify_projection('tally', streams => '{new-0,b}', stream_column => 'stream');
SELECT * FROM daybook.verify_projection('tally', streams => '{b}', stream_column => 'stream');
SELECT * FROM daybook.verify_projection('tally', ignore_columns => '{n}');
SELECT daybook.rebuild_projection('tally');
SELECT * FROM daybook.verify_projection('tally');
-- paused, it is compared with what it has applied
SELECT daybook.pause_projection('tally');
INSERT INTO account (stream_id, type) VALUES ('new-0', 'Other');
SELECT * FROM daybook.verify_projection('tally');
SELECT daybook.resume_projection('tally');
SELECT * FROM daybook.verify_projection('tally');
SELECT n FROM tally WHERE stream = 'new-0';
-- events that it missed show
ALTER TABLE account DISABLE TRIGGER daybook_inline_tally;
INSERT INTO account (stream_id, type) VALUES ('new-0', 'Other');
ALTER TABLE account ENABLE ALWAYS TRIGGER daybook_inline_tally;
SELECT * FROM daybook.verify_projection('tally');
SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'daybook\_verify%';
-- what was discarded from an earlier projection of that name does count
CREATE TABLE heir (stream text);
SELECT daybook.create_projection('heir', '{account}', 'SELECT 1 / (version - version) FROM new_events', '{heir}', types => '{Inherited}');
INSERT INTO account (stream_id, type) VALUES ('heir-1', 'Inherited');
SELECT daybook.wait_for_projection('heir', timeout => '60s') > 0 AS reached;
SELECT daybook.discard_parked('heir', 'heir-1', 'no heir');
SELECT count(*) FROM daybook.verify_projection('heir');
SELECT daybook.drop_projection('heir');
SELECT daybook.create_projection('heir', '{account}', 'INSERT INTO heir SELECT stream_id FROM new_events', '{heir}', types => '{Inherited}');
SELECT daybook.wait_for_projection('heir', timeout => '60s') > 0 AS reached;
SELECT * FROM heir;
SELECT * FROM daybook.verify_projection('heir');
SELECT daybook.drop_projection('heir');
-- an error leaves the session as it was, and nothing else behind
SELECT count(*) AS handlers FROM pg_backend_memory_contexts WHERE name = 'daybook projection handler' \gset
ALTER TABLE tally ADD CONSTRAINT few CHECK (n < 2) NOT VALID;
\set VERBOSITY terse
SELECT * FROM daybook.verify_projection('tally');
BEGIN;
SAVEPOINT s;
SELECT * FROM daybook.verify_projection('tally');
ROLLBACK TO s;
SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'daybook\_verify%';
COMMIT;
SELECT count(*) - :handlers AS left_over FROM pg_backend_memory_contexts WHERE name = 'daybook projection handler';
SELECT count(*) > 0 AS goes_on FROM tally;
\set VERBOSITY default

SELECT daybook.drop_projection(name) FROM unnest('{balance,call,inlined,tally}'::text[]) name;
SELECT daybook.drop_event_table('account', true);
DROP SCHEMA verify_test CASCADE;
