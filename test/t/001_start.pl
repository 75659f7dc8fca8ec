# A server starts with the library preloaded, and says what to do without it.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('start');
$node->init;
$node->start;

my ($ret, $stdout, $stderr) = $node->psql('postgres', 'CREATE EXTENSION daybook');
isnt($ret, 0, 'the extension is refused without the library preloaded');
like($stderr, qr/shared_preload_libraries/, 'the error names the setting');

$node->append_conf('postgresql.conf', qq{
wal_level = logical
shared_preload_libraries = 'daybook'
});
$node->restart;
$node->safe_psql('postgres', 'CREATE EXTENSION daybook');
is($node->safe_psql('postgres', q{SELECT extversion FROM pg_extension WHERE extname = 'daybook'}),
	'0.1', 'with it the extension is made');

$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', 'SELECT 1'), '1', 'the server starts again after a crash');

$node->safe_psql('postgres', 'DROP EXTENSION daybook');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_namespace WHERE nspname = 'daybook'}),
	'0', 'DROP EXTENSION leaves nothing');
$node->stop;

done_testing();
