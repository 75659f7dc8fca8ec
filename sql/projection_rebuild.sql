-- Rebuilding beside the live tables: readers see the old rows until the new
-- ones take their place, and everything that refers to the tables stays valid.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS daybook;
CREATE SCHEMA rebuild_test;
SET search_path = rebuild_test, public;
CREATE ROLE rebuild_ann;
SELECT daybook.create_event_table('account');
CREATE TABLE currency (code text PRIMARY KEY);
INSERT INTO currency VALUES ('EUR');
CREATE SEQUENCE steps;
CREATE TABLE balance (
	account text CONSTRAINT one_per_account PRIMARY KEY CHECK (account <> ''),
	n int GENERATED ALWAYS AS IDENTITY (START WITH 100 INCREMENT BY 5),
	serial serial,
	amount numeric NOT NULL DEFAULT 0,
	doubled numeric GENERATED ALWAYS AS (amount * 2) STORED,
	currency text DEFAULT 'EUR' REFERENCES currency,
	story text COLLATE "C",
	touched int
) WITH (fillfactor = 70);
CREATE INDEX balance_story ON balance (left(story, 10) DESC) WHERE amount > 0;
CREATE UNIQUE INDEX "Balance Serial" ON balance (serial) INCLUDE (amount);
COMMENT ON TABLE balance IS 'what is left';
COMMENT ON COLUMN balance.amount IS 'in the currency';
COMMENT ON INDEX balance_story IS 'how it began';
CREATE TABLE entry (id bigint PRIMARY KEY, account text NOT NULL REFERENCES balance DEFERRABLE);
GRANT SELECT ON balance TO rebuild_ann;
CREATE VIEW rich AS SELECT account, amount FROM balance WHERE amount > 1000;
CREATE MATERIALIZED VIEW total AS SELECT sum(amount) FROM balance;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.touched := coalesce(OLD.touched, 0) + 1; RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON balance FOR EACH ROW EXECUTE FUNCTION touch();

INSERT INTO account (stream_id, type, data)
SELECT 'account-' || n % 50, 'Paid', jsonb_build_object('amount', n, 'story', repeat(md5(n::text), 200)) FROM generate_series(1, 2000) n;
-- the handler names a table in every way there is
SELECT daybook.create_projection('balance', '{account}', $$
	INSERT INTO balance AS b (account, amount, story)
	SELECT stream_id, sum((data->>'amount')::numeric), max(data->>'story') FROM new_events GROUP BY 1 ORDER BY min(position)
	ON CONFLICT ON CONSTRAINT one_per_account DO UPDATE SET amount = b.amount + excluded.amount, story = greatest(b.story, excluded.story);
	INSERT INTO rebuild_test.entry SELECT id, stream_id FROM new_events WHERE stream_id IN (SELECT account FROM rebuild_test.balance)
$$, '{balance,entry}');
SELECT daybook.wait_for_projection('balance', timeout => '3min') > 0 AS reached;
CREATE TABLE kept AS TABLE balance;
CREATE TABLE kept_entry AS TABLE entry;
SELECT oid AS balance_oid FROM pg_class WHERE oid = 'balance'::regclass \gset
-- what the catalogs say
CREATE VIEW said AS
SELECT 'index' AS what, pg_get_indexdef(indexrelid) AS text FROM pg_index WHERE indrelid IN ('balance'::regclass, 'entry'::regclass)
UNION ALL SELECT 'constraint', conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid IN ('balance'::regclass, 'entry'::regclass)
UNION ALL SELECT 'trigger', pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'balance'::regclass AND NOT tgisinternal
UNION ALL SELECT 'class', concat_ws(' ', relname, relacl, reloptions, obj_description(oid), reltoastrelid <> 0,
	(SELECT relname = 'pg_toast_' || c.oid FROM pg_class t WHERE t.oid = c.reltoastrelid)) FROM pg_class c WHERE relname IN ('balance', 'entry', 'balance_story') AND relnamespace = 'rebuild_test'::regnamespace
UNION ALL SELECT 'column', concat_ws(' ', attname, col_description(attrelid, attnum), attidentity, attgenerated) FROM pg_attribute WHERE attrelid = 'balance'::regclass AND attnum > 0
UNION ALL SELECT 'depends', pg_describe_object(classid, objid, objsubid) || ' ' || deptype::text || ' ' || refobjsubid FROM pg_depend WHERE refclassid = 'pg_class'::regclass AND refobjid = 'balance'::regclass AND objid NOT IN (SELECT reltoastrelid FROM pg_class);
CREATE TABLE said_before AS SELECT * FROM said;

-- damage is there until the swap, and gone after it
DELETE FROM entry WHERE id % 3 = 0;
UPDATE balance SET amount = 0 WHERE account LIKE '%1';
SELECT daybook.rebuild_projection('balance', in_place => false);
SELECT daybook.wait_for_projection('balance', timeout => '60s') > 0 AS reached;
SELECT count(*) FROM (SELECT account, n, serial, amount, doubled, story, touched FROM balance EXCEPT ALL SELECT account, n, serial, amount, doubled, story, 1 FROM kept) x;
SELECT count(*), sum(amount) FROM balance;
SELECT count(*) FROM ((TABLE entry EXCEPT ALL TABLE kept_entry) UNION ALL (TABLE kept_entry EXCEPT ALL TABLE entry)) x;
SELECT oid = :balance_oid AS same_oid FROM pg_class WHERE oid = 'balance'::regclass;
(TABLE said EXCEPT ALL TABLE said_before) UNION ALL (TABLE said_before EXCEPT ALL TABLE said);
SELECT count(*) FROM rich;
SELECT has_table_privilege('rebuild_ann', 'balance', 'SELECT') AS granted;
SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'daybook\_rebuild%';
SELECT count(*) FROM daybook.rebuild_progress;
SELECT count(*) FROM daybook.projection;
-- the rows are found through the indexes, keys hold, and numbers go on
SET enable_seqscan = off;
SELECT count(*), max(length(story)) FROM balance WHERE left(story, 10) > '' AND amount > 0;
SELECT amount FROM balance WHERE account = 'account-7';
RESET enable_seqscan;
INSERT INTO balance (account, currency) VALUES ('account-7', 'EUR');
INSERT INTO balance (account, currency) VALUES ('other', 'USD');
DELETE FROM balance WHERE account = 'account-7';
INSERT INTO account (stream_id, type, data) VALUES ('account-new', 'Paid', '{"amount": 1}');
SELECT daybook.wait_for_projection('balance', timeout => '3min') > 0 AS reached;
SELECT n > 345 AS n, serial > 50 AS serial, doubled, touched FROM balance WHERE account = 'account-new';
VACUUM ANALYZE balance;
REINDEX TABLE balance;
SELECT count(*) FROM balance;

-- what fails is parked as live, and the queue changes hands with the rows
ALTER TABLE balance ADD CONSTRAINT small CHECK (amount < 41000) NOT VALID;
SELECT daybook.rebuild_projection('balance');
SELECT daybook.wait_for_projection('balance', timeout => '60s') > 0 AS reached;
SELECT count(*) FILTER (WHERE amount >= 41000) AS too_much FROM balance;
SELECT is_cause, sqlstate, count(DISTINCT stream_id) FROM daybook.parked_events WHERE projection = 'balance' GROUP BY 1, 2 ORDER BY 1;
ALTER TABLE balance DROP CONSTRAINT small;
SELECT daybook.retry_parked('balance') > 0 AS applied;
SELECT count(*), sum(amount) FROM balance;
SELECT count(*) FROM daybook.parked_events WHERE projection = 'balance';

-- cancelled, rolled back, asked for twice, slowed down
SELECT daybook.cancel_rebuild('balance');
SELECT daybook.rebuild_projection('balance', max_rate => 10);
SELECT projection, state IN ('running', 'waiting for a worker') AS runs, max_rate, events_left > 0 AS is_left, error_sqlstate FROM daybook.rebuild_progress;
SELECT daybook.wait_for_projection('balance', timeout => '100ms');
SELECT name, rebuild_of FROM daybook.projection ORDER BY 1;
SELECT daybook.pause_projection('daybook_rebuild_1');
SELECT name FROM daybook.projection_status;
SELECT daybook.rebuild_projection('balance', max_rate => 20);
SELECT max_rate FROM daybook.rebuild_progress;
SELECT daybook.cancel_rebuild('balance');
SELECT count(*) FROM daybook.rebuild_progress;
SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'daybook\_rebuild%';
BEGIN;
SELECT daybook.rebuild_projection('balance');
ROLLBACK;
SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'daybook\_rebuild%';
SELECT daybook.wait_for_projection('balance', timeout => '3min') > 0 AS reached;
SELECT count(*), sum(amount) FROM balance;

-- tables that change meanwhile are not exchanged
SELECT daybook.rebuild_projection('balance', max_rate => 1000);
ALTER TABLE balance ADD COLUMN more int;
CREATE FUNCTION reach(wanted text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE found text;
BEGIN
	FOR i IN 1..3000 LOOP
		SELECT state INTO found FROM daybook.rebuild_progress;
		EXIT WHEN found = wanted;
		PERFORM pg_sleep(0.01);
	END LOOP;
	RETURN found;
END $$;
SELECT reach('failed');
SELECT error_sqlstate, error_message, error_detail FROM daybook.rebuild_progress;
DO $$ BEGIN PERFORM daybook.wait_for_projection('balance', timeout => '60s'); EXCEPTION WHEN OTHERS THEN RAISE WARNING '%', regexp_replace(SQLERRM, '\d+$', 'N'); END $$;
SELECT daybook.rebuild_projection('balance');
SELECT daybook.wait_for_projection('balance', timeout => '60s') > 0 AS reached;
SELECT count(*), sum(amount), count(more) FROM balance;

-- a function that names its table in full
CREATE TABLE called (id bigint PRIMARY KEY, n int);
CREATE FUNCTION call(e daybook.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO rebuild_test.called VALUES (e.id, (SELECT count(*) FROM rebuild_test.called));
END $$;
SELECT daybook.create_projection('call', '{account}', 'call(daybook.event)'::regprocedure, '{called}');
SELECT daybook.wait_for_projection('call', timeout => '3min') > 0 AS reached;
CREATE TABLE kept_called AS TABLE called;
DELETE FROM called;
SELECT daybook.rebuild_projection('call', in_place => false);
SELECT daybook.wait_for_projection('call', timeout => '60s') > 0 AS reached;
SELECT count(*) FROM (TABLE kept_called EXCEPT ALL TABLE called) x;
-- and one that reads it through a view
CREATE VIEW called_view AS SELECT * FROM called;
CREATE OR REPLACE FUNCTION call(e daybook.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO rebuild_test.called VALUES (e.id, (SELECT count(*) FROM rebuild_test.called_view));
END $$;
SELECT daybook.rebuild_projection('call');
SELECT reach('failed');
SELECT error_sqlstate, error_message FROM daybook.rebuild_progress;
SELECT daybook.rebuild_projection('call', in_place => true);
SELECT daybook.wait_for_projection('call', timeout => '60s') > 0 AS reached;
SELECT count(*) FROM (TABLE kept_called EXCEPT ALL TABLE called) x;
SELECT count(*) FROM daybook.rebuild_progress;

-- where it cannot be done beside, it is said, and done in place or refused
SET client_min_messages = notice;
ALTER TABLE called ADD COLUMN gone int;
ALTER TABLE called DROP COLUMN gone;
SELECT daybook.rebuild_projection('call', in_place => false);
SELECT daybook.rebuild_projection('call');
SELECT daybook.wait_for_projection('call', timeout => '60s') > 0 AS reached;
SELECT count(*) FROM (TABLE kept_called EXCEPT ALL TABLE called) x;
SELECT daybook.pause_projection('balance');
SELECT daybook.rebuild_projection('balance', in_place => false);
SELECT daybook.resume_projection('balance');
SELECT daybook.rebuild_projection(NULL);
SELECT daybook.rebuild_projection('balance', max_rate => -1);
SET client_min_messages = warning;

-- what is moved to the copies does not go with them, if it is append-only
BEGIN;
SELECT daybook.rebuild_projection('balance');
SELECT nspname AS copies FROM pg_namespace WHERE nspname LIKE 'daybook\_rebuild%' \gset
SET LOCAL client_min_messages = error;
SELECT daybook.create_event_table('moved');
INSERT INTO moved (stream_id, type) VALUES ('m-1', 'T');
ALTER TABLE moved SET SCHEMA :copies;
SAVEPOINT s;
SELECT daybook.cancel_rebuild('balance');
ROLLBACK TO s;
SELECT count(*) FROM :copies.moved;
ROLLBACK;

-- a projection that is dropped takes its rebuild along
SELECT daybook.rebuild_projection('balance', max_rate => 10);
SELECT daybook.drop_projection(name) FROM unnest('{balance,call}'::text[]) name;
SELECT count(*) FROM daybook.projection;
SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'daybook\_rebuild%';
SELECT daybook.drop_event_table('account', true);
DROP SCHEMA rebuild_test CASCADE;
DROP ROLE rebuild_ann;
