# A transaction of very many events passes with little memory, and the log
# stays small.
#
# DAYBOOK_TEST_LARGE sets how many events the transaction has.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $large = $ENV{DAYBOOK_TEST_LARGE} || 200_000;
my $node = new_node('large', conf => q{
fsync = off
max_wal_size = 8GB
autovacuum_naptime = 1s
allow_in_place_tablespaces = on
});
$node->safe_psql('postgres', q{CREATE TABLESPACE elsewhere LOCATION ''});
$node->safe_psql('postgres', q{ALTER SYSTEM SET temp_tablespaces = 'elsewhere'});
$node->restart;
$node->safe_psql('postgres', q{SELECT daybook.create_event_table('orders')});

my $one = { one => q{
\set s random(1, 100000)
INSERT INTO orders (stream_id, type) VALUES ('order-:s', 'Happened');
} };

# A number of kilobytes from /proc/PID/status.
sub kilobytes
{
	my ($pid, $name) = @_;
	my $status = eval { slurp_file("/proc/$pid/status") } || '';
	return $status =~ /^$name:\s+(\d+) kB/m ? $1 : 0;
}

# Samples the private memory of a process until told to stop; shared buffers,
# which count as resident when they are touched, are left out.
sub watch_memory
{
	my ($pid) = @_;
	my %watch = (file => $node->basedir . '/memory', stop => $node->basedir . '/memory_stop');
	my $parent = $$;

	unlink $watch{stop};
	$watch{pid} = fork() // die "fork: $!";
	return \%watch if $watch{pid};
	my $most = 0;
	while (getppid() == $parent && !-e $watch{stop})
	{
		my $now = kilobytes($pid, 'RssAnon');

		$most = $now if $now > $most;
		usleep(10_000);
	}
	open(my $file, '>', $watch{file});
	print $file $most;
	close $file;
	POSIX::_exit(0);
}

sub most_memory
{
	my ($watch) = @_;

	open(my $stop, '>', $watch->{stop});
	close $stop;
	waitpid($watch->{pid}, 0);
	return slurp_file($watch->{file});
}

sub bytes_per_event
{
	return $node->safe_psql('postgres',
		q{SELECT round(pg_total_relation_size('daybook.log_segment')::numeric / daybook.head(), 1)});
}

for my $mode (qw(decoding scanning))
{
	$node->append_conf('postgresql.conf', 'daybook.decoding = ' . ($mode eq 'decoding' ? 'on' : 'off'));
	$node->reload;
	ok(wait_for_mode($node, $mode), $mode);
	my $pid = sequencer_pid($node);
	my $watch = watch_memory($pid);
	my $others = start_pgbench($node, [ '-c', 1, '-T', 3600 ], $one);

	$node->safe_psql('postgres', qq{
		INSERT INTO orders (stream_id, type) SELECT 'mass-' || i % 1000, 'Happened' FROM generate_series(1, $large) i});
	ok(wait_until('the end', sub {
		$node->safe_psql('postgres', qq{SELECT count(*) FROM daybook.log l JOIN orders o USING (id) WHERE stream_id LIKE 'mass-%'})
			== $large * ($mode eq 'decoding' ? 1 : 2) }, 900), "a transaction of $large events is published while $mode");
	stop_load($others);
	ok(all_published($node), 'and so are others beside it');
	is(sequencer_pid($node), $pid, 'by the same worker');
	my $most = most_memory($watch);
	cmp_ok($most, '<', 200 * 1024, "which took $most kB at most, and " . kilobytes($pid, 'VmHWM') . ' kB with what it shares');
	cmp_ok(kilobytes($pid, 'VmHWM'), '<', (200 + 128) * 1024, 'less than 200 MB and the shared buffers');
	is($node->safe_psql('postgres', q{
		SELECT count(DISTINCT transaction) FROM daybook.log l JOIN orders o USING (id) WHERE stream_id LIKE 'mass-%'}), 1,
		'all its events are grouped') if $mode eq 'decoding';
	cmp_ok(bytes_per_event(), '<=', 24, 'the log takes ' . bytes_per_event() . ' bytes per event in bulk');
}
log_is_right($node, 'each event once');

# The log of single events, written by clients side by side.
$node->safe_psql('postgres', q{
CREATE DATABASE small;
});
$node->safe_psql('small', q{
CREATE EXTENSION daybook;
SELECT daybook.create_event_table('orders')});
$node->append_conf('postgresql.conf', 'daybook.decoding = on');
$node->reload;
ok(wait_for_mode($node, 'decoding', 'small'), 'decoding');
my $bench = start_pgbench($node, [ '-c', 8, '-t', 4000 ], $one, 'small');
finish($bench);
ok(all_published($node, 'small'), '32000 transactions of one event');
ok(wait_until('a merge', sub {
	$node->safe_psql('small', q{SELECT count(*) < daybook.head() / 6 FROM daybook.log_segment}) eq 't' }), 'small segments are merged');
my $bytes = $node->safe_psql('small', q{SELECT round(pg_total_relation_size('daybook.log_segment')::numeric / daybook.head(), 1)});
cmp_ok($bytes, '<=', 24, "the log of them takes $bytes bytes per event");
log_is_right($node, 'each event once', 'small');

# Trickling in one by one: each round has one event, and they are merged when
# there is nothing else to do, however many came together just before.
sub trickle
{
	my ($together) = @_;
	my $head = $node->safe_psql('small', 'SELECT daybook.head()') + $together;
	$node->safe_psql('small', qq{
DO \$\$
DECLARE
	wanted bigint;
BEGIN
	INSERT INTO orders (stream_id, type) SELECT 'together-' || i % 100, 'Happened' FROM generate_series(1, $together) i;
	FOR i IN 1 .. 60 LOOP
		INSERT INTO orders (stream_id, type) VALUES ('trickle', 'Happened');
		COMMIT;
		wanted := (SELECT count(*) FROM orders);
		WHILE daybook.head() < wanted LOOP
			PERFORM pg_sleep(0.001);
		END LOOP;
	END LOOP;
END \$\$});
	ok(all_published($node, 'small'), 'events that come one by one');
	ok(wait_until('a merge', sub {
		$node->safe_psql('small', "SELECT count(*) < 40 FROM daybook.log_segment WHERE first_position > $head") eq 't' }, 30),
		'do not each keep a segment');
	log_is_right($node, 'each event once', 'small');
}

trickle(10000);

# Ids that jump so far that a step has no room beside a group's flags, up and
# down; in segments of their own, and merged.
my $early = $node->background_psql('small');
$early->query_safe(q{BEGIN; INSERT INTO orders (stream_id, type) VALUES ('early', 'Happened')});
$node->safe_psql('small', "SELECT setval('daybook.event_id_seq', $_); INSERT INTO orders (stream_id, type) VALUES ('far', 'Happened')")
  for (1 << 60) + 1_000_000, 1 << 62, (1 << 62) + 1_000_000;
$early->query_safe('COMMIT');
$early->quit;
$node->safe_psql('small', q{INSERT INTO orders (stream_id, type) VALUES ('far', 'Happened')});
ok(all_published($node, 'small'), 'ids far apart');
my $id_steps = q{SELECT bool_or(step > 1::bigint << 61), bool_or(step < -(1::bigint << 61)) FROM (SELECT id - lag(id) OVER (ORDER BY position) AS step FROM daybook.log) l};
is($node->safe_psql('small', $id_steps), 't|t', 'up and down');
log_is_right($node, 'each event once', 'small');
trickle(0);
is($node->safe_psql('small', $id_steps), 't|t', 'and they are what they were');
$node->safe_psql('small', "SELECT setval('daybook.event_id_seq', 9223372036854775800); INSERT INTO orders (stream_id, type) VALUES ('far', 'Happened')");
ok(all_published($node, 'small'), 'up to the last');
log_is_right($node, 'each event once', 'small');

$node->stop;
done_testing();
