# Rebuilding while events pour in: readers never see a table that is not whole,
# a crash in the middle costs nothing but time, and long readers are not in the
# way for good.
use strict;
use warnings;
use DaybookTest;
use Test::More;
use Time::HiRes qw(time usleep);

my $events = events_wanted(60_000);
my $node = new_node('rebuild');

$node->safe_psql('postgres', qq{
SELECT daybook.create_event_table('account');
CREATE TABLE balance (account text PRIMARY KEY, amount bigint NOT NULL, events bigint NOT NULL);
INSERT INTO account (stream_id, type, data) SELECT 'account-' || i % 500, 'Paid', jsonb_build_object('amount', i % 97) FROM generate_series(1, $events) i;
SELECT daybook.create_projection('balance', '{account}', \$\$
	INSERT INTO balance AS b SELECT stream_id, sum((data->>'amount')::bigint), count(*) FROM new_events GROUP BY 1
	ON CONFLICT (account) DO UPDATE SET amount = b.amount + excluded.amount, events = b.events + excluded.events
\$\$, '{balance}', independent_streams => true);
SELECT daybook.wait_for_projection('balance', timeout => '5 min');
});

sub rebuilt
{
	return wait_until('the end of the rebuild',
		sub { $node->safe_psql('postgres', 'SELECT count(*) FROM daybook.rebuild_progress') == 0 }, 120);
}

sub is_right
{
	my ($what) = @_;
	$node->safe_psql('postgres', q{SELECT daybook.wait_for_projection('balance', pg_current_wal_insert_lsn(), timeout => '1 min')});
	is($node->safe_psql('postgres', q{
WITH expected AS (SELECT stream_id, sum((data->>'amount')::bigint)::bigint, count(*) FROM account GROUP BY 1)
SELECT count(*) FROM ((TABLE expected EXCEPT ALL TABLE balance) UNION ALL (TABLE balance EXCEPT ALL TABLE expected)) d}), 0, $what);
}

sub filenode
{
	return $node->safe_psql('postgres', q{SELECT pg_relation_filenode('balance')});
}

# Appends, readers that count, and a function that fails when rows are missing.
$node->safe_psql('postgres', qq{
CREATE FUNCTION check_whole() RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE n bigint;
BEGIN
	SELECT sum(events) INTO n FROM balance;
	IF n IS NULL OR n < $events THEN RAISE EXCEPTION 'saw % events', n; END IF;
END \$\$});
my $load = start_pgbench($node, [ '-c', 4, '-T', 12 ], {
	rebuild_append => q{
\set s random(0, 599)
INSERT INTO account (stream_id, type, data) VALUES ('account-:s', 'Paid', '{"amount": 1}');
},
	rebuild_read => q{
SELECT check_whole();
} });
my $swaps = 0;
my $until = time() + 10;
while (time() < $until)
{
	my $before = filenode();
	$node->safe_psql('postgres', q{SELECT daybook.rebuild_projection('balance', in_place => false)});
	last unless rebuilt();
	$swaps++ if filenode() ne $before;
}
ok(finish($load), 'readers saw whole tables only, and nobody was turned away');
cmp_ok($swaps, '>', 2, 'tables were exchanged under load');
note("$swaps rebuilds");
is_right('the rows are right after rebuilds under load');

# Killed in the middle, a rebuild goes on where it was.
{
	my $rate = int($events / 10);
	my $before = filenode();
	$node->safe_psql('postgres', "SELECT daybook.rebuild_projection('balance', max_rate => $rate)");
	ok(wait_until('some progress', sub {
		$node->safe_psql('postgres', 'SELECT position > 0 FROM daybook.rebuild_progress') eq 't' }), 'a slow rebuild begins');
	my ($position, $left) = split(/\|/, $node->safe_psql('postgres',
		'SELECT position, time_left > interval \'0\' FROM daybook.rebuild_progress'));
	is($left, 't', 'it says how long it will take');
	$node->stop('immediate');
	$node->start;
	cmp_ok($node->safe_psql('postgres', 'SELECT position FROM daybook.rebuild_progress'), '>=', $position - 2 * $rate,
		'it is still there after a crash');
	ok(rebuilt(), 'and ends');
	isnt(filenode(), $before, 'with the tables exchanged');
	is_right('the rows are right after a crash');
	$node->restart;
	is_right('and after a restart');
}

# A long reader is waited for in short turns; others read meanwhile.
{
	my $reader = $node->background_psql('postgres');
	$reader->query_safe('BEGIN; SELECT count(*) FROM balance');
	$node->safe_psql('postgres', q{SELECT daybook.rebuild_projection('balance')});
	ok(wait_until('a lock time-out', sub {
		$node->safe_psql('postgres', q{SELECT error_sqlstate = '55P03' FROM daybook.rebuild_progress}) eq 't' }),
		'the exchange gives way to a reader');
	$node->safe_psql('postgres', q{SET statement_timeout = '10s'; SELECT count(*) FROM balance});
	$reader->query_safe('COMMIT');
	$reader->quit;
	ok(rebuilt(), 'and takes place when the reader is gone');
	is_right('the rows are right');
}

# Pausing, dropping and rebuilding at random while events pour in.
{
	my $more = start_pgbench($node, [ '-c', 3, '-T', 8 ], { rebuild_more => q{
\set s random(0, 599)
INSERT INTO account (stream_id, type, data) VALUES ('account-:s', 'Paid', '{"amount": 1}');
} });
	my @does = (
		q{SELECT daybook.pause_projection('balance')},
		q{SELECT daybook.resume_projection('balance')},
		q{SELECT daybook.resume_projection('balance')},
		q{SELECT daybook.rebuild_projection('balance')},
		q{SELECT daybook.rebuild_projection('balance', in_place => true)},
		q{DO $$ BEGIN PERFORM daybook.rebuild_projection('balance', parallel => 3); EXCEPTION WHEN object_not_in_prerequisite_state THEN NULL; END $$},
		q{SELECT daybook.cancel_rebuild('balance')},
		q{BEGIN; SELECT daybook.rebuild_projection('balance'); SELECT daybook.drop_projection('balance'); ROLLBACK});
	my $until = time() + 7;
	my $errors = '';
	srand(7);
	while (time() < $until)
	{
		my ($code, $out, $err) = $node->psql('postgres', $does[rand @does]);
		$errors .= $err if $err =~ /ERROR/;
		usleep(rand 100_000);
	}
	is($errors, '', 'every one of them is done');
	ok(finish($more), 'load');
	$node->safe_psql('postgres', q{SELECT daybook.resume_projection('balance')});
	ok(rebuilt(), 'what was begun ends');
	is_right('the rows are right after all that');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'daybook\_rebuild%'}), 0, 'nothing is left over');
}

# A batch that the handler gets while it is read is not stored; an UPDATE needs it to be.
{
	my $temporary_files = sub {
		my ($handler) = @_;
		my $log_before = -s $node->logfile;
		$node->safe_psql('postgres', qq{SELECT daybook.alter_projection('balance', handler => \$\$$handler\$\$)});
		rebuilt();
		my @written = PostgreSQL::Test::Utils::slurp_file($node->logfile, $log_before) =~ /projector LOG:  temporary file/g;
		is_right('the rows are right');
		return scalar(@written);
	};
	$node->append_conf('postgresql.conf', "maintenance_work_mem = '1MB'\nlog_temp_files = 0");
	$node->reload;
	is($temporary_files->(q{
	INSERT INTO balance AS b SELECT stream_id, sum((data->>'amount')::bigint), count(*) FROM new_events GROUP BY 1
	ON CONFLICT (account) DO UPDATE SET amount = b.amount + excluded.amount, events = b.events + excluded.events}),
		0, 'no file of events is written');
	cmp_ok($temporary_files->(q{
	INSERT INTO balance SELECT DISTINCT stream_id, 0, 0 FROM new_events ON CONFLICT DO NOTHING;
	UPDATE balance b SET amount = b.amount + e.amount, events = b.events + e.events
	FROM (SELECT stream_id, sum((data->>'amount')::bigint) AS amount, count(*) AS events FROM new_events GROUP BY 1) e WHERE account = stream_id}),
		'>', 0, 'but for an UPDATE there is one');

	# a batch that finds no room is tried again in smaller ones
	$node->append_conf('postgresql.conf', "temp_file_limit = '3MB'");
	$node->reload;
	$node->safe_psql('postgres', q{SELECT daybook.rebuild_projection('balance')});
	ok(rebuilt(), 'a rebuild ends though its batches have no room');
	is_right('the rows are right');
	$node->append_conf('postgresql.conf', "temp_file_limit = -1\nmaintenance_work_mem = '64MB'");
	$node->reload;
}

# What is said of an event type while a batch is being handed over counts from the next batch on.
{
	$node->safe_psql('postgres', q{
CREATE TABLE seen (place text, events bigint);
CREATE FUNCTION wait_here() RETURNS void LANGUAGE sql AS 'SELECT pg_advisory_xact_lock(56)';
SELECT daybook.create_projection('seen', '{account}', $$
	INSERT INTO seen SELECT 'first', count(*) FROM new_events WHERE data ? 'upcast';
	SELECT public.wait_here();
	INSERT INTO seen SELECT 'second', count(*) FROM new_events WHERE data ? 'upcast'
$$, '{seen}');
SELECT daybook.wait_for_projection('seen', timeout => '2 min')});
	my $holder = $node->background_psql('postgres');
	$holder->query_safe('BEGIN; SELECT pg_advisory_lock(56)');
	$node->safe_psql('postgres', q{SELECT daybook.rebuild_projection('seen')});
	ok(wait_until('the rebuild to come to the lock', sub {
		$node->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 56 AND NOT granted}) == 1 }),
		'a rebuild between two statements');
	$node->safe_psql('postgres', q{
CREATE FUNCTION upcast(jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT $1 || '{"upcast": 1}' $$;
SELECT daybook.create_upcaster('account', 'Paid', 1, 'upcast(jsonb)'::regprocedure)});
	$holder->query_safe('COMMIT; SELECT pg_advisory_unlock(56)');
	$holder->quit;
	ok(rebuilt(), 'the rebuild ends');
	is($node->safe_psql('postgres', q{SELECT sum(events) FROM seen}), 0, 'and all statements got the same events');
}

# An exchange that cannot be is tried again with growing pauses.
{
	$node->safe_psql('postgres', q{
CREATE TABLE altered (id bigint);
SELECT daybook.create_projection('altered', '{account}', 'INSERT INTO altered SELECT id FROM new_events', '{altered}');
SELECT daybook.wait_for_projection('altered', timeout => '2 min')});
	my $holder = $node->background_psql('postgres');
	$holder->query_safe('BEGIN; SELECT count(*) FROM altered');
	$node->safe_psql('postgres', q{SELECT daybook.rebuild_projection('altered')});
	ok(wait_until('the rebuild to be held up', sub {
		$node->safe_psql('postgres', q{SELECT count(*) FROM daybook.rebuild_progress WHERE error_sqlstate = '55P03'}) == 1 }),
		'a rebuild waits for a reader');
	$holder->query_safe('ALTER TABLE altered ADD CHECK (id > 0); COMMIT');
	$holder->quit;
	my $log_end = -s $node->logfile;
	ok(wait_until('the pauses to grow', sub {
		$node->safe_psql('postgres', q{SELECT count(*) FROM daybook.projection_position WHERE name LIKE 'daybook_rebuild%'
			AND error_sqlstate = '55000' AND retry_at - failed_at > interval '6 s'}) == 1 }),
		'it fails where a table was altered meanwhile, less and less often');
	cmp_ok(scalar(server_log_lines($node, qr/tables of projection "altered" were altered/, $log_end)), '<=', 6, 'and says so each time');
	is($node->safe_psql('postgres', q{SELECT daybook.cancel_rebuild('altered')}), 't', 'until it is cancelled');
}

$node->stop;
done_testing();
