# Conditional appends under load: 16 clients race for seats and names in
# 100,000 attempts.  What they decide on holds, while the same clients without
# the condition break it.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# two attempts in a transaction
my $transactions = int(($ENV{DAYBOOK_TEST_EVENTS} || 102_400) / 32);
my $control_transactions = 300;
my $seats = 30;
my $courses_each = 3;

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

CREATE SEQUENCE attempts;
CREATE SEQUENCE conflicts;

-- takes a seat if there is one and the student has time, deciding by what it has read
CREATE FUNCTION enrol(course text, student text, seats int, courses_each int, conditional boolean) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	query jsonb := jsonb_build_array(
		jsonb_build_object('types', '["Enrolled"]'::jsonb, 'tags', jsonb_build_array('course:' || course)),
		jsonb_build_object('types', '["Enrolled"]'::jsonb, 'tags', jsonb_build_array('student:' || student)));
	event jsonb := jsonb_build_object('stream_id', student, 'type', 'Enrolled',
		'tags', jsonb_build_array('course:' || course, 'student:' || student));
	found record;
	in_course int;
	of_student int;
BEGIN
	PERFORM nextval('attempts');
	SELECT * INTO found FROM daybook.read_matching('dcb', query);
	SELECT count(*) FILTER (WHERE 'course:' || course = ANY (e.tags)), count(*) FILTER (WHERE 'student:' || student = ANY (e.tags))
	INTO in_course, of_student FROM unnest(found.events) e;
	IF in_course >= seats OR of_student >= courses_each THEN
		RETURN;
	END IF;
	IF random() < 0.2 THEN
		PERFORM pg_sleep(random() * 0.003);		-- time to think
	END IF;
	IF conditional THEN
		PERFORM daybook.append_if('dcb', event, query, found.marker);
	ELSE
		PERFORM daybook.append('dcb', student, event - 'stream_id');
	END IF;
EXCEPTION WHEN serialization_failure THEN
	PERFORM nextval('conflicts');
END $$;

-- takes a name if nobody has it
CREATE FUNCTION register(name text, client text, conditional boolean) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	query jsonb := jsonb_build_object('tags', jsonb_build_array('name:' || name));
	event jsonb := jsonb_build_object('stream_id', client, 'type', 'Registered', 'tags', jsonb_build_array('name:' || name));
BEGIN
	PERFORM nextval('attempts');
	IF conditional THEN
		PERFORM daybook.append_if('dcb', event, query);
	ELSIF cardinality((daybook.read_matching('dcb', query)).events) = 0 THEN
		PERFORM daybook.append('dcb', client, event - 'stream_id');
	END IF;
EXCEPTION WHEN serialization_failure THEN
	PERFORM nextval('conflicts');
END $$;
});

# Runs the race for one set of courses, students and names, which all clients
# go through side by side: a few are contended at any time.  Some transactions
# are rolled back, as a whole or to a savepoint.
sub race
{
	my ($set, $conditional, $count) = @_;
	my $script = $node->basedir . "/race_$set.sql";
	my $enrol = "SELECT enrol('$set-' || :course, '$set-' || :student, $seats, $courses_each, $conditional);";
	my $register = "SELECT register('$set-' || :name, 'user-$set-' || :client_id, $conditional);";

	append_to_file($script, qq{
\\set i :i + 1
\\set course :i / 25 + random(0, 3)
\\set student :i / 3 + random(0, 30)
\\set name :i / 4 + random(0, 9)
\\set how random(1, 10)
\\if :how <= 6
$enrol
$register
\\elif :how = 7
BEGIN;
$enrol
$register
ROLLBACK;
\\elif :how = 8
BEGIN;
SAVEPOINT s;
$enrol
ROLLBACK TO s;
$register
COMMIT;
\\else
BEGIN;
$enrol
SAVEPOINT s;
$register
RELEASE s;
COMMIT;
\\endif
});
	command_ok([ 'pgbench', '-n', '-c', 16, '-j', 2, '-t', $count, '-D', 'i=0', '-f', $script,
			'-h', $node->host, '-p', $node->port, 'postgres' ],
		"16 clients race, conditional $conditional");
}

# How many courses have too many students, students too many courses, and names two users.
sub broken
{
	my ($set) = @_;
	return split /\|/, $node->safe_psql('postgres', qq{
WITH enrolled AS (SELECT tags[1] AS course, tags[2] AS student FROM dcb WHERE type = 'Enrolled' AND stream_id LIKE '$set-%')
SELECT (SELECT count(*) FROM (SELECT FROM enrolled GROUP BY course HAVING count(*) > $seats) o),
	(SELECT count(*) FROM (SELECT FROM enrolled GROUP BY student HAVING count(*) > $courses_each) o),
	(SELECT count(*) FROM (SELECT FROM dcb WHERE type = 'Registered' AND stream_id LIKE 'user-$set-%' GROUP BY tags[1] HAVING count(*) > 1) d)});
}

race('right', 'true', $transactions);
my ($overbooked, $overworked, $doubled) = broken('right');
is($overbooked, 0, 'no course is overbooked');
is($overworked, 0, 'no student has too many courses');
is($doubled, 0, 'no name is given twice');
my ($attempts, $conflicts) = split /\|/, $node->safe_psql('postgres', q{SELECT a.last_value, c.last_value FROM attempts a, conflicts c});
cmp_ok($attempts, '>=', $transactions * 32, 'every attempt was made');
cmp_ok($conflicts, '>', $attempts / 1000, 'many were turned away');
my ($full, $names) = split /\|/, $node->safe_psql('postgres', qq{
SELECT (SELECT count(*) FROM (SELECT FROM dcb WHERE type = 'Enrolled' GROUP BY tags[1] HAVING count(*) = $seats) f),
	(SELECT count(DISTINCT tags[1]) FROM dcb WHERE type = 'Registered')});
cmp_ok($full, '>', 0, 'courses are full');
cmp_ok($names, '>=', $transactions / 4, 'names are taken');
note("$attempts attempts, $conflicts conflicts, $full courses full, $names names");

# The control runs until chance has broken each of the rules.
($overbooked, $overworked, $doubled) = (0, 0, 0);
for my $round (1 .. 20)
{
	last if $overbooked && $overworked && $doubled;
	race("wrong-$round", 'false', $control_transactions);
	my @more = broken("wrong-$round");
	$overbooked += $more[0];
	$overworked += $more[1];
	$doubled += $more[2];
}
note("control: $overbooked courses overbooked, $overworked students with too many courses, $doubled names given twice");
cmp_ok($overbooked, '>', 0, 'without the condition the same race overbooks courses');
cmp_ok($overworked, '>', 0, 'gives students too many');
cmp_ok($doubled, '>', 0, 'and gives names twice');

$node->stop;
done_testing();
