# Settings of the database and of all roles, which are meant for clients, do not
# change as whom and how the workers work.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('settings');

sub sql { return $node->safe_psql('postgres', @_) }

sql(q{
CREATE DATABASE app;
CREATE ROLE bob SUPERUSER;
CREATE ROLE poor});
$node->safe_psql('app', q{
CREATE EXTENSION daybook;
SELECT daybook.create_event_table('event');
CREATE TABLE seen (id bigint, by text DEFAULT current_user);
SELECT daybook.create_projection('seen', '{event}', 'INSERT INTO seen SELECT id FROM new_events', '{seen}');
CREATE FUNCTION count_event(state int, e daybook.event) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT state + 1';
SELECT daybook.create_fold('counted', 'event', 'count_event(int, daybook.event)', 0, snapshot_every => 5)});

my $me = sql('SELECT current_user');
my $events = 0;

# As a client for which the settings are not meant.
sub app
{
	my ($statement) = @_;
	local $ENV{PGOPTIONS} = '-c role=none -c default_transaction_read_only=off -c session_replication_role=origin';
	$ENV{PGOPTIONS} .= ' -c transaction_timeout=0' if $node->pg_version >= 17;
	return $node->safe_psql('app', "SET SESSION AUTHORIZATION $me; $statement");
}

for my $setting (
	[ role => 'bob' ],
	[ role => 'poor' ],
	[ session_authorization => 'poor' ],
	[ default_transaction_read_only => 'on' ],
	[ default_transaction_isolation => 'serializable' ],
	[ session_replication_role => 'replica' ],
	$node->pg_version >= 17 ? [ transaction_timeout => '1ms' ] : ())
{
	my ($name, $value) = @$setting;

	sql("ALTER DATABASE app SET $name = '$value'");
	$node->restart;
	$events += 10;
	app(q{INSERT INTO event (stream_id, type) SELECT 's-1', 'Happened' FROM generate_series(1, 10)});
	ok(wait_until('the projection has the events', sub { app('SELECT count(*) FROM seen') == $events }, 20),
		"with $name = $value for clients, events are published and projected");
	ok(wait_until('there is a snapshot', sub {
		app(q{SELECT max(version) FROM daybook.fold_snapshot WHERE fold = 'counted'}) == $events }, 20), '... snapshots are taken');
	is(app("SELECT count(*) FROM seen WHERE by <> '$me'"), '0', "... and handlers run as their projection's owner");
	sql("ALTER DATABASE app RESET $name");
}
# The clients' encoding lacks characters of an event table's name, which the
# plugin writes when it decodes a row.
{
	sql(q{CREATE DATABASE encoded ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0});
	$node->safe_psql('encoded', q{
CREATE EXTENSION daybook;
ALTER DATABASE encoded SET client_encoding = 'LATIN1';
SELECT daybook.create_event_table(U&'"zdarze\0144"')});
	$node->restart;
	ok(wait_for_mode($node, 'decoding', 'encoded'), 'the sequencer decodes');
	$node->safe_psql('encoded', q{
SET client_encoding = 'UTF8';
INSERT INTO U&"zdarze\0144" (stream_id, type) VALUES ('s', 'Happened') ON CONFLICT DO NOTHING});
	ok(wait_until('the event', sub { status($node, 'head', 'encoded') eq '1' }, 20), 'an event of a table is published that clients cannot name');
}

is(join("\n", server_log_lines($node, qr/\] daybook \w+ (ERROR|FATAL): (?! *terminating)/)), '', 'no worker has failed');

$node->stop;
done_testing();
