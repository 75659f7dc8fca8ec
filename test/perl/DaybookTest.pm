# What the tests of ordering share: servers, states to wait for, and the check
# of the log against the event tables.
package DaybookTest;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use IPC::Run;
use POSIX ();
use Time::HiRes qw(time usleep);

our @EXPORT = qw(new_node wait_until all_published wait_for_mode log_faults log_is_right
  status server_log_lines start_pgbench finish stop_load resolve_prepared sequencer_pid event_count events_wanted
  start_reader stop_readers reader_faults reader_misses kill_backend kill_server start_again decoded_bytes);

# A server with the library, ready for logical decoding, and the extension in
# database postgres.  Options go on top of the configuration.
sub new_node
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(allows_streaming => $options{streaming});
	$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'daybook'
wal_level = logical
max_worker_processes = 32
max_prepared_transactions = 50
max_replication_slots = 10
max_wal_senders = 10
max_connections = 100
shared_buffers = 128MB
max_wal_size = 2GB
log_line_prefix = '%m [%p] %b '
log_statement = none
autovacuum_naptime = 5s
});
	$node->append_conf('postgresql.conf', $options{conf}) if $options{conf};
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION daybook');
	return $node;
}

# How many events a stress test makes: DAYBOOK_TEST_EVENTS, or the default.
sub events_wanted
{
	my ($default) = @_;
	return $ENV{DAYBOOK_TEST_EVENTS} || $default;
}

# Polls often, for a state that comes soon or a moment that passes quickly.  To
# wait in vain ends the test unless its caller looks at the result.
sub wait_until
{
	my ($what, $condition, $seconds) = @_;
	my $until = time() + ($seconds || 60);

	while (time() < $until)
	{
		return 1 if $condition->();
		usleep(20_000);
	}
	diag("waited in vain: $what");
	die "waited in vain" unless defined wantarray;
	return 0;
}

sub union_of_tables
{
	my ($node, $database) = @_;
	my $tables = $node->safe_psql($database,
		q{SELECT relation::oid || ' ' || relation FROM daybook.event_table WHERE relation IS NOT NULL});

	return join(' UNION ALL ',
		map { my ($oid, $name) = split(/ /, $_, 2); "SELECT ${oid}::oid AS tab, id, stream_id COLLATE \"C\" AS stream_id, version FROM $name" }
		  split(/\n/, $tables));
}

sub event_count
{
	my ($node, $database) = @_;
	$database ||= 'postgres';
	return $node->safe_psql($database,
		'SELECT count(*) FROM (' . union_of_tables($node, $database) . ') e');
}

# Waits until the log has as many entries as there are committed events.
sub all_published
{
	my ($node, $database, $seconds) = @_;
	$database ||= 'postgres';
	my $events = union_of_tables($node, $database);

	return 1 if wait_until("the log of $database has all events",
		sub {
			my ($result, $output) = $node->psql($database, qq{
				SELECT (SELECT count(*) FROM ($events) e) =
					(SELECT count(*) FROM daybook.log WHERE event_table IS NOT NULL)});
			return defined $output && $output eq 't';
		},
		$seconds || 120);
	diag($node->safe_psql($database, 'SELECT * FROM daybook.sequencer_status'));
	return 0;
}

sub status
{
	my ($node, $column, $database) = @_;
	return $node->safe_psql($database || 'postgres', "SELECT $column FROM daybook.sequencer_status");
}

sub wait_for_mode
{
	my ($node, $mode, $database, $seconds) = @_;
	return wait_until("mode $mode", sub { status($node, 'mode', $database) eq $mode }, $seconds);
}

# The process that sequences a database, or an empty string.
sub sequencer_pid
{
	my ($node, $database) = @_;
	return status($node, 'pid', $database);
}

# What is wrong with the log, one fault a line; an empty string if nothing is.
sub log_faults
{
	my ($node, $database) = @_;
	$database ||= 'postgres';
	my $events = union_of_tables($node, $database);

	return $node->safe_psql($database, qq{
SET work_mem = '256MB';
CREATE TEMP TABLE entry AS SELECT position, event_table::oid AS tab, id, transaction FROM daybook.log;
CREATE TEMP TABLE event AS $events;
ANALYZE entry;
ANALYZE event;
SELECT 'positions are not dense: ' || count(*) || ' up to ' || max(position)
FROM entry HAVING count(*) <> coalesce(max(position), 0) OR count(*) <> count(DISTINCT position);
SELECT 'daybook.head() is ' || daybook.head() || ', the last position is ' || coalesce(max(position), 0)
FROM entry HAVING daybook.head() <> coalesce(max(position), 0);
SELECT 'event ' || tab::regclass || ' ' || id || ' is in the log ' || count(*) || ' times'
FROM entry WHERE tab IS NOT NULL GROUP BY tab, id HAVING count(*) > 1 LIMIT 10;
SELECT 'committed event ' || e.tab::regclass || ' ' || e.id || ' is missing'
FROM event e LEFT JOIN entry l USING (tab, id) WHERE l.id IS NULL ORDER BY e.id LIMIT 10;
SELECT 'position ' || l.position || ' has no event (' || l.tab::regclass || ' ' || l.id || ')'
FROM entry l LEFT JOIN event e USING (tab, id) WHERE l.tab IS NOT NULL AND e.id IS NULL ORDER BY l.position LIMIT 10;
SELECT 'stream ' || stream_id || ' of ' || tab::regclass || ' has ' || count(*) || ' events up to version ' || max(version)
FROM event GROUP BY tab, stream_id HAVING count(*) <> max(version) OR min(version) <> 1 LIMIT 10;
SELECT 'position ' || position || ' has stream ' || stream_id || ' going back' FROM (
	SELECT position, stream_id, version, lag(position) OVER (PARTITION BY tab, stream_id ORDER BY version) AS before
	FROM entry JOIN event USING (tab, id)) s
WHERE before > position LIMIT 10;
SELECT 'position ' || position || ' points to transaction ' || transaction
FROM entry l WHERE transaction > position
	OR NOT EXISTS (SELECT FROM entry f WHERE f.position = l.transaction AND f.transaction = f.position) LIMIT 10;
});
}

sub log_is_right
{
	my ($node, $what, $database) = @_;
	return is(log_faults($node, $database), '', $what);
}

# Bytes of rows that PostgreSQL's decoding has gone through.
sub decoded_bytes
{
	my ($node) = @_;
	return $node->safe_psql('postgres', q{SELECT sum(total_bytes) FROM pg_stat_replication_slots});
}

# Lines of the server's log that match, from an offset on.
sub server_log_lines
{
	my ($node, $pattern, $offset) = @_;
	my $log = slurp_file($node->logfile, $offset || 0);
	return grep { $_ =~ $pattern } split(/\n/, $log);
}

# pgbench in the background; scripts is a hash of names (with @weight) and
# texts, settings are for PGOPTIONS.
sub start_pgbench
{
	my ($node, $options, $scripts, $database, $settings) = @_;
	my @files;
	my %bench = (out => '', err => '');

	for my $name (sort keys %$scripts)
	{
		my ($base, $weight) = split(/\@/, $name);
		my $file = $node->basedir . "/$base.pgbench";

		open(my $handle, '>', $file) or die "$file: $!";
		print $handle $scripts->{$name};
		close $handle;
		push @files, '-f', $file . ($weight ? "\@$weight" : '');
	}
	local $ENV{PGOPTIONS} = $settings || '';
	$bench{run} = IPC::Run::start(
		[ $node->installed_command('pgbench'), '-n', @$options, @files,
			'-h', $node->host, '-p', $node->port, $database || 'postgres' ],
		'>', \$bench{out}, '2>', \$bench{err});
	return \%bench;
}

# Waits for the end of a program started in the background; true if it succeeded.
sub finish
{
	my ($bench) = @_;
	my $result = IPC::Run::finish($bench->{run});
	return $result;
}

# Ends a load that has no end of its own.  Not by SIGINT, which a shell's
# background job ignores, and so do its children.
sub stop_load
{
	my ($bench) = @_;
	$bench->{run}->signal('TERM') if $bench->{run}->pumpable;
	finish($bench);
}

# Ends what an interrupted load has left prepared, one way or the other.
sub resolve_prepared
{
	my ($node) = @_;

	for my $gid (split /\n/, $node->safe_psql('postgres', 'SELECT gid FROM pg_prepared_xacts'))
	{
		$node->safe_psql('postgres', (rand() < 0.7 ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$gid'");
	}
}

# Readers: processes that tail the events of tables orders and invoices in
# database postgres, over crashes of the server, and keep a record of what they
# saw in a file.

my %reader_query = (
	# the log at READ COMMITTED, with a look at each event
	committed => q{
		SELECT l.position, l.event_table::oid, l.id, coalesce(o.id, i.id) IS NOT NULL
		FROM daybook.log l
			LEFT JOIN orders o ON l.event_table = 'orders'::regclass AND o.id = l.id
			LEFT JOIN invoices i ON l.event_table = 'invoices'::regclass AND i.id = l.id
		WHERE l.position > %1$s AND l.position <= %1$s + 5000 ORDER BY l.position},
	# the log at REPEATABLE READ: its end, then half of the new entries, then the rest
	repeatable => q{
		BEGIN ISOLATION LEVEL REPEATABLE READ;
		SELECT daybook.head() AS head \gset
		SELECT position, event_table::oid, id, true FROM daybook.log
		WHERE position > %1$s AND position <= least(%1$s + 2000, (%1$s + :head) / 2) ORDER BY position;
		SELECT l.position, l.event_table::oid, l.id, coalesce(o.id, i.id) IS NOT NULL
		FROM daybook.log l
			LEFT JOIN orders o ON l.event_table = 'orders'::regclass AND o.id = l.id
			LEFT JOIN invoices i ON l.event_table = 'invoices'::regclass AND i.id = l.id
		WHERE l.position > least(%1$s + 2000, (%1$s + :head) / 2) AND l.position <= least(%1$s + 4000, :head)
		ORDER BY l.position;
		COMMIT},
	# the tables by id, which is how not to do it
	naive => q{
		SELECT id, tab, id, true FROM (
			SELECT id, 'orders'::regclass::oid AS tab FROM orders WHERE id > %1$s
			UNION ALL SELECT id, 'invoices'::regclass::oid FROM invoices WHERE id > %1$s) e
		ORDER BY id LIMIT 5000},
);

sub start_reader
{
	my ($node, $kind) = @_;
	my %reader = (kind => $kind, file => $node->basedir . "/reader_$kind", stop => $node->basedir . '/stop_readers');
	my $parent = $$;

	unlink $reader{stop};
	$reader{pid} = fork() // die "fork: $!";
	return \%reader if $reader{pid};

	my $last = 0;
	my $failures = 0;
	open(my $file, '>', $reader{file}) or POSIX::_exit(1);
	while (getppid() == $parent)
	{
		my $stopping = -e $reader{stop};
		my ($out, $err) = ('', '');
		my $status = eval {
			open(my $query, '>', "$reader{file}.sql") or die $!;
			print $query sprintf($reader_query{$kind}, $last);
			close $query;
			IPC::Run::run([ $node->installed_command('psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1',
					'-d', $node->connstr('postgres'), '-f', "$reader{file}.sql" ],
				'<', '/dev/null', '>', \$out, '2>', \$err);
			$?;
		} // -1;
		if ($status == 0)
		{
			for my $line (split /\n/, $out)
			{
				my ($position, $table, $id, $exists) = split /\|/, $line;
				print $file join("\t", $position, $table, $id, $exists), "\n";
				if ($kind ne 'naive' && $position != $last + 1)
				{
					print $file "fault: position $position after $last\n";
				}
				$last = $position;
			}
		}
		elsif ($status > 0 && $err !~ /connection|starting up|shutting down|recovery|server closed|No such file|terminating|not yet accepting|canceling/)
		{
			print $file "fault: $err\n" if ++$failures < 5;
		}
		last if $stopping && $status == 0 && $out eq '';
		usleep(10_000);
	}
	close $file;
	POSIX::_exit(0);
}

# Lets the readers read to the end.
sub stop_readers
{
	my (@readers) = @_;
	open(my $stop, '>', $readers[0]->{stop}) or die $!;
	close $stop;
	for my $reader (@readers)
	{
		waitpid($reader->{pid}, 0);
		is($?, 0, "the reader ($reader->{kind}) has read to the end");
	}
}

# What a reader of the log saw other than the log as it is in the end.
sub reader_faults
{
	my ($node, $reader) = @_;
	my @faults = grep { /fault/ } split(/\n/, slurp_file($reader->{file}));

	return join("\n", @faults[0 .. ($#faults < 5 ? $#faults : 5)]) if @faults;
	return $node->safe_psql('postgres', qq{
CREATE TEMP TABLE seen (position bigint, tab oid, id bigint, has_event boolean);
\\copy seen FROM '$reader->{file}'
SELECT CASE WHEN s.position IS NULL THEN 'it missed position ' || l.position
		WHEN l.position IS NULL THEN 'it saw position ' || s.position || ', which is not there'
		WHEN NOT s.has_event THEN 'it saw position ' || s.position || ' without its event'
		ELSE 'it saw event ' || s.id || ' at position ' || s.position || ', where ' || l.id || ' is' END
FROM seen s FULL JOIN daybook.log l USING (position)
WHERE s.id IS DISTINCT FROM l.id OR s.tab IS DISTINCT FROM l.event_table::oid OR NOT s.has_event
ORDER BY position LIMIT 5});
}

# How many events a reader of the tables has missed.
sub reader_misses
{
	my ($node, $reader) = @_;
	return $node->safe_psql('postgres', qq{
CREATE TEMP TABLE seen (position bigint, tab oid, id bigint, has_event boolean);
\\copy seen FROM '$reader->{file}'
SELECT count(*) FROM daybook.log l LEFT JOIN seen s ON s.id = l.id AND s.tab = l.event_table::oid WHERE s.id IS NULL});
}

# Kills one process of the server that a condition on pg_stat_activity selects.
sub kill_backend
{
	my ($node, $signal, $condition) = @_;
	my ($result, $pid) = $node->psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND $condition ORDER BY random() LIMIT 1");

	return kill $signal, $pid if defined $pid && $pid =~ /^\d+$/;
	return 0;
}

# Kills the postmaster; its children follow, leaving everything as it is.
sub kill_server
{
	my ($node) = @_;
	my $pid = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];

	$node->kill9;
	wait_until('the postmaster is gone', sub { !kill(0, $pid) });
}

# Starts a server that was killed, as soon as its processes have gone.
sub start_again
{
	my ($node) = @_;
	return wait_until('the server starts', sub { $node->start(fail_ok => 1) });
}

1;
