/*-------------------------------------------------------------------------
 *
 * projector.c
 *	  The worker that keeps one asynchronous projection.
 *
 * A batch is one transaction: it takes the projection's lock, reads the
 * position, hands the events after it to the handler and writes the new
 * position.  Rows and position stand or fall together, so the commit need not
 * wait for the disk, and two workers can never apply an event twice, however
 * they came to run at the same time.  Live work, catching up and rebuilding
 * are the same loop.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "daybook.h"
#include "error_class.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "projection/projection.h"
#include "projection/projector.h"
#include "projection/projector_internal.h"
#include "sequencer/log_durable.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "worker/worker_session.h"
#include "worker/worker_state.h"

static void projector_init(Projector *projector, const ProjectorLaunch *launch);
static void detach_slot(int code, Datum arg);
static ProjectorStep project_or_fail(Projector *projector);
static ProjectorStep project(Projector *projector);
static bool advance(Projector *projector, Handler *handler, ProjectionProgress *progress);
static void advanced(Projector *projector, const ProjectionProgress *progress);
static bool is_applied(const Projector *projector, int64 head);
static XLogRecPtr sequenced_lsn(const Projector *projector);
static ProjectorStep share_done(Projector *projector);
static ProjectorStep swap(Projector *projector);
static Handler *lock_projection(Projector *projector, ProjectionProgress *progress);
static ProjectorStep claim(Projector *projector, Projection *projection, ProjectionProgress *progress);
static void use_maintenance_memory(void);
static ProjectorStep project_batch(Projector *projector, Handler *handler, ProjectionProgress *progress);
static void batch_succeeded(Projector *projector);
static void load_parked(Projector *projector);
static bool more_is_published(Projector *projector);
static void wait_for_work(Projector *projector, ProjectorStep step);
static void reload_settings(void);

void
daybook_projector_main(Datum arg)
{
	static Projector projector;
	ProjectorLaunch launch;
	ProjectorStep step = STEP_MORE;

	memcpy(&launch, MyBgworkerEntry->bgw_extra, sizeof(launch));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGINT, StatementCancelHandler);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	projector_init(&projector, &launch);
	/* who is asked to leave before it has done anything does so after that */
	while (step != STEP_EXIT && !(projector.slot->stop && projector.had_turn) && !WorkerMustStop())
	{
		step = project_or_fail(&projector);
		reload_settings();
	}
	proc_exit(0);
}

/* Takes the slot and connects to the database. */
static void
projector_init(Projector *projector, const ProjectorLaunch *launch)
{
	projector->slot = ProjectorSlotAttach(launch);
	if (projector->slot == NULL)
		proc_exit(0);
	before_shmem_exit(detach_slot, PointerGetDatum(projector));
	projector->name = projector->slot->name;

	WorkerConnect(launch->database);
	SetConfigOption("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION);
	pgstat_report_appname(MyBgworkerEntry->bgw_name);

	WorkerAttach(false);
	projector->database = MyDatabaseState();
	if (projector->database == NULL)
		proc_exit(0);
	projector->batch_context = AllocSetContextCreate(TopMemoryContext, "daybook projection batch",
													 ALLOCSET_DEFAULT_SIZES);
	projector->parked_context = AllocSetContextCreate(TopMemoryContext, "daybook parked streams",
													  ALLOCSET_DEFAULT_SIZES);
}

/*
 * Gives the slot back and lets the supervisor know, however the worker ends.
 * WorkerAttach's own word to the supervisor comes before the slot is free.
 */
static void
detach_slot(int code, Datum arg)
{
	Projector  *projector = (Projector *) DatumGetPointer(arg);

	ProjectorSlotDetach(projector->slot, code != 0);
	if (projector->database != NULL)
	{
		/* who relies on this worker has to look elsewhere */
		ConditionVariableBroadcast(&projector->database->projected);
		projector->database->supervise = true;
		WakeDatabaseWorker();
	}
}

/* One round: a batch, or what follows from its failure, and the wait after it. */
static ProjectorStep
project_or_fail(Projector *projector)
{
	ProjectorStep step;
	ErrorData  *error = NULL;

	PG_TRY();
	{
		if (ProjectorSlotTakeChanged(projector->slot))
		{
			/* an interrupt that came for the batch before is of no use now */
			QueryCancelPending = false;
			projector->claimed = false;
		}
		projector->slot->in_batch = true;
		step = project(projector);
		projector->slot->in_batch = false;
		if (step == STEP_CAUGHT_UP || step == STEP_PAUSE)
			wait_for_work(projector, step);
	}
	PG_CATCH();
	{
		projector->slot->in_batch = false;
		MemoryContextSwitchTo(TopMemoryContext);
		disable_all_timeouts(false);
		QueryCancelPending = false;
		error = CopyErrorData();
		FlushErrorState();
		ConditionVariableCancelSleep();
		AbortCurrentTransaction();
		LookAtInterruptsAgain();
		step = STEP_MORE;
	}
	PG_END_TRY();

	MemoryContextSwitchTo(TopMemoryContext);
	(void) pgstat_report_stat(false);
	if (error != NULL)
	{
		if (ProjectorWasBrokenOff(projector, error))
			projector->swapping = false;
		else if (!projector->claimed)
			ThrowErrorData(error);	/* ends the worker; it is started again later */
		else
			ProjectorBatchFailed(projector, error);
		FreeErrorData(error);
	}
	MemoryContextReset(projector->batch_context);
	return step;
}

/* The transaction of one batch. */
static ProjectorStep
project(Projector *projector)
{
	ProjectionProgress progress = {.tid = projector->progress_tid};
	ProjectorStep step;
	Handler    *handler = NULL;

	ProjectorBatchBegin(projector);
	projector->had_turn = projector->claimed;
	/* before all that can fail: what fails then has to wait, too */
	if (projector->claimed && projector->retry_at > GetCurrentTimestamp())
		return STEP_PAUSE;
	StartTransactionCommand();
	if (OidIsValid(LockDaybookExtension()))
	{
		ProjectionGatePass(projector->name);
		handler = lock_projection(projector, &progress);
	}
	if (handler == NULL)
		step = STEP_EXIT;
	else if (!projector->claimed || progress.generation != projector->generation)
		step = claim(projector, handler->projection, &progress);
	else
		return project_batch(projector, handler, &progress);
	CommitTransactionCommand();
	return step;
}

/* Applies the next batch, writes the position after it, and commits. */
static ProjectorStep
project_batch(Projector *projector, Handler *handler, ProjectionProgress *progress)
{
	Projection *projection = handler->projection;
	XLogRecPtr	sequenced = sequenced_lsn(projector);
	int64		head = pg_atomic_read_u64(&projector->database->head);
	int64		before = progress->position;
	int			max_rate = ProjectorShareOfRate(projection);
	bool		is_rebuild = projection->rebuild_of != NULL;
	bool		is_share = projection->shares > 1;
	int64		share_end = projection->share_end;
	bool		more;

	more = advance(projector, handler, progress);
	CommitTransactionCommand();

	projector->wait_beyond = progress->position > before ? progress->position : Max(head, before);
	advanced(projector, progress);
	if (is_applied(projector, head))
		ProjectorSlotNoteReach(projector->slot, projector->position, sequenced);
	ConditionVariableBroadcast(&projector->database->projected);
	if (is_share && progress->position >= share_end)
		return share_done(projector);
	if (is_rebuild && !is_share && !more)
		return swap(projector);
	if (max_rate > 0)
		projector->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														  projector->batch.count * 1000 / max_rate);
	return more ? STEP_MORE : STEP_CAUGHT_UP;
}

/* Applies the next batch; returns whether there may be more. */
static bool
advance(Projector *projector, Handler *handler, ProjectionProgress *progress)
{
	int64		before = progress->position;
	bool		more;

	MemoryContextSwitchTo(projector->batch_context);
	PushActiveSnapshot(GetTransactionSnapshot());
	more = ProjectorBatchRead(projector, handler, &progress->position);
	/* read while the sequencer flushes it */
	MakeLogDurable();
	ProjectorBatchApply(projector, handler);
	ProjectorParkPassed(projector);
	if (progress->position != before || progress->error.sqlstate != NULL)
	{
		ProgressClearError(progress);
		ProgressUpdate(handler->projection, progress);
	}
	PopActiveSnapshot();
	return more;
}

/* What a batch that was committed leaves behind. */
static void
advanced(Projector *projector, const ProjectionProgress *progress)
{
	ProjectorMoved(projector, progress);
	ProjectorPassedParked(projector);
	batch_succeeded(projector);
}

/* The position that was committed last. */
void
ProjectorMoved(Projector *projector, const ProjectionProgress *progress)
{
	projector->progress_tid = progress->tid;
	projector->position = progress->position;
	ProjectorSlotNoteReach(projector->slot, progress->position, InvalidXLogRecPtr);
	projector->slot->at_work = true;
}

/* The events of all commits up to here stand before the head that is read next. */
static XLogRecPtr
sequenced_lsn(const Projector *projector)
{
	XLogRecPtr	sequenced = pg_atomic_read_u64(&projector->database->sequenced_lsn);

	pg_read_barrier();
	return sequenced;
}

/* One of several workers of a rebuild that has done its part. */
static ProjectorStep
share_done(Projector *projector)
{
	Handler    *handler;
	bool		goes_on;

	ProjectorBatchBegin(projector);
	StartTransactionCommand();
	handler = OidIsValid(LockDaybookExtension()) ? HandlerGet(projector->name) : NULL;
	if (handler == NULL)
	{
		CommitTransactionCommand();
		return STEP_EXIT;
	}
	PushActiveSnapshot(GetTransactionSnapshot());
	goes_on = RebuildShareDone(handler->projection);
	PopActiveSnapshot();
	CommitTransactionCommand();
	/* who goes on alone has the others' parked events */
	ProjectorForgetClaim(projector);
	return goes_on ? STEP_MORE : STEP_EXIT;
}

/*
 * A rebuild that has caught up: with the projection held where it is, applies
 * what came last and exchanges the tables.
 */
static ProjectorStep
swap(Projector *projector)
{
	ProjectionProgress progress = {.tid = projector->progress_tid};
	ProjectionProgress live;
	char	   *rebuild_of;
	Handler    *handler;
	bool		swapped;

	projector->swapping = true;
	ProjectorBatchBegin(projector);
	StartTransactionCommand();
	handler = HandlerGet(projector->name);
	if (handler == NULL || !OidIsValid(LockDaybookExtension()))
	{
		CommitTransactionCommand();
		return STEP_EXIT;
	}
	rebuild_of = handler->projection->rebuild_of;
	ProjectionLock(rebuild_of);
	handler = lock_projection(projector, &progress);
	if (handler == NULL || progress.generation != projector->generation)
	{
		ProjectorForgetClaim(projector);
		CommitTransactionCommand();
		return STEP_MORE;
	}
	if (RebuildIsHeldUp(handler->projection))
	{
		CommitTransactionCommand();
		projector->swapping = false;
		return STEP_CAUGHT_UP;
	}
	if (ProgressLoad(handler->projection->rebuild_of, &live) && progress.position < live.position)
		(void) advance(projector, handler, &progress);
	/* what fails from here on is not for an event */
	projector->wanted = 0;
	projector->has_batch = false;
	PushActiveSnapshot(GetTransactionSnapshot());
	swapped = RebuildSwap(handler->projection, &progress);
	PopActiveSnapshot();
	CommitTransactionCommand();
	projector->swapping = false;
	projector->swap_attempts = 0;
	if (swapped)
		return STEP_EXIT;
	advanced(projector, &progress);
	ConditionVariableBroadcast(&projector->database->projected);
	return STEP_MORE;
}

/*
 * The handler of the projection, locked, with its progress; NULL if it needs
 * no worker any more.  The extension is locked.
 */
static Handler *
lock_projection(Projector *projector, ProjectionProgress *progress)
{
	Handler    *handler;

	ProjectionLock(projector->name);
	handler = HandlerGet(projector->name);
	if (handler == NULL || handler->projection->is_paused || handler->projection->is_inline)
		return NULL;
	if (!ProgressReload(projector->name, progress))
		ereport(FATAL,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("projection \"%s\" has no row in daybook.projection_position",
						projector->name)));
	return handler;
}

/* Makes the stored progress this worker's own, so that any other one stops. */
static ProjectorStep
claim(Projector *projector, Projection *projection, ProjectionProgress *progress)
{
	PushActiveSnapshot(GetTransactionSnapshot());
	if (projection->restored_pid != 0)
	{
		projection = ProjectionLoad(projection->name);
		ProjectionSetRestored(projection);
	}
	progress->generation++;
	ProgressUpdate(projection, progress);
	PopActiveSnapshot();

	projector->claimed = true;
	projector->checked = false;
	projector->stream_failed = progress->error.sqlstate != NULL;
	projector->progress_tid = progress->tid;
	projector->generation = progress->generation;
	projector->position = progress->position;
	projector->attempts = progress->attempts;
	projector->swap_attempts = 0;
	projector->retry_at = progress->retry_at;
	memset(&projector->suspects, 0, sizeof(Suspects));
	projector->batch_size = projection->batch_size;
	if (progress->error.position != 0)
	{
		/* no need to narrow down again what is known already */
		projector->suspects.limit = 1;
		projector->suspects.count = 1;
		projector->suspects.end = progress->error.position;
	}
	ProjectorSlotNoteReach(projector->slot, progress->position, InvalidXLogRecPtr);
	projector->slot->at_work = progress->failed_at == 0;
	load_parked(projector);
	if (projection->rebuild_of != NULL)
		use_maintenance_memory();
	return STEP_MORE;
}

/* The row has to be read anew. */
void
ProjectorForgetClaim(Projector *projector)
{
	projector->claimed = false;
	projector->slot->at_work = false;
}

/* The large batches of a rebuild are kept and aggregated as an index is built. */
static void
use_maintenance_memory(void)
{
	char		kilobytes[32];

	snprintf(kilobytes, sizeof(kilobytes), "%d", Max(work_mem, maintenance_work_mem));
	SetConfigOption("work_mem", kilobytes, PGC_USERSET, PGC_S_SESSION);
}

static void
batch_succeeded(Projector *projector)
{
	projector->attempts = 0;
	projector->retry_at = 0;
	if (projector->suspects.limit == 0)
		projector->batch_size = Min(projector->batch_size * 2, projector->max_batch_size);
	SuspectsPassed(&projector->suspects, projector->batch.count, projector->position);
}

static void
load_parked(Projector *projector)
{
	MemoryContextReset(projector->parked_context);
	projector->parked = ParkedStreamsCreate(projector->parked_context);
	ParkedStreamsLoad(projector->parked, projector->name);
}

/*
 * If not, commits without events may have been passed, for which somebody may
 * wait all the same.
 */
static bool
more_is_published(Projector *projector)
{
	XLogRecPtr	sequenced = sequenced_lsn(projector);
	int64		head = pg_atomic_read_u64(&projector->database->head);

	if (head > projector->wait_beyond)
		return true;
	if (is_applied(projector, head))
		ProjectorSlotNoteReach(projector->slot, projector->position, sequenced);
	if (sequenced != projector->sequenced &&
		pg_atomic_read_u64(&projector->database->awaited_lsn) > projector->sequenced)
		ConditionVariableBroadcast(&projector->database->projected);
	projector->sequenced = sequenced;
	return false;
}

/* A sequencer that has just started, or has nothing to tell of, says 0. */
static bool
is_applied(const Projector *projector, int64 head)
{
	return head > 0 && projector->position >= head;
}

/* Sleeps until there is something to do: new events, a retry, a change. */
static void
wait_for_work(Projector *projector, ProjectorStep step)
{
	DatabaseState *database = projector->database;
	ProjectorSlot *slot = projector->slot;

	pgstat_report_activity(STATE_IDLE, NULL);
	(void) pgstat_report_stat(true);
	slot->idle = true;
	if (slot->crowded)
	{
		database->supervise = true;
		WakeDatabaseWorker();
	}
	ConditionVariablePrepareToSleep(&database->published);
	while (!slot->stop && !slot->changed && !WorkerMustStop())
	{
		long		timeout = -1;

		if (step == STEP_PAUSE)
		{
			timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), projector->retry_at);
			if (timeout <= 0)
				break;
		}
		else if (more_is_published(projector))
			break;
		(void) ConditionVariableTimedSleep(&database->published, timeout, PG_WAIT_EXTENSION);
		CHECK_FOR_INTERRUPTS();
		reload_settings();
	}
	ConditionVariableCancelSleep();
	slot->idle = false;
}

static void
reload_settings(void)
{
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}
