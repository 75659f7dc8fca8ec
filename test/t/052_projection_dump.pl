# A dump keeps projections in step with their tables: restored, they go on from
# where they were, and not before all is there.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('dump');
my $dir  = PostgreSQL::Test::Utils::tempdir;

sub sql { return $node->safe_psql(@_) }

sql('postgres', q{
CREATE ROLE keeper;
CREATE SCHEMA "Some Place";
GRANT USAGE, CREATE ON SCHEMA "Some Place" TO keeper;
SELECT daybook.create_event_table('"Some Place"."the events"');
GRANT SELECT ON "Some Place"."the events" TO keeper;
CREATE TABLE kept (id bigint, stream_id text);
CREATE TABLE counted (stream_id text PRIMARY KEY, n int NOT NULL);
SELECT daybook.create_projection('kept', '{"\"Some Place\".\"the events\""}', 'INSERT INTO kept SELECT id, stream_id FROM new_events', '{kept}');
SELECT daybook.create_projection('it''s inline', '{"\"Some Place\".\"the events\""}', $$
	INSERT INTO counted SELECT stream_id, count(*) FROM new_events GROUP BY 1
	ON CONFLICT (stream_id) DO UPDATE SET n = counted.n + excluded.n $$, '{counted}', mode => 'inline');
CREATE FUNCTION keep(e daybook.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO "Some Place".own VALUES (e.id); END $$;
SET ROLE keeper;
CREATE TABLE "Some Place".own (id bigint PRIMARY KEY);
SELECT daybook.create_projection('own', '{"\"Some Place\".\"the events\""}', 'keep(daybook.event)'::regprocedure, '{"\"Some Place\".own"}', categories => '{s}');
RESET ROLE;
INSERT INTO "Some Place"."the events" (stream_id, type, data) SELECT 's-' || i % 10, 'Happened', jsonb_build_object('n', i) FROM generate_series(1, 1000) i;
});
my $caught_up = q{SELECT bool_and(position = head) AND min(head) = (SELECT count(*) FROM "Some Place"."the events") FROM daybook.projection_status WHERE mode = 'async'};
ok(wait_until('caught up', sub { sql('postgres', $caught_up) eq 't' }), 'projections are kept');

# Dumped while they lag behind: their tables cannot be written to for now.
my $lock = $node->background_psql('postgres');
$lock->query_safe(q{BEGIN; LOCK kept, "Some Place".own IN EXCLUSIVE MODE});
sql('postgres', q{INSERT INTO "Some Place"."the events" (stream_id, type, data) SELECT 's-' || i % 10, 'Happened', jsonb_build_object('n', i) FROM generate_series(1, 100) i});
ok(wait_until('the log is ahead', sub { sql('postgres', 'SELECT daybook.head()') == 1100 }), 'they fall behind');
is(sql('postgres', q{SELECT string_agg(position::text, ',') FROM daybook.projection_status WHERE mode = 'async'}), '1000,1000', 'by 100 events');
sql('postgres', q{SELECT daybook.pause_projection('it''s inline')});
sql('postgres', q{INSERT INTO "Some Place"."the events" (stream_id, type) VALUES ('s-11', 'Paused')});
ok(wait_until('the log is ahead', sub { sql('postgres', 'SELECT daybook.head()') == 1101 }), 'the inline one is paused');
$node->command_ok([ 'pg_dump', '-f', "$dir/plain.sql", 'postgres' ], 'a plain dump');
$node->command_ok([ 'pg_dump', '-Fd', '-j', 2, '-f', "$dir/directory", 'postgres' ], 'a dump in parallel');
$node->command_ok([ 'pg_dump', "--$_-only", '-f', "$dir/$_.sql", 'postgres' ], "a dump of the $_") for qw(schema data);
$lock->query_safe('ROLLBACK');
$lock->quit;

sub rows_are_right
{
	my ($database) = @_;
	ok(wait_until("projections of $database go on", sub { sql($database, $caught_up) eq 't' }), "$database: the projections go on by themselves")
	  or diag(sql($database, 'SELECT name, state, position, head, error_message FROM daybook.projection_status'));
	is(sql($database, 'SELECT count(*), count(DISTINCT id) FROM kept'), '1101|1101', "$database: one has each event once");
	is(sql($database, 'SELECT count(*) FROM "Some Place".own'), 1101, "$database: so has the other");
	is(sql($database, 'SELECT sum(n) FROM counted'), 1100, "$database: the paused one has those it had");
	sql($database, q{SELECT daybook.resume_projection('it''s inline')});
	is(sql($database, 'SELECT sum(n) FROM counted'), 1101, "$database: and the others when it is resumed");
	sql($database, q{INSERT INTO "Some Place"."the events" (stream_id, type) VALUES ('s-1', 'Late')});
	is(sql($database, 'SELECT sum(n) FROM counted'), 1102, "$database: new events are applied inline");
	is(sql($database, q{SELECT daybook.wait_for_projection('own', pg_current_wal_insert_lsn(), timeout => '3min'); SELECT count(*) FROM "Some Place".own}), "1102\n1102",
		"$database: and by the workers");
	is(sql($database, q{SELECT string_agg(name || ' ' || owner, ', ' ORDER BY name) FROM daybook.projection_status}),
		'it\'s inline ' . sql($database, 'SELECT current_user') . ', kept ' . sql($database, 'SELECT current_user') . ', own keeper', "$database: owners are the same");
	is(sql($database, q{SELECT string_agg(DISTINCT state, ',') FROM daybook.projection_status}), 'running', "$database: all are running");
}

sql('postgres', 'CREATE DATABASE parallel');
$node->command_ok([ 'pg_restore', '-j', 4, '-d', $node->connstr('parallel'), "$dir/directory" ], 'restored by four sessions');
rows_are_right('parallel');

sql('postgres', 'CREATE DATABASE single');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('single'), '-f', "$dir/plain.sql" ], 'restored by psql');
rows_are_right('single');

# Triggers first: the events come before the definition of the inline projection.
sql('postgres', 'CREATE DATABASE parts');
for my $part (qw(schema data))
{
	local $ENV{PGOPTIONS} = '-c daybook.restore=on';
	$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('parts'), '-f', "$dir/$part.sql" ], "the $part restored by psql");
}
rows_are_right('parts');

# Half restored: the definitions and positions are there, the tables' rows are not.
sql('postgres', 'CREATE DATABASE half');
my $dump = slurp_file("$dir/plain.sql");
$dump =~ s/^\\(un)?restrict .*$//mg;	# which would not let us say where we are
$dump =~ /^(.*?)^(COPY public\.kept .*)$/ms or die 'no rows of kept in the dump';
my ($first, $rest) = ($1, $2);
like($first, qr/^COPY daybook\.projection_position /m, 'positions are restored first');
my $restoring = $node->background_psql('half');
$restoring->query_until(qr/half way/, "$first\n\\echo half way\n");
is(sql('half', 'SELECT name, state, position FROM daybook.projection_status WHERE mode = \'async\' ORDER BY 1'),
	"kept|restoring|1000\nown|restoring|1000", 'projections wait for the end of a restore');
# a projection that comes after it is started: so the others have been looked at
sql('half', q{CREATE TABLE public.witness (id bigint);
	SELECT daybook.create_projection('witness', '{"\"Some Place\".\"the events\""}', 'INSERT INTO witness SELECT id FROM new_events', '{public.witness}')});
ok(wait_until('the witness runs', sub { sql('half', q{SELECT worker_pid IS NOT NULL FROM daybook.projection_status WHERE name = 'witness'}) eq 't' }), 'while others run');
is(sql('half', 'SELECT count(*) FROM daybook.projection_status WHERE name <> \'witness\' AND worker_pid IS NOT NULL'), 0, 'they have no worker');
$restoring->query_until(qr/all there/, "$rest\n\\echo all there\n");
is(sql('half', q{SELECT state FROM daybook.projection_status WHERE name = 'kept'}), 'restoring', 'it ends with the session');
$restoring->quit;
sql('half', q{SELECT daybook.drop_projection('witness')});
rows_are_right('half');

# Control: told that it is over, the projection does not wait, and puts rows
# into a table that is still to be restored.
sql('postgres', 'CREATE DATABASE early');
$restoring = $node->background_psql('early');
$restoring->query_until(qr/half way/, "$first\n\\echo half way\n");
sql('early', q{SELECT daybook.resume_projection('kept')});
ok(wait_until('it does something', sub { sql('early', q{SELECT state <> 'restoring' AND (error_sqlstate IS NOT NULL OR position > 1000) FROM daybook.projection_status WHERE name = 'kept'}) eq 't' }),
	'control: it would not have gone well without that')
  or diag(sql('early', 'SELECT name, state, position, head, error_message FROM daybook.projection_status'));
$restoring->quit;

# Dumped in the middle of rebuilds, by one worker and by several, of which one
# has met an event that it could not apply.
sql('postgres', q{
CREATE DATABASE rebuilding});
sql('rebuilding', q{
CREATE EXTENSION daybook;
SELECT daybook.create_event_table('account');
CREATE TABLE balance (account text PRIMARY KEY, amount bigint NOT NULL CHECK (amount >= 0));
CREATE TABLE entry (n bigint GENERATED ALWAYS AS IDENTITY, id bigint PRIMARY KEY, account text NOT NULL REFERENCES balance DEFERRABLE);
CREATE INDEX ON entry (account);
CREATE VIEW report AS SELECT account, amount, (SELECT count(*) FROM entry e WHERE e.account = b.account) AS entries FROM balance b;
CREATE TABLE seen (id bigint PRIMARY KEY);
COMMENT ON TABLE seen IS 'what was seen';
INSERT INTO account (stream_id, type, data) SELECT 'a-' || i % 100, 'Paid', jsonb_build_object('amount', CASE i WHEN 150 THEN -1000 WHEN 18000 THEN -1000000 ELSE 1 END) FROM generate_series(1, 20000) i;
SELECT daybook.create_projection('balance', '{account}', $$
	INSERT INTO balance AS b SELECT stream_id, sum((data->>'amount')::bigint) FROM new_events GROUP BY 1
	ON CONFLICT (account) DO UPDATE SET amount = b.amount + excluded.amount;
	INSERT INTO entry (id, account) SELECT id, stream_id FROM new_events ORDER BY id
$$, '{balance,entry}', independent_streams => true);
SELECT daybook.create_projection('seen', '{account}', 'INSERT INTO seen SELECT id FROM new_events', '{seen}');
SELECT daybook.wait_for_projection('balance', timeout => '1 min');
SELECT daybook.wait_for_projection('seen', timeout => '1 min');
SELECT daybook.rebuild_projection('balance', parallel => 3, max_rate => 900);
SELECT daybook.rebuild_projection('seen', max_rate => 500);
});
ok(wait_until('both have begun', sub { sql('rebuilding', 'SELECT count(*) FROM daybook.rebuild_progress WHERE position >= 300') == 2 }), 'two rebuilds are in progress');
$node->command_ok([ 'pg_dump', '-f', "$dir/rebuilding.sql", 'rebuilding' ], 'a plain dump meanwhile');
$node->command_ok([ 'pg_dump', '-Fd', '-j', 2, '-f', "$dir/rebuilding", 'rebuilding' ], 'a dump in parallel');
is(sql('rebuilding', 'SELECT count(*) FROM daybook.rebuild_progress'), 2, 'they were in progress all the time');

sub rebuild_is_right
{
	my ($database) = @_;
	is(sql($database, q{SELECT string_agg(projection || ' ' || parallel, ', ' ORDER BY projection) FROM daybook.rebuild_progress}), 'balance 3, seen 1', "$database: the rebuilds are there");
	is(sql($database, 'SELECT count(*), (SELECT count(*) FROM report WHERE entries > 0) FROM seen'), '20000|100', "$database: the old rows are served");
	my $before = sql($database, q{SELECT pg_relation_filenode('balance'), pg_relation_filenode('seen')});
	# as fast as they can from here on
	sql($database, 'UPDATE daybook.projection SET max_rate = 0');
	ok(wait_until('the end of the rebuilds', sub { sql($database, 'SELECT count(*) FROM daybook.rebuild_progress') == 0 }), "$database: they end")
	  or diag(sql($database, 'SELECT * FROM daybook.rebuild_progress'));
	isnt(sql($database, q{SELECT pg_relation_filenode('balance'), pg_relation_filenode('seen')}), $before, "$database: with the tables exchanged");
	is(sql($database, q{SELECT count(*) FROM daybook.verify_projection('balance', ignore_columns => '{n}')}), 0, "$database: the rows are right");
	is(sql($database, q{SELECT count(*) FROM daybook.verify_projection('seen')}), 0, "$database: of both");
	is(sql($database, q{SELECT count(*) FILTER (WHERE is_cause), count(DISTINCT stream_id) FROM daybook.parked_events WHERE projection = 'balance'}), '2|2', "$database: two streams are parked");
	sql($database, q{INSERT INTO account (stream_id, type, data) SELECT 'a-' || i, 'Paid', '{"amount": 5}' FROM generate_series(0, 99) i;
		ALTER TABLE balance DROP CONSTRAINT balance_amount_check});
	sql($database, q{SELECT daybook.wait_for_projection('balance', pg_current_wal_insert_lsn(), timeout => '3min'); SELECT daybook.retry_parked('balance')});
	is(sql($database, q{SELECT sum(amount) = (SELECT sum((data->>'amount')::bigint) FROM account), sum(entries) FROM report}), 't|20100', "$database: they go on, and what was parked can be applied");
	is(sql($database, q{SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'daybook\_rebuild%'}), 0, "$database: nothing is left over");
}

sql('postgres', 'CREATE DATABASE rebuilding_plain');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('rebuilding_plain'), '-f', "$dir/rebuilding.sql" ], 'restored by psql');
rebuild_is_right('rebuilding_plain');
sql('postgres', 'CREATE DATABASE rebuilding_parallel');
$node->command_ok([ 'pg_restore', '-e', '-j', 3, '-d', $node->connstr('rebuilding_parallel'), "$dir/rebuilding" ], 'restored by three sessions');
rebuild_is_right('rebuilding_parallel');

$node->stop;
done_testing();
