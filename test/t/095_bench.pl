# The benchmark works: every row of it runs in its short form and prints a
# table.  Nothing is said of how fast.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'gcc is not installed' if system('gcc --version >/dev/null 2>&1') != 0;

my ($pg_config) = grep { -x } map { "$_/pg_config" } split /:/, $ENV{PATH};
my @rows = map { /^(\S+)/ } `bench/run --list`;
cmp_ok(scalar @rows, '>', 10, 'there are rows');

my ($out, $err);
{
	local %ENV = (%ENV, PG_CONFIG => $ENV{PG_CONFIG} || $pg_config, PEERS => 0);
	delete @ENV{qw(PGHOST PGPORT PGDATABASE PGUSER PGOPTIONS PGAPPNAME PGDATA)};
	ok(IPC::Run::run([ 'bench/run', '--short', '--installed' ], '>', \$out, '2>', \$err), 'the benchmark runs')
	  or diag(substr($out, -2000), $err);
}
for my $row (@rows)
{
	my ($report) = $out =~ /^== \Q$row\E: (.*?)(?=^== |\z)/ms;
	my @lines = grep { /^\|/ && !/^\|-/ } split /\n/, $report // '';

	# a head, a case and the variants that are compared
	cmp_ok(scalar @lines, '>=', 4, "$row prints a table");
}
done_testing();
