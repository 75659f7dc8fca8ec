/*-------------------------------------------------------------------------
 *
 * retry.c
 *	  retry_parked and discard_parked: what becomes of parked events.
 *
 * Parked events are applied in the order of positions, in batches like live
 * ones, each in a subtransaction.  A batch that fails is narrowed down to the
 * event; its stream is then left out for the rest of the call.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "error_class.h"
#include "miscadmin.h"
#include "projection/parking.h"
#include "projection/projection.h"
#include "replay/event_reader.h"
#include "subtransaction.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* To events farther apart, a new reader is on its way faster than the old one. */
#define NEAR_POSITIONS		256

typedef struct Retry
{
	const Projection *projection;
	Handler    *handler;
	ParkedFilter filter;
	ParkedStreams *failed;		/* streams that this call has given up on */
	Suspects	suspects;
	int64		applied;
	MemoryContext batch_context;
} Retry;

/* An attempt. */
typedef struct RetriedRows
{
	Retry	   *retry;
	List	   *rows;
	EventBatch *batch;
} RetriedRows;

static void check_isolation(const Projection *projection);
static bool retry_next(Retry *retry, int64 max_events);
static ErrorData *try_rows(Retry *retry, List *rows, EventBatch *batch);
static bool apply_rows(void *arg);
static void read_rows(const Projection *projection, List *rows, EventBatch *batch);
static void give_up_stream(Retry *retry, ParkedRow *row, ErrorData *error);
static int64 discard(FunctionCallInfo fcinfo, const ParkedFilter *filter);
static void check_reason(const char *reason);

PG_FUNCTION_INFO_V1(daybook_retry_parked);
Datum
daybook_retry_parked(PG_FUNCTION_ARGS)
{
	ProjectionProgress progress;
	Projection *projection;
	Retry		retry = {0};

	if (PG_ARGISNULL(0) || PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name and max_events of retry_parked must not be null")));
	if (PG_GETARG_INT64(3) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_events must be at least 1"),
				 errdetail("The value given is " INT64_FORMAT ".", PG_GETARG_INT64(3))));
	projection = ProjectionToChange(fcinfo, &progress);
	check_isolation(projection);
	RefusePendingConstraints(projection);
	retry.projection = projection;
	retry.handler = HandlerGet(projection->name);
	retry.filter.stream_id = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	retry.filter.event_table = PG_ARGISNULL(2) ? InvalidOid : PG_GETARG_OID(2);
	retry.failed = ParkedStreamsCreate(CurrentMemoryContext);
	retry.filter.except = retry.failed;
	/* it may well fail again */
	retry.filter.causes_alone = true;
	retry.batch_context = AllocSetContextCreate(CurrentMemoryContext, "daybook retry batch",
												ALLOCSET_DEFAULT_SIZES);
	while (retry_next(&retry, PG_GETARG_INT64(3)))
		MemoryContextReset(retry.batch_context);
	MemoryContextDelete(retry.batch_context);

	/* the worker takes the streams that are free again back into its batches */
	if (retry.applied > 0)
		ProjectionSaveChange(projection, &progress);
	PG_RETURN_INT64(retry.applied);
}

/* With an old snapshot, handlers would read rows as they were before other batches. */
static void
check_isolation(const Projection *projection)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("parked events of projection \"%s\" can be retried at isolation level READ COMMITTED only",
						projection->name),
				 errhint("Use BEGIN ISOLATION LEVEL READ COMMITTED.")));
}

/* One batch; false when nothing is left to be tried. */
static bool
retry_next(Retry *retry, int64 max_events)
{
	MemoryContext caller = MemoryContextSwitchTo(retry->batch_context);
	int64		limit = retry->suspects.limit ? retry->suspects.limit : retry->projection->batch_size;
	EventBatch	batch = {0};
	ErrorData  *error;
	List	   *rows;

	CHECK_FOR_INTERRUPTS();
	rows = ParkedRowsLoad(retry->projection->name, &retry->filter,
						  Min(limit, max_events - retry->applied));
	if (rows != NIL)
	{
		ParkedRow  *last = llast(rows);

		error = try_rows(retry, rows, &batch);
		if (error == NULL)
		{
			retry->applied += list_length(rows);
			retry->filter.after = last->event.place.position;
			SuspectsPassed(&retry->suspects, list_length(rows), retry->filter.after);
		}
		else if (list_length(rows) == 1)
			give_up_stream(retry, last, error);
		else
		{
			batch.count = list_length(rows);
			batch.last_position = last->event.place.position;
			SuspectsNarrow(&retry->suspects, &batch);
		}
	}
	MemoryContextSwitchTo(caller);
	return rows != NIL;
}

/*
 * Applies events and takes them out of the queue, or leaves everything as it
 * was and returns the error.  One that may pass by itself, or with which the
 * user cancels, ends the call.
 */
static ErrorData *
try_rows(Retry *retry, List *rows, EventBatch *batch)
{
	RetriedRows retried = {retry, rows, batch};
	ErrorData  *error = RunInSubtransaction(apply_rows, &retried);

	if (error != NULL && ErrorIsTransient(error->sqlerrcode))
		ReThrowError(error);
	return error;
}

static bool
apply_rows(void *arg)
{
	RetriedRows *retried = arg;
	EventBatch *batch = retried->batch;

	PushActiveSnapshot(GetLatestSnapshot());
	EventBatchInit(batch);
	read_rows(retried->retry->projection, retried->rows, batch);
	if (batch->count > 0)
	{
		/* what is deferred would fail where no event can be blamed */
		SetConstraintsImmediate(retried->retry->projection);
		HandlerRun(retried->retry->handler, batch);
	}
	EventBatchEnd(batch);
	PopActiveSnapshot();
	ParkedRowsDelete(retried->rows);
	return true;
}

/* An event that the projection's filter does not let through any more is left out. */
static void
read_rows(const Projection *projection, List *rows, EventBatch *batch)
{
	EventFilter filter = {projection->sources, projection->categories, projection->types};
	EventReader *reader = NULL;
	OwnerContext owner;
	ListCell   *lc;

	OwnerContextEnter(&owner, projection);
	foreach(lc, rows)
	{
		int64		position = ((ParkedRow *) lfirst(lc))->event.place.position;
		LogEvent   *event;

		if (reader != NULL && position - EventReaderPosition(reader) > NEAR_POSITIONS)
		{
			EventReaderEnd(reader);
			reader = NULL;
		}
		if (reader == NULL)
		{
			reader = EventReaderBegin(GetActiveSnapshot(), position - 1, &filter, true);
			/* what lies in between is of no interest here */
			EventReaderCatch(reader);
		}
		EventReaderLimit(reader, position - EventReaderPosition(reader));
		while ((event = EventReaderNext(reader)) != NULL)
		{
			if (event->entry.position != position)
				continue;
			if (event->error != NULL)
				ReThrowError(event->error);
			EventBatchAdd(batch, event);
		}
	}
	EventReaderEnd(reader);
	OwnerContextLeave(&owner);
}

static void
give_up_stream(Retry *retry, ParkedRow *row, ErrorData *error)
{
	ProjectionError reason;

	ProjectionErrorSet(&reason, error);
	ParkedRowSetError(row, &reason);
	ParkedStreamsAdd(retry->failed, row->event.place.event_table, row->event.stream_id);
	retry->filter.after = row->event.place.position;
	memset(&retry->suspects, 0, sizeof(Suspects));
}

PG_FUNCTION_INFO_V1(daybook_discard_parked_event);
Datum
daybook_discard_parked_event(PG_FUNCTION_ARGS)
{
	ParkedFilter filter = {.position = PG_GETARG_INT64(1)};

	if (filter.position <= 0 || discard(fcinfo, &filter) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("projection \"%s\" has no parked event at position " INT64_FORMAT,
						text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_INT64(1)),
				 errhint("See daybook.parked_events.")));
	PG_RETURN_INT64(1);
}

PG_FUNCTION_INFO_V1(daybook_discard_parked_stream);
Datum
daybook_discard_parked_stream(PG_FUNCTION_ARGS)
{
	ParkedFilter filter = {.stream_id = text_to_cstring(PG_GETARG_TEXT_PP(1))};
	int64		count = discard(fcinfo, &filter);

	if (count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("projection \"%s\" has no parked event of stream \"%s\"",
						text_to_cstring(PG_GETARG_TEXT_PP(0)), filter.stream_id),
				 errhint("See daybook.parked_events.")));
	PG_RETURN_INT64(count);
}

static int64
discard(FunctionCallInfo fcinfo, const ParkedFilter *filter)
{
	char	   *reason = text_to_cstring(PG_GETARG_TEXT_PP(2));
	ProjectionProgress progress;
	Projection *projection;
	List	   *rows;
	ListCell   *lc;

	check_reason(reason);
	projection = ProjectionToChange(fcinfo, &progress);
	rows = ParkedRowsLoad(projection->name, filter, PG_INT64_MAX);
	foreach(lc, rows)
		ParkedRowDiscard(lfirst(lc), reason);
	if (rows != NIL)
		ProjectionSaveChange(projection, &progress);
	return list_length(rows);
}

static void
check_reason(const char *reason)
{
	if (reason[strspn(reason, " \t\n\r")] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("events cannot be discarded without a reason"),
				 errhint("Say why in the argument \"reason\"; it is kept in daybook.discarded_events.")));
}
