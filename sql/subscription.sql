-- Subscriptions: fetch, ack, leases, arguments, and what transactions do to them
SET client_min_messages = warning;
SELECT daybook.create_event_table('sub_orders');
SELECT daybook.create_event_table('sub_bills');

-- waits until all that is committed has been published
CREATE FUNCTION sub_published() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..3000 LOOP
		EXIT WHEN (SELECT count(*) FROM daybook.log WHERE event_table IN ('sub_orders'::regclass, 'sub_bills'::regclass))
			= (SELECT count(*) FROM sub_orders) + (SELECT count(*) FROM sub_bills);
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
-- sqlstate, message and detail of what a statement raises
CREATE FUNCTION sub_try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE detail text;
BEGIN
	EXECUTE statement;
	RETURN 'done';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN SQLSTATE || ': ' || regexp_replace(SQLERRM, '(lease|position) \d+', '\1 N', 'g')
		|| coalesce(' / ' || nullif(regexp_replace(detail, 'position \d+', 'position N', 'g'), ''), '');
END $$;
SELECT sub_published();
SELECT daybook.head() AS start \gset

-- an empty log gives nothing, at once and after a wait
SELECT daybook.create_subscription('sub_mail', '{sub_orders}', from_position => :start);
SELECT count(*) FROM daybook.fetch('sub_mail');
SELECT count(*) FROM daybook.fetch('sub_mail', wait => '50ms');
SELECT daybook.ack('sub_mail', NULL) AS nothing_to_acknowledge;

-- events in order, and again until they are acknowledged
INSERT INTO sub_orders (stream_id, type, data)
SELECT 'order-' || i % 3, 'Placed', jsonb_build_object('n', i) FROM generate_series(1, 9) i;
INSERT INTO sub_bills (stream_id, type) VALUES ('bill-1', 'Sent');
SELECT sub_published();
SELECT position - :start AS nth, event_table, stream_id, version, type, data, partition, delivery
FROM daybook.fetch('sub_mail', max_events => 4);
-- fewer, since nobody said what was wrong with the first batch
SELECT array_agg(position - :start ORDER BY position) AS nths, array_agg(delivery) AS deliveries, max(lease) AS lease
FROM daybook.fetch('sub_mail', max_events => 4) \gset
\echo :nths :deliveries
SELECT daybook.ack('sub_mail', :lease, :start + 1);
SELECT daybook.ack('sub_mail', :lease, :start) AS acknowledged_already;
SELECT sub_try(format('SELECT daybook.ack(%L, %s, %s)', 'sub_mail', :lease, :start + 3)) AS never_handed_out;
SELECT array_agg(position - :start ORDER BY position) AS nths, array_agg(delivery ORDER BY position) AS deliveries, max(lease) AS lease2
FROM daybook.fetch('sub_mail') \gset
\echo :nths :deliveries
SELECT sub_try(format('SELECT daybook.ack(%L, %s)', 'sub_mail', :lease)) AS superseded;
SELECT daybook.ack('sub_mail', :lease2);
SELECT daybook.ack('sub_mail', :lease2) AS twice;
SELECT count(*) FROM daybook.fetch('sub_mail');
SELECT position - :start AS nth, lag_events, partitions, delivery_limit, leased_partitions, held_events
FROM daybook.subscription_status WHERE name = 'sub_mail';

-- other streams, types and categories
SELECT daybook.create_subscription('sub_some', '{sub_orders,sub_bills}', '{Sent,Shipped}', '{order,bill}', :start, 4, NULL);
INSERT INTO sub_orders (stream_id, type) VALUES ('order-1', 'Shipped'), ('order-1', 'Placed'), ('parcel-1', 'Shipped');
SELECT sub_published();
SELECT event_table, stream_id, version, type, partition = daybook.stream_partition(stream_id, 4) AS right_partition
FROM daybook.fetch('sub_some');
SELECT name, sources, types, categories, delivery_limit FROM daybook.subscription_status WHERE name = 'sub_some';
SELECT count(DISTINCT lease), bool_and(outstanding) FROM daybook.subscription_leases WHERE subscription = 'sub_some' AND leased;

-- a whole consumer in one statement: exactly once
CREATE TABLE sub_outbox (stream_id text, version bigint, PRIMARY KEY (stream_id, version));
WITH batch AS MATERIALIZED (SELECT * FROM daybook.fetch('sub_some')),
	sent AS (INSERT INTO sub_outbox SELECT stream_id, version FROM batch)
SELECT daybook.ack('sub_some', max(lease)) FROM batch;
WITH batch AS MATERIALIZED (SELECT * FROM daybook.fetch('sub_some')),
	sent AS (INSERT INTO sub_outbox SELECT stream_id, version FROM batch)
SELECT daybook.ack('sub_some', max(lease)) FROM batch;
SELECT * FROM sub_outbox ORDER BY 1, 2;

-- a transaction that is rolled back: nothing was fetched, nothing acknowledged
BEGIN;
SELECT stream_id, version, delivery, lease FROM daybook.fetch('sub_mail') LIMIT 1 \gset
\echo :stream_id :version :delivery
SELECT daybook.ack('sub_mail', :lease);
SELECT count(*) FROM daybook.fetch('sub_mail');
ROLLBACK;
SELECT stream_id, version, delivery FROM daybook.fetch('sub_mail');
BEGIN;
SAVEPOINT s;
SELECT max(lease) AS lease, min(delivery) AS delivery FROM daybook.fetch('sub_mail') \gset
SELECT daybook.ack('sub_mail', :lease);
ROLLBACK TO s;
SELECT sub_try(format('SELECT daybook.ack(%L, %s)', 'sub_mail', :lease)) AS fetch_was_rolled_back;
SELECT stream_id, version, delivery FROM daybook.fetch('sub_mail');
COMMIT;
-- it works on any isolation level, and shows what is there now
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*) FROM sub_orders;
SELECT count(*), max(lease) AS lease FROM daybook.fetch('sub_mail') \gset
SELECT daybook.ack('sub_mail', :lease);
SELECT count(*) FROM daybook.fetch('sub_mail');
COMMIT;
BEGIN READ ONLY;
SELECT sub_try($$SELECT daybook.fetch('sub_mail')$$);
COMMIT;

-- leases of others
INSERT INTO sub_orders (stream_id, type) VALUES ('order-7', 'Placed'), ('order-7', 'Shipped');
SELECT sub_published();
SELECT max(lease) AS lease FROM daybook.fetch('sub_mail', consumer => 'a') \gset
SELECT count(*) AS leased FROM daybook.fetch('sub_mail', consumer => 'b');
SELECT daybook.ack('sub_mail', :lease, (SELECT position FROM daybook.log WHERE event_table = 'sub_orders'::regclass ORDER BY position DESC OFFSET 1 LIMIT 1));
SELECT count(*) AS still_leased FROM daybook.fetch('sub_mail', consumer => 'b');
SELECT daybook.extend_lease('sub_mail', :lease, '1h') > now() + interval '50 min' AS extended;
SELECT sub_try(format('SELECT daybook.extend_lease(%L, %s, %L)', 'sub_mail', :lease, '0 s')) AS by_nothing;
SELECT daybook.release_lease('sub_mail', :lease);
SELECT sub_try(format('SELECT daybook.ack(%L, %s)', 'sub_mail', :lease)) AS given_back;
SELECT sub_try($$SELECT daybook.ack('sub_mail', 0)$$) AS no_lease, sub_try($$SELECT daybook.extend_lease('sub_mail', 0)$$) AS nor_to_extend;
SELECT version, delivery, lease AS lease FROM daybook.fetch('sub_mail', consumer => 'b', lease => '1ms') \gset
\echo :version :delivery
SELECT pg_sleep(0.01);
SELECT leased_partitions, active_consumers FROM daybook.subscription_status WHERE name = 'sub_mail';
SELECT leased, outstanding FROM daybook.subscription_leases WHERE subscription = 'sub_mail';
SELECT daybook.ack('sub_mail', :lease) AS late_and_in_time;
INSERT INTO sub_orders (stream_id, type) VALUES ('order-7', 'Returned');
SELECT sub_published();
SELECT lease AS lease FROM daybook.fetch('sub_mail', consumer => 'b', lease => '1ms') \gset
SELECT pg_sleep(0.01);
SELECT type, delivery FROM daybook.fetch('sub_mail', consumer => 'c');
SELECT sub_try(format('SELECT daybook.ack(%L, %s)', 'sub_mail', :lease)) AS too_late;
SELECT sub_try(format('SELECT daybook.extend_lease(%L, %s)', 'sub_mail', :lease)) AS too_late;
SELECT sub_try(format('SELECT daybook.nack(%L, %s, 1, %L)', 'sub_mail', :lease, 'why')) AS too_late;
SELECT sub_try(format('SELECT daybook.release_lease(%L, %s)', 'sub_mail', :lease)) AS too_late;
SELECT sub_try($$SELECT daybook.ack('sub_mail', 0)$$);
SELECT consumer, outstanding, leased FROM daybook.subscription_leases WHERE subscription = 'sub_mail';

-- partitions: the hash is that of hashtextextended, taken as unsigned
SELECT bool_and(daybook.stream_partition(s, 8) = (hashtextextended(s, 0)::numeric + 18446744073709551616) % 8)
FROM (SELECT 'stream-' || i FROM generate_series(1, 1000) i) AS t (s);
SELECT sub_try($$SELECT daybook.stream_partition('a', 0)$$);

-- what is refused
SELECT sub_try($$SELECT daybook.create_subscription('sub_mail', '{sub_orders}')$$);
SELECT sub_try($$SELECT daybook.create_subscription('', '{sub_orders}')$$);
SELECT sub_try($$SELECT daybook.create_subscription(repeat('x', 64), '{sub_orders}')$$);
SELECT sub_try($$SELECT daybook.create_subscription(NULL, '{sub_orders}')$$);
SELECT sub_try($$SELECT daybook.create_subscription('x', NULL)$$);
SELECT sub_try($$SELECT daybook.create_subscription('x', '{}')$$);
SELECT sub_try($$SELECT daybook.create_subscription('x', '{sub_orders,NULL}')$$);
SELECT sub_try($$SELECT daybook.create_subscription('x', '{sub_orders,sub_orders}')$$);
SELECT sub_try($$SELECT daybook.create_subscription('x', '{sub_outbox}')$$);
SELECT sub_try($$SELECT daybook.create_subscription('x', '{1}')$$);
SELECT sub_try($$SELECT daybook.create_subscription('x', '{sub_orders}', types => '{}')$$);
SELECT sub_try($$SELECT daybook.create_subscription('x', '{sub_orders}', from_position => -1)$$);
SELECT sub_try($$SELECT daybook.create_subscription('x', '{sub_orders}', from_position => 1000000000000)$$) LIKE '22023%' AS ahead;
SELECT sub_try($$SELECT daybook.create_subscription('x', '{sub_orders}', partitions => 0)$$);
SELECT sub_try($$SELECT daybook.create_subscription('x', '{sub_orders}', partitions => 1025)$$);
SELECT sub_try($$SELECT daybook.create_subscription('x', '{sub_orders}', delivery_limit => 0)$$);
SELECT sub_try($$SELECT daybook.fetch('x')$$);
SELECT sub_try($$SELECT daybook.fetch(NULL)$$);
SELECT sub_try($$SELECT daybook.fetch('sub_mail', max_events => 0)$$);
SELECT sub_try($$SELECT daybook.fetch('sub_mail', max_events => NULL)$$);
SELECT sub_try($$SELECT daybook.fetch('sub_mail', consumer => '')$$);
SELECT sub_try($$SELECT daybook.fetch('sub_mail', lease => '0s')$$);
SELECT sub_try($$SELECT daybook.fetch('sub_mail', lease => NULL)$$);
SELECT sub_try($$SELECT daybook.fetch('sub_mail', wait => '-1s')$$);
SELECT sub_try($$SELECT daybook.ack('x', 1)$$);
SELECT sub_try($$SELECT daybook.ack(NULL, 1)$$);
SELECT sub_try($$SELECT daybook.drop_subscription('x')$$);

-- what has been passed is remembered, even if the statement is cancelled
SELECT daybook.create_event_table('sub_far');
CREATE FUNCTION sub_far_upcast(data jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	IF data = '"last"' AND current_setting('sub_far.cancel') = 'on' THEN
		RAISE SQLSTATE '57014' USING MESSAGE = 'cancelled';
	END IF;
	RAISE WARNING 'passed %', data;
	RETURN NULL;
END $$;
SELECT daybook.create_upcaster('sub_far', 'T', 1, 'sub_far_upcast(jsonb)');
SELECT daybook.create_subscription('sub_far', '{sub_far}', categories => '{near}', from_position => daybook.head());
INSERT INTO sub_far (stream_id, type, data) VALUES ('near-1', 'T', '"first"');
INSERT INTO sub_far (stream_id, type) SELECT 'far-' || i % 1000, 'F' FROM generate_series(1, 100000) i;
INSERT INTO sub_far (stream_id, type, data) VALUES ('near-1', 'T', '"last"');
DO $$
BEGIN
	FOR i IN 1..6000 LOOP
		EXIT WHEN (SELECT lag_events FROM daybook.subscription_status WHERE name = 'sub_far') = 100002;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
SET sub_far.cancel = on;
\set VERBOSITY terse
SELECT count(*) FROM daybook.fetch('sub_far');
\set VERBOSITY default
SET sub_far.cancel = off;
SELECT count(*) FROM daybook.fetch('sub_far');
SELECT lag_events FROM daybook.subscription_status WHERE name = 'sub_far';
SELECT daybook.drop_subscription('sub_far');
SELECT daybook.drop_event_table('sub_far', force => true);
DROP FUNCTION sub_far_upcast;

-- a table that is dropped takes its events along
SELECT daybook.create_subscription('sub_both', '{sub_orders,sub_bills}', from_position => :start, partitions => 3);
SELECT count(DISTINCT event_table) FROM daybook.fetch('sub_both');
SELECT daybook.drop_event_table('sub_bills', force => true);
SELECT count(DISTINCT event_table) AS tables, max(lease) AS lease FROM daybook.fetch('sub_both') \gset
\echo :tables
SELECT daybook.ack('sub_both', :lease);
SELECT count(DISTINCT event_table) AS tables, max(lease) AS lease FROM daybook.fetch('sub_both') \gset
\echo :tables
SELECT daybook.ack('sub_both', :lease);
SELECT count(*) FROM daybook.fetch('sub_both');

-- a position that the log does not have, or partitions that are missing, are of another backup
UPDATE daybook.subscription_partition SET position = position + 1000000 WHERE subscription = 'sub_both' AND partition = 2;
SELECT split_part(sub_try($$SELECT daybook.fetch('sub_both')$$), ' / ', 1) AS ahead;
UPDATE daybook.subscription_partition SET position = position - 1000000 WHERE subscription = 'sub_both' AND partition = 2;
BEGIN;
DELETE FROM daybook.subscription_partition WHERE subscription = 'sub_both' AND partition = 2;
SELECT sub_try($$SELECT daybook.fetch('sub_both')$$) AS missing;
ROLLBACK;
SELECT count(*) FROM daybook.fetch('sub_both');

SELECT daybook.drop_subscription('sub_mail');
SELECT daybook.drop_subscription('sub_some');
SELECT daybook.drop_subscription('sub_both');
SELECT count(*) FROM daybook.subscription_leases;
SELECT sub_try($$SELECT daybook.fetch('sub_mail')$$);
SELECT daybook.drop_event_table('sub_orders', force => true);
DROP TABLE sub_outbox;
DROP FUNCTION sub_published, sub_try;
