-- What happens to tables while they are rebuilt or verified: settings of the
-- session, tablespaces, commands, and what others do to them meanwhile.
SET client_min_messages = warning;
SET allow_in_place_tablespaces = on;
CREATE EXTENSION IF NOT EXISTS daybook;
CREATE SCHEMA rebuild_tables;
SET search_path = rebuild_tables, public;
CREATE TABLESPACE rebuild_space LOCATION '';
SELECT daybook.create_event_table('e');
INSERT INTO e (stream_id, type, data) SELECT 's-' || i % 7, 'T', jsonb_build_object('n', i) FROM generate_series(1, 300) i;
-- until the rebuild is in that state
CREATE FUNCTION reach(wanted text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE found text;
BEGIN
	FOR i IN 1..6000 LOOP
		SELECT state INTO found FROM daybook.rebuild_progress;
		EXIT WHEN found IS NOT DISTINCT FROM wanted;
		PERFORM pg_sleep(0.01);
	END LOOP;
	RETURN found;
END $$;

-- the session's defaults have no say in how copies are stored
CREATE TABLE held (s text PRIMARY KEY USING INDEX TABLESPACE rebuild_space, n int, note text, UNIQUE (s, n) DEFERRABLE INITIALLY DEFERRED)
WITH (fillfactor = 80, toast.autovacuum_enabled = false);
CREATE TABLE once (s text, EXCLUDE USING btree (s WITH =) USING INDEX TABLESPACE rebuild_space);
CREATE INDEX held_n ON held (n) TABLESPACE rebuild_space;
SELECT daybook.create_projection('held', '{e}', $$
	INSERT INTO held SELECT stream_id, count(*) FROM new_events GROUP BY 1
	ON CONFLICT ON CONSTRAINT held_pkey DO UPDATE SET n = held.n + excluded.n;
	INSERT INTO once SELECT stream_id FROM new_events ON CONFLICT DO NOTHING
$$, '{held,once}');
SELECT daybook.wait_for_projection('held', timeout => '3min') > 0 AS reached;
CREATE VIEW storage AS
SELECT c.relname, c.relkind, a.amname, s.spcname, c.reloptions, h.reloptions AS toast_options,
	(SELECT string_agg(pg_get_constraintdef(k.oid), ' ') FROM pg_constraint k WHERE k.conindid = c.oid) AS key
FROM pg_class c LEFT JOIN pg_am a ON a.oid = c.relam LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace LEFT JOIN pg_class h ON h.oid = c.reltoastrelid
WHERE c.relnamespace = 'rebuild_tables'::regnamespace AND c.relname ~ '^(held|once)';
CREATE TABLE storage_before AS TABLE storage;
SET default_table_access_method = daybook;
SET default_tablespace = rebuild_space;
SELECT * FROM daybook.verify_projection('held');
SELECT daybook.rebuild_projection('held');
SELECT daybook.wait_for_projection('held', timeout => '60s') > 0 AS reached;
RESET default_table_access_method;
RESET default_tablespace;
SELECT count(*), sum(n) FROM held;
SELECT count(*) FROM once;
SELECT parked_events FROM daybook.projection_status;
(TABLE storage EXCEPT TABLE storage_before) UNION ALL (TABLE storage_before EXCEPT TABLE storage);
SELECT daybook.drop_projection('held');

-- what comes to a table while its copy is filled is not lost or passed over
CREATE TABLE kept (s text PRIMARY KEY, n int, kind text DEFAULT 'old', twice int GENERATED ALWAYS AS (n * 2) STORED, place serial);
SELECT daybook.create_projection('kept', '{e}', $$
	INSERT INTO kept SELECT stream_id, count(*) FROM new_events GROUP BY 1 ON CONFLICT (s) DO UPDATE SET n = kept.n + excluded.n
$$, '{kept}');
SELECT daybook.wait_for_projection('kept', timeout => '3min') > 0 AS reached;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
-- the copies are made before the change, and filled after it
CREATE PROCEDURE meanwhile(change text, undo text) LANGUAGE plpgsql AS $$
DECLARE r record;
BEGIN
	PERFORM daybook.rebuild_projection('kept');
	EXECUTE change;
	COMMIT;
	FOR i IN 1..6000 LOOP
		SELECT state, error_sqlstate, error_message, error_detail INTO r FROM daybook.rebuild_progress;
		EXIT WHEN r.state IS NULL OR r.state = 'failed';
		PERFORM pg_sleep(0.01);
	END LOOP;
	RAISE WARNING '% % % %', r.state, r.error_sqlstate, r.error_message, r.error_detail;
	EXECUTE undo;
	PERFORM daybook.cancel_rebuild('kept');
END $$;
CALL meanwhile('CREATE TABLE child (s text REFERENCES kept)', 'DROP TABLE child');
CALL meanwhile('ALTER TABLE kept ADD CONSTRAINT small CHECK (n < 1000)', 'ALTER TABLE kept DROP CONSTRAINT small');
CALL meanwhile('CREATE TRIGGER t BEFORE INSERT ON kept FOR EACH ROW EXECUTE FUNCTION nothing()', 'DROP TRIGGER t ON kept');
CALL meanwhile('ALTER TABLE kept ALTER kind SET DEFAULT ''new''', 'ALTER TABLE kept ALTER kind SET DEFAULT ''old''');
CALL meanwhile('ALTER TABLE kept ALTER place SET DEFAULT 0', 'ALTER TABLE kept ALTER place SET DEFAULT nextval(''kept_place_seq'')');
CALL meanwhile('ALTER TABLE kept SET UNLOGGED', 'ALTER TABLE kept SET LOGGED');
CALL meanwhile('ALTER TABLE kept SET TABLESPACE rebuild_space', 'ALTER TABLE kept SET TABLESPACE pg_default');
CALL meanwhile('CREATE RULE r AS ON DELETE TO kept DO INSTEAD NOTHING', 'DROP RULE r ON kept');
CALL meanwhile($$SELECT daybook.create_projection('also', '{e}', 'INSERT INTO kept SELECT ''also-'' || id FROM new_events ON CONFLICT DO NOTHING', '{kept}')$$, $$SELECT daybook.drop_projection('also')$$);
DELETE FROM kept WHERE s LIKE 'also-%';
CALL meanwhile('SELECT 1', 'SELECT 1');
SELECT * FROM daybook.verify_projection('kept', ignore_columns => '{place}');

-- on_error reaches a rebuild that has failed
ALTER TABLE kept ADD CONSTRAINT few CHECK (n < 40) NOT VALID;
SELECT daybook.alter_projection('kept', on_error => 'stop');
SELECT daybook.rebuild_projection('kept');
SELECT reach('failed');
SELECT daybook.alter_projection('kept', on_error => 'park');
SELECT reach(NULL);
SELECT daybook.wait_for_projection('kept', timeout => '60s') > 0 AS reached;
SELECT count(*) > 0 AS parked FROM daybook.parked_events WHERE projection = 'kept';
ALTER TABLE kept DROP CONSTRAINT few;
SELECT daybook.rebuild_projection('kept');
SELECT daybook.wait_for_projection('kept', timeout => '60s') > 0 AS reached;

-- a projection that is paused stays where it is, and gets its new rows when it goes on
BEGIN;
SELECT daybook.rebuild_projection('kept');
SELECT daybook.pause_projection('kept');
COMMIT;
INSERT INTO e (stream_id, type) VALUES ('later', 'T');
SELECT reach('swapping');
SELECT p.state, h.head - p.position AS behind FROM daybook.projection_status p, (SELECT daybook.head() AS head) h WHERE name = 'kept';
SELECT count(*) FROM kept WHERE s = 'later';
SELECT daybook.resume_projection('kept');
SELECT reach(NULL);
SELECT daybook.wait_for_projection('kept', timeout => '60s') > 0 AS reached;
SELECT count(*) FROM kept WHERE s = 'later';

-- a rebuild that was rolled back is not waited for
\connect -
SET search_path = rebuild_tables, public;
SET client_min_messages = warning;
BEGIN;
SELECT daybook.rebuild_projection('kept');
ROLLBACK;
\setenv PGDATABASE :DBNAME
\! psql -XqAt -c "SELECT daybook.rebuild_projection('kept', max_rate => 1)"
INSERT INTO e (stream_id, type) VALUES ('later', 'T');
SELECT daybook.wait_for_projection('kept', timeout => '60s') > 0 AS reached;
SELECT count(*) FROM daybook.rebuild_progress WHERE state IN ('running', 'waiting for a worker');
-- PostgreSQL 15 can give a generated column no other expression, but take its own from it
SELECT CASE WHEN current_setting('server_version_num')::int >= 170000 THEN 'SET EXPRESSION AS (n * 3)' ELSE 'DROP EXPRESSION' END AS change \gset
CALL meanwhile('ALTER TABLE kept ALTER twice ' || :'change', 'SELECT');
SELECT daybook.drop_projection('kept');

-- commands that name a table in full are for the copy too
CREATE TABLE newest (id bigint);
SELECT daybook.create_projection('newest', '{e}', $$
	LOCK TABLE rebuild_tables.newest IN EXCLUSIVE MODE;
	TRUNCATE rebuild_tables.newest;
	INSERT INTO rebuild_tables.newest SELECT max(id) FROM new_events
$$, '{newest}', batch_size => 50);
SELECT daybook.wait_for_projection('newest', timeout => '3min') > 0 AS reached;
TABLE newest \gset kept_
SELECT daybook.rebuild_projection('newest', batch_size => 50, max_rate => 500);
SELECT count(*) FROM newest WHERE id = :kept_id;
SELECT daybook.wait_for_projection('newest', timeout => '60s') > 0 AS reached;
SELECT count(*), count(*) FILTER (WHERE id = :kept_id) AS kept FROM newest;
SELECT * FROM daybook.verify_projection('newest');
SELECT daybook.drop_projection('newest');
-- those that would change it are refused
CREATE TABLE altered (id bigint);
SELECT daybook.create_projection('altered', '{e}', $$
	INSERT INTO altered SELECT id FROM new_events;
	ALTER TABLE rebuild_tables.altered ALTER id SET STATISTICS 100
$$, '{altered}');
SELECT daybook.wait_for_projection('altered', timeout => '3min') > 0 AS reached;
SELECT * FROM daybook.verify_projection('altered');
SELECT daybook.drop_projection('altered');

-- verification: a key between the tables cascades, and columns have any name
CREATE TABLE ord (id text PRIMARY KEY);
CREATE TABLE line (id text REFERENCES ord ON DELETE CASCADE, t jsonb);
SELECT daybook.create_projection('ord', '{e}', $$
	INSERT INTO ord SELECT stream_id FROM new_events ON CONFLICT DO NOTHING;
	INSERT INTO line SELECT stream_id, data FROM new_events;
	DELETE FROM ord WHERE id = 's-1'
$$, '{ord,line}');
SELECT daybook.wait_for_projection('ord', timeout => '3min') > 0 AS reached;
SELECT count(*) FROM line WHERE id = 's-1';
SELECT * FROM daybook.verify_projection('ord');
UPDATE line SET t = '{}' WHERE t->>'n' = '2';
SELECT "table", row, difference FROM daybook.verify_projection('ord') ORDER BY 3;
SELECT * FROM daybook.verify_projection('ord', streams => '{s-2}', stream_column => 'nosuch');
SELECT daybook.drop_projection('ord');

-- one that is published is not rebuilt beside itself, however it is published
BEGIN;
SELECT daybook.rebuild_obstacle('{line}');
CREATE PUBLICATION rebuild_tables FOR TABLE line;
SELECT daybook.rebuild_obstacle('{line}');
DROP PUBLICATION rebuild_tables;
CREATE PUBLICATION rebuild_tables FOR TABLES IN SCHEMA rebuild_tables;
SELECT daybook.rebuild_obstacle('{line}');
DROP PUBLICATION rebuild_tables;
CREATE PUBLICATION rebuild_tables FOR ALL TABLES;
SELECT daybook.rebuild_obstacle('{line}');
ROLLBACK;

-- an unlogged table is rebuilt in place
ALTER TABLE line SET UNLOGGED;
SELECT daybook.rebuild_obstacle('{line}');

-- rows that another projection keeps in a partition are not emptied with the rest
CREATE TABLE parts (k text, n bigint) PARTITION BY LIST (k);
CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN ('a') PARTITION BY RANGE (n);
CREATE TABLE parts_a1 PARTITION OF parts_a DEFAULT;
CREATE TABLE parts_b PARTITION OF parts FOR VALUES IN ('b');
SELECT daybook.create_projection('parts', '{e}', 'INSERT INTO parts SELECT ''b'', id FROM new_events', '{parts}');
SELECT daybook.create_projection('parts_a1', '{e}', 'INSERT INTO parts_a1 SELECT ''a'', id FROM new_events', '{parts_a1}');
SELECT daybook.wait_for_projection('parts', timeout => '3min') > 0 AND daybook.wait_for_projection('parts_a1', timeout => '3min') > 0 AS reached;
SELECT daybook.rebuild_projection('parts');
SELECT daybook.rebuild_projection('parts_a1');
SELECT k, count(*) FROM parts GROUP BY k ORDER BY k;
SELECT daybook.drop_projection('parts_a1');
SELECT daybook.rebuild_projection('parts');
SELECT daybook.wait_for_projection('parts', timeout => '3min') > 0 AS reached;
SELECT k, count(*) FROM parts GROUP BY k ORDER BY k;
SELECT daybook.drop_projection('parts');

-- a foreign key to a partitioned table
CREATE TABLE kinds (type text, part int, PRIMARY KEY (type, part)) PARTITION BY LIST (part);
CREATE TABLE kinds_1 PARTITION OF kinds FOR VALUES IN (1);
INSERT INTO kinds VALUES ('T', 1);
CREATE TABLE kinded (id bigint, type text, part int, FOREIGN KEY (type, part) REFERENCES kinds);
SELECT daybook.create_projection('kinded', '{e}', 'INSERT INTO kinded SELECT id, type, 1 FROM new_events', '{kinded}');
SELECT daybook.wait_for_projection('kinded', timeout => '3min') > 0 AS reached;
SELECT daybook.rebuild_projection('kinded');
SELECT daybook.wait_for_projection('kinded', timeout => '60s') > 0 AS reached;
SELECT rebuilt_at IS NOT NULL AS rebuilt FROM daybook.projection_status WHERE name = 'kinded';
SELECT count(*) FROM kinded;
SELECT daybook.drop_projection('kinded');

-- a TOAST table that the columns have no use for any more
CREATE TABLE plain (s text, note text);
ALTER TABLE plain ALTER s SET STORAGE PLAIN, ALTER note SET STORAGE PLAIN;
SELECT daybook.create_projection('plain', '{e}', 'INSERT INTO plain SELECT stream_id FROM new_events', '{plain}');
SELECT daybook.wait_for_projection('plain', timeout => '3min') > 0 AS reached;
SELECT daybook.rebuild_projection('plain');
SELECT daybook.wait_for_projection('plain', timeout => '60s') > 0 AS reached;
SELECT count(*) FROM plain;
SELECT * FROM daybook.verify_projection('plain');
-- and one that they need again
ALTER TABLE plain ALTER note SET STORAGE EXTERNAL;
SELECT daybook.rebuild_projection('plain');
SELECT daybook.wait_for_projection('plain', timeout => '60s') > 0 AS reached;
INSERT INTO plain VALUES ('long', repeat('x', 10000));
SELECT length(note) FROM plain WHERE s = 'long';
SELECT h.relname = 'pg_toast_' || c.oid AS named, (SELECT count(*) FROM pg_depend d WHERE d.objid = h.oid AND d.refobjid = c.oid) AS owned
FROM pg_class c JOIN pg_class h ON h.oid = c.reltoastrelid WHERE c.oid = 'plain'::regclass;
SELECT daybook.drop_projection('plain');

-- the owner of a projection that is emptied in place has gone
CREATE ROLE rebuild_gone;
GRANT CREATE, USAGE ON SCHEMA rebuild_tables TO rebuild_gone;
SET ROLE rebuild_gone;
CREATE TABLE rebuild_tables.al (id bigint);
RESET ROLE;
GRANT SELECT ON e TO rebuild_gone;
SET ROLE rebuild_gone;
SELECT daybook.create_projection('al', '{e}', 'INSERT INTO al SELECT id FROM new_events', '{al}');
RESET ROLE;
SELECT daybook.pause_projection('al');
REASSIGN OWNED BY rebuild_gone TO CURRENT_USER;
DROP OWNED BY rebuild_gone;
DROP ROLE rebuild_gone;
DO $$ BEGIN PERFORM daybook.rebuild_projection('al', in_place => true); EXCEPTION WHEN OTHERS THEN RAISE WARNING '% %', SQLSTATE, SQLERRM; END $$;
SELECT daybook.drop_projection('al');

SELECT daybook.drop_event_table('e', true);
DROP SCHEMA rebuild_tables CASCADE;
DROP TABLESPACE rebuild_space;
