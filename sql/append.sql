-- daybook.append(): expected versions, arrays, idempotency, metadata
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS daybook;
SELECT daybook.create_event_table('app_orders');

-- sqlstate and detail of what a statement raises
CREATE FUNCTION app_try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE detail text;
BEGIN
	EXECUTE statement;
	RETURN 'done';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN SQLSTATE || ': ' || SQLERRM || COALESCE(' / ' || NULLIF(detail, ''), '');
END $$;
CREATE FUNCTION app_append(stream text, events jsonb, expected bigint DEFAULT NULL) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	r daybook.append_result;
BEGIN
	r := daybook.append('app_orders', stream, events, expected);
	RETURN format('versions %s-%s, ids %s, duplicate %s', r.first_version, r.last_version,
		r.last_id - r.first_id + 1, r.duplicate);
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	IF SQLSTATE = '23514' THEN detail := NULL; END IF; -- shows the row, with its time
	RETURN SQLSTATE || ': ' || SQLERRM || COALESCE(' / ' || NULLIF(detail, ''), '');
END $$;

-- one object, an array, and the form with columns
SELECT app_append('a-1', '{"type": "Opened", "data": {"amount": 100}}');
SELECT app_append('a-1', '[{"type": "Deposited", "data": {"amount": 50}}, {"type": "Withdrawn", "data": {"amount": 20}}]');
SELECT first_version, last_version, duplicate
FROM daybook.append('app_orders', 'a-1', 'Closed', '{"reason": "moved"}'::jsonb, '{"actor": "ann"}', 3);
-- the same with bare literals
SELECT first_version, duplicate FROM daybook.append('app_orders', 'a-1', 'Noted', '{"by": "ann"}');
SELECT first_version, duplicate FROM daybook.append('app_orders', 'a-1', ' [{"type": "Noted"}]', '5');
SELECT first_version, duplicate FROM daybook.append('app_orders', 'a-1', '{"type": "Noted"}', NULL);
SELECT first_version, duplicate FROM daybook.append('app_orders', 'a-1', 'Noted', NULL);
SELECT app_try($$SELECT daybook.append('app_orders', 'a-1', '{"type": "Noted"}', '{}')$$);
SELECT app_try($$SELECT daybook.append('app_orders', 'a-1', '{"type": "Noted"}', '7')$$);
SELECT version, schema_version, stream_id, type, data, metadata, tags, recorded_by = session_user AS by_me
FROM app_orders ORDER BY id;

-- expected versions
SELECT app_append('a-2', '{"type": "T"}', -1) AS must_exist;
SELECT app_append('a-2', '{"type": "T"}', 1) AS not_yet_there;
SELECT app_append('a-2', '{"type": "T"}', 0) AS must_not_exist;
SELECT app_append('a-2', '{"type": "T"}', 0) AS exists_now;
SELECT app_append('a-2', '{"type": "T"}', -1) AS exists;
SELECT app_append('a-2', '{"type": "T"}', 2) AS exactly;
SELECT app_append('a-2', '{"type": "T"}', 2) AS too_low;
SELECT app_append('a-2', '{"type": "T"}', 9) AS too_high;
SELECT app_append('a-2', '{"type": "T"}', -2) AS out_of_range;
SELECT app_append('a-2', '{"type": "T"}', NULL) AS any_version;

-- what is not an event
SELECT app_append('a-3', '[]');
SELECT app_append('a-3', 'null');
SELECT app_append('a-3', '7');
SELECT app_append('a-3', '[{"type": "T"}, 7]');
SELECT app_append('a-3', '{}');
SELECT app_append('a-3', '[{"type": "T"}, {"data": {}}]');
SELECT app_append('a-3', '{"type": ""}');
SELECT app_append('a-3', '{"type": null}');
SELECT app_append('a-3', '{"type": 7}');
SELECT app_append('a-3', '[{"type": "T"}, {"type": "T", "payload": {}}]');
SELECT app_append('a-3', '{"type": "T", "metadata": []}');
SELECT app_append('a-3', '{"type": "T", "event_id": "x"}');
SELECT app_append('a-3', '{"type": "T", "event_id": 5}');
SELECT app_append('a-3', '{"type": "T", "schema_version": 0}');
SELECT app_append('a-3', '{"type": "T", "schema_version": 1.5}');
SELECT app_append('a-3', '{"type": "T", "schema_version": 99999999999}');
SELECT app_append('a-3', '{"type": "T", "schema_version": "2"}');
SELECT app_append('a-3', '{"type": "T", "tags": "a"}');
SELECT app_append('a-3', '{"type": "T", "tags": ["a", 1]}');
SELECT app_append('', '{"type": "T"}');
SELECT app_append(NULL, '{"type": "T"}');
SELECT app_append('a-3', NULL);
SELECT app_try($$SELECT daybook.append(NULL, 'a-3', '{"type": "T"}'::jsonb)$$);
SELECT app_try($$SELECT daybook.append('app_orders', 'a-3', NULL::text, '{}'::jsonb)$$);
SELECT app_try($$SELECT daybook.append('app_orders', 'a-3', 'T', '{}'::jsonb, '[1]')$$);
BEGIN;
SELECT first_version FROM daybook.append('app_orders', 'a-null-metadata', 'T', '{}'::jsonb, 'null');
SELECT metadata FROM app_orders WHERE stream_id = 'a-null-metadata';
ROLLBACK;
SELECT app_try($$SELECT daybook.append('pg_class', 'a-3', '{"type": "T"}'::jsonb)$$);
SELECT count(*) AS nothing_written FROM app_orders WHERE stream_id = 'a-3';

-- everything that can be said of an event
SELECT app_append('a-4', '{"type": "T", "data": [1, 2], "metadata": {"k": 1}, "event_id": "0b7b1f8e-6a3f-4a52-8f6c-6ad4b6a0c001", "schema_version": 3, "tags": ["x", "y"]}');
SELECT app_append('a-4', '{"type": "U", "data": null, "metadata": null, "event_id": null, "schema_version": null, "tags": null}');
SELECT version, schema_version, event_id = '0b7b1f8e-6a3f-4a52-8f6c-6ad4b6a0c001' AS given,
	daybook.event_id_given(event_id), type, data, metadata, tags
FROM app_orders WHERE stream_id = 'a-4' ORDER BY version;

-- idempotency: the original result, whatever the expected version
SELECT app_append('a-5', '[{"type": "T", "event_id": "0b7b1f8e-6a3f-4a52-8f6c-6ad4b6a0c011"}, {"type": "T", "event_id": "0b7b1f8e-6a3f-4a52-8f6c-6ad4b6a0c012"}]', 0);
SELECT app_append('a-5', '{"type": "Later"}');
SELECT app_append('a-5', '[{"type": "T", "event_id": "0b7b1f8e-6a3f-4a52-8f6c-6ad4b6a0c011"}, {"type": "T", "event_id": "0b7b1f8e-6a3f-4a52-8f6c-6ad4b6a0c012"}]', v)
FROM (VALUES (0), (NULL), (-1), (3), (77)) AS expected (v);
SELECT app_append('a-5', '{"type": "T", "event_id": "0b7b1f8e-6a3f-4a52-8f6c-6ad4b6a0c012"}');
SELECT app_append('a-5', '[{"type": "T", "event_id": "0b7b1f8e-6a3f-4a52-8f6c-6ad4b6a0c012"}, {"type": "T", "event_id": "0b7b1f8e-6a3f-4a52-8f6c-6ad4b6a0c011"}]') AS other_order;
SELECT app_append('a-5', '[{"type": "T", "event_id": "0b7b1f8e-6a3f-4a52-8f6c-6ad4b6a0c012"}, {"type": "T", "event_id": "0b7b1f8e-6a3f-4a52-8f6c-6ad4b6a0c013"}]') AS partial;
SELECT app_append('a-5', '[{"type": "T", "event_id": "0b7b1f8e-6a3f-4a52-8f6c-6ad4b6a0c012"}, {"type": "T"}]') AS partial;
SELECT app_append('a-5', '[{"type": "T", "event_id": "0b7b1f8e-6a3f-4a52-8f6c-6ad4b6a0c014"}, {"type": "T", "event_id": "0b7b1f8e-6a3f-4a52-8f6c-6ad4b6a0c014"}]') AS twice_in_a_call;
SELECT app_append('a-6', '{"type": "T", "event_id": "0b7b1f8e-6a3f-4a52-8f6c-6ad4b6a0c011"}') AS other_stream;
SELECT n, a.last_version, a.duplicate FROM generate_series(1, 2) n,
	daybook.append('app_orders', 'a-6', jsonb_build_object('type', 'T', 'event_id', '0b7b1f8e-6a3f-4a52-8f6c-6ad4b6a0c015', 'data', n)) a;
SELECT count(*), max(version) FROM app_orders WHERE stream_id = 'a-5';

-- an id that the database made is recognised too
SELECT app_append('a-7', '{"type": "T"}');
SELECT app_append('a-7', jsonb_build_object('type', 'T', 'event_id', event_id))
FROM app_orders WHERE stream_id = 'a-7';

-- a duplicate within one transaction, and appends around it
BEGIN;
SELECT app_append('a-8', '{"type": "T", "event_id": "0b7b1f8e-6a3f-4a52-8f6c-6ad4b6a0c021"}');
SELECT app_append('a-8', '{"type": "T", "event_id": "0b7b1f8e-6a3f-4a52-8f6c-6ad4b6a0c021"}');
SELECT app_append('a-8', '{"type": "T"}', 1);
COMMIT;
BEGIN;
SELECT app_append('a-8', '{"type": "T", "event_id": "0b7b1f8e-6a3f-4a52-8f6c-6ad4b6a0c021"}');
SELECT app_append('a-8', '{"type": "T"}');
SAVEPOINT s;
SELECT app_append('a-8', '[{"type": "T"}, {"type": "T"}]');
ROLLBACK TO s;
SELECT app_append('a-8', '{"type": "T"}', 3);
COMMIT;
SELECT array_agg(version ORDER BY id) FROM app_orders WHERE stream_id = 'a-8';

-- several calls in one statement
SELECT count(*), max((r).last_version)
FROM (SELECT daybook.append('app_orders', 'a-9', '[{"type": "T"}, {"type": "T"}]'::jsonb) AS r
	FROM generate_series(1, 50)) AS calls;
SELECT count(*), max(version), count(DISTINCT version) FROM app_orders WHERE stream_id = 'a-9';

-- session metadata goes under the event's own
SET daybook.metadata = '{"actor": "alice", "correlation_id": "c-1"}';
SELECT app_append('a-10', '[{"type": "T"}, {"type": "T", "metadata": {"actor": "bob", "x": 1}}]');
RESET daybook.metadata;
SELECT app_append('a-10', '{"type": "T"}');
SELECT version, metadata FROM app_orders WHERE stream_id = 'a-10' ORDER BY version;
SELECT app_try($$SET daybook.metadata = '[1]'$$);
SELECT app_try($$SET daybook.metadata = 'alice'$$);

-- triggers and constraints hold as for INSERT
CREATE TABLE app_log (what text);
CREATE FUNCTION app_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO app_log SELECT TG_WHEN || ' ' || TG_LEVEL || ' ' || COALESCE(NEW.type, '');
	RETURN NEW;
END $$;
CREATE FUNCTION app_note_all() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO app_log SELECT TG_WHEN || ' ' || TG_LEVEL || ' of ' || count(*) FROM added;
	RETURN NULL;
END $$;
CREATE TRIGGER app_after_row AFTER INSERT ON app_orders FOR EACH ROW EXECUTE FUNCTION app_note();
CREATE TRIGGER app_after AFTER INSERT ON app_orders REFERENCING NEW TABLE AS added
	FOR EACH STATEMENT EXECUTE FUNCTION app_note_all();
SELECT app_append('a-11', '[{"type": "One"}, {"type": "Two"}]');
SELECT what FROM app_log;
DROP TRIGGER app_after_row ON app_orders;
DROP TRIGGER app_after ON app_orders;
ALTER TABLE app_orders ADD CONSTRAINT app_no_secrets CHECK (NOT data ? 'secret');
SELECT app_append('a-11', '[{"type": "Three"}, {"type": "Four", "data": {"secret": 1}}]');
CREATE FUNCTION app_skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER zz_skip BEFORE INSERT ON app_orders FOR EACH ROW EXECUTE FUNCTION app_skip();
SELECT app_append('a-11', '{"type": "Five"}');
DROP TRIGGER zz_skip ON app_orders;
SELECT app_append('a-11', '{"type": "Three"}', 2);

-- defaults of the table's columns stand in for what is left out, as for INSERT
CREATE FUNCTION app_count_events() RETURNS int LANGUAGE sql VOLATILE AS $$ SELECT count(*)::int FROM app_orders WHERE stream_id LIKE 'a-15%' $$;
ALTER TABLE app_orders ALTER data SET DEFAULT '{"default": true}', ALTER metadata SET DEFAULT jsonb_build_object('by', session_user = current_user),
	ALTER schema_version SET DEFAULT 2, ALTER tags SET DEFAULT ARRAY['d1', 'd2'];
INSERT INTO app_orders (stream_id, type) VALUES ('a-15', 'Inserted');
SELECT app_append('a-15', '[{"type": "Bare"}, {"type": "Given", "data": null, "metadata": {"m": 1}, "schema_version": 1, "tags": []}, {"type": "Nulls", "metadata": null, "schema_version": null, "tags": null}]');
SELECT last_version FROM daybook.append('app_orders', 'a-15', 'Columns', NULL::jsonb);
SELECT version, type, schema_version, data, metadata, tags FROM app_orders WHERE stream_id = 'a-15' ORDER BY version;
-- the session's metadata goes under them; one that calls a function sees the rows before its own
SET daybook.metadata = '{"actor": "alice"}';
ALTER TABLE app_orders ALTER schema_version SET DEFAULT app_count_events(), ALTER data DROP DEFAULT, ALTER tags SET DEFAULT NULL;
SELECT app_append('a-15b', '[{"type": "T"}, {"type": "T"}]');
INSERT INTO app_orders (stream_id, type, data) VALUES ('a-15b', 'T', '{}'), ('a-15b', 'T', '{}');
RESET daybook.metadata;
SELECT version, schema_version, data, metadata, tags FROM app_orders WHERE stream_id = 'a-15b' ORDER BY version;
-- ids that come from a default are as good as given ones
ALTER TABLE app_orders ALTER schema_version SET DEFAULT 1, ALTER data SET DEFAULT '{}', ALTER metadata DROP DEFAULT, ALTER tags DROP DEFAULT,
	ALTER event_id SET DEFAULT '0b7b1f8e-6a3f-4a52-8f6c-6ad4b6a0c051';
SELECT app_append('a-15c', '{"type": "T"}');
SELECT app_append('a-15c', '{"type": "T", "event_id": "0b7b1f8e-6a3f-4a52-8f6c-6ad4b6a0c051"}');
SELECT split_part(app_append('a-15c', '{"type": "T"}'), ' / ', 1) AS again;
-- what a default gives is checked
ALTER TABLE app_orders ALTER event_id DROP DEFAULT, ALTER schema_version SET DEFAULT 0;
SELECT app_append('a-15d', '{"type": "T"}');
ALTER TABLE app_orders ALTER schema_version SET DEFAULT 1;
DROP FUNCTION app_count_events;

-- many events are stored several at a time, as many as fit and a trigger lets
CREATE TRIGGER app_after_row AFTER INSERT ON app_orders FOR EACH ROW EXECUTE FUNCTION app_note();
TRUNCATE app_log;
SELECT first_version, last_version, last_id - first_id AS ids, duplicate
FROM daybook.append('app_orders', 'a-13',
	(SELECT jsonb_agg(jsonb_build_object('type', 'T' || i, 'event_id', lpad(i::text, 32, '0'), 'data', jsonb_build_object('n', i))) FROM generate_series(1, 250) i));
SELECT count(*) FROM app_log;
DROP TRIGGER app_after_row ON app_orders;
SELECT first_version, last_version, duplicate
FROM daybook.append('app_orders', 'a-13',
	(SELECT jsonb_agg(jsonb_build_object('type', 'T' || i, 'event_id', lpad(i::text, 32, '0'))) FROM generate_series(101, 250) i));
SELECT app_append('a-13', '[{"type": "T251"}, {"type": "T252", "data": {"secret": 1}}]');
SELECT first_version, last_version
FROM daybook.append('app_orders', 'a-13',
	(SELECT jsonb_agg(jsonb_build_object('type', 'T' || i, 'data', jsonb_build_object('n', i, 'long', repeat(md5(i::text), 1000)))) FROM generate_series(251, 260) i));
CREATE FUNCTION app_count_before() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.metadata := jsonb_build_object('before', (SELECT count(*) FROM app_orders WHERE stream_id = NEW.stream_id));
	RETURN NEW;
END $$;
CREATE TRIGGER zz_count BEFORE INSERT ON app_orders FOR EACH ROW EXECUTE FUNCTION app_count_before();
SELECT app_append('a-13', '[{"type": "T261"}, {"type": "T262"}, {"type": "T263"}]');
DROP TRIGGER zz_count ON app_orders;
SELECT count(*), min(version), max(version), count(*) FILTER (WHERE type = 'T' || version) AS in_order,
	count(*) FILTER (WHERE data->'n' = to_jsonb(version)) AS with_data, count(*) FILTER (WHERE length(data->>'long') = 32000) AS long
FROM app_orders WHERE stream_id = 'a-13';
SELECT version, metadata FROM app_orders WHERE stream_id = 'a-13' AND metadata IS NOT NULL ORDER BY version;
DROP FUNCTION app_count_before;

-- code of users that runs before an event is stored does not change what the session says of events
CREATE FUNCTION app_meddle(event daybook.event) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('daybook.metadata', jsonb_build_object('after', event.version, 'long', repeat('x', 300))::text, false);
	PERFORM pg_advisory_xact_lock(event.version);
	RETURN true;
END $$;
SELECT daybook.register_event_type('app_orders', 'Meddled', 1, NULL, 'app_meddle(daybook.event)');
SET daybook.metadata = '{"from": "the session", "long": "0123456789012345678901234567890123456789"}';
SELECT app_append('a-14', '[{"type": "Meddled"}, {"type": "Meddled"}, {"type": "Meddled"}]');
RESET daybook.metadata;
SELECT version, metadata->'from' AS from, metadata->'after' AS after, length(metadata->>'long') AS long FROM app_orders WHERE stream_id = 'a-14' ORDER BY version;

-- messages show the beginning of a value that is long, in whole characters
SELECT app_append('a-16', to_jsonb('begin ' || repeat('x', 100000)));
SELECT app_append('a-16', to_jsonb('begin ' || repeat('é', 100000)));
SELECT app_append('a-16', jsonb_build_object('type', 'T', 'begin ' || repeat('k', 100000), 1));
SELECT app_append('begin ' || repeat('s', 100000), '{"type": "T"}', 1);
SELECT app_append('no longer than that ' || repeat('s', 180), '{"type": "T"}', 1);
SET daybook.metadata = '{"actor": "alice"}';
SELECT app_try($$INSERT INTO app_orders (stream_id, type, metadata) VALUES ('a-16', 'T', to_jsonb(repeat('m', 100000)))$$);
RESET daybook.metadata;

-- an event that leaves its data out takes no memory until the others are stored
CREATE TABLE app_memory (event bigint, bytes numeric);
CREATE SEQUENCE app_events;
CREATE FUNCTION app_measure() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	event bigint := nextval('app_events');
BEGIN
	IF event IN (1000, 3000) THEN
		INSERT INTO app_memory SELECT event, sum(total_bytes) FROM pg_backend_memory_contexts;
	END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER app_measure BEFORE INSERT ON app_orders FOR EACH ROW EXECUTE FUNCTION app_measure();
SELECT (daybook.append('app_orders', 'a-17', (SELECT jsonb_agg('{"type": "T"}'::jsonb) FROM generate_series(1, 3000)))).last_version;
SELECT max(bytes) FILTER (WHERE event = 3000) - max(bytes) FILTER (WHERE event = 1000) < 1000000 AS little FROM app_memory;
SELECT count(*) FROM app_orders WHERE stream_id = 'a-17' AND data = '{}';
DROP TRIGGER app_measure ON app_orders;

-- privileges, read-only transactions
CREATE ROLE app_writer;
SET ROLE app_writer;
SELECT app_append('a-12', '{"type": "T"}');
RESET ROLE;
GRANT INSERT ON app_orders TO app_writer;
SET ROLE app_writer;
SELECT app_append('a-12', '{"type": "T"}');
RESET ROLE;
SELECT recorded_by = session_user AS session_user_recorded FROM app_orders WHERE stream_id = 'a-12';
BEGIN READ ONLY;
SELECT app_append('a-12', '{"type": "T"}');
ROLLBACK;
-- who appended, also after the role has got another name
SET SESSION AUTHORIZATION app_writer;
SELECT app_append('a-12', '{"type": "T"}');
RESET SESSION AUTHORIZATION;
ALTER ROLE app_writer RENAME TO app_author;
SET SESSION AUTHORIZATION app_author;
SELECT app_append('a-12', '{"type": "T"}');
RESET SESSION AUTHORIZATION;
ALTER ROLE app_author RENAME TO app_writer;
SELECT version, recorded_by FROM app_orders WHERE stream_id = 'a-12' AND version > 1;

SELECT daybook.drop_event_table('app_orders', force => true);
DROP OWNED BY app_writer;
DROP ROLE app_writer;
DROP TABLE app_log, app_memory;
DROP SEQUENCE app_events;
DROP FUNCTION app_try, app_append, app_note, app_note_all, app_skip, app_meddle, app_measure;
