# Events that are loaded into a database with events of its own: with
# daybook.restore into tables with triggers, or as a table that comes out of a
# dump by itself.  They keep what they say, get positions, and their ids are
# not given out again.
use strict;
use warnings;
use DaybookTest qw(wait_for_mode wait_until);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('restored');
$node->init;
$node->append_conf('postgresql.conf', qq{
wal_level = logical
shared_preload_libraries = 'daybook'
fsync = off
});
$node->start;
my @connection = ('-h', $node->host, '-p', $node->port);

for my $decoding ('on', 'off')
{
	$node->append_conf('postgresql.conf', "daybook.decoding = $decoding");
	$node->restart;
	my $db = "decoding_$decoding";
	my $mode = $decoding eq 'on' ? 'decoding' : 'scanning';
	make_database($db, [qw(orders payments)], q{
INSERT INTO orders (stream_id, type) SELECT 'o-' || i % 3, 'T' FROM generate_series(1, 100) i;
});
	wait_for_log($db);

	# ahead of the sequence: it follows
	$node->safe_psql($db, q{
SET daybook.restore = on;
INSERT INTO payments (id, version, recorded_at, recorded_by, stream_id, type, event_id)
SELECT id, id - 149, '2020-01-01', 'long ago', 'p-1', 'T', gen_random_uuid() FROM generate_series(150, 160) id;
});
	is($node->safe_psql($db, q{INSERT INTO payments (stream_id, type) VALUES ('p-1', 'T') RETURNING id, version}),
		'161|12', "decoding $decoding: the next event has the next id and version");
	wait_for_log($db);
	is(problems($db), '', '... all are in the log');
	is($node->safe_psql($db, q{SELECT count(*) FROM payments WHERE recorded_by = 'long ago' AND recorded_at = '2020-01-01'}),
		'11', '... and say what they said');
	$node->safe_psql($db, q{
SET daybook.restore = on;
INSERT INTO payments (id, version, stream_id, type) VALUES (3000000000, 13, 'p-1', 'T');
});
	is($node->safe_psql($db, q{INSERT INTO payments (stream_id, type) VALUES ('p-1', 'T') RETURNING id}),
		'3000000001', '... however far ahead');

	# ids that the sequencer has gone past, in falling order, in two
	# transactions of which one is rolled back and one stays open for a while
	wait_for_log($db);
	my $slow = $node->background_psql($db);
	$slow->query_safe(q{
BEGIN;
SET daybook.restore = on;
INSERT INTO payments (id, version, stream_id, type) SELECT 120 - i, i, 'late-1', 'T' FROM generate_series(1, 10) i;
});
	$node->safe_psql($db, q{
SET daybook.restore = on;
BEGIN;
INSERT INTO payments (id, version, stream_id, type) VALUES (101, 1, 'rolled back', 'T');
ROLLBACK;
BEGIN;
SAVEPOINT s;
INSERT INTO payments (id, version, stream_id, type) VALUES (102, 1, 'rolled back', 'T');
ROLLBACK TO s;
INSERT INTO payments (id, version, stream_id, type) VALUES (103, 1, 'late-2', 'T');
COMMIT;
RESET daybook.restore;
INSERT INTO orders (stream_id, type) VALUES ('o-after', 'T');
});
	wait_for_log($db);
	is(problems($db), '', "decoding $decoding: an event with a low id is in the log");
	$slow->query_safe('COMMIT');
	$slow->quit;
	wait_for_log($db);
	is(problems($db), '', '... and those that came later');
	ok($node->poll_query_until($db, q{SELECT count(*) = 0 FROM daybook.late_event}), '... of which nothing is left to be noted');
	$node->safe_psql($db, q{INSERT INTO orders (stream_id, type) VALUES ('o-after', 'T')});
	$node->restart;
	wait_for_log($db);
	is(problems($db), '', '... after a restart too');

	# only superusers; and not what cannot be an id
	$node->psql('postgres', 'CREATE ROLE regress_daybook_user LOGIN');
	$node->safe_psql($db, 'GRANT ALL ON orders TO regress_daybook_user');
	for my $statement ('SET daybook.restore = on', q{SELECT daybook.register_event_table('orders')})
	{
		my ($ret, $out, $err) = $node->psql($db, $statement, extra_params => [ '-U', 'regress_daybook_user' ]);
		like($err, qr/permission denied/, "decoding $decoding: not for everyone: $statement");
	}
	my ($ret, $out, $err) = $node->psql($db, q{SET daybook.restore = on; INSERT INTO orders (id, stream_id, type) VALUES (0, 'x', 'T')});
	like($err, qr/id of an event must be 1 or more/, "decoding $decoding: no id below 1");

	# a table that comes out of a dump by itself, into a database without its ids
	my $dump = $node->basedir . "/$db.dump";
	dump_orders($db, $dump);
	my $orders = $node->safe_psql($db, 'SELECT * FROM orders ORDER BY id');
	make_database('elsewhere', [qw(payments)], q{
SELECT setval('daybook.event_id_seq', 500);
INSERT INTO payments (stream_id, type) VALUES ('p-1', 'T');
});
	$node->safe_psql('elsewhere', "\\i '$dump'");
	($ret, $out, $err) = $node->psql('elsewhere', q{INSERT INTO orders (stream_id, type) VALUES ('o-1', 'T')});
	like($err, qr/event table "orders" is not registered in this database.*daybook\.register_event_table\('public\.orders'\)/s,
		"decoding $decoding: a restored table has to be registered");
	$node->safe_psql('elsewhere', q{SELECT daybook.register_event_table('orders')});
	is($node->safe_psql('elsewhere', 'SELECT * FROM orders ORDER BY id'), $orders, '... and is as it was');
	wait_for_log('elsewhere');
	is(problems('elsewhere'), '', '... and in the log');
	is($node->safe_psql('elsewhere', q{INSERT INTO orders (stream_id, type) VALUES ('o-1', 'T') RETURNING version, id > 3000000001}),
		'35|t', '... and can be appended to');
	wait_for_log('elsewhere');
	is(problems('elsewhere'), '', '... and what is appended is in the log');
	($ret, $out, $err) = $node->psql('elsewhere', q{SELECT daybook.register_event_table('orders')});
	like($err, qr/is registered already/, '... registered once');
	$node->safe_psql('postgres', 'DROP DATABASE elsewhere');

	# the same after the table was dropped; its old positions stay
	$node->safe_psql($db, q{SELECT daybook.drop_event_table('orders', force => true)});
	$node->safe_psql($db, "\\i '$dump'");
	$node->safe_psql($db, q{SELECT daybook.register_event_table('orders')});
	wait_for_log($db);
	is(problems($db), '', "decoding $decoding: a dropped table that was restored is in the log again");

	# one that has a single event, with an id ahead of the sequence
	make_database('single_source', [qw(orders)], q{
SELECT setval('daybook.event_id_seq', 500);
INSERT INTO orders (stream_id, type) VALUES ('o-1', 'T');
});
	my $single = $node->basedir . "/$db.single";
	dump_orders('single_source', $single);
	$node->safe_psql('postgres', 'DROP DATABASE single_source');
	make_database('elsewhere', [qw(payments)], q{
INSERT INTO payments (stream_id, type) VALUES ('p-1', 'T');
});
	wait_for_mode($node, $mode, 'elsewhere', 180) or die "not $mode";
	$node->safe_psql('elsewhere', "\\i '$single'");
	($ret, $out, $err) = $node->psql('elsewhere', q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT daybook.register_event_table('orders')});
	like($err, qr/cannot register an event table at this isolation level/, "decoding $decoding: registering has to see what others commit");
	$node->safe_psql('elsewhere', q{SELECT daybook.register_event_table('orders')});
	$node->safe_psql('elsewhere', q{INSERT INTO payments (stream_id, type) VALUES ('p-1', 'T')});
	wait_for_log('elsewhere');
	is(problems('elsewhere'), '', '... and with a single event it is in the log');
	$node->safe_psql('postgres', 'DROP DATABASE elsewhere');

	# the events of one table after the rest of a dump, with the log that has them
	make_database('parts_source', [qw(orders payments)], q{
INSERT INTO orders (stream_id, type) SELECT 'o-' || i % 3, 'T' FROM generate_series(1, 100) i;
INSERT INTO payments (stream_id, type) SELECT 'p-' || i % 3, 'T' FROM generate_series(1, 100) i;
});
	wait_for_log('parts_source');
	my $parts = $node->basedir . "/$db.parts";
	$node->command_ok([ 'pg_dump', @connection, '-Fc', '-f', $parts, 'parts_source' ], 'pg_dump');
	$node->safe_psql('postgres', 'DROP DATABASE parts_source');
	$node->safe_psql('postgres', 'CREATE DATABASE elsewhere');
	my @contents = split /^/, (run_command([ 'pg_restore', '-l', '--section=data', $parts ]))[0];
	append_to_file("$parts.last", join '', grep { /TABLE DATA public payments|SEQUENCE SET daybook event_id_seq/ } @contents);
	append_to_file("$parts.first", join '', grep { !/TABLE DATA public payments|SEQUENCE SET daybook event_id_seq/ } @contents);
	{
		local $ENV{PGOPTIONS} = '-c daybook.restore=on';
		my @restore = ('pg_restore', @connection, '-d', 'elsewhere');

		$node->command_ok([ @restore, '--section=pre-data', $parts ], 'pg_restore of tables');
		$node->command_ok([ @restore, '--section=post-data', $parts ], '... of their keys and triggers');
		$node->command_ok([ @restore, '-L', "$parts.first", $parts ], '... of what one of them has, and the log');
		wait_for_mode($node, $mode, 'elsewhere', 180) or die "not $mode";
		$node->command_ok([ @restore, '-L', "$parts.last", $parts ], '... and of the other');
	}
	$node->safe_psql('elsewhere', q{INSERT INTO payments (stream_id, type) VALUES ('p-1', 'T')});
	ok($node->poll_query_until('elsewhere', q{SELECT count(*) > 0 FROM daybook.log l JOIN payments p USING (id) WHERE version = 35}), "decoding $decoding: the next event is published");
	is(problems('elsewhere'), '', '... and what the log has had already is not once more');
	$node->safe_psql('postgres', 'DROP DATABASE elsewhere');

	# ids that another table has
	make_database('elsewhere', [qw(payments)], q{
INSERT INTO payments (stream_id, type) VALUES ('p-1', 'T');
});
	$node->safe_psql('elsewhere', "\\i '$dump'");
	($ret, $out, $err) = $node->psql('elsewhere', q{SELECT daybook.register_event_table('orders')});
	like($err, qr/ids of event table "orders" are in use/, "decoding $decoding: ids that are in use are refused");
	is($node->safe_psql('elsewhere', q{SELECT count(*) FROM daybook.event_table}), '1', '... and nothing is registered');
	$node->safe_psql('elsewhere', q{
CREATE TABLE bare OF daybook.event USING daybook;
CREATE TABLE keys OF daybook.event (PRIMARY KEY (id), UNIQUE (stream_id, version)) USING daybook;
CREATE TABLE heap OF daybook.event;
});
	for my $case ([ 'bare', qr/lacks one of its keys/ ], [ 'keys', qr/lacks its version trigger/ ], [ 'heap', qr/is not an event table/ ])
	{
		($ret, $out, $err) = $node->psql('elsewhere', "SELECT daybook.register_event_table('$case->[0]')");
		like($err, $case->[1], "decoding $decoding: $case->[0] is refused");
	}
	$node->safe_psql('postgres', 'DROP DATABASE elsewhere');

	# a session that plays a replica keeps ids like a restore
	$node->safe_psql($db, q{
SET session_replication_role = replica;
INSERT INTO payments (id, version, recorded_by, stream_id, type) VALUES (104, 1, 'elsewhere', 'replicated', 'T');
});
	wait_for_log($db);
	is($node->safe_psql($db, q{SELECT id, recorded_by FROM payments JOIN daybook.log USING (id) WHERE stream_id = 'replicated'}),
		'104|elsewhere', "decoding $decoding: session_replication_role = replica");
	is(problems($db), '', '... as in the log');
}

# An id far ahead, while somebody who has appended is open still: the sequence
# cannot leap, and does when he has ended.
{
	make_database('far', [qw(orders payments)], '');
	my $open = $node->background_psql('far');
	$open->query_safe(q{BEGIN; INSERT INTO orders (stream_id, type) VALUES ('open', 'T')});
	my $restoring = $node->background_psql('far');
	$restoring->query_until(qr/begun/, q{\echo begun
SET daybook.restore = on;
INSERT INTO payments (id, version, stream_id, type) VALUES (8000000000000, 1, 'far', 'T');
});
	ok(wait_until('ids', sub { $node->safe_psql('far', 'SELECT last_value > 300000 FROM daybook.event_id_seq') eq 't' }),
		'while the sequence cannot leap, ids are taken one by one');
	$open->query_safe('COMMIT');
	$open->quit;
	ok(wait_until('the event', sub { $node->safe_psql('far', 'SELECT count(*) FROM payments') == 1 }, 20), 'when it can, it does');
	$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'far' AND state = 'active'});
	eval { $restoring->quit };
	wait_for_log('far');
	is(problems('far'), '', '... and all is in the log');
}

$node->stop;
done_testing();

sub wait_for_log
{
	my ($db) = @_;
	$node->poll_query_until($db, q{
SELECT count(*) = (SELECT count(*) FROM orders) + (SELECT count(*) FROM payments)
FROM daybook.log WHERE event_table IN ('orders', 'payments')})
	  or die "the log of $db is not complete";
	return;
}

# A database with the extension and event tables, and what else is said.
sub make_database
{
	my ($db, $tables, $statements) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, join "\n", 'CREATE EXTENSION daybook;',
		(map { "SELECT daybook.create_event_table('$_');" } @$tables), $statements);
	return;
}

# A dump of table orders alone.
sub dump_orders
{
	my ($db, $file) = @_;
	$node->command_ok([ 'pg_dump', @connection, '-t', 'orders', '-f', $file, $db ], "pg_dump -t of $db");
	return;
}

# What is wrong with the log: nothing.
sub problems
{
	my ($db) = @_;
	return $node->safe_psql($db, q{
WITH event AS (
	SELECT 'orders'::regclass AS event_table, id, stream_id, version FROM orders
	UNION ALL SELECT 'payments'::regclass, id, stream_id, version FROM payments),
found AS (
	SELECT l.position, l.event_table, l.id, row_number() OVER (ORDER BY l.position) AS n, e.version
	FROM daybook.log l LEFT JOIN event e USING (event_table, id))
SELECT 'position ' || position FROM found WHERE position <> n
UNION ALL SELECT 'no event ' || id FROM found WHERE event_table IS NOT NULL AND version IS NULL
UNION ALL SELECT 'twice ' || id FROM found WHERE event_table IS NOT NULL GROUP BY event_table, id HAVING count(*) > 1
UNION ALL SELECT 'not published ' || id FROM event e WHERE NOT EXISTS (SELECT FROM daybook.log l WHERE l.id = e.id AND l.event_table = e.event_table)});
}
