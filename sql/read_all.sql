-- daybook.read_all(): the events of all streams in order of the log
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS daybook;
SELECT daybook.create_event_table('all_orders');
SELECT daybook.create_event_table('all_users');
CREATE FUNCTION all_wait(event_table regclass) RETURNS void LANGUAGE plpgsql AS $$
DECLARE n bigint;
BEGIN
	EXECUTE format('SELECT count(*) FROM %s', event_table) INTO n;
	FOR i IN 1..6000 LOOP
		EXIT WHEN (SELECT count(*) FROM daybook.log l WHERE l.event_table = all_wait.event_table) = n;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
CREATE FUNCTION all_try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE detail text;
BEGIN
	EXECUTE statement;
	RETURN 'done';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN SQLSTATE || ': ' || SQLERRM || COALESCE(' / ' || NULLIF(detail, ''), '');
END $$;

SELECT daybook.head() AS base \gset
BEGIN;
INSERT INTO all_orders (stream_id, type, data) VALUES ('order-1', 'Placed', '{"n": 1}'), ('order-2', 'Placed', '{"n": 2}');
INSERT INTO all_users (stream_id, type) VALUES ('user-1', 'Joined'), ('guest', 'Joined');
COMMIT;
INSERT INTO all_orders (stream_id, type) VALUES ('order-1', 'Shipped'), ('orders-1', 'Placed'), ('order', 'Placed'), ('-1', 'Placed');
INSERT INTO all_users (stream_id, type) VALUES ('user-1', 'Left');
SELECT all_wait('all_orders'), all_wait('all_users');

SELECT position - :base AS position, event_table, version, stream_id, type, data, recorded_by = session_user AS by_me
FROM daybook.read_all(:base);
SELECT position - :base AS position FROM daybook.read_all(:base, 2);
SELECT position - :base AS position FROM daybook.read_all(:base + 8);
SELECT count(*) FROM daybook.read_all(:base + 9);
SELECT count(*) FROM daybook.read_all(9223372036854775807);
-- rows are the tables' rows
SELECT count(*) FROM (SELECT id, version, recorded_at, schema_version, event_id, recorded_by, stream_id, type, data, metadata, tags FROM daybook.read_all(:base)
	EXCEPT (TABLE all_orders UNION TABLE all_users)) x;
SELECT pg_typeof(r), (r).position - :base AS position FROM daybook.read_all(:base, 1) r;

-- filters
SELECT position - :base AS position, stream_id FROM daybook.read_all(:base, event_tables => '{all_users}');
SELECT position - :base AS position, stream_id FROM daybook.read_all(:base, event_tables => '{all_users,all_orders,all_users}', types => '{Joined,Shipped,Nothing}');
SELECT position - :base AS position, stream_id FROM daybook.read_all(:base, categories => '{order}');
SELECT position - :base AS position, stream_id FROM daybook.read_all(:base, categories => '{guest,""}');
SELECT position - :base AS position, stream_id FROM daybook.read_all(:base, 1, '{all_orders}', '{order,user}', '{Shipped}');
SELECT count(*) FROM daybook.read_all(:base, event_tables => '{}');
SELECT count(*) FROM daybook.read_all(:base, categories => '{}');
SELECT count(*) FROM daybook.read_all(:base, types => '{}');

-- in FROM it streams, in order
EXPLAIN (COSTS OFF) SELECT * FROM daybook.read_all(types => '{Placed}') ORDER BY position LIMIT 1;
SELECT (daybook.read_all(:base, 1)).type;
SELECT a - :base AS after, position - :base AS position FROM (VALUES (:base), (:base + 7)) v (a), daybook.read_all(a, 2);
SELECT a - :base AS after, (SELECT string_agg(type, ' ') FROM daybook.read_all(a, 3)) FROM (VALUES (:base), (:base + 7)) v (a);

-- in batches, with and without a filter: each event once
INSERT INTO all_orders (stream_id, type, data)
SELECT 'bulk-' || i % 50, CASE WHEN i % 700 = 3 THEN 'Rare' ELSE 'Common' END, jsonb_build_object('i', i) FROM generate_series(1, 3000) i;
SELECT all_wait('all_orders');
CREATE FUNCTION all_batches(base bigint, size int, types text[]) RETURNS TABLE (batches int, events bigint, distinct_events bigint, in_order boolean)
LANGUAGE plpgsql AS $$
DECLARE
	got bigint[];
	seen bigint[] := '{}';
	last bigint := base;
BEGIN
	batches := 0;
	LOOP
		SELECT array_agg(position), max(position) INTO got, last FROM daybook.read_all(last, size, types => all_batches.types);
		EXIT WHEN got IS NULL;
		batches := batches + 1;
		seen := seen || got;
	END LOOP;
	SELECT count(*), count(DISTINCT p), bool_and(p > before IS NOT FALSE) INTO events, distinct_events, in_order
	FROM (SELECT p, lag(p) OVER (ORDER BY n) AS before FROM unnest(seen) WITH ORDINALITY u (p, n)) x;
	RETURN NEXT;
END $$;
SELECT * FROM all_batches(:base, 100, NULL);
SELECT * FROM all_batches(:base, 1, '{Rare}');
SELECT * FROM all_batches(:base, 2000, '{Rare,Placed}');

-- Positions need not follow ids: transactions overlap.  A log of its own
-- (rolled back) names the same events again in another order, and tables by
-- turns.
CREATE FUNCTION all_varint(v bigint) RETURNS bytea LANGUAGE sql AS $$
	SELECT CASE WHEN v < 128 THEN set_byte('\x00', 0, v::int) ELSE set_byte('\x00', 0, (v & 127 | 128)::int) || all_varint(v >> 7) END
$$;
CREATE FUNCTION all_zigzag(v bigint) RETURNS bytea LANGUAGE sql AS $$ SELECT all_varint((v << 1) # (v >> 63)) $$;
CREATE FUNCTION all_segments(first bigint, tables int[], ids bigint[]) RETURNS void LANGUAGE sql AS $$
	INSERT INTO daybook.log_segment
	SELECT first + min(n) - 1, count(*),
		'\x01' || string_agg('\x010000' || all_varint(tables[n]) || all_zigzag(ids[n] - CASE WHEN n % 200 = 1 THEN 0 ELSE ids[n - 1] END), '' ORDER BY n)
	FROM generate_series(1, cardinality(ids)) n
	GROUP BY (n - 1) / 200
$$;
SELECT setseed(0.7);
CREATE TABLE all_shuffled AS
SELECT row_number() OVER () AS n, * FROM
	(SELECT t.table_no, e.id, e.type, e.event_table FROM
		(SELECT 'all_orders'::regclass AS event_table, id, type FROM all_orders UNION ALL SELECT 'all_users', id, type FROM all_users) e
		JOIN daybook.event_table t ON t.relation = e.event_table
	ORDER BY (id + random() * 300)::int % 2500, random()) x;
BEGIN;
SELECT daybook.head() AS head \gset
SELECT all_segments(:head + 1, array_agg(table_no ORDER BY n), array_agg(id ORDER BY n)) FROM all_shuffled;
SELECT count(*), count(*) FILTER (WHERE (r.event_table, r.id, r.type) = (s.event_table, s.id, s.type)) AS right
FROM daybook.read_all(:head, 100000) r FULL JOIN all_shuffled s ON r.position = :head + s.n;
SELECT count(*), count(*) FILTER (WHERE (r.event_table, r.id, r.type) = (s.event_table, s.id, s.type)) AS right
FROM daybook.read_all(:head, 100000, types => '{Rare,Joined,Placed}') r
FULL JOIN (SELECT * FROM all_shuffled WHERE type IN ('Rare', 'Joined', 'Placed')) s ON r.position = :head + s.n;
SELECT * FROM all_batches(:head, 100, NULL);
SELECT position - :head AS position FROM daybook.read_all(:head + 3000);
-- a log that names an event that is not there
SAVEPOINT complete;
SELECT all_segments(:head + 3010, ARRAY[table_no], '{1000000000}') FROM all_shuffled WHERE event_table = 'all_users'::regclass LIMIT 1;
SELECT count(*) FROM daybook.read_all(:head + 3000, 9);
SELECT regexp_replace(all_try(format('SELECT count(*) FROM daybook.read_all(%s)', :head + 3000)), 'position \d+', 'position N');
SELECT regexp_replace(all_try(format('SELECT count(*) FROM daybook.read_all(%s, types => ''{Rare}'')', :head + 3000)), 'position \d+', 'position N');
SELECT count(*) = (SELECT count(*) FROM all_shuffled WHERE n > 3000 AND event_table = 'all_orders'::regclass) AS passed_over
FROM daybook.read_all(:head + 3000, event_tables => '{all_orders}');
ROLLBACK;

-- arguments
SELECT all_try('SELECT * FROM daybook.read_all(-1)');
SELECT all_try('SELECT * FROM daybook.read_all(NULL)');
SELECT all_try('SELECT * FROM daybook.read_all(0, 0)');
SELECT all_try('SELECT * FROM daybook.read_all(0, NULL)');
SELECT all_try('SELECT daybook.read_all(0, 5, ''{all_users,NULL}'')');
SELECT all_try('SELECT * FROM daybook.read_all(categories => ''{NULL}'')');
SELECT all_try('SELECT * FROM daybook.read_all(types => ARRAY[NULL])');
SELECT all_try('SELECT * FROM daybook.read_all(event_tables => ''{pg_class}'')');
SELECT all_try('SELECT * FROM daybook.read_all(event_tables => ''{0}'')') ~ '^42P01' AS no_such_table;

-- privileges: for every table that is read
CREATE ROLE all_reader;
GRANT SELECT ON all_users TO all_reader;
SET ROLE all_reader;
SELECT all_try(format('SELECT * FROM daybook.read_all(%s)', :base));
SELECT all_try(format('SELECT * FROM daybook.read_all(%s, event_tables => ''{all_orders}'')', :base));
SELECT position - :base AS position, type FROM daybook.read_all(:base, event_tables => '{all_users}');
RESET ROLE;
BEGIN READ ONLY;
SELECT count(*) FROM daybook.read_all(:base, event_tables => '{all_users}');
COMMIT;

-- events of a table that is gone are passed over
SELECT daybook.drop_event_table('all_users', force => true);
SELECT position - :base AS position, type FROM daybook.read_all(:base, 5);

SELECT daybook.drop_event_table('all_orders', force => true);
SELECT count(*) FROM daybook.read_all(:base);
DROP TABLE all_shuffled;
DROP ROLE all_reader;
DROP FUNCTION all_wait, all_try, all_batches, all_segments, all_zigzag, all_varint;
