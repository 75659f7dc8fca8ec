/*-------------------------------------------------------------------------
 *
 * wait.c
 *	  wait_for_projection: sleeping, without polling, until a projection has
 *	  applied what was committed up to a point in the WAL.
 *
 * A worker that goes on by itself says in shared memory up to where that is
 * so, and wakes who waits; this session need not wake for the sequencer first,
 * nor look into tables.
 *
 * Otherwise that point is turned into a position: once the sequencer has
 * passed it, the log's head covers all events committed before it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "projection/projection.h"
#include "projection/projector_slots.h"
#include "sequencer/log_durable.h"
#include "sequencer/log_scan.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"
#include "worker/worker_state.h"

/* What is waited for, where it is not a position of the projection. */
#define WAITING_FOR_SEQUENCER	(-1)
#define WAITING_FOR_REBUILD		(-2)

typedef struct Wait
{
	const char *name;
	DatabaseState *database;
	XLogRecPtr	lsn;
	TimestampTz until;
} Wait;

static void wait_init(Wait *wait, FunctionCallInfo fcinfo);
static XLogRecPtr own_last_commit(void);
static void request_sequencing(const Wait *wait);
static bool is_sequenced(const Wait *wait);
static bool wait_for_worker(const Wait *wait, int64 *position);
static void wait_for_sequencer(const Wait *wait);
static int64 published_head(const Wait *wait);
static void wait_for_rebuild(const Wait *wait);
static bool rebuild_goes_on(const char *name);
static int64 wait_for_position(const Wait *wait, int64 target);
static void check_inline(const Projection *projection);
static int64 position_or_error(const char *name, int64 target);
static void sleep_until(const Wait *wait, ConditionVariable *variable, int64 target);
static void refuse_own_change(const Wait *wait);
static void report_time_out(const Wait *wait, int64 target);

PG_FUNCTION_INFO_V1(daybook_wait_for_projection);
Datum
daybook_wait_for_projection(PG_FUNCTION_ARGS)
{
	Projection *projection;
	int64		target;
	int64		position;
	bool		may_wait_for_rebuild;
	Wait		wait;

	wait_init(&wait, fcinfo);
	request_sequencing(&wait);
	projection = ProjectionLoad(wait.name);
	if (projection == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("projection \"%s\" does not exist", wait.name)));
	if (projection->is_inline)
	{
		check_inline(projection);
		PG_RETURN_INT64(LogHeadNow());
	}
	may_wait_for_rebuild = RebuildWasAskedFor(wait.name) ||
		(PG_ARGISNULL(1) && XLogRecPtrIsInvalid(XactLastCommitEnd));
	if (!may_wait_for_rebuild && wait_for_worker(&wait, &position))
		PG_RETURN_INT64(position);

	(void) position_or_error(wait.name, 0);
	wait_for_sequencer(&wait);
	target = published_head(&wait);
	if (may_wait_for_rebuild)
		wait_for_rebuild(&wait);
	PG_RETURN_INT64(wait_for_position(&wait, target));
}

static void
wait_init(Wait *wait, FunctionCallInfo fcinfo)
{
	Interval   *timeout;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name and timeout of wait_for_projection must not be null")));
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot wait for a projection during recovery"),
				 errhint("Wait on the primary server.")));
	wait->database = MyDatabaseStateToWait();
	wait->name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	wait->lsn = PG_ARGISNULL(1) ? own_last_commit() : PG_GETARG_LSN(1);
	timeout = PG_GETARG_INTERVAL_P(2);
	wait->until = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
														  TimestampTzGetDatum(GetCurrentTimestamp()),
														  IntervalPGetDatum(timeout)));
	if (wait->lsn > GetXLogInsertRecPtr())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("LSN %X/%X is in the future", LSN_FORMAT_ARGS(wait->lsn)),
				 errdetail("The WAL ends at %X/%X.", LSN_FORMAT_ARGS(GetXLogInsertRecPtr()))));
}

/* The end of this session's last commit; for want of one, of all WAL so far. */
static XLogRecPtr
own_last_commit(void)
{
	return XactLastCommitEnd != InvalidXLogRecPtr ? XactLastCommitEnd : GetXLogInsertRecPtr();
}

/* Has the sequencer bring the events of all commits up to the LSN into the log, before anything else is done. */
static void
request_sequencing(const Wait *wait)
{
	if (wait->lsn == XactLastCommitEnd)
		OwnCommitIsAwaited();
	if (!is_sequenced(wait))
		RequestSequencing(wait->lsn);
}

/* Are they there already? */
static bool
is_sequenced(const Wait *wait)
{
	return pg_atomic_read_u64(&wait->database->sequenced_lsn) >= wait->lsn;
}

/*
 * Until the projection's worker has applied the events of all commits up to
 * the LSN.  False if it has no worker that will.
 */
static bool
wait_for_worker(const Wait *wait, int64 *position)
{
	ConditionVariable *projected = &wait->database->projected;
	int64		target = WAITING_FOR_SEQUENCER;
	ProjectorReach reach = {0};
	bool		at_work;

	ConditionVariablePrepareToSleep(projected);
	while ((at_work = ProjectorSlotReach(wait->name, &reach)) && reach.applied_lsn < wait->lsn)
	{
		/* it may have got there by a batch that ended before more was published */
		if (target < 0 && is_sequenced(wait))
			target = published_head(wait);
		if (target >= 0 && reach.position >= target)
			break;
		sleep_until(wait, projected, target);
	}
	ConditionVariableCancelSleep();
	*position = reach.position;
	return at_work;
}

/* Until the events of all commits up to the LSN are in the log. */
static void
wait_for_sequencer(const Wait *wait)
{
	ConditionVariable *published = &wait->database->published;

	ConditionVariablePrepareToSleep(published);
	while (!is_sequenced(wait))
		sleep_until(wait, published, WAITING_FOR_SEQUENCER);
	ConditionVariableCancelSleep();
}

/*
 * Where the log ended when the sequencer had come so far.  From shared memory,
 * since a look into the log would have it flushed; the projector sees to that.
 */
static int64
published_head(const Wait *wait)
{
	int64		head;

	/* the head is written before the LSN that has been read */
	pg_read_barrier();
	head = pg_atomic_read_u64(&wait->database->head);

	/* a sequencer that has just started does not know it yet */
	return head > 0 ? head : LogHeadNow();
}

/*
 * Until a rebuild that is going on is done, for those who asked for it, and
 * for sessions that have committed nothing and so wait for all there is.
 */
static void
wait_for_rebuild(const Wait *wait)
{
	if (ProjectionLoadRebuild(wait->name) == NIL)
		return;
	ConditionVariablePrepareToSleep(&wait->database->projected);
	while (rebuild_goes_on(wait->name))
		sleep_until(wait, &wait->database->projected, WAITING_FOR_REBUILD);
	ConditionVariableCancelSleep();
}

static bool
rebuild_goes_on(const char *name)
{
	List	   *shares = ProjectionLoadRebuild(name);
	ListCell   *lc;

	foreach(lc, shares)
	{
		ProjectionProgress progress;

		if (!ProgressLoad(((Projection *) lfirst(lc))->name, &progress) || progress.failed_at == 0)
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("rebuild of projection \"%s\" has failed after position " INT64_FORMAT, name, progress.position),
				 errdetail("The error was %s.", progress.error.sqlstate),
				 errhint("See daybook.rebuild_progress; it is tried again until it goes through or you call daybook.cancel_rebuild().")));
	}
	return shares != NIL;
}

/* Until the projection's position is at least the target; returns it. */
static int64
wait_for_position(const Wait *wait, int64 target)
{
	int64		position = position_or_error(wait->name, target);

	if (position >= target)
		return position;
	ConditionVariablePrepareToSleep(&wait->database->projected);
	while ((position = position_or_error(wait->name, target)) < target)
		sleep_until(wait, &wait->database->projected, target);
	ConditionVariableCancelSleep();
	return position;
}

/*
 * The projection's position, with an error if that is below the target and
 * will not rise by itself.
 */
static int64
position_or_error(const char *name, int64 target)
{
	Projection *projection = ProjectionLoad(name);
	ProjectionProgress progress;

	if (projection == NULL || !ProgressLoad(name, &progress))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("projection \"%s\" does not exist", name)));
	if (progress.position >= target)
		return progress.position;
	if (projection->is_paused)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" is paused", name),
				 errhint("Let it go on with daybook.resume_projection().")));
	if (progress.failed_at != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" has failed after position " INT64_FORMAT, name, progress.position),
				 errdetail("The error was %s.", progress.error.sqlstate),
				 errhint("See daybook.projection_status, remove the cause and call daybook.resume_projection().")));
	return progress.position;
}

/* An inline projection has applied what is committed, unless it is kept from it. */
static void
check_inline(const Projection *projection)
{
	if (projection->is_paused)
		(void) position_or_error(projection->name, PG_INT64_MAX);
	if (!InlineTriggersLive(projection->name, projection->sources))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("inline projection \"%s\" is broken", projection->name),
				 errdetail("Its trigger on an event table is missing or disabled."),
				 errhint("Enable or restore the trigger, then call daybook.rebuild_projection().")));
}

/* Sleeps once, at most until the time is up. */
static void
sleep_until(const Wait *wait, ConditionVariable *variable, int64 target)
{
	long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), wait->until);

	if (target != WAITING_FOR_SEQUENCER && ProjectionIsLockedHere(wait->name))
		refuse_own_change(wait);
	if (left <= 0)
	{
		ConditionVariableCancelSleep();
		report_time_out(wait, target);
	}
	(void) ConditionVariableTimedSleep(variable, left, PG_WAIT_EXTENSION);
}

/* No worker can go on before this transaction has ended. */
static void
refuse_own_change(const Wait *wait)
{
	ConditionVariableCancelSleep();
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot wait for projection \"%s\" in the transaction that has changed it", wait->name),
			 errdetail("Its worker goes on once the transaction has ended."),
			 errhint("Commit, then wait.")));
}

static void
report_time_out(const Wait *wait, int64 target)
{
	ProjectionProgress progress;

	if (target == WAITING_FOR_REBUILD)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("timed out waiting for the rebuild of projection \"%s\"", wait->name),
				 errdetail("Its old rows are served until then."),
				 errhint("See daybook.rebuild_progress.")));
	(void) ProgressLoad(wait->name, &progress);
	MakeLogDurable();
	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("timed out waiting for projection \"%s\"", wait->name),
			 target >= 0 ?
			 errdetail("It is at position " INT64_FORMAT ", " INT64_FORMAT " events before position " INT64_FORMAT ".",
					   progress.position, target - progress.position, target) :
			 errdetail("The sequencer is at LSN %X/%X, before LSN %X/%X.",
					   LSN_FORMAT_ARGS((XLogRecPtr) pg_atomic_read_u64(&wait->database->sequenced_lsn)),
					   LSN_FORMAT_ARGS(wait->lsn)),
			 target >= 0 ?
			 errhint("See daybook.projection_status.") :
			 errhint("See daybook.sequencer_status.")));
}
