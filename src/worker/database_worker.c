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
#include "error_class.h"
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
#include "utils/timestamp.h"
#include "utils/wait_event.h"
#include "worker/launcher.h"
#include "worker/worker_session.h"
#include "worker/worker_state.h"

/* After trouble with other workers, in milliseconds. */
#define RETRY_PAUSE		5000

static bool extension_exists(void);
static long look_after(long (*supervise) (void));
static long shorter(long a, long b);
static TimestampTz time_after(long wait);
static long time_until(TimestampTz time);

void
daybook_database_worker_main(Datum arg)
{
	DatabaseState *db;
	TimestampTz supervise_at = DT_NOBEGIN;	/* DT_NOEND: when something has changed */

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, WorkerAskedToEnd);
	BackgroundWorkerUnblockSignals();
	WorkerConnect(DatumGetObjectId(arg));
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
		if (db->supervise || SnapshotWorkerHasEnded() ||
			(!TIMESTAMP_IS_NOEND(supervise_at) && GetCurrentTimestamp() >= supervise_at))
		{
			db->supervise = false;
			supervise_at = time_after(shorter(look_after(ProjectorsSupervise),
											  look_after(SnapshotWorkerSupervise)));
		}
		if (SequencerRest() || wait == 0)
			continue;
		wait = shorter(wait, time_until(supervise_at));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
						 (wait < 0 ? 0 : WL_TIMEOUT), wait, PG_WAIT_EXTENSION);
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

/* Trouble with other workers must not end this one, which orders the events. */
static long
look_after(long (*supervise) (void))
{
	volatile long next_call = RETRY_PAUSE;
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		next_call = supervise();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		EmitErrorReport();
		AbortCurrentTransaction();
		FlushErrorState();
		LookAtInterruptsAgain();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return next_call;
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

/* In milliseconds; -1 is for ever. */
static TimestampTz
time_after(long wait)
{
	return wait < 0 ? DT_NOEND : TimestampTzPlusMilliseconds(GetCurrentTimestamp(), wait);
}

static long
time_until(TimestampTz time)
{
	return TIMESTAMP_IS_NOEND(time) ? -1 : TimestampDifferenceMilliseconds(GetCurrentTimestamp(), time);
}
