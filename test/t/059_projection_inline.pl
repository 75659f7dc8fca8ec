# Inline projections under concurrent writers who meet in a few rows: no update
# is lost, and a verification agrees at any moment.  Not even by a handler that
# reads a row before it writes it: the control is one that claims that streams
# have no rows in common.
use strict;
use warnings;
use DaybookTest;
use Test::More;
use Time::HiRes qw(time);

my $node = new_node('inline');

sub value { return $node->safe_psql('postgres', $_[0]) }

value(q{
SELECT daybook.create_event_table('account');
CREATE TABLE total (kind text PRIMARY KEY, n bigint NOT NULL, amount bigint NOT NULL);
CREATE TABLE balance (account text PRIMARY KEY, n bigint NOT NULL, amount bigint NOT NULL);
CREATE TABLE careless (kind text PRIMARY KEY, n bigint NOT NULL);
SELECT daybook.create_projection('total', '{account}', $$
	INSERT INTO total AS t SELECT type, count(*), sum((data->>'amount')::bigint) FROM new_events GROUP BY 1 ORDER BY 1
	ON CONFLICT (kind) DO UPDATE SET n = t.n + excluded.n, amount = t.amount + excluded.amount;
	INSERT INTO balance AS b SELECT stream_id, count(*), sum((data->>'amount')::bigint) FROM new_events GROUP BY 1 ORDER BY 1
	ON CONFLICT (account) DO UPDATE SET n = b.n + excluded.n, amount = b.amount + excluded.amount
$$, '{total,balance}', mode => 'inline');
});

my $load = start_pgbench($node, [ '-c', 6, '-T', 8 ], {
	inline_rows => q{
\set s random(0, 30)
INSERT INTO account (stream_id, type, data) SELECT 'a-' || :s + i, CASE i % 3 WHEN 0 THEN 'In' ELSE 'Out' END, jsonb_build_object('amount', i) FROM generate_series(0, 4) i;
},
	inline_savepoint => q{
\set s random(0, 30)
BEGIN;
INSERT INTO account (stream_id, type, data) VALUES ('b-:s', 'In', '{"amount": 1}');
SAVEPOINT s;
INSERT INTO account (stream_id, type, data) VALUES ('b-:s', 'In', '{"amount": 1000000}');
ROLLBACK TO s;
COMMIT;
} });
my ($verified, $different) = (0, 0);
my $until = time() + 7;
while (time() < $until)
{
	$different += value(q{SELECT count(*) FROM daybook.verify_projection('total')});
	$different += value(q{SELECT count(*) FROM daybook.verify_projection('total', streams => '{a-7,b-7,a-8}', stream_column => 'account')});
	$verified++;
}
ok(finish($load), 'six writers');
cmp_ok($verified, '>', 3, 'verified while they write');
is($different, 0, 'with no difference');
value(q{COPY account (stream_id, type, data) FROM PROGRAM 'for i in $(seq 1000); do printf "a-%s\tIn\t{\"amount\": %s}\n" $((i % 40)) $i; done'});
is(value(q{SELECT count(*) FROM daybook.verify_projection('total')}), 0, 'nor at the end, after COPY');
is(value(q{
SELECT (SELECT sum(n) FROM total) = count(*), (SELECT sum(n) FROM balance) = count(*), (SELECT sum(amount) FROM total) = sum((data->>'amount')::bigint) FROM account}),
	't|t|t', 'all events are counted');
note(value('SELECT count(*) FROM account') . " events, verified $verified times");

# the same events, kept by a worker
value(q{
CREATE TABLE total_async (LIKE total INCLUDING ALL);
SELECT daybook.create_projection('total_async', '{account}', $$
	INSERT INTO total_async AS t SELECT type, count(*), sum((data->>'amount')::bigint) FROM new_events GROUP BY 1
	ON CONFLICT (kind) DO UPDATE SET n = t.n + excluded.n, amount = t.amount + excluded.amount $$, '{total_async}')});
value(q{SELECT daybook.wait_for_projection('total_async', pg_current_wal_insert_lsn(), timeout => '1 min')});
is(value('SELECT count(*) FROM (TABLE total EXCEPT ALL TABLE total_async) d'), 0, 'a worker makes the same of them');

# a handler that reads before it writes, right and wrong
value(q{
SELECT daybook.drop_projection('total');
CREATE FUNCTION count_slowly(e daybook.event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE old bigint;
BEGIN
	SELECT n INTO old FROM careless WHERE kind = 'all';
	PERFORM pg_sleep(0.001);
	INSERT INTO careless VALUES ('all', 1) ON CONFLICT (kind) DO UPDATE SET n = coalesce(old, 0) + 1;
END $$;
SELECT daybook.create_event_table('other');
SELECT daybook.create_projection('careless', '{other}', 'count_slowly(daybook.event)'::regprocedure, '{careless}', mode => 'inline')});
my %slowly = (inline_slowly => q{
INSERT INTO other (stream_id, type) VALUES ('o-:client_id', 'In');
});
$load = start_pgbench($node, [ '-c', 6, '-t', 50 ], \%slowly);
ok(finish($load), 'six writers with a handler that reads before it writes');
is(value(q{SELECT n FROM careless}), 300, 'no update is lost');
is(value(q{SELECT count(*) FROM daybook.verify_projection('careless')}), 0, 'as the verification says');
value(q{SELECT daybook.alter_projection('careless', independent_streams => true)});
$load = start_pgbench($node, [ '-c', 6, '-t', 50 ], \%slowly);
ok(finish($load), 'the same with a wrong promise');
cmp_ok(value(q{SELECT count(*) FROM daybook.verify_projection('careless')}), '>', 0, 'control: updates are lost, and that shows');

$node->stop;
done_testing();
