# Projections have each event once and in order, however often their workers
# and the server are killed while events pour in; and a rebuilt projection has
# the rows of the one that was kept live.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $events = events_wanted(20_000);
my $node   = new_node('exactly_once', conf => "restart_after_crash = on\ndaybook.max_projectors = 6\n");
my $seed   = $ENV{DAYBOOK_TEST_SEED} || time();
srand($seed);
note("DAYBOOK_TEST_SEED=$seed");

$node->safe_psql('postgres', q{
SELECT daybook.create_event_table('ledger');
SELECT daybook.create_event_table('other_ledger');

-- what does not depend on the order
CREATE TABLE balance (stream_id text PRIMARY KEY, amount bigint NOT NULL, events int NOT NULL);
CREATE TABLE inline_balance (LIKE balance INCLUDING ALL);
-- the last event of a key wins: keys are shared between streams and tables
CREATE TABLE latest (key int PRIMARY KEY, id bigint NOT NULL, position bigint NOT NULL);
-- a digest of all events in their order
CREATE TABLE chain (digest text NOT NULL, events bigint NOT NULL);

CREATE FUNCTION keep_balance(tab text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT replace($q$
		INSERT INTO TAB AS b SELECT stream_id, sum((data->>'amount')::bigint), count(*) FROM new_events GROUP BY 1 ORDER BY 1
		ON CONFLICT (stream_id) DO UPDATE SET amount = b.amount + excluded.amount, events = b.events + excluded.events
	$q$, 'TAB', tab)
$$;
CREATE FUNCTION next_digest(digest text, id bigint) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT md5(digest || id)';
CREATE AGGREGATE digest(bigint) (SFUNC = next_digest, STYPE = text, INITCOND = '');
CREATE FUNCTION add_to_chain(e daybook.log_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	UPDATE chain SET digest = next_digest(digest, e.id), events = events + 1;
	IF NOT FOUND THEN INSERT INTO chain VALUES (next_digest('', e.id), 1); END IF;
END $$;

SELECT daybook.create_projection('balance', '{ledger,other_ledger}', keep_balance('balance'), '{balance}', batch_size => 100);
SELECT daybook.create_projection('inline_balance', '{ledger,other_ledger}', keep_balance('inline_balance'), '{inline_balance}', mode => 'inline');
SELECT daybook.create_projection('latest', '{ledger,other_ledger}', $$
	INSERT INTO latest SELECT DISTINCT ON (1) (data->>'key')::int, id, position FROM new_events ORDER BY 1, position DESC
	ON CONFLICT (key) DO UPDATE SET id = excluded.id, position = excluded.position
$$, '{latest}', batch_size => 37);
SELECT daybook.create_projection('chain', '{ledger}', 'add_to_chain(daybook.log_event)'::regprocedure, '{chain}', batch_size => 50);
});

# Transactions hold on to their first event for a while, so that the order of
# commits is not that of ids.
my %scripts = (
	'two@3' => q{
\set s random(1, 200)
\set t random(1, 200)
\set k random(1, 500)
BEGIN;
INSERT INTO ledger (stream_id, type, data) VALUES ('one-' || :s, 'Added', jsonb_build_object('amount', :k, 'key', :k));
\sleep 1 ms
INSERT INTO other_ledger (stream_id, type, data) VALUES ('two-' || :t, 'Added', jsonb_build_object('amount', -:k, 'key', :k + 1));
COMMIT;
},
	'many@1' => q{
\set k random(1, 500)
BEGIN;
SAVEPOINT s;
INSERT INTO ledger (stream_id, type, data) VALUES ('gone-' || :k, 'Added', jsonb_build_object('amount', 1000000, 'key', :k));
ROLLBACK TO s;
INSERT INTO ledger (stream_id, type, data) SELECT 'client-' || :client_id, 'Added', jsonb_build_object('amount', i, 'key', :k + i) FROM generate_series(1, 10) i;
COMMIT;
},
	'rolled_back@1' => q{
\set k random(1, 500)
BEGIN;
INSERT INTO ledger (stream_id, type, data) VALUES ('gone-' || :k, 'Added', jsonb_build_object('amount', 1000000, 'key', :k));
ROLLBACK;
});

sub head { return $node->safe_psql('postgres', 'SELECT daybook.head()') }

sub projector_pid
{
	my @names = qw(balance latest chain);
	my $name  = $names[ int(rand(@names)) ];
	return $node->safe_psql('postgres', "SELECT worker_pid FROM daybook.projection_status WHERE name = '$name'");
}

my %killing = (
	'projector killed -9' => sub {
		my $pid = projector_pid();
		return unless $pid;
		kill 9, $pid;
		# the postmaster starts everything anew
		$node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)");
	},
	'projector terminated' => sub {
		$node->safe_psql('postgres', q{SELECT pg_terminate_backend(worker_pid) FROM daybook.projection_status WHERE worker_pid IS NOT NULL});
	},
	'batch cancelled' => sub {
		$node->safe_psql('postgres', q{SELECT pg_cancel_backend(worker_pid) FROM daybook.projection_status WHERE worker_pid IS NOT NULL});
	},
	'server killed -9' => sub {
		my @pids = split(/\n/, $node->safe_psql('postgres', 'SELECT pid FROM pg_stat_activity'));
		$node->kill9;
		# it does not start before the last of its orphans has ended
		wait_until('all processes are gone', sub { !grep { kill 0, $_ } @pids });
		$node->start;
	},
	'server stopped at once' => sub { $node->stop('immediate'); $node->start },
);
my @ways = sort keys %killing;
my %done = map { $_ => 0 } @ways;
my $round = 0;

while ($round < 2 * @ways || head() < $events)
{
	my $way   = $ways[ $round++ % @ways ];
	my $until = head() + 50 + int(rand($events / 10));
	local $ENV{PGOPTIONS} = $round % 2 ? '-c synchronous_commit=off' : '';
	my $load  = start_pgbench($node, [ '-c', 6, '-T', 300 ], \%scripts);

	wait_until("the head is at $until", sub { head() >= $until }, 120) or last;
	$killing{$way}->();
	$done{$way}++;
	$node->poll_query_until('postgres', 'SELECT true');
	$load->{run}->kill_kill if $way =~ /terminated|cancelled/;
	finish($load);
}
ok(!(grep { $_ == 0 } values %done), "killed in every way: " . join(', ', map { "$_ $done{$_}" } sort keys %done));

sub caught_up
{
	my ($what) = @_;
	ok(wait_until($what, sub {
		$node->safe_psql('postgres', q{
			SELECT bool_and(position = daybook.head()) AND min(head) = (SELECT count(*) FROM (SELECT FROM ledger UNION ALL SELECT FROM other_ledger) e)
			FROM daybook.projection_status WHERE mode = 'async'}) eq 't';
	}, 180), $what)
	  or diag($node->safe_psql('postgres', 'SELECT name, state, position, head, error_message FROM daybook.projection_status'));
}
caught_up('the projections catch up');
log_is_right($node, 'the log is right');

# What is wrong with the projections' rows, against what the events say.
my $wanted_balance = 'SELECT stream_id, sum((data->>\'amount\')::bigint), count(*) FROM (TABLE ledger UNION ALL TABLE other_ledger) e GROUP BY 1';
my $wanted_latest  = q{SELECT DISTINCT ON (1) (data->>'key')::int, id, position FROM daybook.log l
	JOIN (TABLE ledger UNION ALL TABLE other_ledger) e USING (id) ORDER BY 1, position DESC};

sub differences
{
	my ($tab, $wanted) = @_;
	return $node->safe_psql('postgres', qq{
		SELECT count(*) FROM ((TABLE $tab EXCEPT ALL ($wanted)) UNION ALL (($wanted) EXCEPT ALL TABLE $tab)) d});
}

sub digest
{
	my ($order) = @_;
	return $node->safe_psql('postgres', "SELECT digest(e.id ORDER BY $order), count(*) FROM daybook.log l JOIN ledger e USING (id)");
}

sub rows_are_right
{
	my ($what) = @_;
	is(differences('balance',        $wanted_balance), 0, "$what: balances are those of the events");
	is(differences('inline_balance', $wanted_balance), 0, "$what: so are the inline ones");
	is(differences('latest',         $wanted_latest),  0, "$what: the last event of each key has won");
	is($node->safe_psql('postgres', 'SELECT digest, events FROM chain'), digest('position'),
		"$what: all events have come once, in the order of the log");
}
rows_are_right('live');

# Controls: the checks see one event applied twice, and another order.
$node->safe_psql('postgres', q{
CREATE TABLE doctored AS TABLE balance;
UPDATE doctored SET amount = d.amount + (data->>'amount')::bigint, events = d.events + 1
FROM doctored d JOIN (SELECT * FROM ledger ORDER BY id DESC LIMIT 1) e USING (stream_id) WHERE doctored.stream_id = d.stream_id});
is(differences('doctored', $wanted_balance), 2, 'control: one event applied twice shows');
isnt($node->safe_psql('postgres', 'SELECT digest, events FROM chain'), digest('id'), 'control: the order of ids is another');

# Rebuilt while more events come, and killed in the midst of it.
$node->safe_psql('postgres', 'CREATE TABLE kept_latest AS TABLE latest; CREATE TABLE kept_chain AS TABLE chain');
my $before = head();
$node->safe_psql('postgres', q{SELECT daybook.pause_projection(name) FROM daybook.projection_status WHERE mode = 'async'});
$node->safe_psql('postgres', q{SELECT daybook.rebuild_projection(name) FROM daybook.projection_status});
$node->safe_psql('postgres', q{SELECT daybook.resume_projection(name) FROM daybook.projection_status WHERE mode = 'async'});
wait_until('the rebuild is on its way', sub {
	$node->safe_psql('postgres', q{SELECT max(position) > 0 FROM daybook.projection_status WHERE mode = 'async'}) eq 't' });
$killing{'server killed -9'}->();
caught_up('the rebuilt projections catch up');
rows_are_right('rebuilt');
is(head(), $before, 'no event came meanwhile');
is(differences('latest', 'TABLE kept_latest'), 0, 'rebuilt rows are the live ones, where the order matters');
is(differences('chain', 'TABLE kept_chain'), 0, 'and where every event does');

my $load = start_pgbench($node, [ '-c', 4, '-t', 100 ], \%scripts);
$node->safe_psql('postgres', q{SELECT daybook.rebuild_projection(name)}. ' FROM daybook.projection_status ORDER BY random()') for 1 .. 3;
ok(finish($load), 'appends go on during rebuilds');
caught_up('projections rebuilt under load catch up');
rows_are_right('rebuilt under load');

$node->stop;
done_testing();
