-- Subscriptions: events that cannot be handled hold back their stream, and no other
SET client_min_messages = warning;
SELECT daybook.create_event_table('subp_a');
SELECT daybook.create_event_table('subp_b');
CREATE FUNCTION subp_published() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..3000 LOOP
		EXIT WHEN (SELECT count(*) FROM daybook.log WHERE event_table = 'subp_a'::regclass) = (SELECT count(*) FROM subp_a);
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
CREATE FUNCTION subp_try(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN 'done';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ': ' || regexp_replace(SQLERRM, '(lease|position) \d+', '\1 N', 'g');
END $$;
-- the events of a batch, and its lease
CREATE FUNCTION subp_fetch(max_events int DEFAULT 100, OUT events text, OUT lease bigint) LANGUAGE sql AS $$
	SELECT string_agg(stream_id || ':' || version || CASE WHEN delivery > 1 THEN '(' || delivery || ')' ELSE '' END, ' ' ORDER BY position), max(lease)
	FROM daybook.fetch('subp', max_events)
$$;
-- the position of an event
CREATE FUNCTION subp_at(stream text, version bigint) RETURNS bigint LANGUAGE sql AS $$
	SELECT l.position FROM subp_a a JOIN daybook.log l ON l.event_table = 'subp_a'::regclass AND l.id = a.id
	WHERE a.stream_id = stream AND a.version = subp_at.version
$$;
CREATE FUNCTION subp_nack(lease bigint, stream text, version bigint, reason text, delay interval DEFAULT '0s', park boolean DEFAULT false)
RETURNS text LANGUAGE sql AS $$
	SELECT coalesce((daybook.nack('subp', lease, subp_at(stream, version), reason, delay, park) > now() - interval '1 minute')::text, 'parked')
$$;
CREATE VIEW subp_parked AS
SELECT stream_id, (SELECT version FROM subp_a a WHERE a.id = p.event_id) AS version, state, deliveries, reason, stream_parked
FROM daybook.subscription_parked p WHERE subscription = 'subp' ORDER BY position;

SELECT daybook.create_subscription('subp', '{subp_a}', from_position => daybook.head(), delivery_limit => 3);
INSERT INTO subp_a (stream_id, type)
SELECT s, 'T' FROM unnest('{x,y,z}'::text[]) s, generate_series(1, 3) ORDER BY generate_series, s;
SELECT subp_published();

-- an event that fails once: its stream waits, the others are acknowledged
SELECT * FROM subp_fetch() \gset
\echo :events
SELECT subp_nack(:lease, 'y', 2, 'no connection');
SELECT * FROM subp_parked;
SELECT daybook.ack('subp', :lease);
-- alone, and then the one behind it
SELECT * FROM subp_fetch() \gset
\echo :events
SELECT daybook.ack('subp', :lease);
INSERT INTO subp_a (stream_id, type) VALUES ('y', 'T'), ('x', 'T');
SELECT subp_published();
SELECT * FROM subp_fetch() \gset
\echo :events
SELECT daybook.ack('subp', :lease);
SELECT count(*) FROM subp_parked;
SELECT * FROM subp_fetch();

-- one that fails for good
INSERT INTO subp_a (stream_id, type) VALUES ('x', 'T'), ('y', 'T'), ('y', 'T'), ('z', 'T');
SELECT subp_published();
SELECT * FROM subp_fetch() \gset
\echo :events
SELECT subp_nack(:lease, 'y', 5, 'bad payload');
SELECT daybook.ack('subp', :lease);
SELECT * FROM subp_fetch() \gset
\echo :events
SELECT subp_nack(:lease, 'y', 5, 'bad payload');
-- who acknowledges the rest of the batch does not acknowledge what has failed
SELECT daybook.ack('subp', :lease);
SELECT * FROM subp_fetch() \gset
\echo :events
SELECT subp_nack(:lease, 'y', 5, 'bad payload, again');
INSERT INTO subp_a (stream_id, type) VALUES ('x', 'T'), ('y', 'T'), ('z', 'T');
SELECT subp_published();
SELECT * FROM subp_fetch() \gset
\echo :events
SELECT daybook.ack('subp', :lease);
SELECT * FROM subp_parked;
SELECT retrying_streams, parked_streams, held_events, lag_events FROM daybook.subscription_status WHERE name = 'subp';
SELECT * FROM subp_fetch();

-- the cause is removed: it goes out again, as often as a new one may, in order
SELECT daybook.subscription_retry_parked('subp', 'x') AS not_parked;
SELECT daybook.subscription_retry_parked('subp', 'y', 'subp_b') AS not_parked;
SELECT daybook.subscription_retry_parked('subp', 'y');
SELECT * FROM subp_fetch() \gset
\echo :events
SELECT subp_nack(:lease, 'y', 5, 'still bad');
SELECT * FROM subp_fetch() \gset
\echo :events
SELECT daybook.ack('subp', :lease);
SELECT * FROM subp_fetch() \gset
\echo :events
SELECT daybook.ack('subp', :lease);
SELECT count(*) FROM subp_parked;

-- it is given up, and the others go on
INSERT INTO subp_a (stream_id, type) VALUES ('x', 'T'), ('x', 'T'), ('y', 'T'), ('x', 'T');
SELECT subp_published();
SELECT * FROM subp_fetch() \gset
\echo :events
SELECT subp_nack(:lease, 'x', 7, 'unknown currency', park => true);
SELECT daybook.ack('subp', :lease);
SELECT * FROM subp_parked;
SELECT subp_try(format('SELECT daybook.subscription_discard_parked(%L, %s, %L)', 'subp', subp_at('x', 7), ' '));
SELECT subp_try(format('SELECT daybook.subscription_discard_parked(%L, %s, NULL)', 'subp', subp_at('x', 7)));
SELECT subp_try(format('SELECT daybook.subscription_discard_parked(%L, %s, %L)', 'subp', subp_at('y', 1), 'done by hand'));
SELECT daybook.subscription_discard_parked('subp', subp_at('x', 8), 'a duplicate');
SELECT * FROM subp_parked;
SELECT daybook.subscription_discard_parked('subp', subp_at('x', 7), 'done by hand');
SELECT stream_id, failure, reason, discarded_by = session_user AS by_me FROM daybook.subscription_discarded WHERE subscription = 'subp' ORDER BY position;
SELECT * FROM subp_fetch() \gset
\echo :events
SELECT subp_try(format('SELECT daybook.subscription_discard_parked(%L, %s, %L)', 'subp', subp_at('x', 9), 'too late')) AS not_parked;
SELECT daybook.ack('subp', :lease);
SELECT count(*) FROM subp_parked;

-- within a batch: events before the one that failed, and those after it
INSERT INTO subp_a (stream_id, type) SELECT 'w', 'T' FROM generate_series(1, 6);
SELECT subp_published();
SELECT * FROM subp_fetch(5) \gset
\echo :events
SELECT subp_nack(:lease, 'w', 3, 'fails');
SELECT subp_nack(:lease, 'w', 4, 'behind it: held already');
SELECT subp_try(format('SELECT daybook.nack(%L, %s, %s, %L)', 'subp', :lease, subp_at('w', 6), 'was not handed out'));
SELECT subp_try(format('SELECT daybook.nack(%L, %s, %s, %L)', 'subp', :lease, subp_at('x', 1), 'was acknowledged'));
SELECT subp_try(format('SELECT daybook.nack(%L, %s, 0, %L)', 'subp', :lease, 'is none'));
SELECT subp_try(format('SELECT daybook.nack(%L, %s, %s, NULL)', 'subp', :lease, subp_at('w', 1)));
SELECT subp_try(format('SELECT daybook.nack(%L, %s, %s, %L, %L)', 'subp', :lease, subp_at('w', 1), 'negative', '-1s'));
-- the first two are not acknowledged: they come before it again
SELECT * FROM subp_fetch() \gset
\echo :events
SELECT daybook.ack('subp', :lease, subp_at('w', 1));
SELECT * FROM subp_fetch() \gset
\echo :events
SELECT daybook.ack('subp', :lease, subp_at('w', 2));
SELECT daybook.ack('subp', :lease);
SELECT * FROM subp_parked;
-- the one that failed, then the rest of the queue, of which one fails
SELECT * FROM subp_fetch() \gset
\echo :events
SELECT daybook.ack('subp', :lease);
SELECT * FROM subp_fetch() \gset
\echo :events
INSERT INTO subp_a (stream_id, type) VALUES ('w', 'T');
SELECT subp_published();
SELECT subp_nack(:lease, 'w', 5, 'fails too', '1h');
SELECT daybook.ack('subp', :lease, subp_at('w', 4));
SELECT * FROM subp_fetch();
SELECT * FROM subp_parked;
SELECT daybook.subscription_retry_parked('subp');
SELECT * FROM subp_fetch() \gset
\echo :events
SELECT daybook.ack('subp', :lease);
SELECT * FROM subp_fetch() \gset
\echo :events
SELECT daybook.ack('subp', :lease);
SELECT count(*) FROM subp_parked;

-- consumers die of an event without a word: it is found, and nothing else is parked
INSERT INTO subp_a (stream_id, type) SELECT 's' || i % 7, 'T' FROM generate_series(1, 40) i;
SELECT subp_published();
CREATE TABLE subp_handled (stream_id text, version bigint);
DO $$
DECLARE
	lease bigint;
	batch text[];
BEGIN
	FOR i IN 1..200 LOOP
		SELECT array_agg(f.stream_id || ':' || f.version ORDER BY f.position), max(f.lease) INTO batch, lease FROM daybook.fetch('subp') f;
		EXIT WHEN batch IS NULL;
		CONTINUE WHEN 's3:2' = ANY (batch);
		INSERT INTO subp_handled SELECT split_part(b, ':', 1), split_part(b, ':', 2)::bigint FROM unnest(batch) b;
		PERFORM daybook.ack('subp', lease);
	END LOOP;
END $$;
SELECT count(*), count(DISTINCT (stream_id, version)) FROM subp_handled;
SELECT * FROM subp_parked;
SELECT daybook.subscription_discard_parked('subp', subp_at('s3', 2), 'deadly');
SELECT * FROM subp_fetch() \gset
\echo :events
SELECT daybook.ack('subp', :lease);

-- given up while an event before it is out: it does not come again with that one
INSERT INTO subp_a (stream_id, type) VALUES ('t', 'T'), ('u', 'T'), ('u', 'T'), ('v', 'T');
SELECT subp_published();
SELECT * FROM subp_fetch() \gset
\echo :events
SELECT subp_nack(:lease, 'u', 2, 'fails', park => true);
SELECT daybook.subscription_discard_parked('subp', subp_at('u', 2), 'done by hand');
SELECT subp_try(format('SELECT daybook.nack(%L, %s, %s, %L)', 'subp', :lease, subp_at('u', 2), 'was discarded'));
-- nor when an event of its stream fails after that
SELECT subp_nack(:lease, 't', 1, 'fails');
SELECT subp_nack(:lease, 'u', 1, 'fails');
SELECT * FROM subp_parked;
SELECT daybook.release_lease('subp', :lease);
SELECT * FROM subp_fetch(1) \gset
\echo :events
SELECT daybook.ack('subp', :lease);
SELECT * FROM subp_fetch() \gset
\echo :events
SELECT daybook.ack('subp', :lease);
INSERT INTO subp_a (stream_id, type) VALUES ('t', 'T'), ('u', 'T'), ('v', 'T');
SELECT subp_published();
SELECT * FROM subp_fetch() \gset
\echo :events
SELECT subp_nack(:lease, 'v', 2, 'fails', park => true);
SELECT daybook.subscription_discard_parked('subp', subp_at('v', 2), 'done by hand');
SELECT daybook.release_lease('subp', :lease);
SELECT * FROM subp_fetch() \gset
\echo :events
SELECT daybook.ack('subp', :lease);
SELECT count(*) FROM subp_parked;

-- without a limit, more deliveries than are counted, and a retry by hand: there still is a pause
SELECT daybook.create_subscription('subp_always', '{subp_a}', delivery_limit => NULL);
DO $$
DECLARE
	first bigint;
	lease bigint;
BEGIN
	FOR i IN 1..70 LOOP
		SELECT f.position, f.lease INTO first, lease FROM daybook.fetch('subp_always', 1) f;
		PERFORM daybook.nack('subp_always', lease, first, 'fails', '0s');
	END LOOP;
END $$;
SELECT daybook.subscription_retry_parked('subp_always');
SELECT daybook.nack('subp_always', lease, position, 'fails') >= now() + '1s' AS pauses FROM daybook.fetch('subp_always', 1);
SELECT daybook.drop_subscription('subp_always');

-- the table of parked events is dropped
INSERT INTO subp_a (stream_id, type) VALUES ('q', 'T'), ('q', 'T'), ('r', 'T');
SELECT subp_published();
SELECT * FROM subp_fetch() \gset
SELECT subp_nack(:lease, 'q', 1, 'fails', '1h');
SELECT subp_nack(:lease, 'r', 1, 'fails', park => true);
SELECT daybook.ack('subp', :lease);
DROP VIEW subp_parked;
SELECT daybook.drop_event_table('subp_a', force => true);
SELECT stream_id, state FROM daybook.subscription_parked WHERE subscription = 'subp' ORDER BY position;
SELECT daybook.subscription_retry_parked('subp');
SELECT count(*) FROM daybook.fetch('subp');
SELECT count(*) FROM daybook.fetch('subp');
SELECT stream_id, state FROM daybook.subscription_parked WHERE subscription = 'subp' ORDER BY position;

SELECT daybook.drop_subscription('subp');
SELECT (SELECT count(*) FROM daybook.subscription_queue) + (SELECT count(*) FROM daybook.subscription_stream)
	+ (SELECT count(*) FROM daybook.subscription_discard) AS left_over;
DROP FUNCTION subp_nack, subp_at, subp_fetch, subp_try, subp_published;
DROP TABLE subp_handled;
SELECT daybook.drop_event_table('subp_b');
