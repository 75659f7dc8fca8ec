# What a prepared transaction has changed is noticed when it is committed, by
# whatever session: nothing waits for the next event or for a reload.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('prepared');

sub sql { return $node->safe_psql('postgres', @_) }

# Prepares a transaction of one session and commits it in another one.
sub commit_prepared
{
	my ($database, $statements) = @_;
	$node->safe_psql($database, "BEGIN; $statements; PREPARE TRANSACTION 'later'");
	$node->safe_psql($database, q{COMMIT PREPARED 'later'});
}

sub state_of { return sql("SELECT state FROM daybook.projection_status WHERE name = '$_[0]'") }

sql(q{
SELECT daybook.create_event_table('event');
INSERT INTO event (stream_id, type) VALUES ('s-1', 'Happened');
CREATE TABLE p1 (id bigint);
CREATE TABLE p2 (id bigint);
SELECT daybook.create_projection('p1', '{event}', 'INSERT INTO p1 SELECT id FROM new_events', '{p1}');
SELECT daybook.wait_for_projection('p1', timeout => '3min');
SELECT daybook.pause_projection('p1')});
ok(wait_until('no projector', sub { sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'daybook projector'}) == 0 }),
	'a paused projection has no worker');

commit_prepared('postgres', q{SELECT daybook.resume_projection('p1')});
ok(wait_until('p1 runs', sub { state_of('p1') eq 'running' }, 10), 'a prepared resume_projection starts the worker at its commit');
commit_prepared('postgres', q{SELECT daybook.create_projection('p2', '{event}', 'INSERT INTO p2 SELECT id FROM new_events', '{p2}')});
ok(wait_until('p2 runs', sub { state_of('p2') eq 'running' }, 10), '... a prepared create_projection too');
commit_prepared('postgres', q{SELECT daybook.rebuild_projection('p2', in_place => false)});
ok(wait_until('p2 is rebuilt', sub {
	sql(q{SELECT count(*) FROM daybook.projection WHERE rebuild_of IS NOT NULL}) == 0 }, 10), '... and a prepared rebuild_projection');
is(sql('SELECT count(*) FROM p2'), '1', '... which has each event once');

sql(q{BEGIN; SELECT daybook.drop_projection('p2'); PREPARE TRANSACTION 'drop'});
sql(q{COMMIT PREPARED 'drop'});
ok(wait_until('one projector', sub { sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'daybook projector'}) == 1 }, 10),
	'the worker of a projection whose drop was prepared ends');

# Partitions that a prepared transaction has taken are free when it is over.
sql(q{SELECT daybook.create_subscription('sub', '{event}')});
for my $end ('COMMIT', 'ROLLBACK')
{
	sql(q{BEGIN; SELECT count(*) FROM daybook.fetch('sub', consumer => 'preparer', lease => '1ms', wait => '60s'); PREPARE TRANSACTION 'fetched'});
	my $waiting = start_pgbench($node, [ '-c', 1, '-t', 1 ],
		{ fetch => qq{SELECT 1 / count(*) FROM daybook.fetch('sub', consumer => 'waiter', lease => '1ms', wait => '60s');} });
	ok(wait_until('a consumer sleeps', sub { sql(q{
		SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND query LIKE '%waiter%' AND backend_type = 'client backend'}) == 1 }),
		'a consumer waits for what a prepared transaction has fetched');
	my $start = time();
	sql("$end PREPARED 'fetched'");
	ok(finish($waiting), "and gets it after $end PREPARED") or diag($waiting->{err});
	cmp_ok(time() - $start, '<', 30, 'at once');
}

# CREATE EXTENSION in a database that has been looked into.
sql('CREATE DATABASE late');
ok(wait_until('the launcher has looked', sub {
	sql(q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'late'}) == 0 }), 'a database without the extension');
commit_prepared('late', 'CREATE EXTENSION daybook');
ok(wait_until('a worker in late', sub { sequencer_pid($node, 'late') ne '' }, 10), 'gets a worker when a prepared CREATE EXTENSION is committed');
$node->safe_psql('late', q{SELECT daybook.create_event_table('event'); INSERT INTO event (stream_id, type) VALUES ('s-1', 'Happened')});
ok(all_published($node, 'late', 20), '... which publishes');
$node->safe_psql('late', q{SELECT daybook.drop_event_table('event', force => true)});
commit_prepared('late', 'DROP EXTENSION daybook');
ok(wait_until('no worker in late', sub {
	sql(q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'late'}) == 0 }, 10), '... and leaves when a prepared DROP EXTENSION is');

$node->stop;
done_testing();
