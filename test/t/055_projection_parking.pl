# Poison events spread over many streams end with exactly those streams parked
# and all others right, at about log2(batch) tries for each; when the cause is
# gone, a retry makes the tables what they would have been.
use strict;
use warnings;
use DaybookTest;
use Test::More;

my $events = events_wanted(40_000);
my $poison = $events >= 1_000_000 ? 1_000 : 40;
my $streams = $poison * 10;
my $node = new_node('parking', conf => "log_statement = none\nlog_min_messages = warning\n");

$node->safe_psql('postgres', qq{
SELECT daybook.create_event_table('account');
CREATE TABLE balance (account text PRIMARY KEY, amount bigint NOT NULL, events bigint NOT NULL, last bigint NOT NULL);
CREATE TABLE poison (seq bigint PRIMARY KEY);
-- one event in each tenth stream, somewhere in its history
INSERT INTO poison SELECT (hashint4(s)::bigint & 1048575) % ($events / $streams) * $streams + s * 10 FROM generate_series(1, $poison) s;
CREATE TABLE batches (n bigint);
CREATE SEQUENCE tries;
CREATE FUNCTION accept(poisonous boolean, n bigint) RETURNS bigint LANGUAGE plpgsql AS \$\$
BEGIN
	IF poisonous THEN RAISE EXCEPTION 'poison' USING ERRCODE = 'DB001'; END IF;
	RETURN n;
END \$\$;
INSERT INTO account (stream_id, type, data)
SELECT 'account-' || i % $streams, 'Paid', jsonb_build_object('seq', i, 'amount', i % 97) FROM generate_series(1, $events) i;
});
ok(all_published($node, 'postgres'), 'all events are published');

$node->safe_psql('postgres', q{
SELECT daybook.create_projection('balance', '{account}', $$
	SELECT nextval('tries');
	INSERT INTO balance AS b
	SELECT stream_id, sum(accept(p.seq IS NOT NULL, (data->>'amount')::bigint)), count(*), max(position)
	FROM new_events LEFT JOIN poison p ON p.seq = (data->>'seq')::bigint GROUP BY 1
	ON CONFLICT (account) DO UPDATE SET amount = b.amount + excluded.amount, events = b.events + excluded.events, last = excluded.last
$$, '{balance}');
});
my $started = time();
$node->safe_psql('postgres', q{SELECT daybook.wait_for_projection('balance', timeout => '1 hour')});
note(sprintf("%d events, %d poison ones: %d s, %s batches tried", $events, $poison, time() - $started,
	$node->safe_psql('postgres', 'SELECT last_value FROM tries')));

is($node->safe_psql('postgres', q{
SELECT count(*), count(*) FILTER (WHERE is_cause), count(DISTINCT stream_id), bool_and(sqlstate = 'DB001') FILTER (WHERE is_cause)
FROM daybook.parked_events}),
	$node->safe_psql('postgres', q{
SELECT count(*), (SELECT count(*) FROM poison), (SELECT count(*) FROM poison), true
FROM account a JOIN (SELECT stream_id AS s, min(id) AS first FROM account JOIN poison ON seq = (data->>'seq')::bigint GROUP BY 1) f
	ON f.s = a.stream_id AND a.id >= f.first}),
	'exactly the poisoned streams are parked, from the poison on');

my $difference = q{
SELECT count(*) FROM (
	(SELECT account, amount, events FROM balance EXCEPT ALL %1$s) UNION ALL (%1$s EXCEPT ALL SELECT account, amount, events FROM balance)) d};
my $expected = q{SELECT stream_id, sum((data->>'amount')::bigint)::bigint, count(*) FROM account a %s GROUP BY 1};
my $unparked = sprintf($expected, q{WHERE NOT EXISTS (SELECT FROM daybook.parked_events p WHERE p.event_id = a.id)});
is($node->safe_psql('postgres', sprintf($difference, $unparked)), 0, 'everything else is applied');

# Each poison event costs its halves, the rest of its batch, and no more.
my $bound = $events / 1000 + $poison * 2 * 12 + 10;
cmp_ok($node->safe_psql('postgres', 'SELECT last_value FROM tries'), '<=', $bound, 'tries are few');

# The cause goes away while events pour in.
my $load = start_pgbench($node, [ '-c', 2, '-T', 3 ], { parking_load => qq{
\\set s random(1, $streams)
INSERT INTO account (stream_id, type, data) VALUES ('account-' || (:s - 1), 'Paid', '{"seq": 0, "amount": 1}');
} }, 'postgres');
$node->safe_psql('postgres', 'DELETE FROM poison WHERE seq % 20 = 0');
my $retried = 0;
while ((my $n = $node->safe_psql('postgres', q{SELECT daybook.retry_parked('balance', max_events => 20000)})) > 0)
{
	$retried += $n;
}
cmp_ok($retried, '>', 0, 'what is not poison any more goes through');
ok(finish($load), 'load');
$node->safe_psql('postgres', 'DELETE FROM poison');
$node->safe_psql('postgres', q{SELECT daybook.wait_for_projection('balance', pg_current_wal_insert_lsn(), timeout => '5 min')});
while ($node->safe_psql('postgres', q{SELECT daybook.retry_parked('balance')}) > 0) { }
is($node->safe_psql('postgres', q{SELECT count(*) FROM daybook.parked_events}), 0, 'nothing is parked any more');
is($node->safe_psql('postgres', sprintf($difference, sprintf($expected, ''))), 0, 'the tables are those of a recomputation');

$node->stop;
done_testing();
