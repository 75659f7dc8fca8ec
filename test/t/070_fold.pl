# Folds of long streams, and the worker that takes snapshots of them.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = new_node('fold');
my $dir = PostgreSQL::Test::Utils::tempdir;
my $events = events_wanted(1_000_000);

sub sql { return $node->safe_psql(@_ == 1 ? ('postgres', @_) : @_) }

# the largest anonymous memory of a process while a statement of it runs
sub peak_memory
{
	my ($session, $statement) = @_;
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	my $sampler = fork();

	if ($sampler == 0)
	{
		my $peak = 0;
		local $SIG{TERM} = sub {
			open my $out, '>', "$dir/peak" or POSIX::_exit(1);
			print $out $peak;
			close $out;
			POSIX::_exit(0);
		};
		while (1)
		{
			if (open my $status, '<', "/proc/$pid/status")
			{
				for (<$status>) { $peak = $1 if /^RssAnon:\s+(\d+)/ && $1 > $peak }
			}
			usleep(5_000);
		}
	}
	my $result = $session->query_safe($statement);
	kill 'TERM', $sampler;
	waitpid $sampler, 0;
	return ($result, slurp_file("$dir/peak") / 1024);
}

sql(q{
SELECT daybook.create_event_table('account');
CREATE FUNCTION apply(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RETURN jsonb_build_object('events', (state->>'events')::int + 1, 'balance', (state->>'balance')::numeric + (e.data->>'amount')::numeric);
END $$;
CREATE FUNCTION total(state numeric, e daybook.event) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$ SELECT state + (e.data->>'amount')::numeric $$;
CREATE FUNCTION last_ten(state text[], e daybook.event) RETURNS text[] LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN RETURN (state || (e.data->>'amount'))[greatest(array_length(state, 1) - 8, 1):]; END $$;
CREATE FUNCTION renamed(data jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN jsonb_build_object('amount', data->'sum'); END $$;
SELECT daybook.create_event_table('big');
SELECT daybook.create_upcaster('big', 'Old', 1, 'renamed(jsonb)', 'Deposited');
SELECT daybook.create_fold('big', 'big', 'apply(jsonb, daybook.event)', '{"events": 0, "balance": 0}', 0);
SELECT daybook.create_fold('big_total', 'big', 'total(numeric, daybook.event)', 0, 0);
SELECT daybook.create_fold('big_last_ten', 'big', 'last_ten(text[], daybook.event)', '{}', 0);
});
sql(qq{INSERT INTO big (stream_id, type, data)
SELECT 'long', CASE i % 10 WHEN 0 THEN 'Old' ELSE 'Deposited' END, jsonb_build_object(CASE i % 10 WHEN 0 THEN 'sum' ELSE 'amount' END, i % 7, 'note', repeat('x', i % 50))
FROM generate_series(1, $events) i});
my $total = sql(qq{SELECT sum(i % 7) FROM generate_series(1, $events) i});

# memory stays flat
my $session = $node->background_psql('postgres');
for my $fold ([ big => qq{{"events": $events, "balance": $total}} ], [ big_total => $total ])
{
	my ($result, $peak) = peak_memory($session, "SELECT daybook.fold('$fold->[0]', 'long')");
	is($result, $fold->[1], "$fold->[0]: all events are taken in");
	cmp_ok($peak, '<', 64, "$fold->[0]: with less than 64 MB");
}
my ($rows, $peak) = peak_memory($session, "SELECT count(state) FROM daybook.fold_all('big_last_ten', NULL::text[])");
cmp_ok($peak, '<', 64, 'fold_all and an array: with less than 64 MB');
sql(q{
SELECT daybook.create_event_table('named');
CREATE FUNCTION counts(state int, e daybook.event) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT state + 1 $$;
SELECT daybook.create_fold('named', 'named', 'counts(int, daybook.event)', 0, 0);
INSERT INTO named (stream_id, type, data) SELECT repeat('x', 100000), 'T', '{}' FROM generate_series(1, 2000);
});
($rows, $peak) = peak_memory($session, "SELECT state FROM daybook.fold_all('named')");
is($rows, 2000, 'fold_all and a stream whose name is stored compressed: all events are taken in');
cmp_ok($peak, '<', 64, 'with less than 64 MB');
sql(q{SELECT daybook.drop_event_table('named', force => true)});
$session->quit;

# a fold is cancelled at once, and the session goes on
$session = $node->background_psql('postgres', on_error_stop => 0);
for my $statement ("SELECT daybook.fold('big', 'long')", "SELECT count(*) FROM daybook.fold_all('big')", "SELECT daybook.take_snapshot('big', 'long')")
{
	my $began = time();

	$session->query(q{SET statement_timeout = '100ms'});
	$session->query($statement);
	like($session->{stderr}, qr/canceling statement due to statement timeout/, "cancelled: $statement");
	cmp_ok(time() - $began, '<', 5, 'soon');
	$session->{stderr} = '';
	$session->query('RESET statement_timeout');
	is($session->query(q{SELECT daybook.fold('big', 'long', 3)}), '{"events": 3, "balance": 6}', 'the session goes on');
}
$session->quit;

# a snapshot near the end makes the state cheap
sql(qq{SELECT daybook.take_snapshot('big', 'long'); INSERT INTO big (stream_id, type, data) SELECT 'long', 'Deposited', '{"amount": 1}' FROM generate_series(1, $events / 100) i});
$session = $node->background_psql('postgres');
$session->query_safe(q{SELECT daybook.fold('big', 'long', 10)});
my @seconds;
for my $statement (q{SELECT daybook.fold('big', 'long')}, q{BEGIN; DELETE FROM daybook.fold_snapshot; SELECT daybook.fold('big', 'long'); ROLLBACK})
{
	my $began = time();
	$session->query_safe($statement);
	push @seconds, time() - $began;
}
note(sprintf('%.3f s with a snapshot, %.3f s without', @seconds));
cmp_ok($seconds[0], '<', $seconds[1] / 20, 'a fold from a snapshot at 99 % takes less than a twentieth');
$session->quit;

# the worker takes them
sub newest
{
	my ($fold, $stream) = @_;
	return sql(qq{SELECT coalesce(max(version), 0) FROM daybook.fold_snapshot WHERE fold = '$fold' AND stream_id = '$stream'});
}
sub worker { return sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'daybook snapshots'}) }

is(worker(), '', 'no worker as long as no fold takes snapshots');
sql(q{SELECT daybook.create_fold('big_ten', 'big', 'total(numeric, daybook.event)', 0, 10)});
ok(wait_until('events of before', sub { newest('big_ten', 'long') >= $events }), 'events of before the fold are caught up with');
cmp_ok(sql(q{SELECT count(*) FROM daybook.fold_snapshot WHERE stream_id = 'long' AND fold = 'big_ten'}), '<', 20, 'a long stream keeps few of them');
sql(q{SELECT daybook.drop_event_table('big', force => true)});

sql(q{
CREATE FUNCTION picky(state int, e daybook.event) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN IF e.stream_id = 'bad' THEN RAISE EXCEPTION 'no such account'; END IF; RETURN state + 1; END $$;
SELECT daybook.create_upcaster('account', 'Old', 1, 'renamed(jsonb)', 'Deposited');
SELECT daybook.create_fold('account', 'account', 'apply(jsonb, daybook.event)', '{"events": 0, "balance": 0}', 0);
SELECT daybook.create_fold('last_ten', 'account', 'last_ten(text[], daybook.event)', '{}', 0);
SELECT daybook.create_fold('ten', 'account', 'total(numeric, daybook.event)', 0, 10);
SELECT daybook.create_fold('picky', 'account', 'picky(int, daybook.event)', 0, 5);
INSERT INTO account (stream_id, type, data) SELECT s, 'Deposited', '{"amount": 1}' FROM unnest('{bad,good,short}'::text[]) s, generate_series(1, CASE s WHEN 'short' THEN 4 ELSE 25 END);
});
ok(wait_until('a snapshot', sub { newest('ten', 'good') == 25 && newest('picky', 'good') == 25 }), 'streams get snapshots');
is(newest('ten', 'short'), 0, 'but not short ones');
is(newest('picky', 'bad'), 0, 'and none where the transition fails');
ok(wait_until('the error', sub { sql(q{SELECT name, error_sqlstate, error_stream_id, error_message FROM daybook.fold_status WHERE error_at IS NOT NULL}) eq 'picky|P0001|bad|no such account' }), 'which the status shows');
is(scalar(server_log_lines($node, qr/could not take a snapshot/)), 1, "and the server's log, once");
for my $i (1 .. 6)
{
	sql(q{INSERT INTO account (stream_id, type, data) VALUES ('good', 'Deposited', '{"amount": 1}')});
}
ok(wait_until('the next snapshot', sub { newest('ten', 'good') == 30 || newest('picky', 'good') == 30 }), 'the next one comes in its time');
ok(wait_until('no lag', sub { sql(q{SELECT max(snapshot_lag) FROM daybook.fold_status}) == 0 }), 'the worker has caught up');
is(sql(q{SELECT daybook.fold('ten', 'good'), daybook.fold('picky', 'good')}), '31|31', 'states are right');

# off the path of appends: a transition that takes long holds up none
sql(q{
CREATE FUNCTION slow(state int, e daybook.event) RETURNS int LANGUAGE plpgsql AS $$ BEGIN IF e.stream_id LIKE 'slow%' THEN PERFORM pg_sleep(1); END IF; RETURN state + 1; END $$;
SELECT daybook.create_fold('slow', 'account', 'slow(int, daybook.event)', 0, 1);
});
my $began = time();
for my $i (1 .. 5)
{
	is(sql(qq{BEGIN; INSERT INTO account (stream_id, type, data) VALUES ('slow-$i', 'Deposited', '{"amount": 1}'); SELECT count(*) FROM daybook.fold_snapshot WHERE stream_id = 'slow-$i'; COMMIT}), 0, 'no snapshot in the appending transaction');
}
cmp_ok(time() - $began, '<', 4, 'and appends do not wait for it');
ok(wait_until('snapshots', sub { sql(q{SELECT count(*) FROM daybook.fold_snapshot WHERE fold = 'slow' AND stream_id LIKE 'slow%'}) == 5 }), 'but it comes');
sql(q{SELECT daybook.drop_fold('slow')});

# a fold that cannot be computed any more is not told of with every event
sql(q{
CREATE FUNCTION gone(state int, e daybook.event) RETURNS int LANGUAGE sql AS 'SELECT state';
SELECT daybook.create_fold('gone', 'account', 'gone(int, daybook.event)', 0, 1);
DROP FUNCTION gone(int, daybook.event);
});
for my $i (1 .. 10)
{
	sql(qq{INSERT INTO account (stream_id, type, data) VALUES ('gone', 'Deposited', '{"amount": 1}')});
	ok(wait_until('a snapshot', sub { newest('picky', 'gone') == $i }), 'the others go on') if $i % 5 == 0;
}
is(sql(q{SELECT error_sqlstate, error_stream_id FROM daybook.fold_status WHERE name = 'gone'}), '42883|', 'the status shows the error');
cmp_ok(scalar(server_log_lines($node, qr/could not take a snapshot of fold "gone"/)), '<', 4, "the server's log has it once a minute");
sql(q{SELECT daybook.drop_fold('gone')});

# as the fold's owner, who may lose the right to read
sql(q{
SELECT daybook.create_event_table('confided');
CREATE ROLE confidant;
CREATE SCHEMA confidant AUTHORIZATION confidant;
GRANT SELECT ON confided TO confidant;
SET ROLE confidant;
CREATE TABLE confidant.seen (data jsonb);
CREATE FUNCTION confidant.copies(state int, e daybook.event) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO confidant.seen VALUES (e.data); RETURN state + 1; END $$;
SELECT daybook.create_fold('confided', 'confided', 'confidant.copies(int, daybook.event)', 0, 1);
RESET ROLE;
INSERT INTO confided (stream_id, type, data) VALUES ('a', 'T', '"open"');
});
ok(wait_until('a snapshot', sub { newest('confided', 'a') == 1 }), 'while the owner may read the event table there are snapshots');
sql(q{REVOKE SELECT ON confided FROM confidant; INSERT INTO confided (stream_id, type, data) VALUES ('a', 'T', '"secret"')});
ok(wait_until('the error', sub { sql(q{SELECT error_sqlstate FROM daybook.fold_status WHERE name = 'confided'}) eq '42501' }), 'after that there are none');
is(sql(q{SELECT string_agg(data::text, ' ') FROM confidant.seen}), '"open"', 'and the transition gets no events');
sql(q{GRANT SELECT ON confided TO confidant; INSERT INTO confided (stream_id, type, data) VALUES ('b', 'T', '"open"')});
ok(wait_until('snapshots', sub { newest('confided', 'a') == 2 && newest('confided', 'b') == 1 }), 'with the right back, the worker goes on where it was');
sql(q{SELECT daybook.drop_event_table('confided', force => true); DROP OWNED BY confidant; DROP ROLE confidant});

# deleting them all changes nothing
my $all = q{SELECT string_agg(a::text, ' ' ORDER BY a.stream_id) FROM daybook.fold_all('ten') a};
my $with = sql($all);
cmp_ok(sql(q{SELECT daybook.drop_snapshots('ten')}), '>', 0, 'there were snapshots');
is(sql($all), $with, 'without them the states are the same');

# a transition that has changed
sql(q{CREATE OR REPLACE FUNCTION picky(state int, e daybook.event) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN state + 2; END $$});
is(sql(q{SELECT daybook.fold('picky', 'good')}), 62, 'a changed transition is right at once');
sql(q{INSERT INTO account (stream_id, type, data) VALUES ('other', 'Deposited', '{"amount": 1}')});
ok(wait_until('new snapshots', sub { newest('picky', 'bad') == 25 }), 'and its streams get new snapshots');

# the worker comes back
my $pid = worker();
ok($pid, 'there is a worker');
sql(qq{SELECT pg_terminate_backend($pid)});
sql(q{INSERT INTO account (stream_id, type, data) SELECT 'later', 'Deposited', '{"amount": 1}' FROM generate_series(1, 10) i});
ok(wait_until('snapshots of another worker', sub { newest('ten', 'later') == 10 }), 'after it was ended, another goes on');
$node->restart('immediate');
sql(q{INSERT INTO account (stream_id, type, data) SELECT 'after-crash', 'Deposited', '{"amount": 1}' FROM generate_series(1, 10) i});
ok(wait_until('snapshots after a crash', sub { newest('ten', 'after-crash') == 10 }), 'after a crash too');

# dumped and restored: definitions yes, snapshots no, and states the same
sql(q{SELECT daybook.register_event_type('account', 'Closed', 1, mode => 'warn')});
my $states = q{SELECT string_agg(f || stream_id || ' ' || (daybook.fold(f, stream_id))::text, ', ' ORDER BY f, stream_id) FROM unnest('{account,ten,picky,last_ten}'::text[]) f, (SELECT DISTINCT stream_id FROM account) s};
my $schema = q{SELECT d::text FROM (SELECT name, owner, event_table, transition, initial, snapshot_every, created_at FROM daybook.fold_definition) d UNION ALL SELECT u::text FROM daybook.upcaster u UNION ALL SELECT e::text FROM daybook.event_type e ORDER BY 1};
my ($states_before, $schema_before) = (sql($states), sql($schema));
for my $format ('plain', 'directory')
{
	my $database = "restored_$format";

	sql("CREATE DATABASE $database");
	if ($format eq 'plain')
	{
		$node->command_ok([ 'pg_dump', '-f', "$dir/dump.sql", 'postgres' ], 'pg_dump');
		$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $database, '-f', "$dir/dump.sql" ], 'restored');
	}
	else
	{
		$node->command_ok([ 'pg_dump', '-Fd', '-j', 2, '-f', "$dir/dump", 'postgres' ], 'pg_dump -Fd');
		$node->command_ok([ 'pg_restore', '-j', 2, '-d', $database, "$dir/dump" ], 'restored in parallel');
	}
	is(sql($database, $schema), $schema_before, "$format: folds, upcasters and event types are there");
	is(sql($database, $states), $states_before, "$format: states are the same");
	ok(wait_until('snapshots', sub { sql($database, q{SELECT count(*) FROM daybook.fold_snapshot WHERE fold = 'ten' AND stream_id = 'good'}) > 0 }), "$format: snapshots are taken anew");
	is(sql($database, q{SELECT count(*) FROM daybook.fold_status WHERE error_at IS NOT NULL}), 0, "$format: without an error");
	sql("DROP DATABASE $database");
}

# the worker stands in nobody's way
sql(q{SELECT daybook.drop_fold('ten')});
ok(worker() ne '', 'still a fold that takes snapshots');
sql(q{SELECT daybook.drop_fold('picky')});
ok(wait_until('no worker', sub { worker() eq '' }), 'without one the worker leaves');
sql(q{SELECT daybook.create_fold('again', 'account', 'total(numeric, daybook.event)', 0, 10)});
ok(wait_until('a worker', sub { worker() ne '' }), 'with one it comes again');
sql(q{SELECT daybook.drop_event_table('account', force => true)});
sql(q{DROP EXTENSION daybook CASCADE});
ok(wait_until('no worker', sub { worker() eq '' }), 'DROP EXTENSION ends it');
$node->stop;
done_testing();
