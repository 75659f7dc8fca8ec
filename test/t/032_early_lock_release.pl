# With daybook.early_lock_release the next append to a stream begins before
# this one is on disk, and whoever was told of a commit finds it after a crash.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('early', conf => q{
fsync = on
synchronous_commit = on
wal_writer_delay = 10s
wal_writer_flush_after = 1GB
checkpoint_timeout = 1h
autovacuum = off
daybook.early_lock_release = on
});
$node->safe_psql('postgres', q{SELECT daybook.create_event_table('orders')});

# Clients that append to one stream and note the version of each event that
# they were told is there.
sub start_clients
{
	my ($count, $settings) = @_;
	my $script = $node->basedir . '/appends.sql';
	my @clients;

	open(my $file, '>', $script) or die $!;
	print $file "INSERT INTO orders (stream_id, type) VALUES ('hot', 'Happened') RETURNING version;\n" for 1 .. 20_000;
	close $file;
	local $ENV{PGOPTIONS} = $settings;
	for my $i (1 .. $count)
	{
		my %client = (told => $node->basedir . "/told_$i", err => '');

		$client{run} = IPC::Run::start([ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr('postgres'), '-f', $script ],
			'<', '/dev/null', '>', $client{told}, '2>', \$client{err});
		push @clients, \%client;
	}
	return @clients;
}

# Lets the clients append, crashes the server in the midst of it, and returns
# how many of the versions that they were told of are gone.
sub lost_in_crash
{
	my ($settings) = @_;
	my $before = event_count($node);
	my $sequencer = sequencer_pid($node);
	my $lost = 0;

	# it would flush for the others
	kill 'STOP', $sequencer;
	my @clients = start_clients(8, $settings);

	ok(wait_until('appends', sub { event_count($node) > $before + 500 }), 'clients append to one stream');
	$node->stop('immediate');
	kill 'KILL', $sequencer;
	eval { IPC::Run::finish($_->{run}) } for @clients;
	$node->start;
	for my $client (@clients)
	{
		my @told = grep { /^\d+$/ } split /\n/, slurp_file($client->{told});

		$lost += $node->safe_psql('postgres', sprintf(q{
			SELECT count(*) FROM unnest('{%s}'::bigint[]) v WHERE v NOT IN (SELECT version FROM orders WHERE stream_id = 'hot')}, join ',', @told));
	}
	return $lost;
}

for my $round (1 .. 3)
{
	is(lost_in_crash(''), 0, 'no event that a client was told of is lost');
	ok(all_published($node), 'all that is left is published');
	log_is_right($node, 'and its versions have no gap');
}
my $lost = 0;
for my $crash (1 .. 5)
{
	last if $lost = lost_in_crash('-c synchronous_commit=off');
}
cmp_ok($lost, '>', 0, 'the control: without waiting for the disk some are');

# One session is slow to flush; how often does another append after it before it is told?
sub went_on_early
{
	my ($settings) = @_;
	my $slow = $node->background_psql('postgres');
	my $pid = $slow->query_safe('SELECT pg_backend_pid()');
	my $early = 0;

	$slow->query_safe("SET commit_delay = 100000; SET commit_siblings = 0; $settings");
	for my $try (1 .. 10)
	{
		my $stream = "slow-$try$settings";

		$slow->query_until(qr/begun/, "\\echo begun\nINSERT INTO orders (stream_id, type) VALUES ('$stream', 'Happened');\n");
		my $state = $node->safe_psql('postgres', qq{
			BEGIN;
			DO \$\$
			BEGIN
				WHILE NOT EXISTS (SELECT FROM orders WHERE stream_id = '$stream') LOOP
					PERFORM pg_sleep(0.001);
				END LOOP;
				INSERT INTO orders (stream_id, type) VALUES ('$stream', 'Happened');
			END \$\$;
			SELECT state FROM pg_stat_activity WHERE pid = $pid;
			ROLLBACK});
		$early++ if $state eq 'active';
		$slow->query_safe('SELECT 1');
	}
	$slow->quit;
	return $early;
}

cmp_ok(went_on_early(''), '>=', 5, 'others go on while a commit is being flushed');
cmp_ok(went_on_early('SET daybook.early_lock_release = off;'), '<=', 2, 'but not without the setting');

# What must not change.
my $session = $node->background_psql('postgres', on_error_stop => 0);
my $setting = sub { return $session->query('SHOW synchronous_commit') };
$session->query_safe(q{
CREATE TABLE checked (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE dropped (n int);
INSERT INTO checked VALUES (1);
SET synchronous_commit = remote_write});
$session->query_safe(q{INSERT INTO orders (stream_id, type) VALUES ('setting', 'Happened')});
is($setting->(), 'remote_write', 'the setting is as before after a commit');
$session->query(q{BEGIN; INSERT INTO orders (stream_id, type) VALUES ('setting', 'Happened'); INSERT INTO checked VALUES (1); COMMIT});
is($setting->(), 'remote_write', 'after one that fails');
$session->query(q{BEGIN; INSERT INTO orders (stream_id, type) VALUES ('setting', 'Happened'); ROLLBACK});
is($setting->(), 'remote_write', 'after a rollback');
$session->query(q{BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO orders (stream_id, type) VALUES ('setting', 'Happened'); COMMIT});
is($setting->(), 'remote_write', 'in a serializable transaction');
$session->query(q{BEGIN; SAVEPOINT s; INSERT INTO orders (stream_id, type) VALUES ('setting', 'Happened'); RELEASE s; DROP TABLE dropped; COMMIT});
is($setting->(), 'remote_write', 'in one that drops a table');
$session->query(q{BEGIN; INSERT INTO orders (stream_id, type) VALUES ('setting', 'Happened'); PREPARE TRANSACTION 'early'});
is($setting->(), 'remote_write', 'and after PREPARE TRANSACTION');
my $next = $node->background_psql('postgres');
$next->query_until(qr/begun/, "\\echo begun\nINSERT INTO orders (stream_id, type) VALUES ('setting', 'Happened');\n");
ok(wait_until('the next append', sub { $node->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE NOT granted}) }),
	'a prepared transaction keeps its stream');
$session->query(q{COMMIT PREPARED 'early'});
$next->query_safe('SELECT 1');
$next->quit;
is($session->query(q{SELECT string_agg(version::text, ',' ORDER BY id) FROM orders WHERE stream_id = 'setting'}), '1,2,3,4,5',
	'until it has been committed');
$session->quit;

# With synchronous standbys a commit cannot be seen before they have it.
$node->append_conf('postgresql.conf', q{synchronous_standby_names = 'nobody'});
$node->reload;
ok(wait_until('the setting', sub { $node->safe_psql('postgres', 'SHOW synchronous_standby_names') eq 'nobody' }), 'a standby is waited for');
my $waiting = $node->background_psql('postgres');
$waiting->query_until(qr/begun/, "\\echo begun\nINSERT INTO orders (stream_id, type) VALUES ('standby', 'Happened');\n");
ok(wait_until('a wait', sub { $node->safe_psql('postgres', q{
	SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND backend_type = 'client backend'}) }), 'by a commit');
is($node->safe_psql('postgres', q{SELECT count(*) FROM orders WHERE stream_id = 'standby'}), 0, 'which nobody sees');
$node->append_conf('postgresql.conf', q{synchronous_standby_names = ''});
$node->reload;
$waiting->query_safe('SELECT 1');
$waiting->quit;
is($node->safe_psql('postgres', q{SELECT count(*) FROM orders WHERE stream_id = 'standby'}), 1, 'until it need not wait any more');

# Many clients on few streams, with rollbacks and savepoints, to two tables at once.
$node->safe_psql('postgres', q{SELECT daybook.create_event_table('invoices')});
my $count = int(events_wanted(100_000) / 16);
my $load = start_pgbench($node, [ '-c', 16, '-j', 2, '-t', $count ], {
	single => q{
\set s random(1, 3)
INSERT INTO orders (stream_id, type) VALUES ('busy-:s', 'Happened');
},
	block => q{
\set s random(1, 3)
\set end random(1, 10)
BEGIN;
SAVEPOINT s;
INSERT INTO invoices (stream_id, type) VALUES ('busy-:s', 'Happened');
\if :end = 1
ROLLBACK TO s;
\endif
INSERT INTO invoices (stream_id, type) VALUES ('busy-:s', 'Happened');
\if :end = 2
ROLLBACK;
\else
COMMIT;
\endif
} });
ok(finish($load), 'load on few streams');
ok(all_published($node), 'all is published');
log_is_right($node, 'each event once, versions without gaps');

$node->stop;
is(join("\n", server_log_lines($node, qr/PANIC|TRAP|WARNING|terminated by signal/)), '', 'nothing has crashed');
done_testing();
