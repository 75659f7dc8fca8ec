# Consumers that wait are woken by whatever gives them something to do, and by
# nothing else; notifications; crashes; dump and restore; standbys.
use strict;
use warnings;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = PostgreSQL::Test::Cluster->new('subscription');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', qq{
shared_preload_libraries = 'daybook'
wal_level = logical
});
$node->start;
$node->safe_psql('postgres', q{
CREATE EXTENSION daybook;
SELECT daybook.create_event_table('ev');
CREATE FUNCTION append(stream text) RETURNS void LANGUAGE sql AS $$
	INSERT INTO ev (stream_id, type) VALUES (stream, 'T')
$$;
-- a batch as text, and the number of its lease
CREATE FUNCTION get(who text, wait interval DEFAULT '0s', lease interval DEFAULT '1h', OUT events text, OUT lease_no bigint) LANGUAGE sql AS $$
	SELECT string_agg(f.stream_id || ':' || f.version, ' ' ORDER BY f.position), max(f.lease)
	FROM daybook.fetch('sub', 100, who, lease, wait) f
$$;
});

# Runs a statement in the background until it is asked for its result.
sub start_query
{
	my ($sql) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/out';
	my $pid = fork();
	return { pid => $pid, file => $file, start => time() } if $pid;
	open STDOUT, '>', $file;
	open STDERR, '>&', \*STDOUT;
	exec('psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $sql) or POSIX::_exit(1);
}

# ... and how long that took.
sub finish_query
{
	my ($query) = @_;
	waitpid($query->{pid}, 0);
	my $out = slurp_file($query->{file});
	chomp $out;
	return ($out, time() - $query->{start});
}

# Waits until that many consumers are asleep.
sub wait_for_sleepers
{
	my ($count) = @_;
	$node->poll_query_until('postgres', qq{
		SELECT count(*) = $count FROM pg_stat_activity
		WHERE wait_event_type = 'Extension' AND query LIKE '%get(%' AND backend_type = 'client backend'})
	  or die 'consumer does not sleep';
}

# Has a consumer wait for a minute, does something, and expects it to be woken.
sub woken_by
{
	my ($name, $action, $expected) = @_;
	my $query = start_query(q{SELECT events FROM get('waiter', '60s')});
	wait_for_sleepers(1);
	$action->();
	my ($out, $seconds) = finish_query($query);
	like($out, $expected, "$name: what it got");
	cmp_ok($seconds, '<', 30, "$name: at once");
	$node->safe_psql('postgres', q{
		SELECT daybook.ack('sub', lease) FROM daybook.subscription_leases WHERE subscription = 'sub' AND consumer = 'waiter' AND outstanding});
}

sub do_sql { my ($sql) = @_; return sub { $node->safe_psql('postgres', $sql) }; }

$node->safe_psql('postgres', q{SELECT daybook.create_subscription('sub', '{ev}')});

# waiting
my ($out, $seconds) = finish_query(start_query(q{SELECT events FROM get('waiter', '1s')}));
is($out, '', 'nothing after the time is up');
cmp_ok($seconds, '>', 0.9, 'and not before');
woken_by('an event', do_sql(q{SELECT append('a')}), qr/^a:1$/);

my $bystander = start_query(q{SELECT events FROM get('bystander', '60s')});
wait_for_sleepers(1);
my $lease = $node->safe_psql('postgres', q{SELECT append('b'); SELECT append('b')});
($out) = finish_query($bystander);
like($out, qr/^b:1( b:2)?$/, 'a consumer gets what comes');
woken_by('an acknowledgement that leaves something',
	do_sql(q{SELECT append('b'); SELECT pg_sleep(0.2);
		SELECT daybook.ack('sub', lease) FROM daybook.subscription_leases WHERE subscription = 'sub'}),
	qr/b:3$/);

# a transaction that holds events, and ends
for my $end ('ROLLBACK', 'leaving')
{
	my $holder = IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $node->connstr('postgres') ],
		'<', \my $in, '>', \my $held, '2>', \my $err);
	$node->safe_psql('postgres', q{SELECT append('c')});
	$in = "BEGIN;\nSELECT events FROM get('holder', '60s');\n";
	# what is rolled back later than that leaves it as it is
	$in .= "SAVEPOINT s;\nROLLBACK TO s;\n" if $end eq 'ROLLBACK';
	$holder->pump until $held =~ /c:\d/;
	woken_by("$end of a transaction that held the events",
		sub { $in = $end eq 'leaving' ? "\\q\n" : "$end;\n"; $holder->finish if $end eq 'leaving'; $holder->pump_nb },
		qr/^c:\d$/);
	if ($end ne 'leaving') { $in = "\\q\n"; $holder->finish; }
}

# a savepoint that held events, in a transaction that goes on
for my $way ('ROLLBACK TO', 'an exception caught in PL/pgSQL')
{
	my @sessions = map { { in => '', out => '', err => '' } } 0 .. 1;
	for my $session (@sessions)
	{
		$session->{run} = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ],
			'<', \$session->{in}, '>', \$session->{out}, '2>', \$session->{err});
	}
	my ($holder, $gate) = @sessions;
	$node->safe_psql('postgres', q{SELECT append('s')});
	$gate->{in} = "SELECT pg_advisory_lock(1);\n\\echo closed\n";
	$gate->{run}->pump until $gate->{out} =~ /closed/;
	$holder->{in} = "BEGIN;\n" . ($way eq 'ROLLBACK TO' ? q{
SAVEPOINT s;
SELECT events FROM get('holder', '60s');
SELECT pg_advisory_lock(1);
ROLLBACK TO s;
} : q{
DO $$
BEGIN
	PERFORM events FROM get('holder', '60s');
	PERFORM pg_advisory_lock(1);
	RAISE division_by_zero;
EXCEPTION WHEN division_by_zero THEN
END $$;
}) . "\\echo over\n";
	$holder->{run}->pump_nb;
	$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND NOT granted});
	woken_by("$way with events that were fetched",
		sub { $gate->{in} = "SELECT pg_advisory_unlock(1);\n\\echo open\n"; $gate->{run}->pump until $gate->{out} =~ /open/; $holder->{run}->pump until $holder->{out} =~ /over/ },
		qr/^s:\d$/);
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'}), '1', '... while the transaction goes on');
	for my $session (@sessions)
	{
		$session->{in} = "\\q\n";
		$session->{run}->finish;
	}
}

$node->safe_psql('postgres', q{SELECT append('d')});
$node->safe_psql('postgres', q{SELECT events FROM get('dies', '60s', '2s')});
woken_by('the end of a lease', sub { }, qr/^d:1$/);

$node->safe_psql('postgres', q{SELECT append('e')});
$node->safe_psql('postgres', q{
	SELECT daybook.nack('sub', lease, position, 'fails', '2s') FROM daybook.fetch('sub', wait => '60s')});
woken_by('the end of a delay', sub { }, qr/^e:1$/);

$node->safe_psql('postgres', q{SELECT append('f')});
$node->safe_psql('postgres', q{
	SELECT daybook.nack('sub', lease, position, 'fails', park => true) FROM daybook.fetch('sub', wait => '60s')});
woken_by('a retry of what was parked', do_sql(q{SELECT daybook.subscription_retry_parked('sub')}), qr/^f:1$/);

$node->safe_psql('postgres', q{SELECT append('g')});
my $other = $node->safe_psql('postgres', q{SELECT lease_no FROM get('other', '60s')});
woken_by('a lease that is given back', do_sql(qq{SELECT daybook.release_lease('sub', $other)}), qr/^g:1$/);

my $query = start_query(q{SELECT events FROM get('waiter', '60s')});
wait_for_sleepers(1);
$node->safe_psql('postgres', q{SELECT daybook.drop_subscription('sub')});
($out, $seconds) = finish_query($query);
like($out, qr/subscription "sub" does not exist/, 'a subscription that is dropped ends the wait');
cmp_ok($seconds, '<', 30, 'at once');

$node->safe_psql('postgres', q{SELECT daybook.create_subscription('sub', '{ev}', from_position => daybook.head())});
$query = start_query(q{SELECT events FROM get('waiter', '60s')});
wait_for_sleepers(1);
$node->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT events FROM get(%' AND pid <> pg_backend_pid()});
($out) = finish_query($query);
like($out, qr/canceling statement/, 'a wait can be cancelled');

# eight events for eight consumers that wait: everybody wakes, each event goes to one
$node->safe_psql('postgres', q{
	SELECT daybook.drop_subscription('sub');
	SELECT daybook.create_subscription('sub', '{ev}', from_position => daybook.head(), partitions => 8)});
my @sleepers = map { start_query("SELECT events FROM get('waiter $_', '5s')") } 1 .. 8;
wait_for_sleepers(8);
$node->safe_psql('postgres', q{SELECT count(append('h-' || i)) FROM generate_series(1, 40) i});
my @got = map { my ($o) = finish_query($_); split ' ', $o } @sleepers;
is(scalar(@got), 40, 'consumers that were woken together share the events');
is(scalar(keys %{ { map { $_ => 1 } @got } }), 40, 'each goes to one');
$node->safe_psql('postgres', q{
	SELECT daybook.ack('sub', lease) FROM (SELECT DISTINCT lease FROM daybook.subscription_leases WHERE subscription = 'sub' AND outstanding) l});
is($node->safe_psql('postgres', q{SELECT events FROM get('waiter')}), '', 'nothing is left');

# notifications: the last one tells the head, and whoever gets one can read the events
sub listen_while
{
	my ($sql, $silent) = @_;
	my $listener = IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $node->connstr('postgres') ],
		'<', \my $in, '>', \my $heard, '2>', \my $err);
	$in = "LISTEN daybook;\n\\echo listening\n";
	$listener->pump until $heard =~ /listening/;
	$node->safe_psql('postgres', $sql);
	my $count = $node->safe_psql('postgres', 'SELECT count(*) FROM ev');
	$node->poll_query_until('postgres', "SELECT daybook.head() = $count");
	# psql tells of notifications after a statement; some more time for what should not come
	my $until = time() + ($silent ? 0 : 60);
	while ($heard !~ /payload "$count"/ && time() < $until)
	{
		$heard =~ s/^asked\n//mg;
		$in .= "SELECT 'asked';\n";
		$listener->pump until $heard =~ /^asked$/m;
		sleep(0.02);
	}
	sleep(0.3);
	$in .= "SELECT 'head ' || daybook.head();\n\\q\n";
	$listener->finish;
	my @payloads = $heard =~ /Asynchronous notification "daybook" with payload "(\d+)"/g;
	return ($count, @payloads);
}
my ($head, @payloads) = listen_while(q{SELECT append('n')});
is_deeply(\@payloads, [$head], 'one notification for an event, with its position');
($head, @payloads) = listen_while(q{SELECT count(append('n')) FROM generate_series(1, 2000)});
is_deeply(\@payloads, [$head], 'and one for a transaction of many');
($head, @payloads) = listen_while(q{DO $$ BEGIN FOR i IN 1..1000 LOOP PERFORM append('n'); COMMIT; END LOOP; END $$});
is($payloads[-1], $head, 'the last of many tells the head');
cmp_ok(scalar(@payloads), '<', 500, 'transactions in quick succession share notifications');
is_deeply([ sort { $a <=> $b } @payloads ], \@payloads, 'positions rise');
$node->append_conf('postgresql.conf', 'daybook.notify_interval = -1');
$node->reload;
$node->safe_psql('postgres', q{SELECT append('n')});
sleep(0.3);
($head, @payloads) = listen_while(q{SELECT append('n')}, 1);
is_deeply(\@payloads, [], 'none when they are turned off');
$node->append_conf('postgresql.conf', 'daybook.notify_interval = 10ms');
$node->reload;
($head, @payloads) = listen_while(q{SELECT append('n')});
is($payloads[-1], $head, 'and again when they are turned on');

# a worker that starts tells the head at once; what comes after that is told when the time is up
$node->append_conf('postgresql.conf', 'daybook.notify_interval = 60s');
my $began = time();
$node->restart;
ok($node->poll_query_until('postgres', q{SELECT head = daybook.head() FROM daybook.sequencer_status}), 'a worker that tells once in a minute');
($head, @payloads) = listen_while(q{SELECT append('n')}, 1);
ok(time() - $began > 55 || !(grep { $_ == $head } @payloads), 'does not tell before that');
$node->append_conf('postgresql.conf', 'daybook.notify_interval = 10ms');
$node->restart;

# a wait holds up nobody: it has no locks, whatever was read before it
$node->safe_psql('postgres', q{SELECT daybook.create_subscription('filtered', '{ev}', types => '{none}')});
my $waits = start_query(q{SELECT * FROM daybook.fetch('filtered', wait => '60s')});
my $waiter = q{SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND query LIKE '%filtered%'};
$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($waiter) w") or die 'consumer does not sleep';
is($node->safe_psql('postgres', qq{
	SELECT locktype, relation::regclass FROM pg_locks WHERE pid = ($waiter) AND locktype IN ('relation', 'object')}),
	'', 'a consumer that waits has no locks');
$node->safe_psql('postgres', q{SELECT daybook.drop_subscription('filtered')});
my ($dropped) = finish_query($waits);
like($dropped, qr/"filtered" does not exist/, 'and the subscription can be dropped');

# a crash: what was committed stays, what was not has never been
$node->safe_psql('postgres', q{
	SELECT daybook.drop_subscription('sub');
	SELECT daybook.create_subscription('sub', '{ev}', from_position => daybook.head(), delivery_limit => 3);
	SELECT append('x'), append('x'), append('y'), append('z')});
$lease = $node->safe_psql('postgres', q{SELECT lease_no FROM get('before', '60s')});
$node->safe_psql('postgres', qq{
	SELECT daybook.nack('sub', $lease, min(position), 'fails', park => true) FROM daybook.log, ev WHERE ev.id = log.id AND stream_id = 'x'});
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', q{SELECT events FROM get('after')}), '', 'a lease outlives a crash');
is($node->safe_psql('postgres', qq{SELECT daybook.ack('sub', $lease); SELECT outstanding FROM daybook.subscription_leases}), "\nf",
	'its holder can acknowledge');
is($node->safe_psql('postgres', q{SELECT stream_id, state FROM daybook.subscription_parked ORDER BY position}),
	"x|parked\nx|queued", 'what was parked stays so');

# a crash takes back a fetch whose lease the consumer knows: it must not become somebody else's
# those who flush now and then do so later
$node->append_conf('postgresql.conf', "bgwriter_delay = 10s\nwal_writer_delay = 10s");
$node->reload;
$node->safe_psql('postgres', q{SELECT daybook.create_subscription('numbers', '{ev}'); CHECKPOINT});
my $open = start_query(q{BEGIN; SELECT max(lease) FROM daybook.fetch('numbers'); SELECT pg_sleep(600)});
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%numbers%' AND wait_event = 'PgSleep'})
  or die 'nothing fetched';
$lease = $node->safe_psql('postgres', 'SELECT last_value FROM daybook.subscription_lease_seq');
$node->stop('immediate');
finish_query($open);
$node->start;
cmp_ok($node->safe_psql('postgres', q{SELECT max(lease) FROM daybook.fetch('numbers')}), '>', $lease,
	'numbers of leases are not given twice');
$node->safe_psql('postgres', q{SELECT daybook.drop_subscription('numbers')});

# dump and restore: consumers go on where they were
$node->safe_psql('postgres', q{SELECT append('z')});
$node->poll_query_until('postgres', 'SELECT daybook.head() = (SELECT count(*) FROM ev)');
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('postgres') ], 'dump');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'pg_restore', '-d', $node->connstr('restored'), $dump ], 'restore');
is($node->safe_psql('restored', q{SELECT events FROM get('restored', '60s')}), 'z:2', 'a restored consumer goes on where it was');
is($node->safe_psql('restored', q{SELECT stream_id, state FROM daybook.subscription_parked ORDER BY position}),
	"x|parked\nx|queued", 'and has parked what was parked');
is($node->safe_psql('restored', q{SELECT daybook.subscription_retry_parked('sub', 'x');
	SELECT daybook.ack('sub', lease) FROM daybook.subscription_leases;
	SELECT events FROM get('restored')}), "1\n\nx:1", 'which can be retried');

# a standby shows how far consumers are, and hands out nothing
$node->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'b', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('write'));
my ($ret, $stdout, $stderr) = $standby->psql('postgres', q{SELECT * FROM daybook.fetch('sub')});
like($stderr, qr/during recovery/, 'a standby hands out nothing');
is($standby->safe_psql('postgres', q{SELECT name FROM daybook.subscription_status}), 'sub', 'and shows the status');
$node->stop;
$standby->promote;
is($standby->safe_psql('postgres', q{SELECT events FROM get('promoted', '60s')}), 'z:2', 'after promotion it goes on');

$standby->stop;
done_testing();
