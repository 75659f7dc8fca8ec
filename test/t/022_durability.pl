# What a reader has seen in the log is there after a crash, at the same
# position, with synchronous_commit off as well; in the tables it is not.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $rounds = 6;
my $node = new_node('durable', conf => q{
synchronous_commit = off
wal_writer_delay = 10s
wal_writer_flush_after = 0
bgwriter_lru_maxpages = 0
checkpoint_timeout = 1h
autovacuum = off
});
$node->safe_psql('postgres', q{SELECT daybook.create_event_table('orders')});

my $load = { fast => q{
\set s random(1, 50)
INSERT INTO orders (stream_id, type) VALUES ('order-:s', 'Happened');
} };

# The last events that a reader of the table sees.
sub seen_in_table
{
	return $node->safe_psql('postgres',
		q{SELECT coalesce(string_agg(id::text, ','), '') FROM (SELECT id FROM orders ORDER BY id DESC LIMIT 300) o});
}

sub gone_from_table
{
	my ($seen) = @_;
	return $node->safe_psql('postgres',
		"SELECT count(*) FROM unnest('{$seen}'::bigint[]) i WHERE NOT EXISTS (SELECT FROM orders WHERE id = i)");
}

for my $mode (qw(decoding scanning))
{
	my $lost = 0;

	$node->append_conf('postgresql.conf', 'daybook.decoding = ' . ($mode eq 'decoding' ? 'on' : 'off'));
	$node->reload;
	for my $round (1 .. $rounds)
	{
		ok(wait_for_mode($node, $mode), $mode);
		my $before = event_count($node);
		my $bench = start_pgbench($node, [ '-c', 4, '-T', 600 ], $load);
		wait_until('some load', sub { event_count($node) > $before + 500 });

		my $seen = $node->safe_psql('postgres', q{
			SELECT string_agg(position || '|' || id, ',' ORDER BY position) FROM daybook.log WHERE position > daybook.head() - 300});
		$node->stop('immediate');
		finish($bench);
		$node->start;
		my $now = $node->safe_psql('postgres', sprintf(q{
			SELECT string_agg(position || '|' || id, ',' ORDER BY position) FROM daybook.log WHERE position BETWEEN %s AND %s},
			$seen =~ /^(\d+)/, $seen =~ /(\d+)\|\d+$/));
		$lost++ if $now ne $seen;
	}
	is($lost, 0, "no crash takes back what was in the log while $mode");
	ok(all_published($node), 'what is left is published');
	log_is_right($node, 'each event once');
}

# The control: without the sequencer, which flushes what it publishes, readers
# see events in the table that a crash takes back.
{
	my $pid = sequencer_pid($node);

	kill 'STOP', $pid;
	my $head = $node->safe_psql('postgres', 'SELECT daybook.head()');
	my $bench = start_pgbench($node, [ '-c', 1, '-t', 300 ], $load);
	finish($bench);
	my $seen = seen_in_table();
	$node->stop('immediate');
	kill 'KILL', $pid;
	$node->start;
	my $gone = gone_from_table($seen);
	cmp_ok($gone, '>', 0, "$gone events that were only in the table are gone");
	ok(all_published($node), 'what is left is published');
	log_is_right($node, 'each event once');
}

$node->stop;
done_testing();
