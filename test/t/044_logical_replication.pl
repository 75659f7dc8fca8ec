# Events come into an event table by logical replication: they keep what they
# say, and get ids and positions of the database they come to.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $from = new_node('publisher', streaming => 'logical');
my $to = new_node('subscriber', streaming => 'logical');

$from->safe_psql('postgres', q{
SELECT daybook.create_event_table('orders');
SELECT daybook.create_event_table('not_replicated');
INSERT INTO orders (stream_id, type, data, event_id) SELECT 'o-' || i % 5, 'T', jsonb_build_object('n', i), gen_random_uuid() FROM generate_series(1, 1000) i;
INSERT INTO not_replicated (stream_id, type) SELECT 'n', 'T' FROM generate_series(1, 500);
CREATE PUBLICATION events FOR TABLE orders WITH (publish = 'insert');
});
$to->safe_psql('postgres', q{
SELECT daybook.create_event_table('orders');
SELECT daybook.create_event_table('own');
INSERT INTO own (stream_id, type) SELECT 'own', 'T' FROM generate_series(1, 700);
});
ok(all_published($to), 'the subscriber has events of its own');

my $connection = $from->connstr . ' dbname=postgres';
$to->safe_psql('postgres', "CREATE SUBSCRIPTION events CONNECTION '$connection' PUBLICATION events");
$to->wait_for_subscription_sync($from, 'events');
same_events('the first copy');

# Transactions that commit in another order than that of their ids.
my $slow = $from->background_psql('postgres');
$slow->query_safe(q{BEGIN; INSERT INTO orders (stream_id, type) VALUES ('slow', 'T'), ('slow', 'T')});
$from->safe_psql('postgres', q{INSERT INTO orders (stream_id, type) SELECT 'fast-' || i % 3, 'T' FROM generate_series(1, 200) i});
$to->safe_psql('postgres', q{INSERT INTO own (stream_id, type) VALUES ('own', 'T')});
$from->wait_for_catchup('events');
ok(all_published($to), 'what has come is published');
$to->restart;
$slow->query_safe('COMMIT');
$slow->quit;
same_events('transactions in the order of their commits');

# Where the sequencer scans, too.
$to->append_conf('postgresql.conf', 'daybook.decoding = off');
$to->restart;
my $load = start_pgbench($from, [ '-c', '4', '-T', '3' ],
	{ append => q{\set s random(1, 20)
BEGIN;
INSERT INTO orders (stream_id, type) VALUES ('load-' || :s, 'T');
INSERT INTO orders (stream_id, type) VALUES ('load-' || :s, 'T');
END;
} });
$to->safe_psql('postgres', q{INSERT INTO own (stream_id, type) VALUES ('own', 'T')}) for 1 .. 20;
ok(finish($load), 'concurrent appends on the publisher');
same_events('concurrent transactions');

# What the publisher did to its tables is no matter for the subscriber's history.
is($to->safe_psql('postgres', q{INSERT INTO orders (stream_id, type) VALUES ('o-1', 'Local') RETURNING version}), '201',
	'an append on the subscriber takes the next version');
is($to->safe_psql('postgres', q{SELECT max(id) = (SELECT last_value FROM daybook.event_id_seq) FROM orders}), 't', '... and the next id');
my ($ret, $out, $err) = $to->psql('postgres', q{INSERT INTO orders (stream_id, type, id) VALUES ('o-1', 'T', 99999)});
like($err, qr/cannot insert a value into column "id"/, '... and no id given by a client');
ok(all_published($to), '... and is published');
log_is_right($to, '... in order');

# A plain table on the publisher's side may be emptied; its copy is history.
$from->safe_psql('postgres', q{
CREATE TABLE plain (id int PRIMARY KEY);
INSERT INTO plain VALUES (1);
CREATE PUBLICATION plain FOR TABLE plain;
});
$to->safe_psql('postgres', qq{
CREATE TABLE plain (id int PRIMARY KEY) USING daybook;
});
$to->safe_psql('postgres', "CREATE SUBSCRIPTION plain CONNECTION '$connection' PUBLICATION plain");
$to->wait_for_subscription_sync($from, 'plain');
$from->safe_psql('postgres', 'TRUNCATE plain');
ok(wait_until('the refusal', sub { server_log_lines($to, qr/cannot truncate append-only table "plain"/) }), 'TRUNCATE does not come through');
is($to->safe_psql('postgres', 'SELECT count(*) FROM plain'), '1', '... and the row stays');
$to->safe_psql('postgres', 'DROP SUBSCRIPTION plain');

# What a trigger appends meanwhile is no row that has been replicated.
$from->safe_psql('postgres', q{
CREATE TABLE watched (note text);
CREATE PUBLICATION watched FOR TABLE watched;
});
$to->safe_psql('postgres', q{
SELECT daybook.create_event_table('noted');
CREATE TABLE watched (note text);
CREATE TABLE refused (note text, message text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.noted (stream_id, type) VALUES (NEW.note, 'T');
	BEGIN
		INSERT INTO public.noted (stream_id, type, version) VALUES (NEW.note, 'T', 77);
	EXCEPTION WHEN serialization_failure THEN
		INSERT INTO public.refused VALUES (NEW.note, SQLERRM);
	END;
	BEGIN
		INSERT INTO public.noted (stream_id, type, recorded_by) VALUES (NEW.note, 'T', 'somebody else');
	EXCEPTION WHEN generated_always THEN
		INSERT INTO public.refused VALUES (NEW.note, SQLERRM);
	END;
	RETURN NEW;
END $$;
CREATE TRIGGER note AFTER INSERT ON watched FOR EACH ROW EXECUTE FUNCTION note();
ALTER TABLE watched ENABLE ALWAYS TRIGGER note;
-- an assignment runs no statement, nor is a constraint a trigger
SELECT daybook.create_event_table('claimed');
CREATE FUNCTION claim() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.version := 77;
	NEW.recorded_by := 'somebody else';
	RETURN NEW;
END $$;
CREATE TRIGGER claim BEFORE INSERT ON claimed FOR EACH ROW EXECUTE FUNCTION claim();
ALTER TABLE claimed ENABLE ALWAYS TRIGGER claim;
CREATE FUNCTION append_claimed(note text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	result daybook.append_result;
BEGIN
	result := daybook.append('public.claimed', note, 'T', '{}'::jsonb);
	RETURN true;
EXCEPTION WHEN generated_always THEN
	INSERT INTO public.refused VALUES (note, SQLERRM);
	RETURN true;
END $$;
ALTER TABLE watched ADD CHECK (append_claimed(note));
});
$to->safe_psql('postgres', "CREATE SUBSCRIPTION watched CONNECTION '$connection' PUBLICATION watched");
$to->wait_for_subscription_sync($from, 'watched');
$from->safe_psql('postgres', q{INSERT INTO watched VALUES ('w-1')});
$from->wait_for_catchup('watched');
is($to->safe_psql('postgres', q{SELECT stream_id, version, recorded_by = current_user FROM noted}), 'w-1|1|t',
	'a trigger of a replicated table appends');
is($to->safe_psql('postgres', 'SELECT count(*) FROM refused'), '3', '... and does not choose version and origin');
is($to->safe_psql('postgres', 'SELECT count(*) FROM claimed'), '0', '... nor does a constraint that appends');
$to->safe_psql('postgres', 'DROP SUBSCRIPTION watched');

# Who may have a subscription is no superuser for that, and says nothing of who has appended.
SKIP:
{
	skip 'subscriptions are for superusers', 2 if $to->pg_version < 16;
	$from->safe_psql('postgres', q{
CREATE TABLE forged (LIKE orders);
CREATE PUBLICATION forged FOR TABLE forged;
});
	$to->safe_psql('postgres', qq{
SELECT daybook.create_event_table('forged');
CREATE ROLE forger LOGIN IN ROLE pg_create_subscription;
GRANT CREATE ON DATABASE postgres TO forger;
GRANT SELECT, INSERT ON forged TO forger;
CREATE SUBSCRIPTION forged CONNECTION '$connection' PUBLICATION forged WITH (password_required = false, run_as_owner = true);
});
	$to->wait_for_subscription_sync($from, 'forged');
	$to->safe_psql('postgres', 'ALTER SUBSCRIPTION forged OWNER TO forger');
	$from->safe_psql('postgres', q{
INSERT INTO forged (id, version, recorded_at, schema_version, event_id, recorded_by, stream_id, type, data)
VALUES (1, 1, '1999-01-01', 1, gen_random_uuid(), 'somebody else', 'f-1', 'T', '{}')});
	ok(wait_until('the refusal', sub { server_log_lines($to, qr/permission denied to replicate into event table "forged"/)
				|| $to->safe_psql('postgres', 'SELECT count(*) FROM forged') }),
		'what is replicated for others than superusers is looked at');
	is($to->safe_psql('postgres', 'SELECT recorded_at, recorded_by FROM forged'), '', '... and refused');
	$to->safe_psql('postgres', 'DROP SUBSCRIPTION forged');
}

# Both have now appended version 201: replication stops and says why.
$from->safe_psql('postgres', q{INSERT INTO orders (stream_id, type) VALUES ('o-1', 'Conflict')});
ok(wait_until('the conflict', sub { server_log_lines($to, qr/unique (constraint|index) "orders_stream_id_version_key"/) }),
	'a version that both have given stops replication');

$to->safe_psql('postgres', 'DROP SUBSCRIPTION events');
$from->stop;
# Whoever replays others' transactions says so with an origin, and may say
# nothing of their times.
$to->append_conf('postgresql.conf', 'daybook.decoding = on');
$to->restart;
ok(wait_for_mode($to, 'decoding'), 'the subscriber decodes');
$to->safe_psql('postgres', q{
SELECT FROM pg_replication_origin_create('elsewhere');
SELECT FROM pg_replication_origin_session_setup('elsewhere');
INSERT INTO own (stream_id, type) VALUES ('replayed', 'T');
INSERT INTO own (stream_id, type) VALUES ('replayed', 'T')});
ok(all_published($to), 'events of a session with an origin are published');
is($to->safe_psql('postgres', q{
	SELECT count(*) FILTER (WHERE committed_at >= recorded_at), count(*)
	FROM daybook.log JOIN own USING (id) WHERE event_table = 'own'::regclass AND stream_id = 'replayed'}), '2|2',
	'with the times of their commits here');

$to->stop;
done_testing();

sub events_of
{
	my ($node) = @_;
	return $node->safe_psql('postgres', q{
SELECT stream_id, version, recorded_at, recorded_by, type, schema_version, event_id, data, metadata FROM orders ORDER BY stream_id, version});
}

sub same_events
{
	my ($what) = @_;
	$from->wait_for_catchup('events');
	is(events_of($to), events_of($from), "$what: what events say is the same");
	ok(all_published($to), "$what: all are published by the subscriber's sequencer");
	log_is_right($to, "$what: in order");
	return;
}
