-- The extension goes in and out of a database, and tells what it is made of.
CREATE DATABASE daybook_install;
\c daybook_install
CREATE EXTENSION daybook;
SELECT extname, extversion FROM pg_extension WHERE extname = 'daybook';

-- Objects without a comment, functions with defaults that ought to be decisions: none.
CREATE VIEW member AS
SELECT classid, objid, pg_describe_object(classid, objid, 0) AS object
FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass
  AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'daybook')
  AND deptype = 'e';
SELECT object FROM member m
WHERE classid IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_am'::regclass, 'pg_namespace'::regclass)
  AND obj_description(objid, classid::regclass::name) IS NULL
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = m.objid AND d.deptype = 'i')
  AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = m.objid AND m.classid = 'pg_class'::regclass AND c.relkind NOT IN ('r', 'v', 'S'))
ORDER BY object COLLATE "C";
SELECT t.typname FROM member m JOIN pg_type t ON t.oid = m.objid AND m.classid = 'pg_type'::regclass JOIN pg_class c ON c.oid = t.typrelid
WHERE c.relkind = 'c' AND obj_description(t.oid, 'pg_type') IS NULL
ORDER BY 1;

-- Functions whose search_path a caller could choose while they run as their owner: none.
SELECT p.oid::regprocedure FROM member JOIN pg_proc p ON p.oid = objid AND classid = 'pg_proc'::regclass
WHERE p.prosecdef AND NOT coalesce(p.proconfig::text LIKE '%search_path=%', false)
ORDER BY 1;

-- Everything that is in a schema is in the schema daybook.
SELECT object FROM member, pg_identify_object(classid, objid, 0) AS i
WHERE i.schema <> 'daybook'
ORDER BY object COLLATE "C";

DROP VIEW member;
DROP EXTENSION daybook;
SELECT count(*) FROM pg_namespace WHERE nspname = 'daybook';
-- a schema of that name is then a user's own, and so are functions named as its were
CREATE SCHEMA daybook;
CREATE FUNCTION daybook.read_all(int, int, int, int, int) RETURNS SETOF int LANGUAGE plpgsql AS $$ BEGIN RETURN NEXT $5; END $$;
SELECT * FROM daybook.read_all(1, 2, 3, 4, 5);
CREATE FUNCTION daybook.fold_all(text) RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RETURN NEXT $1; END $$;
SELECT * FROM daybook.fold_all('own');
DROP FUNCTION daybook.read_all, daybook.fold_all;
DROP SCHEMA daybook;
-- it needs no other schema, and keeps none from being dropped
SET search_path = '';
CREATE EXTENSION daybook;
SELECT daybook.create_event_table('public.orders');
SELECT daybook.drop_event_table('public.orders');
DROP SCHEMA public;
\c contrib_regression
DROP DATABASE daybook_install;
