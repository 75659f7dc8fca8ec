# A dump holds event tables and their log: after a restore every event has its
# id, version, time and position, and appending goes on where it ended.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $EVENTS = 1000;
my $lists = 0;
my $node = new_node('source');
my $other = new_node('target');
my $dumps = $node->basedir . '/dumps';
mkdir $dumps;

make_source($node, 'source');
my $before = state_of($node, 'source');

# What is committed and not published yet when the dump is taken.
my $sequencer = sequencer_pid($node, 'source');
kill 'STOP', $sequencer;
append_unpublished($node, 'source');
my $tables = tables_of($node, 'source');
my $published = $before->{log};

dump_source('plain', '--file', "$dumps/plain");
dump_source('custom', '-Fc', '--file', "$dumps/custom");
dump_source('directory', '-Fd', '-j', '2', '--file', "$dumps/directory");
dump_source('schema', '--schema-only', '--file', "$dumps/schema");
dump_source('data', '--data-only', '--file', "$dumps/data");
dump_source('schema, custom', '--schema-only', '-Fc', '--file', "$dumps/schema-custom");
dump_source('data, custom', '--data-only', '-Fc', '--file', "$dumps/data-custom");
$node->command_ok([ 'pg_dumpall', '-h', $node->host, '-p', $node->port, '--file', "$dumps/all" ], 'pg_dumpall');
kill 'CONT', $sequencer;
wait_for_log($node, 'source');
my $whole = state_of($node, 'source');
is(substr($whole->{log}, 0, length $published), $published, 'the source publishes the rest after what it had published');

restore($node, 'psql', sub { psql_file($node, $_[0], 'plain') });
restore($node, 'pg_restore -j 2', sub { pg_restore($node, $_[0], 'custom', '-j', '2') });
restore($other, 'psql in one transaction', sub { psql_file($other, $_[0], 'plain', '-1') });
restore($other, 'pg_restore', sub { pg_restore($other, $_[0], 'custom') });
restore($other, 'pg_restore -j 2 of a directory', sub { pg_restore($other, $_[0], 'directory', '-j', '2') });

# Section by section, as some restore by hand; the sequencer runs in between.
restore($other, 'pg_restore by sections', sub {
	my ($db) = @_;
	pg_restore($other, $db, 'custom', "--section=$_") for ('pre-data', 'data', 'post-data');
});

# The sequencer has put the tables into its publication when the dump does.
{
	my ($last, $rest) = split_list("$dumps/custom", qr/PUBLICATION TABLE/);
	restore($other, 'pg_restore, publications last', sub {
		my ($db) = @_;
		pg_restore($other, $db, 'custom', '-L', $rest);
		$other->poll_query_until($db, q{SELECT count(*) = 4 FROM pg_publication_rel}) or die 'the sequencer has not put the publication right';
		pg_restore($other, $db, 'custom', '-L', $last);
	});
}

# Into tables that are there with their triggers.
{
	local $ENV{PGOPTIONS} = '-c daybook.restore=on';
	restore($other, 'schema, then data', sub {
		my ($db) = @_;
		psql_file($other, $db, 'schema');
		psql_file($other, $db, 'data');
	});
	restore($other, 'schema, then data with pg_restore', sub {
		my ($db) = @_;
		pg_restore($other, $db, 'schema-custom');
		pg_restore($other, $db, 'data-custom');
	});
}
{
	# the sequencer runs when one table is there and the other is still to come
	local $ENV{PGOPTIONS} = '-c daybook.restore=on';
	my ($first, $rest) = split_list("$dumps/data-custom", qr/TABLE DATA z z Payments/);
	restore($other, 'schema, then data in two parts', sub {
		my ($db) = @_;
		pg_restore($other, $db, 'schema-custom');
		pg_restore($other, $db, 'data-custom', '-L', $rest);
		$other->poll_query_until($db, q{SELECT count(*) > 1 FROM a.orders JOIN daybook.log USING (id) WHERE stream_id = 'early' OR stream_id = 'late'})
		  or die 'the restored part was not published';
		pg_restore($other, $db, 'data-custom', '-L', $first);
	});
}
$other->safe_psql('postgres', 'CREATE DATABASE refused');
psql_file($other, 'refused', 'schema');
my ($ret, $stdout, $stderr) = $other->psql('refused', "\\i '$dumps/data'", on_error_stop => 1);
isnt($ret, 0, 'data alone is refused without daybook.restore');
like($stderr, qr/cannot insert a value into column "id".*daybook\.restore/s, 'the error says how');

# The whole server.
my $all = new_node('all');
($ret, $stdout, $stderr) = $all->psql('postgres', "\\i '$dumps/all'", on_error_stop => 0);
is(join("\n", grep { !/role "\S+" already exists/ } split /\n(?=psql)/, $stderr), '', 'pg_dumpall restores without errors');
check($all, 'source', 'pg_dumpall');
$all->stop;

# A copy of the database's files.
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE source');
check($node, 'copy', 'CREATE DATABASE TEMPLATE');
is($node->safe_psql('source', q{SELECT count(*) FROM "z z"."Payments"}) + 0,
	$node->safe_psql('copy', q{SELECT count(*) FROM "z z"."Payments" WHERE stream_id <> 'p-new'}) + 0, 'the template is left alone');

# pg_restore --clean into the database itself meets the guards.
$node->command_fails_like(
	[ 'pg_restore', '-h', $node->host, '-p', $node->port, '-d', 'copy', '--clean', '-e', "$dumps/custom" ],
	qr/cannot drop/, '--clean does not drop event tables');

$node->stop;
$other->stop;
done_testing();

sub new_node
{
	my ($name) = @_;
	my $new = PostgreSQL::Test::Cluster->new($name);
	$new->init;
	$new->append_conf('postgresql.conf', qq{
wal_level = logical
shared_preload_libraries = 'daybook'
max_worker_processes = 40
max_wal_senders = 5
max_replication_slots = 40
fsync = off
});
	$new->start;
	return $new;
}

# Event tables in two schemas whose ids are interleaved, a large payload, a
# dropped table, one that is renamed, an empty one, rolled back ids.
sub make_source
{
	my ($on, $db) = @_;
	$on->safe_psql('postgres', "CREATE DATABASE $db");
	$on->safe_psql('postgres', 'CREATE ROLE regress_daybook_writer LOGIN');
	$on->safe_psql($db, qq{
CREATE EXTENSION daybook;
CREATE SCHEMA a;
CREATE SCHEMA "z z";
SELECT daybook.create_event_table('gone');
SELECT daybook.create_event_table('a.orders');
SELECT daybook.create_event_table('"z z"."Payments"');
SELECT daybook.create_event_table('a.old_name');
SELECT daybook.create_event_table('a.empty');
ALTER TABLE a.old_name RENAME TO new_name;
GRANT USAGE ON SCHEMA a TO PUBLIC;
GRANT SELECT, INSERT ON a.orders TO PUBLIC;
CREATE INDEX ON a.orders (type);
CREATE TABLE a.audit (id int PRIMARY KEY, note text) USING daybook;
INSERT INTO a.audit VALUES (1, 'one');
CREATE TABLE a.shipment (id int PRIMARY KEY, order_id bigint REFERENCES a.orders);
CREATE VIEW a.latest AS SELECT DISTINCT ON (stream_id) * FROM a.orders ORDER BY stream_id, version DESC;
});
	$on->safe_psql($db, qq{
SET daybook.metadata = '{"actor": "ann"}';
DO \$\$
BEGIN
	FOR i IN 1..$EVENTS LOOP
		INSERT INTO a.orders (stream_id, type, data) VALUES ('o-' || i % 100, 'Placed', jsonb_build_object('n', i));
		INSERT INTO "z z"."Payments" (stream_id, type, event_id, tags) VALUES ('p-' || i % 7, 'Paid', gen_random_uuid(), ARRAY['x', i::text]);
		IF i % 10 = 0 THEN
			INSERT INTO gone (stream_id, type) VALUES ('g', 'T');
			COMMIT;
		ELSIF i % 16 = 1 THEN
			ROLLBACK;
		END IF;
	END LOOP;
END \$\$;
INSERT INTO a.orders (stream_id, type, data) SELECT 'big', 'Placed', jsonb_build_object('text', string_agg(md5(i::text), '')) FROM generate_series(1, 60000) i;
INSERT INTO a.new_name (stream_id, type, schema_version, metadata) VALUES ('n', 'T', 4, '{"actor": "bob"}');
INSERT INTO a.shipment SELECT 1, id FROM a.orders WHERE stream_id = 'big';
});
	$on->safe_psql($db, q{INSERT INTO a.orders (stream_id, type) VALUES ('o-1', 'By another')},
		extra_params => [ '-U', 'regress_daybook_writer' ]);
	wait_for_log($on, $db);
	$on->safe_psql($db, q{SELECT daybook.drop_event_table('gone', force => true)});
}

# In one transaction to two tables, and a later one that commits before it.
sub append_unpublished
{
	my ($on, $db) = @_;
	my $slow = $on->background_psql($db);
	$slow->query_safe(q{BEGIN; INSERT INTO a.orders (stream_id, type) VALUES ('late', 'T'); INSERT INTO "z z"."Payments" (stream_id, type) VALUES ('late', 'T')});
	$on->safe_psql($db, q{INSERT INTO "z z"."Payments" (stream_id, type) VALUES ('early', 'T')});
	$on->safe_psql($db, q{INSERT INTO a.orders (stream_id, type) VALUES ('early', 'T')});
	$slow->query_safe('COMMIT');
	$slow->quit;
}

sub dump_source
{
	my ($what, @options) = @_;
	$node->command_ok([ 'pg_dump', '-h', $node->host, '-p', $node->port, @options, 'source' ], "pg_dump: $what");
}

sub restore
{
	my ($on, $what, $code) = @_;
	my $name = $on->name;
	$on->safe_psql('postgres', 'CREATE DATABASE restored');
	$on->psql('postgres', 'CREATE ROLE regress_daybook_writer LOGIN');
	$code->('restored');
	check($on, 'restored', "$what, $name");
	$on->safe_psql('postgres', 'DROP DATABASE restored');
}

sub psql_file
{
	my ($on, $db, $file, @options) = @_;
	my ($out, $err);
	$on->psql($db, "\\i '$dumps/$file'", on_error_stop => 0, extra_params => \@options, stdout => \$out, stderr => \$err);
	is($err, '', "psql of $file into " . $on->name . ' prints no errors');
}

sub pg_restore
{
	my ($on, $db, $file, @options) = @_;
	my ($out, $err);
	my $ok = run_command_quiet([ 'pg_restore', '-h', $on->host, '-p', $on->port, '-d', $db, @options, "$dumps/$file" ], \$err);
	ok($ok, "pg_restore @options of $file into " . $on->name);
	is($err, '', '... prints no errors');
}

sub run_command_quiet
{
	my ($command, $err) = @_;
	return IPC::Run::run $command, '>', \my $out, '2>', $err;
}

# Splits an archive's table of contents in two: the lines that match, and the others.
sub split_list
{
	my ($archive, $pattern) = @_;
	my @lines = split /^/, (run_command([ 'pg_restore', '-l', $archive ]))[0];
	my $list = "$dumps/" . ++$lists;
	append_to_file("$list.matching", join '', grep { $_ =~ $pattern } @lines);
	append_to_file("$list.others", join '', grep { $_ !~ $pattern } @lines);
	return ("$list.matching", "$list.others");
}

sub check
{
	my ($on, $db, $what) = @_;

	wait_for_log($on, $db);
	is(tables_of($on, $db), $tables, "$what: every column of every event is as it was");
	my $log = log_of($on, $db);
	is(substr($log, 0, length $published), $published, "$what: the log is as it was");
	is(scalar(split /\n/, $log), scalar(split /\n/, $whole->{log}), "$what: what was not published yet was published after it");
	is(log_problems($on, $db), '', "$what: the log is dense, complete and without doubles");
	is($on->safe_psql($db, q{SELECT bool_and(tgenabled = 'A'), count(*) FROM pg_trigger WHERE tgname = 'daybook_append'}),
		't|4', "$what: the triggers fire always");
	is($on->safe_psql($db, q{SELECT count(*) FROM pg_publication_tables WHERE pubname = 'daybook'}), '4', "$what: the tables are published");

	# appending goes on
	is($on->safe_psql($db, q{
INSERT INTO a.orders (stream_id, type) VALUES ('big', 'Next') RETURNING version, id > (SELECT max(id) FROM "z z"."Payments"), recorded_by = session_user}),
		'2|t|t', "$what: the next version, and an id above all others");
	is($on->safe_psql($db, q{SELECT first_version, duplicate FROM daybook.append('"z z"."Payments"', 'p-new', '{"type": "T", "event_id": "77777777-7777-7777-7777-777777777777"}'::jsonb)}),
		'1|f', "$what: append() too");
	is($on->safe_psql($db, q{SELECT duplicate FROM daybook.append('"z z"."Payments"', 'p-new', '{"type": "T", "event_id": "77777777-7777-7777-7777-777777777777"}'::jsonb)}),
		't', "$what: event ids are looked up");
	is($on->psql($db, q{UPDATE a.orders SET type = 'x'}), 3, "$what: and nothing else");
	wait_for_log($on, $db);
	is(log_problems($on, $db), '', "$what: new events take the next positions");
	is($on->safe_psql($db, q{SELECT event_table::text FROM daybook.log ORDER BY position DESC LIMIT 1}), '"z z"."Payments"', "$what: in order");
	is($on->safe_psql($db, q{SELECT last_value >= (SELECT max(table_no) FROM daybook.event_table) FROM daybook.event_table_table_no_seq}),
		't', "$what: tables go on being numbered");
	is($on->safe_psql($db, q{SELECT daybook.create_event_table('a.more')}), 'a.more', "$what: another table");
	is($on->safe_psql($db, q{SELECT daybook.drop_event_table('a.more')}), '', "$what: which is dropped");
	return;
}

sub sequencer_pid
{
	my ($on, $db) = @_;
	return $on->safe_psql('postgres', qq{SELECT pid FROM pg_stat_activity WHERE backend_type = 'daybook sequencer' AND datname = '$db'});
}

sub wait_for_log
{
	my ($on, $db) = @_;
	$on->poll_query_until($db, q{
SELECT count(*) = (SELECT count(*) FROM a.orders) + (SELECT count(*) FROM a.new_name) + (SELECT count(*) FROM "z z"."Payments")
FROM daybook.log WHERE event_table IN ('a.orders', 'a.new_name', '"z z"."Payments"')}) or die "the log of $db is not complete";
}

sub state_of
{
	my ($on, $db) = @_;
	return { tables => tables_of($on, $db), log => log_of($on, $db) };
}

sub tables_of
{
	my ($on, $db) = @_;
	my $result = '';
	for my $table ('a.orders', 'a.new_name', '"z z"."Payments"')
	{
		$result .= $on->safe_psql($db, qq{
SELECT '$table', id, version, recorded_at, schema_version, event_id, recorded_by, stream_id, type, md5(data::text), metadata, tags
FROM $table ORDER BY id}) . "\n";
	}
	return $result . $on->safe_psql($db, 'SELECT * FROM a.audit');
}

sub log_of
{
	my ($on, $db) = @_;
	return $on->safe_psql($db, 'SELECT * FROM daybook.log ORDER BY position') . "\n";
}

sub log_problems
{
	my ($on, $db) = @_;
	return $on->safe_psql($db, q{
WITH event AS (
	SELECT 'a.orders'::regclass AS event_table, id, stream_id, version FROM a.orders
	UNION ALL SELECT 'a.new_name'::regclass, id, stream_id, version FROM a.new_name
	UNION ALL SELECT '"z z"."Payments"'::regclass, id, stream_id, version FROM "z z"."Payments"),
found AS (
	SELECT l.position, l.event_table, l.id, e.stream_id, e.version, row_number() OVER (ORDER BY l.position) AS n,
		lag(e.version) OVER (PARTITION BY l.event_table, e.stream_id ORDER BY l.position) AS previous
	FROM daybook.log l LEFT JOIN event e USING (event_table, id))
SELECT 'position ' || position FROM found WHERE position <> n
UNION ALL SELECT 'no event ' || id FROM found WHERE event_table IS NOT NULL AND version IS NULL
UNION ALL SELECT 'order of ' || stream_id FROM found WHERE event_table IS NOT NULL AND version <> coalesce(previous, 0) + 1
UNION ALL SELECT 'twice ' || id FROM found GROUP BY id HAVING count(*) > 1
UNION ALL SELECT 'not published ' || id FROM event WHERE id NOT IN (SELECT id FROM daybook.log)});
}
