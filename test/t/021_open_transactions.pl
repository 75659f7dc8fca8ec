# A transaction that stays open delays nobody, and its own events come when it
# commits: whatever it wrote, and whenever the sequencer or the server starts.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('open', conf => 'synchronous_commit = on');
$node->safe_psql('postgres', q{
SELECT daybook.create_event_table('orders');
CREATE TABLE elsewhere (n int)});

my $script = { load => q{
\set s random(1, 100)
INSERT INTO orders (stream_id, type) SELECT 'order-:s', 'Happened' FROM generate_series(1, 5);
} };

# Appends, and gives the longest time in seconds from a commit to its position.
sub slowest_publication
{
	my ($count) = @_;
	my $slowest = 0;

	for my $i (1 .. $count)
	{
		my $before = Time::HiRes::time();
		my $id = $node->safe_psql('postgres', q{INSERT INTO orders (stream_id, type) VALUES ('timed', 'Happened') RETURNING id});
		wait_until("event $id", sub { $node->safe_psql('postgres', "SELECT count(*) FROM daybook.log WHERE position > daybook.head() - 50 AND id = $id") });
		my $took = Time::HiRes::time() - $before;
		$slowest = $took if $took > $slowest;
	}
	return $slowest;
}

# A queue that publishes in the order of ids must wait for the oldest transaction:
# this is how many of the committed events it could give out.
sub published_below_xmin
{
	return $node->safe_psql('postgres', q{
		SELECT count(*) FROM orders WHERE stream_id LIKE 'order-%'
		AND xmin::text::bigint < pg_snapshot_xmin(pg_current_snapshot())::text::bigint});
}

sub positions_of
{
	my ($stream) = @_;
	return $node->safe_psql('postgres',
		"SELECT count(*) FROM daybook.log l JOIN orders o USING (id) WHERE o.stream_id = '$stream'");
}

sub others_are_published
{
	my ($what) = @_;
	my $before = event_count($node);
	my $bench = start_pgbench($node, [ '-c', 4, '-t', 250 ], $script);

	ok(finish($bench), "$what: load");
	ok(all_published($node), "$what: all that is committed is published");
	cmp_ok(event_count($node), '==', $before + 5000, "$what: and that is much");
	my $slowest = slowest_publication(10);
	cmp_ok($slowest, '<', 3, "$what: publication takes $slowest s at most");
}

ok(wait_for_mode($node, 'decoding'), 'decoding');
my $append = q{BEGIN; INSERT INTO orders (stream_id, type) VALUES ('%s', 'Happened'), ('%s', 'Happened')};

# One that appends and idles, and one that writes elsewhere.
my $appended = $node->background_psql('postgres');
$appended->query_safe(sprintf($append, 'idle', 'idle'));
my $elsewhere = $node->background_psql('postgres');
$elsewhere->query_safe('BEGIN; INSERT INTO elsewhere VALUES (1)');
others_are_published('while decoding');
is(published_below_xmin(), 0, 'a queue that waits for the oldest transaction would have published nothing');
is(status($node, 'mode'), 'decoding', 'it goes on decoding');

# The sequencer starts in the midst of them.
$node->safe_psql('postgres', 'SELECT pg_terminate_backend(pid) FROM daybook.sequencer_status');
ok(wait_for_mode($node, 'scanning'), 'a sequencer that starts meanwhile scans');
others_are_published('after a start of the sequencer');
is(positions_of('idle'), 0, 'events of an open transaction have no positions');
$appended->query_safe(q{INSERT INTO orders (stream_id, type) VALUES ('idle', 'Happened'); COMMIT});
$appended->quit;
ok(wait_until('the events of the idle transaction', sub { positions_of('idle') == 3 }), 'until it commits');
is(status($node, 'mode'), 'scanning', 'a transaction that writes elsewhere keeps it scanning');
others_are_published('while it scans');
$elsewhere->query_safe('COMMIT');
$elsewhere->quit;
ok(wait_for_mode($node, 'decoding', 'postgres', 90), 'when that has ended, too, it decodes');
log_is_right($node, 'each event once');

# The server starts in the midst of one: only a prepared transaction outlives that.
my $prepared = sprintf("$append; PREPARE TRANSACTION 'kept'", 'prepared', 'prepared');
for my $stop (qw(fast immediate))
{
	$node->safe_psql('postgres', $prepared);
	others_are_published('with a prepared transaction');
	$node->stop($stop);
	$node->start;
	ok(wait_for_mode($node, 'scanning'), 'a server that starts meanwhile scans');
	others_are_published("after a $stop stop");
	my $before = positions_of('prepared');
	$node->safe_psql('postgres', q{COMMIT PREPARED 'kept'});
	ok(wait_until('the prepared events', sub { positions_of('prepared') == $before + 2 }, 5),
		'COMMIT PREPARED brings its events at once');
	ok(wait_for_mode($node, 'decoding', 'postgres', 90), 'and decoding');
	log_is_right($node, 'each event once');
}

# The same while it decodes all along, and one that is rolled back.
$node->safe_psql('postgres', $prepared);
$node->safe_psql('postgres', q{COMMIT PREPARED 'kept'});
ok(wait_until('the prepared events', sub { positions_of('prepared') == 6 }, 5), 'COMMIT PREPARED is noticed while decoding');
$node->safe_psql('postgres', $prepared);
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'kept'});
others_are_published('after ROLLBACK PREPARED');
is(positions_of('prepared'), 6, 'events that were rolled back have no position');
log_is_right($node, 'each event once');

$node->stop;
done_testing();
