-- Event tables are made and dropped: names, privileges, what they consist of.
SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE ROLE regress_daybook_owner;
CREATE ROLE regress_daybook_other;
CREATE SCHEMA et AUTHORIZATION regress_daybook_owner;
CREATE SCHEMA "Mixed Case";
SET search_path = et, public;

-- names
SELECT daybook.create_event_table('orders');
SELECT daybook.create_event_table('et.qualified');
SELECT daybook.create_event_table('Folded');
SELECT daybook.create_event_table('"Mixed Case"."It''s a ""name"""');
SELECT daybook.create_event_table(name => current_database() || '.et.with_database');
SELECT daybook.create_event_table(repeat('long', 20));
SELECT relation, created_name, dropped_at IS NULL AS exists FROM daybook.event_table
WHERE relation::text ~ 'orders|qualified|folded|Mixed|with_database|longlong' ORDER BY table_no;
SELECT daybook.create_event_table(NULL);

-- what cannot be a name, or is taken
\set VERBOSITY sqlstate
SELECT daybook.create_event_table('orders');
\set VERBOSITY default
SELECT daybook.create_event_table('');
SELECT daybook.create_event_table('a b');
SELECT daybook.create_event_table('"unended');
SELECT daybook.create_event_table('nowhere.t');
SELECT daybook.create_event_table('a.b.c.d');
SELECT daybook.create_event_table('another_database.et.t');
CREATE TABLE taken (a int);
-- without the statements that it consists of
\set SHOW_CONTEXT errors
SELECT daybook.create_event_table('taken');
SET ROLE regress_daybook_other;
SELECT daybook.create_event_table('et.t');
RESET ROLE;
\set SHOW_CONTEXT never

-- never temporary, whatever the path
SELECT daybook.create_event_table('pg_temp.t');
SET search_path = pg_temp, et;
SELECT daybook.create_event_table('t');
SET search_path = et, public;

-- what it consists of
SELECT a.attnum, a.attname, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null,
	pg_get_expr(d.adbin, d.adrelid) AS default
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = 'orders'::regclass AND a.attnum > 0 ORDER BY a.attnum;
SELECT c.relkind, c.relpersistence, am.amname, c.reloftype::regtype,
	(SELECT amname FROM pg_am JOIN pg_class t ON t.relam = pg_am.oid WHERE t.oid = c.reltoastrelid) AS toast
FROM pg_class c JOIN pg_am am ON am.oid = c.relam WHERE c.oid = 'orders'::regclass;
SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'orders'::regclass ORDER BY 1;
SELECT conname, contype, pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid = 'orders'::regclass AND contype <> 'n' ORDER BY 1;
SELECT tgname, tgenabled, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'orders'::regclass;
SELECT p.pubname, r.prattrs FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
WHERE r.prrelid = 'orders'::regclass;
SELECT count(*) AS extension_members FROM pg_depend
WHERE classid = 'pg_class'::regclass AND objid = 'orders'::regclass AND deptype IN ('e', 'x');
-- psql describes it; what it prints beyond these lines differs between versions
\o | grep -E 'PRIMARY KEY|UNIQUE|Publications|"daybook"|always|BEFORE INSERT|Typed|Access method'
\d+ orders
\o

CREATE FUNCTION et.row_of(daybook.event) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT $1.stream_id || '@' || $1.version $$;
INSERT INTO orders (stream_id, type) VALUES ('order-1', 'OrderPlaced');
INSERT INTO qualified (stream_id, type) VALUES ('order-2', 'OrderPlaced');
SELECT et.row_of(o) FROM orders o UNION ALL SELECT et.row_of(q) FROM qualified q ORDER BY 1;

-- dropping: an empty one at once, one with events only with force
SELECT daybook.drop_event_table('qualified');
SELECT daybook.drop_event_table('qualified', force => false);
SELECT daybook.drop_event_table('folded');
SELECT daybook.drop_event_table('folded');
SELECT daybook.drop_event_table('qualified', force => true);
SELECT daybook.drop_event_table(NULL);
CREATE TABLE heap_table (a int);
SELECT daybook.drop_event_table('heap_table', force => true);
\set VERBOSITY sqlstate
SELECT daybook.drop_event_table('orders_pkey', force => true);
\set VERBOSITY default
CREATE VIEW placed AS SELECT * FROM orders WHERE type = 'OrderPlaced';
SELECT daybook.drop_event_table('orders', force => true);
DROP VIEW placed;
BEGIN;
SELECT daybook.drop_event_table('orders', force => true);
SELECT count(*) FROM daybook.event_table WHERE created_name = 'et.orders' AND dropped_at IS NOT NULL AND relation IS NULL;
ROLLBACK;
SELECT count(*) FROM orders;

-- any table that uses the access method is dropped so, a partition too
CREATE TABLE audit (id int PRIMARY KEY, note text) USING daybook;
INSERT INTO audit VALUES (1, 'first');
SELECT daybook.drop_event_table('audit');
SELECT daybook.drop_event_table('audit', force => true);
CREATE TABLE parted (id int, note text) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10) USING daybook;
INSERT INTO parted VALUES (1, 'first');
SELECT daybook.drop_event_table('parted_1');
SELECT daybook.drop_event_table('parted_1', force => true);
DROP TABLE parted;
CREATE TEMP TABLE scratch (a int) USING daybook;
SELECT daybook.drop_event_table('scratch');

-- a temporary table may have row-level security, which no function goes past
CREATE TEMP TABLE hidden OF daybook.event USING daybook;
ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
GRANT SELECT, INSERT ON hidden TO regress_daybook_other;
SET ROLE regress_daybook_other;
SELECT daybook.replay('hidden', 'a');
SELECT daybook.append('hidden', 'a', 'T', '{}'::jsonb);
RESET ROLE;
DROP TABLE hidden;

-- event triggers hear of it as of any other
CREATE FUNCTION tell() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
	IF tg_event = 'sql_drop' THEN
		RAISE WARNING '%: %', tg_tag, (SELECT string_agg(object_identity, ', ') FROM pg_event_trigger_dropped_objects() WHERE object_type = 'table');
	ELSE
		RAISE WARNING '%: %', tg_tag, tg_event;
	END IF;
END $$;
CREATE EVENT TRIGGER regress_daybook_start ON ddl_command_start EXECUTE FUNCTION tell();
CREATE EVENT TRIGGER regress_daybook_drop ON sql_drop EXECUTE FUNCTION tell();
SELECT daybook.create_event_table('told');
SELECT daybook.drop_event_table('told');
DROP EVENT TRIGGER regress_daybook_start;
DROP EVENT TRIGGER regress_daybook_drop;

-- another one of the same name is another table
SELECT table_no AS old_table_no FROM daybook.event_table WHERE relation = 'orders'::regclass \gset
SELECT daybook.drop_event_table('orders', force => true);
SELECT daybook.create_event_table('orders');
SELECT table_no > :old_table_no AS new_number FROM daybook.event_table WHERE relation = 'orders'::regclass;
SELECT count(*) FROM orders;
BEGIN;
SELECT daybook.create_event_table('short_lived');
INSERT INTO short_lived (stream_id, type) VALUES ('s-1', 'T');
ROLLBACK;
SELECT count(*) FROM daybook.event_table WHERE created_name = 'et.short_lived';

-- an OID of no relation
CREATE FUNCTION same(jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION error_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN NULL;
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
SELECT statement, error_of('SELECT daybook.' || statement) FROM (VALUES
	($$append(1::oid, 's', 'T', '{}'::jsonb)$$),
	($$append_if(1::oid, '{"stream_id": "s", "type": "T"}', '{"types": ["T"]}')$$),
	($$append_if(1::oid, '{"stream_id": "s", "type": "T"}', '{"tags": ["a"]}')$$),
	($$read_matching(1::oid, '{"types": ["T"]}')$$),
	($$create_tag_index(1::oid)$$),
	($$stream_version(1::oid, 's')$$),
	($$replay(1::oid, 's')$$),
	($$register_event_type(1::oid, 'T', 1)$$),
	($$drop_event_type(1::oid, 'T', 1)$$),
	($$create_upcaster(1::oid, 'T', 1, 'same(jsonb)')$$),
	($$drop_upcaster(1::oid, 'T', 1)$$),
	($$upcast(1::oid, ROW(1, 1, now(), 1, NULL, 'a', 's', 'T', '{}', NULL, NULL))$$),
	($$register_event_table(1::oid)$$),
	($$drop_event_table(1::oid)$$)
) AS s (statement);

-- nothing of it in a transaction that is to read only
BEGIN READ ONLY;
SELECT statement, error_of('SELECT daybook.' || statement) FROM (VALUES
	($$append('orders', 's', 'T', '{}'::jsonb)$$),
	($$append_if('orders', '{"stream_id": "s", "type": "T"}', '{"types": ["T"]}')$$),
	($$register_event_type('orders', 'T', 1)$$),
	($$drop_event_type('orders', 'T', 1)$$),
	($$create_upcaster('orders', 'T', 1, 'same(jsonb)')$$),
	($$drop_upcaster('orders', 'T', 1)$$),
	($$register_event_table('orders')$$),
	($$drop_event_table('orders')$$)
) AS s (statement);
ROLLBACK;

-- privileges
SET ROLE regress_daybook_other;
\set VERBOSITY sqlstate
SELECT daybook.create_event_table('et.not_mine');
\set VERBOSITY default
RESET ROLE;
GRANT USAGE, CREATE ON SCHEMA et TO regress_daybook_other;
SET ROLE regress_daybook_other;
SELECT daybook.drop_event_table('orders');
SELECT daybook.drop_event_table('orders', force => true);
SELECT daybook.create_event_table('mine');
SELECT tableowner FROM pg_tables WHERE tablename = 'mine';
INSERT INTO mine (stream_id, type) VALUES ('m-1', 'T');
INSERT INTO orders (stream_id, type) VALUES ('m-1', 'T');
SELECT * FROM orders;
INSERT INTO daybook.event_table (relation, created_name) VALUES ('mine', 'mine');
SELECT count(*) > 0 AS anybody_may_read_it FROM daybook.event_table;
-- nothing of the caller's runs with the rights of the extension's owner
CREATE FUNCTION et.seen_by(regclass, regclass) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	RAISE WARNING 'called as %', current_user;
	RETURN $1::oid = $2::oid;
END $$;
CREATE OPERATOR et.= (LEFTARG = regclass, RIGHTARG = regclass, FUNCTION = et.seen_by);
SELECT daybook.create_event_table('another');
SELECT daybook.drop_event_table('another', force => true);
DROP OPERATOR et.= (regclass, regclass);
DROP FUNCTION et.seen_by;
RESET ROLE;
-- a superuser drops anyone's
SELECT daybook.drop_event_table('mine', force => true);


SELECT daybook.drop_event_table('orders', force => true);
SELECT daybook.drop_event_table('with_database');
SELECT daybook.drop_event_table('"Mixed Case"."It''s a ""name"""');
SELECT daybook.drop_event_table(relation) FROM daybook.event_table WHERE relation::text LIKE 'longlong%';
RESET search_path;
DROP SCHEMA et, "Mixed Case" CASCADE;
DROP ROLE regress_daybook_owner, regress_daybook_other;
