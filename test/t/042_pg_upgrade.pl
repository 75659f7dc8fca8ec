# pg_upgrade carries event tables, the log and the registry over as files: it
# is run here between two servers of the same version.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $old = new_node('old');
my $new = new_node('new');
$old->start;
$old->safe_psql('postgres', q{
CREATE EXTENSION daybook;
CREATE SCHEMA z;
SELECT daybook.create_event_table('gone');
SELECT daybook.create_event_table('z.orders');
SELECT daybook.create_event_table('payments');
CREATE TABLE audit (id int PRIMARY KEY, note text) USING daybook;
INSERT INTO audit VALUES (1, 'one');
CREATE TABLE parted (id int) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10) USING daybook;
INSERT INTO parted VALUES (1);
INSERT INTO gone (stream_id, type) VALUES ('g', 'T');
INSERT INTO z.orders (stream_id, type, data) SELECT 'o-' || i % 5, 'T', jsonb_build_object('n', i) FROM generate_series(1, 100) i;
INSERT INTO payments (stream_id, type, data) SELECT 'p', 'T', jsonb_build_object('text', string_agg(md5(i::text), '')) FROM generate_series(1, 30000) i;
INSERT INTO payments (stream_id, type, event_id) VALUES ('p', 'T', '77777777-7777-7777-7777-777777777777');
});
wait_for_log($old);
$old->safe_psql('postgres', q{SELECT daybook.drop_event_table('gone', force => true)});
my $before = state_of($old);

# what the upgrade leaves behind unpublished
my $sequencer = $old->safe_psql('postgres', q{SELECT pid FROM daybook.sequencer_status});
kill 'STOP', $sequencer;
$old->safe_psql('postgres', q{INSERT INTO z.orders (stream_id, type) VALUES ('o-1', 'Unpublished')});
$before->{tables} = state_of($old)->{tables};
$old->stop('immediate');
kill 'CONT', $sequencer;

# a clean shutdown is asked for; the sequencer gets no chance before it
$old->append_conf('postgresql.conf', q{shared_preload_libraries = ''});
$old->start;
$old->stop;
$old->append_conf('postgresql.conf', q{shared_preload_libraries = 'daybook'});

my $bindir = $old->config_data('--bindir');
chdir $old->basedir or die 'could not change the directory';
my @command = ('pg_upgrade', '--no-sync', '-d', $old->data_dir, '-D', $new->data_dir, '-b', $bindir, '-B', $bindir,
	'-s', $new->host, '-p', $old->port, '-P', $new->port, '--copy');
@command = grep { $_ ne '--copy' } @command if $old->config_data('--version') =~ / 15/;
command_ok([ @command, '--check' ], 'pg_upgrade --check');
command_ok([@command], 'pg_upgrade');

$new->start;
wait_for_log($new);
my $after = state_of($new);
is($after->{tables}, $before->{tables}, 'every event is as it was');
is(substr($after->{log}, 0, length $before->{log}), $before->{log}, 'the log is as it was');
is($new->safe_psql('postgres', q{SELECT position, event_table, transaction FROM daybook.log ORDER BY position DESC LIMIT 1}),
	'104|z.orders|104', 'what was not published is published');
is($new->safe_psql('postgres', q{SELECT string_agg(tgenabled, '') FROM pg_trigger WHERE tgname = 'daybook_append'}), 'AA', 'the triggers fire always');
is($new->safe_psql('postgres', q{INSERT INTO z.orders (stream_id, type) VALUES ('o-1', 'T') RETURNING id > 104, version}), 't|22', 'appends go on');
for my $statement ('UPDATE z.orders SET type = 1', 'DELETE FROM audit', 'TRUNCATE parted', 'DROP TABLE payments',
	'ALTER TABLE z.orders DISABLE TRIGGER ALL', 'DROP EXTENSION daybook CASCADE')
{
	my ($ret, $out, $err) = $new->psql('postgres', $statement);
	like($err, qr/append-only table/, "still refused: $statement");
}
is($new->safe_psql('postgres', q{SELECT duplicate FROM daybook.append('payments', 'p', '{"type": "T", "event_id": "77777777-7777-7777-7777-777777777777"}'::jsonb)}),
	't', 'event ids are found');
wait_for_log($new);

# the extension is whole: its members go with it, and it comes again
my $members = q{SELECT count(*) FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
	AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'daybook')};
$new->safe_psql('postgres', 'CREATE DATABASE other');
$new->safe_psql('other', 'CREATE EXTENSION daybook');
is($new->safe_psql('postgres', $members), $new->safe_psql('other', $members), 'the extension has the members of a new one');
$new->safe_psql('postgres', q{
SELECT daybook.drop_event_table(c.oid, force => true) FROM pg_class c JOIN pg_am a ON a.oid = relam WHERE amname = 'daybook' AND relkind = 'r';
DROP EXTENSION daybook;
CREATE EXTENSION daybook;
SELECT daybook.create_event_table('again');
INSERT INTO again (stream_id, type) VALUES ('a', 'T');
});
$new->poll_query_until('postgres', 'SELECT daybook.head() = 1') or die 'nothing published';
$new->stop;
done_testing();

sub new_node
{
	my ($name) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init;
	$node->append_conf('postgresql.conf', qq{
wal_level = logical
shared_preload_libraries = 'daybook'
fsync = off
});
	return $node;
}

sub wait_for_log
{
	my ($node) = @_;
	$node->poll_query_until('postgres', q{
SELECT count(*) = (SELECT count(*) FROM z.orders) + (SELECT count(*) FROM payments)
FROM daybook.log WHERE event_table IN ('z.orders', 'payments')})
	  or die 'the log is not complete';
	return;
}

sub state_of
{
	my ($node) = @_;
	my %state;
	$state{log} = $node->safe_psql('postgres', 'SELECT * FROM daybook.log ORDER BY position');
	$state{tables} = join "\n", map {
		$node->safe_psql('postgres', "SELECT id, version, recorded_at, schema_version, event_id, recorded_by, stream_id, type, md5(data::text), metadata FROM $_ ORDER BY id")
	} ('z.orders', 'payments');
	$state{tables} .= $node->safe_psql('postgres', 'TABLE audit; TABLE parted');
	return \%state;
}
