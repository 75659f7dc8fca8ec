# The workers of projections: how many there are, who gets one, what ends them,
# and that one projection in trouble holds up no other.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('workers', streaming => 1, conf => "daybook.max_projectors = 2\n");

sub sql { return $node->safe_psql('postgres', @_) }

sub set
{
	my ($setting) = @_;
	$node->append_conf('postgresql.conf', $setting);
	$node->reload;
}

sub state_of { return sql("SELECT state FROM daybook.projection_status WHERE name = '$_[0]'") }

sub workers { return sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'daybook projector'}) }

# All projections, or those named, have applied all events.
sub caught_up
{
	my ($what, @names) = @_;
	my $these = @names ? "name = ANY ('{" . join(',', @names) . "}')" : 'true';
	ok(wait_until($what, sub {
		sql(qq{SELECT bool_and(position = head) AND min(head) = (SELECT count(*) FROM event) FROM daybook.projection_status WHERE $these}) eq 't';
	}), $what)
	  or diag(sql('SELECT name, state, position, head, error_message FROM daybook.projection_status ORDER BY 1'));
}

sub append
{
	my ($count) = @_;
	sql("INSERT INTO event (stream_id, type, data) SELECT 's-' || i % 10, 'Happened', jsonb_build_object('n', i) FROM generate_series(1, $count) i");
}

sql(q{
SELECT daybook.create_event_table('event');
CREATE FUNCTION counting(tab text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE TABLE %I (id bigint PRIMARY KEY)', tab);
	PERFORM daybook.create_projection(tab, '{event}', format('INSERT INTO %I SELECT id FROM new_events', tab), ARRAY[tab]::regclass[]);
END $$});

# More projections than workers: all have their turn.
append(500);
sql("SELECT counting('p' || i) FROM generate_series(1, 9) i");
caught_up('nine projections share two workers');
is(sql(q{SELECT count(*) FROM (SELECT id FROM p1 INTERSECT SELECT id FROM p9) x}), 500, 'and have all events');
cmp_ok(workers(), '<=', 2, 'there are no more workers than that');
is(sql(q{SELECT count(*) FILTER (WHERE state = 'waiting for a worker') >= 7 FROM daybook.projection_status}), 't', 'the others are said to wait');
append(10);
caught_up('new events reach all nine');

# Nor is a turn over before anything was done in it, however long a worker takes to start.
set("daybook.max_projectors = 1\npost_auth_delay = 2");
append(10);
caught_up('all nine go on where workers start slowly');
set("daybook.max_projectors = 2\npost_auth_delay = 0");

# The setting can be changed while they run.
set('daybook.max_projectors = 20');
ok(wait_until('nine workers', sub { workers() == 9 }), 'with a higher setting each has a worker');
is(sql(q{SELECT string_agg(DISTINCT state, ',') FROM daybook.projection_status}), 'running', 'and is running');
set('daybook.max_projectors = 3');
ok(wait_until('three workers', sub { workers() == 3 }), 'with a lower one surplus workers end');
append(10);
caught_up('and all nine go on');
set('daybook.max_projectors = 0');
ok(wait_until('no workers', sub { workers() == 0 }), 'with none, none run');
set('daybook.max_projectors = 20');
append(10);
caught_up('until there may be some again');

# A handler that does not end holds up itself alone, and can be cancelled.
sql(q{
CREATE TABLE endless (id bigint);
SELECT daybook.create_projection('endless', '{event}', 'INSERT INTO endless SELECT id FROM new_events WHERE pg_sleep(3600) IS NOT NULL', '{endless}')});
my $in_handler = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'daybook projector' AND query LIKE 'projection endless: %' AND wait_event = 'PgSleep'};
ok(wait_until('the handler runs', sub { sql($in_handler) ne '' }), 'the activity says what is applied');
append(10);
caught_up('the others go on', map { "p$_" } 1 .. 9);
set('daybook.max_projectors = 2');
append(10);
caught_up('even in the one place that is left', map { "p$_" } 1 .. 9);
set('daybook.max_projectors = 20');
my $first = sql($in_handler);
is(sql("SELECT pg_cancel_backend($first)"), 't', 'its batch is cancelled');
ok(wait_until('the retry is recorded', sub { state_of('endless') eq 'retrying' }), 'which is an error to be retried');
is(sql(q{SELECT error_sqlstate FROM daybook.projection_status WHERE name = 'endless'}), '57014', 'and to be seen');
ok(wait_until('it is tried again', sub { $first = sql($in_handler) }), 'it is tried again');
sql("SELECT pg_terminate_backend($first)");
ok(wait_until('there is another worker', sub { my $pid = sql($in_handler); $pid ne '' && $pid ne $first }), 'a worker that is terminated is replaced');
sql(q{SELECT daybook.pause_projection('endless')});
ok(wait_until('its worker is gone', sub { sql($in_handler) eq '' }), 'a pause ends it');
is(state_of('endless'), 'paused', 'and leaves no trace of an error');
sql(q{SELECT daybook.resume_projection('endless')});
ok(wait_until('the handler runs again', sub { sql($in_handler) ne '' }), 'until it is resumed');
sql(q{SELECT daybook.drop_projection('endless')});
ok(wait_until('its worker is gone', sub { sql($in_handler) eq '' }), 'dropping it ends it too');

# statement_timeout makes batches smaller, until they fit.
sql(q{
ALTER DATABASE postgres SET statement_timeout = '500ms';
CREATE TABLE slow (id bigint PRIMARY KEY);
SELECT daybook.create_projection('slow', '{event}', 'INSERT INTO slow SELECT id FROM new_events WHERE pg_sleep(0.002) IS NOT NULL', '{slow}')});
$node->restart;
$node->safe_psql('postgres', 'SET statement_timeout = 0; SELECT 1');
ok(wait_until('the slow projection is there', sub {
	$node->safe_psql('postgres', 'SET statement_timeout = 0; SELECT position = head FROM daybook.projection_status WHERE name = \'slow\'') eq 't' }, 120),
	'a projection whose batches take too long catches up in smaller ones');
sql(q{ALTER DATABASE postgres RESET statement_timeout});
is(sql('SELECT count(*) FROM slow'), sql('SELECT count(*) FROM event'), 'with all events');
sql(q{SELECT daybook.drop_projection('slow')});

# What failed is still known after a restart, and the event is not looked for again.
sql(q{
CREATE TABLE picky (id bigint, n int CHECK (n <> 300));
SELECT daybook.create_projection('picky', '{event}', 'INSERT INTO picky SELECT id, (data->>''n'')::int FROM new_events', '{picky}', on_error => 'stop')});
ok(wait_until('it has failed twice', sub { sql(q{SELECT state = 'failed' AND attempts >= 2 FROM daybook.projection_status WHERE name = 'picky'}) eq 't' }),
	'a failing projection is tried again');
my $failure = 'SELECT state, position, error_position, error_sqlstate, error_message FROM daybook.projection_status WHERE name = \'picky\'';
my $before = sql($failure);
$node->stop('fast');
my $log_end = -s $node->logfile;
$node->start;
is(sql($failure), $before, 'its failure outlives a restart');
ok(wait_until('it has failed again', sub { sql(q{SELECT attempts >= 4 FROM daybook.projection_status WHERE name = 'picky'}) eq 't' }),
	'and so does the count of attempts');
is(scalar(server_log_lines($node, qr/projection "picky" failed after position 299: /, $log_end)) >= 1, 1, 'each is in the log');
cmp_ok(sql(q{SELECT extract(epoch FROM retry_at - failed_at) FROM daybook.projection_status WHERE name = 'picky'}), '>', 5, 'the pauses grow');
sql('ALTER TABLE picky DROP CONSTRAINT picky_n_check');
sql(q{SELECT daybook.resume_projection('picky')});
caught_up('it goes on when told to', 'picky');
is(sql('SELECT count(*), count(DISTINCT id) FROM picky'), sql('SELECT count(*), count(*) FROM event'), 'with each event once');

# Deadlocks with other sessions are not the event's fault.
sql(q{
CREATE TABLE row (n int PRIMARY KEY, times int NOT NULL);
INSERT INTO row VALUES (1, 0), (2, 0);
ALTER DATABASE postgres SET deadlock_timeout = '10ms';
SELECT daybook.create_projection('row', '{event}', 'UPDATE row SET times = times + (SELECT count(*) FROM new_events) WHERE n = 1; SELECT pg_advisory_xact_lock(1); UPDATE row SET times = times + (SELECT count(*) FROM new_events) WHERE n = 2', '{row}', from_position => daybook.head())});
my $gate = $node->background_psql('postgres');
$gate->query_safe('SELECT pg_advisory_lock(1)');
my $other = $node->background_psql('postgres');
$other->query_safe("SET deadlock_timeout = '1h'");
$other->query_safe('BEGIN; UPDATE row SET times = times WHERE n = 2');
append(5);
ok(wait_until('the projection has its first row', sub {
	sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'daybook projector' AND query LIKE 'projection row: %' AND wait_event = 'advisory'}) }),
	'a projection and a session lock rows in opposite orders');
$other->query_until(qr/waiting/, "\\echo waiting\nUPDATE row SET times = times WHERE n = 1;\nCOMMIT;\n");
ok(wait_until('the session waits for it', sub {
	sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND wait_event = 'transactionid'}) }),
	'the session waits for the projection');
$gate->quit;
ok(wait_until('the deadlock is noticed', sub { state_of('row') eq 'retrying' || server_log_lines($node, qr/deadlock detected/) }), 'which ends in a deadlock');
$other->quit;
caught_up('it catches up after the deadlock', 'row');
is(sql('SELECT sum(times) FROM row'), 10, 'and has applied its events once');
is(scalar(server_log_lines($node, qr/projection "row" failed/)), 0, 'without being called failed');
sql(q{SELECT daybook.drop_projection('row'); ALTER DATABASE postgres RESET deadlock_timeout});

# Too few processes: a warning with the way out, and work goes on in turns.
$node->append_conf('postgresql.conf', "max_worker_processes = 5\nmax_parallel_workers = 0\n");
$node->restart;
append(50);
caught_up('projections take turns where processes are few');
cmp_ok(scalar(server_log_lines($node, qr/no background worker is free for projection/)), '>=', 1, 'the log warns');
cmp_ok(scalar(server_log_lines($node, qr/HINT: +Increase max_worker_processes/)), '>=', 1, 'and says what to do');
$node->append_conf('postgresql.conf', 'max_worker_processes = 32');
$node->restart;

# Without logical decoding all goes on.
$node->append_conf('postgresql.conf', "wal_level = replica\n");
$node->restart;
append(50);
caught_up('projections go on with wal_level = replica');
is(sql(q{INSERT INTO event (stream_id, type) VALUES ('waited-1', 'Happened');
SELECT daybook.wait_for_projection('p1', timeout => '3min') AS reached \gset
SELECT :reached = daybook.head()}), 't', 'and are waited for');

# DROP DATABASE and DROP EXTENSION while workers are at it.
for my $force ('', ' WITH (FORCE)')
{
	sql('CREATE DATABASE leaving');
	$node->safe_psql('leaving', q{
		CREATE EXTENSION daybook;
		SELECT daybook.create_event_table('event');
		CREATE TABLE endless (id bigint);
		SELECT daybook.create_projection('endless', '{event}', 'INSERT INTO endless SELECT id FROM new_events WHERE pg_sleep(3600) IS NOT NULL', '{endless}');
		CREATE TABLE idle (id bigint);
		SELECT daybook.create_projection('idle', '{event}', 'INSERT INTO idle SELECT id FROM new_events', '{idle}');
		INSERT INTO event (stream_id, type) VALUES ('s-1', 'Happened')});
	ok(wait_until('both have workers', sub { sql(q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'leaving' AND backend_type = 'daybook projector'}) == 2 }), 'workers of a database');
	my ($ret, $out, $err) = $node->psql('postgres', "DROP DATABASE leaving$force");
	is($ret, 0, "do not stand in the way of DROP DATABASE$force") or diag($err);
}
sql('CREATE DATABASE leaving');
$node->safe_psql('leaving', q{
	CREATE EXTENSION daybook;
	SELECT daybook.create_event_table('event');
	CREATE TABLE idle (id bigint);
	SELECT daybook.create_projection('idle', '{event}', 'INSERT INTO idle SELECT id FROM new_events', '{idle}');
	SELECT daybook.wait_for_projection('idle', timeout => '3min');
	SELECT daybook.drop_event_table('event')});
$node->safe_psql('leaving', 'DROP EXTENSION daybook');
ok(wait_until('no worker is left', sub { sql(q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'leaving'}) == 0 }), 'DROP EXTENSION ends them');
$node->safe_psql('leaving', q{CREATE EXTENSION daybook; SELECT daybook.create_event_table('event');
	SELECT daybook.create_projection('idle', '{event}', 'INSERT INTO idle SELECT id FROM new_events', '{idle}');
	INSERT INTO event (stream_id, type) VALUES ('s-1', 'Happened')});
is($node->safe_psql('leaving', q{SELECT daybook.wait_for_projection('idle', pg_current_wal_insert_lsn(), timeout => '3min'); SELECT count(*) FROM idle}), "1\n1", 'and it can be created again');
sql('DROP DATABASE leaving');

# An endless handler is broken off at whatever moment: while its worker starts,
# claims the projection, or begins a batch.
sql(q{CREATE TABLE unfinished (id bigint)});
my $busy = start_pgbench($node, [ '-c', 4, '-T', 3600 ], { busy => 'SELECT sum(i) FROM generate_series(1, 20000) i;' });
my $pausing = start_pgbench($node, [ '-c', 4, '-t', 60 ], { pause => q{
\set us random(0, 30000)
SELECT daybook.create_projection('unfinished_:client_id', '{event}', 'INSERT INTO unfinished SELECT id FROM new_events WHERE pg_sleep(3600) IS NOT NULL', '{unfinished}');
\sleep :us us
SELECT daybook.pause_projection('unfinished_:client_id');
SELECT daybook.drop_projection('unfinished_:client_id');
} }, 'postgres', '-c statement_timeout=60s');
finish($pausing);
unlike($pausing->{err}, qr/ERROR/, 'pausing never waits for the end of a batch');
stop_load($busy);

# A worker looks for its row where it has written it, which may be beyond the
# end of the table after VACUUM.
my $old = $node->background_psql('postgres');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
$old->query_safe('SELECT count(*) FROM event');
sql(q{DO $$
BEGIN
	FOR i IN 1..200 LOOP
		INSERT INTO event (stream_id, type) VALUES ('shorter-1', 'Happened');
		COMMIT;
		PERFORM daybook.wait_for_projection('p1');
		COMMIT;
	END LOOP;
END $$});
caught_up('all have written their rows many times');
my $worker = q{SELECT worker_pid FROM daybook.projection_status WHERE name = 'p1'};
$first = sql($worker);
$log_end = -s $node->logfile;
$old->quit;
cmp_ok(sql(q{SELECT pg_relation_size('daybook.projection_position')}), '>', 65536, 'their versions take many pages');
sql('VACUUM FULL daybook.projection_position');
cmp_ok(sql(q{SELECT pg_relation_size('daybook.projection_position')}), '<', 65536, 'which VACUUM takes away');
append(10);
caught_up('all find their rows again');
is(sql($worker), $first, 'a worker goes on');
is(scalar(server_log_lines($node, qr/could not read block|should be empty/, $log_end)), 0, 'and does not look beyond the end');

# A standby shows the projections, and keeps them once it is promoted.
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
append(20);
caught_up('the primary is caught up');
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is($standby->safe_psql('postgres', 'SELECT min(position) = max(head) FROM daybook.projection_status'), 't', 'a standby shows how far projections are');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'daybook projector'}), 0, 'it has no workers of its own');
my ($ret, $out, $err) = $standby->psql('postgres', q{SELECT daybook.wait_for_projection('p1')});
like($err, qr/cannot wait for a projection during recovery/, 'nor is there anything to wait for');
$node->stop('immediate');
$standby->promote;
$standby->safe_psql('postgres', q{INSERT INTO event (stream_id, type) SELECT 'promoted-1', 'Happened' FROM generate_series(1, 100)});
is($standby->safe_psql('postgres', q{SELECT daybook.wait_for_projection('p1', pg_current_wal_insert_lsn(), '60s') = count(*) FROM event}), 't', 'a promoted one keeps them');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM (SELECT id FROM event EXCEPT SELECT id FROM p1) x'), 0, 'and leaves nothing out');

$standby->stop;
done_testing();
