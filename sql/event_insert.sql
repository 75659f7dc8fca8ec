-- What INSERT into an event table gives, takes and refuses.
SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE ROLE regress_daybook_writer;
CREATE ROLE regress_daybook_boss LOGIN;
CREATE SCHEMA ins;
GRANT USAGE ON SCHEMA ins TO PUBLIC;
SET search_path = ins, public;
SELECT daybook.create_event_table('orders');
SELECT daybook.create_event_table('other');

-- versions: not given, given, mixed, several streams and rows in one statement
INSERT INTO orders (stream_id, type) VALUES ('a', 'T') RETURNING version, schema_version, data, metadata, tags;
INSERT INTO orders (stream_id, type, version) VALUES ('a', 'T', 2), ('a', 'T', NULL), ('b', 'T', 1), ('a', 'T', 4), ('b', 'T', NULL)
RETURNING stream_id, version;
INSERT INTO orders (stream_id, type) SELECT 'many-' || i % 3, 'T' FROM generate_series(1, 9) i;
SELECT stream_id, array_agg(version ORDER BY id) FROM orders GROUP BY 1 ORDER BY 1;
SELECT count(*), count(DISTINCT id) = count(*) AS ids_differ, bool_and(id > 0) AS positive FROM orders;
SELECT bool_and(recorded_by = session_user) AS by_me, max(recorded_at) <= clock_timestamp() AND min(recorded_at) > now() - interval '1 minute' AS now
FROM orders;
BEGIN;
INSERT INTO orders (stream_id, type) VALUES ('clock', 'T');
SELECT pg_sleep(0.01);
INSERT INTO orders (stream_id, type) VALUES ('clock', 'T');
SELECT max(recorded_at) > min(recorded_at) AS clock_not_transaction FROM orders WHERE stream_id = 'clock';
ROLLBACK;

-- versions that are wrong: nothing of the statement stays
CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
	tab text;
	col text;
BEGIN
	EXECUTE statement;
	RETURN 'done';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT, tab = TABLE_NAME, col = COLUMN_NAME;
	IF SQLSTATE IN ('23502', '23514', '23505') THEN detail := ''; END IF; -- shows the row, with its time, or what is random
	RETURN concat_ws(E'\n    ', SQLSTATE || ': ' || SQLERRM, NULLIF(detail, ''), NULLIF(hint, ''), NULLIF(concat_ws('.', tab, NULLIF(col, '')), ''));
END $$;
\pset format unaligned
\pset tuples_only on
SELECT attempt($$INSERT INTO orders (stream_id, version, type) VALUES ('a', 3, 'T')$$);
SELECT attempt($$INSERT INTO orders (stream_id, version, type) VALUES ('a', 6, 'T')$$);
SELECT attempt($$INSERT INTO orders (stream_id, version, type) VALUES ('new', 2, 'T')$$);
SELECT attempt($$INSERT INTO orders (stream_id, version, type) VALUES ('new', 1, 'T'), ('new', 1, 'T')$$);
SELECT attempt($$INSERT INTO orders (stream_id, version, type) VALUES ('new', 1, 'T'), ('a', 5, 'T'), ('a', 7, 'T')$$);
SELECT attempt($$INSERT INTO orders (stream_id, version, type) VALUES ('new', 0, 'T')$$);
SELECT attempt($$INSERT INTO orders (stream_id, version, type) VALUES ('new', -1, 'T')$$);
SELECT attempt($$INSERT INTO orders (stream_id, version, type) VALUES ('new', 9223372036854775807, 'T')$$);
SELECT count(*) FROM orders WHERE stream_id = 'new' OR (stream_id = 'a' AND version > 4);

-- what the database says of an event is not the writer's to say
SELECT attempt($$INSERT INTO orders (id, stream_id, type) VALUES (1000, 'a', 'T')$$);
SELECT attempt($$INSERT INTO orders (stream_id, type, recorded_at) VALUES ('a', 'T', now())$$);
SELECT attempt($$INSERT INTO orders (stream_id, type, recorded_by) VALUES ('a', 'T', session_user)$$);
SELECT attempt($$INSERT INTO orders (id, recorded_at, recorded_by, stream_id, type) VALUES (NULL, NULL, NULL, 'explicit-null', 'T')$$);

-- the last that there is
BEGIN;
SET LOCAL daybook.restore = on;
INSERT INTO orders (stream_id, type, version) VALUES ('last', 'T', 9223372036854775807);
SET LOCAL daybook.restore = off;
SELECT attempt($$INSERT INTO orders (stream_id, type) VALUES ('last', 'T')$$);
SELECT attempt($$SELECT daybook.append('orders', 'last', 'T', '{}')$$);
SELECT attempt($$INSERT INTO orders (stream_id, type, version) VALUES ('last', 'T', 1)$$);
ROLLBACK;

-- columns without a value
SELECT attempt($$INSERT INTO orders DEFAULT VALUES$$);
SELECT attempt($$INSERT INTO orders (type) VALUES ('T')$$);
SELECT attempt($$INSERT INTO orders (stream_id) VALUES ('a')$$);
SELECT attempt($$INSERT INTO orders (stream_id, type) VALUES ('', 'T')$$);
SELECT attempt($$INSERT INTO orders (stream_id, type) VALUES ('a', '')$$);
SELECT attempt($$INSERT INTO orders (stream_id, type, data) VALUES ('a', 'T', NULL)$$);
SELECT attempt($$INSERT INTO orders (stream_id, type, schema_version) VALUES ('a', 'T', 0)$$);
SELECT attempt($$INSERT INTO orders (stream_id, type, schema_version) VALUES ('new', 'T', 1), ('a', 'T', -1)$$);
SET daybook.restore = on;
SELECT attempt($$INSERT INTO orders (stream_id, type, schema_version) VALUES ('a', 'T', 0)$$);
RESET daybook.restore;
INSERT INTO orders (stream_id, type, schema_version, event_id, tags, data) VALUES ('nulls', 'T', NULL, NULL, NULL, 'null')
RETURNING version, schema_version, event_id IS NOT NULL AS has_event_id, tags, data;
INSERT INTO orders (stream_id, type, schema_version, tags, data, metadata) VALUES ('full', 'T', 3, '{x,y}', '[1, 2]', '{"why": "test"}')
RETURNING version, schema_version, tags, data, metadata;
-- as long as a key can be
SELECT attempt(format('INSERT INTO orders (stream_id, type) VALUES (%L, %L)', string_agg(md5(i::text), ''), 'T')) FROM generate_series(1, 80) i;
SELECT left(attempt(format('INSERT INTO orders (stream_id, type) VALUES (%L, %L)', string_agg(md5(i::text), ''), 'T')), 5) FROM generate_series(1, 100) i;
INSERT INTO orders (stream_id, type) VALUES ('ünïcödé-☃', 'T'), (' ', 'T'), ('ÜNÏCÖDÉ-☃', 'T') RETURNING version;

-- metadata of the session goes under the event's own
SET daybook.metadata = '{"actor": "alice", "request": 7}';
INSERT INTO orders (stream_id, type) VALUES ('meta', 'T') RETURNING metadata;
INSERT INTO orders (stream_id, type, metadata) VALUES ('meta', 'T', '{"actor": "bob", "why": "x"}') RETURNING metadata;
INSERT INTO orders (stream_id, type, metadata) VALUES ('meta', 'T', '{}') RETURNING metadata;
INSERT INTO orders (stream_id, type, metadata) VALUES ('meta', 'T', NULL) RETURNING metadata;
SELECT attempt($$INSERT INTO orders (stream_id, type, metadata) VALUES ('meta', 'T', '[1]')$$);
SELECT attempt($$INSERT INTO orders (stream_id, type, metadata) VALUES ('meta', 'T', 'null')$$);
BEGIN;
SET LOCAL daybook.metadata = '{"actor": "carol"}';
INSERT INTO orders (stream_id, type) VALUES ('meta', 'T') RETURNING metadata;
ROLLBACK;
INSERT INTO orders (stream_id, type) VALUES ('meta', 'T') RETURNING metadata;
SET daybook.metadata = 'alice';
SET daybook.metadata = '["alice"]';
SET daybook.metadata = '{"actor"';
SHOW daybook.metadata;
SET daybook.metadata = '{}';
INSERT INTO orders (stream_id, type) VALUES ('meta', 'T') RETURNING metadata;
SET daybook.metadata = '';
INSERT INTO orders (stream_id, type) VALUES ('meta', 'T') RETURNING metadata IS NULL;
INSERT INTO orders (stream_id, type, metadata) VALUES ('meta', 'T', '"text"') RETURNING metadata;
RESET daybook.metadata;
ALTER ROLE regress_daybook_writer SET daybook.metadata = '[]';
ALTER ROLE regress_daybook_writer SET daybook.metadata = '{"role": "writer"}';
ALTER ROLE regress_daybook_writer RESET daybook.metadata;

-- event ids: the caller's stand once in a stream, made ones are told apart
INSERT INTO orders (stream_id, type, event_id) VALUES ('e', 'T', '11111111-1111-1111-1111-111111111111') RETURNING version, event_id, daybook.event_id_given(event_id);
INSERT INTO orders (stream_id, type) VALUES ('e', 'T') RETURNING version, daybook.event_id_given(event_id);
SELECT attempt($$INSERT INTO orders (stream_id, type, event_id) VALUES ('e', 'T', '11111111-1111-1111-1111-111111111111')$$);
INSERT INTO orders (stream_id, type, event_id) VALUES ('e2', 'T', '11111111-1111-1111-1111-111111111111') RETURNING version;
INSERT INTO orders (stream_id, type, event_id) SELECT 'e3', 'T', event_id FROM orders WHERE stream_id = 'e' ORDER BY version RETURNING version, daybook.event_id_given(event_id);
SELECT count(DISTINCT event_id) AS distinct, count(*) FILTER (WHERE event_id::text ~ '^[0-9a-f]{8}-[0-9a-f]{4}-8db0-[89ab][0-9a-f]{3}-') AS version_8
FROM orders WHERE stream_id LIKE 'many-%';
SELECT daybook.event_id_given(NULL), daybook.event_id_given('00000000-0000-0000-0000-000000000000'), daybook.event_id_given(gen_random_uuid());

-- ON CONFLICT DO NOTHING: for versions and for event ids
INSERT INTO orders (stream_id, version, type) VALUES ('c', 1, 'first') RETURNING version;
INSERT INTO orders (stream_id, version, type) VALUES ('c', 1, 'again') ON CONFLICT DO NOTHING RETURNING version;
INSERT INTO orders (stream_id, version, type) VALUES ('c', 1, 'again'), ('c', 2, 'second'), ('c', 2, 'again'), ('c', NULL, 'third') ON CONFLICT DO NOTHING RETURNING version, type;
INSERT INTO orders (stream_id, version, type) VALUES ('c', 1, 'again') ON CONFLICT (stream_id, version) DO NOTHING RETURNING version;
INSERT INTO orders (stream_id, version, type) VALUES ('c', 1, 'again') ON CONFLICT ON CONSTRAINT orders_stream_id_version_key DO NOTHING RETURNING version;
-- a version ahead of the stream is no conflict with a row
SELECT attempt($$INSERT INTO orders (stream_id, version, type) VALUES ('c', 9, 'T') ON CONFLICT DO NOTHING$$);
-- a taken version is an error when other conflicts are meant
SELECT attempt($$INSERT INTO orders (stream_id, version, type) VALUES ('c', 1, 'T') ON CONFLICT (id) DO NOTHING$$);
SELECT attempt($$INSERT INTO orders (stream_id, version, type) VALUES ('c', 1, 'T') ON CONFLICT (event_id, stream_id) WHERE daybook.event_id_given(event_id) DO NOTHING$$);
INSERT INTO orders (stream_id, type, event_id) VALUES
	('c', 'by id', '22222222-2222-2222-2222-222222222222'), ('c', 'again', '22222222-2222-2222-2222-222222222222'), ('c', 'next', NULL)
ON CONFLICT (event_id, stream_id) WHERE daybook.event_id_given(event_id) DO NOTHING RETURNING version, type;
INSERT INTO orders (stream_id, type, event_id) VALUES ('c', 'again', '22222222-2222-2222-2222-222222222222') ON CONFLICT DO NOTHING RETURNING version;
INSERT INTO orders (stream_id, type) VALUES ('c', 'last') RETURNING version;
-- within WITH, read from or not, and through a prepared statement
WITH i AS (INSERT INTO orders (stream_id, version, type) VALUES ('c', 1, 'again') ON CONFLICT DO NOTHING RETURNING version) SELECT count(*) FROM i;
WITH i AS (INSERT INTO orders (stream_id, version, type) VALUES ('c', 1, 'again') ON CONFLICT DO NOTHING) SELECT 'not read';
PREPARE again (bigint) AS INSERT INTO orders (stream_id, version, type) VALUES ('c', $1, 'again') ON CONFLICT DO NOTHING RETURNING version;
EXECUTE again (3);
DEALLOCATE again;
-- the outer statement's DO NOTHING is not the inner one's
CREATE FUNCTION append_taken() RETURNS text LANGUAGE sql AS $$ INSERT INTO ins.orders (stream_id, version, type) VALUES ('c', 1, 'inner'); SELECT 'T' $$;
SELECT attempt($$INSERT INTO orders (stream_id, type) SELECT 'outer', append_taken() ON CONFLICT DO NOTHING$$);
SELECT stream_id, version, type FROM orders WHERE stream_id = 'c' ORDER BY version;

-- other triggers: before daybook_append they may say what a client may
CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	CASE TG_ARGV[0]
		WHEN 'data' THEN NEW.data := NEW.data || '{"by": "trigger"}'; NEW.metadata := '{"m": 1}';
		WHEN 'tags' THEN NEW.tags := TG_ARGV[1];
		WHEN 'drop' THEN IF NEW.type = 'dropped' THEN RETURN NULL; END IF;
		WHEN 'id' THEN NEW.id := NEW.id + 1;
		WHEN 'version' THEN NEW.version := NEW.version + 1;
		WHEN 'stream' THEN NEW.stream_id := 'elsewhere';
		WHEN 'recorded_by' THEN NEW.recorded_by := 'nobody';
		WHEN 'recorded_at' THEN NEW.recorded_at := '2001-01-01';
		WHEN 'type' THEN NEW.type := TG_ARGV[1];
		WHEN 'schema_version' THEN NEW.schema_version := 0;
		WHEN 'event_id' THEN NEW.event_id := '44444444-4444-4444-4444-444444444444';
		WHEN 'append' THEN INSERT INTO other (stream_id, type) VALUES ('copy-' || NEW.stream_id, NEW.type), ('copy-' || NEW.stream_id, NEW.type);
		WHEN 'recurse' THEN IF NEW.type <> 'inner' THEN INSERT INTO orders (stream_id, type) VALUES (NEW.stream_id, 'inner'); END IF;
		WHEN 'recurse elsewhere' THEN IF NEW.type <> 'inner' THEN INSERT INTO orders (stream_id, type) VALUES (NEW.stream_id || '-audit', 'inner'); END IF;
		WHEN 'function' THEN PERFORM daybook.append('other', 'f-' || NEW.stream_id, 'T', '{}'::jsonb);
		WHEN 'caught' THEN
			BEGIN
				INSERT INTO other (stream_id, type) VALUES ('caught', 'T');
				PERFORM 1 / 0;
			EXCEPTION WHEN division_by_zero THEN
				NULL;
			END;
		WHEN 'dropped inside' THEN
			INSERT INTO other (stream_id, type, event_id) SELECT 'same', 'T', '33333333-3333-3333-3333-333333333333' FROM generate_series(1, 50)
			ON CONFLICT DO NOTHING;
	END CASE;
	RETURN NEW;
END $$;
CREATE TRIGGER a BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('data');
INSERT INTO orders (stream_id, type) VALUES ('t', 'T') RETURNING version, data, metadata;
CREATE OR REPLACE TRIGGER a BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('tags', '{tagged}');
INSERT INTO orders (stream_id, type) VALUES ('t', 'T') RETURNING version, tags;
CREATE OR REPLACE TRIGGER a BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('drop');
INSERT INTO orders (stream_id, type) VALUES ('t', 'T'), ('t', 'dropped'), ('t', 'T') RETURNING version;
CREATE OR REPLACE TRIGGER a BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('recorded_by');
SELECT attempt($$INSERT INTO orders (stream_id, type) VALUES ('t', 'T')$$);
DROP TRIGGER a ON orders;

-- after it they may add to the event or refuse it, not alter what it is
CREATE TRIGGER z BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('data');
INSERT INTO orders (stream_id, type, tags) VALUES ('t', 'T', NULL), ('t', 'T', '{}'), ('t', 'T', '{x,y}') RETURNING version, data, metadata, tags;
SELECT first_version, last_version FROM daybook.append('orders', 't', '[{"type": "T", "tags": ["x", "y"]}, {"type": "T"}]'::jsonb);
CREATE OR REPLACE TRIGGER z BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('drop');
INSERT INTO orders (stream_id, type) VALUES ('t', 'T'), ('t', 'dropped'), ('t', 'T'), ('t', 'dropped'), ('t2', 'dropped'), ('t2', 'T') RETURNING stream_id, version;
INSERT INTO orders (stream_id, type) SELECT 'd-' || i % 2, CASE WHEN i % 5 = 0 THEN 'T' ELSE 'dropped' END FROM generate_series(1, 1000) i;
SELECT stream_id, count(*), max(version) FROM orders WHERE stream_id LIKE 'd-%' GROUP BY 1 ORDER BY 1;
CREATE OR REPLACE TRIGGER z BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('id');
SELECT attempt($$INSERT INTO orders (stream_id, type) VALUES ('t', 'T')$$);
CREATE OR REPLACE TRIGGER z BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('version');
SELECT attempt($$INSERT INTO orders (stream_id, type) VALUES ('t', 'T')$$);
CREATE OR REPLACE TRIGGER z BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('stream');
SELECT attempt($$INSERT INTO orders (stream_id, type) VALUES ('t', 'T')$$);
CREATE OR REPLACE TRIGGER z BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('recorded_by');
SELECT attempt($$INSERT INTO orders (stream_id, type) VALUES ('t', 'T')$$);
CREATE OR REPLACE TRIGGER z BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('recorded_at');
SELECT attempt($$INSERT INTO orders (stream_id, type) VALUES ('t', 'T')$$);
CREATE OR REPLACE TRIGGER z BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('type');
SELECT attempt($$INSERT INTO orders (stream_id, type) VALUES ('t', 'T')$$);
CREATE OR REPLACE TRIGGER z BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('type', '');
SELECT attempt($$INSERT INTO orders (stream_id, type) VALUES ('t', 'T')$$);
CREATE OR REPLACE TRIGGER z BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('schema_version');
SELECT attempt($$INSERT INTO orders (stream_id, type) VALUES ('t', 'T')$$);
SELECT attempt($$SELECT daybook.append('orders', 't', '[{"type": "T"}, {"type": "T"}]'::jsonb)$$);
-- nor its tags, which conditional appends would not know of
CREATE OR REPLACE TRIGGER z BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('tags', '{x,z}');
SELECT attempt(format('INSERT INTO orders (stream_id, type, tags) VALUES (''t'', ''T'', %L)', tags)) FROM (VALUES (NULL), ('{}'), ('{x,y}'), ('{x,z}')) v (tags);
SELECT attempt($$SELECT daybook.append('orders', 't', '{"type": "T", "tags": ["x"]}'::jsonb)$$);

-- triggers that append, to another table or the same, or that catch an error
CREATE OR REPLACE TRIGGER z BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('append');
INSERT INTO orders (stream_id, type) VALUES ('n', 'T'), ('n', 'T') RETURNING version;
CREATE OR REPLACE TRIGGER z BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('function');
INSERT INTO orders (stream_id, type) VALUES ('n', 'T'), ('n', 'T') RETURNING version;
SELECT stream_id, version FROM other ORDER BY stream_id, version;
CREATE OR REPLACE TRIGGER z BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('recurse elsewhere');
INSERT INTO orders (stream_id, type) VALUES ('n', 'T'), ('n', 'T') RETURNING version;
CREATE OR REPLACE TRIGGER z BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('recurse');
SELECT attempt($$INSERT INTO orders (stream_id, type) VALUES ('n', 'T')$$);
CREATE OR REPLACE TRIGGER z BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('caught');
INSERT INTO orders (stream_id, type) VALUES ('n', 'T'), ('n', 'T') RETURNING version;
CREATE OR REPLACE TRIGGER z BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('dropped inside');
INSERT INTO orders (stream_id, type) VALUES ('n', 'T'), ('n', 'T') RETURNING version;
SELECT first_version, last_version FROM daybook.append('orders', 'n', '[{"type": "T"}, {"type": "T"}]'::jsonb);
DROP TRIGGER z ON orders;
-- so must not what is evaluated before the row is stored
CREATE FUNCTION append_elsewhere(type text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	IF type = 'nested' THEN
		INSERT INTO ins.orders (stream_id, type) VALUES ('n-checked', 'inner');
	END IF;
	RETURN true;
END $$;
ALTER TABLE orders ADD CONSTRAINT appends CHECK (append_elsewhere(type)) NOT VALID;
SELECT attempt($$INSERT INTO orders (stream_id, type) VALUES ('n', 'nested')$$);
SELECT attempt($$SELECT daybook.append('orders', 'n', 'nested', '{}'::jsonb)$$);
ALTER TABLE orders DROP CONSTRAINT appends;
CREATE TRIGGER z BEFORE INSERT ON orders FOR EACH ROW WHEN (append_elsewhere(NEW.type)) EXECUTE FUNCTION tr('data');
SELECT attempt($$INSERT INTO orders (stream_id, type) VALUES ('n', 'nested')$$);
INSERT INTO orders (stream_id, type) VALUES ('n', 'T') RETURNING data;
DROP TRIGGER z ON orders;
DROP FUNCTION append_elsewhere;
CREATE TRIGGER z AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('recurse');
INSERT INTO orders (stream_id, type) VALUES ('n', 'T'), ('n', 'T') RETURNING version;
DROP TRIGGER z ON orders;
SELECT stream_id, count(*), max(version), min(version) FROM orders WHERE stream_id LIKE 'n%' GROUP BY 1 ORDER BY 1;

-- event ids that come with no row but are given all the same; rows without stand beside rows with
CREATE EXTENSION amcheck;
CREATE TRIGGER a BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('event_id');
INSERT INTO orders (stream_id, type) VALUES ('i1', 'T') RETURNING event_id;
SELECT attempt($$INSERT INTO orders (stream_id, type) VALUES ('i1', 'T')$$);
SELECT attempt($$SELECT daybook.append('orders', 'i1', 'T', '{}'::jsonb)$$);
DROP TRIGGER a ON orders;
CREATE TRIGGER z BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('event_id');
SELECT attempt($$INSERT INTO orders (stream_id, type) VALUES ('i1', 'T')$$);
INSERT INTO orders (stream_id, type) VALUES ('i2', 'T') RETURNING event_id;
SELECT attempt($$SELECT daybook.append('orders', 'i2', 'T', '{}'::jsonb)$$);
DROP TRIGGER z ON orders;
ALTER TABLE orders ALTER event_id SET DEFAULT '55555555-5555-5555-5555-555555555555';
INSERT INTO orders (stream_id, type) VALUES ('i3', 'T') RETURNING event_id;
SELECT attempt($$INSERT INTO orders (stream_id, type) VALUES ('i3', 'T')$$);
ALTER TABLE orders ALTER event_id DROP DEFAULT;
PREPARE i (uuid) AS INSERT INTO orders (stream_id, type, event_id) VALUES ('i4', 'T', $1) RETURNING version, daybook.event_id_given(event_id);
SET plan_cache_mode = force_custom_plan;
EXECUTE i (NULL);
EXECUTE i ('44444444-4444-4444-4444-444444444444');
EXECUTE i ('44444444-4444-4444-4444-444444444444');
SET plan_cache_mode = force_generic_plan;
EXECUTE i (NULL);
EXECUTE i ('44444444-4444-4444-4444-444444444444');
DEALLOCATE i;
PREPARE i AS INSERT INTO orders (stream_id, type) VALUES ('i5', 'T') RETURNING version;
EXECUTE i;
CREATE TRIGGER a BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tr('event_id');
EXECUTE i;
EXECUTE i;
DROP TRIGGER a ON orders;
EXECUTE i;
DEALLOCATE i;
RESET plan_cache_mode;
INSERT INTO orders (stream_id, type, event_id) SELECT 'i6', 'T', NULL::uuid UNION ALL SELECT 'i6', 'T', '44444444-4444-4444-4444-444444444444' RETURNING version;
SELECT attempt($$INSERT INTO orders (stream_id, type, event_id) VALUES ('i6', 'T', NULL), ('i6', 'T', '44444444-4444-4444-4444-444444444444')$$);
WITH i AS (INSERT INTO orders (stream_id, type) VALUES ('i7', 'T') RETURNING 'i7', type)
INSERT INTO orders (stream_id, type) SELECT * FROM i RETURNING version;
SELECT first_version, last_version FROM daybook.append('orders', 'i8', '[{"type": "T"}, {"type": "T", "event_id": "44444444-4444-4444-4444-444444444444"}]'::jsonb);
SELECT duplicate FROM daybook.append('orders', 'i8', '{"type": "T", "event_id": "44444444-4444-4444-4444-444444444444"}'::jsonb);
EXPLAIN (COSTS OFF) INSERT INTO orders (stream_id, type) VALUES ('i9', 'T');
CREATE TABLE generated (
	id bigint PRIMARY KEY, version bigint, recorded_at timestamptz, schema_version int,
	event_id uuid GENERATED ALWAYS AS (md5(stream_id || type)::uuid) STORED, recorded_by text, stream_id text,
	type text, data jsonb, metadata jsonb, tags text[], UNIQUE (stream_id, version)) USING daybook;
ALTER TABLE generated OF daybook.event;
CREATE UNIQUE INDEX ON generated (event_id, stream_id) WHERE daybook.event_id_given(event_id);
CREATE TRIGGER daybook_append BEFORE INSERT ON generated FOR EACH ROW EXECUTE FUNCTION daybook.event_before_insert();
ALTER TABLE generated ENABLE ALWAYS TRIGGER daybook_append;
SELECT attempt($$SELECT daybook.register_event_table('generated')$$);
SET daybook.restore = on;
INSERT INTO generated (stream_id, type) VALUES ('g', 'T') RETURNING event_id;
SELECT attempt($$INSERT INTO generated (stream_id, type) VALUES ('g', 'T')$$);
RESET daybook.restore;
ALTER TABLE generated ALTER event_id DROP EXPRESSION;
-- the superuser who registers a table calls no function of an event table's owner
CREATE TABLE called (n int);
CREATE FUNCTION note_call() RETURNS void LANGUAGE sql SET search_path FROM CURRENT AS 'INSERT INTO called VALUES (1)';
CREATE FUNCTION noting(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$ BEGIN PERFORM note_call(); RETURN true; END $$;
CREATE INDEX noted ON orders (id) WHERE noting(1);
CREATE INDEX ON generated (id) WHERE noting(1);
TRUNCATE called;
SELECT daybook.register_event_table('generated');
SELECT count(*) FROM called;
SELECT daybook.drop_event_table('generated', force => true);
DROP INDEX noted;
DROP TABLE called;
DROP FUNCTION noting, note_call;

-- indexes of the user's on the same columns are his, not the keys
CREATE UNIQUE INDEX by_type ON orders (event_id, stream_id) WHERE type = 'X';
CREATE UNIQUE INDEX posix ON orders (stream_id COLLATE "POSIX", version);
CREATE UNIQUE INDEX pattern ON orders (stream_id text_pattern_ops, version);
CREATE UNIQUE INDEX backwards ON orders (stream_id, version DESC);
INSERT INTO orders (stream_id, type) VALUES ('i9', 'X'), ('i9', 'T');
SELECT duplicate FROM daybook.append('orders', 'i9', '{"type": "T", "event_id": "44444444-4444-4444-4444-444444444444"}'::jsonb);
SELECT duplicate FROM daybook.append('orders', 'i9', '{"type": "T", "event_id": "44444444-4444-4444-4444-444444444444"}'::jsonb);
-- what the version cache had of the stream goes with the transaction
BEGIN;
INSERT INTO orders (stream_id, type) VALUES ('i9', 'X');
ROLLBACK;
INSERT INTO orders (stream_id, type) VALUES ('i9', 'X') RETURNING version;
SELECT c.relname, bt_index_check(c.oid, heapallindexed => true)
FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE indrelid = 'orders'::regclass ORDER BY c.relname;
DROP INDEX by_type, backwards, pattern, posix;
DROP EXTENSION amcheck;

-- savepoints
BEGIN;
INSERT INTO orders (stream_id, type) VALUES ('s', 'T') RETURNING version;
SAVEPOINT one;
INSERT INTO orders (stream_id, type) VALUES ('s', 'T'), ('s2', 'T') RETURNING version;
SAVEPOINT two;
INSERT INTO orders (stream_id, type) VALUES ('s', 'T') RETURNING version;
RELEASE two;
ROLLBACK TO one;
INSERT INTO orders (stream_id, type) VALUES ('s', 'T'), ('s2', 'T') RETURNING version;
SAVEPOINT three;
INSERT INTO orders (stream_id, version, type) VALUES ('s', 9, 'T');
ROLLBACK TO three;
INSERT INTO orders (stream_id, version, type) VALUES ('s', 3, 'T') RETURNING version;
COMMIT;
SELECT stream_id, array_agg(version ORDER BY version) FROM orders WHERE stream_id IN ('s', 's2') GROUP BY 1 ORDER BY 1;

-- who: the session's user, whatever role is set
GRANT INSERT, SELECT ON orders TO regress_daybook_writer, regress_daybook_boss;
GRANT regress_daybook_writer TO regress_daybook_boss;
CREATE FUNCTION append_as_definer() RETURNS text LANGUAGE sql SECURITY DEFINER AS $$
	INSERT INTO ins.orders (stream_id, type) VALUES ('who', 'T') RETURNING recorded_by $$;
SET SESSION AUTHORIZATION regress_daybook_boss;
INSERT INTO orders (stream_id, type) VALUES ('who', 'T') RETURNING recorded_by;
SET ROLE regress_daybook_writer;
INSERT INTO orders (stream_id, type) VALUES ('who', 'T') RETURNING recorded_by;
SELECT append_as_definer();
SELECT attempt($$INSERT INTO orders (stream_id, type, recorded_by) VALUES ('who', 'T', 'postgres')$$);
SET daybook.restore = on;
SET session_replication_role = replica;
SELECT nextval('daybook.event_id_seq');
SELECT attempt('SELECT daybook.event_before_insert()');
RESET ROLE;
RESET SESSION AUTHORIZATION;
ALTER ROLE regress_daybook_boss RENAME TO regress_daybook_chief;
SET SESSION AUTHORIZATION regress_daybook_chief;
INSERT INTO orders (stream_id, type) VALUES ('who', 'T') RETURNING recorded_by;
RESET SESSION AUTHORIZATION;

-- the trigger's function is for event tables, before each inserted row
CREATE TABLE plain (stream_id text, type text);
CREATE TRIGGER t BEFORE INSERT ON plain FOR EACH ROW EXECUTE FUNCTION daybook.event_before_insert();
SELECT attempt($$INSERT INTO plain VALUES ('a', 'T')$$);
DO $$ BEGIN
	EXECUTE format('CREATE TABLE wide (%s)', (SELECT string_agg('c' || n || ' bigint DEFAULT 1', ', ') FROM generate_series(1, 400) n));
END $$;
CREATE TRIGGER t BEFORE INSERT ON wide FOR EACH ROW EXECUTE FUNCTION daybook.event_before_insert();
SELECT attempt('INSERT INTO wide DEFAULT VALUES');
CREATE TABLE plain2 (stream_id text, type text);
CREATE TRIGGER t AFTER INSERT ON plain2 FOR EACH ROW EXECUTE FUNCTION daybook.event_before_insert();
SELECT attempt($$INSERT INTO plain2 VALUES ('a', 'T')$$);
CREATE OR REPLACE TRIGGER t BEFORE INSERT ON plain2 FOR EACH STATEMENT EXECUTE FUNCTION daybook.event_before_insert();
SELECT attempt($$INSERT INTO plain2 VALUES ('a', 'T')$$);

SELECT daybook.drop_event_table('orders', force => true), daybook.drop_event_table('other', force => true);
RESET search_path;
DROP SCHEMA ins CASCADE;
DROP ROLE regress_daybook_writer, regress_daybook_chief;
