/*-------------------------------------------------------------------------
 *
 * database_worker.c
 *	  The worker of one database: runs the sequencer and looks after the
 *	  workers of projections.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/extension.h"
#include "daybook.h"
#include "fold/snapshot_worker.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "projection/projector.h"
#include "sequencer/sequencer.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "subscription/notify.h"
#include "utils/guc.h"
#include "utils/wait_event.h"
#include "worker/launcher.h"
#include "worker/worker_state.h"

static bool extension_exists(void);
static long shorter(long a, long b);

void
daybook_database_worker_main(Datum arg)
{
	DatabaseState *db;
	long		supervise_wait = 0;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, WorkerAskedToEnd);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(arg), InvalidOid, 0);
	/* a superuser's session, and the database's owner may have set another */
	SetConfigOption("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_OVERRIDE);
	WorkerAttach(true);
	if (!extension_exists())
	{
		DatabaseWithoutExtension();
		proc_exit(0);
	}
	db = MyDatabaseState();
	SequencerStart();

	for (;;)
	{
		long		wait;
		int			events;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			db->supervise = true;
		}
		if (WorkerMustStop())
			proc_exit(0);

		/* false: the extension is gone */
		if (!SequencerRound(&wait))
		{
			DatabaseWithoutExtension();
			proc_exit(0);
		}
		wait = shorter(wait, NotifyRound());
		if (db->supervise || supervise_wait == 0)
		{
			db->supervise = false;
			supervise_wait = shorter(ProjectorsSupervise(), SnapshotWorkerSupervise());
		}
		if (wait == 0)
			continue;
		events = WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
						   (shorter(wait, supervise_wait) < 0 ? 0 : WL_TIMEOUT),
						   shorter(wait, supervise_wait), PG_WAIT_EXTENSION);
		if (events & WL_TIMEOUT && supervise_wait > 0)
			supervise_wait = wait < 0 || supervise_wait <= wait ? 0 : supervise_wait - wait;
	}
}

static bool
extension_exists(void)
{
	bool		exists;

	StartTransactionCommand();
	exists = OidIsValid(get_extension_oid(DAYBOOK_EXTENSION, true));
	CommitTransactionCommand();
	return exists;
}

/* The shorter of two waits, where -1 is for ever. */
static long
shorter(long a, long b)
{
	if (a < 0)
		return b;
	if (b < 0)
		return a;
	return Min(a, b);
}
