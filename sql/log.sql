-- daybook.log and daybook.head(): the events in the order of their commits
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS daybook;
SELECT daybook.create_event_table('log_a');
SELECT daybook.create_event_table('log_b');

-- returns when the sequencer has written down all events of a table
CREATE FUNCTION log_wait(event_table regclass) RETURNS void LANGUAGE plpgsql AS $$
DECLARE n bigint;
BEGIN
	EXECUTE format('SELECT count(*) FROM %s', event_table) INTO n;
	FOR i IN 1..6000 LOOP
		EXIT WHEN (SELECT count(*) FROM daybook.log l WHERE l.event_table = log_wait.event_table) = n;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
CREATE FUNCTION log_try(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN 'done';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ': ' || SQLERRM;
END $$;

-- positions below are told from here
SELECT log_wait('log_a');
CREATE TABLE log_base AS SELECT daybook.head() AS base;

INSERT INTO log_a (stream_id, type) VALUES ('x-1', 'One'), ('x-2', 'Two');
BEGIN;
INSERT INTO log_a (stream_id, type) VALUES ('x-1', 'Three');
INSERT INTO log_b (stream_id, type) VALUES ('y-1', 'Four'), ('y-1', 'Five');
INSERT INTO log_a (stream_id, type) VALUES ('x-1', 'Six');
COMMIT;
BEGIN;
INSERT INTO log_a (stream_id, type) VALUES ('x-3', 'Lost');
ROLLBACK;
INSERT INTO log_b (stream_id, type) VALUES ('y-2', 'Seven');
SELECT log_wait('log_a'), log_wait('log_b');

SELECT position - base AS position, event_table, transaction - base AS transaction, coalesce(a.type, b.type) AS type
FROM log_base CROSS JOIN daybook.log
LEFT JOIN log_a a ON event_table = 'log_a'::regclass AND a.id = log.id
LEFT JOIN log_b b ON event_table = 'log_b'::regclass AND b.id = log.id
WHERE position > base
ORDER BY position;
SELECT daybook.head() - base AS head, (SELECT max(position) FROM daybook.log) - base AS max,
	(SELECT min(position) FROM daybook.log) AS min, (SELECT count(*) FROM daybook.log) = daybook.head() AS dense
FROM log_base;
-- one commit time for a transaction
SELECT count(*) FROM (SELECT FROM daybook.log, log_base WHERE position > base
	GROUP BY transaction HAVING count(DISTINCT committed_at) > 1) x;

-- How it is read: in order, from a position, as far as is asked for
EXPLAIN (COSTS OFF) SELECT * FROM daybook.log WHERE position > 10 ORDER BY position LIMIT 5;
EXPLAIN (COSTS OFF) SELECT * FROM daybook.log WHERE position BETWEEN 3 AND 7 AND id > 4 ORDER BY position DESC;
EXPLAIN (COSTS OFF) SELECT * FROM daybook.log WHERE 3::smallint <= position AND position < daybook.head() - 1;
EXPLAIN (COSTS OFF) SELECT * FROM daybook.log WHERE position > random() * 10 OR position <> 4;
EXPLAIN (COSTS OFF) SELECT * FROM unnest('{1,2}'::bigint[]) u JOIN daybook.log ON position = u;
EXPLAIN (COSTS OFF) SELECT * FROM (VALUES (1), (2)) v (a),
	LATERAL (SELECT * FROM daybook.log WHERE position > a ORDER BY position LIMIT 2) l;
PREPARE log_page (bigint, int) AS
	SELECT position - base AS position FROM log_base CROSS JOIN LATERAL
		(SELECT position FROM daybook.log WHERE position > base + $1 ORDER BY position LIMIT $2) l;
SET plan_cache_mode = force_generic_plan;
EXECUTE log_page(0, 2);
EXECUTE log_page(5, 9);
EXECUTE log_page(NULL, 9);
RESET plan_cache_mode;

SELECT count(*) FROM daybook.log WHERE position > 9223372036854775807;
SELECT count(*) FROM daybook.log WHERE position < -9223372036854775808;
SELECT count(*) FROM daybook.log WHERE position = -9223372036854775808;
SELECT count(*) = daybook.head() FROM daybook.log WHERE position >= -9223372036854775808;
SELECT count(*) FROM daybook.log WHERE position > 5 AND position < 4;
SELECT count(*) FROM daybook.log WHERE position > NULL::bigint;
SELECT u, position FROM unnest('{1,NULL,0,1}'::bigint[]) u LEFT JOIN daybook.log ON position = u ORDER BY 1;

-- cursors, whole rows, row locks on a joined table
BEGIN;
DECLARE page SCROLL CURSOR FOR SELECT position - base AS position FROM daybook.log, log_base WHERE position > base ORDER BY position;
FETCH 2 FROM page;
FETCH BACKWARD 1 FROM page;
FETCH LAST FROM page;
COMMIT;
SELECT (l).position = daybook.head() AS newest FROM daybook.log l ORDER BY position DESC LIMIT 1;
BEGIN;
SELECT type FROM log_base, daybook.log JOIN log_a USING (id) WHERE position > base ORDER BY position LIMIT 2 FOR KEY SHARE OF log_a;
COMMIT;

-- it is for reading, and for everyone; its stored form is not
SELECT log_try('INSERT INTO daybook.log VALUES (1, NULL, 1, now(), 1)');
SELECT log_try('DELETE FROM daybook.log');
CREATE ROLE log_reader;
SET ROLE log_reader;
SELECT count(*) = daybook.head() AS reads FROM daybook.log;
SELECT log_try('SELECT FROM daybook.log_segment');
SELECT has_server_privilege('daybook_log', 'usage') AS makes_others;
RESET ROLE;
CREATE FOREIGN TABLE log_other (a bigint) SERVER daybook_log;
SELECT log_try('SELECT FROM log_other');
DROP FOREIGN TABLE log_other;
BEGIN READ ONLY;
SELECT count(*) = daybook.head() AS reads FROM daybook.log;
COMMIT;

-- a snapshot keeps the log it has seen
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT daybook.head() = (SELECT count(*) FROM daybook.log) AS before;
SELECT daybook.append('log_a', 'x-9', '{"type": "Own"}') IS NOT NULL AS appended;
SELECT daybook.head() = (SELECT count(*) FROM daybook.log) AS after;
COMMIT;
SELECT log_wait('log_a');

-- The stored form, by an encoder of its own: random segments give the rows
-- that they were made of.  They are rolled back.
CREATE FUNCTION log_varint(v bigint) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE b bytea := '';
BEGIN
	WHILE v >= 128 LOOP
		b := b || set_byte('\x00', 0, (v & 127 | 128)::int);
		v := v >> 7;
	END LOOP;
	RETURN b || set_byte('\x00', 0, v::int);
END $$;
CREATE FUNCTION log_zigzag(v bigint) RETURNS bytea LANGUAGE sql AS $$ SELECT log_varint((v << 1) # (v >> 63)) $$;
CREATE FUNCTION log_micros(t timestamptz) RETURNS bigint LANGUAGE sql AS
$$ SELECT (extract(epoch FROM t - '2000-01-01 00:00:00+00') * 1000000)::bigint $$;
CREATE TABLE log_entry (position bigint, segment int, table_no int, id bigint, committed_at timestamptz, transaction bigint);
CREATE FUNCTION log_encode(wanted int) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
	e log_entry;
	last log_entry;
	b bytea := '\x01';
	ids bytea := '';
	n int := 0;
	header bytea;
	last_time bigint := 0;
BEGIN
	last.id := 0;
	FOR e IN SELECT * FROM log_entry WHERE segment = wanted ORDER BY position LOOP
		IF (last.transaction, last.table_no, last.committed_at) IS DISTINCT FROM (e.transaction, e.table_no, e.committed_at) THEN
			b := b || CASE WHEN n > 0 THEN log_varint(n) || header || ids ELSE '' END;
			header := log_zigzag(log_micros(e.committed_at) - last_time) || log_varint(e.position - e.transaction) || log_varint(e.table_no);
			last_time := log_micros(e.committed_at);
			n := 0;
			ids := '';
		END IF;
		ids := ids || log_zigzag(e.id - last.id);
		n := n + 1;
		last := e;
	END LOOP;
	RETURN b || log_varint(n) || header || ids;
END $$;
-- the newer form, in which a transaction of one event has two fields
CREATE FUNCTION log_encode_2(wanted int) RETURNS bytea LANGUAGE sql AS $$
	SELECT '\x02' || string_agg(log_varint(CASE WHEN apart THEN 2 ELSE ((id_step << 1) # (id_step >> 63)) << 2 END | CASE WHEN n > 1 THEN 1 ELSE 0 END) ||
		CASE WHEN n > 1 THEN log_varint(n) ELSE '' END || log_zigzag(time_step) ||
		CASE WHEN apart THEN log_varint("offset") || log_varint(table_no) || log_zigzag(id_step) ELSE '' END || further, '' ORDER BY group_no)
	FROM (SELECT *, "offset" <> 0 OR table_no IS DISTINCT FROM lag(table_no) OVER (ORDER BY group_no) AS apart,
			log_micros(committed_at) - coalesce(lag(log_micros(committed_at)) OVER (ORDER BY group_no), 0) AS time_step
		FROM (SELECT group_no, count(*) AS n, min(position - transaction) AS "offset", min(table_no) AS table_no, min(committed_at) AS committed_at,
				(array_agg(step ORDER BY position))[1] AS id_step,
				coalesce(string_agg(CASE WHEN new_group = 1 THEN '' ELSE log_zigzag(step) END, '' ORDER BY position), '') AS further
			FROM (SELECT *, sum(new_group) OVER (ORDER BY position) AS group_no
				FROM (SELECT *, id - coalesce(lag(id) OVER w, 0) AS step,
						CASE WHEN (transaction, table_no, committed_at) IS DISTINCT FROM (lag(transaction) OVER w, lag(table_no) OVER w, lag(committed_at) OVER w) THEN 1 ELSE 0 END AS new_group
					FROM log_entry WHERE segment = wanted WINDOW w AS (ORDER BY position)) a) b
			GROUP BY group_no) c) d
$$;
SELECT setseed(0.42);
INSERT INTO log_entry
SELECT base + n, sum(new_segment) OVER w, max(table_no) FILTER (WHERE new_group = 1) OVER g,
	id, max(committed_at) OVER t, base + min(n) OVER t
FROM (SELECT *, sum(new_transaction) OVER w AS transaction_no, sum(new_group) OVER w AS group_no
	FROM (SELECT *, CASE WHEN new_transaction = 1 OR random() < 0.1 THEN 1 ELSE 0 END AS new_group
		FROM (SELECT n, CASE WHEN n = 1 OR random() < 0.01 THEN 1 ELSE 0 END AS new_segment,
				CASE WHEN n = 1 OR random() < CASE WHEN n < 1000 THEN 0.5 ELSE 0.01 END THEN 1 ELSE 0 END AS new_transaction,
				(random() * 10 ^ (1 + n % 15))::bigint + 1 AS id,
				(SELECT max(table_no) FROM daybook.event_table) - (random() * 1.4)::int + (random() * 0.6)::int * 100 AS table_no,
				timestamptz '2030-01-01 00:00:00+00' + random() * interval '9 days' AS committed_at
			FROM generate_series(1, 3000) n) x) y
	WINDOW w AS (ORDER BY n)) z, LATERAL (SELECT daybook.head()) h (base)
WINDOW w AS (ORDER BY n), g AS (PARTITION BY group_no), t AS (PARTITION BY transaction_no);
SELECT count(*), count(DISTINCT segment) > 20 AS segments, count(DISTINCT table_no) > 2 AS tables,
	count(DISTINCT transaction) > 400 AS transactions FROM log_entry;
CREATE VIEW log_expected AS
SELECT position, t.relation AS event_table, id, committed_at, transaction
FROM log_entry LEFT JOIN daybook.event_table t USING (table_no);
BEGIN;
SELECT min(position) AS start FROM log_entry \gset
INSERT INTO daybook.log_segment
SELECT min(position), count(*), log_encode(segment) FROM log_entry GROUP BY segment;
SELECT daybook.head() - :start AS head, count(*) FROM daybook.log WHERE position >= :start;
SELECT * FROM daybook.log WHERE position >= :start EXCEPT ALL SELECT * FROM log_expected;
-- whole, backward, and in windows of every kind
SELECT count(*) FROM (SELECT row_number() OVER () AS n, position FROM (SELECT position FROM daybook.log WHERE position >= :start ORDER BY position) l) x WHERE position <> :start + n - 1;
SELECT count(*) FROM (SELECT row_number() OVER () AS n, position FROM (SELECT position FROM daybook.log ORDER BY position DESC LIMIT 3000) l) x WHERE position <> :start + 3000 - n;
SELECT * FROM (SELECT * FROM daybook.log ORDER BY position DESC LIMIT 3000) l EXCEPT ALL SELECT * FROM log_expected;
SELECT count(*) FROM generate_series(:start, :start + 2999, 7) a,
	LATERAL (SELECT count(*), min(position), max(position) FROM daybook.log WHERE position > a AND position <= a + 13) l
WHERE (l.count, l.min, l.max) <> (least(13, :start + 2999 - a), a + 1, least(a + 13, :start + 2999));
SELECT count(*) FROM generate_series(:start, :start + 2999, 7) a,
	LATERAL (SELECT position FROM daybook.log WHERE position <= a ORDER BY position DESC LIMIT 1) l WHERE l.position <> a;
SAVEPOINT whole;
UPDATE daybook.log_segment SET entries = log_encode_2(segment)
FROM (SELECT segment, min(position) AS start FROM log_entry GROUP BY segment) s WHERE first_position = s.start;
SELECT bool_and(get_byte(entries, 0) = 2) AS newer FROM daybook.log_segment WHERE first_position >= :start;
SELECT count(*) FROM daybook.log WHERE position >= :start;
SELECT * FROM daybook.log WHERE position >= :start EXCEPT ALL SELECT * FROM log_expected;
SELECT * FROM (SELECT * FROM daybook.log ORDER BY position DESC LIMIT 3000) l EXCEPT ALL SELECT * FROM log_expected;
UPDATE daybook.log_segment SET event_count = event_count + 1 WHERE first_position = :start;
SELECT regexp_replace(log_try('SELECT count(*) FROM daybook.log'), '\d+$', 'N');
UPDATE daybook.log_segment SET event_count = event_count - 1, entries = substr(entries, 1, length(entries) - 1) WHERE first_position = :start;
SELECT regexp_replace(log_try('SELECT count(*) FROM daybook.log'), '\d+$', 'N');
ROLLBACK TO whole;
-- what has been broken is reported, not passed over
SAVEPOINT whole;
DELETE FROM daybook.log_segment WHERE first_position = (SELECT min(position) FROM log_entry WHERE segment = 5);
SELECT regexp_replace(log_try('SELECT count(*) FROM daybook.log'), '\d+$', 'N');
SELECT regexp_replace(log_try('SELECT count(*) FROM (SELECT FROM daybook.log ORDER BY position DESC OFFSET 0) x'), '\d+$', 'N');
SELECT count(*) = (SELECT count(*) FROM log_entry WHERE segment > 6) AS later_ones_are_read
FROM daybook.log WHERE position > (SELECT max(position) FROM log_entry WHERE segment = 6);
ROLLBACK TO whole;
UPDATE daybook.log_segment SET event_count = event_count + 1 WHERE first_position = :start;
SELECT regexp_replace(log_try('SELECT count(*) FROM daybook.log'), '\d+$', 'N');
ROLLBACK TO whole;
UPDATE daybook.log_segment SET event_count = -event_count WHERE first_position = (SELECT max(first_position) FROM daybook.log_segment);
SELECT regexp_replace(log_try('SELECT count(*) FROM daybook.log'), '(position|have) (-?)\d+', '\1 \2N', 'g');
SELECT regexp_replace(log_try('SELECT position FROM daybook.log ORDER BY position DESC LIMIT 1'), '(position|have) (-?)\d+', '\1 \2N', 'g');
ROLLBACK TO whole;
UPDATE daybook.log_segment SET event_count = 2000000000 WHERE first_position = (SELECT max(first_position) FROM daybook.log_segment);
SELECT regexp_replace(log_try('SELECT position FROM daybook.log ORDER BY position DESC LIMIT 1'), '(position|have) (-?)\d+', '\1 \2N', 'g');
ROLLBACK TO whole;
UPDATE daybook.log_segment SET entries = set_byte(entries, 0, 7) WHERE first_position = :start;
SELECT regexp_replace(log_try('SELECT count(*) FROM daybook.log'), '(position|have) (-?)\d+', '\1 \2N', 'g');
ROLLBACK;

-- a table that is gone leaves its positions
SELECT daybook.drop_event_table('log_b', force => true);
SELECT position - base AS position, event_table FROM daybook.log, log_base WHERE position BETWEEN base + 3 AND base + 7 ORDER BY position;

SELECT daybook.drop_event_table('log_a', force => true);
DROP VIEW log_expected;
DROP TABLE log_base, log_entry;
DROP ROLE log_reader;
DROP FUNCTION log_wait, log_try, log_varint, log_zigzag, log_micros, log_encode, log_encode_2;
