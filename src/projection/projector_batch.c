/*-------------------------------------------------------------------------
 *
 * projector_batch.c
 *	  The next events of a projection: reading them from the log, and handing
 *	  them to its handler.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "error_class.h"
#include "event_table/event_table.h"
#include "nodes/makefuncs.h"
#include "pgstat.h"
#include "projection/handler_stream.h"
#include "projection/projector_internal.h"
#include "replay/event_reader.h"
#include "sequencer/log_scan.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

/*
 * Log entries that one transaction passes at most: where a filter lets few
 * events through, the position still moves on.
 */
#define MAX_SCANNED			100000

/* A batch that is stored ends with the event that brings it to this size, in bytes. */
#define MAX_BATCH_BYTES		(INT64CONST(512) * 1024 * 1024)

/* An event that no handler will see: its upcaster fails. */
typedef struct UnreadableEvent
{
	ParkedEvent event;
	ErrorData  *error;
} UnreadableEvent;

static void check_not_ahead(Projector *projector);
static bool stream_batch(Projector *projector, Handler *handler, const EventFilter *filter, int64 *position);
static bool take_event(Projector *projector, LogEvent *event);
static ParkedEvent *parked_event(const LogEvent *event, char *stream_id);
static bool take_unreadable(Projector *projector, LogEvent *event, char *stream_id);
static ErrorData *copy_error(const ErrorData *error);

void
ProjectorBatchBegin(Projector *projector)
{
	projector->wanted = 0;
	projector->has_batch = false;
	memset(&projector->batch, 0, sizeof(EventBatch));
	projector->queued = NIL;
	projector->unreadable = NIL;
	projector->unreadable_streams = NULL;
	SetCurrentStatementStartTimestamp();
}

/* Events per second, 0 for no limit. */
int
ProjectorShareOfRate(const Projection *projection)
{
	return projection->max_rate > 0 ? Max(projection->max_rate / projection->shares, 1) : 0;
}

/* Waiting for the log to come to such a position would pass over events. */
static void
check_not_ahead(Projector *projector)
{
	int64		head;

	if (projector->checked)
		return;
	head = LogHead(GetActiveSnapshot());
	if (projector->position > head)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("projection \"%s\" is ahead of the log", projector->name),
				 errdetail("Its position is " INT64_FORMAT ", and the log ends at " INT64_FORMAT ".",
						   projector->position, head),
				 errhint("Rebuild the projection: it and the log come from different backups.")));
	projector->checked = true;
}

/*
 * Reads the next events.  Sets the position that stands after them, and
 * returns whether the log may go on beyond it.
 */
bool
ProjectorBatchRead(Projector *projector, Handler *handler, int64 *position)
{
	const Projection *projection = handler->projection;
	EventFilter filter = {projection->sources, projection->categories, projection->types,
		.ahead = true, .shares = projection->shares, .share = projection->share
	};
	int64		max_scanned = (int64) Max(MAX_SCANNED, projection->batch_size) * projection->shares;
	EventBatch *batch = &projector->batch;
	int64		limit = Min(projector->batch_size, PROJECTION_MAX_BATCH_SIZE);
	OwnerContext owner;
	EventReader *reader;
	LogEvent   *event;
	bool		stopped = false;

	check_not_ahead(projector);
	if (projector->suspects.limit > 0)
		limit = Min(projector->suspects.limit, limit);
	/* a batch is a second's worth at most */
	if (projection->max_rate > 0)
		limit = Min(limit, ProjectorShareOfRate(projection));
	if (projection->shares > 1)
		max_scanned = Min(max_scanned, projection->share_end - projector->position);
	projector->max_batch_size = projection->batch_size;
	projector->wanted = limit;
	projector->parks = strcmp(projection->on_error, "park") == 0;
	EventBatchInit(batch);
	if (projection->rebuild_of != NULL && projection->max_rate == 0 &&
		projector->suspects.limit == 0 && !projector->stream_failed &&
		ParkedStreamsIsEmpty(projector->parked) && HandlerStreams(handler, batch) &&
		stream_batch(projector, handler, &filter, position))
		return true;
	/* as the owner, who has to have the right to read what the handler gets */
	OwnerContextEnter(&owner, projection);
	reader = EventReaderBegin(GetActiveSnapshot(), projector->position, &filter, true);
	if (max_scanned > 0)
		EventReaderLimit(reader, max_scanned);
	EventReaderExpect(reader, limit);
	EventReaderCatch(reader);
	while (!stopped && max_scanned > 0 && batch->count < limit && batch->bytes < MAX_BATCH_BYTES &&
		   (event = EventReaderNext(reader)) != NULL)
		stopped = !take_event(projector, event);
	*position = EventReaderPosition(reader) - (stopped ? 1 : 0);
	EventReaderEnd(reader);
	OwnerContextLeave(&owner);
	projector->batch_end = *position;
	projector->has_batch = true;
	return stopped || batch->count == limit || batch->bytes >= MAX_BATCH_BYTES ||
		*position - projector->position >= max_scanned;
}

/*
 * The next events as a stream, which is not stored and so may be longer.
 * False if it is not worth it, or not possible.
 */
static bool
stream_batch(Projector *projector, Handler *handler, const EventFilter *filter, int64 *position)
{
	const Projection *projection = handler->projection;
	EventBatch *batch = &projector->batch;
	int64		max_positions = projector->batch_size * projection->shares;
	OwnerContext owner;

	if (projection->shares > 1)
		max_positions = Min(max_positions, projection->share_end - projector->position);
	OwnerContextEnter(&owner, projection);
	EventBatchStream(batch, projection, filter, projector->position, max_positions);
	OwnerContextLeave(&owner);
	if (batch->stream == NULL)
		return false;
	*position = projector->batch_end = batch->last_position;
	projector->has_batch = true;
	return true;
}

/*
 * Puts an event into the batch, or behind those of its stream that are parked.
 * False if the batch has to end before it.
 */
static bool
take_event(Projector *projector, LogEvent *event)
{
	bool		isnull;
	Datum		stream = heap_getattr(event->tuple, EVENT_STREAM_ID, projector->batch.event_desc, &isnull);
	char	   *stream_id = TextDatumGetCString(stream);

	if (ParkedStreamsHave(projector->parked, event->event_table, stream_id) ||
		(projector->unreadable_streams != NULL &&
		 ParkedStreamsHave(projector->unreadable_streams, event->event_table, stream_id)))
	{
		projector->queued = lappend(projector->queued, parked_event(event, stream_id));
		return true;
	}
	if (event->error != NULL)
		return take_unreadable(projector, event, stream_id);
	if (projector->batch.count == 0)
		projector->first_stream = stream_id;
	else
		pfree(stream_id);
	EventBatchAdd(&projector->batch, event);
	return true;
}

static ParkedEvent *
parked_event(const LogEvent *event, char *stream_id)
{
	ParkedEvent *parked = palloc(sizeof(ParkedEvent));

	parked->place.position = event->entry.position;
	parked->place.event_table = event->event_table;
	parked->place.event_id = event->entry.id;
	parked->stream_id = stream_id;
	return parked;
}

/*
 * An event whose upcaster fails is parked at once, or ends the batch before
 * it, or is the one that the projection stops at.
 */
static bool
take_unreadable(Projector *projector, LogEvent *event, char *stream_id)
{
	if (projector->parks && !ErrorIsForeign(event->error->sqlerrcode))
	{
		UnreadableEvent *unreadable = palloc(sizeof(UnreadableEvent));

		unreadable->event = *parked_event(event, stream_id);
		unreadable->error = copy_error(event->error);
		projector->unreadable = lappend(projector->unreadable, unreadable);
		if (projector->unreadable_streams == NULL)
			projector->unreadable_streams = ParkedStreamsCreate(CurrentMemoryContext);
		ParkedStreamsAdd(projector->unreadable_streams, event->event_table, stream_id);
		return true;
	}
	if (event->entry.position > projector->position + 1)
		return false;
	EventBatchAdd(&projector->batch, event);
	projector->has_batch = true;
	ReThrowError(event->error);
	return false;				/* not reached */
}

/* What the message needs, to outlive the event. */
static ErrorData *
copy_error(const ErrorData *error)
{
	ErrorData  *copy = palloc0(sizeof(ErrorData));

	copy->sqlerrcode = error->sqlerrcode;
	copy->message = pstrdup(error->message ? error->message : "");
	copy->detail = error->detail ? pstrdup(error->detail) : NULL;
	copy->context = error->context ? pstrdup(error->context) : NULL;
	return copy;
}

/* Parks what the batch has met and will not apply. */
void
ProjectorParkPassed(Projector *projector)
{
	ListCell   *lc;

	ParkBehind(projector->name, projector->queued);
	foreach(lc, projector->unreadable)
	{
		UnreadableEvent *unreadable = lfirst(lc);
		ProjectionError reason;

		ProjectionErrorSet(&reason, unreadable->error);
		ParkCause(projector->name, &unreadable->event, &reason, 1);
	}
}

/* The same once that is committed. */
void
ProjectorPassedParked(Projector *projector)
{
	ListCell   *lc;

	foreach(lc, projector->unreadable)
	{
		UnreadableEvent *unreadable = lfirst(lc);

		ParkedStreamsAdd(projector->parked, unreadable->event.place.event_table,
						 unreadable->event.stream_id);
		ProjectorReportFailure(projector, unreadable->event.place.position - 1, unreadable->error);
	}
}

void
ProjectorBatchApply(Projector *projector, Handler *handler)
{
	ConstraintsSetStmt *immediate;
	char		activity[NAMEDATALEN + 100];

	if (projector->batch.count == 0)
		return;
	snprintf(activity, sizeof(activity), "projection %s: " INT64_FORMAT " events after position " INT64_FORMAT,
			 projector->name, projector->batch.count, projector->position);
	pgstat_report_activity(STATE_RUNNING, activity);

	/* what is deferred would run at commit, when the owner's code may not */
	immediate = makeNode(ConstraintsSetStmt);
	AfterTriggerSetState(immediate);
	if (StatementTimeout > 0)
		enable_timeout_after(STATEMENT_TIMEOUT, StatementTimeout);
	HandlerRun(handler, &projector->batch);
	disable_timeout(STATEMENT_TIMEOUT, false);
	EventBatchEnd(&projector->batch);
}
