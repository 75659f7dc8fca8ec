# Moments at which the sequencer could lose an event or publish one twice,
# each brought about on purpose.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('races');
$node->safe_psql('postgres', q{SELECT daybook.create_event_table('orders')});

sub append
{
	my ($stream, $table) = @_;
	$table ||= 'orders';
	$node->safe_psql('postgres', "INSERT INTO $table (stream_id, type) VALUES ('$stream', 'Happened')");
}

# Holds the sequencer up within its next round, after it has written to the log.
# It takes a position that the round will want, and gives it back in the end.
sub hold_up_round
{
	my $blocker = $node->background_psql('postgres');

	$blocker->query_safe(q{BEGIN; INSERT INTO daybook.log_segment SELECT daybook.head() + 1, 1, ''});
	append('held-up');
	ok(wait_until('the sequencer waits within a round', sub {
		$node->safe_psql('postgres', q{
			SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = (SELECT pid FROM daybook.sequencer_status)});
	}), 'a round is held up after it has written');
	return $blocker;
}

# Whoever reads the log while a round of the sequencer is under way must take
# its rows for what they are: uncommitted.
{
	ok(wait_for_mode($node, 'decoding'), 'the sequencer decodes');
	append('before');
	all_published($node);
	my $blocker = hold_up_round();
	is($node->safe_psql('postgres', q{
		SELECT xact_start > (SELECT xact_start FROM pg_stat_activity WHERE query LIKE 'INSERT INTO daybook.log_segment%')
		FROM pg_stat_activity WHERE pid = (SELECT pid FROM daybook.sequencer_status)}), 't',
		'its transaction is as old as the round, not as the worker');
	append('after');
	is($node->safe_psql('postgres', 'SELECT sum(event_count) FROM daybook.log_segment'), 1, 'the round cannot be seen');
	$blocker->query_safe('ROLLBACK');
	$blocker->quit;
	ok(all_published($node, 'postgres', 20), 'nor is it lost for having been looked at');
	log_is_right($node, 'reading the log during a round harms nothing');
}

# Marks that run ahead of a scan lose what it has not come to, if the worker
# ends just then.
{
	$node->safe_psql('postgres', 'CREATE DATABASE marks');
	$node->safe_psql('marks', 'CREATE EXTENSION daybook');
	$node->safe_psql('marks', q{SELECT daybook.create_event_table('orders')});
	my $oldest = $node->background_psql('marks');
	$oldest->query_safe('BEGIN; SELECT pg_current_xact_id()');	# keeps the marks where they are
	my $bulk = q{INSERT INTO orders (stream_id, type) SELECT 'bulk-' || i % 100, 'Happened' FROM generate_series(1, %s) i};
	$node->safe_psql('marks', sprintf($bulk, 100_000));
	my $late = $node->background_psql('marks');
	$late->query_safe(q{BEGIN; INSERT INTO orders (stream_id, type) VALUES ('late', 'Happened')});
	$node->safe_psql('marks', sprintf($bulk, 100));
	ok(all_published($node, 'marks'), 'a mass of events is published, one is not');

	my ($launcher) = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'daybook launcher'});
	kill 'STOP', $launcher;
	$node->safe_psql('marks', 'SELECT pg_terminate_backend(pid) FROM daybook.sequencer_status');
	$late->query_safe('COMMIT');
	$late->quit;
	$oldest->query_safe('COMMIT');
	$oldest->quit;
	my $low_water = $node->safe_psql('marks', 'SELECT low_water FROM daybook.sequencer_state');
	my $killer = $node->background_psql('marks');
	$killer->query_until(qr/begun/, qq{\\echo begun
DO \$\$
BEGIN
	WHILE (SELECT low_water FROM daybook.sequencer_state) = $low_water LOOP
		PERFORM pg_sleep(0.001);
	END LOOP;
	PERFORM pg_terminate_backend(pid) FROM daybook.sequencer_status;
END \$\$;
});
	kill 'CONT', $launcher;
	$killer->query_safe('SELECT 1');
	$killer->quit;
	ok(all_published($node, 'marks', 20), 'a worker that is ended as soon as it has moved its marks loses nothing');
	log_is_right($node, 'nor does it publish twice', 'marks');
	$node->safe_psql('postgres', 'DROP DATABASE marks');
}

# A table that is dropped while the worker waits for a look at it.
{
	$node->safe_psql('postgres', q{SELECT daybook.create_event_table('doomed')});
	append('x', 'doomed') for 1 .. 3;
	all_published($node);
	my $dropping = $node->background_psql('postgres');
	$dropping->query_safe(q{BEGIN; SELECT daybook.drop_event_table('doomed', force => true)});
	$node->safe_psql('postgres', q{SELECT daybook.create_event_table('invoices')});
	append('i-1', 'invoices');
	append('o-1');
	ok(wait_until('other tables', sub { status($node, 'head') == event_count_of('orders') + event_count_of('invoices') + 3 }, 10),
		'others are published while a table is being dropped');
	$dropping->query_safe('COMMIT');
	$dropping->quit;
	append('i-1', 'invoices');
	ok(all_published($node), 'and afterwards');
	log_is_right($node, 'the dropped table leaves its positions behind');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM daybook.log WHERE event_table IS NULL'), 3, 'without a name');
}

sub event_count_of
{
	my ($table) = @_;
	return $node->safe_psql('postgres', "SELECT count(*) FROM $table");
}

# A table that is dropped with events that have not been published.
{
	$node->safe_psql('postgres', q{SELECT daybook.create_event_table('doomed')});
	append('x', 'doomed');
	all_published($node);
	my $blocker = hold_up_round();
	append("x-$_", 'doomed') for 1 .. 5;
	append("o-$_") for 1 .. 5;

	# the round in hand has the old table locked no more than the others
	$node->safe_psql('postgres', q{SELECT daybook.drop_event_table('doomed', force => true)});
	$blocker->query_safe('ROLLBACK');
	$blocker->quit;
	append('o-6');
	ok(all_published($node), 'events of a dropped table are not waited for');
	log_is_right($node, 'and the rest is there');
}

# The transaction that makes a table also fills it: the news of the table can
# come after that of its events.
for my $mode (qw(decoding scanning))
{
	$node->append_conf('postgresql.conf', 'daybook.decoding = ' . ($mode eq 'decoding' ? 'on' : 'off'));
	$node->reload;
	ok(wait_for_mode($node, $mode), "now $mode");
	my $load = start_pgbench($node, [ '-c', 4, '-T', 600 ], { races => q{
\set s random(1, 50)
INSERT INTO orders (stream_id, type) VALUES ('r-:s', 'Happened');
} });
	$node->safe_psql('postgres', q{
CREATE OR REPLACE PROCEDURE make_tables(prefix text, count int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. count LOOP
		PERFORM daybook.create_event_table(prefix || i);
		EXECUTE format('INSERT INTO %I (stream_id, type) VALUES (''m'', ''Happened''), (''m'', ''Happened'')', prefix || i);
		COMMIT;
	END LOOP;
END $$});
	my @making = map {
		IPC::Run::start([ $node->installed_command('psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'),
			'-c', "CALL make_tables('${mode}_${_}_', 40)" ], '>', '/dev/null');
	} 1 .. 2;
	my $succeeded = 0;
	$succeeded += IPC::Run::finish($_) for @making;
	is($succeeded, 2, 'tables are made during load');
	stop_load($load);
	ok(all_published($node), 'their events and all others are published');
	log_is_right($node, 'each once');
}
# An event table that somebody has locked exclusively holds up no other.
for my $mode (qw(decoding scanning))
{
	$node->append_conf('postgresql.conf', 'daybook.decoding = ' . ($mode eq 'decoding' ? 'on' : 'off'));
	$node->reload;
	ok(wait_for_mode($node, $mode), "now $mode");
	all_published($node);
	append('before', 'invoices');
	my $lock = $node->background_psql('postgres');
	$lock->query_safe(q{BEGIN; LOCK TABLE invoices IN ACCESS EXCLUSIVE MODE});
	my $head = $node->safe_psql('postgres', 'SELECT count(*) FROM daybook.log WHERE event_table = ' . "'orders'::regclass");
	$node->safe_psql('postgres', 'ANALYZE orders');		# makes the worker look at its tables
	append('while-locked') for 1 .. 5;
	ok(wait_until('orders', sub {
		$node->safe_psql('postgres', q{SELECT count(*) FROM daybook.log WHERE event_table = 'orders'::regclass}) == $head + 5;
	}, 10), "$mode goes on while an event table is locked");
	$lock->query_safe(q{INSERT INTO invoices (stream_id, type) VALUES ('locked', 'Happened')});
	append('later') for 1 .. 5;
	$lock->query_safe('COMMIT');

	# locked as soon as something has been committed there
	my $pid = sequencer_pid($node);
	kill 'STOP', $pid;
	append('just-before', 'invoices');
	my $commit = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
	$lock->query_safe(q{BEGIN; LOCK TABLE invoices IN ACCESS EXCLUSIVE MODE});
	kill 'CONT', $pid;
	$head = $node->safe_psql('postgres', q{SELECT count(*) FROM daybook.log WHERE event_table = 'orders'::regclass});
	append('while-locked') for 1 .. 5;
	ok(wait_until('orders', sub {
		$node->safe_psql('postgres', q{SELECT count(*) FROM daybook.log WHERE event_table = 'orders'::regclass}) >= $head + 5;
	}, 10), "$mode goes on again");
	is($node->safe_psql('postgres', "SELECT sequenced_lsn >= '$commit' FROM daybook.sequencer_status"), $mode eq 'decoding' ? 't' : 'f',
		'what had to be left out does not count as sequenced');
	$lock->query_safe('COMMIT');
	$lock->quit;
	ok(all_published($node), 'and the events of that table come when it is free');
	log_is_right($node, 'each once');
}

# A table comes within reach while another is still out of it, as in a restore.
# What is in the log, or was passed over meanwhile, must not be taken for new.
{
	$node->safe_psql('postgres', 'CREATE DATABASE joining');
	$node->safe_psql('joining', 'CREATE EXTENSION daybook');
	$node->safe_psql('joining', "SELECT daybook.create_event_table('$_')") for qw(first second third);
	my $insert = q{INSERT INTO %s (stream_id, type) VALUES ('s', 'Happened')};
	my $second_is_published = sub {
		$node->safe_psql('joining', sprintf($insert, 'second'));
		return wait_until('the second table', sub { $node->safe_psql('joining', q{
			SELECT (SELECT count(*) FROM second) = (SELECT count(*) FROM daybook.log WHERE event_table = 'second'::regclass)}) eq 't' }, 10);
	};
	my ($oldest, $writer, $first, $third) = map { $node->background_psql('joining') } 1 .. 4;

	$oldest->query_safe('BEGIN; SELECT pg_current_xact_id()');	# keeps the marks where they are
	$node->safe_psql('joining', sprintf($insert, 'first')) for 1 .. 3;
	ok(all_published($node, 'joining'), 'published before the tables are locked');
	$first->query_safe('BEGIN; LOCK TABLE first IN ACCESS EXCLUSIVE MODE');
	$third->query_safe('BEGIN; LOCK TABLE third IN ACCESS EXCLUSIVE MODE');
	my $pid = sequencer_pid($node, 'joining');
	$node->safe_psql('joining', "SELECT pg_terminate_backend($pid)");
	ok(wait_until('another sequencer', sub { status($node, q{pid <> } . $pid, 'joining') eq 't' }), 'started without two tables');
	ok($second_is_published->(), 'it goes past the ids of the first');
	$first->query_safe('COMMIT');
	$oldest->query_safe('COMMIT');
	ok($second_is_published->(), 'the first table is there, the third is not');

	# committed with the next one waiting for its lock: the scan goes past the id
	$writer->query_safe('BEGIN; ' . sprintf($insert, 'first'));
	$first->query_until(qr/begun/, "\\echo begun\nBEGIN; LOCK TABLE first IN ACCESS EXCLUSIVE MODE;\n");
	ok(wait_until('a lock', sub { $node->safe_psql('joining', q{SELECT count(*) FROM pg_locks WHERE relation = 'first'::regclass AND NOT granted}) }),
		'the first table is waited for');
	$writer->query_safe('COMMIT');
	ok($second_is_published->(), 'it is locked again, with an event that nobody has published');
	$first->query_safe(sprintf($insert, 'first') . '; COMMIT');
	ok($second_is_published->(), 'and there again, with another');
	$third->query_safe('COMMIT');
	$_->quit for $oldest, $writer, $first, $third;
	ok(all_published($node, 'joining'), 'with the third all is published');
	log_is_right($node, 'each event once, in the order of versions', 'joining');
	$node->safe_psql('postgres', 'DROP DATABASE joining');
}

# REINDEX and the like change what the worker knows of a table.
{
	my $load = start_pgbench($node, [ '-c', 3, '-T', 600 ], { reindex => q{
\set s random(1, 50)
INSERT INTO orders (stream_id, type) VALUES ('r-:s', 'Happened');
} });
	for my $i (1 .. 3)
	{
		$node->safe_psql('postgres', $_)
		  for ('REINDEX TABLE CONCURRENTLY orders', 'REINDEX TABLE orders', 'VACUUM FULL orders', 'ANALYZE');
	}
	stop_load($load);
	ok(all_published($node), 'scanning survives REINDEX and VACUUM FULL');
	log_is_right($node, 'with nothing lost');
	$node->append_conf('postgresql.conf', 'daybook.decoding = on');
	$node->reload;
	ok(wait_for_mode($node, 'decoding'), 'decoding again');
}

# Whatever somebody does to the publication, no event is lost.  What would stop
# it is refused, and has to be done to the catalogs.
{
	my $by_hand = 'SET allow_system_table_mods = on; UPDATE pg_publication SET ';
	my %tampering = (
		'a table is taken out' => 'ALTER PUBLICATION daybook DROP TABLE orders',
		'inserts are not published' => $by_hand . 'pubinsert = false',
		'other columns are' => 'ALTER PUBLICATION daybook SET TABLE orders (version)',
		'rows are filtered' => 'ALTER PUBLICATION daybook SET TABLE orders (id) WHERE (id < 0)',
		'another table is put in' => 'CREATE TABLE other (n bigint); ALTER PUBLICATION daybook ADD TABLE other; INSERT INTO other SELECT generate_series(1, 1000)',
		'tables are left out' => 'ALTER PUBLICATION daybook SET TABLE other',
	);
	for my $refused ('RENAME TO elsewhere', q{SET (publish = 'update')})
	{
		my (undef, undef, $error) = $node->psql('postgres', "ALTER PUBLICATION daybook $refused");
		like($error, qr/cannot alter publication daybook/, "refused: $refused");
	}
	for my $what (sort keys %tampering)
	{
		append('first');
		$node->psql('postgres', $tampering{$what});	# where it is not refused
		append('then');
		ok(all_published($node, 'postgres', 8), "$what: all events are published at once");
	}
	my $open = $node->background_psql('postgres');
	$open->query_safe(q{BEGIN; INSERT INTO orders (stream_id, type) VALUES ('open-1', 'Happened')});
	$node->safe_psql('postgres', 'ALTER PUBLICATION daybook DROP TABLE orders');
	$open->query_safe(q{INSERT INTO orders (stream_id, type) VALUES ('open-2', 'Happened')});
	append('then');
	ok(wait_until('the event after', sub {
		$node->safe_psql('postgres', q{SELECT count(*) FROM daybook.log l JOIN orders o USING (id) WHERE stream_id = 'then'}) == 7;
	}, 8), 'a transaction open at the change holds up no other');
	$open->query_safe(q{INSERT INTO orders (stream_id, type) VALUES ('open-3', 'Happened'); COMMIT});
	$open->quit;
	ok(all_published($node, 'postgres', 8), 'and none of its own events is lost');

	$node->safe_psql('postgres', $by_hand . q{pubname = 'elsewhere' WHERE pubname = 'daybook'});
	append('renamed') for 1 .. 3;
	ok(all_published($node, 'postgres', 20), 'without its publication the sequencer scans');
	ok(wait_until('a hint', sub { status($node, 'hint') =~ /publication/ }, 10), 'and says so');
	$node->safe_psql('postgres', $by_hand . q{pubname = 'daybook' WHERE pubname = 'elsewhere'});
	append('back');
	ok(wait_for_mode($node, 'decoding', 'postgres', 90), 'with it, it decodes again');
	ok(all_published($node), 'with all events');
	log_is_right($node, 'each once');
}

# The same behind the sequencer's back, so that it finds all in order.
{
	my $pid = sequencer_pid($node);
	my $stopped = sub {
		kill 'STOP', $pid;
		$node->safe_psql('postgres', $_) for @_;
	};

	$stopped->('ALTER PUBLICATION daybook DROP TABLE orders', q{INSERT INTO orders (stream_id, type) VALUES ('meanwhile', 'Happened')},
		'ALTER PUBLICATION daybook ADD TABLE orders (id)');
	kill 'CONT', $pid;
	append('then');
	ok(all_published($node, 'postgres', 8), 'an event that was not decoded since its table was out of the publication is found');

	# with the publication locked, and a table that goes while it is
	$node->safe_psql('postgres', q{SELECT daybook.create_event_table('victim')});
	append('v', 'victim');
	ok(all_published($node), 'a table that will go');
	$stopped->('ALTER PUBLICATION daybook DROP TABLE orders');
	my $making = $node->background_psql('postgres');
	$making->query_safe(q{BEGIN; SELECT daybook.create_event_table('never_made')});
	my $query = q{SELECT count(*) FROM daybook.log WHERE event_table = 'invoices'::regclass};
	my $before = $node->safe_psql('postgres', $query);
	kill 'CONT', $pid;
	append('i', 'invoices');
	ok(wait_until('invoices', sub { $node->safe_psql('postgres', $query) == $before + 1 }, 10),
		'whoever makes a table holds up no events, though the publication is to be put right');
	$node->safe_psql('postgres', q{SELECT daybook.drop_event_table('victim', force => true)});
	append('then');
	$making->query_safe('ROLLBACK');
	$making->quit;
	append('then');
	ok(all_published($node, 'postgres', 20), 'and then it is');
	is(sequencer_pid($node), $pid, 'by the same worker');

	# a table that is out of reach while it is taken out of the publication
	ok(wait_for_mode($node, 'decoding'), 'decoding');
	my $open = $node->background_psql('postgres');
	$open->query_safe('BEGIN; SELECT pg_current_xact_id()');
	$node->safe_psql('postgres', q{SET daybook.restore = on; INSERT INTO orders (id, version, stream_id, type) VALUES (1000000, 1, 'restored', 'Happened')});
	ok(wait_for_mode($node, 'scanning'), 'scanning beside it, as a transaction is open');
	$stopped->('ALTER PUBLICATION daybook DROP TABLE orders');
	my $lock = $node->background_psql('postgres');
	$lock->query_safe('BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE');
	$before = $node->safe_psql('postgres', $query);
	kill 'CONT', $pid;
	append('i', 'invoices');
	ok(wait_until('invoices', sub { $node->safe_psql('postgres', $query) == $before + 1 }, 10), 'without a table that is locked');
	$lock->query_safe('COMMIT');
	$lock->quit;
	append('i', 'invoices');
	ok(all_published($node), 'with it');
	$open->query_safe('COMMIT');
	$open->quit;
	append('i', 'invoices');
	ok(wait_for_mode($node, 'decoding'), 'decoding');
	append('then');
	ok(all_published($node, 'postgres', 8), 'its events are published');
	log_is_right($node, 'each once');
}

# Rows of COPY FREEZE, which elsewhere anybody sees, with any snapshot.
{
	my $old = $node->background_psql('postgres');
	$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
	$node->safe_psql('postgres', qq{
BEGIN;
SELECT daybook.create_event_table('frozen');
COPY frozen (stream_id, type) FROM stdin (FREEZE);
s\tHappened
\\.
COMMIT;
});
	is($old->query_safe('SELECT count(*) FROM frozen'), 0, 'COPY FREEZE stores events as others are stored');
	$old->query_safe('COMMIT');
	$old->quit;
	ok(all_published($node), 'and they are published');
}

# Where there is always some commit that waits for a standby, the slot lets go
# of the WAL before the first of them.
{
	$node->safe_psql('postgres', 'ALTER DATABASE postgres SET synchronous_commit = local');
	$node->safe_psql('postgres', 'SELECT pg_terminate_backend(pid) FROM daybook.sequencer_status');
	ok(wait_for_mode($node, 'decoding'), 'decoding');
	$node->append_conf('postgresql.conf', q{synchronous_standby_names = 'nobody'});
	$node->reload;
	my $waiting = q{SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' ORDER BY query_start};
	my $commit_that_waits = sub {
		my ($stream, $count) = @_;
		my $session = $node->background_psql('postgres', on_error_stop => 0);

		$session->query_until(qr/begun/, qq{\\echo begun
SET synchronous_commit = on;
INSERT INTO orders (stream_id, type) VALUES ('$stream', 'Happened');
});
		ok(wait_until('a commit that waits', sub { split(/\n/, $node->safe_psql('postgres', $waiting)) == $count }),
			"$count commits wait for a standby");
		return $session;
	};
	my $first = $commit_that_waits->('wait-first', 1);
	$node->safe_psql('postgres', q{SELECT count(pg_logical_emit_message(false, 'filler', repeat('x', 1024 * 1024))) FROM generate_series(1, 20)});
	my $place = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
	my $second = $commit_that_waits->('wait-second', 2);
	$node->safe_psql('postgres', "SELECT pg_cancel_backend(pid) FROM ($waiting LIMIT 1) first");
	ok(wait_until('the confirmed place', sub {
		append('meanwhile');
		return $node->safe_psql('postgres', "SELECT confirmed_flush_lsn >= '$place' FROM pg_replication_slots") eq 't';
	}, 10), 'WAL before the first of these is let go of');
	$node->append_conf('postgresql.conf', q{synchronous_standby_names = ''});
	$node->reload;
	$_->quit for $first, $second;
	ok(all_published($node, 'postgres', 10), 'the events of both are published');
	$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET synchronous_commit');
}

# A large transaction that has committed and cannot be seen yet, since it
# waits for a standby, holds up nobody.
{
	$node->safe_psql('postgres', 'ALTER DATABASE postgres SET synchronous_commit = local');
	$node->safe_psql('postgres', 'SELECT pg_terminate_backend(pid) FROM daybook.sequencer_status');
	ok(wait_for_mode($node, 'decoding'), 'decoding');
	$node->append_conf('postgresql.conf', q{synchronous_standby_names = 'nobody'});
	$node->reload;
	my $before = event_count($node);
	my $waiting = $node->background_psql('postgres');
	$waiting->query_until(qr/begun/, q{\echo begun
SET synchronous_commit = on;
INSERT INTO orders (stream_id, type) SELECT 'wait-' || i % 100, 'Happened' FROM generate_series(1, 30000) i;
});
	ok(wait_until('a commit that waits', sub {
		$node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'}) == 1;
	}), 'a transaction waits for a standby');
	my $rounds = sub { return $node->safe_psql('postgres', q{
		SELECT pg_stat_force_next_flush(); SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'}) };
	append('meanwhile') for 1 .. 20;
	ok(all_published($node, 'postgres', 10), 'others are published');
	is(event_count($node), $before + 20, 'that one is not to be seen, nor in the log');
	my $commit = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
	append('meanwhile');
	ok(all_published($node, 'postgres', 10), 'one more');
	is($node->safe_psql('postgres', "SELECT sequenced_lsn < '$commit' FROM daybook.sequencer_status"), 't',
		'and its commit does not count as sequenced');

	# the same by scanning
	$node->append_conf('postgresql.conf', 'daybook.decoding = off');
	$node->reload;
	ok(wait_for_mode($node, 'scanning'), 'scanning');
	append('meanwhile') for 1 .. 5;
	ok(all_published($node, 'postgres', 10), 'others are published by scanning');
	is($node->safe_psql('postgres', "SELECT sequenced_lsn < '$commit' FROM daybook.sequencer_status"), 't',
		'and again its commit does not count as sequenced');
	$node->append_conf('postgresql.conf', q{synchronous_standby_names = ''});
	$node->reload;
	$waiting->query_safe('SELECT 1');
	$waiting->quit;
	ok(all_published($node, 'postgres', 10), 'when it is over, its events come');
	my $now = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
	append('after');
	ok(wait_until('the LSN', sub { $node->safe_psql('postgres', "SELECT sequenced_lsn >= '$now' FROM daybook.sequencer_status") eq 't' }, 10),
		'and the WAL up to here is sequenced');
	log_is_right($node, 'each event once');
	$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET synchronous_commit');
}

# While it scans, a transaction that stays open must not make each round dearer.
{
	ok(wait_for_mode($node, 'scanning'), 'scanning');
	my $open = $node->background_psql('postgres');
	$open->query_safe(q{BEGIN; INSERT INTO orders (stream_id, type) VALUES ('open', 'Happened')});
	my $load = start_pgbench($node, [ '-c', 6, '-t', 1500 ], { gaps => q{
\set s random(1, 50)
\set abort random(1, 10)
BEGIN;
INSERT INTO orders (stream_id, type) VALUES ('r-:s', 'Happened');
\if :abort = 1
ROLLBACK;
\else
COMMIT;
\endif
} });
	ok(finish($load), 'load while a transaction is open');
	ok(all_published($node), 'all but its event is published');
	cmp_ok(status($node, 'open_gaps'), '<', 10, 'what is missing takes few gaps');

	# and a transaction that is interleaved with others and has more than a pass takes
	$open->query_until(qr/begun/, qq{\\echo begun
INSERT INTO orders (stream_id, type) SELECT 'open-' || i % 100, 'Happened' FROM generate_series(1, 100000) i;
});
	$load = start_pgbench($node, [ '-c', 3, '-T', 600 ], { gaps => q{
\set s random(1, 50)
INSERT INTO orders (stream_id, type) VALUES ('r-:s', 'Happened');
} });
	$open->query_safe(q{COMMIT});
	$open->quit;
	stop_load($load);
	ok(all_published($node), 'a large transaction among others comes in several passes');
	log_is_right($node, 'each event once, every stream in its order');
	is(status($node, 'open_gaps'), 0, 'and no gap is left');
}

# Under load that never pauses, decoding takes over from scanning for good.
{
	my $load = start_pgbench($node, [ '-c', 6, '-T', 600 ], { takeover => q{
\set s random(1, 50)
BEGIN;
INSERT INTO orders (stream_id, type) VALUES ('r-:s', 'Happened');
\sleep 2ms
COMMIT;
} });
	my $before = event_count($node);
	wait_until('some load', sub { event_count($node) > $before + 100 });
	$node->append_conf('postgresql.conf', 'daybook.decoding = on');
	$node->reload;
	ok(wait_for_mode($node, 'decoding'), 'decoding begins under load');
	my $head = $node->safe_psql('postgres', 'SELECT daybook.head()');
	my $lag = $node->safe_psql('postgres', 'SELECT count(*) FROM orders') - $head;
	$before = event_count($node);
	wait_until('more load', sub { event_count($node) > $before + 2000 });
	stop_load($load);
	ok(all_published($node), 'all is published');
	is($node->safe_psql('postgres', qq{
		SELECT count(*) FROM daybook.log l JOIN orders o USING (id)
		WHERE l.position > $head + 100 AND l.committed_at < o.recorded_at + '1 ms'}), 0,
		'from there on in the order and with the times of the commits');
	log_is_right($node, 'each event once');
}

$node->stop;
is(join("\n", server_log_lines($node, qr/PANIC|TRAP|terminated by signal/)), '', 'nothing has crashed');
done_testing();
