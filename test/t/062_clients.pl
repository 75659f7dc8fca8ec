# The example clients do what docs/clients.md says, in each language that this
# machine has: psql, Python with psycopg 3, Node with pg.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('clients');
$node->init;
$node->append_conf('postgresql.conf', qq{
shared_preload_libraries = 'daybook'
wal_level = logical
});
$node->start;

$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;
delete $ENV{PGUSER};

my %clients = (
	psql => {
		deposit => sub { my ($account, $amount) = @_; return psql_file('deposit', "account=$account", "amount=$amount") },
		withdraw => sub { my ($account, $amount) = @_; return psql_file('withdraw', "account=$account", "amount=$amount") },
		mailer => sub { return psql_file('mailer', "idle=$_[0]") },
		exists => sub { return 1 }
	},
	python => {
		deposit => sub { return ('/usr/bin/python3', 'examples/python/deposit.py', @_) },
		withdraw => sub { return ('/usr/bin/python3', 'examples/python/withdraw.py', @_) },
		mailer => sub { return ('/usr/bin/python3', 'examples/python/mailer.py', @_) },
		exists => sub { return succeeds('/usr/bin/python3', '-c', 'import psycopg') }
	},
	node => {
		deposit => sub { return ('node', 'examples/node/deposit.js', @_) },
		withdraw => sub { return ('node', 'examples/node/withdraw.js', @_) },
		mailer => sub { return ('node', 'examples/node/mailer.js', @_) },
		exists => sub { return succeeds('node', '-e', q{require('module').createRequire(process.cwd() + '/examples/node/x.js')('pg')}) }
	});

sub psql_file
{
	my ($name, @variables) = @_;
	return ('psql', '-XAtq', (map { ('-v', $_) } @variables), '-f', "examples/psql/$name.sql");
}

sub succeeds
{
	my @command = @_;
	my ($out, $err);
	return eval { IPC::Run::run(\@command, '>', \$out, '2>', \$err) };
}

# Runs commands at the same time; returns how many succeeded.
sub run_together
{
	my @out = ('') x @_;
	my @err = ('') x @_;
	my @running = map { IPC::Run::start($_[$_], '<', \undef, '>', \$out[$_], '2>', \$err[$_]) } 0 .. $#_;
	my $good = 0;
	for my $i (0 .. $#running)
	{
		$good++ if $running[$i]->finish;
		note $err[$i] if $err[$i];
	}
	return $good;
}

for my $language (qw(psql python node))
{
  SKIP:
	{
		my $client = $clients{$language};
		skip "$language or its PostgreSQL driver is not on this machine", 1 unless $client->{exists}->();

		my $database = "bank_$language";
		$node->safe_psql('postgres', "CREATE DATABASE $database");
		$node->safe_psql($database, 'CREATE EXTENSION daybook');
		$ENV{PGDATABASE} = $database;
		$node->command_ok([ 'psql', '-Xq', '-f', 'examples/setup.sql' ], "$language: setup");

		# what has been written can be read at once
		for my $i (1 .. 5)
		{
			my ($out, $err);
			my @command = $client->{deposit}->('account-1', 20);
			IPC::Run::run(\@command, '>', \$out, '2>', \$err);
			like($out, qr/account-1\W@{[ $i * 20 ]}(\.0)?$/m, "$language: deposit $i is in the balance") or diag $err;
		}

		# 100 are there: of ten withdrawals of 30 that race, three succeed
		is(run_together(map { [ $client->{withdraw}->('account-1', 30) ] } 1 .. 10), 3,
			"$language: no more is withdrawn than is there");
		is($node->safe_psql($database, q{SELECT count(*) FROM account WHERE type = 'Withdrawn'}), '3',
			"$language: by as many events");

		# three programs share the work; an event without an amount holds up its account only
		$node->safe_psql($database, q{
			INSERT INTO account (stream_id, type, data)
			SELECT 'account-' || 2 + i % 7, 'Deposited', jsonb_build_object('amount', i) FROM generate_series(1, 300) i;
			SELECT daybook.append('account', 'account-3', 'Strange', '{}');
			SELECT daybook.append('account', 'account-3', 'Deposited', '{"amount": 1}');
			SELECT daybook.append('account', 'account-4', 'Deposited', '{"amount": 1}')});
		is(run_together(map { [ $client->{mailer}->(4) ] } 1 .. 3), 3, "$language: three programs");
		is($node->safe_psql($database, 'SELECT count(*), count(DISTINCT event_id) FROM mail'), '309|309',
			"$language: a mail for each event");
		is($node->safe_psql($database, 'SELECT sent_by, count(DISTINCT account) FROM mail GROUP BY 1'), "$language|8",
			"$language: for all accounts");
		is($node->safe_psql($database, q{
			SELECT p.stream_id, version, state, deliveries, reason FROM daybook.subscription_parked p JOIN account a ON a.id = p.event_id ORDER BY position}),
			"account-3|44|parked|3|Strange without an amount\naccount-3|45|queued|1|", "$language: but what fails is parked");

		# given up by hand, and the next one goes out
		$node->safe_psql($database, q{
			SELECT daybook.subscription_discard_parked('mailer', position, 'told them by phone')
			FROM daybook.subscription_parked WHERE state = 'parked'});
		is(run_together([ $client->{mailer}->(1) ]), 1, "$language: the mailer again");
		is($node->safe_psql($database, 'SELECT count(*), (SELECT count(*) FROM daybook.subscription_parked) FROM mail'), '310|0',
			"$language: what waited behind it is sent");
	}
}

$node->stop;
done_testing();
