# Rebuilding with several workers while events pour in: the result is that of
# one worker, whoever is killed on the way, and with fewer workers than asked for.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $events = events_wanted(60_000);
my $node = new_node('parallel_rebuild', conf => 'restart_after_crash = on');

# a stream's row tells the order of its events; 20 of the streams hold one that cannot be applied
$node->safe_psql('postgres', qq{
SELECT daybook.create_event_table('account');
CREATE TABLE balance (account text PRIMARY KEY, amount bigint NOT NULL, digest text NOT NULL);
INSERT INTO account (stream_id, type, data)
SELECT 'account-' || i % 2000, 'Paid', jsonb_build_object('amount', CASE WHEN i % 100 = 0 AND i BETWEEN 10000 AND 11999 THEN '"much"' ELSE to_jsonb(i % 97) END)
FROM generate_series(1, $events) i;
CREATE FUNCTION fold(digest text, amounts text[]) RETURNS text LANGUAGE plpgsql IMMUTABLE AS \$\$
BEGIN
	FOR i IN 1 .. cardinality(amounts) LOOP digest := md5(digest || amounts[i]); END LOOP;
	RETURN digest;
END \$\$;
SELECT daybook.create_projection('balance', '{account}', \$\$
	INSERT INTO balance AS b
	SELECT stream_id, sum((data->>'amount')::bigint),
		public.fold(coalesce((SELECT o.digest FROM balance o WHERE o.account = e.stream_id), ''), array_agg(data->>'amount' ORDER BY position))
	FROM new_events e GROUP BY 1
	ON CONFLICT (account) DO UPDATE SET amount = b.amount + excluded.amount, digest = excluded.digest
\$\$, '{balance}', independent_streams => true);
});
$node->safe_psql('postgres', q{SELECT daybook.wait_for_projection('balance', timeout => '5 min')});

sub value
{
	my ($query) = @_;
	return $node->safe_psql('postgres', $query);
}

sub rebuild
{
	my ($arguments) = @_;
	value("SELECT daybook.rebuild_projection('balance', $arguments)");
}

sub rebuilt
{
	return wait_until('the end of the rebuild', sub { value('SELECT count(*) FROM daybook.rebuild_progress') == 0 }, 180);
}

# The rows from the events themselves: of a parked stream, those before its poison.
my $expected = q{
SELECT stream_id, sum((data->>'amount')::bigint)::bigint, fold('', array_agg(data->>'amount' ORDER BY version))
FROM account a
WHERE NOT EXISTS (SELECT FROM account p WHERE p.stream_id = a.stream_id AND p.version <= a.version AND p.data->>'amount' = 'much')
GROUP BY 1};

sub is_right
{
	my ($what) = @_;
	value(q{SELECT daybook.wait_for_projection('balance', pg_current_wal_insert_lsn(), timeout => '2 min')});
	is(value("WITH e AS ($expected) SELECT count(*) FROM ((TABLE e EXCEPT ALL TABLE balance) UNION ALL (TABLE balance EXCEPT ALL TABLE e)) d"),
		0, "$what: the rows are right");
	is(value(q{
SELECT count(*) FILTER (WHERE is_cause), count(*) = (SELECT count(*) FROM account a
	WHERE EXISTS (SELECT FROM account p WHERE p.stream_id = a.stream_id AND p.version <= a.version AND p.data->>'amount' = 'much'))
FROM daybook.parked_events WHERE projection = 'balance'}), '20|t', "$what: so are the parked events");
}

is_right('kept live');
rebuild('parallel => 1');
ok(rebuilt(), 'rebuilt by one worker');
is_right('one worker');

my %append = (parallel_append => q{
\set s random(0, 2199)
INSERT INTO account (stream_id, type, data) SELECT 'account-:s', 'Paid', jsonb_build_object('amount', i) FROM generate_series(1, 5) i;
});

# Events pour in meanwhile.
{
	my $load = start_pgbench($node, [ '-c', 3, '-T', 6 ], \%append);
	my $before = value(q{SELECT pg_relation_filenode('balance')});
	rebuild('parallel => 4');
	ok(rebuilt(), 'rebuilt by four workers under load');
	isnt(value(q{SELECT pg_relation_filenode('balance')}), $before, 'the tables were exchanged');
	ok(finish($load), 'load');
	is_right('four workers under load');
}

# Workers are killed, which restarts the server, and the server is stopped at once.
{
	my $rate = int($events / 8);
	rebuild("parallel => 3, max_rate => $rate");
	ok(wait_until('three workers at work', sub { value('SELECT workers = 3 AND position > 0 FROM daybook.rebuild_progress') eq 't' }), 'three workers begin');
	is(value('SELECT parallel, time_left > interval \'0\', events_left > 0 FROM daybook.rebuild_progress'), '3|t|t', 'it says how long they will take');
	my $pids = value(q{SELECT string_agg(worker_pid::text, ' ') FROM daybook.projector_workers() WHERE projection LIKE 'daybook\_rebuild%'});
	my $victim = (split / /, $pids)[1];
	is(kill('KILL', $victim), 1, 'one is killed');
	wait_until('the server is back', sub { $node->psql('postgres', 'SELECT 1') == 0 && value("SELECT count(*) FROM pg_stat_activity WHERE pid = $victim") == 0 });
	is(value('SELECT parallel FROM daybook.rebuild_progress'), 3, 'the rebuild is still there');
	my $position = value('SELECT position FROM daybook.rebuild_progress');
	ok(wait_until('further progress', sub { value("SELECT count(*) = 0 OR min(position) > $position FROM daybook.rebuild_progress") eq 't' }), 'and goes on');
	my $load = start_pgbench($node, [ '-c', 2, '-T', 2 ], \%append);
	ok(finish($load), 'load');
	$node->stop('immediate');
	$node->start;
	ok(rebuilt(), 'it ends after a crash of the server');
	is_right('three workers, killed');
}

# Cancelled in the middle; a second call begins anew.
{
	rebuild('parallel => 2, max_rate => 100');
	wait_until('two workers', sub { value('SELECT workers FROM daybook.rebuild_progress') == 2 });
	rebuild('parallel => 3, max_rate => 100');
	ok(wait_until('three workers', sub { value('SELECT workers FROM daybook.rebuild_progress') == 3 }), 'asked for again, it begins anew');
	is(value(q{SELECT daybook.cancel_rebuild('balance')}), 't', 'and is cancelled');
	is(value(q{SELECT count(*) FROM daybook.projection WHERE rebuild_of IS NOT NULL}), 0, 'nothing is left of it');
	is(value(q{SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'daybook\_rebuild%'}), 0, 'not its copies either');
	is_right('cancelled');
}

# Fewer processes than workers: they take turns, and it is said.
{
	$node->append_conf('postgresql.conf', 'max_worker_processes = 4');
	$node->restart;
	my $log_from = -s $node->logfile;
	my ($code, $out, $err) = $node->psql('postgres', q{SELECT daybook.rebuild_projection('balance', parallel => 6)});
	like($err, qr/WARNING:  projection "balance" is rebuilt by 4 workers rather than 6.*HINT/s, 'a warning with a hint');
	ok(rebuilt(), 'the rebuild ends with fewer');
	like(slurp_file($node->logfile, $log_from), qr/no background worker is free for projection.*max_worker_processes is 4.*HINT/s, 'the log says what is too small');
	is_right('too few processes');
}

$node->stop;
done_testing();
