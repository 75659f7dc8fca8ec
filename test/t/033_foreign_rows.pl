# Rows that cannot be events are left out of decoding, and none that is one,
# whatever becomes of the files of tables.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('foreign', conf => q{
fsync = off
autovacuum = off
});
$node->safe_psql('postgres', q{
SELECT daybook.create_event_table('orders');
CREATE TABLE counts (stream_id text PRIMARY KEY, n bigint, note text);
CREATE TABLE protected (n bigint, note text) USING daybook;
});
ok(wait_for_mode($node, 'decoding'), 'the sequencer decodes');
my $worker = sequencer_pid($node);

sub publish
{
	$node->safe_psql('postgres', q{INSERT INTO orders (stream_id, type) VALUES ('order-0', 'Happened')});
	return all_published($node);
}

sub decoded_bytes_of
{
	my ($statements) = @_;
	my $before;

	# the files are met, and then known
	$node->safe_psql('postgres', $statements);
	publish() for 1 .. 2;
	$before = decoded_bytes($node);
	$node->safe_psql('postgres', $statements);
	publish();
	return decoded_bytes($node) - $before;
}

my $few = 100_000;
cmp_ok(decoded_bytes_of(q{
	INSERT INTO counts SELECT 's-' || n, 1, repeat('x', 100) FROM generate_series(1, 5000) n
	ON CONFLICT (stream_id) DO UPDATE SET n = counts.n + 1}), '<', $few, 'rows of other tables are not decoded');
cmp_ok(decoded_bytes_of(q{
	UPDATE counts SET note = note || 'y';
	DELETE FROM counts WHERE stream_id LIKE 's-1%'}), '<', $few, 'nor their changes');
cmp_ok(decoded_bytes_of(q{
	INSERT INTO orders (stream_id, type, data)
	SELECT 'order-1', 'Written', jsonb_build_object('text', string_agg(md5(n::text), ''))
	FROM generate_series(1, 20000) n}), '<', $few, 'nor TOAST');
cmp_ok(decoded_bytes_of(q{
	INSERT INTO protected SELECT n, repeat('x', 100) FROM generate_series(1, 5000) n}),
	'>', 5 * $few, 'control: those of a table that could be one of events are');

# Subtransactions, some of which are rolled back, begin with rows of another
# table; there is enough of them to be decoded in parts.
$node->safe_psql('postgres', q{
DO $$
BEGIN
	FOR i IN 1 .. 20000 LOOP
		BEGIN
			INSERT INTO counts VALUES ('t-' || i, 0, 'x') ON CONFLICT (stream_id) DO UPDATE SET n = counts.n + 1;
			INSERT INTO orders (stream_id, type) VALUES ('sub-' || i % 100, 'Happened');
			IF i % 3 = 0 THEN
				RAISE EXCEPTION 'no';
			END IF;
		EXCEPTION WHEN raise_exception THEN
			INSERT INTO counts VALUES ('u-' || i, 0, 'x');
		END;
	END LOOP;
END $$});
ok(publish(), 'events of subtransactions that began elsewhere are published');
log_is_right($node, 'and only those that were committed');

# What is left out, is left out whole: rows that are stored speculatively with
# what becomes of them, large ones with their TOAST, also where they are the
# first of a subtransaction or its last.
$node->safe_psql('postgres', 'CREATE TABLE notes (k text PRIMARY KEY, note text); ALTER TABLE notes ALTER note SET STORAGE EXTERNAL');
my $torn = start_pgbench($node, [ '-c', 4, '-j', 2, '-t', 6000 ], {
	'speculative@5' => q{
\set k random(1, 1000000000)
BEGIN;
SAVEPOINT s;
INSERT INTO counts VALUES ('p-:k', 1, 'x') ON CONFLICT (stream_id) DO NOTHING;
COMMIT;
},
	'toasted@1' => q{
\set k random(1, 200)
BEGIN;
SAVEPOINT s;
INSERT INTO notes VALUES (:k, repeat('x', 5000)) ON CONFLICT (k) DO UPDATE SET note = excluded.note || 'y';
ROLLBACK TO s;
INSERT INTO notes VALUES (:k, repeat('x', 5000)) ON CONFLICT (k) DO UPDATE SET note = excluded.note || 'y';
COMMIT;
},
	'event@1' => q{
\set k random(1, 200)
BEGIN;
INSERT INTO orders (stream_id, type, data) VALUES ('torn-:k', 'Happened', jsonb_build_object('text', repeat('x', 10000)));
SAVEPOINT s;
INSERT INTO counts VALUES ('q-:k', 1, 'x') ON CONFLICT (stream_id) DO UPDATE SET n = counts.n + 1;
COMMIT;
}
});
ok(finish($torn), 'a load of such rows');
ok(publish(), 'is decoded');
is(sequencer_pid($node), $worker, 'by the same worker');
log_is_right($node, 'with all events and no other');

# an event table gets another file, and a table of heap becomes one of events
$node->safe_psql('postgres', q{
VACUUM FULL orders;
INSERT INTO orders (stream_id, type) SELECT 'full-' || n % 10, 'Happened' FROM generate_series(1, 100) n});
ok(publish(), 'events in a new file are published');
$node->safe_psql('postgres', q{
CREATE TABLE late OF daybook.event;
INSERT INTO late (id, stream_id, version, type, data, schema_version, event_id, recorded_at, recorded_by)
SELECT id, stream_id, version, type, data, schema_version, event_id, recorded_at, recorded_by FROM orders WHERE stream_id = 'order-0'});
publish() for 1 .. 2;
$node->safe_psql('postgres', q{
DELETE FROM late;
BEGIN;
ALTER TABLE late SET ACCESS METHOD daybook;
ALTER TABLE late ADD PRIMARY KEY (id), ADD UNIQUE (stream_id, version);
CREATE TRIGGER version BEFORE INSERT ON late FOR EACH ROW EXECUTE FUNCTION daybook.event_before_insert();
SELECT daybook.register_event_table('late');
COMMIT;
INSERT INTO late (stream_id, type) SELECT 'late-' || n % 10, 'Happened' FROM generate_series(1, 100) n});
ok(publish(), 'events of a table that was one of heap are published');
ok(wait_for_mode($node, 'decoding'), 'the sequencer decodes again');
$node->safe_psql('postgres', q{INSERT INTO late (stream_id, type) SELECT 'late-' || n % 10, 'Happened' FROM generate_series(1, 100) n});
ok(publish(), 'also by decoding');
log_is_right($node, 'nothing is lost or doubled by changes of files');
$worker = sequencer_pid($node);

# tables come, change their files and go while events are appended
my $load = start_pgbench($node, [ '-c', 6, '-j', 2, '-t', 1500 ], {
	'append@20' => q{
\set s random(1, 200)
BEGIN;
INSERT INTO counts VALUES ('c-:s', 1, 'x') ON CONFLICT (stream_id) DO UPDATE SET n = counts.n + 1;
INSERT INTO orders (stream_id, type) VALUES ('c-:s', 'Happened');
COMMIT;
},
	'several@5' => q{
\set s random(1, 200)
INSERT INTO orders (stream_id, type) SELECT 'c-:s', 'Happened' FROM generate_series(1, 3);
},
	'come_and_go@1' => q{
CREATE TABLE t:client_id (k int PRIMARY KEY, v text);
INSERT INTO t:client_id VALUES (1, 'x') ON CONFLICT (k) DO UPDATE SET v = 'y';
INSERT INTO t:client_id VALUES (1, 'x') ON CONFLICT (k) DO UPDATE SET v = 'y';
ALTER TABLE t:client_id ADD COLUMN w int DEFAULT (random() * 10)::int;
DROP TABLE t:client_id;
},
	'rewrite@1' => q{
VACUUM FULL counts;
ANALYZE counts;
} });
ok(finish($load), 'the load ends');
ok(publish(), 'all is published');
log_is_right($node, 'the log is right after tables came and went');
is(sequencer_pid($node), $worker, 'by the same worker');

$node->stop;
done_testing();
