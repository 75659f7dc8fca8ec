/*-------------------------------------------------------------------------
 *
 * replay.c
 *	  Reading one stream in order of version.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "arguments.h"
#include "event_table/event_source.h"
#include "event_table/event_table.h"
#include "replay/row_function.h"
#include "replay/stream_reader.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(daybook_replay);
PG_FUNCTION_INFO_V1(daybook_recorded);
PG_FUNCTION_INFO_V1(daybook_stream_version);

/* Arguments of daybook.replay. */
enum
{
	REPLAY_EVENT_TABLE,
	REPLAY_STREAM_ID,
	REPLAY_FROM_VERSION,
	REPLAY_TO_VERSION,
	REPLAY_UNTIL,
	REPLAY_BACKWARDS,
	REPLAY_NARGS
};

/* daybook.recorded has the first of them. */
#define RECORDED_NARGS		(REPLAY_STREAM_ID + 1)

/* A replay in progress. */
typedef struct Replay
{
	RowSource	source;
	Relation	table;
	StreamReader *reader;
} Replay;

static RowSource *begin_replay(const RowCall *call);
static RowSource *begin_recorded(const RowCall *call);
static Replay *open_stream(const RowCall *call, bool as_stored);
static TupleTableSlot *next_replayed(RowSource *source);
static void end_replay(RowSource *source);

const RowFunction ReplayFunction = {
	.name = "replay",
	.nargs = REPLAY_NARGS,
	.begin = begin_replay,
	.order_column = EVENT_VERSION,
	.backwards_arg = REPLAY_BACKWARDS
};

const RowFunction RecordedFunction = {
	.name = "recorded",
	.nargs = RECORDED_NARGS,
	.begin = begin_recorded,
	.order_column = EVENT_VERSION,
	.backwards_arg = -1
};

Datum
daybook_recorded(PG_FUNCTION_ARGS)
{
	return ReturnRows(&RecordedFunction, fcinfo);
}

Datum
daybook_replay(PG_FUNCTION_ARGS)
{
	return ReturnRows(&ReplayFunction, fcinfo);
}

/* The version of a stream's last event, 0 when the stream does not exist. */
Datum
daybook_stream_version(PG_FUNCTION_ARGS)
{
	Relation	table = OpenReadableEventTable(PG_GETARG_OID(0));
	StreamReader *reader = StreamReaderBegin(table, GetActiveSnapshot(), true);
	TupleTableSlot *slot;
	int64		version = 0;
	bool		isnull;

	StreamReaderSeek(reader, PG_GETARG_TEXT_PP(1), 1, PG_INT64_MAX, BackwardScanDirection);
	slot = StreamReaderNext(reader);
	if (slot)
		version = DatumGetInt64(slot_getattr(slot, EVENT_VERSION, &isnull));
	StreamReaderEnd(reader);
	table_close(table, NoLock);
	PG_RETURN_INT64(version);
}

static RowSource *
begin_replay(const RowCall *call)
{
	const NullableDatum *args = call->args;
	Replay	   *replay = open_stream(call, false);
	int64		from_version = 1;
	int64		to_version = PG_INT64_MAX;
	bool		backwards = false;

	if (!args[REPLAY_FROM_VERSION].isnull)
		from_version = DatumGetInt64(args[REPLAY_FROM_VERSION].value);
	if (!args[REPLAY_TO_VERSION].isnull)
		to_version = DatumGetInt64(args[REPLAY_TO_VERSION].value);
	if (!args[REPLAY_BACKWARDS].isnull)
		backwards = DatumGetBool(args[REPLAY_BACKWARDS].value);
	if (!args[REPLAY_UNTIL].isnull)
		StreamReaderUntil(replay->reader, DatumGetTimestampTz(args[REPLAY_UNTIL].value));
	StreamReaderSeek(replay->reader, DatumGetTextPP(args[REPLAY_STREAM_ID].value),
					 from_version, to_version,
					 backwards ? BackwardScanDirection : ForwardScanDirection);
	return &replay->source;
}

static RowSource *
begin_recorded(const RowCall *call)
{
	Replay	   *replay = open_stream(call, true);

	StreamReaderSeek(replay->reader, DatumGetTextPP(call->args[REPLAY_STREAM_ID].value),
					 1, PG_INT64_MAX, ForwardScanDirection);
	return &replay->source;
}

static Replay *
open_stream(const RowCall *call, bool as_stored)
{
	Replay	   *replay = palloc0(sizeof(Replay));

	RefuseNull(&call->args[REPLAY_EVENT_TABLE], "event_table");
	RefuseNull(&call->args[REPLAY_STREAM_ID], "stream_id");
	replay->source.next = next_replayed;
	replay->source.end = end_replay;
	replay->table = OpenReadableEventTable(DatumGetObjectId(call->args[REPLAY_EVENT_TABLE].value));
	replay->reader = StreamReaderBegin(replay->table, call->snapshot, as_stored);
	return replay;
}

static TupleTableSlot *
next_replayed(RowSource *source)
{
	return StreamReaderNext(((Replay *) source)->reader);
}

/* The lock on the table is kept to the end of the transaction. */
static void
end_replay(RowSource *source)
{
	Replay	   *replay = (Replay *) source;

	StreamReaderEnd(replay->reader);
	table_close(replay->table, NoLock);
}
