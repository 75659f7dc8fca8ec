/*-------------------------------------------------------------------------
 *
 * projector_failure.c
 *	  What becomes of a batch that fails.
 *
 * No event is ever skipped.  A batch that fails is tried again in halves
 * until the event that fails stands alone, all events before it having been
 * applied.  It is then parked, and with it all later events of its stream, or
 * tried again with growing pauses if the projection shall stop or the reason
 * does not lie with the event.  Failures that may pass by themselves, such as
 * deadlocks, are only tried again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "daybook.h"
#include "error_class.h"
#include "projection/projector_internal.h"
#include "sequencer/log_durable.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Pauses before a failed batch is tried again, in milliseconds. */
#define FAILED_PAUSE		1000
#define TRANSIENT_PAUSE		100
#define LONGEST_PAUSE		60000

/* To this size the batches of a rebuild shrink where events fail. */
#define CAUTIOUS_BATCH_SIZE	1000

static void narrow(Projector *projector);
static void park(Projector *projector, ErrorData *error);
static TimestampTz next_try(int attempts, long first_pause);
static void record_failure(Projector *projector, ErrorData *error, bool failed, bool isolated);
static Projection *lock_claimed(Projector *projector, ProjectionProgress *progress);

/* Did pause_projection or its like break the batch off? */
bool
ProjectorWasBrokenOff(Projector *projector, ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_QUERY_CANCELED && projector->slot->changed;
}

/* Decides what to do after a failure, and writes it down. */
void
ProjectorBatchFailed(Projector *projector, ErrorData *error)
{
	int64		count = projector->has_batch ? projector->batch.count : projector->wanted;
	bool		transient = ErrorIsTransient(error->sqlerrcode);
	bool		swapping = projector->swapping;

	/* its position is about to be shown */
	MakeLogDurable();
	projector->swapping = false;
	projector->stream_failed |= projector->batch.stream != NULL;
	if (swapping && (transient || count == 0))
	{
		/* batches succeed meanwhile; and readers of the tables have to get their turn */
		projector->retry_at = next_try(projector->swap_attempts++, FAILED_PAUSE);
		record_failure(projector, error, !transient, false);
		if (!transient)
			ProjectorReportFailure(projector, projector->position, error);
	}
	else if (transient)
	{
		projector->retry_at = next_try(projector->attempts++, TRANSIENT_PAUSE);
		/* less work may fit where a time-out, or want of memory or disk, was the reason */
		if (count > 1 && (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES ||
						  (error->sqlerrcode == ERRCODE_QUERY_CANCELED && projector->has_batch)))
			narrow(projector);
		record_failure(projector, error, false, false);
	}
	else if (count > 1)
	{
		narrow(projector);
		projector->retry_at = 0;
		record_failure(projector, error, false, false);
	}
	else if (projector->has_batch && count == 1 && projector->parks && !ErrorIsForeign(error->sqlerrcode))
		park(projector, error);
	else
	{
		projector->retry_at = next_try(projector->attempts++, FAILED_PAUSE);
		record_failure(projector, error, true, projector->has_batch && count == 1);
		ProjectorReportFailure(projector, projector->position, error);
	}
}

/* A batch that could not be read may be smaller than what was asked for. */
static void
narrow(Projector *projector)
{
	if (!projector->has_batch)
	{
		projector->batch.count = projector->wanted;
		projector->batch.last_position = PG_INT64_MAX;
	}
	SuspectsNarrow(&projector->suspects, &projector->batch);
}

/*
 * Sets the event aside that the batch consists of, and goes on after it,
 * unless another worker has taken over meanwhile.
 */
static void
park(Projector *projector, ErrorData *error)
{
	ParkedEvent event = {projector->batch.first, projector->first_stream};
	ProjectionProgress progress;
	ProjectionError reason;
	Projection *projection;

	ProjectorReportFailure(projector, projector->position, error);
	ProjectionErrorSet(&reason, error);
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	projection = lock_claimed(projector, &progress);
	if (projection != NULL)
	{
		ProjectorParkPassed(projector);
		ParkCause(projector->name, &event, &reason, projector->attempts + 1);
		progress.position = projector->batch_end;
		ProgressClearError(&progress);
		ProgressUpdate(projection, &progress);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();

	if (projection == NULL)
	{
		ProjectorForgetClaim(projector);
		return;
	}
	ProjectorPassedParked(projector);
	ParkedStreamsAdd(projector->parked, event.place.event_table, event.stream_id);
	ProjectorMoved(projector, &progress);
	projector->attempts = 0;
	projector->retry_at = 0;
	memset(&projector->suspects, 0, sizeof(Suspects));
	/* more may be close by, and a failure costs as much as a batch is large */
	projector->batch_size = Max(Min(projector->batch_size, PROJECTION_MAX_BATCH_SIZE) / 2,
								Min(projector->max_batch_size, CAUTIOUS_BATCH_SIZE));
	ConditionVariableBroadcast(&projector->database->projected);
}

static TimestampTz
next_try(int attempts, long first_pause)
{
	long		pause = attempts < 10 ? first_pause << attempts : LONGEST_PAUSE;

	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), Min(pause, LONGEST_PAUSE));
}

/* Stores the error, unless another worker has taken over meanwhile. */
static void
record_failure(Projector *projector, ErrorData *error, bool failed, bool isolated)
{
	ProjectionProgress progress;
	Projection *projection;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	projection = lock_claimed(projector, &progress);
	if (projection != NULL)
	{
		progress.attempts = projector->attempts;
		progress.retry_at = projector->retry_at;
		progress.failed_at = failed ? GetCurrentTimestamp() : 0;
		ProjectionErrorSet(&progress.error, error);
		if (isolated)
		{
			progress.error.position = projector->batch.first.position;
			progress.error.event_table = projector->batch.first.event_table;
			progress.error.event_id = projector->batch.first.event_id;
		}
		ProgressUpdate(projection, &progress);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	if (failed)
		projector->slot->at_work = false;
	ConditionVariableBroadcast(&projector->database->projected);
}

/* The projection, locked, if its progress is still this worker's; else NULL. */
static Projection *
lock_claimed(Projector *projector, ProjectionProgress *progress)
{
	Projection *projection;

	if (!OidIsValid(LockDaybookExtension()))
		return NULL;
	ProjectionLock(projector->name);
	projection = ProjectionLoad(projector->name);
	if (projection == NULL || !ProgressLoad(projector->name, progress) ||
		progress->generation != projector->generation)
		return NULL;
	return projection;
}

void
ProjectorReportFailure(Projector *projector, int64 position, ErrorData *error)
{
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("projection \"%s\" failed after position " INT64_FORMAT ": %s",
					projector->name, position, error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->context ? errcontext("%s", error->context) : 0));
}
