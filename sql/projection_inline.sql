-- Projections kept in the appending statement.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS daybook;
CREATE SCHEMA inline_test;
SET search_path = inline_test, public;
SELECT daybook.create_event_table('account');
SELECT daybook.create_event_table('transfer');

-- events that are there already are applied first, in the order of ids
INSERT INTO account (stream_id, type, data) VALUES ('account-1', 'Opened', '{"amount": 100}'), ('other-1', 'Opened', '{"amount": 1}');
INSERT INTO transfer (stream_id, type, data) VALUES ('account-1', 'Received', '{"amount": 5}');
INSERT INTO account (stream_id, type, data) VALUES ('account-1', 'Closed', '{"amount": -105}');
CREATE TABLE balance (account text PRIMARY KEY, amount numeric NOT NULL, events int NOT NULL);
CREATE TABLE entry (n int GENERATED ALWAYS AS IDENTITY, position bigint, event_table regclass, id bigint, type text);
SELECT daybook.create_projection('balance', '{account,transfer}', $$
	INSERT INTO balance AS b
	SELECT stream_id, sum((data->>'amount')::numeric), count(*) FROM new_events GROUP BY 1
	ON CONFLICT (account) DO UPDATE SET amount = b.amount + excluded.amount, events = b.events + excluded.events;
	INSERT INTO entry (position, event_table, id, type) SELECT position, event_table, id, type FROM new_events ORDER BY id;
$$, '{balance,entry}', mode => 'inline', categories => '{account}', batch_size => 2);
SELECT * FROM balance ORDER BY 1;
SELECT n, position, event_table, type FROM entry ORDER BY n;
SELECT bool_and(n = rank) FROM (SELECT n, rank() OVER (ORDER BY id) FROM entry) e;
SELECT name, mode, state, position, lag_events, lag_seconds, worker_pid FROM daybook.projection_status WHERE name = 'balance';

-- each appending statement applies its own events, and sees them applied
INSERT INTO account (stream_id, type, data) VALUES
	('account-2', 'Opened', '{"amount": 10}'), ('account-2', 'Deposited', '{"amount": 5}'), ('other-1', 'Deposited', '{"amount": 1}');
SELECT * FROM balance ORDER BY 1;
COPY transfer (stream_id, type, data) FROM stdin;
account-2	Received	{"amount": 1}
account-3	Received	{"amount": 2}
\.
SELECT (daybook.append('account', 'account-3', 'Deposited', '{"amount": 40}')).last_version;
SELECT (daybook.append('account', 'account-3', '[{"type": "Deposited", "data": {"amount": 400}}, {"type": "Withdrawn", "data": {"amount": -2}}]')).last_version;
WITH added AS (INSERT INTO account (stream_id, type, data) VALUES ('account-3', 'Deposited', '{"amount": 1000}') RETURNING id)
SELECT count(*) FROM added;
INSERT INTO account (stream_id, type, data) SELECT 'account-4', 'Deposited', '{"amount": 1}' FROM generate_series(1, 1000);
INSERT INTO account (stream_id, type, data) SELECT 'account-4', 'Deposited', '{"amount": 1}' WHERE false;
SELECT * FROM balance ORDER BY 1;

-- what is rolled back is rolled back in both
BEGIN;
INSERT INTO account (stream_id, type, data) VALUES ('account-4', 'Deposited', '{"amount": 1}');
SAVEPOINT s;
INSERT INTO account (stream_id, type, data) VALUES ('account-4', 'Deposited', '{"amount": 10}');
SELECT amount FROM balance WHERE account = 'account-4';
ROLLBACK TO s;
SELECT amount FROM balance WHERE account = 'account-4';
COMMIT;
SELECT amount FROM balance WHERE account = 'account-4';

-- waiting is over at once
SELECT daybook.wait_for_projection('balance', timeout => '0s') AS position \gset
-- in a statement of its own, whose snapshot is not older
SELECT :position <= daybook.head() AS waited;

-- a function is called for each event, in order
CREATE TABLE last_seen (account text PRIMARY KEY, version bigint, versions text);
CREATE FUNCTION see(e daybook.log_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO last_seen VALUES (e.stream_id, e.version, e.version::text)
	ON CONFLICT (account) DO UPDATE SET version = excluded.version, versions = last_seen.versions || ',' || excluded.version
	WHERE last_seen.version = excluded.version - 1 AND e.position IS NULL AND e.event_table = 'account'::regclass;
END $$;
SELECT daybook.create_projection('last_seen', '{account}', 'see(daybook.log_event)'::regprocedure, '{last_seen}', mode => 'inline', types => '{Opened,Deposited,Withdrawn,Closed}');
SELECT account, version FROM last_seen ORDER BY 1;
INSERT INTO account (stream_id, type, data)
SELECT 'account-5', type, '{"amount": 0}' FROM unnest('{Opened,Deposited,Closed,Ignored}'::text[]) type;
SELECT versions FROM last_seen WHERE account = 'account-5';

-- an error in the handler fails the append, and nothing is left of either
ALTER TABLE balance ADD CHECK (amount < 2000);
INSERT INTO account (stream_id, type, data) VALUES ('account-4', 'Deposited', '{"amount": 1000000}');
SELECT count(*) FROM account WHERE data->>'amount' = '1000000';

-- paused, appends go on without it; resumed, it first applies what it missed
SELECT daybook.pause_projection('balance');
INSERT INTO account (stream_id, type, data) VALUES ('account-6', 'Opened', '{"amount": 6}');
INSERT INTO transfer (stream_id, type, data) VALUES ('account-6', 'Received', '{"amount": 60}');
SELECT count(*) FROM balance WHERE account = 'account-6';
SELECT state FROM daybook.projection_status WHERE name = 'balance';
SELECT daybook.wait_for_projection('balance', timeout => '3min');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT daybook.resume_projection('balance');
ROLLBACK;
SELECT daybook.resume_projection('balance');
SELECT amount, events FROM balance WHERE account = 'account-6';
INSERT INTO account (stream_id, type, data) VALUES ('account-6', 'Deposited', '{"amount": 600}');
SELECT amount, events FROM balance WHERE account = 'account-6';

-- a rebuild gives the same rows
CREATE TABLE kept AS SELECT * FROM balance;
CREATE TABLE kept_entry AS SELECT * FROM entry;
UPDATE balance SET amount = 0;
SELECT daybook.rebuild_projection('balance');
SELECT count(*) FROM (TABLE kept EXCEPT ALL TABLE balance) x;
SELECT count(*) FROM (TABLE balance EXCEPT ALL TABLE kept) x;
-- (numbers of identity columns that failed appends used up have no gap now)
SELECT count(*) FROM (SELECT row_number() OVER (ORDER BY n), id FROM kept_entry EXCEPT SELECT n, id FROM entry) x;
-- also while it is paused; events that come later are applied when it is resumed
SELECT daybook.pause_projection('balance');
INSERT INTO account (stream_id, type, data) VALUES ('account-7', 'Opened', '{"amount": 7}');
SELECT daybook.rebuild_projection('balance');
INSERT INTO account (stream_id, type, data) VALUES ('account-7', 'Deposited', '{"amount": 70}');
SELECT amount FROM balance WHERE account = 'account-7';
SELECT daybook.resume_projection('balance');
SELECT amount FROM balance WHERE account = 'account-7';

-- triggers: only those that create_projection made; a disabled one shows
SELECT tgrelid::regclass, tgname, tgenabled FROM pg_trigger WHERE tgname LIKE 'daybook_inline%' ORDER BY 1, 2;
CREATE TABLE forged (LIKE account);
CREATE TRIGGER daybook_inline_balance AFTER INSERT ON forged REFERENCING NEW TABLE AS new_events
	FOR EACH STATEMENT EXECUTE FUNCTION daybook.project_inline('balance');
INSERT INTO forged SELECT * FROM account LIMIT 1;
CREATE TRIGGER twice AFTER INSERT ON account REFERENCING NEW TABLE AS new_events
	FOR EACH STATEMENT EXECUTE FUNCTION daybook.project_inline('balance');
INSERT INTO account (stream_id, type, data) VALUES ('account-7', 'Deposited', '{"amount": 1}');
DROP TRIGGER twice ON account;
CREATE TRIGGER plain AFTER INSERT ON forged FOR EACH ROW EXECUTE FUNCTION daybook.project_inline('balance');
DROP TRIGGER daybook_inline_balance ON forged;
INSERT INTO forged SELECT * FROM account LIMIT 1;
DROP TRIGGER plain ON forged;
CREATE TRIGGER nobody AFTER INSERT ON forged REFERENCING NEW TABLE AS new_events
	FOR EACH STATEMENT EXECUTE FUNCTION daybook.project_inline('nobody');
INSERT INTO forged SELECT * FROM account LIMIT 1;
ALTER TABLE account DISABLE TRIGGER daybook_inline_balance;
SELECT state FROM daybook.projection_status WHERE name = 'balance';
SELECT daybook.wait_for_projection('balance', timeout => '3min');
ALTER TABLE account ENABLE ALWAYS TRIGGER daybook_inline_balance;
SELECT state FROM daybook.projection_status WHERE name = 'balance';

-- it fires for replicated sessions too, as the version trigger does
SET session_replication_role = replica;
INSERT INTO account (stream_id, type, data) VALUES ('account-7', 'Deposited', '{"amount": 700}');
RESET session_replication_role;
SELECT amount FROM balance WHERE account = 'account-7';

-- events that are restored come with the rows that were made from them
BEGIN;
SET LOCAL client_min_messages = notice;
SET LOCAL daybook.restore = on;
INSERT INTO account SELECT (jsonb_populate_record(a, '{"id": 1000000, "version": 1, "stream_id": "account-8"}')).* FROM account a LIMIT 1;
SELECT count(*) FROM balance WHERE account = 'account-8';
ROLLBACK;

-- upcasters run as the owner of their own event table when events of several are replayed
CREATE ROLE regress_daybook_inline_1;
CREATE ROLE regress_daybook_inline_2;
GRANT USAGE, CREATE ON SCHEMA inline_test TO regress_daybook_inline_1, regress_daybook_inline_2;
CREATE FUNCTION name_user(data jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$ SELECT data || jsonb_build_object('as', current_user) $$;
SELECT daybook.create_event_table('one'), daybook.create_event_table('two');
SELECT daybook.create_upcaster(t, 'Upcast', 1, 'name_user(jsonb)') FROM unnest('{one,two}'::regclass[]) t;
ALTER TABLE one OWNER TO regress_daybook_inline_1;
ALTER TABLE two OWNER TO regress_daybook_inline_2;
INSERT INTO one (stream_id, type) VALUES ('one-1', 'Upcast');
INSERT INTO two (stream_id, type) VALUES ('two-1', 'Upcast');
INSERT INTO one (stream_id, type) VALUES ('one-1', 'Upcast');
INSERT INTO two (stream_id, type) VALUES ('two-1', 'Upcast');
CREATE TABLE upcast_as (event_table regclass, version bigint, role text);
SELECT daybook.create_projection('upcast_as', '{one,two}', $$
	INSERT INTO upcast_as SELECT event_table, version, data->>'as' FROM new_events
$$, '{upcast_as}', mode => 'inline');
SELECT * FROM upcast_as ORDER BY 1, 2;
SELECT current_user = session_user AS unchanged;
SELECT daybook.drop_projection('upcast_as');
SELECT daybook.drop_event_table('one', true), daybook.drop_event_table('two', true);

-- pausing calls no function of an event table's owner with other rights
SET ROLE regress_daybook_inline_1;
SELECT daybook.create_event_table('indexed');
CREATE TABLE called_as (role name);
CREATE FUNCTION note_user() RETURNS void LANGUAGE sql AS 'INSERT INTO inline_test.called_as VALUES (current_user)';
CREATE FUNCTION noting(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	PERFORM inline_test.note_user();
	RETURN true;
END $$;
CREATE INDEX ON indexed (id) WHERE noting(1);
CREATE TABLE indexed_id (id bigint);
SELECT daybook.create_projection('indexed', '{indexed}', 'INSERT INTO inline_test.indexed_id SELECT id FROM new_events', '{indexed_id}', mode => 'inline');
INSERT INTO indexed (stream_id, type) VALUES ('i-1', 'T');
SELECT daybook.pause_projection('indexed');
INSERT INTO indexed (stream_id, type) VALUES ('i-1', 'T');
SELECT daybook.resume_projection('indexed');
SELECT DISTINCT role FROM called_as;
SELECT count(*), count(DISTINCT id) FROM indexed_id;
SELECT daybook.drop_projection('indexed');
RESET ROLE;
SELECT daybook.drop_event_table('indexed', true);
DROP TABLE called_as, indexed_id;
DROP FUNCTION note_user, noting;
REVOKE ALL ON SCHEMA inline_test FROM regress_daybook_inline_1, regress_daybook_inline_2;
DROP ROLE regress_daybook_inline_1, regress_daybook_inline_2;

-- two names that are the same for as long as a trigger's name may be
CREATE TABLE long (id bigint);
SELECT daybook.create_projection(repeat('long', 15) || n, '{account}', 'INSERT INTO long SELECT id FROM new_events', '{long}', mode => 'inline')
FROM generate_series(1, 2) n;
SELECT count(DISTINCT tgname), max(length(tgname)) FROM pg_trigger WHERE tgname LIKE 'daybook_inline_long%';
SELECT count(*) = 2 * (SELECT count(*) FROM account) AS twice FROM long;

-- what the status is made of can be asked by anybody
SELECT daybook.inline_triggers_live('nothing', '{account}');
SELECT daybook.inline_triggers_live('nothing', array_fill(NULL::regclass, ARRAY[10000000]));

-- a handler that comes to read its table while it runs waits for other writers from then on
SELECT daybook.create_event_table('nested');
CREATE TABLE nested_row (id bigint, type text, seen bigint);
CREATE TABLE nested_other (n bigint);
CREATE VIEW nested_view AS SELECT n FROM nested_other;
CREATE FUNCTION append_within() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	CREATE OR REPLACE VIEW inline_test.nested_view AS SELECT id AS n FROM inline_test.nested_row;
	INSERT INTO inline_test.nested (stream_id, type) VALUES ('inner-1', 'Inner');
	RETURN NULL;
END $$;
CREATE TRIGGER within AFTER INSERT ON nested_row FOR EACH ROW WHEN (NEW.type = 'Outer') EXECUTE FUNCTION append_within();
CREATE VIEW writers_locks AS
SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'object' AND classid = 'daybook.projection'::regclass AND mode = 'ExclusiveLock';
SELECT daybook.create_projection('nested', '{nested}', $$
	INSERT INTO nested_row SELECT id, type, (SELECT count(*) FROM nested_view) FROM new_events
$$, '{nested_row}', mode => 'inline');
BEGIN;
INSERT INTO nested (stream_id, type) VALUES ('outer-1', 'Plain');
TABLE writers_locks;
INSERT INTO nested (stream_id, type) VALUES ('outer-1', 'Outer');
TABLE writers_locks;
COMMIT;
SELECT type, seen FROM nested_row ORDER BY id;
SELECT daybook.drop_projection('nested');
SELECT daybook.drop_event_table('nested', true);

-- dropping takes the triggers away
SELECT daybook.drop_projection(name) FROM daybook.projection_status WHERE mode = 'inline';
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE 'daybook_inline%';
INSERT INTO account (stream_id, type) VALUES ('account-7', 'Closed');

SELECT daybook.drop_event_table('account', true);
SELECT daybook.drop_event_table('transfer', true);
DROP SCHEMA inline_test CASCADE;
