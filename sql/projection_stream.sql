-- Rebuilds hand large batches over while they are read, where the handler
-- allows for it: it gets the same events in the same order as in small batches.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS daybook;
CREATE SCHEMA stream_test;
SET search_path = stream_test, public;
SELECT daybook.create_event_table('account');
SELECT daybook.create_event_table('transfer');
SELECT coalesce(daybook.head(), 0) AS base \gset
INSERT INTO account (stream_id, type, data)
SELECT 'a-' || n % 50, CASE WHEN n % 3 = 0 THEN 'Paid' ELSE 'Booked' END, jsonb_build_object('amount', n % 10, 'text', repeat('x', 3000 * (n % 500 / 499))) FROM generate_series(1, 4000) n;
INSERT INTO transfer (stream_id, type, data, metadata) SELECT 'b-' || n % 50, 'Sent', '{"amount": 3}', '{"m": 1}' FROM generate_series(1, 1500) n;

-- project(name, sources, handler, ...) keeps what small batches gave, and what a rebuild gives is the same
CREATE PROCEDURE project(name text, handler text, sources regclass[] = '{account,transfer}', types text[] = NULL, categories text[] = NULL)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE TABLE %I (stream_id text PRIMARY KEY, events bigint NOT NULL, steps text)', name);
	PERFORM daybook.create_projection(name, sources, handler, ARRAY[name::regclass], types => types, categories => categories,
									  from_position => current_setting('stream_test.base')::bigint, batch_size => 700);
END $$;
CREATE PROCEDURE rebuild(name text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE TABLE IF NOT EXISTS %I AS TABLE %I', 'kept_' || name, name);
	PERFORM daybook.rebuild_projection(name);
END $$;
CREATE FUNCTION compare(name text, OUT rows bigint, OUT events numeric, OUT differences bigint) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SELECT count(*), sum(events) FROM %I', name) INTO rows, events;
	EXECUTE format('SELECT count(*) FROM ((TABLE %1$I EXCEPT ALL TABLE %2$I) UNION ALL (TABLE %2$I EXCEPT ALL TABLE %1$I)) d', name, 'kept_' || name) INTO differences;
END $$;
SET stream_test.base = :base;

CALL project('steps', $$
	INSERT INTO steps AS s
	SELECT stream_id, count(*), md5(string_agg(format('%s %s %s %s %s %s', position, event_table, id, version, data, metadata), ',' ORDER BY position)) FROM new_events GROUP BY 1
	ON CONFLICT (stream_id) DO UPDATE SET events = s.events + excluded.events, steps = 'x'$$);
CALL project('in_order', $$
	INSERT INTO in_order AS s
	SELECT stream_id, 1, 'first' FROM new_events WHERE version = 1
	ON CONFLICT (stream_id) DO NOTHING;
	INSERT INTO in_order AS s
	SELECT DISTINCT ON (stream_id) stream_id, version, position::text FROM new_events e ORDER BY stream_id, e.position DESC
	ON CONFLICT (stream_id) DO UPDATE SET events = excluded.events, steps = excluded.steps$$);
CALL project('thrice', $$
	INSERT INTO thrice AS s SELECT 'all', count(*) FROM new_events ON CONFLICT (stream_id) DO UPDATE SET events = s.events + excluded.events;
	INSERT INTO thrice AS s SELECT 'booked', count(*) FROM new_events WHERE type = 'Booked' ON CONFLICT (stream_id) DO UPDATE SET events = s.events + excluded.events;
	INSERT INTO thrice AS s SELECT 'large', count(*) FROM new_events e WHERE length(data->>'text') > 1000 ON CONFLICT (stream_id) DO UPDATE SET events = s.events + excluded.events$$);
CALL project('updated', $$
	INSERT INTO updated SELECT DISTINCT stream_id, 0 FROM new_events ON CONFLICT DO NOTHING;
	UPDATE updated u SET events = u.events + n FROM (SELECT stream_id, count(*) AS n FROM new_events GROUP BY 1) e WHERE e.stream_id = u.stream_id$$);
CALL project('rescanned', $$
	INSERT INTO rescanned AS s
	SELECT stream_id, (SELECT count(*) FROM new_events e WHERE e.stream_id = s.stream_id AND e.position <= s.position)
	FROM (SELECT stream_id, position FROM new_events WHERE stream_id IN ('a-1', 'b-2') ORDER BY position DESC LIMIT 2) s
	ON CONFLICT (stream_id) DO UPDATE SET events = s.events + excluded.events$$);
CALL project('whole_row', $$
	INSERT INTO whole_row AS s
	SELECT e->>'stream_id', count(e->>'version'), min((e->>'place')::bigint) FROM (SELECT to_jsonb(n) AS e FROM new_events AS n (place)) x GROUP BY 1
	ON CONFLICT (stream_id) DO UPDATE SET events = s.events + excluded.events$$);
CALL project('filtered', $$
	INSERT INTO filtered AS s SELECT stream_id, count(*), min(type) FROM new_events GROUP BY 1
	ON CONFLICT (stream_id) DO UPDATE SET events = s.events + excluded.events$$, types => '{Paid,Sent}', categories => '{a}');
CALL project('none', $$
	INSERT INTO none AS s SELECT 'calls', 1 ON CONFLICT (stream_id) DO UPDATE SET events = s.events + 1;
	INSERT INTO none AS s SELECT 'events', count(*) FROM new_events ON CONFLICT (stream_id) DO UPDATE SET events = s.events + excluded.events$$, types => '{Nothing}');
SELECT p.name, daybook.wait_for_projection(p.name, timeout => '2min') > 0 AS done FROM daybook.projection_status p WHERE p.name IN ('steps', 'in_order', 'thrice', 'updated', 'rescanned', 'whole_row', 'filtered', 'none') ORDER BY 1;

-- what depends on how events come in batches is compared in its own way
UPDATE steps SET steps = NULL;
CALL rebuild('steps');
CALL rebuild('in_order');
CALL rebuild('thrice');
CALL rebuild('updated');
CALL rebuild('rescanned');
CALL rebuild('whole_row');
CALL rebuild('filtered');
CALL rebuild('none');
SELECT name, daybook.wait_for_projection(name, timeout => '2min') > 0 AS done FROM daybook.projection_status WHERE name IN ('steps', 'in_order', 'thrice', 'updated', 'rescanned', 'whole_row', 'filtered', 'none') ORDER BY 1;
SELECT count(*) FROM daybook.rebuild_progress;
SELECT count(*) AS rows, sum(events) AS events FROM steps;
SELECT count(*) AS different
FROM (SELECT stream_id, count(*) AS events, md5(string_agg(format('%s %s %s %s %s %s', position, event_table, id, version, data, metadata), ',' ORDER BY position)) AS steps
	  FROM daybook.read_all(:base, 1000000) GROUP BY 1) expected FULL JOIN steps USING (stream_id, events, steps)
WHERE steps.ctid IS NULL OR expected.events IS NULL;
SELECT * FROM compare('in_order');
SELECT * FROM compare('thrice');
SELECT * FROM compare('updated');
SELECT stream_id, events FROM rescanned ORDER BY 1;
SELECT * FROM compare('whole_row');
SELECT * FROM compare('filtered');
SELECT * FROM compare('none');

-- a trigger's transition table may have the same name
CREATE TABLE heard (stream_id text, events bigint);
CREATE FUNCTION hear() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO stream_test.heard SELECT stream_id, events FROM new_events;
	RETURN NULL;
END $$;
CREATE TRIGGER hear AFTER INSERT ON filtered REFERENCING NEW TABLE AS new_events FOR EACH STATEMENT EXECUTE FUNCTION hear();
SELECT daybook.rebuild_projection('filtered');
SELECT daybook.wait_for_projection('filtered', timeout => '2min') > 0 AS done;
SELECT * FROM compare('filtered');
SELECT count(*), sum(events) FROM heard;

-- in batches as large as is asked for, whether these are stored or not
CREATE TABLE batch (first bigint, events bigint);
SELECT daybook.create_projection('streamed', '{account,transfer}', 'INSERT INTO batch SELECT min(position), count(*) FROM new_events', '{batch}', from_position => :base);
CREATE TABLE stored (first bigint, events bigint);
SELECT daybook.create_projection('stored', '{account,transfer}', 'INSERT INTO stored VALUES (0); UPDATE stored SET first = (SELECT min(position) FROM new_events), events = (SELECT count(*) FROM new_events) WHERE first = 0', '{stored}', from_position => :base);
SELECT daybook.wait_for_projection(name, timeout => '2min') > 0 AS done FROM unnest('{streamed,stored}'::text[]) name;
SELECT daybook.rebuild_projection(name, batch_size => 2000) FROM unnest('{streamed,stored}'::text[]) name;
SELECT daybook.wait_for_projection(name, timeout => '2min') > 0 AS done FROM unnest('{streamed,stored}'::text[]) name;
SELECT first - :base AS first, events FROM batch ORDER BY 1;
SELECT first - :base AS first, events FROM stored ORDER BY 1;
SELECT daybook.rebuild_projection(name) FROM unnest('{streamed,stored}'::text[]) name;
SELECT daybook.wait_for_projection(name, timeout => '2min') > 0 AS done FROM unnest('{streamed,stored}'::text[]) name;
SELECT first - :base AS first, events FROM batch ORDER BY 1;
SELECT first - :base AS first, events FROM stored ORDER BY 1;
SELECT batch_size FROM daybook.projection_status WHERE name = 'streamed';
SELECT daybook.rebuild_projection('streamed', batch_size => 0);
SELECT daybook.rebuild_projection('streamed', batch_size => 1000001);
SELECT daybook.rebuild_projection('streamed', batch_size => 10, in_place => true);
SELECT count(daybook.drop_projection(name)) FROM unnest('{streamed,stored}'::text[]) name;

-- events that fail are found and parked as in small batches
INSERT INTO account (stream_id, type, data) SELECT 'c-' || n % 30, 'Paid', jsonb_build_object('amount', CASE WHEN n IN (500, 1777, 1778) THEN '"much"' ELSE to_jsonb(1) END) FROM generate_series(1, 2500) n;
CALL project('parked', $$
	INSERT INTO parked AS s SELECT stream_id, sum((data->>'amount')::int), NULL FROM new_events GROUP BY 1
	ON CONFLICT (stream_id) DO UPDATE SET events = s.events + excluded.events$$, sources => '{account}');
SELECT daybook.wait_for_projection('parked', timeout => '2min') > 0 AS done;
CREATE TABLE kept_parked_events AS SELECT position, stream_id, is_cause, sqlstate FROM daybook.parked_events WHERE projection = 'parked';
CALL rebuild('parked');
SELECT daybook.wait_for_projection('parked', timeout => '2min') > 0 AS done;
SELECT * FROM compare('parked');
SELECT count(*) AS different FROM kept_parked_events k FULL JOIN (SELECT * FROM daybook.parked_events WHERE projection = 'parked') p USING (position, stream_id, is_cause)
WHERE k.sqlstate IS DISTINCT FROM p.sqlstate;
SELECT count(*) FILTER (WHERE is_cause) AS causes, count(*) > 3 AS others FROM daybook.parked_events WHERE projection = 'parked';

-- a handler that brings about that another one runs still works on the copies
SELECT daybook.create_event_table('note');
CREATE TABLE noted (events bigint);
SELECT daybook.create_projection('noted', '{note}', 'INSERT INTO noted SELECT count(*) FROM new_events', '{noted}', mode => 'inline', independent_streams => true);
CREATE FUNCTION take_note(stream text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO stream_test.note (stream_id, type, data) VALUES (stream, 'Noted', '{}');
	RETURN stream;
END $$;
CREATE FUNCTION copy_row(stream text) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('INSERT INTO stream_test.copied VALUES (%L)', stream);
	RETURN 1;
END $$;
CREATE TABLE nest (stream_id text PRIMARY KEY, events bigint);
CREATE TABLE copied (stream_id text);
SELECT daybook.create_projection('nest', '{transfer}', $$
	INSERT INTO nest SELECT take_note(stream_id), 1 FROM new_events WHERE version = 1;
	INSERT INTO nest SELECT 'copy of ' || stream_id, copy_row(stream_id) FROM new_events WHERE version = 2
$$, '{nest,copied}', from_position => :base);
SELECT daybook.wait_for_projection('nest', timeout => '2min') > 0 AS done;
SELECT (SELECT count(*) FROM nest) AS nest, (SELECT count(*) FROM copied) AS copied, (SELECT sum(events) FROM noted) AS noted;
SELECT daybook.rebuild_projection('nest');
SELECT daybook.wait_for_projection('nest', timeout => '2min') > 0 AS done;
SELECT (SELECT count(*) FROM nest) AS nest, (SELECT count(*) FROM copied) AS copied, (SELECT sum(events) FROM noted) AS noted;

-- the owner needs the right to read the events
CREATE ROLE stream_owner;
GRANT USAGE, CREATE ON SCHEMA stream_test TO stream_owner;
GRANT USAGE ON SCHEMA daybook TO stream_owner;
GRANT SELECT ON account, transfer TO stream_owner;
SET ROLE stream_owner;
CALL project('owned', $$
	INSERT INTO owned AS s SELECT stream_id, count(*) FROM new_events GROUP BY 1
	ON CONFLICT (stream_id) DO UPDATE SET events = s.events + excluded.events$$);
SELECT daybook.wait_for_projection('owned', timeout => '2min') > 0 AS done;
RESET ROLE;
REVOKE SELECT ON transfer FROM stream_owner;
SELECT daybook.rebuild_projection('owned');
DO $$
BEGIN
	FOR i IN 1 .. 600 LOOP
		EXIT WHEN EXISTS (SELECT FROM daybook.rebuild_progress WHERE projection = 'owned' AND state = 'failed');
		PERFORM pg_sleep(0.1);
	END LOOP;
END $$;
SELECT error_sqlstate, error_message FROM daybook.rebuild_progress WHERE projection = 'owned';
GRANT SELECT ON transfer TO stream_owner;
DO $$
BEGIN
	FOR i IN 1 .. 600 LOOP
		EXIT WHEN NOT EXISTS (SELECT FROM daybook.rebuild_progress WHERE projection = 'owned');
		PERFORM pg_sleep(0.1);
	END LOOP;
END $$;
SELECT count(*), sum(events) FROM owned;

SELECT count(daybook.drop_projection(name)) FROM daybook.projection_status WHERE name IN ('steps', 'in_order', 'thrice', 'updated', 'rescanned', 'whole_row', 'filtered', 'none', 'parked', 'owned', 'nest', 'noted');
SELECT daybook.drop_event_table('account', force => true);
SELECT daybook.drop_event_table('transfer', force => true);
SELECT daybook.drop_event_table('note', force => true);
DROP OWNED BY stream_owner;
DROP ROLE stream_owner;
