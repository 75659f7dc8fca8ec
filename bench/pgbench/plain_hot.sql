-- What a client of a plain table can do that does not want to fail for a race.
BEGIN;
SELECT pg_advisory_xact_lock(hashtextextended('hot-1', 0));
INSERT INTO plain_event (stream_id, version, type, data)
SELECT 'hot-1', coalesce(max(version), 0) + 1, 'OrderPlaced', :payload::jsonb
FROM plain_event WHERE stream_id = 'hot-1';
COMMIT;
