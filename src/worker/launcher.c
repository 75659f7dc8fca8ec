/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  Sees to it that each database with the extension has its worker.
 *
 * The launcher is connected to no database and so cannot tell which of them
 * have the extension.  It starts a worker in each once, which leaves again if
 * there is nothing for it; later on CREATE EXTENSION tells of new ones.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "daybook.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"
#include "worker/launcher.h"
#include "worker/worker_state.h"

/* Databases are looked through again after this time, in milliseconds. */
#define LAUNCHER_NAPTIME		60000

/* of 15.4 and later; none is marked so by an older server */
#ifndef DATCONNLIMIT_INVALID_DB
#define DATCONNLIMIT_INVALID_DB	(-2)
#endif

/* Pause when all of max_worker_processes are in use, in milliseconds. */
#define NO_WORKER_PAUSE			5000

#define LAUNCHER_RESTART_TIME	5	/* seconds */

static List *databases_looked_into = NIL;
static bool shortage_reported = false;

static List *list_databases(void);
static void forget_missing(List *existing);
static bool start_worker(Oid database);
static void report_shortage(Oid database);

void
LauncherInit(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = LAUNCHER_RESTART_TIME;
	strlcpy(worker.bgw_library_name, DAYBOOK_EXTENSION, BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "daybook_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "daybook launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "daybook launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

void
daybook_launcher_main(Datum arg)
{
	MemoryContext cycle;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	LauncherAttach();

	cycle = AllocSetContextCreate(TopMemoryContext, "daybook launcher cycle",
								  ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		long		timeout = LAUNCHER_NAPTIME;
		bool		started = false;
		ListCell   *lc;
		List	   *existing;
		List	   *wanted;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		MemoryContextSwitchTo(cycle);
		existing = list_databases();
		forget_missing(existing);
		wanted = DatabasesWanted(existing, databases_looked_into, &timeout);
		foreach(lc, wanted)
		{
			if (start_worker(lfirst_oid(lc)))
				started = true;
			else
				timeout = NO_WORKER_PAUSE;
		}
		MemoryContextSwitchTo(TopMemoryContext);
		MemoryContextReset(cycle);

		/* whoever set the latch meanwhile has only ended the wait for a start */
		if (started)
			continue;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 timeout, PG_WAIT_EXTENSION);
	}
}

/* The databases that one can connect to, templates left out; not what DROP DATABASE has left halfway. */
static List *
list_databases(void)
{
	MemoryContext result = CurrentMemoryContext;
	List	   *databases = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old;

		if (!database->datallowconn || database->datistemplate ||
			database->datconnlimit == DATCONNLIMIT_INVALID_DB)
			continue;
		old = MemoryContextSwitchTo(result);
		databases = lappend_oid(databases, database->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(result);
	return databases;
}

/* A template that becomes an ordinary database has to be looked into again. */
static void
forget_missing(List *existing)
{
	ListCell   *lc;

	foreach(lc, databases_looked_into)
		if (!list_member_oid(existing, lfirst_oid(lc)))
			databases_looked_into = foreach_delete_current(databases_looked_into, lc);
}

static bool
start_worker(Oid database)
{
	BackgroundWorker worker = {0};
	BackgroundWorkerHandle *handle;
	pid_t		pid;
	MemoryContext old;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = MyProcPid;
	strlcpy(worker.bgw_library_name, DAYBOOK_EXTENSION, BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "daybook_database_worker_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "daybook sequencer for database %u", database);
	strlcpy(worker.bgw_type, "daybook sequencer", BGW_MAXLEN);

	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
	{
		report_shortage(database);
		return false;
	}
	shortage_reported = false;
	old = MemoryContextSwitchTo(TopMemoryContext);
	databases_looked_into = list_append_unique_oid(databases_looked_into, database);
	MemoryContextSwitchTo(old);
	(void) WaitForBackgroundWorkerStartup(handle, &pid);
	return true;
}

/* In the view each time, in the log once. */
static void
report_shortage(Oid database)
{
	DatabaseHint(database, "waiting for one of max_worker_processes to be free; increase it and restart the server");
	if (!shortage_reported)
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker is free for the daybook sequencer of database %u", database),
				 errdetail("max_worker_processes is %d.", max_worker_processes),
				 errhint("Increase max_worker_processes. Events are ordered when there is a worker.")));
	shortage_reported = true;
}
