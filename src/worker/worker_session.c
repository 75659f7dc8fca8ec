/*-------------------------------------------------------------------------
 *
 * worker_session.c
 *	  The session of a worker in its database.
 *
 * A worker gets what ALTER DATABASE and ALTER ROLE have set, which is meant for
 * clients: as another role, say, a worker could not even read its own tables.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/guc.h"
#include "worker/worker_session.h"

/* What no worker takes over from the database; some have more of their own. */
static const struct
{
	const char *name;
	const char *value;
} worker_settings[] = {
	{"role", "none"},
	{"search_path", "pg_catalog, pg_temp"},
	{"default_transaction_isolation", "read committed"},
	{"default_transaction_read_only", "off"},
	{"default_transaction_deferrable", "off"},
	{"row_security", "on"},
	{"session_replication_role", "origin"},
#if PG_VERSION_NUM >= 170000
	{"transaction_timeout", "0"},
#endif
};

static void become_superuser(void);

void
WorkerConnect(Oid database)
{
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	for (int i = 0; i < lengthof(worker_settings); i++)
		SetConfigOption(worker_settings[i].name, worker_settings[i].value,
						PGC_SUSET, PGC_S_OVERRIDE);

	/* pgoutput writes names as for a client, whose encoding may lack their characters */
	SetConfigOption("client_encoding", GetDatabaseEncodingName(), PGC_SUSET, PGC_S_OVERRIDE);
	become_superuser();
}

/* By the setting, not beside it: a worker's parallel workers take it over. */
static void
become_superuser(void)
{
	if (GetSessionUserId() == BOOTSTRAP_SUPERUSERID)
		return;
	StartTransactionCommand();
	SetConfigOption("session_authorization", GetUserNameFromId(BOOTSTRAP_SUPERUSERID, false),
					PGC_SUSET, PGC_S_OVERRIDE);
	CommitTransactionCommand();
}
