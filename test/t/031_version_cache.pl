# The last versions in shared memory never mislead: with room for few streams,
# after rollbacks of all kinds, rows out of order, rewritten files, tables of
# the same name, databases with the same OID, crashes and promotion, and
# transactions whose outcome has been forgotten.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $transactions = int(events_wanted(16_000) / 16 / 3) || 1;
my $node = new_node('version_cache', streaming => 1,
	conf => "synchronous_commit = off\ndaybook.version_cache_size = 64kB\n");
$node->safe_psql('postgres', q{
SELECT daybook.create_event_table('orders');
CREATE UNIQUE INDEX ON orders ((data->>'once'));

-- appends, and takes it back by an error that is caught
CREATE FUNCTION append_in_vain(stream text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO orders (stream_id, type) SELECT stream, 'RolledBack' FROM generate_series(1, 2);
	RAISE division_by_zero;
EXCEPTION WHEN division_by_zero THEN
	NULL;
END $$});

sub bad_streams
{
	return $node->safe_psql('postgres', q{
SELECT count(*) FROM (SELECT stream_id FROM orders GROUP BY stream_id
	HAVING count(*) <> max(version) OR min(version) <> 1 OR count(DISTINCT version) <> count(*)) s});
}

sub append
{
	my ($stream, $database) = @_;
	return $node->safe_psql($database || 'postgres',
		"INSERT INTO orders (stream_id, type) VALUES ('$stream', 'Happened') RETURNING version");
}

# No room at all, room for a few hundred streams, and room for all.
for my $size ('0', '64kB', '16MB')
{
	my $load;
	$node->safe_psql('postgres', "ALTER SYSTEM SET daybook.version_cache_size = '$size'");
	$node->restart;
	$load = start_pgbench($node, [ '-c', 16, '-j', 2, '-t', $transactions, '--max-tries', 1000 ], {
		'plain@4' => q{
\set s random(1, 2000)
INSERT INTO orders (stream_id, type) VALUES ('s-' || :s % (:s % 7 + 1) * 300, 'Happened');
},
		'several@3' => q{
\set s random(1, 2000)
BEGIN;
INSERT INTO orders (stream_id, type) SELECT 's-' || :s + i / 3, 'Happened' FROM generate_series(1, 6) i;
INSERT INTO orders (stream_id, type) SELECT 's-' || :s + i / 3, 'Happened' FROM generate_series(1, 6) i;
COMMIT;
},
		'long_name@1' => q{
\set s random(1, 20)
INSERT INTO orders (stream_id, type) VALUES (repeat('long', 20) || :s, 'Happened');
},
		'in_vain@2' => q{
\set s random(1, 20)
BEGIN;
INSERT INTO orders (stream_id, type) VALUES ('s-' || :s, 'Happened');
SELECT append_in_vain('s-' || :s);
INSERT INTO orders (stream_id, type) VALUES ('s-' || :s, 'Happened');
SELECT append_in_vain('s-' || :s);
COMMIT;
},
		'rollback@1' => q{
\set s random(1, 20)
BEGIN;
INSERT INTO orders (stream_id, type) VALUES ('s-' || :s, 'RolledBack');
ROLLBACK;
},
		'once@2' => q{
\set s random(1, 20)
\set key random(1, 2000)
INSERT INTO orders (stream_id, type, data) VALUES ('s-' || :s, 'Happened', jsonb_build_object('once', :key)) ON CONFLICT DO NOTHING;
},
		'prepared@1' => q{
\set s random(1, 20)
BEGIN;
INSERT INTO orders (stream_id, type) VALUES ('s-' || :s, 'Happened');
PREPARE TRANSACTION 'client_:client_id';
COMMIT PREPARED 'client_:client_id';
} });
	ok(finish($load), "16 clients, cache of $size") or diag($load->{err});
	is(bad_streams(), 0, 'no gap and no double in any stream');
}
is($node->safe_psql('postgres', q{SELECT count(*) FROM orders WHERE type = 'RolledBack'}), 0,
	'nothing that was rolled back is there');

# More than half of the room: few of the streams have to be looked up in the index again.
{
	my $append = q{INSERT INTO orders (stream_id, type) SELECT 'many-' || n, 'Happened' FROM generate_series(1, 100000) n};

	$node->safe_psql('postgres', $append);
	cmp_ok($node->safe_psql('postgres', qq{
BEGIN;
$append;
SELECT sum(pg_stat_get_xact_numscans(indexrelid)) FROM pg_index WHERE indrelid = 'orders'::regclass;
COMMIT}), '<', 1000, '100,000 streams are remembered');
}

# Rows that keep their versions may come in any order.
append('restored') for 1 .. 3;
$node->safe_psql('postgres', q{
SET daybook.restore = on;
INSERT INTO orders (stream_id, version, type) VALUES ('restored', 6, 'Happened'), ('restored', 4, 'Happened');
INSERT INTO orders (stream_id, version, type) VALUES ('restored', 5, 'Happened')});
is(append('restored'), 7, 'after rows that were loaded out of order');

# Another file, with the rows in other places.
append('moved') for 1 .. 3;
$node->safe_psql('postgres', 'VACUUM FULL orders');
is(append('moved'), 4, 'after VACUUM FULL');
is(append('moved'), 5, 'and again');

# Another table of the same name.
$node->safe_psql('postgres', q{
SELECT daybook.drop_event_table('orders', force => true);
SELECT daybook.create_event_table('orders')});
is(append('moved'), 1, 'a new table begins at 1');

# Another database has its own.
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE template1');
$node->safe_psql('copy', q{CREATE EXTENSION daybook});
$node->safe_psql('copy', q{SELECT daybook.create_event_table('orders')});
is(append('moved', 'copy'), 1, 'and so does another database');

# The same tables in a database with the OID of one that is gone.
{
	my $oid = 4_000_000_000;

	$node->safe_psql('postgres', "CREATE DATABASE again TEMPLATE copy OID $oid");
	is(append('moved', 'again'), $_, 'in a copy the stream goes on') for 2 .. 5;
	$node->safe_psql('postgres', 'DROP DATABASE again');
	$node->safe_psql('postgres', "CREATE DATABASE again TEMPLATE copy OID $oid");
	is(append('moved', 'again'), 2, 'a new copy knows nothing of the old one');
	$node->safe_psql('postgres', 'DROP DATABASE again');
}

# A table that has never had a committed row may be truncated.
$node->safe_psql('postgres', q{
SELECT daybook.create_event_table('emptied');
BEGIN;
INSERT INTO emptied (stream_id, type) SELECT 's', 'RolledBack' FROM generate_series(1, 3);
ROLLBACK;
TRUNCATE emptied;
BEGIN;
SAVEPOINT s;
TRUNCATE emptied;
INSERT INTO emptied (stream_id, type) SELECT 's', 'RolledBack' FROM generate_series(1, 3);
ROLLBACK TO s;
INSERT INTO emptied (stream_id, type) VALUES ('s', 'Happened');
COMMIT});
is($node->safe_psql('postgres', q{INSERT INTO emptied (stream_id, type) VALUES ('s', 'Happened') RETURNING version}),
	2, 'after TRUNCATE of an empty table, and one that was rolled back');

# Who is wrong about a stream is told the same at every isolation level, also
# when the stream has moved on since his snapshot.
for my $level ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
{
	my $stream = lc($level) =~ s/ /_/r;
	my $told = qr/40001.*Stream "$stream": expected version 1, actual version 3\./s;
	my $session = $node->background_psql('postgres', on_error_stop => 0);

	append($stream);
	$session->query_safe("BEGIN ISOLATION LEVEL $level");
	$session->query_safe('SELECT count(*) FROM orders');
	append($stream) for 2 .. 3;
	$session->query("\\set VERBOSITY verbose\nINSERT INTO orders (stream_id, version, type) VALUES ('$stream', 2, 'Late')");
	like($session->{stderr}, $told, "$level: 40001 with three figures");
	$session->{stderr} = '';
	$session->query('ROLLBACK');
	$session->query_safe("BEGIN ISOLATION LEVEL $level");
	$session->query_safe('SELECT count(*) FROM orders');
	append($stream);
	is($session->query("INSERT INTO orders (stream_id, type) VALUES ('$stream', 'Happened') RETURNING version"),
		5, "$level: any version goes after what the snapshot does not see");
	$session->query('COMMIT');
	$session->quit;
}

# What a standby, or the server itself after a crash, begins with is nothing.
{
	my $standby = PostgreSQL::Test::Cluster->new('promoted');

	append('survivor') for 1 .. 2;
	$node->backup('base');
	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->start;
	append('survivor');
	$node->safe_psql('postgres', q{
BEGIN;
INSERT INTO orders (stream_id, type) VALUES ('survivor', 'Prepared');
PREPARE TRANSACTION 'survivor'});
	$node->wait_for_catchup($standby);
	$standby->promote;
	is($standby->safe_psql('postgres', q{
COMMIT PREPARED 'survivor';
INSERT INTO orders (stream_id, type) VALUES ('survivor', 'Happened') RETURNING version}), 5,
		'a promoted standby goes on after what was prepared');
	$standby->stop;

	$node->stop('immediate');
	$node->start;
	$node->safe_psql('postgres', q{ROLLBACK PREPARED 'survivor'});
	is(append('survivor'), 4, 'so does a server that has crashed');
}

# The writer's outcome has been removed from pg_xact: it was long ago.
{
	my $oldest = q{SELECT min(datfrozenxid::text::bigint) FROM pg_database};

	append('old') for 1 .. 2;
	append('gone') for 1 .. 2;
	$node->safe_psql('postgres', q{
CREATE TEMP TABLE spent (i int);
DO $$ BEGIN
	FOR i IN 1 .. 1100000 LOOP
		BEGIN
			INSERT INTO spent VALUES (i);
		EXCEPTION WHEN division_by_zero THEN
			NULL;
		END;
	END LOOP;
END $$});
	# slots keep the catalogs' old rows
	$node->safe_psql('postgres', 'ALTER SYSTEM SET daybook.decoding = off');
	$node->reload;
	ok(wait_until('no slots', sub { $node->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots') == 0 }),
		'there are no slots');
	$node->safe_psql('postgres', 'ALTER DATABASE template0 ALLOW_CONNECTIONS true');
	for my $database (qw(template0 template1 copy postgres))
	{
		$node->safe_psql($database, 'VACUUM (FREEZE)');
	}
	cmp_ok($node->safe_psql('postgres', $oldest), '>', 1_000_000, 'a million transactions later');
	ok(!-e $node->data_dir . '/pg_xact/0000', 'the outcome of the writers has been removed');
	is(append('old'), 3, 'the stream goes on');
	is(append('old'), 4, 'and on');
}

$node->stop;
done_testing();
