# Eight consumers on eight partitions, ended at random, some of them asleep for
# longer than their lease, with events that fail now and then, and a crash of
# the server in the middle: every event is handled once, and in the order of its
# stream.  Consumers that do not handle events in the transaction that
# acknowledges them show that the test would notice.
#
# DAYBOOK_STRESS_EVENTS: how many events, 500,000 unless given.
use strict;
use warnings;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $events = $ENV{DAYBOOK_STRESS_EVENTS} || 500_000;
my $control_events = 5_000;
my $consumers = 8;
my $streams = 500;
my $longest = 1800;	# seconds, if something hangs
my $kills = 400;

my $node = PostgreSQL::Test::Cluster->new('stress');
$node->init;
$node->append_conf('postgresql.conf', qq{
shared_preload_libraries = 'daybook'
wal_level = logical
max_connections = 40
});
$node->start;
$node->safe_psql('postgres', q{
CREATE EXTENSION daybook;
SELECT daybook.create_event_table('ev');

-- what consumers keep: the last version of each stream that was handled
CREATE TABLE handled (stream_id text PRIMARY KEY, version bigint NOT NULL);
CREATE TABLE wrong (consumer text, stream_id text, first bigint, last bigint, events bigint);
CREATE TABLE met (what text, consumer text);

CREATE PROCEDURE handle(me text, batch daybook.delivery[]) LANGUAGE plpgsql AS $$
DECLARE
	streams int;
	good int;
BEGIN
	-- who has lost his lease handles the same streams as his successor, before he is told
	PERFORM 1 FROM handled h WHERE h.stream_id IN (SELECT b.stream_id FROM unnest(batch) b) ORDER BY h.stream_id FOR UPDATE;
	SELECT count(DISTINCT b.stream_id) INTO streams FROM unnest(batch) b;
	WITH runs AS (
		SELECT b.stream_id, min(b.version) AS first, max(b.version) AS last, count(*) AS events
		FROM unnest(batch) b GROUP BY 1)
	UPDATE handled h SET version = r.last FROM runs r
	WHERE h.stream_id = r.stream_id AND h.version = r.first - 1 AND r.events = r.last - r.first + 1;
	GET DIAGNOSTICS good = ROW_COUNT;
	IF good < streams THEN
		INSERT INTO wrong SELECT me, b.stream_id, min(b.version), max(b.version), count(*)
		FROM unnest(batch) b GROUP BY 2
		HAVING (SELECT h.version FROM handled h WHERE h.stream_id = b.stream_id) <> max(b.version);
		INSERT INTO wrong VALUES (me);
	END IF;
END $$;

-- A batch is fetched in a transaction of its own.  careless: it is handled in
-- another one than it is acknowledged in.
CREATE PROCEDURE consume(me text, total bigint, careless boolean) LANGUAGE plpgsql AS $$
DECLARE
	batch daybook.delivery[];
	bad daybook.delivery;
BEGIN
	LOOP
		SELECT array_agg(f ORDER BY f.position) INTO batch
		FROM daybook.fetch('stress', 50 + (random() * 150)::int, me, '500ms', '500ms') f;
		COMMIT;
		IF batch IS NULL THEN
			EXIT WHEN (SELECT sum(h.version) FROM handled h) >= total;
			EXIT WHEN careless AND (SELECT count(*) FROM ev) = total AND (
				SELECT s.lag_events + s.leased_partitions + s.held_events FROM daybook.subscription_status s WHERE s.name = 'stress') = 0;
			CONTINUE;
		END IF;
		IF random() < 0.04 THEN
			INSERT INTO met VALUES ('slept', me);
			COMMIT;
			PERFORM pg_sleep(0.5 + random());
		END IF;
		bad := NULL;
		IF random() < 0.05 THEN
			bad := batch[1 + floor(random() * cardinality(batch))::int];
		END IF;
		BEGIN
			IF bad.position IS NOT NULL THEN
				INSERT INTO met VALUES ('failed', me);
				PERFORM daybook.nack('stress', bad.lease, bad.position, 'fails', '10ms');
				batch := ARRAY(SELECT b FROM unnest(batch) b
					WHERE b.stream_id <> bad.stream_id OR b.position < bad.position ORDER BY b.position);
			END IF;
			IF NOT careless THEN
				CALL handle(me, batch);
				IF cardinality(batch) > 0 THEN
					PERFORM daybook.ack('stress', batch[1].lease);
				END IF;
			END IF;
		EXCEPTION WHEN lock_not_available THEN
			INSERT INTO met VALUES ('lost', me);
			batch := '{}';
		END;
		COMMIT;
		IF careless AND cardinality(batch) > 0 THEN
			CALL handle(me, batch);
			COMMIT;
			BEGIN
				PERFORM daybook.ack('stress', batch[1].lease);
			EXCEPTION WHEN lock_not_available THEN
				INSERT INTO met VALUES ('lost', me);
			END;
			COMMIT;
		END IF;
	END LOOP;
END $$;
});

# Runs something in a process of its own, until the statement succeeds.
sub keep_running
{
	my ($statement, $seconds) = @_;
	my $pid = fork();
	return $pid if $pid;
	open STDERR, '>', '/dev/null';
	open STDOUT, '>', '/dev/null';
	my $until = time() + $seconds;
	while (time() < $until)
	{
		POSIX::_exit(0)
		  if system('psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d',
			$node->connstr('postgres') . " application_name='stress consumer'", '-c', $statement) == 0;
		sleep(0.05);
	}
	POSIX::_exit(1);
}

sub run_consumers
{
	my ($count, $careless) = @_;
	my ($seed, $later) = (int($count / 2), $count - int($count / 2));
	my $append = q{INSERT INTO ev (stream_id, type)
		SELECT 's-' || 1 + floor(random() * %d)::int, 'T' FROM generate_series(1, %d)};
	my $killed = 0;
	my $failed = 0;

	$node->safe_psql('postgres', qq{
		TRUNCATE handled, wrong, met;
		INSERT INTO handled SELECT 's-' || i, coalesce((SELECT max(version) FROM ev WHERE stream_id = 's-' || i), 0)
		FROM generate_series(1, $streams) i;
	});
	my $before = $node->safe_psql('postgres', 'SELECT sum(version) FROM handled');
	$node->poll_query_until('postgres', 'SELECT daybook.head() = (SELECT count(*) FROM ev)');
	$node->safe_psql('postgres', q{SELECT daybook.create_subscription('stress', '{ev}', from_position => daybook.head(), partitions => 8, delivery_limit => NULL)});
	$node->safe_psql('postgres', sprintf($append, $streams, $seed));

	my $total = $before + $count;
	my @pids = map { keep_running("CALL consume('consumer $_', $total, $careless)", $longest) } 1 .. $consumers;
	my $start = time();
	my $crash_at = $careless ? 0 : $before + $count / 3;
	my $appended = $seed;
	my ($next_kill, $last_kill) = ($before, time());
	my %running = map { $_ => 1 } @pids;
	while (%running)
	{
		# the other half comes meanwhile, in portions
		if ($appended < $count)
		{
			my $portion = int($later / 20) || 1;
			$portion = $count - $appended if $portion > $count - $appended;
			$node->safe_psql('postgres', sprintf($append, $streams, $portion));
			$appended += $portion;
		}
		sleep(0.05);

		# as often as they get on, so that a slow machine has as much to do
		my $handled = $node->safe_psql('postgres', 'SELECT sum(version) FROM handled');
		if ($handled >= $next_kill || time() > $last_kill + 5)
		{
			($next_kill, $last_kill) = ($handled + rand(2 * $count / $kills), time());
			$killed += $node->safe_psql('postgres', q{
				SELECT count(pg_terminate_backend(pid)) FROM (
					SELECT pid FROM pg_stat_activity WHERE application_name = 'stress consumer' ORDER BY random() LIMIT 1) p});
		}
		if ($crash_at && $handled >= $crash_at)
		{
			$node->stop('immediate');
			$node->start;
			$crash_at = 0;
		}
		while ((my $pid = waitpid(-1, POSIX::WNOHANG())) > 0)
		{
			next unless delete $running{$pid};
			$failed++ if $?;
		}
	}
	note sprintf('%d events in %.0f s, %d times ended', $count, time() - $start, $killed);
	note $node->safe_psql('postgres', 'SELECT what, count(*) FROM met GROUP BY 1 ORDER BY 1');
	return ($total, $killed, $failed);
}

my ($total, $killed, $failed) = run_consumers($events, 'false');
is($failed, 0, 'all consumers came to the end');
cmp_ok($killed, '>', 5, 'consumers were ended meanwhile');
is($node->safe_psql('postgres', 'SELECT count(*) FROM ev'), $events, 'all events are there');
is($node->safe_psql('postgres', 'SELECT * FROM wrong LIMIT 5'), '', 'every batch went on where its streams were');
is($node->safe_psql('postgres', 'SELECT sum(version) FROM handled'), $total, 'every event was handled once');
is($node->safe_psql('postgres', q{
	SELECT count(*) FROM handled h WHERE version <> (SELECT count(*) FROM ev WHERE ev.stream_id = h.stream_id)}),
	'0', 'each stream to its end');
isnt($node->safe_psql('postgres', q{SELECT count(*) FROM met WHERE what = 'lost'}), '0', 'some had lost their lease and were refused');
isnt($node->safe_psql('postgres', q{SELECT count(*) FROM met WHERE what = 'failed'}), '0', 'some events had failed and were held back');
my @errors = slurp_file($node->logfile) =~ /^.* stress consumer ERROR.*(?:\n(?:\t|.* stress consumer (?:DETAIL|HINT|CONTEXT)).*)*/mg;
is(join("\n", @errors), '', 'no consumer met an error');
is($node->safe_psql('postgres', q{SELECT count(*) FROM daybook.fetch('stress')}), '0', 'nothing is left to fetch');
is($node->safe_psql('postgres', q{
	SELECT lag_events, leased_partitions, held_events, parked_streams FROM daybook.subscription_status WHERE name = 'stress'}),
	'0|0|0|0', 'all is acknowledged, and nothing is held back');
$node->safe_psql('postgres', q{SELECT daybook.drop_subscription('stress')});

# the control: the same with consumers that commit their work before they
# acknowledge it, until chance has made that show
my $wrong = 0;
for my $round (1 .. 10)
{
	run_consumers($control_events, 'true');
	$wrong = $node->safe_psql('postgres', 'SELECT count(*) FROM wrong');
	last if $wrong > 0;
	$node->safe_psql('postgres', q{SELECT daybook.drop_subscription('stress')});
}
cmp_ok($wrong, '>', 0,
	'the test notices consumers that handle events in another transaction than the acknowledgement');

$node->stop;
done_testing();
