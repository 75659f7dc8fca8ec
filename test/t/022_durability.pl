# What a reader has seen in the log is there after a crash, at the same
# position, with synchronous_commit off as well; in the tables it is not, nor is
# what nobody has read.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $rounds = 6;
my $node = new_node('durable', conf => q{
synchronous_commit = off
wal_writer_delay = 10s
wal_writer_flush_after = 1GB
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

# The log's own commits are flushed by others, or by who reads the log.
sub flushed
{
	return $node->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
}

sub stored
{
	return $node->safe_psql('postgres', 'SELECT sum(event_count) FROM daybook.log_segment');
}

sub positions
{
	return $node->safe_psql('postgres',
		q{SELECT string_agg(position || '|' || id, ',' ORDER BY position) FROM daybook.log WHERE position > daybook.head() - 3000});
}

# Stops a process where it waits for this event: not with a lock that others need.
sub stop_where_it_waits
{
	my ($pid, $event) = @_;

	wait_until("$pid waits", sub {
		kill 'STOP', $pid;
		return 1 if $node->safe_psql('postgres', "SELECT wait_event FROM pg_stat_activity WHERE pid = $pid") eq $event;
		kill 'CONT', $pid;
		return 0;
	}) or die "process $pid never waits for $event";
}

# Stops the WAL writer and the sequencer between rounds, and the load.  The WAL
# writer comes first, or it writes what the sequencer's last commit has left to others.
sub freeze
{
	my $bench = start_pgbench($node, [ '-c', 4, '-T', 600 ], $load);
	my $before = event_count($node);
	wait_until('some load', sub { event_count($node) > $before + 3000 });
	my $writer = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'});
	my $sequencer = sequencer_pid($node);

	stop_where_it_waits($writer, 'WalWriterMain');
	stop_where_it_waits($sequencer, 'Extension');
	stop_load($bench);
	return ($writer, $sequencer);
}

sub thaw { kill 'CONT', @_ }

sub crash
{
	my (@stopped) = @_;
	kill 'KILL', @stopped;
	kill_server($node);
}

# Tries until the sequencer stands where what it has committed is not flushed.
for my $mode (qw(decoding scanning))
{
	my ($seen, $read, @stopped);
	my $flushed_by_look = 0;

	$node->append_conf('postgresql.conf', 'daybook.decoding = ' . ($mode eq 'decoding' ? 'on' : 'off'));
	$node->reload;
	ok(wait_for_mode($node, $mode), $mode);
	for my $try (1 .. 20)
	{
		@stopped = freeze();
		my $before = flushed();
		stored();
		$flushed_by_look++ if flushed() ne $before;
		$seen = positions();
		$read = flushed() ne $before;
		last if $read;
		thaw(@stopped);
	}
	is($flushed_by_look, 0, 'a look at the log in its stored form flushes nothing');
	ok($read, "who reads the log while $mode has what they read flushed");
	crash(@stopped);
	start_again($node);
	my ($from, $upto) = $seen =~ /^(\d+).*,(\d+)\|\d+$/;
	is($node->safe_psql('postgres', qq{
		SELECT string_agg(position || '|' || id, ',' ORDER BY position) FROM daybook.log WHERE position BETWEEN $from AND $upto}),
		$seen, 'and finds it again after a crash');
	ok(all_published($node), 'all is published');
	log_is_right($node, 'each event once');
}

# The control: what nobody has read a crash takes back, and the events get positions again.
{
	my ($lost, @stopped);

	for my $try (1 .. 20)
	{
		@stopped = freeze();
		my $stored = stored();
		crash(@stopped);
		$node->append_conf('postgresql.conf', q{shared_preload_libraries = ''});
		start_again($node);
		$lost = $stored - stored();
		$node->append_conf('postgresql.conf', q{shared_preload_libraries = 'daybook'});
		$node->restart;
		last unless all_published($node) && $lost == 0;
	}
	cmp_ok($lost, '>', 0, "$lost positions that nobody had read were lost");
	log_is_right($node, 'each event once');
}

$node->stop;
done_testing();
