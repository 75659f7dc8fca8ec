# Events are taken from the records that store them; what only decoding can
# tell is left to it.  Either way a transaction's events are in the log
# together, in the order of insertion, without what savepoints rolled back.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('rows', conf => q{
fsync = off
autovacuum = off
});
$node->safe_psql('postgres', q{
SELECT daybook.create_event_table('orders');
SELECT daybook.create_event_table('invoices');
CREATE SEQUENCE made;
CREATE TABLE counts (k text PRIMARY KEY, n bigint)});
ok(wait_for_mode($node, 'decoding'), 'the sequencer decodes');
my $worker = sequencer_pid($node);
my @tables = ('orders', 'invoices');

sub publish
{
	my ($statements) = @_;
	$node->safe_psql('postgres', $statements || q{INSERT INTO orders (stream_id, type) VALUES ('order-0', 'Happened')});
	return all_published($node);
}

# A few more than the one that publish() makes need not be decoded once the
# files are known.
sub bytes_for
{
	my ($statements) = @_;

	publish() for 1 .. 2;
	my $before = decoded_bytes($node);
	publish($statements);
	publish($statements);
	return decoded_bytes($node) - $before;
}

# Ids rise in the order of insertion, each with its transaction's xid.
sub transactions_are_right
{
	my ($what) = @_;
	my $events = join(' UNION ALL ', map { "SELECT id, data FROM $_" } @tables);

	is($node->safe_psql('postgres', q{
SELECT 'position ' || position || ' has id ' || id || ' after ' || before FROM (
	SELECT position, id, lag(id) OVER (PARTITION BY transaction ORDER BY position) AS before FROM daybook.log) s
WHERE before > id LIMIT 10}), '', "$what: in the order of insertion");
	is($node->safe_psql('postgres', qq{
SELECT 'transaction ' || (data->>'xid') || ' is in the log as ' || count(DISTINCT transaction)
FROM daybook.log JOIN ($events) e USING (id)
WHERE data ? 'xid' GROUP BY data->>'xid' HAVING count(DISTINCT transaction) > 1 LIMIT 10}), '', "$what: together");
	log_is_right($node, "$what: each event once");
	is(sequencer_pid($node), $worker, "$what: by the same worker");
}

my $few = 100_000;
cmp_ok(bytes_for(q{INSERT INTO orders (stream_id, type) SELECT 'a-' || n % 100, 'Happened' FROM generate_series(1, 5000) n}),
	'<', $few, 'events are not decoded');
cmp_ok(bytes_for(q{SELECT daybook.append('orders', 'b-' || s, jsonb_agg(jsonb_build_object('type', 'Happened')))
	FROM generate_series(1, 50) s, generate_series(1, 100) GROUP BY s}), '<', $few, 'nor those stored many at a time');
cmp_ok(bytes_for(q{BEGIN; CREATE TABLE IF NOT EXISTS other (); COMMENT ON TABLE other IS 'changes a catalog';
	INSERT INTO orders (stream_id, type) SELECT 'b-' || n % 100, 'Happened' FROM generate_series(1, 5000) n; COMMIT}), '<', $few,
	'nor after changes of catalogs');
cmp_ok(bytes_for(q{INSERT INTO orders (stream_id, type) SELECT 'c-' || n % 100, 'Happened' FROM generate_series(1, 5000) n
	ON CONFLICT DO NOTHING}), '>', 5 * $few, 'control: those stored speculatively are');

# What looks like an event table and is none, with rows that no event table has, is left alone.
$node->safe_psql('postgres', q{CREATE TABLE lookalike OF daybook.event USING daybook});
for my $row ("(NULL, 'x')", "(NULL, 'x')", '(1, NULL)')
{
	$node->safe_psql('postgres', "INSERT INTO lookalike (id, stream_id) VALUES $row");
	publish() for 1 .. 2;
}
transactions_are_right('a table that looks like one');

# A table that is looked for while the transaction that makes it is open.
{
	my $session = $node->background_psql('postgres');
	my $insert = q{INSERT INTO made_early (stream_id, type, data)
SELECT 's-' || n % 100, 'Happened', jsonb_build_object('xid', pg_current_xact_id()::text) FROM generate_series(1, 20000) n};

	$session->query_safe(qq{BEGIN; SELECT daybook.create_event_table('made_early'); $insert});
	publish() for 1 .. 2;
	$session->query_safe($insert);
	publish();
	$session->query_safe('COMMIT');
	$session->quit;
	push @tables, 'made_early';
	ok(publish(), 'a table that was looked for before it could be seen');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM daybook.log WHERE event_table = 'made_early'::regclass}), '40000', 'all of it');
	transactions_are_right('a table that was looked for before it could be seen');
}

# Tables whose files are exchanged behind the server's back, as some tools do.
{
	my $copy = 'INSERT INTO copied SELECT * FROM orders o WHERE NOT EXISTS (SELECT FROM copied c WHERE c.id = o.id)';

	$node->safe_psql('postgres', 'CREATE TABLE copied (LIKE orders)');
	for (1 .. 3)
	{
		$node->safe_psql('postgres', $copy);
		publish();
	}
	$node->safe_psql('postgres', qq{
BEGIN;
LOCK TABLE orders IN ACCESS EXCLUSIVE MODE;
$copy;
SET allow_system_table_mods = on;
UPDATE pg_class c SET relfilenode = o.relfilenode FROM pg_class o
WHERE (c.relname, o.relname) IN (('orders', 'copied'), ('copied', 'orders')) AND c.relnamespace = o.relnamespace;
REINDEX TABLE orders;
COMMIT;
INSERT INTO orders (stream_id, type) SELECT 'exchanged', 'Happened' FROM generate_series(1, 100)});
	ok(publish(), 'files that are exchanged');
	transactions_are_right('files that are exchanged');
}

# One transaction that has all of it, more than is kept in memory.
$node->safe_psql('postgres', q{
DO $$
BEGIN
	INSERT INTO orders (stream_id, type, data)
	SELECT 'd-' || n % 100, 'Happened', jsonb_build_object('xid', pg_current_xact_id()::text) FROM generate_series(1, 150000) n;
	FOR i IN 1 .. 600 LOOP
		BEGIN
			INSERT INTO counts VALUES ('d-' || i, 1);
			INSERT INTO invoices (stream_id, type, data)
			SELECT 'd-' || n % 100, 'Sent', jsonb_build_object('xid', pg_current_xact_id()::text) FROM generate_series(1, 50) n;
			IF i > 300 THEN
				INSERT INTO orders (stream_id, version, type, data)
				VALUES ('e-' || i % 3, 1, 'Happened', jsonb_build_object('xid', pg_current_xact_id()::text)) ON CONFLICT DO NOTHING;
			END IF;
			IF i % 5 = 0 THEN
				RAISE EXCEPTION 'no';
			END IF;
		EXCEPTION WHEN raise_exception THEN
			INSERT INTO orders (stream_id, type, data)
			VALUES ('f-' || i % 10, 'Failed', jsonb_build_object('xid', pg_current_xact_id()::text));
		END;
	END LOOP;
END $$});
ok(publish(), 'a large transaction is published');
transactions_are_right('a large transaction');

# Many at a time, with tables that are made in them, and files that change.
my $values = q{jsonb_build_object('xid', pg_current_xact_id()::text)};
my $load = start_pgbench($node, [ '-c', 8, '-j', 2, '-t', 1500 ], {
	'mixed@10' => qq{
\\set s random(1, 100)
\\set v random(1, 3)
\\set keep random(0, 1)
BEGIN;
INSERT INTO orders (stream_id, type, data) VALUES ('mixed-:client_id', 'First', $values);
SAVEPOINT a;
INSERT INTO counts VALUES (':client_id', 1) ON CONFLICT (k) DO UPDATE SET n = counts.n + 1;
INSERT INTO orders (stream_id, type, data) VALUES ('mixed-:client_id', 'Tried', $values);
SAVEPOINT b;
INSERT INTO orders (stream_id, version, type, data) VALUES ('once-:client_id', :v, 'Tried', $values) ON CONFLICT DO NOTHING;
\\if :keep
RELEASE b;
\\else
ROLLBACK TO a;
\\endif
INSERT INTO invoices (stream_id, type, data) SELECT 'mixed-:client_id', 'Sent', $values FROM generate_series(1, 3);
COMMIT;
},
	'alone@20' => qq{
INSERT INTO orders (stream_id, type, data) VALUES ('alone-:client_id', 'Happened', $values);
},
	'prepared@5' => qq{
BEGIN;
SAVEPOINT a;
INSERT INTO orders (stream_id, type, data) VALUES ('prepared-:client_id', 'First', $values);
RELEASE a;
SAVEPOINT b;
INSERT INTO orders (stream_id, type, data) VALUES ('prepared-:client_id', 'Undone', $values);
ROLLBACK TO b;
INSERT INTO invoices (stream_id, type, data) VALUES ('prepared-:client_id', 'Last', $values);
PREPARE TRANSACTION 'p:client_id';
COMMIT PREPARED 'p:client_id';
},
	'new_table@1' => qq{
BEGIN;
INSERT INTO orders (stream_id, type, data) VALUES ('alone-:client_id', 'Before', $values);
DO \$\$
DECLARE
	name text := 'made_' || nextval('made');
BEGIN
	IF substr(name, 6)::int > 40 THEN
		RETURN;
	END IF;
	PERFORM daybook.create_event_table(name);
	INSERT INTO orders (stream_id, type, data) VALUES ('between-' || pg_backend_pid(), 'Made', $values);
	EXECUTE format(\$i\$INSERT INTO %I (stream_id, type, data) VALUES ('s', 'Happened', $values)\$i\$, name);
END \$\$;
INSERT INTO orders (stream_id, type, data) VALUES ('alone-:client_id', 'After', $values);
COMMIT;
},
	'into_new@5' => qq{
DO \$\$
DECLARE
	name text := (SELECT relation::text FROM daybook.event_table WHERE relation::text LIKE 'made%' ORDER BY random() LIMIT 1);
BEGIN
	INSERT INTO orders (stream_id, type, data) VALUES ('into-' || pg_backend_pid(), 'Happened', $values);
	IF name IS NOT NULL THEN
		EXECUTE format(\$i\$INSERT INTO %I (stream_id, type, data) VALUES ('s-' || pg_backend_pid(), 'Happened', $values)\$i\$, name);
	END IF;
	INSERT INTO orders (stream_id, type, data) VALUES ('into-' || pg_backend_pid(), 'Happened', $values);
END \$\$;
},
	'rewrite@1' => q{
VACUUM FULL invoices;
},
});
ok(finish($load), 'a load that has all kinds of rows');
ok(publish(), 'all of it is published');
transactions_are_right('all kinds');

$node->stop;
done_testing();
