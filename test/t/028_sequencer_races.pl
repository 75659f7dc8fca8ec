# Moments at which the sequencer could lose an event or publish one twice,
# each brought about on purpose.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('races');
$node->safe_psql('postgres', q{SELECT daybook.create_event_table('orders')});

sub append
{
	my ($stream, $table) = @_;
	$table ||= 'orders';
	$node->safe_psql('postgres', "INSERT INTO $table (stream_id, type) VALUES ('$stream', 'Happened')");
}

# Holds the sequencer up within its next round, after it has written to the log.
# It takes a position that the round will want, and gives it back in the end.
sub hold_up_round
{
	my $blocker = $node->background_psql('postgres');

	$blocker->query_safe(q{BEGIN; INSERT INTO daybook.log_segment SELECT daybook.head() + 1, 1, ''});
	append('held-up');
	ok(wait_until('the sequencer waits within a round', sub {
		$node->safe_psql('postgres', q{
			SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = (SELECT pid FROM daybook.sequencer_status)});
	}), 'a round is held up after it has written');
	return $blocker;
}

# Whoever reads the log while a round of the sequencer is under way must take
# its rows for what they are: uncommitted.
{
	ok(wait_for_mode($node, 'decoding'), 'the sequencer decodes');
	append('before');
	all_published($node);
	my $blocker = hold_up_round();
	append('after');
	is($node->safe_psql('postgres', 'SELECT sum(event_count) FROM daybook.log_segment'), 1, 'the round cannot be seen');
	$blocker->query_safe('ROLLBACK');
	$blocker->quit;
	ok(all_published($node, 'postgres', 20), 'nor is it lost for having been looked at');
	log_is_right($node, 'reading the log during a round harms nothing');
}

$node->stop;
done_testing();
