/*-------------------------------------------------------------------------
 *
 * fold_all.c
 *	  daybook.fold_all(): the states of all streams of an event table.
 *
 * One scan of the index goes through all streams, and leaves it only for a
 * stream that has a snapshot to begin with.  Processes of a parallel query
 * take turns in taking streams, some at a time.  States are computed some at a
 * time, since the transition runs as the fold's owner and becoming that costs
 * more than a short stream.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "arguments.h"
#include "catalog/pg_type.h"
#include "event_table/event_source.h"
#include "event_table/event_table.h"
#include "fold/fold.h"
#include "fold/fold_share.h"
#include "miscadmin.h"
#include "parallel_check.h"
#include "replay/row_function.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(daybook_fold_all);
PG_FUNCTION_INFO_V1(daybook_fold_all_typed);

/* Columns of the result. */
#define FOLD_ALL_STREAM_ID	1
#define FOLD_ALL_VERSION	2
#define FOLD_ALL_STATE		3
#define FOLD_ALL_NATTS		3

/*
 * A batch ends with this many streams, or with the stream in which it reaches
 * this many events.  The first has one stream, since the caller may not want
 * more, and each has twice as many as the one before.
 */
#define MAX_BATCH_STREAMS	64
#define MAX_BATCH_EVENTS	1000

typedef struct StreamState
{
	text	   *stream_id;
	int64		version;
	Datum		state;
	bool		is_null;
} StreamState;

typedef struct FoldAll
{
	RowSource	source;
	bool		as_jsonb;
	FoldRun    *run;
	Relation	table;
	Snapshot	snapshot;
	StreamReader *reader;
	SnapshotScan *snapshots;	/* NULL: there are none */
	text	   *position;		/* stream that the reader was sent after */
	StreamShare *share;			/* NULL: all streams are ours */
	text	   *upto;			/* stream with which those that we have taken end */
	TupleTableSlot *waiting;	/* first event of the next stream, if it is known */
	bool		at_end;
	MemoryContext batch_context;
	MemoryContext jsonb_context;	/* to make jsonb of one state in */
	int			batch_room;
	int			count;
	int			next;
	StreamState batch[MAX_BATCH_STREAMS];
	TupleTableSlot *slot;
} FoldAll;

static RowSource *begin_fold_all(const RowCall *call);
static TupleTableSlot *next_state(RowSource *source);
static void end_fold_all(RowSource *source);
static void fill_batch(FoldAll *all);
static bool take_streams(FoldAll *all);
static int64 fold_next_stream(FoldAll *all);
static Datum state_to_jsonb(FoldAll *all, Datum state);
static int64 fold_from_snapshot(FoldAll *all, StreamState *stream, Snapshotted *from);
static int64 fold_in_passing(FoldAll *all, StreamState *stream, TupleTableSlot *event);
static int64 take_event(FoldAll *all, StreamState *stream, TupleTableSlot *event);
static text *stream_of(TupleTableSlot *event);
static bool is_of_stream(TupleTableSlot *event, const text *stream_id);

static const RowFunction FoldAllFunction = {
	.name = "fold_all",
	.nargs = 1,
	.begin = begin_fold_all,
	.backwards_arg = -1,
	.estimate = FoldAllEstimate,
	.shared_size = sizeof(StreamShare),
	.init_shared = StreamShareInit
};

static const RowFunction FoldAllTypedFunction = {
	.name = "fold_all",
	.nargs = 2,
	.begin = begin_fold_all,
	.backwards_arg = -1,
	.estimate = FoldAllEstimate,
	.shared_size = sizeof(StreamShare),
	.init_shared = StreamShareInit
};

void
FoldAllInit(void)
{
	RegisterRowFunction(&FoldAllFunction);
	RegisterRowFunction(&FoldAllTypedFunction);
	RegisterParallelCheck("fold", FoldCallIsParallelSafe);
	RegisterParallelCheck("fold_all", FoldCallIsParallelSafe);
	RegisterParallelCheck("diff", FoldCallIsParallelSafe);
}

/* daybook.fold_all(name) */
Datum
daybook_fold_all(PG_FUNCTION_ARGS)
{
	return ReturnRows(&FoldAllFunction, fcinfo);
}

/* daybook.fold_all(name, state_type) */
Datum
daybook_fold_all_typed(PG_FUNCTION_ARGS)
{
	return ReturnRows(&FoldAllTypedFunction, fcinfo);
}

/* The run is the call's own, since it lasts as long as rows are asked for. */
static RowSource *
begin_fold_all(const RowCall *call)
{
	FoldAll    *all = palloc0(sizeof(FoldAll));
	bool		is_typed = call->nargs > 1;
	FoldDefinition *definition;
	TupleDesc	desc = CreateTemplateTupleDesc(FOLD_ALL_NATTS);

	RefuseNull(&call->args[0], "name");
	definition = RequireFoldDefinition(text_to_cstring(DatumGetTextPP(call->args[0].value)));
	all->source.next = next_state;
	all->source.end = end_fold_all;
	all->run = FoldRunMake(definition, CurrentMemoryContext);
	all->as_jsonb = !is_typed;
	if (is_typed)
		RequireStateType(all->run, call->arg_types[1]);
	all->table = OpenReadableEventTable(definition->event_table);
	all->snapshot = call->snapshot;
	all->reader = StreamReaderBegin(all->table, call->snapshot, false);
	all->snapshots = SnapshotScanBegin(all->run, all->table, call->snapshot);
	all->share = call->shared;
	if (all->share)
		all->at_end = true;
	else
		StreamReaderSeekAfter(all->reader, NULL, NULL);
	all->batch_context = AllocSetContextCreate(CurrentMemoryContext, "fold_all batch",
											   ALLOCSET_DEFAULT_SIZES);
	all->jsonb_context = AllocSetContextCreate(CurrentMemoryContext, "fold_all jsonb",
											   ALLOCSET_DEFAULT_SIZES);
	all->batch_room = 1;

	TupleDescInitEntry(desc, FOLD_ALL_STREAM_ID, "stream_id", TEXTOID, -1, 0);
	TupleDescInitEntry(desc, FOLD_ALL_VERSION, "version", INT8OID, -1, 0);
	TupleDescInitEntry(desc, FOLD_ALL_STATE, "state",
					   is_typed ? FoldRunStateType(all->run)->oid : JSONBOID, -1, 0);
	all->slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	return &all->source;
}

static TupleTableSlot *
next_state(RowSource *source)
{
	FoldAll    *all = (FoldAll *) source;
	TupleTableSlot *slot = all->slot;
	StreamState *stream;

	ExecClearTuple(slot);
	if (all->next == all->count)
		fill_batch(all);
	if (all->next == all->count)
		return NULL;

	stream = &all->batch[all->next++];
	slot->tts_values[FOLD_ALL_STREAM_ID - 1] = PointerGetDatum(stream->stream_id);
	slot->tts_values[FOLD_ALL_VERSION - 1] = Int64GetDatum(stream->version);
	slot->tts_values[FOLD_ALL_STATE - 1] = stream->state;
	memset(slot->tts_isnull, false, FOLD_ALL_NATTS);
	slot->tts_isnull[FOLD_ALL_STATE - 1] = stream->is_null;
	return ExecStoreVirtualTuple(slot);
}

static void
end_fold_all(RowSource *source)
{
	FoldAll    *all = (FoldAll *) source;

	ExecDropSingleTupleTableSlot(all->slot);
	if (all->snapshots)
		SnapshotScanEnd(all->snapshots);
	StreamReaderEnd(all->reader);
	table_close(all->table, NoLock);
}

static void
fill_batch(FoldAll *all)
{
	int64		events = 0;

	all->count = all->next = 0;
	MemoryContextReset(all->batch_context);

	/* what was taken may turn out to have no visible event */
	while (all->count == 0 && (!all->at_end || take_streams(all)))
	{
		FoldEnter(all->run);
		while (all->count < all->batch_room && events < MAX_BATCH_EVENTS && !all->at_end)
			events += fold_next_stream(all);
		FoldLeave(all->run);
	}
	all->batch_room = Min(all->batch_room * 2, MAX_BATCH_STREAMS);
}

/* False: there are no more streams. */
static bool
take_streams(FoldAll *all)
{
	MemoryContext caller;
	bool		found;

	if (all->share == NULL)
		return false;
	if (all->position)
		pfree(all->position);
	if (all->upto)
		pfree(all->upto);
	all->position = all->upto = NULL;
	caller = MemoryContextSwitchTo(GetMemoryChunkContext(all));
	found = StreamShareTake(all->share, all->table, all->snapshot, &all->position, &all->upto);
	MemoryContextSwitchTo(caller);
	if (found)
	{
		StreamReaderSeekAfter(all->reader, all->position, all->upto);
		all->at_end = false;
	}
	return found;
}

/* Adds the next stream to the batch; returns the number of events taken in. */
static int64
fold_next_stream(FoldAll *all)
{
	TupleTableSlot *event = all->waiting ? all->waiting : StreamReaderNext(all->reader);
	StreamState *stream = &all->batch[all->count];
	MemoryContext caller;
	Snapshotted from;
	int64		events;

	all->waiting = NULL;
	if (event == NULL)
	{
		all->at_end = true;
		return 0;
	}
	caller = MemoryContextSwitchTo(all->batch_context);
	stream->stream_id = DatumGetTextPCopy(PointerGetDatum(stream_of(event)));
	if (all->snapshots &&
		SnapshotFind(all->snapshots, stream->stream_id, PG_INT64_MAX, DT_NOEND, &from))
		events = fold_from_snapshot(all, stream, &from);
	else
		events = fold_in_passing(all, stream, event);
	stream->state = FoldState(all->run, &stream->is_null);
	if (!stream->is_null && all->as_jsonb)
		stream->state = state_to_jsonb(all, stream->state);
	else if (!stream->is_null)
		stream->state = datumCopy(stream->state, FoldRunStateType(all->run)->by_value,
								  FoldRunStateType(all->run)->len);
	MemoryContextSwitchTo(caller);
	all->count++;
	return events;
}

/* Within the batch, since to become the fold's owner costs more than this. */
static Datum
state_to_jsonb(FoldAll *all, Datum state)
{
	MemoryContext caller = MemoryContextSwitchTo(all->jsonb_context);

	state = StateToJsonb(all->run, state);
	MemoryContextSwitchTo(caller);
	state = datumCopy(state, false, -1);
	MemoryContextReset(all->jsonb_context);
	return state;
}

/* Leaves the scan, to come back to it after the stream. */
static int64
fold_from_snapshot(FoldAll *all, StreamState *stream, Snapshotted *from)
{
	text	   *stream_id = stream->stream_id;
	TupleTableSlot *event;
	int64		events = 0;

	FoldBeginWith(all->run, from->state, from->is_null);
	stream->version = from->version;
	StreamReaderSeek(all->reader, stream_id, from->version + 1, PG_INT64_MAX,
					 ForwardScanDirection);
	while ((event = StreamReaderNext(all->reader)) != NULL)
		events += take_event(all, stream, event);

	/* the name has to last as long as the scan */
	if (all->position)
		pfree(all->position);
	all->position = MemoryContextAlloc(GetMemoryChunkContext(all), VARSIZE(stream_id));
	memcpy(all->position, stream_id, VARSIZE(stream_id));
	StreamReaderSeekAfter(all->reader, all->position, all->upto);
	return events;
}

/* The scan goes on with the event that does not belong to the stream any more. */
static int64
fold_in_passing(FoldAll *all, StreamState *stream, TupleTableSlot *event)
{
	int64		events = 0;

	FoldBegin(all->run);
	do
	{
		events += take_event(all, stream, event);
		event = StreamReaderNext(all->reader);
	} while (event && is_of_stream(event, stream->stream_id));
	all->waiting = event;
	all->at_end = event == NULL;
	return events;
}

static int64
take_event(FoldAll *all, StreamState *stream, TupleTableSlot *event)
{
	bool		is_null;

	stream->version = DatumGetInt64(slot_getattr(event, EVENT_VERSION, &is_null));
	FoldEvent(all->run, event);
	return 1;
}

static text *
stream_of(TupleTableSlot *event)
{
	bool		is_null;

	return DatumGetTextPP(slot_getattr(event, EVENT_STREAM_ID, &is_null));
}

/* A long name is stored compressed, and a stream can have any number of events. */
static bool
is_of_stream(TupleTableSlot *event, const text *stream_id)
{
	text	   *name = stream_of(event);
	bool		result = VARSIZE_ANY_EXHDR(name) == VARSIZE_ANY_EXHDR(stream_id) &&
		memcmp(VARDATA_ANY(name), VARDATA_ANY(stream_id), VARSIZE_ANY_EXHDR(stream_id)) == 0;

	if (PointerGetDatum(name) != event->tts_values[EVENT_STREAM_ID - 1])
		pfree(name);
	return result;
}
