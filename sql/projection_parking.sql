-- Events that a projection cannot apply are parked, with those that follow in
-- their streams; then retried or discarded.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS daybook;
CREATE SCHEMA parking_test;
SET search_path = parking_test, public;
SELECT daybook.create_event_table('account');
SELECT daybook.create_event_table('transfer');
CREATE TABLE balance (account text PRIMARY KEY, amount int NOT NULL, events int NOT NULL, steps text NOT NULL);
ALTER TABLE balance ADD CONSTRAINT not_negative CHECK (amount >= 0);
SELECT daybook.create_projection('balance', '{account,transfer}', $$
	INSERT INTO balance AS b
	SELECT stream_id, sum((data->>'amount')::int), count(*), string_agg(type, ' ' ORDER BY position) FROM new_events GROUP BY 1
	ON CONFLICT (account) DO UPDATE SET amount = b.amount + excluded.amount, events = b.events + excluded.events, steps = b.steps || ' ' || excluded.steps
$$, '{balance}');
SELECT daybook.wait_for_projection('balance', timeout => '3min') AS base \gset

-- the streams 2 and 4 hold something that cannot be applied
INSERT INTO account (stream_id, type, data)
SELECT 'account-' || n % 10, chr(65 + n / 10), jsonb_build_object('amount', CASE n WHEN 12 THEN '"many"'::jsonb WHEN 24 THEN '-100' ELSE '1' END)
FROM generate_series(0, 59) n;
SELECT daybook.wait_for_projection('balance', timeout => '3min') - :base AS position;
SELECT * FROM balance ORDER BY 1;
SELECT position - :base AS position, event_table, stream_id, is_cause, sqlstate, message, attempts,
	event_id = (SELECT id FROM account a WHERE a.id = p.event_id AND a.stream_id = p.stream_id) AS same_event
FROM daybook.parked_events p WHERE projection = 'balance' ORDER BY 1;
SELECT detail, context FROM daybook.parked_events WHERE sqlstate = '23514';
SELECT state, parked_streams, parked_events, error_sqlstate, lag_events FROM daybook.projection_status WHERE name = 'balance';

-- what comes later queues too; a stream of the same name in another table goes on
INSERT INTO account (stream_id, type, data) VALUES ('account-2', 'G', '{"amount": 1}'), ('account-3', 'G', '{"amount": 1}');
INSERT INTO transfer (stream_id, type, data) VALUES ('account-2', 'T', '{"amount": 1000}');
SELECT daybook.wait_for_projection('balance', timeout => '3min') - :base AS position;
SELECT * FROM balance WHERE account IN ('account-2', 'account-3') ORDER BY 1;
SELECT stream_id, count(*) FROM daybook.parked_events WHERE projection = 'balance' GROUP BY 1 ORDER BY 1;

-- retried while the cause is there: only the number of attempts changes
SELECT daybook.retry_parked('balance');
SELECT position - :base AS position, stream_id, sqlstate, attempts FROM daybook.parked_events WHERE projection = 'balance' AND is_cause ORDER BY 1;
SELECT steps FROM balance WHERE account = 'account-2';

-- one cause is gone
ALTER TABLE balance DROP CONSTRAINT not_negative;
SELECT daybook.retry_parked('balance', 'account-5');
SELECT daybook.retry_parked('balance', 'account-4', 'transfer');
SELECT daybook.retry_parked('balance', 'account-4', 'account', max_events => 2);
SELECT position - :base AS position, stream_id, is_cause, sqlstate FROM daybook.parked_events WHERE projection = 'balance' AND stream_id = 'account-4' ORDER BY 1;
-- the stream still waits for what is left
INSERT INTO account (stream_id, type, data) VALUES ('account-4', 'G', '{"amount": 1}');
SELECT daybook.wait_for_projection('balance', timeout => '3min') - :base AS position;
SELECT steps FROM balance WHERE account = 'account-4';
SELECT daybook.retry_parked('balance');
SELECT * FROM balance WHERE account = 'account-4';
-- and is free then
INSERT INTO account (stream_id, type, data) VALUES ('account-4', 'H', '{"amount": 1}');
SELECT daybook.wait_for_projection('balance', timeout => '3min') - :base AS position;
SELECT * FROM balance WHERE account = 'account-4';
-- a retry that is rolled back
BEGIN;
SELECT daybook.discard_parked('balance', 13 + :base, 'a try');
SELECT daybook.retry_parked('balance');
ROLLBACK;
SELECT parked_streams, parked_events FROM daybook.projection_status WHERE name = 'balance';

-- discarding takes a reason and leaves a record
SELECT daybook.discard_parked('balance', 13 + :base, '');
SELECT daybook.discard_parked('balance', 13 + :base, E' \n');
SELECT daybook.discard_parked('balance', -13, 'x');
SELECT daybook.discard_parked('balance', 'account-9', 'x');
SELECT daybook.discard_parked('balance', 13 + :base, 'typing error, ticket 4711');
SELECT position - :base AS position, is_cause, sqlstate FROM daybook.parked_events WHERE projection = 'balance' ORDER BY 1;
SELECT daybook.retry_parked('balance', 'account-2');
SELECT * FROM balance WHERE account = 'account-2';
SELECT projection, position - :base AS position, event_table, stream_id, sqlstate, message, attempts,
	discarded_by = session_user AS by_me, discarded_at > parked_at AS later, reason
FROM daybook.discarded_events WHERE projection = 'balance' AND position > :base;
SELECT parked_streams, parked_events FROM daybook.projection_status WHERE name = 'balance';

-- a whole stream is given up
INSERT INTO account (stream_id, type, data) VALUES ('account-7', 'G', '{"amount": "x"}'), ('account-7', 'H', '{"amount": 1}');
SELECT daybook.wait_for_projection('balance', timeout => '3min') - :base AS position;
SELECT daybook.discard_parked('balance', 'account-7', 'not an account');
INSERT INTO account (stream_id, type, data) VALUES ('account-7', 'I', '{"amount": 1}');
SELECT daybook.wait_for_projection('balance', timeout => '3min') - :base AS position;
SELECT * FROM balance WHERE account = 'account-7';

-- a function handler; what fails only after others went through
CREATE TABLE called (n int UNIQUE);
CREATE FUNCTION call(e daybook.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO called SELECT (e.data->>'n')::int;
END $$;
SELECT daybook.create_projection('call', '{transfer}', 'call(daybook.event)'::regprocedure, '{called}', from_position => daybook.head(), batch_size => 7);
INSERT INTO transfer (stream_id, type, data) SELECT 's-' || n % 20, 'N', jsonb_build_object('n', CASE WHEN n = 50 THEN 7 ELSE n END) FROM generate_series(1, 100) n;
SELECT daybook.wait_for_projection('call', timeout => '3min') > 0 AS reached;
SELECT count(*), max(n) FROM called;
SELECT stream_id, is_cause, sqlstate, message FROM daybook.parked_events WHERE projection = 'call' ORDER BY position;
DELETE FROM called WHERE n = 7;
SELECT daybook.retry_parked('call');
SELECT count(*), max(n) FROM called;

-- a rebuild starts with empty queues, and a dropped projection leaves none
UPDATE called SET n = n + 1000;
INSERT INTO called VALUES (7);
INSERT INTO transfer (stream_id, type, data) VALUES ('s-0', 'N', '{"n": 7}');
SELECT daybook.wait_for_projection('call', timeout => '3min') > 0 AS reached;
SELECT parked_streams, parked_events FROM daybook.projection_status WHERE name = 'call';
SELECT daybook.rebuild_projection('call');
SELECT daybook.wait_for_projection('call', timeout => '3min') > 0 AS reached;
SELECT count(*), count(DISTINCT n), max(n) FROM called;
SELECT stream_id, count(*), bool_or(is_cause) FROM daybook.parked_events WHERE projection = 'call' GROUP BY 1 ORDER BY 1;
SELECT daybook.drop_projection('call');
SELECT count(*) FROM daybook.projection_parked WHERE projection = 'call';

-- one that fails alone, behind others that queue: these are not passed over
CREATE TABLE alone (n int);
SELECT daybook.create_event_table('single');
SELECT daybook.create_projection('alone', '{single}', 'INSERT INTO alone SELECT (data->>''n'')::int FROM new_events', '{alone}', from_position => daybook.head());
INSERT INTO single (stream_id, type, data) VALUES ('a', 'N', '{"n": "x"}');
SELECT daybook.wait_for_projection('alone', timeout => '3min') > 0 AS reached;
INSERT INTO single (stream_id, type, data) VALUES ('a', 'N', '{"n": 1}'), ('b', 'N', '{"n": "y"}');
SELECT daybook.wait_for_projection('alone', timeout => '3min') > 0 AS reached;
SELECT stream_id, is_cause, message FROM daybook.parked_events WHERE projection = 'alone' ORDER BY position;
SELECT daybook.drop_projection('alone');
SELECT daybook.drop_event_table('single', true);

-- what the caller has deferred stays so, and is not blamed on events
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE entry (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE follower (n int REFERENCES parent DEFERRABLE, PRIMARY KEY (n) DEFERRABLE);
SELECT daybook.create_projection('entry', '{transfer}', $$
	INSERT INTO entry SELECT (data->>'n')::int FROM new_events WHERE type = 'E';
	INSERT INTO follower SELECT (data->>'n')::int FROM new_events WHERE type = 'F'$$, '{entry,follower}', from_position => daybook.head());
INSERT INTO transfer (stream_id, type, data) VALUES ('e-1', 'E', '{"n": 1}'), ('e-2', 'E', '{"n": 1}'), ('e-3', 'E', '{"n": 3}'), ('e-4', 'F', '{"n": 8}');
SELECT daybook.wait_for_projection('entry', timeout => '3min') > 0 AS reached;
SELECT stream_id, sqlstate, message FROM daybook.parked_events WHERE projection = 'entry' ORDER BY position;
BEGIN;
INSERT INTO child VALUES (1);
SELECT daybook.retry_parked('entry');
SELECT stream_id, sqlstate, attempts FROM daybook.parked_events WHERE projection = 'entry' ORDER BY position;
DELETE FROM entry WHERE n = 1;
INSERT INTO parent VALUES (8);
SELECT daybook.retry_parked('entry');
INSERT INTO child VALUES (2);
INSERT INTO parent VALUES (1), (2);
COMMIT;
SELECT n FROM entry ORDER BY 1;
SELECT n FROM follower;
SELECT parent FROM child ORDER BY 1;
-- unless it is about the projection's tables
BEGIN;
INSERT INTO entry VALUES (3);
SELECT daybook.retry_parked('entry');
ROLLBACK;
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
DELETE FROM parent WHERE id = 8;
SELECT daybook.retry_parked('entry');
ROLLBACK;
SELECT daybook.drop_projection('entry');

-- an old snapshot would let handlers read what is not there any more
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT daybook.retry_parked('balance');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT daybook.retry_parked('balance');
ROLLBACK;

-- only the owner sees and settles what is parked
INSERT INTO account (stream_id, type, data) VALUES ('account-8', 'G', '{"amount": "x"}');
SELECT daybook.wait_for_projection('balance', timeout => '3min') - :base AS position;
CREATE ROLE parking_bob;
GRANT USAGE ON SCHEMA parking_test TO parking_bob;
SET ROLE parking_bob;
SELECT count(*) FROM daybook.parked_events;
-- not even by a function that the planner would rather call first
CREATE FUNCTION pg_temp.tell(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$
BEGIN
	RAISE WARNING 'seen: %', $1;
	RETURN true;
END $$;
SELECT count(*) FROM daybook.parked_events WHERE pg_temp.tell(message);
SELECT * FROM daybook.projection_parked;
SELECT daybook.retry_parked('balance');
SELECT daybook.discard_parked('balance', 'account-8', 'x');
RESET ROLE;
SELECT daybook.retry_parked(NULL);
SELECT daybook.retry_parked('nobody');
SELECT daybook.retry_parked('nobody', max_events => 0);

-- and what was discarded, if it was not from another's projection of the name
SELECT count(*) FROM daybook.discarded_events WHERE projection = 'balance' AND position > :base;
SELECT daybook.drop_projection('balance');
GRANT CREATE ON SCHEMA parking_test TO parking_bob;
GRANT SELECT ON account TO parking_bob;
SET ROLE parking_bob;
CREATE TABLE bobs (n int);
SELECT daybook.create_projection('balance', '{account}', $$
	INSERT INTO bobs SELECT (data->>'amount')::int FROM new_events$$, '{bobs}', from_position => daybook.head() - 1);
SELECT count(*) FROM daybook.discarded_events;
SELECT daybook.wait_for_projection('balance', timeout => '3min') - :base AS position;
SELECT daybook.discard_parked('balance', 'account-8', 'not a number');
SELECT projection, stream_id, message, reason FROM daybook.discarded_events;
SELECT count(*) FROM daybook.discarded_events WHERE pg_temp.tell(message) AND stream_id <> 'account-8';
SELECT daybook.drop_projection('balance');
DROP TABLE bobs;
RESET ROLE;
SELECT daybook.drop_event_table('account', true);
SELECT daybook.drop_event_table('transfer', true);

-- the longest stream id is parked under the longest name
SELECT daybook.create_event_table('letter');
CREATE TABLE read (n int);
SELECT repeat('r', 63) AS read \gset
SELECT daybook.create_projection(:'read', '{letter}', $$INSERT INTO read SELECT 1 / (data->>'n')::int FROM new_events$$, '{read}', from_position => daybook.head());
INSERT INTO letter (stream_id, type, data)
SELECT left(string_agg(translate(encode(sha256(n::text::bytea), 'base64'), '=', ''), '' ORDER BY n), 2680), 'L', '{"n": 0}' FROM generate_series(1, 63) n;
INSERT INTO letter (stream_id, type, data) SELECT stream_id, type, data FROM letter WHERE length(stream_id) > 100;
INSERT INTO letter (stream_id, type, data) VALUES ('after', 'L', '{"n": 1}');
SELECT daybook.wait_for_projection(:'read', timeout => '3min') > 0 AS reached;
SELECT length(stream_id), is_cause, sqlstate FROM daybook.parked_events WHERE projection = :'read' ORDER BY position;
SELECT * FROM read;
SELECT daybook.discard_parked(:'read', stream_id, 'too long') FROM daybook.parked_events WHERE projection = :'read' AND is_cause;
SELECT daybook.drop_projection(:'read');

-- what failed before is read once by a call, however much there is of it
SELECT daybook.create_projection('read', '{letter}', $$INSERT INTO read SELECT 1 / (data->>'n')::int FROM new_events$$, '{read}', from_position => daybook.head());
INSERT INTO letter (stream_id, type, data) SELECT 'l-' || n, 'L', '{"n": 0}' FROM generate_series(1, 60) n;
SELECT daybook.wait_for_projection('read', timeout => '3min') > 0 AS reached;
BEGIN;
SELECT idx_tup_fetch AS before FROM pg_stat_xact_all_tables WHERE relid = 'daybook.projection_parked'::regclass \gset
SELECT daybook.retry_parked('read');
SELECT idx_tup_fetch - :before < 300 AS once FROM pg_stat_xact_all_tables WHERE relid = 'daybook.projection_parked'::regclass;
COMMIT;
SELECT count(*), min(attempts), max(attempts) FROM daybook.parked_events WHERE projection = 'read';

-- what a rebuild has parked goes with it when it is given up
BEGIN;
SELECT daybook.rebuild_projection('read');
SELECT daybook.pause_projection('read');
COMMIT;
DO $$ BEGIN
	FOR i IN 1..6000 LOOP
		EXIT WHEN EXISTS (SELECT FROM daybook.rebuild_progress WHERE state = 'swapping');
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
SELECT projection = 'read' AS is_own, count(*) FROM daybook.projection_parked GROUP BY 1 ORDER BY 1;
SELECT daybook.cancel_rebuild('read');
SELECT projection = 'read' AS is_own, count(*) FROM daybook.projection_parked GROUP BY 1 ORDER BY 1;
SELECT daybook.drop_projection('read');
SELECT daybook.drop_event_table('letter', true);
DROP SCHEMA parking_test CASCADE;
DROP OWNED BY parking_bob;
DROP ROLE parking_bob;
