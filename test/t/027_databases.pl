# Workers come and go with databases and with the extension, and stand in
# nobody's way.
use strict;
use warnings;
use DaybookTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('databases');

sub make_database
{
	my ($name) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, 'CREATE EXTENSION daybook');
	$node->safe_psql($name, q{SELECT daybook.create_event_table('orders')});
}

sub append
{
	my ($database, $count) = @_;
	$node->safe_psql($database,
		"INSERT INTO orders (stream_id, type) SELECT 's-' || i % 7, 'Happened' FROM generate_series(1, $count) i");
}

sub workers
{
	return $node->safe_psql('postgres',
		q{SELECT coalesce(string_agg(datname, ',' ORDER BY datname), '') FROM pg_stat_activity WHERE backend_type = 'daybook sequencer'});
}

# Two databases at once do not meet.
{
	make_database('one');
	make_database('two');
	my @load = map {
		start_pgbench($node, [ '-c', 3, '-t', 200 ], { "two_$_" => qq{
\\set s random(1, 5)
INSERT INTO orders (stream_id, type) VALUES ('s-:s', 'Happened');
} }, $_) } qw(one two);
	ok(finish($_), 'load of one of two databases') for @load;
	for my $database (qw(one two))
	{
		ok(all_published($node, $database), "all events of database $database are published");
		log_is_right($node, "the log of database $database is right", $database);
		is(status($node, 'head', $database), 600, 'and its own');
	}
}

# CREATE EXTENSION at any moment brings a worker, also while a worker that has
# looked for the extension in vain, or has seen it dropped, is leaving.
{
	my $without = 0;
	for my $i (1 .. 15)
	{
		$node->safe_psql('postgres', "CREATE DATABASE quick_$i");
		$node->safe_psql("quick_$i", 'CREATE EXTENSION daybook');
	}
	for my $i (1 .. 15)
	{
		wait_until("a worker in quick_$i", sub { sequencer_pid($node, "quick_$i") ne '' }, 10) or $without++;
		$node->safe_psql('postgres', "DROP DATABASE quick_$i");
		last if $without;
	}
	is($without, 0, 'each new database with the extension has its worker');

	make_database('again');
	for my $i (1 .. 15)
	{
		append('again', 5);
		$node->safe_psql('again', q{
			SELECT daybook.drop_event_table('orders', force => true);
			DROP EXTENSION daybook});
		$node->safe_psql('again', 'CREATE EXTENSION daybook');
		$node->safe_psql('again', q{SELECT daybook.create_event_table('orders')});
	}
	for my $i (1 .. 5)
	{
		append('again', 5);
		$node->safe_psql('again', q{
			SELECT daybook.drop_event_table('orders', force => true);
			BEGIN; DROP EXTENSION daybook; CREATE EXTENSION daybook; COMMIT;
			SELECT daybook.create_event_table('orders')});
	}
	append('again', 10);
	ok(all_published($node, 'again', 20), 'an extension dropped and made again has its worker');
	log_is_right($node, 'whose log begins at 1', 'again');
	$node->safe_psql('postgres', 'DROP DATABASE again');
}

# DROP EXTENSION ends the worker.
{
	make_database('gone');
	ok(wait_for_mode($node, 'decoding', 'gone'), 'a worker is there');
	$node->safe_psql('gone', q{SELECT daybook.drop_event_table('orders', force => true); DROP EXTENSION daybook});
	ok(wait_until('the worker leaves', sub { workers() !~ /gone/ }), 'and leaves with the extension');
	$node->safe_psql('postgres', 'DROP DATABASE gone');
}

# DROP DATABASE, FORCE or not, works at once while the worker is busy.
{
	my $failed = '';
	for my $i (1 .. 12)
	{
		make_database('busy');
		my $load = start_pgbench($node, [ '-c', 2, '-t', 100000 ], { busy => q{
INSERT INTO orders (stream_id, type) SELECT 's-' || i, 'Happened' FROM generate_series(1, 20) i;
} }, 'busy');
		wait_until('some load', sub { event_count($node, 'busy') > 200 });
		if ($i % 2)
		{
			$node->safe_psql('postgres', 'DROP DATABASE busy WITH (FORCE)');
			finish($load);
		}
		else
		{
			$node->safe_psql('postgres', q{
				SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE datname = 'busy' AND backend_type = 'client backend'});
			finish($load);
			my (undef, undef, $error) = $node->psql('postgres', 'DROP DATABASE busy');
			$failed .= $error if $error;
			$node->psql('postgres', 'DROP DATABASE IF EXISTS busy');
		}
	}
	is($failed, '', 'DROP DATABASE finds nobody in its way');
}

# A database can be copied, renamed and moved; its worker comes back.
{
	# the workers of both start at the same time
	my $late = 0;
	for my $i (1 .. 6)
	{
		$node->safe_psql('postgres', "CREATE DATABASE copy_$i TEMPLATE one");
		append("copy_$i", 10);
		all_published($node, $_, 20) or $late++ for 'one', "copy_$i";
		$node->safe_psql('postgres', "DROP DATABASE copy_$i");
		last if $late;
	}
	is($late, 0, 'a copy and its original have their workers at once');
	append('one', 10);
	$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE one');
	append('copy', 10);
	append('one', 20);
	ok(all_published($node, $_), "database $_ goes on") for qw(one copy);
	log_is_right($node, "and the log of $_ is right", $_) for qw(one copy);
	is(event_count($node, 'one'), 630, 'the original has its own events');
	is(event_count($node, 'copy'), 620, 'and the copy its own');

	$node->safe_psql('postgres', 'ALTER DATABASE copy RENAME TO renamed');
	append('renamed', 5);
	ok(all_published($node, 'renamed'), 'a renamed database has its worker');

	my $space = PostgreSQL::Test::Utils::tempdir();
	$node->safe_psql('postgres', "CREATE TABLESPACE elsewhere LOCATION '$space'");
	$node->safe_psql('postgres', 'ALTER DATABASE renamed SET TABLESPACE elsewhere');
	append('renamed', 5);
	ok(all_published($node, 'renamed'), 'one that was moved, too');
	log_is_right($node, 'with the log that it had', 'renamed');
	$node->safe_psql('postgres', 'DROP DATABASE renamed');
}

# The database can be copied from within itself, and the worker comes back
# after a copy that fails, too.
{
	$node->safe_psql('one', 'CREATE DATABASE copy TEMPLATE one');
	$node->safe_psql('one', q{INSERT INTO orders (stream_id, type) SELECT 's-1', 'Happened' FROM generate_series(1, 10)});
	append('copy', 5);
	ok(all_published($node, $_, 20), "a copy made in the template: database $_ goes on") for qw(one copy);
	my ($ret, $out, $err) = $node->psql('one', 'CREATE DATABASE copy TEMPLATE one');
	like($err, qr/database "copy" already exists/, 'a copy that fails');
	append('one', 5);
	ok(all_published($node, 'one', 20), '... leaves the template its worker');
	log_is_right($node, '... and the log as it was', 'one');
	$node->safe_psql('postgres', 'DROP DATABASE copy');
}

# Sessions that come before the launcher has seen their database, as they may
# right after the server's start too, wait for its worker.
{
	my $launcher = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'daybook launcher'});
	kill 'STOP', $launcher;
	$node->safe_psql('postgres', 'CREATE DATABASE early TEMPLATE one');
	$node->safe_psql('early', q{
		CREATE TABLE seen (id bigint);
		SELECT daybook.create_projection('seen', '{orders}', 'INSERT INTO seen SELECT id FROM new_events', '{seen}');
		SELECT daybook.create_subscription('consumer', '{orders}', from_position => daybook.head())});
	append('early', 3);
	my @waiting = map { start_pgbench($node, [ '-c', 1, '-t', 1 ], { early => "$_;" }, 'early') }
		q{SELECT daybook.wait_for_projection('seen', pg_current_wal_insert_lsn(), timeout => '180s')},
		q{SELECT 1 / count(*) FROM daybook.fetch('consumer', wait => '180s')};
	ok(wait_until('two that wait', sub {
		$node->safe_psql('early', q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'early' AND wait_event_type = 'Extension'}) == 2
	}, 10), 'sessions wait for a worker that is not there yet');
	kill 'CONT', $launcher;
	ok(finish($_), 'and go on with it') for @waiting;
	$node->safe_psql('postgres', 'DROP DATABASE early');
}

# A session that ends in the midst of such a command does not keep the worker out.
{
	my $user = $node->background_psql('one', on_error_die => 0);
	$user->query_safe('SELECT 1');
	my $command = $node->background_psql('postgres', on_error_stop => 0);
	$command->query_until(qr/begun/, "\\echo begun\nCREATE DATABASE copy TEMPLATE one;\n");
	ok(wait_until('CREATE DATABASE waits', sub { workers() !~ /one/ }), 'CREATE DATABASE holds the worker off');
	$node->safe_psql('postgres', q{
		SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CREATE DATABASE copy%'});
	ok(wait_until('the worker is back', sub { workers() =~ /one/ }, 20), 'its session is ended, and the worker comes back');
	eval { $command->quit };
	$user->quit;
}

# Templates have no worker; once they are databases like others, they do.
{
	$node->safe_psql('postgres', 'ALTER DATABASE two IS_TEMPLATE true');
	$node->restart;
	ok(wait_until('a worker in one', sub { workers() =~ /one/ }), 'workers start with the server');
	unlike(workers(), qr/two/, 'none in a template');
	like(status($node, 'hint', 'two'), qr/template/, 'which says so');
	$node->safe_psql('postgres', 'ALTER DATABASE two IS_TEMPLATE false');
	$node->safe_psql('postgres', q{
		SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'daybook launcher'});
	ok(wait_until('a worker in two', sub { workers() =~ /two/ }), 'a launcher that starts anew looks everywhere');
	append('two', 3);
	ok(all_published($node, 'two'), 'and the events are published');
}

# What an interrupted DROP DATABASE leaves behind is not connected to.
{
	$node->safe_psql('postgres', 'CREATE DATABASE invalid');
	$node->safe_psql('invalid', 'CREATE EXTENSION daybook');
	ok(wait_until('a worker', sub { workers() =~ /invalid/ }), 'a database has its worker');
	my $offset = -s $node->logfile;
	$node->safe_psql('postgres', q{UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'invalid'});
	for my $database (qw(invalid one))
	{
		my ($pid) = $node->safe_psql('postgres', qq{
			SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '$database' AND backend_type = 'daybook sequencer'}) =~ /(\d+)/;
		ok(wait_until('its end', sub {
			$node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") == 0 }), "the worker of $database is ended");
	}
	ok(wait_until('a worker', sub { workers() =~ /one/ }), 'that of a valid one comes again');
	is(join("\n", server_log_lines($node, qr/cannot connect to/, $offset)), '', 'that of an invalid one does not even try');
	$node->safe_psql('postgres', 'DROP DATABASE invalid');
}

# Too few worker processes: the view says so, and it passes.
{
	$node->safe_psql($_, q{
		CREATE FUNCTION count_events(state int, event daybook.event) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT state + 1';
		SELECT daybook.create_fold('counted', 'orders', 'count_events(int, daybook.event)', 0)}) for qw(one two);
	$node->append_conf('postgresql.conf', 'max_worker_processes = 3');
	$node->restart;
	ok(wait_until('one worker', sub { workers() ne '' }), 'one worker has a place');
	my ($has, $lacks) = workers() eq 'one' ? qw(one two) : workers() eq 'two' ? qw(two one) : qw(postgres one);
	append($lacks, 3);
	ok(wait_until('a hint', sub { status($node, 'hint', $lacks) =~ /max_worker_processes/ }),
		'a database without one says what to increase');
	is(status($node, 'mode', $lacks), 'stopped', 'and that nothing is sequenced');

	# a database has its worker, and none is left for the snapshots of its folds
	$node->append_conf('postgresql.conf', 'max_worker_processes = 5');
	my $offset = -s $node->logfile;
	$node->restart;
	my $no_snapshots = sub { server_log_lines($node, qr/could not start a worker for snapshots/, $offset) };
	ok(wait_until('the snapshots', sub { $no_snapshots->() > 0 }), 'the log says that a worker for snapshots is missing');
	my $tries_again = time() + 6;
	ok(wait_until('another try', sub { time() > $tries_again }), 'it is tried again');
	my %said;
	/\[(\d+)\]/ and $said{$1}++ for $no_snapshots->();
	is(scalar(grep { $_ > 1 } values %said), 0, '... and not said again');
	$node->append_conf('postgresql.conf', 'max_worker_processes = 32');
	$node->restart;
	ok(all_published($node, $lacks), 'with more of them the events are published');

	$node->append_conf('postgresql.conf', 'max_worker_processes = 0');
	$node->restart;
	like(status($node, 'hint', 'one'), qr/max_worker_processes/, 'without any there is no launcher, and the hint says so');
	$node->append_conf('postgresql.conf', 'max_worker_processes = 32');

	$node->append_conf('postgresql.conf', 'daybook.max_databases = 1');
	$node->restart;
	ok(wait_until('one worker', sub { workers() ne '' }), 'one database has a place');
	$lacks = workers() eq 'one' ? 'two' : 'one';
	ok(wait_until('a hint', sub { status($node, 'hint', $lacks) =~ /daybook\.max_databases/ }),
		'another says what to increase');
	$node->append_conf('postgresql.conf', 'daybook.max_databases = 16');
	$node->restart;
	ok(wait_until('three workers', sub { workers() eq 'one,postgres,two' }), 'with room for all, all have workers');
}

$node->stop;
is(join("\n", server_log_lines($node, qr/PANIC|TRAP|terminated by signal/)), '', 'nothing has crashed');
done_testing();
