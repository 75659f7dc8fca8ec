-- What heap can do works for event tables: COPY, foreign keys, row locks,
-- TOAST, every kind of scan, index builds and vacuum.
SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE SCHEMA st;
SET search_path = st, public;
SELECT daybook.create_event_table('orders');
\pset format unaligned
\pset tuples_only on

-- COPY in: versions given and not, in any order of streams; what a client may not give is refused
COPY orders (stream_id, version, type, data) FROM STDIN;
a	1	T	{"n": 1}
b	\N	T	{"n": 2}
a	\N	T	{"n": 3}
a	3	T	{"n": 4}
b	2	T	{"n": 5}
\.
SELECT stream_id, version, data FROM orders ORDER BY id;
COPY orders (stream_id, type) FROM STDIN (FORMAT csv, HEADER);
stream_id,type
c,"T, quoted"
\.
COPY orders (stream_id, version, type) FROM STDIN;
a	4	T
a	6	T
\.
COPY orders (id, stream_id, type) FROM STDIN;
100	a	T
\.
COPY orders (stream_id, type) FROM STDIN;
\N	T
\.
SELECT count(*) FROM orders;
-- and out
COPY orders (stream_id, version, type, data) TO STDOUT;
COPY (SELECT stream_id, version FROM orders ORDER BY id LIMIT 2) TO STDOUT (FORMAT csv);
-- a table made in the same transaction takes COPY FREEZE
BEGIN;
SELECT daybook.create_event_table('frozen');
COPY frozen (stream_id, type) FROM STDIN (FREEZE);
f	T
f	T
\.
INSERT INTO frozen (stream_id, type) VALUES ('f', 'T') RETURNING version;
COMMIT;
INSERT INTO frozen (stream_id, type) VALUES ('f', 'T') RETURNING version;
-- a COPY of many streams in one transaction, without a lock for each
BEGIN;
COPY orders (stream_id, type) FROM PROGRAM 'seq -f "many-%g	T" 10000; seq -f "many-%g	T" 10000';
SELECT count(*) < 100 AS few_locks FROM pg_locks WHERE pid = pg_backend_pid();
COMMIT;
SELECT count(*), count(DISTINCT stream_id), min(version), max(version) FROM orders WHERE stream_id LIKE 'many-%';

-- foreign keys to an event table, and from one
CREATE TABLE reaction (id int PRIMARY KEY, order_id bigint NOT NULL REFERENCES orders, stream text, version bigint,
	FOREIGN KEY (stream, version) REFERENCES orders (stream_id, version) ON UPDATE CASCADE ON DELETE CASCADE);
INSERT INTO reaction SELECT 1, id, 'a', 2 FROM orders WHERE stream_id = 'a' AND version = 1;
INSERT INTO reaction VALUES (2, -1, 'a', 2);
INSERT INTO reaction SELECT 2, id, 'a', 99 FROM orders WHERE stream_id = 'a' AND version = 1;
UPDATE reaction SET version = 3;
UPDATE reaction SET version = 98;
DELETE FROM orders WHERE stream_id = 'a' AND version = 3;
DELETE FROM reaction;
CREATE TABLE schema_list (schema_version int PRIMARY KEY);
INSERT INTO schema_list VALUES (1), (2), (3);
SELECT daybook.create_event_table('typed');
ALTER TABLE typed ADD FOREIGN KEY (schema_version) REFERENCES schema_list ON DELETE CASCADE ON UPDATE CASCADE;
INSERT INTO typed (stream_id, type) VALUES ('a', 'T');
INSERT INTO typed (stream_id, type, schema_version) VALUES ('a', 'T', 9);
-- what nothing refers to can go; what an event refers to cannot
DELETE FROM schema_list WHERE schema_version = 3;
UPDATE schema_list SET schema_version = 4 WHERE schema_version = 2;
DELETE FROM schema_list WHERE schema_version = 1;
UPDATE schema_list SET schema_version = 5 WHERE schema_version = 1;
SELECT * FROM schema_list ORDER BY 1;

-- row locks
BEGIN;
SELECT stream_id FROM orders WHERE stream_id = 'a' AND version = 1 FOR KEY SHARE;
SELECT stream_id FROM orders WHERE stream_id = 'a' AND version = 1 FOR SHARE;
SELECT stream_id FROM orders WHERE stream_id = 'a' AND version = 1 FOR NO KEY UPDATE;
SELECT stream_id FROM orders WHERE stream_id = 'a' AND version = 1 FOR UPDATE NOWAIT;
SELECT stream_id FROM orders WHERE stream_id = 'a' AND version = 2 FOR UPDATE SKIP LOCKED;
COMMIT;
SELECT count(*) FROM orders WHERE stream_id = 'a';

-- a payload of 10 MB, and one of 16 MB that compresses
INSERT INTO orders (stream_id, type, data) SELECT 'big', 'T', jsonb_build_object('text', string_agg(md5(i::text), '')) FROM generate_series(1, 330000) i
RETURNING version, length(data->>'text'), md5(data->>'text');
INSERT INTO orders (stream_id, type, data) VALUES ('big', 'T', jsonb_build_object('text', repeat('x', 16 * 1024 * 1024)));
SELECT version, length(data->>'text'), pg_column_size(data) < length(data->>'text') / 10 AS compressed FROM orders WHERE stream_id = 'big' ORDER BY version;
SELECT pg_relation_size(reltoastrelid) > 9000000 AS toasted FROM pg_class WHERE oid = 'orders'::regclass;
VACUUM FULL orders;
SELECT version, md5(data->>'text') FROM orders WHERE stream_id = 'big' AND version = 1;
SELECT version, length(data->>'text') FROM daybook.replay('orders', 'big');

-- scans: sequential, parallel, index, index-only, bitmap, sample, TID, cursor
ANALYZE orders;
CREATE FUNCTION plan(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || statement LOOP
		IF line ~ 'Scan|Gather' THEN
			RETURN NEXT regexp_replace(trim(line, ' ->'), ' on .*| using .*', '');
		END IF;
	END LOOP;
END $$;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
SELECT plan('SELECT count(*), sum(version) FROM orders WHERE type = ''T''');
SELECT count(*), sum(version) FROM orders WHERE type = 'T';
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
SET max_parallel_workers_per_gather = 0;
SELECT plan('SELECT count(*) FROM orders');
VACUUM orders;
SELECT plan('SELECT version FROM orders WHERE stream_id = ''a''');
SELECT version FROM orders WHERE stream_id = 'a';
SELECT version FROM orders WHERE stream_id = 'a' ORDER BY version DESC LIMIT 1;
SET enable_indexscan = off;
SET enable_indexonlyscan = off;
SELECT plan('SELECT data FROM orders WHERE stream_id = ''a''');
SELECT count(data) FROM orders WHERE stream_id = 'a' OR stream_id = 'b';
RESET enable_indexscan;
RESET enable_indexonlyscan;
SELECT count(*) BETWEEN 1 AND 60000 FROM orders TABLESAMPLE BERNOULLI (50) REPEATABLE (1);
SELECT count(*) > 0 FROM orders TABLESAMPLE SYSTEM (100);
SELECT count(*) FROM orders WHERE ctid IN (SELECT ctid FROM orders WHERE stream_id = 'a');
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT stream_id, version FROM orders WHERE stream_id IN ('a', 'b') ORDER BY stream_id, version;
FETCH 2 FROM c;
INSERT INTO orders (stream_id, type) VALUES ('a', 'after the cursor');
FETCH ALL FROM c;
FETCH BACKWARD 1 FROM c;
COMMIT;
DECLARE h CURSOR WITH HOLD FOR SELECT version FROM orders WHERE stream_id = 'a';
FETCH 1 FROM h;
CLOSE h;
PREPARE stream (text) AS SELECT max(version) FROM orders WHERE stream_id = $1;
EXECUTE stream ('a');
INSERT INTO orders (stream_id, type) VALUES ('a', 'T');
EXECUTE stream ('a');
DEALLOCATE stream;

-- indexes of all kinds, and the keys checked against the table
CREATE INDEX partial ON orders (id) WHERE type = 'after the cursor';
CREATE INDEX expression ON orders ((data->>'n'), split_part(stream_id, '-', 1));
CREATE INDEX covering ON orders (type) INCLUDE (version);
CREATE INDEX payload ON orders USING gin (data jsonb_path_ops);
CREATE INDEX recorded ON orders USING brin (recorded_at);
CREATE INDEX hashed ON orders USING hash (event_id);
CREATE INDEX CONCURRENTLY during ON orders (recorded_by, id);
SELECT plan('SELECT id FROM orders WHERE type = ''after the cursor''');
SELECT stream_id, version FROM orders WHERE data->>'n' = '3' AND split_part(stream_id, '-', 1) = 'a';
SELECT stream_id, version FROM orders WHERE data @> '{"n": 4}';
SELECT count(*) FROM orders WHERE recorded_at > now() - interval '1 hour';
REINDEX TABLE orders;
REINDEX TABLE CONCURRENTLY orders;
CLUSTER orders USING orders_stream_id_version_key;
INSERT INTO orders (stream_id, type, event_id) VALUES ('a', 'T', 'aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa') RETURNING version;
INSERT INTO orders (stream_id, type, event_id) VALUES ('a', 'T', 'aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa') ON CONFLICT DO NOTHING;
CREATE EXTENSION IF NOT EXISTS amcheck;
SELECT indexrelid::regclass, bt_index_check(indexrelid, true) FROM pg_index JOIN pg_class c ON c.oid = indexrelid JOIN pg_am a ON a.oid = relam
WHERE indrelid = 'orders'::regclass AND amname = 'btree' ORDER BY c.relname COLLATE "C";
SELECT bt_index_parent_check('orders_stream_id_version_key', true, true);
SELECT stream_id, count(*), max(version) FROM orders WHERE stream_id !~ 'many' GROUP BY 1 ORDER BY 1;

-- modules that know of heap alone refuse
\set VERBOSITY sqlstate
SELECT * FROM verify_heapam('orders');
CREATE EXTENSION pgstattuple;
SELECT pgstattuple('orders');
SELECT tuple_count FROM pgstattuple('orders_pkey') LIMIT 0;
CREATE EXTENSION pgrowlocks;
SELECT * FROM pgrowlocks('st.orders');
CREATE EXTENSION pg_surgery;
SELECT heap_force_kill('orders', ARRAY['(0,1)']::tid[]);
SELECT heap_force_freeze('orders', ARRAY['(0,1)']::tid[]);
\set VERBOSITY default
DROP EXTENSION pgstattuple, pgrowlocks, pg_surgery, amcheck;

-- a plain table of the access method: the same, without the trigger
CREATE TABLE audit (id int PRIMARY KEY, note text) USING daybook;
COPY audit FROM STDIN;
1	one
2	two
\.
INSERT INTO audit SELECT i, repeat('x', i) FROM generate_series(3, 3000) i ON CONFLICT DO NOTHING;
VACUUM (FULL, ANALYZE) audit;
SELECT count(*), sum(length(note)) FROM audit;
CREATE TABLE copied USING daybook AS SELECT * FROM audit WHERE id < 4;
SELECT count(*) FROM copied;

DROP TABLE reaction;
SELECT daybook.drop_event_table(c.oid, force => true) FROM pg_class c JOIN pg_am a ON a.oid = c.relam
WHERE a.amname = 'daybook' AND c.relnamespace = 'st'::regnamespace ORDER BY c.relname COLLATE "C";
RESET search_path;
DROP SCHEMA st CASCADE;
