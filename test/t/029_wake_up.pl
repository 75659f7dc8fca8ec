# The sequencer is woken at commit: what it publishes does not wait for a nap,
# and when there is nothing to do it does next to nothing.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = new_node('wake', conf => q{
wal_writer_delay = 10s
wal_writer_flush_after = 0
autovacuum = off
checkpoint_timeout = 1h
bgwriter_delay = 10s
});
$node->safe_psql('postgres', q{
SELECT daybook.create_event_table('orders');
-- appends and waits in one session, and gives the milliseconds from the commit to the position
CREATE PROCEDURE publish_one(INOUT milliseconds float8, events int DEFAULT 1) LANGUAGE plpgsql AS $$
DECLARE
	started timestamptz;
	target bigint;
BEGIN
	FOR i IN 1 .. events LOOP
		INSERT INTO orders (stream_id, type) VALUES ('timed', 'Happened') RETURNING id INTO target;
		COMMIT;
	END LOOP;
	started := clock_timestamp();
	LOOP
		EXIT WHEN EXISTS (SELECT FROM daybook.log WHERE position > daybook.head() - 10 AND id = target);
		ROLLBACK;
		PERFORM pg_sleep(0.0005);
	END LOOP;
	milliseconds := extract(epoch FROM clock_timestamp() - started) * 1000;
END $$});

sub latencies
{
	my ($session, $count) = @_;
	return sort { $a <=> $b } map { $session->query_safe('CALL publish_one(0)') } 1 .. $count;
}

# How often a process has gone to sleep since it began.
sub sleeps
{
	my ($pid) = @_;
	return slurp_file("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m ? $1 : die;
}

# How often it is woken while nobody does anything.
sub sleeps_while_idle
{
	my ($pid, $seconds) = @_;
	my $before = sleeps($pid);
	my $until = time() + $seconds;

	usleep(100_000) while time() < $until;
	return sleeps($pid) - $before;
}

my $session = $node->background_psql('postgres');
for my $mode (qw(decoding scanning))
{
	$node->append_conf('postgresql.conf', 'daybook.decoding = ' . ($mode eq 'decoding' ? 'on' : 'off'));
	$node->reload;
	ok(wait_for_mode($node, $mode), $mode);
	for my $commit (qw(on off))
	{
		$session->query_safe("SET synchronous_commit = $commit");
		my @taken = latencies($session, 40);
		cmp_ok($taken[20], '<', 100, "with synchronous_commit = $commit it takes $taken[20] ms to publish while $mode");
		cmp_ok($taken[38], '<', 900, "at worst $taken[38] ms, where a nap takes 1000");
	}
}

# The control: a commit that nobody is told of has to wait for the nap.
{
	my $pid = sequencer_pid($node);
	my @taken;

	$session->query_safe('SET synchronous_commit = on');
	kill 'STOP', $pid;
	$session->query_until(qr/begun/, "\\echo begun\nCALL publish_one(0);\n");
	ok(wait_until('the commit', sub { $node->safe_psql('postgres', q{SELECT count(*) FROM orders}) == 161 }), 'an event that the sequencer is not told of');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM daybook.log}), 160, 'is not published');
	kill 'CONT', $pid;
	$session->query_safe('SELECT 1');
	ok(all_published($node), 'until it goes on');
}

# At high rates the sequencer rests between rounds, and commits do not wake it:
# what they leave at the end of a burst does not wait for the nap either.
for my $mode (qw(scanning decoding))
{
	$node->append_conf('postgresql.conf', 'daybook.decoding = ' . ($mode eq 'decoding' ? 'on' : 'off'));
	$node->reload;
	ok(wait_for_mode($node, $mode), $mode);
	my @taken = sort { $a <=> $b } map { $session->query_safe('CALL publish_one(0, ' . int(1 + rand(300)) . ')') } 1 .. 150;
	cmp_ok($taken[148], '<', 900, "the end of a burst waits for $taken[75] ms, at worst $taken[148] ms, while $mode");
}

# Who waits for all of the WAL does so no longer when it ends with a page.
{
	$node->append_conf('postgresql.conf', 'daybook.decoding = on');
	$node->reload;
	ok(wait_for_mode($node, 'decoding'), 'decoding');
	$node->safe_psql('postgres', q{
		CREATE TABLE counted (n bigint);
		SELECT daybook.create_projection('counter', ARRAY['orders'::regclass],
			'INSERT INTO counted SELECT count(*) FROM new_events', ARRAY['counted'::regclass])});
	$node->safe_psql('postgres', q{SELECT daybook.wait_for_projection('counter', timeout => '60s')});
	my ($result, $output, $error) = $node->psql('postgres', q{
		SELECT FROM pg_switch_wal();
		SELECT daybook.wait_for_projection('counter', timeout => '5s')});
	is($error, '', 'the end of a WAL file is passed');
	$node->safe_psql('postgres', q{SELECT daybook.drop_projection('counter')});
}

# Idle: a decoding sequencer looks at the WAL every ten seconds, to let go of it.
$node->append_conf('postgresql.conf', 'daybook.decoding = on');
$node->reload;
ok(wait_for_mode($node, 'decoding'), 'decoding');
ok(wait_until('the marks', sub { $node->safe_psql('postgres', 'SELECT low_water = (SELECT max(id) FROM orders) FROM daybook.sequencer_state') eq 't' }),
	'the marks have been moved');
my $decoding = sleeps_while_idle(sequencer_pid($node), 6);
$node->append_conf('postgresql.conf', 'daybook.decoding = off');
$node->reload;
ok(wait_for_mode($node, 'scanning'), 'scanning');
all_published($node);
my $scanning = sleeps_while_idle(sequencer_pid($node), 6);
cmp_ok($decoding, '<=', 3, "idle, it is woken $decoding times in 6 s");
cmp_ok($scanning, '>', $decoding, "which is told from polling each second: $scanning times while scanning");

$session->quit;
$node->stop;
done_testing();
