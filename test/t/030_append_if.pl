# Conditional appends under load: 16 clients race for seats and names.  What
# they decide on holds, while the same clients without the condition break it.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $transactions = $ENV{DAYBOOK_TEST_EVENTS} ? $ENV{DAYBOOK_TEST_EVENTS} / 16 : 400;
my $courses = 20;
my $seats = 30;

my $node = PostgreSQL::Test::Cluster->new('append_if');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'daybook'
wal_level = logical
max_worker_processes = 16
fsync = off
});
$node->start;
$node->safe_psql('postgres', q{
CREATE EXTENSION daybook;
SELECT daybook.create_event_table('dcb');
SELECT daybook.create_tag_index('dcb');

-- takes a seat if there is one, deciding by what it has read
CREATE FUNCTION enrol(course int, student text, seats int, conditional boolean) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	query jsonb := jsonb_build_object('types', '["Enrolled"]'::jsonb, 'tags', jsonb_build_array('course:' || course));
	event jsonb := jsonb_build_object('stream_id', student, 'type', 'Enrolled',
		'tags', jsonb_build_array('course:' || course, 'student:' || student));
	found record;
BEGIN
	SELECT * INTO found FROM daybook.read_matching('dcb', query);
	IF cardinality(found.events) >= seats THEN
		RETURN;
	END IF;
	PERFORM pg_sleep(random() * 0.003);		-- time to think
	IF conditional THEN
		PERFORM daybook.append_if('dcb', event, query, found.marker);
	ELSE
		PERFORM daybook.append('dcb', student, event - 'stream_id');
	END IF;
EXCEPTION WHEN serialization_failure THEN
	NULL;
END $$;

-- takes a name if nobody has it
CREATE FUNCTION register(name text, client text, conditional boolean) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	query jsonb := jsonb_build_object('tags', jsonb_build_array('name:' || name));
	event jsonb := jsonb_build_object('stream_id', client, 'type', 'Registered', 'tags', jsonb_build_array('name:' || name));
BEGIN
	IF conditional THEN
		PERFORM daybook.append_if('dcb', event, query);
	ELSIF cardinality((daybook.read_matching('dcb', query)).events) = 0 THEN
		PERFORM daybook.append('dcb', client, event - 'stream_id');
	END IF;
EXCEPTION WHEN serialization_failure THEN
	NULL;
END $$;
});

# Runs the race in one set of courses and names; returns how many were
# overbooked and how many names were given twice.
sub race
{
	my ($conditional, $first) = @_;
	my $script = $node->basedir . "/race_$first.sql";

	append_to_file($script, qq{
\\set course random($first, $first + $courses - 1)
\\set name random($first * 1000, $first * 1000 + 200)
SELECT enrol(:course, 'student-$first' || '_' || :client_id || '_' || txid_current(), $seats, $conditional);
SELECT register(:name::text, 'user-$first' || '_' || :client_id, $conditional);
});
	command_ok([ 'pgbench', '-n', '-c', 16, '-j', 2, '-t', $transactions, '-f', $script,
			'-h', $node->host, '-p', $node->port, 'postgres' ],
		"16 clients race, conditional $conditional");
	return split /\|/, $node->safe_psql('postgres', qq{
SELECT (SELECT count(*) FROM (SELECT tags[1] FROM dcb WHERE type = 'Enrolled' AND stream_id LIKE 'student-$first\\_%'
		GROUP BY 1 HAVING count(*) > $seats) o),
	(SELECT count(*) FROM (SELECT tags[1] FROM dcb WHERE type = 'Registered' AND stream_id LIKE 'user-$first\\_%'
		GROUP BY 1 HAVING count(*) > 1) d),
	(SELECT count(*) FROM dcb WHERE type = 'Enrolled' AND stream_id LIKE 'student-$first\\_%')});
}

my ($overbooked, $doubled, $enrolled) = race('true', 1);
is($overbooked, 0, 'no course is overbooked');
is($doubled, 0, 'no name is given twice');
is($enrolled, $courses * $seats, 'all seats are taken');

($overbooked, $doubled) = race('false', 1001);
cmp_ok($overbooked + $doubled, '>', 0, 'without the condition the same race overbooks or gives names twice');

$node->stop;
done_testing();
