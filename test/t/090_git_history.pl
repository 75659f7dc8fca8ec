# The history of a git repository as events: the tree folded from the events up
# to a commit, and the one that a projection keeps, are git's own.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'git is not installed' if system('git --version >/dev/null 2>&1') != 0;

my $changes = 3000;
my $dir     = PostgreSQL::Test::Utils::tempdir;
my $repository = "$dir/repository";
$ENV{GIT_CONFIG_GLOBAL} = '/dev/null';
$ENV{PGCLIENTENCODING}  = 'UTF8';

my $node = PostgreSQL::Test::Cluster->new('git');
$node->init;
$node->append_conf('postgresql.conf', qq{
wal_level = logical
shared_preload_libraries = 'daybook'
max_worker_processes = 32
});
$node->start;

run_log([ 'test/make-repository', $repository, $changes, 10 ]) or BAIL_OUT('no repository');
$node->safe_psql('postgres', 'CREATE EXTENSION daybook');
my @psql = ('psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'));
command_ok([ @psql, '-f', 'demo/git-history.sql' ], 'event table and projections are made');

my $pipe = system("demo/git-events events $repository $dir/commits 2>/dev/null >$dir/events.sql");
is($pipe, 0, 'the history is read');
command_ok([ @psql, '-f', "$dir/events.sql" ], 'its events are appended');

my @commits = split /\n/, slurp_file("$dir/commits");
my $events = $node->safe_psql('postgres', 'SELECT count(*) FROM git_history');
cmp_ok($events, '>=', $changes, 'there is an event for each change');
is($node->safe_psql('postgres', 'SELECT count(DISTINCT type) FROM git_history'), 4, 'of all four types');
is( $node->safe_psql(
		'postgres', 'SELECT count(*) FROM (SELECT stream_id FROM git_history GROUP BY 1
			HAVING min(version) <> 1 OR max(version) <> count(*)) AS wrong'),
	0, 'versions of each stream are 1, 2, 3, ...');
is($node->safe_psql('postgres', q{SELECT count(*) FROM git_history WHERE stream_id LIKE E'file-%\n%'}) > 0,
	1, 'a path with a newline in it is there');

$node->safe_psql('postgres', q{
	SELECT daybook.wait_for_projection(name, lsn => pg_current_wal_insert_lsn(), timeout => '180s')
	FROM daybook.projection_status});

for my $commit ($commits[0], $commits[ @commits / 2 ], $commits[-1])
{
	is(sorted(@psql, '-v', "commit=$commit", '-f', 'demo/tree-at.sql'),
		sorted('demo/git-events', 'tree', $repository, $commit),
		"the tree of $commit");
}
is(sorted(@psql, '-c', 'COPY current_file TO STDOUT'),
	sorted('demo/git-events', 'tree', $repository, 'main'),
	'the files that the projection keeps');
is($node->safe_psql('postgres', 'SELECT sum(added + modified + 2 * renamed + deleted) FROM author_changes'),
	$events, 'every event was counted for its author');

# a control: the comparison sees a difference
$node->safe_psql('postgres', q{UPDATE current_file SET mode = '100600' WHERE path = (SELECT min(path) FROM current_file)});
isnt(sorted(@psql, '-c', 'COPY current_file TO STDOUT'),
	sorted('demo/git-events', 'tree', $repository, 'main'),
	'a file with another mode is noticed');
$node->stop;

done_testing();

# The lines that a command prints, sorted.
sub sorted
{
	my ($out, $err) = ('', '');
	IPC::Run::run([@_], '>', \$out, '2>', \$err) or return "failed: $err";
	return join "\n", sort split /\n/, $out;
}
