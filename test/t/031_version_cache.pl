# The last versions in shared memory never mislead: with room for few streams,
# after rollbacks of all kinds, rows out of order, rewritten files, tables of
# the same name, and transactions whose outcome has been forgotten.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $transactions = int(events_wanted(16_000) / 16 / 3) || 1;
my $node = new_node('version_cache', conf => "synchronous_commit = off\ndaybook.version_cache_size = 64kB\n");
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
