-- Whose rights and whose functions count when check functions, upcasters and
-- transitions are found and run
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS daybook;
CREATE FUNCTION srt_try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE detail text; hint text; result text;
BEGIN
	EXECUTE statement INTO result;
	RETURN coalesce(result, 'done');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN SQLSTATE || ': ' || SQLERRM || COALESCE(' / ' || NULLIF(detail, ''), '') || COALESCE(' / ' || NULLIF(hint, ''), '');
END $$;
CREATE ROLE srt_alice;
CREATE ROLE srt_bob;
CREATE ROLE srt_eve;
CREATE ROLE srt_deputy IN ROLE srt_alice;
CREATE SCHEMA srt_shared;
GRANT CREATE, USAGE ON SCHEMA srt_shared TO srt_alice, srt_eve, srt_deputy;
GRANT USAGE ON SCHEMA srt_shared TO srt_bob;
CREATE SCHEMA srt_private AUTHORIZATION srt_alice;

-- functions in a schema that is the owner's alone
SET ROLE srt_alice;
SELECT daybook.create_event_table('srt_shared.events');
GRANT SELECT, INSERT ON srt_shared.events TO srt_bob;
CREATE FUNCTION srt_private.up(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT data || '{"up": true}' $$;
CREATE FUNCTION srt_private.fits(data jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT data ? 'n' $$;
CREATE FUNCTION srt_private.count(state int, e daybook.event) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT state + 1 $$;
SELECT daybook.create_upcaster('srt_shared.events', 'T', 1, 'srt_private.up(jsonb)');
SELECT daybook.register_event_type('srt_shared.events', 'T', 1, "check" => 'srt_private.fits(jsonb)');
SELECT daybook.create_fold('srt_count', 'srt_shared.events', 'srt_private.count(int, daybook.event)', 0);
SET ROLE srt_bob;
INSERT INTO srt_shared.events (stream_id, type, data) VALUES ('s', 'T', '{"n": 1}');
SELECT last_version FROM daybook.append('srt_shared.events', 's', 'T', '{"n": 2}');
SELECT srt_try($$INSERT INTO srt_shared.events (stream_id, type) VALUES ('s', 'T')$$);
SELECT version, data FROM daybook.replay('srt_shared.events', 's');
SELECT (daybook.upcast('srt_shared.events', e)).data FROM srt_shared.events e ORDER BY id;
SELECT path, mismatch FROM daybook.schema_status WHERE event_table = 'srt_shared.events'::regclass;
SELECT daybook.fold('srt_count', 's');
SELECT stream_id, state FROM daybook.fold_all('srt_count');
RESET ROLE;
-- but not one that the owner has no way into
REVOKE ALL ON SCHEMA srt_private FROM srt_alice;
ALTER SCHEMA srt_private OWNER TO CURRENT_USER;
SET ROLE srt_bob;
SELECT srt_try($$SELECT count(*) FROM daybook.replay('srt_shared.events', 's')$$);
RESET ROLE;
ALTER SCHEMA srt_private OWNER TO srt_alice;

DROP SCHEMA srt_private CASCADE;
SELECT daybook.drop_fold('srt_count');
SELECT daybook.drop_event_table('srt_shared.events', force => true);
DROP SCHEMA srt_shared CASCADE;
DROP ROLE srt_deputy, srt_alice, srt_bob, srt_eve;
DROP FUNCTION srt_try(text);
