-- Events whose upcaster fails are parked by those who read them, like events
-- that their handler or their consumer fails at.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS daybook;
CREATE SCHEMA unreadable;
SET search_path = unreadable, public;
SELECT daybook.create_event_table('account');
CREATE TABLE balance (account text PRIMARY KEY, amount int NOT NULL, steps text NOT NULL);
CREATE TABLE copied (id bigint PRIMARY KEY, amount int);
CREATE FUNCTION cents(jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
	SELECT jsonb_build_object('cents', ($1->>'amount')::int * 100)
$$;
SELECT daybook.create_upcaster('account', 'Moved', 1, 'cents(jsonb)');
SELECT daybook.create_upcaster('account', 'Sent', 1, 'cents(jsonb)', 'Moved');
-- waits for a projection to stop
CREATE FUNCTION reach(projection text, wanted text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..600 LOOP
		EXIT WHEN (SELECT state FROM daybook.projection_status WHERE name = projection) = wanted;
		PERFORM pg_sleep(0.05);
	END LOOP;
	RETURN (SELECT state FROM daybook.projection_status WHERE name = projection);
END $$;
SELECT coalesce(daybook.head(), 0) AS base \gset
SELECT daybook.create_subscription('mailer', '{account}', from_position => :base, partitions => 4);
SELECT daybook.create_projection('balance', '{account}', $$
	INSERT INTO balance AS b
	SELECT stream_id, sum((data->>'cents')::int), string_agg(data->>'cents', ' ' ORDER BY position) FROM new_events GROUP BY 1
	ON CONFLICT (account) DO UPDATE SET amount = b.amount + excluded.amount, steps = b.steps || ' ' || excluded.steps
$$, '{balance}', types => '{Moved}', from_position => :base);
SELECT daybook.create_projection('copied', '{account}', 'INSERT INTO copied SELECT id, (data->>''cents'')::int FROM new_events', '{copied}',
	from_position => :base, on_error => 'stop');

-- of ten streams, 2 and 7 have an event that cannot be upcast; 7 has two
INSERT INTO account (stream_id, type, schema_version, data)
SELECT 'account-' || n % 10, CASE WHEN n % 3 = 0 THEN 'Sent' ELSE 'Moved' END, 1,
	CASE WHEN n IN (12, 27, 47) THEN '{"amount": "many"}' ELSE jsonb_build_object('amount', n / 10) END
FROM generate_series(0, 59) n;
SELECT daybook.wait_for_projection('balance', timeout => '3min') - :base AS position;
SELECT * FROM balance ORDER BY 1;
SELECT position - :base AS position, stream_id, is_cause, sqlstate, message, attempts FROM daybook.parked_events WHERE projection = 'balance' ORDER BY 1;
SELECT context ~ 'upcaster unreadable.cents\(pg_catalog.jsonb\) of event type "Sent", schema version 1\nevent table "account", stream "account-2", version 2' AS tells_context
FROM daybook.parked_events WHERE projection = 'balance' AND is_cause ORDER BY position LIMIT 1;
SELECT state, parked_streams, parked_events, error_sqlstate, lag_events FROM daybook.projection_status WHERE name = 'balance';
-- later events of these streams queue too
INSERT INTO account (stream_id, type, data) SELECT 'account-' || n, 'Moved', '{"amount": 6}' FROM generate_series(6, 7) n;
SELECT daybook.wait_for_projection('balance', timeout => '3min') - :base AS position;
SELECT stream_id, count(*) FROM daybook.parked_events WHERE projection = 'balance' GROUP BY 1 ORDER BY 1;

-- a projection that shall stop, stops before the first of them
SELECT reach('copied', 'failed');
SELECT position - :base AS position, error_sqlstate, error_position - :base AS error_position, parked_events FROM daybook.projection_status WHERE name = 'copied';
SELECT count(*), sum(amount) FROM copied;

-- a rebuild parks them as well, and a verification leaves them out
SELECT daybook.rebuild_projection('balance');
SELECT daybook.wait_for_projection('balance', timeout => '1min') - :base AS position;
SELECT stream_id, count(*), count(*) FILTER (WHERE is_cause) AS causes FROM daybook.parked_events WHERE projection = 'balance' GROUP BY 1 ORDER BY 1;
SELECT sum(amount), count(*) FROM balance;
SELECT * FROM daybook.verify_projection('balance');
SELECT * FROM daybook.verify_projection('balance', streams => '{account-1,account-7}', stream_column => 'account');

-- a subscription hands out the others, and says why it holds these back
CREATE FUNCTION consume() RETURNS TABLE (stream text, amounts text) LANGUAGE plpgsql AS $$
DECLARE got int; acked bigint;
BEGIN
	CREATE TEMP TABLE handled (id bigint, stream_id text, cents text);
	FOR i IN 1..1000 LOOP
		WITH batch AS (SELECT * FROM daybook.fetch('mailer', 7)), h AS (INSERT INTO handled SELECT id, stream_id, data->>'cents' FROM batch)
		SELECT count(*), daybook.ack('mailer', max(lease)) INTO got FROM batch;
		EXIT WHEN got = 0 AND (SELECT lag_events FROM daybook.subscription_status WHERE subscription_status.name = 'mailer') = 0;
	END LOOP;
	RETURN QUERY SELECT stream_id, string_agg(cents, ' ' ORDER BY id) FROM handled GROUP BY 1 ORDER BY 1;
	DROP TABLE handled;
END $$;
SELECT * FROM consume();
SELECT position - :base AS position, stream_id, state, deliveries, reason ~ '^upcaster failed with SQLSTATE 22P02: invalid input syntax.*account-' AS tells, failed_consumer
FROM daybook.subscription_parked WHERE subscription = 'mailer' ORDER BY 1;
-- trying again changes nothing as long as the cause is there
SELECT daybook.subscription_retry_parked('mailer');
SELECT * FROM consume();
SELECT position - :base AS position, stream_id, state FROM daybook.subscription_parked WHERE subscription = 'mailer' AND reason IS NOT NULL ORDER BY 1;
SELECT daybook.retry_parked('balance');
SELECT position - :base AS position, stream_id, attempts, sqlstate FROM daybook.parked_events WHERE projection = 'balance' AND is_cause ORDER BY 1;

-- the upcaster is mended
CREATE OR REPLACE FUNCTION cents(jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
	SELECT jsonb_build_object('cents', CASE WHEN $1->>'amount' = 'many' THEN 1000000 ELSE ($1->>'amount')::int * 100 END)
$$;
SELECT daybook.subscription_retry_parked('mailer');
SELECT * FROM consume();
SELECT count(*) FROM daybook.subscription_parked WHERE subscription = 'mailer';
SELECT daybook.retry_parked('balance');
SELECT * FROM balance WHERE account IN ('account-2', 'account-7') ORDER BY 1;
SELECT daybook.resume_projection('copied');
SELECT daybook.wait_for_projection('copied', timeout => '1min') - :base AS position;
SELECT count(*), sum(amount) FROM copied;
SELECT * FROM daybook.verify_projection('balance');

-- an upcaster that is not there is no event's fault: all stop, and say so
DROP FUNCTION cents(jsonb);
INSERT INTO account (stream_id, type, data) VALUES ('account-1', 'Other', '{"cents": 1}'), ('account-2', 'Moved', '{"amount": 7}'), ('account-3', 'Other', '{"cents": 1}');
SELECT reach('balance', 'failed');
SELECT position - :base AS position, error_sqlstate, parked_events FROM daybook.projection_status WHERE name = 'balance';
SELECT stream_id, type FROM daybook.fetch('mailer', consumer => 'c');
SELECT daybook.ack('mailer', (SELECT max(lease) FROM daybook.subscription_leases WHERE subscription = 'mailer' AND consumer = 'c'));
SELECT stream_id, type FROM daybook.fetch('mailer', consumer => 'c');
CREATE FUNCTION cents(jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT jsonb_build_object('cents', ($1->>'amount')::int * 100) $$;
SELECT daybook.resume_projection('balance');
SELECT daybook.wait_for_projection('balance', timeout => '1min') - :base AS position;
SELECT stream_id, type FROM daybook.fetch('mailer', consumer => 'c');

-- what may pass by itself is tried again, and an error leaves the session as it was
SELECT daybook.drop_projection('copied');
SELECT daybook.ack('mailer', (SELECT max(lease) FROM daybook.subscription_leases WHERE subscription = 'mailer' AND consumer = 'c'));
CREATE SEQUENCE attempt;
CREATE OR REPLACE FUNCTION cents(jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF nextval('unreadable.attempt') <= 2 THEN RAISE EXCEPTION 'bad luck' USING ERRCODE = 'serialization_failure'; END IF;
	RETURN jsonb_build_object('cents', ($1->>'amount')::int * 100);
END $$;
INSERT INTO account (stream_id, type, data) VALUES ('account-1', 'Moved', '{"amount": 9}');
SELECT daybook.wait_for_projection('balance', timeout => '1min') - :base AS position;
SELECT last_value > 2 AS tried_again FROM attempt;
SELECT count(*) FROM daybook.parked_events WHERE projection = 'balance';
SELECT daybook.drop_projection('balance');
ALTER SEQUENCE attempt RESTART;
\set VERBOSITY terse
SELECT stream_id, data FROM daybook.fetch('mailer', consumer => 'c');
SELECT stream_id, data FROM daybook.fetch('mailer', consumer => 'c');
SELECT stream_id, data FROM daybook.fetch('mailer', consumer => 'c');
ALTER SEQUENCE attempt RESTART;
SELECT data FROM daybook.read_all(after => :base + 65);
SELECT count(*) FROM daybook.subscription_parked WHERE subscription = 'mailer';
SELECT daybook.drop_subscription('mailer');
SELECT daybook.drop_upcaster('account', 'Moved', 1), daybook.drop_upcaster('account', 'Sent', 1, 'Moved');
