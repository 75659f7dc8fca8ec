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
#include "commands/trigger.h"
#include "daybook.h"
#include "error_class.h"
#include "event_table/event_table.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "projection/handler_stream.h"
#include "projection/projection.h"
#include "projection/projector.h"
#include "projection/projector_slots.h"
#include "replay/event_reader.h"
#include "sequencer/log_durable.h"
#include "sequencer/log_scan.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"
#include "worker/worker_session.h"
#include "worker/worker_state.h"

/*
 * Log entries that one transaction passes at most: where a filter lets few
 * events through, the position still moves on.
 */
#define MAX_SCANNED			100000

/* A batch that is stored has so many events at most, and ends with the one that brings it to this size, in bytes. */
#define MAX_BATCH_EVENTS	PROJECTION_MAX_BATCH_SIZE
#define MAX_BATCH_BYTES		(INT64CONST(512) * 1024 * 1024)

/* Pauses before a failed batch is tried again, in milliseconds. */
#define FAILED_PAUSE		1000
#define TRANSIENT_PAUSE		100
#define LONGEST_PAUSE		60000

/* To this size the batches of a rebuild shrink where events fail. */
#define CAUTIOUS_BATCH_SIZE	1000

typedef enum ProjectorStep
{
	STEP_MORE,					/* there is more to do now */
	STEP_CAUGHT_UP,				/* wait for the log to grow */
	STEP_PAUSE,					/* wait until retry_at */
	STEP_EXIT					/* the projection needs no worker any more */
} ProjectorStep;

typedef struct Projector
{
	const char *name;
	ProjectorSlot *slot;
	DatabaseState *database;
	MemoryContext batch_context;

	bool		had_turn;		/* since the projection was claimed */
	bool		claimed;		/* the fields below are those of the row */
	bool		checked;		/* the position is not ahead of the log */
	int64		generation;
	int64		position;
	int			attempts;
	TimestampTz retry_at;
	ItemPointerData progress_tid;	/* where the row was when this worker wrote it last */

	Suspects	suspects;
	int64		batch_size;		/* events in a batch, fewer for a while after an error */
	int64		max_batch_size;	/* what the projection says */
	bool		stream_failed;	/* batches are stored from now on */
	bool		swapping;		/* a rebuild is exchanging the tables */
	int			swap_attempts;
	MemoryContext parked_context;
	ParkedStreams *parked;		/* streams whose events are not applied for now */

	uint64		wait_beyond;	/* nothing to do until the log's head is above this */
	XLogRecPtr	sequenced;		/* as those who wait have been told last */

	/* the batch in hand, for when it fails */
	int64		wanted;			/* events asked for, 0 if none yet */
	bool		has_batch;		/* they have been read */
	bool		parks;			/* a failing event is set aside */
	EventBatch	batch;
	int64		batch_end;		/* position after it */
	char	   *first_stream;	/* of its first event */
	List	   *queued;			/* ParkedEvents met on the way */
	List	   *unreadable;		/* UnreadableEvents: causes of parking met on the way */
	ParkedStreams *unreadable_streams;	/* of these, NULL if there are none */
} Projector;

/* An event that no handler will see: its upcaster fails. */
typedef struct UnreadableEvent
{
	ParkedEvent event;
	ErrorData  *error;
} UnreadableEvent;

static void projector_init(Projector *projector, const ProjectorLaunch *launch);
static void detach_slot(int code, Datum arg);
static ProjectorStep project_or_fail(Projector *projector);
static ProjectorStep project(Projector *projector);
static bool advance(Projector *projector, Handler *handler, ProjectionProgress *progress);
static void advanced(Projector *projector, const ProjectionProgress *progress);
static bool is_applied(const Projector *projector, int64 head);
static XLogRecPtr sequenced_lsn(const Projector *projector);
static ProjectorStep share_done(Projector *projector);
static int	share_of_rate(const Projection *projection);
static ProjectorStep swap(Projector *projector);
static void begin_batch(Projector *projector);
static Handler *lock_projection(Projector *projector, ProjectionProgress *progress);
static ProjectorStep claim(Projector *projector, Projection *projection, ProjectionProgress *progress);
static void forget_claim(Projector *projector);
static void use_maintenance_memory(void);
static ProjectorStep project_batch(Projector *projector, Handler *handler, ProjectionProgress *progress);
static void check_not_ahead(Projector *projector);
static bool read_batch(Projector *projector, Handler *handler, int64 *position);
static bool stream_batch(Projector *projector, Handler *handler, const EventFilter *filter, int64 *position);
static bool take_event(Projector *projector, LogEvent *event);
static ParkedEvent *parked_event(const LogEvent *event, char *stream_id);
static bool take_unreadable(Projector *projector, LogEvent *event, char *stream_id);
static void park_passed(Projector *projector);
static void passed_parked(Projector *projector);
static ErrorData *copy_error(const ErrorData *error);
static void apply_batch(Projector *projector, Handler *handler);
static void batch_succeeded(Projector *projector);
static bool broken_off(Projector *projector, ErrorData *error);
static ProjectorStep batch_failed(Projector *projector, ErrorData *error);
static void narrow(Projector *projector);
static void park(Projector *projector, ErrorData *error);
static void load_parked(Projector *projector);
static TimestampTz next_try(int attempts, long first_pause);
static void record_failure(Projector *projector, ErrorData *error, bool failed, bool isolated);
static Projection *lock_claimed(Projector *projector, ProjectionProgress *progress);
static void report_failure(Projector *projector, int64 position, ErrorData *error);
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
		if (broken_off(projector, error))
			projector->swapping = false;
		else if (!projector->claimed)
			ThrowErrorData(error);	/* ends the worker; it is started again later */
		else
			step = batch_failed(projector, error);
		FreeErrorData(error);
	}
	MemoryContextReset(projector->batch_context);
	return step;
}

static void
begin_batch(Projector *projector)
{
	projector->wanted = 0;
	projector->has_batch = false;
	memset(&projector->batch, 0, sizeof(EventBatch));
	projector->queued = NIL;
	projector->unreadable = NIL;
	projector->unreadable_streams = NULL;
	SetCurrentStatementStartTimestamp();
}

/* The transaction of one batch. */
static ProjectorStep
project(Projector *projector)
{
	ProjectionProgress progress = {.tid = projector->progress_tid};
	ProjectorStep step;
	Handler    *handler = NULL;

	begin_batch(projector);
	projector->had_turn = projector->claimed;
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
	else if (projector->retry_at > GetCurrentTimestamp())
		step = STEP_PAUSE;
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
	int			max_rate = share_of_rate(projection);
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
	check_not_ahead(projector);
	more = read_batch(projector, handler, &progress->position);
	/* read while the sequencer flushes it */
	MakeLogDurable();
	apply_batch(projector, handler);
	park_passed(projector);
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
	projector->progress_tid = progress->tid;
	projector->position = progress->position;
	passed_parked(projector);
	batch_succeeded(projector);
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

	begin_batch(projector);
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
	forget_claim(projector);
	return goes_on ? STEP_MORE : STEP_EXIT;
}

/* Events per second, 0 for no limit. */
static int
share_of_rate(const Projection *projection)
{
	return projection->max_rate > 0 ? Max(projection->max_rate / projection->shares, 1) : 0;
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
	begin_batch(projector);
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
		forget_claim(projector);
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
static void
forget_claim(Projector *projector)
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
static bool
read_batch(Projector *projector, Handler *handler, int64 *position)
{
	const Projection *projection = handler->projection;
	EventFilter filter = {projection->sources, projection->categories, projection->types,
		.ahead = true, .shares = projection->shares, .share = projection->share
	};
	int64		max_scanned = (int64) Max(MAX_SCANNED, projection->batch_size) * projection->shares;
	EventBatch *batch = &projector->batch;
	int64		limit = Min(projector->batch_size, MAX_BATCH_EVENTS);
	OwnerContext owner;
	EventReader *reader;
	LogEvent   *event;
	bool		stopped = false;

	if (projector->suspects.limit > 0)
		limit = Min(projector->suspects.limit, limit);
	/* a batch is a second's worth at most */
	if (projection->max_rate > 0)
		limit = Min(limit, share_of_rate(projection));
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
static void
park_passed(Projector *projector)
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
static void
passed_parked(Projector *projector)
{
	ListCell   *lc;

	foreach(lc, projector->unreadable)
	{
		UnreadableEvent *unreadable = lfirst(lc);

		ParkedStreamsAdd(projector->parked, unreadable->event.place.event_table,
						 unreadable->event.stream_id);
		report_failure(projector, unreadable->event.place.position - 1, unreadable->error);
	}
}

static void
apply_batch(Projector *projector, Handler *handler)
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

static void
batch_succeeded(Projector *projector)
{
	projector->attempts = 0;
	projector->retry_at = 0;
	if (projector->suspects.limit == 0)
		projector->batch_size = Min(projector->batch_size * 2, projector->max_batch_size);
	SuspectsPassed(&projector->suspects, projector->batch.count, projector->position);
}

/* Did pause_projection or its like break the batch off? */
static bool
broken_off(Projector *projector, ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_QUERY_CANCELED && projector->slot->changed;
}

/* Decides what to do after a failure, and writes it down. */
static ProjectorStep
batch_failed(Projector *projector, ErrorData *error)
{
	int64		count = projector->has_batch ? projector->batch.count : projector->wanted;
	bool		transient = ErrorIsTransient(error->sqlerrcode);
	bool		swapping = projector->swapping;

	/* its position is about to be shown */
	MakeLogDurable();
	projector->swapping = false;
	projector->stream_failed |= projector->batch.stream != NULL;
	if (transient && swapping)
	{
		/* readers of the tables have to get their turn */
		projector->retry_at = next_try(projector->swap_attempts++, FAILED_PAUSE);
		record_failure(projector, error, false, false);
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
		report_failure(projector, projector->position, error);
	}
	return STEP_MORE;
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

	report_failure(projector, projector->position, error);
	ProjectionErrorSet(&reason, error);
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	projection = lock_claimed(projector, &progress);
	if (projection != NULL)
	{
		park_passed(projector);
		ParkCause(projector->name, &event, &reason, projector->attempts + 1);
		progress.position = projector->batch_end;
		ProgressClearError(&progress);
		ProgressUpdate(projection, &progress);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();

	if (projection == NULL)
	{
		forget_claim(projector);
		return;
	}
	passed_parked(projector);
	ParkedStreamsAdd(projector->parked, event.place.event_table, event.stream_id);
	projector->progress_tid = progress.tid;
	projector->position = progress.position;
	ProjectorSlotNoteReach(projector->slot, progress.position, InvalidXLogRecPtr);
	projector->slot->at_work = true;
	projector->attempts = 0;
	projector->retry_at = 0;
	memset(&projector->suspects, 0, sizeof(Suspects));
	/* more may be close by, and a failure costs as much as a batch is large */
	projector->batch_size = Max(Min(projector->batch_size, MAX_BATCH_EVENTS) / 2,
								Min(projector->max_batch_size, CAUTIOUS_BATCH_SIZE));
	ConditionVariableBroadcast(&projector->database->projected);
}

static void
load_parked(Projector *projector)
{
	MemoryContextReset(projector->parked_context);
	projector->parked = ParkedStreamsCreate(projector->parked_context);
	ParkedStreamsLoad(projector->parked, projector->name);
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

static void
report_failure(Projector *projector, int64 position, ErrorData *error)
{
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("projection \"%s\" failed after position " INT64_FORMAT ": %s",
					projector->name, position, error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->context ? errcontext("%s", error->context) : 0));
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
