# The sequencer is ended at any moment, many times, and loses its slot: nothing
# is missing and nothing is published twice.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $wanted = events_wanted(60_000);
my $seed = $ENV{DAYBOOK_TEST_SEED} || int(rand(1_000_000));
srand($seed);
note "DAYBOOK_TEST_SEED=$seed";

my $node = new_node('interrupted', conf => q{
fsync = off
restart_after_crash = on
});
$node->safe_psql('postgres', q{
SELECT daybook.create_event_table('orders');
SELECT daybook.create_event_table('invoices')});

my $load = {
	'one@3' => q{
\set s random(1, 100)
INSERT INTO orders (stream_id, type) VALUES ('order-:s', 'Happened');
},
	'some@2' => q{
\set s random(1, 100)
BEGIN;
INSERT INTO orders (stream_id, type) SELECT 'order-:s', 'Happened' FROM generate_series(1, 10);
SAVEPOINT a;
INSERT INTO invoices (stream_id, type) VALUES ('invoice-:s', 'Happened');
ROLLBACK TO a;
INSERT INTO invoices (stream_id, type) VALUES ('invoice-:s', 'Happened');
COMMIT;
},
	'many@1' => q{
\sleep 20 ms
INSERT INTO invoices (stream_id, type) SELECT 'mass-' || i % 50, 'Happened' FROM generate_series(1, 400) i;
},
	'undone@1' => q{
BEGIN;
INSERT INTO orders (stream_id, type) VALUES ('undone', 'Happened');
ROLLBACK;
},
};

# The sequencer is terminated again and again, at moments of no plan.
{
	my $bench = start_pgbench($node, [ '-c', 6, '-T', 3600 ], $load);
	my $control = $node->background_psql('postgres');
	$control->query_safe(q{SELECT FROM pg_create_logical_replication_slot('control', 'test_decoding', true)});
	my $kills = 0;
	my ($first, $second, $count) = (0, 0, 0);
	while (($count = event_count($node)) < $wanted || $kills < 25 || !$second)
	{
		$kills += kill_backend($node, 'TERM', q{backend_type = 'daybook sequencer'});
		usleep(rand(300_000));

		# the control: who reads a slot alone, and loses it on the way
		if (!$first && $count > $wanted / 3)
		{
			$control->query_safe(q{SELECT count(*) FROM pg_logical_slot_get_changes('control', NULL, NULL)});
			$first = $node->safe_psql('postgres', 'SELECT max(id) FROM orders');
			$control->quit;
		}
		elsif ($first && !$second && $count > $wanted / 2)
		{
			$second = $node->safe_psql('postgres', 'SELECT max(id) FROM orders');
			$control = $node->background_psql('postgres');
			$control->query_safe(q{SELECT FROM pg_create_logical_replication_slot('control', 'test_decoding', true)});
		}
	}
	stop_load($bench);
	cmp_ok($kills, '>', 20, "the sequencer was terminated $kills times");
	ok(all_published($node), 'all events are published');
	log_is_right($node, 'each once');
	my $missed = $node->safe_psql('postgres', "SELECT count(*) FROM orders WHERE id BETWEEN $first + 200 AND $second - 200");
	my $decoded = $control->query_safe(qq{
		SELECT count(*) FROM pg_logical_slot_get_changes('control', NULL, NULL)
		WHERE (regexp_match(data, 'orders: INSERT: id\\[bigint\\]:(\\d+)'))[1]::bigint BETWEEN $first + 200 AND $second - 200});
	$control->quit;
	cmp_ok($missed - $decoded, '>', 0, "a reader of slots alone would lack " . ($missed - $decoded) . " of $missed events");
}

# It is killed outright, and takes the server's other processes with it.
for my $i (1 .. 4)
{
	my $before = event_count($node);
	my $bench = start_pgbench($node, [ '-c', 6, '-T', 3600 ], $load);
	wait_until('some load', sub { event_count($node) > $before + 1000 });
	ok(kill_backend($node, 'KILL', q{backend_type = 'daybook sequencer'}), 'the sequencer is killed');
	finish($bench);
	# a psql that cannot connect may be gone before it is written to
	wait_until('the server', sub { eval { ($node->psql('postgres', 'SELECT 1'))[0] == 0 } });
}
ok(all_published($node), 'all events are published');
log_is_right($node, 'each once');

# A slot is made while nobody else flushes the WAL, as when the postmaster has died.
{
	my $writer = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'});
	my $before = sequencer_pid($node);
	my $offset = -s $node->logfile;
	my $bench = start_pgbench($node, [ '-c', 4, '-T', 3600 ], { unflushed => q{
BEGIN;
SELECT pg_current_xact_id();
\sleep 20 ms
COMMIT;
} }, 'postgres', '-c synchronous_commit=off');
	wait_until('the load', sub {
		$node->safe_psql('postgres', 'SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL') > 1 });
	kill 'STOP', $writer;
	kill_backend($node, 'TERM', q{backend_type = 'daybook sequencer'});
	ok(wait_until('another worker', sub { sequencer_pid($node) !~ /^(|$before)$/ }), 'a sequencer begins');
	ok(wait_for_mode($node, 'decoding'), 'it makes its slot though the WAL writer stands still');
	ok(server_log_lines($node, qr/Waiting for transactions/, $offset) > 0, 'having waited for transactions');
	kill_server($node);
	kill 'KILL', $writer;
	stop_load($bench);
	ok(start_again($node), 'no process outlives the postmaster');
	ok(wait_for_mode($node, 'decoding'), 'decoding');
}

# The slot loses its WAL, while the sequencer does not get on.
{
	$node->append_conf('postgresql.conf', "max_slot_wal_keep_size = 16MB\nmax_wal_size = 64MB\nmin_wal_size = 32MB");
	$node->restart;
	ok(wait_for_mode($node, 'decoding'), 'decoding');
	my $pid = sequencer_pid($node);
	kill 'STOP', $pid;
	my $bench = start_pgbench($node, [ '-c', 3, '-t', 100 ], $load);
	finish($bench);
	$node->safe_psql('postgres', q{
		CREATE TABLE elsewhere AS SELECT i, repeat('x', 500) FROM generate_series(1, 200000) i;
		SELECT pg_switch_wal()});
	my $checkpoint = $node->background_psql('postgres');
	$checkpoint->query_until(qr/begun/, "\\echo begun\nCHECKPOINT;\n");
	ok(wait_until('the checkpointer', sub { server_log_lines($node, qr/terminating process $pid to release replication slot/) }),
		'the slot is in the way of a checkpoint');
	kill 'CONT', $pid;
	$checkpoint->query_safe('SELECT 1');
	$checkpoint->quit;
	ok(wait_until('another worker', sub { my $now = sequencer_pid($node); $now ne '' && $now ne $pid }), 'a sequencer without the slot begins');
	ok(wait_for_mode($node, 'decoding'), 'and gets another');
	ok(all_published($node), 'all events are published');
	log_is_right($node, 'each once');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_replication_slots}), 1, 'no slot is left behind');

	# what comes counts what one slot does, which on a slow machine would be lost too often
	$node->append_conf('postgresql.conf', 'max_slot_wal_keep_size = -1');
	$node->reload;
}

# What a savepoint rolls back of a transaction that is decoded in parts, some
# of which PostgreSQL has had to put on disk in between: rows that are not
# complete yet, because they have values out of line or may be taken back.
{
	my @undone = (
		q{SELECT 'Undone', 'undone', 1, jsonb_build_object('text', string_agg(md5(i::text), '')) FROM generate_series(1, 400000) i},
		map { "SELECT 'Undone', 'undone', i, jsonb_build_object('text', repeat('x', $_)) FROM generate_series(1, 5000) i ON CONFLICT DO NOTHING" } 1 .. 6);

	ok(wait_for_mode($node, 'decoding'), 'decoding');
	for my $rows (@undone)
	{
		$node->safe_psql('postgres', qq{
BEGIN;
SAVEPOINT a;
INSERT INTO orders (type, stream_id, version, data) $rows;
ROLLBACK TO a;
INSERT INTO orders (type, stream_id) VALUES ('Done', 'done');
COMMIT});
	}
	ok(all_published($node), 'they are published');
	log_is_right($node, 'nothing that was rolled back');
}

# Large transactions, which are decoded in parts while they are in progress:
# rolled back as a whole or by savepoints, nested, prepared, over two tables,
# with rows passed over, and with values out of line.
{
	my $before = event_count($node);
	my $rows = 'generate_series(1, 4000) i';
	my $bench = start_pgbench($node, [ '-c', 6, '-T', 3600 ], {
		'savepoint@3' => qq{
BEGIN;
INSERT INTO orders (stream_id, type) SELECT format('part-%s-%s', :client_id, i % 10), 'Happened' FROM $rows;
SAVEPOINT a;
INSERT INTO orders (stream_id, type) SELECT format('part-%s-%s', :client_id, i % 10), 'Undone' FROM $rows;
ROLLBACK TO a;
INSERT INTO orders (stream_id, type) SELECT format('part-%s-%s', :client_id, i % 10), 'Happened' FROM generate_series(1, 500) i;
COMMIT;
},
		'nested@2' => q{
DO $$
BEGIN
	FOR i IN 1 .. 60 LOOP
		BEGIN
			INSERT INTO orders (stream_id, type) SELECT 'nested-:client_id-' || j % 7, 'Tried' FROM generate_series(1, 100) j;
			BEGIN
				INSERT INTO invoices (stream_id, type) SELECT 'nested-:client_id-' || j % 7, 'Tried' FROM generate_series(1, 30) j;
				IF i % 2 = 0 THEN RAISE division_by_zero; END IF;
			EXCEPTION WHEN division_by_zero THEN NULL;
			END;
			INSERT INTO orders (stream_id, type) VALUES ('nested-:client_id', 'Between');
			IF i % 3 = 0 THEN RAISE division_by_zero; END IF;
		EXCEPTION WHEN division_by_zero THEN NULL;
		END;
	END LOOP;
END $$;
},
		'undone@2' => qq{
BEGIN;
INSERT INTO orders (stream_id, type) SELECT format('undone-%s-%s', :client_id, i % 10), 'Undone' FROM $rows;
ROLLBACK;
},
		'prepared@2' => qq{
\\set keep random(0, 1)
BEGIN;
INSERT INTO invoices (stream_id, type) SELECT format('prepared-%s-%s', :client_id, i % 10), 'Prepared' FROM $rows;
PREPARE TRANSACTION 'parts:client_id';
\\if :keep
COMMIT PREPARED 'parts:client_id';
\\else
ROLLBACK PREPARED 'parts:client_id';
\\endif
},
		'passed_over@1' => qq{
INSERT INTO orders (stream_id, version, type) SELECT format('passed-%s-%s', :client_id, (i - 1) % 10), 1 + (i - 1) / 10, 'Once' FROM $rows ON CONFLICT DO NOTHING;
},
		'out_of_line@1' => q{
INSERT INTO orders (stream_id, type, data)
SELECT format('long-%s-%s', :client_id, i % 10), 'Happened', jsonb_build_object('text', (SELECT string_agg(md5(i || '-' || j), '') FROM generate_series(1, 100) j))
FROM generate_series(1, 300) i;
},
		'single@6' => q{
INSERT INTO orders (stream_id, type) VALUES ('single-:client_id', 'Happened');
} });
	my $in_parts = 'SELECT coalesce(sum(stream_txns), 0) FROM pg_stat_replication_slots';
	for my $i (1 .. 3)
	{
		wait_until('load', sub { event_count($node) > $before + 40_000 }, 300);
		ok(wait_until('parts', sub { $node->safe_psql('postgres', $in_parts) > 5 }), 'transactions are decoded in parts');
		kill_backend($node, 'TERM', q{backend_type = 'daybook sequencer'});
		$before = event_count($node);
	}
	stop_load($bench);
	resolve_prepared($node);
	ok(all_published($node), 'they are published');
	log_is_right($node, 'each event once');
}

$node->stop;
is(join("\n", server_log_lines($node, qr/PANIC|TRAP|terminated by signal (?!9:)/)), '', 'nothing has crashed by itself');
done_testing();
