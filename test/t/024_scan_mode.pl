# Without logical decoding, for whatever reason, the sequencer scans and says
# so; and no setting of the server brings it to a halt.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('scan', conf => 'wal_level = replica');
my $load = { mixed => q{
\set s random(1, 20)
\set end random(1, 10)
BEGIN;
INSERT INTO orders (stream_id, type) VALUES ('s-:s', 'Happened');
SAVEPOINT a;
INSERT INTO orders (stream_id, type) SELECT 's-:s', 'Happened' FROM generate_series(1, 3);
\if :end = 1
ROLLBACK;
\elif :end < 4
ROLLBACK TO a;
COMMIT;
\else
COMMIT;
\endif
} };

sub set
{
	my (@lines) = @_;
	$node->append_conf('postgresql.conf', join("\n", @lines));
	$node->reload;
}

sub run_load
{
	my ($what) = @_;
	my $bench = start_pgbench($node, [ '-c', 4, '-t', 150, '--max-tries=1' ], $load);
	ok(finish($bench), "load $what") or diag($bench->{err});
	ok(all_published($node), 'all its events are published');
	log_is_right($node, 'each once, every stream in its order');
}

# The control: wal_level = logical has no hint and another mode.
$node->safe_psql('postgres', q{SELECT daybook.create_event_table('orders')});
ok(wait_until('a hint', sub { status($node, 'hint') =~ /wal_level/ }), 'with wal_level = replica a hint says what to set');
is(status($node, 'mode'), 'scanning', 'and the mode is scanning');
run_load('while scanning');
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots'), '0', 'there is no slot');

$node->append_conf('postgresql.conf', 'wal_level = logical');
$node->restart;
ok(wait_for_mode($node, 'decoding'), 'with wal_level = logical the mode is decoding');
is(status($node, 'hint'), '', 'without a hint');
is($node->safe_psql('postgres', 'SELECT temporary FROM pg_replication_slots'), 't', 'the slot is a temporary one');
run_load('while decoding');

# Back and forth under load.
{
	my $bench = start_pgbench($node, [ '-c', 4, '-T', 600, '--max-tries=1' ], $load);
	for my $i (1 .. 6)
	{
		my $mode = $i % 2 ? 'scanning' : 'decoding';

		my $before = event_count($node);
		wait_until('some load', sub { event_count($node) > $before + 300 });
		set('daybook.decoding = ' . ($i % 2 ? 'off' : 'on'));
		ok(wait_for_mode($node, $mode), "under load: $mode");
	}
	stop_load($bench);
	ok(all_published($node), 'changes of mode lose nothing');
	log_is_right($node, 'nor do they publish anything twice');
}

# wal_level goes down and up again, with a crash in between.
for my $level (qw(replica logical minimal logical))
{
	my $bench = start_pgbench($node, [ '-c', 4, '-T', 600, '--max-tries=1' ], $load);
	my $before = event_count($node);
	wait_until('some load', sub { event_count($node) > $before + 300 });
	$node->stop('immediate');
	finish($bench);
	$node->append_conf('postgresql.conf', "wal_level = $level\nmax_wal_senders = " . ($level eq 'minimal' ? 0 : 10));
	$node->start;
	ok(wait_for_mode($node, $level eq 'logical' ? 'decoding' : 'scanning'), "wal_level = $level after a crash");
	ok(all_published($node), 'all events are published');
	log_is_right($node, 'each once');
}

# No slot to be had.
{
	$node->append_conf('postgresql.conf', 'max_replication_slots = 0');
	$node->restart;
	ok(wait_until('a hint', sub { status($node, 'hint') =~ /max_replication_slots/ }), 'without replication slots a hint says so');
	run_load('without replication slots');

	$node->append_conf('postgresql.conf', 'max_replication_slots = 1');
	$node->restart;
	ok(wait_for_mode($node, 'decoding'), 'with one slot it decodes');
	set('daybook.decoding = off');
	ok(wait_for_mode($node, 'scanning'), 'and lets go of it');
	$node->safe_psql('postgres', q{SELECT pg_create_physical_replication_slot('other')});
	set('daybook.decoding = on');
	ok(wait_until('a hint', sub { status($node, 'hint') =~ /replication slots are in use/ }), 'when others have all slots a hint says so');
	run_load('without a free slot');
	$node->safe_psql('postgres', q{SELECT pg_drop_replication_slot('other')});
	ok(wait_for_mode($node, 'decoding', 'postgres', 90), 'when one is free again it is taken');
	$node->append_conf('postgresql.conf', 'max_replication_slots = 10');
	$node->restart;
}

# A transaction in the way of a slot costs one short wait, not one after the
# other: a try that is given up is a transaction that is rolled back.
{
	my $tries = q{SELECT xact_rollback FROM pg_stat_database WHERE datname = 'postgres'};
	my $publish = sub {
		$node->safe_psql('postgres', q{INSERT INTO orders (stream_id, type) VALUES ('timed', 'Happened')});
		return all_published($node);
	};
	my $open = $node->background_psql('postgres');
	$open->set_query_timer_restart;
	$open->query_safe('BEGIN; SELECT pg_current_xact_id()');
	$node->safe_psql('postgres', 'SELECT pg_terminate_backend(pid) FROM daybook.sequencer_status');
	ok(wait_until('a hint', sub { status($node, 'hint') =~ /in progress/ }), 'a transaction in progress keeps it scanning');
	# the round of the try says what it did at its end
	$publish->() for 1 .. 2;
	my $before = $node->safe_psql('postgres', $tries);
	my $published = grep { $publish->() } 1 .. 60;
	is($published, 60, 'meanwhile events are published');
	is($node->safe_psql('postgres', $tries), $before, 'without another try for a slot');
	$open->query_safe('ROLLBACK');
	$open->quit;
	ok(wait_for_mode($node, 'decoding'), 'when it has ended decoding begins');
}

# Settings that are meant for clients.
{
	my @hostile = (
		'default_transaction_isolation = serializable',
		'default_transaction_read_only = on',
		'default_transaction_deferrable = on',
		'lock_timeout = 1',
		'session_replication_role = replica',
		'temp_file_limit = 0',
		'work_mem = 64',
		'search_path = nowhere',
		'synchronous_commit = off',
		'logical_decoding_work_mem = 1GB');
	my $reset = 'SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED READ WRITE NOT DEFERRABLE;
		SET lock_timeout = 0; SET session_replication_role = origin;
		SET temp_file_limit = -1; SET work_mem = 4096; SET search_path = public;';

	for my $mode (qw(decoding scanning))
	{
		set(@hostile, 'daybook.decoding = ' . ($mode eq 'decoding' ? 'on' : 'off'));
		$node->restart;
		my $count = 'SELECT (SELECT count(*) FROM public.orders) = (SELECT count(*) FROM daybook.log), mode FROM daybook.sequencer_status';
		$node->safe_psql('postgres', qq{
			$reset
			CREATE OR REPLACE FUNCTION public.lies(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true';
			INSERT INTO orders (stream_id, type) SELECT 'hostile-' || i % 10, 'Happened' FROM generate_series(1, 2000) i});
		ok(wait_until('events', sub { $node->safe_psql('postgres', $reset . $count) eq "t|$mode" }, 20),
			"settings for clients leave the sequencer alone while $mode");
	}
	my $conf = slurp_file($node->data_dir . '/postgresql.conf');
	my $these = join('|', map { (split / /)[0] } @hostile);
	$conf =~ s/^(?:$these) = .*\n//mg;
	open(my $handle, '>', $node->data_dir . '/postgresql.conf') or die $!;
	print $handle $conf;
	close $handle;
	set('daybook.decoding = on');
	$node->restart;
	log_is_right($node, 'and each event is there once');
}

# synchronous_commit may be turned off while the sequencer runs: what is in
# the log stays there.
{
	my $lost = 0;
	for my $i (1 .. 5)
	{
		ok(wait_for_mode($node, 'decoding'), 'decoding');
		set('synchronous_commit = off', 'wal_writer_delay = 10s');
		ok(wait_until('the setting', sub { $node->safe_psql('postgres', 'SHOW synchronous_commit') eq 'off' }), 'synchronous_commit is off');
		$node->safe_psql('postgres', q{INSERT INTO orders (stream_id, type) VALUES ('durable', 'Happened')}) for 1 .. 5;
		all_published($node);
		my $seen = $node->safe_psql('postgres', 'SELECT position, id FROM daybook.log ORDER BY position DESC LIMIT 20');
		$node->stop('immediate');
		set_and_start();
		my $now = $node->safe_psql('postgres', 'SELECT position, id FROM daybook.log WHERE position <= ' . (split(/\|/, $seen))[0] . ' ORDER BY position DESC LIMIT 20');
		$lost++ if $now ne $seen;
	}
	is($lost, 0, 'what was in the log is there after a crash, though synchronous_commit was turned off meanwhile');

	sub set_and_start
	{
		$node->append_conf('postgresql.conf', 'synchronous_commit = on');
		$node->start;
	}
}

# The view says what is amiss: where there is a slot that cannot be relied on
# yet, and where there is no worker.
{
	ok(wait_for_mode($node, 'decoding'), 'decoding');
	my $open = $node->background_psql('postgres');
	$open->query_safe('BEGIN; SELECT pg_current_xact_id()');
	$node->safe_psql('postgres', q{
		SET daybook.restore = on;
		INSERT INTO orders (id, stream_id, version, type) SELECT max(id) + 1000, 'restored', 1, 'Happened' FROM orders});
	ok(wait_for_mode($node, 'scanning'), 'after a restore of events it scans beside the slot');
	ok(wait_until('a hint', sub { status($node, 'hint') =~ /in progress/ }, 10), 'and says what it waits for');
	my $begin = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
	$node->safe_psql('postgres', q{SELECT count(pg_logical_emit_message(false, 'filler', repeat('x', 1024 * 1024))) FROM generate_series(1, 20)});
	ok(wait_until('the confirmed place', sub {
		$node->safe_psql('postgres', q{INSERT INTO orders (stream_id, type) VALUES ('meanwhile', 'Happened')});
		return $node->safe_psql('postgres', "SELECT confirmed_flush_lsn >= '$begin' FROM pg_replication_slots") eq 't';
	}, 10), 'it lets go of WAL meanwhile');
	$open->query_safe('ROLLBACK');
	$open->quit;
	ok(wait_for_mode($node, 'decoding'), 'which passes');
	is(status($node, 'hint'), '', 'and the hint with it');

	my $launcher = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'daybook launcher'});
	kill 'STOP', $launcher;
	$node->safe_psql('postgres', 'SELECT pg_terminate_backend(pid) FROM daybook.sequencer_status');
	ok(wait_until('no worker', sub { sequencer_pid($node) eq '' }), 'there is no worker');
	is(status($node, 'lag_bytes'), '', 'its lag is not known');
	kill 'CONT', $launcher;
	ok(wait_for_mode($node, 'decoding'), 'there is one again');
	is(status($node, 'last_published_at'), '', 'which has published nothing yet');
}

# Where each table has ids of its own, a pass reads what it can publish, and not
# as much of each table.
{
	set('daybook.decoding = off');
	$node->safe_psql('postgres', 'CREATE DATABASE apart');
	$node->safe_psql('apart', 'CREATE EXTENSION daybook');
	$node->safe_psql('apart', "SELECT daybook.create_event_table('t$_')") for 1 .. 4;
	my $read = 0;

	# those made last have the lowest ids, then the other way around
	for my $order ([ reverse 1 .. 4 ], [ 1 .. 4 ])
	{
		$node->safe_psql('apart', 'BEGIN; ' . join('; ', map {
			"INSERT INTO t$_ (stream_id, type) SELECT 's-' || i % 100, 'Happened' FROM generate_series(1, 30000) i" } @$order) . '; COMMIT');
		my $before = $read;
		my $head = $before ? 240000 : 120000;
		ok(wait_until('the events', sub { status($node, "head = $head", 'apart') eq 't' }), "events of t@$order are published");
		$read = $node->safe_psql('apart', q{SELECT sum(idx_tup_fetch) FROM pg_stat_user_indexes WHERE indexrelname ~ '^t\d_pkey'});
		cmp_ok($read - $before, '<', 200000, 'without each being read again and again');
	}
	log_is_right($node, 'in the right order', 'apart');
	$node->safe_psql('postgres', 'DROP DATABASE apart');
}

# While a table is locked the place in the WAL that somebody may wait for is not
# passed: there is no need to look for that as often as if it came at once.
{
	set('daybook.decoding = off');
	$node->safe_psql('postgres', 'CREATE DATABASE locked');
	$node->safe_psql('locked', q{CREATE EXTENSION daybook; SELECT daybook.create_event_table(t) FROM unnest('{orders,invoices}'::text[]) t});
	ok(wait_for_mode($node, 'scanning', 'locked'), 'scanning');
	my $lock = $node->background_psql('locked');
	$lock->query_safe('BEGIN; LOCK TABLE invoices IN ACCESS EXCLUSIVE MODE');
	$node->safe_psql('locked', q{INSERT INTO orders (stream_id, type) VALUES ('s', 'Happened')});
	ok(wait_until('the event', sub { status($node, 'head', 'locked') eq '1' }), 'an event of another table is published');
	my $rounds = sub { return $node->safe_psql('postgres', q{SELECT xact_commit FROM pg_stat_database WHERE datname = 'locked'}) };
	my $before = $rounds->();
	my $began = Time::HiRes::time();
	ok(wait_until('rounds', sub { $rounds->() >= $before + 12 }), 'it goes on looking');
	cmp_ok(Time::HiRes::time() - $began, '>', 2, 'and less and less often');
	$lock->query_safe('COMMIT');
	$lock->quit;
	my $now = $node->safe_psql('locked', 'SELECT pg_current_wal_insert_lsn()');
	ok(wait_until('the place', sub { status($node, "sequenced_lsn >= '$now'", 'locked') eq 't' }, 10), 'then the place is passed');
	$node->safe_psql('postgres', 'DROP DATABASE locked');
}

# The last id that there is: nothing comes above it.
{
	set('daybook.decoding = off');
	$node->safe_psql('postgres', 'CREATE DATABASE last');
	$node->safe_psql('last', q{CREATE EXTENSION daybook; SELECT daybook.create_event_table('orders')});
	$node->safe_psql('last', q{
		SET daybook.restore = on;
		INSERT INTO orders (id, stream_id, version, type) VALUES (5, 's', 1, 'Happened'), (9223372036854775807, 's', 2, 'Happened')});
	ok(all_published($node, 'last', 10), 'an event with the last id is published');
	my $now = $node->safe_psql('last', 'SELECT pg_current_wal_insert_lsn()');
	ok(wait_until('another round', sub { status($node, "sequenced_lsn >= '$now'", 'last') eq 't' }, 10), 'it is looked for once more');
	log_is_right($node, 'each once', 'last');
	$node->safe_psql('postgres', 'DROP DATABASE last');
}

$node->stop;
is(join("\n", server_log_lines($node, qr/PANIC|TRAP|terminated by signal|daybook sequencer ERROR/)), '', 'the sequencer has met no error');
done_testing();
