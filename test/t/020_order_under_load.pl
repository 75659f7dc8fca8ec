# Writers of every kind, killed at random with their backends and with the
# whole server: each committed event gets exactly one position, and readers of
# the log miss nothing, while a reader by id does.
#
# DAYBOOK_TEST_EVENTS sets how many events are made.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $wanted = events_wanted(100_000);
my $seed = $ENV{DAYBOOK_TEST_SEED} || int(rand(1_000_000));
srand($seed);
note "DAYBOOK_TEST_SEED=$seed";

my $node = new_node('load', conf => q{
restart_after_crash = on
deadlock_timeout = 100ms
wal_writer_delay = 1s
checkpoint_timeout = 30s
fsync = off
});
$node->safe_psql('postgres', q{
SELECT daybook.create_event_table('orders');
SELECT daybook.create_event_table('invoices')});

my %scripts = (
	'single@6' => q{
\set s random(1, 200)
INSERT INTO orders (stream_id, type, data) VALUES ('order-:s', 'Placed', '{"n": 1}');
},
	'unflushed@4' => q{
\set s random(1, 200)
SET synchronous_commit = off;
INSERT INTO invoices (stream_id, type) VALUES ('invoice-:s', 'Sent');
RESET synchronous_commit;
},
	'several@4' => q{
\set s random(1, 200)
\set n random(1, 30)
INSERT INTO orders (stream_id, type) SELECT 'order-:s', 'Changed' FROM generate_series(1, :n);
},
	'function@2' => q{
\set s random(1, 200)
SELECT daybook.append('orders', 'order-:s', '[{"type": "Packed"}, {"type": "Shipped"}]'::jsonb);
},
	'slow@3' => q{
\set s random(1, 200)
\set t random(1, 30)
BEGIN;
INSERT INTO orders (stream_id, type) VALUES ('order-:s', 'Started');
\sleep :t ms
INSERT INTO orders (stream_id, type) VALUES ('order-:s', 'Finished');
COMMIT;
},
	'savepoints@3' => q{
\set s random(1, 200)
\set keep random(0, 1)
BEGIN;
INSERT INTO orders (stream_id, type) VALUES ('order-:s', 'First');
SAVEPOINT a;
INSERT INTO orders (stream_id, type) SELECT 'order-:s', 'Tried' FROM generate_series(1, 3);
INSERT INTO invoices (stream_id, type) VALUES ('invoice-:s', 'Tried');
\if :keep
RELEASE a;
\else
ROLLBACK TO a;
\endif
INSERT INTO orders (stream_id, type) VALUES ('order-:s', 'Last');
COMMIT;
},
	'subtransactions@1' => q{
DO $$ BEGIN
	FOR i IN 1 .. 80 LOOP
		BEGIN
			INSERT INTO orders (stream_id, type) VALUES ('nested-' || i % 5, 'Nested');
			IF i % 3 = 0 THEN RAISE division_by_zero; END IF;
		EXCEPTION WHEN division_by_zero THEN NULL;
		END;
	END LOOP;
END $$;
},
	'rollback@2' => q{
\set s random(1, 200)
BEGIN;
INSERT INTO orders (stream_id, type) SELECT 'order-:s', 'Undone' FROM generate_series(1, 5);
ROLLBACK;
},
	'prepared@2' => q{
\set s random(1, 200)
\if :pending = 0
BEGIN;
INSERT INTO orders (stream_id, type) SELECT 'prepared-:s', 'Prepared' FROM generate_series(1, 2);
PREPARE TRANSACTION 'p:client_id';
\set pending 1
\elif :pending = 1
COMMIT PREPARED 'p:client_id';
\set pending random(0, 0)
\endif
},
	'mass@1' => q{
\set s random(1, 20)
INSERT INTO invoices (stream_id, type) SELECT 'mass-' || (i + :s) % 50, 'Many' FROM generate_series(1, 300) i;
},
);

sub is_up
{
	return ($node->psql('postgres', 'SELECT 1'))[0] == 0;
}

my %done;
my @interruptions = (
	[ 'a backend is killed', sub { kill_backend($node, 'KILL', q{backend_type = 'client backend' AND application_name = 'pgbench'}) } ],
	[ 'a backend is terminated', sub { kill_backend($node, 'TERM', q{backend_type = 'client backend' AND application_name = 'pgbench'}) } ],
	[ 'the sequencer is killed', sub { kill_backend($node, 'KILL', q{backend_type = 'daybook sequencer'}) } ],
	[ 'the sequencer is terminated', sub { kill_backend($node, 'TERM', q{backend_type = 'daybook sequencer'}) for 1 .. 3 } ],
	[ 'the server is killed', sub { kill_server($node) } ],
	[ 'the server is stopped at once', sub { $node->stop('immediate') } ],
	[ 'the launcher is terminated', sub { kill_backend($node, 'TERM', q{backend_type = 'daybook launcher'}) } ],
);

my @readers = map { start_reader($node, $_) } qw(committed repeatable naive);
my $step = $wanted / 12;
my $goal = 0;
my $turn = 0;
while (event_count($node) < $wanted)
{
	resolve_prepared($node);
	my $load = start_pgbench($node, [ '-c', 8, '-T', 3600, '-D', 'pending=0', '--random-seed', int(rand(1_000_000)) ], \%scripts);

	$goal += $step / 2 + rand($step);
	wait_until('more events', sub {
		my ($failed, $count) = $node->psql('postgres', 'SELECT (SELECT count(*) FROM orders) + (SELECT count(*) FROM invoices)');
		return $failed || $count >= $goal || $count >= $wanted || !$load->{run}->pumpable;
	}, 600);
	my $interruption = $interruptions[ $turn++ % @interruptions ];
	$interruption->[1]->();
	$done{ $interruption->[0] }++;
	start_again($node) if $interruption->[0] =~ /^the server/;
	stop_load($load);
	wait_until('the server', \&is_up);
}
resolve_prepared($node);
cmp_ok(event_count($node), '>=', $wanted, 'there are ' . event_count($node) . ' events');
is(scalar(keys %done), scalar(@interruptions), join(', ', map { "$_ ($done{$_} times)" } sort keys %done));

ok(all_published($node, 'postgres', 300), 'all are published');
log_is_right($node, 'positions are dense, each event has one, every stream rises');
stop_readers(@readers);
is(reader_faults($node, $readers[0]), '', 'a reader at READ COMMITTED saw all of the log as it is now');
is(reader_faults($node, $readers[1]), '', 'a reader at REPEATABLE READ too');
cmp_ok(reader_misses($node, $readers[2]), '>', 0,
	'a reader by id has missed ' . reader_misses($node, $readers[2]) . ' events');

# The checks themselves: a log with a fault is found out.
$node->safe_psql('postgres', q{
DELETE FROM daybook.log_segment WHERE first_position = (SELECT max(first_position) FROM daybook.log_segment)});
like(log_faults($node), qr/committed event .* is missing/, 'a missing event is found');
like(reader_faults($node, $readers[0]), qr/which is not there/, 'and so is a position that a reader saw');

$node->stop;
is(join("\n", server_log_lines($node, qr/PANIC|TRAP|terminated by signal (?!9:)/)), '', 'nothing has crashed by itself');
done_testing();
