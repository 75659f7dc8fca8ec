# The extension and its workers over the life of a server: without the
# preload, over restarts, on a standby and after its promotion.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('primary');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', "wal_level = logical\n");
$node->start;

# Without the library nothing is made.
my ($ret, $out, $err) = $node->psql('postgres', 'CREATE EXTENSION daybook');
like($err, qr/daybook is not loaded by the server/, 'CREATE EXTENSION without the preload is refused');
like($err, qr/HINT:  Add daybook to shared_preload_libraries and restart the server/, '... with a hint');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_namespace WHERE nspname = 'daybook'}), '0', '... and makes nothing');
is(workers($node), '', '... not even a worker');

preload('daybook');
is(workers($node), '', 'no database has the extension, and none has a worker');
$node->safe_psql('postgres', q{
CREATE EXTENSION daybook;
SELECT daybook.create_event_table('orders');
CREATE TABLE audit (id int) USING daybook;
INSERT INTO audit VALUES (1);
CREATE TABLE seen (id bigint PRIMARY KEY);
SELECT daybook.create_projection('seen', '{orders}', 'INSERT INTO seen SELECT id FROM new_events', '{seen}');
INSERT INTO orders (stream_id, type) SELECT 'o-' || i % 3, 'T' FROM generate_series(1, 30) i;
});
ok(all_published($node), 'with it the extension works');
is(workers($node), 'postgres', '... and has a worker');

# Over restarts, clean and not.
my $log = $node->safe_psql('postgres', 'SELECT * FROM daybook.log');
for my $mode ('fast', 'immediate')
{
	$node->safe_psql('postgres', q{INSERT INTO orders (stream_id, type) VALUES ('o-1', 'T')});
	$node->stop($mode);
	$node->start;
	ok(all_published($node), "after a $mode stop all events are published");
	log_is_right($node, '... as they should be');
}
is($node->safe_psql('postgres', 'SELECT * FROM daybook.log ORDER BY position LIMIT 30'), $log, 'positions stay');

# When the preload is taken away history can be read and is not changed.
preload('');
is($node->safe_psql('postgres', 'SELECT count(*) FROM orders'), '32', 'without the preload events can be read');
is($node->safe_psql('postgres', q{SELECT count(*) FROM daybook.replay('orders', 'o-1')}), '12', '... and replayed');
is($node->safe_psql('postgres', q{SELECT count(*) FROM daybook.log}), '32', '... by the log too');
for my $statement (q{INSERT INTO orders (stream_id, type) VALUES ('o-1', 'T')},
	q{SELECT daybook.append('orders', 'o-1', '{"type": "T"}'::jsonb)})
{
	($ret, $out, $err) = $node->psql('postgres', $statement);
	like($err, qr/daybook is not loaded by the server.*shared_preload_libraries/s, "refused: $statement");
}
for my $statement ('UPDATE orders SET type = 1', 'DELETE FROM audit', 'TRUNCATE orders', 'TRUNCATE audit')
{
	($ret, $out, $err) = $node->psql('postgres', $statement);
	like($err, qr/append-only table/, "refused: $statement");
}
for my $statement ('DROP TABLE orders', 'DROP TABLE audit', 'ALTER TABLE orders SET ACCESS METHOD heap',
	'ALTER TABLE audit DROP COLUMN id', 'ALTER TABLE orders DISABLE TRIGGER ALL')
{
	# whoever has opened a table of the access method has the library
	($ret, $out, $err) = $node->psql('postgres', "SELECT FROM audit LIMIT 0; $statement");
	like($err, qr/append-only table/, "refused: $statement");
}
is($node->safe_psql('postgres', q{SELECT mode FROM daybook.sequencer_status}), 'stopped', 'the sequencer is reported as stopped');
is($node->safe_psql('postgres', q{SELECT state FROM daybook.projection_status}), 'waiting for a worker', 'the projection waits');
($ret, $out, $err) = $node->psql('postgres', q{SELECT daybook.wait_for_projection('seen')});
like($err, qr/daybook is not loaded by the server.*shared_preload_libraries/s, '... which nobody waits for');
$node->safe_psql('postgres', "SELECT daybook.$_") for q{pause_projection('seen')}, q{resume_projection('seen')},
	q{alter_projection('seen', batch_size => 100)}, q{rebuild_projection('seen')};
preload('daybook');
$node->safe_psql('postgres', q{INSERT INTO orders (stream_id, type) VALUES ('o-1', 'T')});
ok(all_published($node), 'with the preload it goes on');
is($node->safe_psql('postgres', q{
SELECT daybook.wait_for_projection('seen') = daybook.head(), (SELECT count(*) FROM seen) = (SELECT count(*) FROM orders)}),
	't|t', '... and so does the projection that was changed without');

# A standby reads; its worker comes with the promotion.
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->safe_psql('postgres', q{INSERT INTO orders (stream_id, type) VALUES ('o-1', 'T')});
ok(all_published($node), 'an event more on the primary');
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', 'SELECT * FROM daybook.log ORDER BY position'),
	$node->safe_psql('postgres', 'SELECT * FROM daybook.log ORDER BY position'), 'the standby has the same log');
is($standby->safe_psql('postgres', 'SELECT daybook.head()'), '34', '... and its head');
is($standby->safe_psql('postgres', q{SELECT max(version) FROM daybook.replay('orders', 'o-1')}), '14', '... and its events');
is(workers($standby), '', '... and no worker');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'daybook launcher'}), '0', '... nor a launcher');
($ret, $out, $err) = $standby->psql('postgres', q{INSERT INTO orders (stream_id, type) VALUES ('o-1', 'T')});
like($err, qr/read-only transaction/, '... nor appends');
($ret, $out, $err) = $standby->psql('postgres', q{SELECT daybook.pause_projection('seen')});
like($err, qr/cannot execute daybook.pause_projection\(\) in a read-only transaction/, '... nor changes to projections');

kill 'STOP', sequencer_pid($node);
$node->safe_psql('postgres', q{INSERT INTO orders (stream_id, type) VALUES ('o-1', 'Unpublished')});
$node->wait_for_catchup($standby);
$node->stop('immediate');
$standby->promote;
ok(all_published($standby), 'the promoted server publishes what the primary had not');
is(workers($standby), 'postgres', '... by a worker of its own');
is($standby->safe_psql('postgres', q{INSERT INTO orders (stream_id, type) VALUES ('o-1', 'T') RETURNING version}), '16', '... and appends');
ok(all_published($standby), '... and goes on publishing');
log_is_right($standby, '... as it should');

# DROP EXTENSION wants the tables gone first, then goes at once, and comes again.
($ret, $out, $err) = $standby->psql('postgres', 'DROP EXTENSION daybook');
like($err, qr/other objects depend on it/, 'DROP EXTENSION is refused while there are tables');
$standby->safe_psql('postgres', q{
SELECT daybook.drop_event_table('orders', force => true);
SELECT daybook.drop_event_table('audit', force => true);
DROP EXTENSION daybook;
});
ok(wait_until('the worker leaves', sub { workers($standby) eq '' }), 'without them it is dropped, and the worker leaves');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_publication}), '0', '... and nothing of it stays');
$standby->safe_psql('postgres', q{
CREATE EXTENSION daybook;
SELECT daybook.create_event_table('orders');
INSERT INTO orders (stream_id, type) VALUES ('o-1', 'T');
});
ok(all_published($standby), 'it can be made again');
is($standby->safe_psql('postgres', 'SELECT daybook.head()'), '1', '... and begins anew');

# The script of an extension makes no event tables; the extension's functions may.
SKIP:
{
	skip 'extensions are looked for in one directory before PostgreSQL 18', 2
	  if $standby->pg_version < 18;
	my $dir = $standby->basedir . '/share';
	mkdir $dir;
	mkdir "$dir/extension";
	append_to_file("$dir/extension/with_events.control", "default_version = '1'\nrelocatable = true\n");
	append_to_file("$dir/extension/with_events--1.sql", q{
CREATE FUNCTION make_events() RETURNS regclass LANGUAGE sql AS $$ SELECT daybook.create_event_table('of_extension') $$;
DO $$ BEGIN IF current_setting('test.in_script', true) = 'on' THEN PERFORM make_events(); END IF; END $$;
});
	$standby->append_conf('postgresql.conf', "extension_control_path = '$dir:\$system'");
	$standby->reload;
	($ret, $out, $err) = $standby->psql('postgres', q{SET test.in_script = on; CREATE EXTENSION with_events});
	like($err, qr/cannot create an event table in the script of an extension/, 'an extension script is refused');
	is($standby->safe_psql('postgres', q{CREATE EXTENSION with_events; SELECT make_events()}), 'of_extension', 'its function is not');
}

$standby->stop;
done_testing();

sub preload
{
	my ($libraries) = @_;
	$node->append_conf('postgresql.conf', "shared_preload_libraries = '$libraries'");
	$node->restart;
	return;
}

# The databases that have a worker.
sub workers
{
	my ($on) = @_;
	return $on->safe_psql('postgres', q{
SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_stat_activity WHERE backend_type = 'daybook sequencer'});
}
