# Versions of a stream stay 1, 2, 3, ... without gaps or doubles, whoever races
# and whatever is rolled back.
use strict;
use warnings;
use Cwd qw(abs_path);
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $events = events_wanted(100_000);
my $node = new_node('versions', conf => "synchronous_commit = off\n");
$node->safe_psql('postgres', q{SELECT daybook.create_event_table('orders')});

# Streams whose versions are not 1 to n.
sub bad_streams
{
	my ($table) = @_;
	return $node->safe_psql('postgres', qq{
SELECT count(*) FROM (SELECT stream_id FROM $table GROUP BY stream_id
	HAVING count(*) <> max(version) OR min(version) <> 1 OR count(DISTINCT version) <> count(*)) s});
}

# The process that has, or waits for, such an advisory lock.
sub holder_of
{
	my ($condition) = @_;
	return $node->safe_psql('postgres', "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND $condition");
}

# Any version: 16 clients, on one stream and on 1,000, at each isolation level,
# with savepoints rolled back, several events a statement, whole transactions
# rolled back.  No append fails.
for my $level ('read committed', 'repeatable read', 'serializable')
{
	my $transactions = int($events / 3 / 16 / 6) || 1;
	my %scripts = (
		'one_stream@2' => q{
INSERT INTO orders (stream_id, type) VALUES ('hot-1', 'Happened');
},
		'many_streams@4' => q{
\set s random(1, 1000)
\set n random(1, 12)
INSERT INTO orders (stream_id, type) SELECT 's-' || (:s + i % 3), 'Happened' FROM generate_series(1, :n) i;
},
		'savepoints@3' => q{
\set s random(1, 1000)
BEGIN;
INSERT INTO orders (stream_id, type) VALUES ('s-:s', 'Kept');
SAVEPOINT a;
INSERT INTO orders (stream_id, type) SELECT 's-:s', 'RolledBack' FROM generate_series(1, 5);
ROLLBACK TO a;
INSERT INTO orders (stream_id, type) VALUES ('s-:s', 'Kept');
COMMIT;
},
		'rollback@1' => q{
\set s random(1, 1000)
BEGIN;
INSERT INTO orders (stream_id, type) SELECT 's-:s', 'RolledBack' FROM generate_series(1, 5);
ROLLBACK;
},
		'append@2' => q{
\set s random(1, 1000)
SELECT daybook.append('orders', 's-:s', '[{"type": "Happened"}, {"type": "Happened"}, {"type": "Happened"}]'::jsonb);
},);
	$node->safe_psql('postgres', "ALTER DATABASE postgres SET default_transaction_isolation = '$level'");
	my $load = start_pgbench($node, [ '-c', 16, '-j', 2, '-t', $transactions ], \%scripts);
	ok(finish($load), "16 clients at $level: no append fails") or diag($load->{err});
}
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET default_transaction_isolation');
is(bad_streams('orders'), 0, 'no gap and no double in any stream');
is($node->safe_psql('postgres', q{SELECT count(*) FROM orders WHERE type = 'RolledBack'}), 0,
	'nothing that was rolled back is there');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM orders'), '>=', $events / 4, 'it was a load');

# The same version expected by all: one of each round wins, and no two.
{
	$node->safe_psql('postgres', q{
CREATE TABLE outcome (client int, won bool, detail text);
CREATE FUNCTION race(client int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	expected bigint := daybook.stream_version('orders', 'race-1');
	said text;
BEGIN
	PERFORM pg_sleep(random() * 0.002);		-- time to think
	PERFORM daybook.append('orders', 'race-1', '{"type": "Won"}'::jsonb, expected);
	INSERT INTO outcome VALUES (client, true);
EXCEPTION WHEN serialization_failure THEN
	GET STACKED DIAGNOSTICS said = PG_EXCEPTION_DETAIL;
	INSERT INTO outcome VALUES (client, false, said);
END $$});
	my $load = start_pgbench($node, [ '-c', 16, '-j', 2, '-t', 100 ], { race => "SELECT race(:client_id);\n" });
	ok(finish($load), '16 clients race with an expected version');
	is($node->safe_psql('postgres', q{SELECT (SELECT count(*) FROM outcome WHERE won) =
		(SELECT count(*) FROM orders WHERE stream_id = 'race-1')}), 't', 'who was told to have won has won');
	cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM outcome WHERE NOT won'), '>', 0, 'and some have lost');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM outcome WHERE NOT won
		AND detail !~ '^Stream "race-1": expected version \d+, actual version \d+\.$'}), 0,
		'who has lost is told the stream, the expected and the actual version');
	is(bad_streams('orders'), 0, 'still no gap and no double');
}

# A control: the same clients that number their events by themselves collide.
{
	$node->safe_psql('postgres', 'CREATE TABLE naive (stream_id text, version bigint, type text)');
	my $load = start_pgbench($node, [ '-c', 16, '-j', 2, '-t', 300 ], { naive => q{
INSERT INTO naive SELECT 'hot-1', coalesce(max(version), 0) + 1, 'Happened' FROM naive WHERE stream_id = 'hot-1';
} });
	ok(finish($load), 'clients that look up the last version themselves');
	cmp_ok(bad_streams('naive'), '>', 0, 'give versions twice');
}

# A wait for a stream is cancelled just as it is this session's turn, and rolled
# back to a savepoint: the stream is free for others at once.
{
	$node->safe_psql('postgres', q{
SELECT daybook.create_event_table('slow');
CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_advisory_xact_lock(1);
	RETURN NEW;
END $$;
CREATE TRIGGER last BEFORE INSERT ON slow FOR EACH ROW WHEN (NEW.type = 'Slow') EXECUTE FUNCTION dawdle()});
	my $gate = $node->background_psql('postgres');
	$gate->query_safe('SELECT pg_advisory_lock(1)');
	my $first = $node->background_psql('postgres');
	$first->query_until(qr/begun/, "\\echo begun\nINSERT INTO slow (stream_id, type) VALUES ('s-1', 'Slow');\n");
	wait_until('the first row is on its way', sub { holder_of('NOT granted AND objsubid = 1') ne '' });

	my $second = $node->background_psql('postgres', on_error_stop => 0);
	$second->query_safe('BEGIN; SAVEPOINT a');
	$second->query_until(qr/begun/, "\\echo begun\nINSERT INTO slow (stream_id, type) VALUES ('s-1', 'Second');\n");
	my $pid;
	wait_until('the second waits for the stream', sub { ($pid = holder_of('NOT granted AND objsubid = 219')) ne '' });
	kill 'STOP', $pid;
	$gate->query_safe('SELECT pg_advisory_unlock(1)');
	wait_until('its turn has come', sub { holder_of('granted AND objsubid = 219') eq $pid });
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
	kill 'CONT', $pid;
	$second->query('ROLLBACK TO a');
	like($second->{stderr}, qr/canceling statement due to user request/, 'the wait is cancelled');
	is(holder_of('objsubid = 219'), '', 'nobody has the stream after the rollback');
	is($node->safe_psql('postgres', q{SET statement_timeout = '10s';
		INSERT INTO slow (stream_id, type) VALUES ('s-1', 'Third') RETURNING version}), 2, 'and others can append to it');
	$second->query('COMMIT');
	$_->quit for $gate, $first, $second;
}

# COPY into very many streams in one transaction: no lock is kept for each.
{
	my $rows = $ENV{DAYBOOK_TEST_EVENTS} ? 1_000_000 : 200_000;
	my $streams = $rows / 5;
	my $file = abs_path($node->basedir) . '/copy.txt';

	$node->safe_psql('postgres', q{SELECT daybook.create_event_table('copied')});
	open(my $handle, '>', $file) or die $!;
	print $handle 'c-' . ($_ % $streams) . "\tHappened\n" for 1 .. $rows;
	close $handle;
	$node->safe_psql('postgres', "COPY copied (stream_id, type) FROM '$file'");
	is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT stream_id), max(version) FROM copied'),
		"$rows|$streams|5", "COPY of $rows events into $streams streams");
	is(bad_streams('copied'), 0, 'no gap and no double in them');
}
ok(all_published($node), 'all is published');
log_is_right($node, 'in the right order');

$node->stop;
done_testing();
