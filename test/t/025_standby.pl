# A position that a physical standby shows has its event there; a standby that
# is promoted goes on where the primary ended.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_node('primary', streaming => 1);
$primary->safe_psql('postgres', q{SELECT daybook.create_event_table('orders')});
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

my $load = { load => q{
\set s random(1, 100)
\set t random(0, 5)
BEGIN;
INSERT INTO orders (stream_id, type) SELECT 'order-:s', 'Happened' FROM generate_series(1, 3);
\sleep :t ms
COMMIT;
} };
my $lacking = q{
	SELECT count(*) FROM daybook.log l LEFT JOIN orders o USING (id)
	WHERE l.position > daybook.head() - 2000 AND o.id IS NULL};

like(status($standby, 'hint'), qr/recovery/, 'a standby has no sequencer, and says why');
is(status($standby, 'mode'), 'stopped', 'it is stopped');
$primary->safe_psql('postgres', q{CREATE FUNCTION same(jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT $1'});
$primary->wait_for_catchup($standby);
for my $call (
	q{append('orders', 's', 'T', '{}'::jsonb)}, q{create_event_table('more')}, q{drop_event_table('orders')},
	q{register_event_table('orders')}, q{register_event_type('orders', 'T', 1)}, q{drop_event_type('orders', 'T', 1)},
	q{create_upcaster('orders', 'T', 1, 'same(jsonb)')}, q{drop_upcaster('orders', 'T', 1)})
{
	my (undef, undef, $error) = $standby->psql('postgres', "\\set VERBOSITY sqlstate\nSELECT daybook.$call");
	like($error, qr/25006/, "a standby does not $call");
}

for my $mode (qw(decoding scanning))
{
	$primary->append_conf('postgresql.conf', 'daybook.decoding = ' . ($mode eq 'decoding' ? 'on' : 'off'));
	$primary->reload;
	ok(wait_for_mode($primary, $mode), $mode);
	my $bench = start_pgbench($primary, [ '-c', 6, '-T', 3600 ], $load);
	my ($looks, $faults, $last, $heads) = (0, 0, 0, 0);
	my $goal = event_count($primary) + 12_000;
	# on a quick machine the events are there after a few looks
	while (event_count($primary) < $goal || ($heads <= 20 && $looks < 1000))
	{
		for (1 .. 10)
		{
			my ($head, $without) = split /\n/, $standby->safe_psql('postgres',
				"BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT daybook.head(); $lacking; COMMIT");
			$looks++;
			$faults++ if $without > 0 || $head < $last;
			$heads++ if $head > $last;
			$last = $head;
		}
	}

	# the control: positions of the primary against a standby that lags
	if ($mode eq 'decoding')
	{
		$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
		wait_until('the pause', sub { $standby->safe_psql('postgres', 'SELECT pg_get_wal_replay_pause_state()') eq 'paused' });
		my $there = $standby->safe_psql('postgres', 'SELECT max(id) FROM orders');
		ok(wait_until('newer positions', sub {
			$primary->safe_psql('postgres', "SELECT count(*) FROM daybook.log WHERE position > daybook.head() - 2000 AND id > $there") > 0;
		}), 'a standby that lags lacks events of positions that only the primary has');
		$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
	}
	stop_load($bench);
	is($faults, 0, "$looks looks at the standby while $mode saw no position without its event");
	cmp_ok($heads, '>', 20, "and $heads times a new position");
}
ok(all_published($primary), 'all is published');
my $head = $primary->safe_psql('postgres', 'SELECT daybook.head()');
ok(wait_until('the standby', sub { $standby->safe_psql('postgres', 'SELECT daybook.head()') == $head }), 'the standby has the whole log');
log_is_right($primary, 'the log of the primary is right');

# An id that was taken before, by a transaction that was rolled back, is in the
# index twice, and a standby does not know which of the two is of no use.
{
	my $restored = 'SET daybook.restore = on; INSERT INTO orders (id, stream_id, version, type) VALUES (1000000000, %s, 1, %s)';
	$primary->safe_psql('postgres', 'BEGIN; ' . sprintf($restored, q{'twice-1'}, q{'RolledBack'}) . '; ROLLBACK');
	$primary->safe_psql('postgres', sprintf($restored, q{'twice-1'}, q{'Kept'}));
	ok(all_published($primary), 'an event with an id that was rolled back before');
	$primary->wait_for_catchup($standby);
	is($standby->safe_psql('postgres', q{SELECT type FROM daybook.read_all(categories => '{twice}')}), 'Kept',
		'a standby reads it');
}

# The standby takes over in the midst of a load.
my $bench = start_pgbench($primary, [ '-c', 6, '-T', 3600 ], $load);
my $before = event_count($primary);
wait_until('some load', sub { event_count($primary) > $before + 1000 });
$primary->stop('immediate');
finish($bench);
my $seen = $standby->safe_psql('postgres', q{
	SELECT string_agg(position || '|' || id, ',' ORDER BY position) FROM daybook.log WHERE position > daybook.head() - 300});
$standby->append_conf('postgresql.conf', 'daybook.decoding = on');
$standby->promote;
ok(wait_for_mode($standby, 'decoding'), 'a standby that is promoted decodes');
$bench = start_pgbench($standby, [ '-c', 4, '-t', 200 ], $load);
ok(finish($bench), 'and is written to');
ok(all_published($standby), 'all its events are published');
log_is_right($standby, 'each once, and the order goes on');
is($standby->safe_psql('postgres', sprintf(q{
	SELECT string_agg(position || '|' || id, ',' ORDER BY position) FROM daybook.log WHERE position BETWEEN %s AND %s},
	$seen =~ /^(\d+)/, $seen =~ /(\d+)\|\d+$/)), $seen, 'positions that readers saw before are as they were');

$standby->stop;
done_testing();
