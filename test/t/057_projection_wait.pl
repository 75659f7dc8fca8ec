# Waiting for a projection is sleeping: nothing is asked for again and again,
# and a time-out says how far the projection was.
use strict;
use warnings;
use DaybookTest;
use Test::More;

my $node = new_node('waiting', conf => "shared_preload_libraries = 'daybook, pg_stat_statements'\npg_stat_statements.track = all\n");

sub sql { return $node->safe_psql('postgres', @_) }

sql(q{
CREATE EXTENSION pg_stat_statements;
SELECT daybook.create_event_table('event');
CREATE TABLE seen (id bigint PRIMARY KEY);
SELECT daybook.create_projection('seen', '{event}', 'INSERT INTO seen SELECT id FROM new_events', '{seen}');
SELECT daybook.wait_for_projection('seen')});

# A place within a record that has been flushed in part: the WAL writer flushes
# whole pages of transactions in progress.
wait_for_mode($node, 'decoding');
my $writer = $node->background_psql('postgres');
$writer->query_safe(q{BEGIN; SELECT pg_logical_emit_message(true, 'test', repeat('x', 100000))});
ok(wait_until('a part of a record', sub {
	sql(q{SELECT pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn() AND pg_current_wal_flush_lsn() > pg_current_wal_insert_lsn() - 50000}) eq 't' }),
	'a record that has been flushed in part');
my ($ret, $out, $err) = $node->psql('postgres', q{SELECT daybook.wait_for_projection('seen', pg_current_wal_flush_lsn())});
is("$ret$err", '0', 'can be waited for');
$writer->query_safe('COMMIT');
$writer->quit;

# A thousand waits for a thousand events are a thousand statements, and take
# the worker's word for how far it is.
my $scans = q{SELECT pg_stat_get_numscans('daybook.projection_position'::regclass) + pg_stat_get_numscans('daybook.projection_position_pkey'::regclass)};
my $before = sql($scans);
sql('SELECT pg_stat_statements_reset()');
my $bench = start_pgbench($node, [ '-c', 10, '-t', 100 ], { waiting => q{
INSERT INTO event (stream_id, type) VALUES ('client-:client_id', 'Happened');
SELECT daybook.wait_for_projection('seen', timeout => '60s');
} });
ok(finish($bench), 'a thousand waits');
is(sql('SELECT count(*) FROM seen'), 1000, 'all events are there');
my $statements = sql(q{SELECT sum(calls) FROM pg_stat_statements WHERE query ~ 'wait_for_projection' AND query !~ 'pg_stat_statements'});
is($statements, 1000, 'a thousand statements that wait');
is(sql(q{SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query ~ 'projection_position|daybook\.projection |log_segment' AND query !~ 'pg_stat_statements'}), 0,
	'and none that asks how far the projection is');
cmp_ok(sql($scans) - $before, '<', 500, 'nor look for it in the projection\'s rows');

# Commits without events are passed, too, while the projection has nothing to do.
$bench = start_pgbench($node, [ '-c', 5, '-t', 100 ], { idle => q{
SELECT pg_current_xact_id();
SELECT daybook.wait_for_projection('seen', timeout => '60s');
} });
ok(finish($bench), 'waits for commits without events');

# Waits that last: the projection's row is read at their beginning and when
# something happens, and not in between.
sql(q{
SELECT daybook.drop_projection('seen');
CREATE TABLE slow (id bigint PRIMARY KEY);
SELECT daybook.create_projection('slow', '{event}', 'INSERT INTO slow SELECT id FROM new_events', '{slow}');
SELECT daybook.wait_for_projection('slow', timeout => '60s')});
my $blocker = $node->background_psql('postgres');
$blocker->query_safe('BEGIN; LOCK TABLE slow IN ACCESS EXCLUSIVE MODE');
sql(q{INSERT INTO event (stream_id, type) VALUES ('late', 'Happened')});
$before = sql($scans);
my $sleepers = start_pgbench($node, [ '-c', 50, '-t', 1 ], { sleeping => q{SELECT daybook.wait_for_projection('slow', pg_current_wal_insert_lsn(), timeout => '60s');} });
ok(wait_until('fifty sleep', sub {
	sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND query ~ '^SELECT daybook.wait_for' AND wait_event_type = 'Extension'}) == 50 }), 'fifty sessions sleep');
($ret, $out, $err) = $node->psql('postgres', q{SELECT daybook.wait_for_projection('slow', pg_current_wal_insert_lsn(), timeout => '3s')});
like($err, qr/timed out waiting for projection "slow"\nDETAIL: +It is at position 1000, 1 events before position 1001\./, 'a time-out names the lag');
$blocker->query_safe('COMMIT');
$blocker->quit;
ok(finish($sleepers), 'all wake up when the event is there');
# each counts the row it reads when it starts, and once for each batch or error
cmp_ok(sql($scans) - $before, '<', 50 * 10, 'they did not look again and again');

$node->stop;
done_testing();
