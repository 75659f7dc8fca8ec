-- Rebuilding a projection by several workers, each with a share of its streams.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS daybook;
CREATE SCHEMA parallel_test;
SET search_path = parallel_test, public;
SELECT daybook.create_event_table('account');
SELECT daybook.create_event_table('transfer');
CREATE TABLE balance (account text PRIMARY KEY, amount bigint NOT NULL, steps text NOT NULL);
CREATE TABLE entry (id bigint PRIMARY KEY, account text NOT NULL REFERENCES balance, n int NOT NULL);
CREATE VIEW report AS SELECT account, amount, (SELECT count(*) FROM entry e WHERE e.account = b.account) AS entries FROM balance b;
SELECT coalesce(daybook.head(), 0) AS base \gset
INSERT INTO account (stream_id, type, data)
SELECT 'a-' || n % 700, 'T', jsonb_build_object('amount', CASE WHEN n IN (777, 1999, 4321) THEN '"much"' ELSE to_jsonb(n % 10) END) FROM generate_series(1, 5000) n;
INSERT INTO transfer (stream_id, type, data) SELECT 'a-' || n % 1000, 'U', '{"amount": 3}' FROM generate_series(1, 2000) n;
SELECT daybook.create_projection('balance', '{account,transfer}', $$
	INSERT INTO balance AS b
	SELECT stream_id, sum((data->>'amount')::int), string_agg(type || (data->>'amount'), ' ' ORDER BY position) FROM new_events GROUP BY 1
	ON CONFLICT (account) DO UPDATE SET amount = b.amount + excluded.amount, steps = b.steps || ' ' || excluded.steps;
	INSERT INTO entry SELECT id, stream_id, (data->>'amount')::int FROM new_events
$$, '{balance,entry}', from_position => :base);
SELECT daybook.wait_for_projection('balance', timeout => '2min') - :base AS position;
CREATE TABLE kept_balance AS TABLE balance;
CREATE TABLE kept_entry AS TABLE entry;
CREATE TABLE kept_parked AS SELECT position, stream_id, is_cause, sqlstate FROM daybook.parked_events WHERE projection = 'balance';
SELECT count(*) FILTER (WHERE is_cause) AS causes, count(*) > 3 AS others FROM kept_parked;
CREATE VIEW differences AS
SELECT 'balance' AS place, d::text FROM ((TABLE balance EXCEPT ALL TABLE kept_balance) UNION ALL (TABLE kept_balance EXCEPT ALL TABLE balance)) d
UNION ALL
SELECT 'entry', d::text FROM ((TABLE entry EXCEPT ALL TABLE kept_entry) UNION ALL (TABLE kept_entry EXCEPT ALL TABLE entry)) d
UNION ALL
SELECT 'parked', d::text FROM (
	(SELECT position, stream_id, is_cause, sqlstate FROM daybook.parked_events WHERE projection = 'balance' EXCEPT ALL TABLE kept_parked)
	UNION ALL
	(TABLE kept_parked EXCEPT ALL SELECT position, stream_id, is_cause, sqlstate FROM daybook.parked_events WHERE projection = 'balance')) d;

-- it takes a projection that says that its streams are independent
SELECT daybook.rebuild_projection('balance', parallel => 3);
SELECT daybook.alter_projection('balance', independent_streams => true);
SELECT independent_streams FROM daybook.projection_status WHERE name = 'balance';
SELECT daybook.rebuild_projection('balance', parallel => 0);
SELECT daybook.rebuild_projection('balance', parallel => 65);
SELECT daybook.rebuild_projection('balance', parallel => NULL);
SELECT daybook.rebuild_projection('balance', parallel => 2, in_place => true);
SELECT daybook.alter_projection('balance', parallel => 2);
SELECT daybook.alter_projection('balance', parallel => -2);
SELECT daybook.pause_projection('balance');
SELECT daybook.rebuild_projection('balance', parallel => 2);
SELECT daybook.resume_projection('balance');
SELECT count(*) FROM daybook.rebuild_progress;

-- the result is that of one worker: rows, and parked events
SELECT pg_relation_filenode('balance') AS before \gset
SELECT daybook.rebuild_projection('balance', parallel => 3);
SELECT daybook.wait_for_projection('balance', timeout => '2min') - :base AS position;
SELECT * FROM differences;
SELECT pg_relation_filenode('balance') <> :before AS exchanged, count(*) AS rows, sum(entries) FROM report;
-- each row once more; the streams that are parked go on as ever
INSERT INTO account (stream_id, type, data) SELECT 'a-' || n, 'V', '{"amount": 1}' FROM generate_series(0, 699) n;
SELECT daybook.wait_for_projection('balance', timeout => '2min') - :base AS position;
SELECT count(*) FROM balance WHERE steps ~ ' V1$';
SELECT count(*) FROM daybook.verify_projection('balance');

-- a new handler
SELECT daybook.alter_projection('balance', $$
	INSERT INTO balance AS b
	SELECT stream_id, count(*), 'counted' FROM new_events GROUP BY 1
	ON CONFLICT (account) DO UPDATE SET amount = b.amount + excluded.amount;
	INSERT INTO entry SELECT id, stream_id, 1 FROM new_events
$$, parallel => 2);
SELECT daybook.wait_for_projection('balance', timeout => '2min') - :base AS position;
SELECT count(*), sum(amount), min(steps), max(steps), (SELECT count(*) FROM entry) AS entries FROM balance;
SELECT count(*) FROM daybook.parked_events WHERE projection = 'balance';

-- slow on purpose, looked at, given up, begun anew, and dropped
SELECT daybook.rebuild_projection('balance', parallel => 2, max_rate => 4);
SELECT parallel, max_rate, events_left > 0 AS something_left FROM daybook.rebuild_progress;
SELECT daybook.alter_projection('balance', independent_streams => false);
SELECT daybook.cancel_rebuild('balance');
SELECT count(*) FROM daybook.projection WHERE rebuild_of IS NOT NULL;
SELECT daybook.cancel_rebuild('balance');
SELECT daybook.rebuild_projection('balance', parallel => 2, max_rate => 4);
SELECT daybook.rebuild_projection('balance', parallel => 3, max_rate => 4);
SELECT max(shares), count(*) FROM daybook.projection WHERE rebuild_of IS NOT NULL;
SELECT daybook.drop_projection('balance');
SELECT count(*) FROM daybook.projection WHERE name = 'balance' OR rebuild_of IS NOT NULL;
SELECT count(*) FROM daybook.projection_position WHERE name LIKE 'daybook\_rebuild%';
SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'daybook\_rebuild%';

-- more than can run: as many as can
CREATE TABLE seen (id bigint PRIMARY KEY);
SELECT daybook.create_projection('seen', '{account}', 'INSERT INTO seen SELECT id FROM new_events', '{seen}', from_position => :base, independent_streams => true);
\set VERBOSITY terse
SELECT daybook.rebuild_projection('seen', parallel => 64);
\set VERBOSITY default
SELECT daybook.wait_for_projection('seen', timeout => '2min') - :base AS position;
SELECT count(*) FROM seen;
SELECT daybook.create_projection('inline', '{account}', 'INSERT INTO seen SELECT id FROM new_events ON CONFLICT DO NOTHING', '{kept_entry}', mode => 'inline', independent_streams => true);
SELECT daybook.rebuild_projection('inline', parallel => 2);
SELECT daybook.drop_projection('inline'), daybook.drop_projection('seen');
