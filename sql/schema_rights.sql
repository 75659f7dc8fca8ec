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
SELECT srt_try($$INSERT INTO srt_shared.events (stream_id, type) VALUES ('s', 'T') RETURNING version$$);
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

-- a name that was given up is no way to the owner's rights
SET ROLE srt_alice;
SELECT daybook.drop_upcaster('srt_shared.events', 'T', 1);
CREATE FUNCTION srt_shared.up(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT data || '{"up": 2}' $$;
CREATE FUNCTION srt_shared.fits(data jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT data ? 'n' $$;
CREATE FUNCTION srt_shared.count(state int, e daybook.event) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT state + 1 $$;
SELECT daybook.create_upcaster('srt_shared.events', 'T', 1, 'srt_shared.up(jsonb)');
SELECT daybook.register_event_type('srt_shared.events', 'T', 1, "check" => 'srt_shared.fits(jsonb)');
SELECT daybook.drop_fold('srt_count');
SELECT daybook.create_fold('srt_count', 'srt_shared.events', 'srt_shared.count(int, daybook.event)', 0);
SELECT version, data FROM daybook.replay('srt_shared.events', 's', 1, 1);
INSERT INTO srt_shared.events (stream_id, type, data) VALUES ('s', 'T', '{"n": 3}');
SELECT daybook.fold('srt_count', 's');
DROP FUNCTION srt_shared.up(jsonb), srt_shared.fits(jsonb), srt_shared.count(int, daybook.event);
SET ROLE srt_eve;
CREATE FUNCTION srt_shared.up(data jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('i am', current_user) $$;
CREATE FUNCTION srt_shared.fits(data jsonb) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
CREATE FUNCTION srt_shared.count(state int, e daybook.event) RETURNS int LANGUAGE sql AS $$ SELECT 666 $$;
RESET ROLE;
SELECT srt_try($$SELECT data FROM daybook.replay('srt_shared.events', 's')$$);
SELECT srt_try($$INSERT INTO srt_shared.events (stream_id, type) VALUES ('s', 'T') RETURNING version$$);
SELECT srt_try($$SELECT daybook.fold('srt_count', 's')$$);
SELECT path, mismatch FROM daybook.upcast_path('srt_shared.events', 'T', 1);
-- nor is it one to register another's function
SET ROLE srt_alice;
SELECT srt_try($$SELECT daybook.create_upcaster('srt_shared.events', 'U', 1, 'srt_shared.up(jsonb)')$$);
SELECT srt_try($$SELECT daybook.register_event_type('srt_shared.events', 'U', 1, "check" => 'srt_shared.fits(jsonb)')$$);
SELECT srt_try($$SELECT daybook.create_fold('srt_eve', 'srt_shared.events', 'srt_shared.count(int, daybook.event)', 0)$$);
RESET ROLE;
SELECT srt_try($$SELECT daybook.create_upcaster('srt_shared.events', 'U', 1, 'srt_shared.up(jsonb)')$$);
-- those of a superuser will do, and of who has the rights of the owner
ALTER FUNCTION srt_shared.up(jsonb) OWNER TO srt_deputy;
ALTER FUNCTION srt_shared.fits(jsonb) OWNER TO CURRENT_USER;
ALTER FUNCTION srt_shared.count(int, daybook.event) OWNER TO srt_deputy;
SELECT data FROM daybook.replay('srt_shared.events', 's', 1, 1);
SELECT srt_try($$INSERT INTO srt_shared.events (stream_id, type) VALUES ('s', 'T') RETURNING version$$);
SELECT daybook.fold('srt_count', 's');
REVOKE srt_alice FROM srt_deputy;
SELECT srt_try($$SELECT data FROM daybook.replay('srt_shared.events', 's', 1, 1)$$);
SELECT srt_try($$SELECT daybook.fold('srt_count', 's')$$);
-- what the owner of a schema keeps there for others can be used
CREATE SCHEMA srt_library AUTHORIZATION srt_eve;
GRANT USAGE ON SCHEMA srt_library TO srt_alice;
ALTER FUNCTION srt_shared.up(jsonb) OWNER TO CURRENT_USER;
SET ROLE srt_eve;
CREATE FUNCTION srt_library.up(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT data || '{"library": true}' $$;
SET ROLE srt_alice;
SELECT daybook.create_upcaster('srt_shared.events', 'T', 2, 'srt_library.up(jsonb)');
RESET ROLE;
SELECT data FROM daybook.replay('srt_shared.events', 's', 1, 1);

-- a table in a schema that the caller may not use is none that he may read
CREATE SCHEMA srt_closed;
SELECT daybook.create_event_table('srt_closed.events');
INSERT INTO srt_closed.events (stream_id, type) VALUES ('s', 'T');
GRANT SELECT ON srt_closed.events TO srt_bob;
SET ROLE srt_bob;
SELECT event_table, type, events FROM daybook.schema_status WHERE event_table::text LIKE 'srt_%';
RESET ROLE;
GRANT USAGE ON SCHEMA srt_closed TO srt_bob;
SET ROLE srt_bob;
SELECT event_table, type, events FROM daybook.schema_status WHERE event_table::text LIKE 'srt_%' ORDER BY 1;
RESET ROLE;
SELECT daybook.drop_event_table('srt_closed.events', force => true);
DROP SCHEMA srt_closed;

-- what ends with the session cannot be registered
SET ROLE srt_alice;
CREATE FUNCTION pg_temp.up(data jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT data $$;
CREATE FUNCTION pg_temp.fits(data jsonb) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
CREATE FUNCTION pg_temp.count(state int, e daybook.event) RETURNS int LANGUAGE sql AS $$ SELECT state + 1 $$;
CREATE TYPE pg_temp.payload AS (n int);
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN regexp_replace(srt_try(statement), 'pg_temp_[0-9]+', 'pg_temp_N', 'g');
END $$;
SELECT pg_temp.try($$SELECT daybook.create_upcaster('srt_shared.events', 'U', 1, 'pg_temp.up(jsonb)')$$);
SELECT pg_temp.try($$SELECT daybook.register_event_type('srt_shared.events', 'U', 1, "check" => 'pg_temp.fits(jsonb)')$$);
SELECT pg_temp.try($$SELECT daybook.register_event_type('srt_shared.events', 'U', 1, 'pg_temp.payload')$$);
SELECT pg_temp.try($$SELECT daybook.create_fold('srt_temp', 'srt_shared.events', 'pg_temp.count(int, daybook.event)', 0)$$);
RESET ROLE;
DISCARD TEMP;

-- what runs as the owner leaves nothing in the session of who is served
SET ROLE srt_alice;
CREATE FUNCTION srt_shared.leave() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN CREATE TEMP TABLE srt_left (n int); RETURN true; END $$;
CREATE FUNCTION srt_shared.leaving_up(data jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN PERFORM srt_shared.leave(); RETURN data; END $$;
CREATE FUNCTION srt_shared.leaving_fits(data jsonb) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN srt_shared.leave(); END $$;
CREATE FUNCTION srt_shared.leaving_count(state int, e daybook.event) RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM srt_shared.leave(); RETURN state + 1; END $$;
SELECT daybook.create_upcaster('srt_shared.events', 'Left', 1, 'srt_shared.leaving_up(jsonb)');
SELECT daybook.register_event_type('srt_shared.events', 'Leaves', 1, "check" => 'srt_shared.leaving_fits(jsonb)');
SELECT daybook.create_fold('srt_leaving', 'srt_shared.events', 'srt_shared.leaving_count(int, daybook.event)', 0);
SET ROLE srt_bob;
INSERT INTO srt_shared.events (stream_id, type) VALUES ('left', 'Left'), ('other', 'Other');
SELECT srt_try($$SELECT count(*) FROM daybook.replay('srt_shared.events', 'left')$$);
SELECT srt_try($$INSERT INTO srt_shared.events (stream_id, type) VALUES ('other', 'Leaves') RETURNING version$$);
SELECT srt_try($$SELECT daybook.fold('srt_leaving', 'other')$$);
RESET ROLE;
SELECT daybook.drop_fold('srt_leaving');

DROP SCHEMA srt_private CASCADE;
DROP SCHEMA srt_library CASCADE;
SELECT daybook.drop_fold('srt_count');
SELECT daybook.drop_event_table('srt_shared.events', force => true);
DROP SCHEMA srt_shared CASCADE;
DROP ROLE srt_deputy, srt_alice, srt_bob, srt_eve;
DROP FUNCTION srt_try(text);
